//! Tokens, signed with the key of a broker's data folder as `longwire token create` does.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use longwire_broker::auth::guard::OWN_NAME;
use longwire_broker::auth::issuer::Issuer;
use longwire_broker::auth::mint::Mint;
use longwire_broker::auth::principal::Kind;
use longwire_broker::auth::signing_keys::SigningKeys;
use longwire_broker::server::SIGNING_KEYS_FILE;
use longwire_proto::grants::Grants;

use crate::support::broker::Broker;

/// Longer than any test takes.
pub(crate) const LONG_MS: u64 = 3_600_000;

/// Makes tokens that one broker accepts.
#[derive(Clone)]
pub(crate) struct Tokens {
    keys: std::sync::Arc<SigningKeys>,
    own: Issuer,
}

impl Tokens {
    /// Starts a broker that asks everybody for a token.
    pub(crate) fn broker(data: &Path, settings: &[(&str, &str)]) -> (Broker, Self) {
        let broker = Broker::start_with(data, &[&[("AUTH", "true")], settings].concat());
        (broker, Self::of(data))
    }

    /// Tokens of a broker that was started with this folder.
    pub(crate) fn of(data: &Path) -> Self {
        let keys = SigningKeys::load(&data.join(SIGNING_KEYS_FILE)).unwrap().into();
        Self { keys, own: Issuer::own(OWN_NAME, OWN_NAME).unwrap() }
    }

    /// One that lasts.
    pub(crate) fn token(&self, sub: &str, grants: &[&str]) -> String {
        self.token_for(sub, grants, LONG_MS, None)
    }

    /// One that does not.
    pub(crate) fn short(&self, sub: &str, grants: &[&str], ttl_ms: u64) -> String {
        self.token_for(sub, grants, ttl_ms, None)
    }

    pub(crate) fn token_for(&self, sub: &str, grants: &[&str], ttl_ms: u64, device: Option<&str>) -> String {
        let grants = Grants::parse(grants).unwrap();
        let mint = Mint { sub, kind: Kind::Human, grants: &grants, device, ttl_ms };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        self.keys.mint(&self.own, &mint, now.as_millis() as u64).unwrap().token
    }
}
