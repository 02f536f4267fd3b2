//! What a token says, as it is written.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use longwire_proto::position::COUNTER_MAX;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Number;

/// The claims that are used. Others are ignored, as RFC 7519 wants; one that is there twice is not.
#[derive(Serialize, Deserialize)]
pub(super) struct Claims {
    pub(super) iss: String,
    pub(super) sub: String,
    pub(super) aud: Audience,
    pub(super) exp: Number,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nbf: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) iat: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) jti: Option<String>,
    /// Of the principal: `human`, `agent` or `service`.
    pub(super) kind: String,
    /// Each as text, such as `acme/**:read`.
    pub(super) grants: Vec<String>,
    /// What the principal is to those who ask for somebody of a role.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) roles: Vec<String>,
    /// The only endpoint of the principal that may use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) device: Option<String>,
}

/// Whom a token is meant for.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Some(Vec<String>),
}

impl Audience {
    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Some(some) => some.iter().any(|one| one == name),
        }
    }
}

/// A time of RFC 7519, seconds with or without a fraction, in milliseconds; `None` when it is before 1970 or beyond what is
/// counted to.
pub(super) fn milliseconds(seconds: &Number) -> Option<u64> {
    if let Some(whole) = seconds.as_u64() {
        return whole.checked_mul(1000).filter(|ms| *ms <= COUNTER_MAX);
    }
    let ms = (seconds.as_f64()? * 1000.0).floor();
    // Exact: the limit is the last integer up to which a double counts.
    (ms >= 0.0 && ms <= COUNTER_MAX as f64).then_some(ms as u64)
}

/// What a part of a token has, when it is base64url of JSON. What was wrong is not said: it would repeat what is there.
pub(super) fn json<T: DeserializeOwned>(encoded: &str) -> Option<T> {
    let decoded = URL_SAFE_NO_PAD.decode(encoded).ok()?;
    serde_json::from_slice(&decoded).ok()
}
