//! One public key in PEM (RFC 7468).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::auth::invalid_key::InvalidKey;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";
/// A SubjectPublicKeyInfo, of whatever algorithm.
const PUBLIC_KEY: &str = "PUBLIC KEY";

/// Whether a text is meant to be PEM.
pub(super) fn is_pem(text: &str) -> bool {
    text.trim_start().starts_with(BEGIN)
}

/// The DER of the one public key in a text.
pub(super) fn public_key(text: &str) -> Result<Vec<u8>, InvalidKey> {
    let (label, rest) = text
        .trim_start()
        .strip_prefix(BEGIN)
        .and_then(|rest| rest.split_once(DASHES))
        .ok_or(InvalidKey::Malformed)?;
    if label.contains("PRIVATE") {
        return Err(InvalidKey::Private);
    }
    if label != PUBLIC_KEY {
        return Err(InvalidKey::PemLabel);
    }
    let (body, rest) = rest.split_once(END).ok_or(InvalidKey::Malformed)?;
    let rest =
        rest.strip_prefix(label).and_then(|rest| rest.strip_prefix(DASHES)).ok_or(InvalidKey::Malformed)?;
    if !rest.trim().is_empty() {
        return Err(InvalidKey::Several);
    }
    let body: String = body.split_ascii_whitespace().collect();
    STANDARD.decode(body).map_err(|_| InvalidKey::Malformed)
}
