//! Tokens, signed with the key of a broker's data folder as `longwire token create` does.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use longwire_broker::auth::guard::OWN_NAME;
use longwire_broker::auth::issuer::Issuer;
use longwire_broker::auth::mint::{Mint, Minted};
use longwire_broker::auth::principal::Kind;
use longwire_broker::auth::signing_keys::SigningKeys;
use longwire_broker::server::SIGNING_KEYS_FILE;
use longwire_proto::grants::Grants;

use crate::support::broker::Broker;

/// What makes a broker ask everybody for a token.
pub(crate) const AUTH: (&str, &str) = ("AUTH", "true");
/// Longer than any test.
pub(crate) const TTL_MS: u64 = 60 * 60 * 1000;

/// Makes a token; the broker of the folder need not run yet.
pub(crate) fn mint(data: &Path, sub: &str, grants: &[impl AsRef<str>], ttl_ms: u64) -> Minted {
    std::fs::create_dir_all(data).unwrap();
    let keys = SigningKeys::load_or_make(&data.join(SIGNING_KEYS_FILE)).unwrap();
    let grants = Grants::parse(grants).unwrap();
    let mint = Mint { sub, kind: Kind::Human, grants: &grants, roles: &[], device: None, ttl_ms };
    keys.mint(&Issuer::own(OWN_NAME, OWN_NAME).unwrap(), &mint, now_ms()).unwrap()
}

/// A token as text.
pub(crate) fn token(data: &Path, sub: &str, grants: &[impl AsRef<str>]) -> String {
    mint(data, sub, grants, TTL_MS).token
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

/// Makes tokens that one broker accepts.
#[derive(Clone)]
pub(crate) struct Tokens {
    keys: std::sync::Arc<SigningKeys>,
    own: Issuer,
}

impl Tokens {
    /// Starts a broker that asks everybody for a token.
    pub(crate) fn broker(data: &Path, settings: &[(&str, &str)]) -> (Broker, Self) {
        let broker = Broker::start_with(data, &[&[AUTH], settings].concat());
        (broker, Self::of(data))
    }

    /// Tokens of a broker that was started with this folder.
    pub(crate) fn of(data: &Path) -> Self {
        let keys = SigningKeys::load(&data.join(SIGNING_KEYS_FILE)).unwrap().into();
        Self { keys, own: Issuer::own(OWN_NAME, OWN_NAME).unwrap() }
    }

    /// One that lasts.
    pub(crate) fn token(&self, sub: &str, grants: &[&str]) -> String {
        self.token_for(sub, grants, TTL_MS, None)
    }

    /// One that does not.
    pub(crate) fn short(&self, sub: &str, grants: &[&str], ttl_ms: u64) -> String {
        self.token_for(sub, grants, ttl_ms, None)
    }

    pub(crate) fn token_for(&self, sub: &str, grants: &[&str], ttl_ms: u64, device: Option<&str>) -> String {
        let grants = Grants::parse(grants).unwrap();
        let mint = Mint { sub, kind: Kind::Human, grants: &grants, roles: &[], device, ttl_ms };
        self.keys.mint(&self.own, &mint, now_ms()).unwrap().token
    }

    /// One of somebody who has a role.
    pub(crate) fn of_role(&self, sub: &str, grants: &[&str], role: &str) -> String {
        let (grants, roles) = (Grants::parse(grants).unwrap(), [role.to_owned()]);
        let mint =
            Mint { sub, kind: Kind::Human, grants: &grants, roles: &roles, device: None, ttl_ms: TTL_MS };
        self.keys.mint(&self.own, &mint, now_ms()).unwrap().token
    }
}
