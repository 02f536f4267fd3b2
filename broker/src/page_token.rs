//! Tokens of pages of a list: where the next page begins, so sealed that it tells nobody of a session that it may not see.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use longwire_proto::limits::SESSION_ID_BYTES_MAX;
use longwire_proto::session_id::SessionId;

use crate::kept_secret::{NoRandom, kept_secret};
use crate::store::Store;

/// Where the store keeps the key: a token outlives the broker's process.
const KEY_KEY: &[u8] = b"page-key\0";
/// Bytes of the key.
const KEY_BYTES: usize = 32;
/// Bytes of the hash of the conditions.
const HASH_BYTES: usize = 8;
/// All tokens are of one length, whatever the name that is in them.
const PLAIN_BYTES: usize = HASH_BYTES + 1 + SESSION_ID_BYTES_MAX;

/// Seals and opens tokens.
pub struct PageTokens(LessSafeKey);

impl PageTokens {
    /// With the key of the store, which is made when there is none. A store that can keep none now, such as one whose disk is
    /// full, makes tokens end with the process: a list is begun again then.
    ///
    /// # Errors
    /// [`NoRandom`].
    pub async fn open(store: &dyn Store) -> Result<Self, NoRandom> {
        let lost = "lists that are read page by page now must be begun again after a restart";
        let key: [u8; KEY_BYTES] = kept_secret(store, KEY_KEY, lost).await?;
        Self::new(&key).ok_or(NoRandom)
    }

    fn new(key: &[u8]) -> Option<Self> {
        Some(Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?)))
    }

    /// The token of the page behind a session, of a list with conditions of this hash; `None` when the host gives no random
    /// numbers.
    #[must_use]
    pub fn seal(&self, hash: u64, after: &SessionId) -> Option<String> {
        let name = after.as_str().as_bytes();
        let mut sealed = Vec::with_capacity(NONCE_LEN + PLAIN_BYTES + AES_256_GCM.tag_len());
        sealed.extend(hash.to_le_bytes());
        sealed.push(u8::try_from(name.len()).ok()?);
        sealed.extend_from_slice(name);
        sealed.resize(PLAIN_BYTES, 0);
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).ok()?;
        let unique = Nonce::assume_unique_for_key(nonce);
        self.0.seal_in_place_append_tag(unique, Aad::empty(), &mut sealed).ok()?;
        sealed.extend(nonce);
        Some(URL_SAFE_NO_PAD.encode(sealed))
    }

    /// The hash of the conditions and the session behind which the page begins; `None` when this is no token.
    #[must_use]
    pub fn unseal(&self, token: &str) -> Option<(u64, SessionId)> {
        let mut sealed = URL_SAFE_NO_PAD.decode(token).ok()?;
        let nonce = sealed.split_off(sealed.len().checked_sub(NONCE_LEN)?);
        let nonce = Nonce::try_assume_unique_for_key(&nonce).ok()?;
        let plain = self.0.open_in_place(nonce, Aad::empty(), &mut sealed).ok()?;
        let (hash, rest) = plain.split_first_chunk::<HASH_BYTES>()?;
        let (length, rest) = rest.split_first()?;
        let name = std::str::from_utf8(rest.get(..usize::from(*length))?).ok()?;
        Some((u64::from_le_bytes(*hash), SessionId::parse(name).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    fn id(text: &str) -> SessionId {
        SessionId::parse(text).unwrap()
    }

    #[tokio::test]
    async fn a_token_says_nothing_and_outlives_the_process() {
        let store = MemoryStore::new();
        let tokens = PageTokens::open(&store).await.unwrap();
        let long =
            format!("acme/{}/{}/{}/{}", "a".repeat(64), "b".repeat(64), "c".repeat(60), "d".repeat(50));
        for name in ["a", "acme/secret", &long] {
            let token = tokens.seal(7, &id(name)).unwrap();
            assert_eq!(token.len(), tokens.seal(9, &id("b")).unwrap().len());
            assert!(!token.contains("secret"));
            let again = PageTokens::open(&store).await.unwrap();
            assert_eq!(again.unseal(&token), Some((7, id(name))));
        }
        assert_ne!(tokens.seal(7, &id("a")), tokens.seal(7, &id("a")));
    }

    #[tokio::test]
    async fn what_was_not_sealed_here_is_no_token() {
        let tokens = PageTokens::open(&MemoryStore::new()).await.unwrap();
        let foreign = PageTokens::open(&MemoryStore::new()).await.unwrap();
        let token = tokens.seal(7, &id("acme/a")).unwrap();
        let mut flipped = URL_SAFE_NO_PAD.decode(&token).unwrap();
        flipped[3] ^= 1;
        let flipped = URL_SAFE_NO_PAD.encode(flipped);
        for text in ["", "a", "acme/a", &token[1..], &flipped, &foreign.seal(7, &id("acme/a")).unwrap()] {
            assert_eq!(tokens.unseal(text), None, "{text}");
        }
    }
}
