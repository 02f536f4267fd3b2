//! The header of a token (RFC 7515), of which nothing is believed: it only says which key to try.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use crate::auth::algorithm::Algorithm;
use crate::auth::claims::json;
use crate::auth::invalid_token::{HEADER_CHARS_MAX, InvalidToken};
use crate::auth::key_set::KEY_ID_BYTES_MAX;

use crate::auth::token_id::is_visible;

/// What a token may call itself (RFC 7519, section 5.1; RFC 9068). RFC 6838 does not tell upper case from lower.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];

/// What is used of it.
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    pub(super) key: String,
}

/// As it is written. What is not here is ignored, as RFC 7515 wants.
#[derive(Deserialize)]
struct Written {
    alg: String,
    kid: Option<String>,
    #[serde(default, deserialize_with = "text_if_there")]
    typ: Option<String>,
    // Each of these names a key, or where to get one: whoever made the token would choose what it is verified with.
    #[serde(default, deserialize_with = "is_there")]
    jku: bool,
    #[serde(default, deserialize_with = "is_there")]
    jwk: bool,
    #[serde(default, deserialize_with = "is_there")]
    x5u: bool,
    #[serde(default, deserialize_with = "is_there")]
    x5c: bool,
    // Each of these changes what the rest means.
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
    #[serde(default, deserialize_with = "is_there")]
    b64: bool,
    #[serde(default, deserialize_with = "is_there")]
    zip: bool,
    #[serde(default, deserialize_with = "is_there")]
    enc: bool,
    #[serde(default, deserialize_with = "is_there")]
    cty: bool,
}

/// A member is there, `null` included.
fn is_there<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

/// A member that is there is a text: `null` is none.
fn text_if_there<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    String::deserialize(value).map(Some)
}

impl Header {
    pub(super) fn parse(encoded: &str) -> Result<Self, InvalidToken> {
        if encoded.len() > HEADER_CHARS_MAX {
            return Err(InvalidToken::HeaderLength(encoded.len()));
        }
        let Written { alg, kid, typ, jku, jwk, x5u, x5c, crit, b64, zip, enc, cty } =
            json(encoded).ok_or(InvalidToken::Header)?;
        if jku || jwk || x5u || x5c {
            return Err(InvalidToken::BringsKey);
        }
        if crit || b64 || zip || enc || cty {
            return Err(InvalidToken::Extended);
        }
        if typ.is_some_and(|typ| !TYPES.iter().any(|known| typ.eq_ignore_ascii_case(known))) {
            return Err(InvalidToken::Type);
        }
        let algorithm = Algorithm::parse(&alg).ok_or(InvalidToken::Algorithm)?;
        let key = kid.filter(|kid| is_visible(kid, KEY_ID_BYTES_MAX)).ok_or(InvalidToken::NoKeyId)?;
        Ok(Self { algorithm, key })
    }
}
