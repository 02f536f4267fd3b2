//! What makes a broker that has forgotten a connection, because it was killed, tell the client so at once (RFC 9000, section
//! 10.3): connection ids that it knows for its own, and the tokens that go with them. Without it a client learns of the kill
//! from silence alone.

use std::sync::Arc;

use aws_lc_rs::hmac;
use quinn::EndpointConfig;
use quinn_proto::HashedConnectionIdGenerator;

use crate::kept_secret::{NoRandom, kept_secret};
use crate::store::Store;

/// Where the store keeps it.
const KEY: &[u8] = b"quic-key\0";
/// Bytes of the key of tokens.
const TOKEN_KEY_BYTES: usize = 32;
/// Bytes of that of ids.
const ID_KEY_BYTES: usize = size_of::<u64>();

/// What stays the same from one life of the broker to the next.
pub(crate) struct ResetKey([u8; TOKEN_KEY_BYTES + ID_KEY_BYTES]);

impl ResetKey {
    /// With the secret of the store.
    ///
    /// # Errors
    /// [`NoRandom`].
    pub(crate) async fn open(store: &dyn Store) -> Result<Self, NoRandom> {
        let lost = "clients on QUIC will notice the next restart only by its silence";
        Ok(Self(kept_secret(store, KEY, lost).await?))
    }

    pub(super) fn endpoint(&self) -> EndpointConfig {
        let (token_key, id_key) = self.0.split_at(TOKEN_KEY_BYTES);
        let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, token_key)));
        let id_key = id_key.try_into().map_or(0, u64::from_le_bytes);
        // They last as long as their connection: whoever moves gets others.
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
        config
    }
}
