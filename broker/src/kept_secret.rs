//! Random bytes that the store keeps, so that what is made of them outlives the broker's process.

use bytes::Bytes;

use crate::store::reconcile::{self, retry_read};
use crate::store::{Cas, Store};

/// The host gives no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host gives no random numbers, so no key can be made")]
pub struct NoRandom;

/// The secret under `key` in the store, which is made when there is none. A store that can keep none now, such as one whose
/// disk is full, gives one that ends with the process: `lost` says what that means.
///
/// # Errors
/// [`NoRandom`].
pub(crate) async fn kept_secret<const BYTES: usize>(
    store: &dyn Store,
    key: &'static [u8],
    lost: &str,
) -> Result<[u8; BYTES], NoRandom> {
    let key = Bytes::from_static(key);
    let found = retry_read(|| store.get(key.clone())).await;
    if let Ok(Some(kept)) = &found
        && let Ok(secret) = <[u8; BYTES]>::try_from(&kept[..])
    {
        return Ok(secret);
    }
    let mut secret = [0; BYTES];
    getrandom::fill(&mut secret).map_err(|_| NoRandom)?;
    let kept = async {
        let value = Some(Bytes::copy_from_slice(&secret));
        reconcile::cas(store, vec![Cas { key, expected: found?, value }]).await
    };
    if let Err(error) = kept.await {
        tracing::warn!(%error, "{lost}");
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn a_secret_stays_what_it_is_in_its_store() {
        let store = MemoryStore::new();
        let secret: [u8; 16] = kept_secret(&store, b"a\0", "").await.unwrap();
        assert_eq!(kept_secret(&store, b"a\0", "").await.unwrap(), secret);
        assert_ne!(kept_secret(&store, b"b\0", "").await.unwrap(), secret);
        assert_ne!(kept_secret(&MemoryStore::new(), b"a\0", "").await.unwrap(), secret);
    }
}
