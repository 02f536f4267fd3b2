//! Tokens for the broker under test, made with the key in its data folder.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use longwire_broker::auth::guard::OWN_NAME;
use longwire_broker::auth::issuer::Issuer;
use longwire_broker::auth::mint::{Mint, Minted};
use longwire_broker::auth::principal::Kind;
use longwire_broker::auth::signing_keys::SigningKeys;
use longwire_broker::server::SIGNING_KEYS_FILE;
use longwire_proto::grants::Grants;

/// What makes a broker ask everybody for a token.
pub(crate) const AUTH: (&str, &str) = ("AUTH", "true");
/// Longer than any test.
pub(crate) const TTL_MS: u64 = 60 * 60 * 1000;

/// Makes a token; the broker of the folder need not run yet.
pub(crate) fn mint(data: &Path, sub: &str, grants: &[impl AsRef<str>], ttl_ms: u64) -> Minted {
    std::fs::create_dir_all(data).unwrap();
    let keys = SigningKeys::load_or_make(&data.join(SIGNING_KEYS_FILE)).unwrap();
    let grants = Grants::parse(grants).unwrap();
    let mint = Mint { sub, kind: Kind::Human, grants: &grants, device: None, ttl_ms };
    keys.mint(&Issuer::own(OWN_NAME, OWN_NAME).unwrap(), &mint, now_ms()).unwrap()
}

/// A token as text.
pub(crate) fn token(data: &Path, sub: &str, grants: &[impl AsRef<str>]) -> String {
    mint(data, sub, grants, TTL_MS).token
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}
