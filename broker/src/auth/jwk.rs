//! One key of a JWKS (RFC 7517).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::auth::algorithm::Algorithm;
use crate::auth::invalid_key::InvalidKey;
use crate::auth::key::{Key, Source};

/// A key as it is written. It is not `Debug`: `k` and `d` are secrets.
#[derive(Deserialize)]
pub(super) struct Jwk {
    pub(super) kid: Option<String>,
    kty: String,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    k: Option<String>,
    d: Option<IgnoredAny>,
}

impl Jwk {
    /// Whether it is meant for signatures of an algorithm that is used here. Others are left out: a set may have keys for
    /// other purposes. One that does not say its algorithm is not left out but refused.
    pub(super) fn is_meant(&self) -> bool {
        self.usage.as_deref().is_none_or(|usage| usage == "sig")
            && self.key_ops.as_ref().is_none_or(|operations| operations.iter().any(|one| one == "verify"))
            && self.alg.as_deref().is_none_or(|name| Algorithm::parse(name).is_some())
    }

    /// The key.
    pub(super) fn key(&self, source: Source) -> Result<Key, InvalidKey> {
        let name = self.alg.as_deref().ok_or(InvalidKey::NoAlgorithm)?;
        let algorithm = Algorithm::parse(name).ok_or(InvalidKey::Mismatch)?;
        if self.d.is_some() {
            return Err(InvalidKey::Private);
        }
        match (algorithm, self.kty.as_str(), self.crv.as_deref()) {
            (Algorithm::EdDsa, "OKP", Some("Ed25519")) => Key::ed25519(&bytes(&self.x)?),
            (Algorithm::Es256, "EC", Some("P-256")) => Key::p256(&bytes(&self.x)?, &bytes(&self.y)?),
            (Algorithm::Rs256, "RSA", None) => Key::rsa(&bytes(&self.n)?, &bytes(&self.e)?),
            (Algorithm::Hs256, "oct", None) if source == Source::Elsewhere => {
                Err(InvalidKey::SecretElsewhere)
            }
            (Algorithm::Hs256, "oct", None) => Key::secret(&bytes(&self.k)?),
            _ => Err(InvalidKey::Mismatch),
        }
    }
}

fn bytes(text: &Option<String>) -> Result<Vec<u8>, InvalidKey> {
    let text = text.as_deref().ok_or(InvalidKey::Malformed)?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidKey::Malformed)
}
