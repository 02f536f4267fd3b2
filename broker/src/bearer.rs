//! The token that comes with a request.

use http::header::{AUTHORIZATION, HeaderMap};
use longwire_proto::error::{Error, ErrorCode};

/// The token of a request (RFC 6750, section 2.1); empty without one.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<&str, Error> {
    let Some(header) = headers.get(AUTHORIZATION) else { return Ok("") };
    let token = header.to_str().ok().and_then(|header| header.split_once(' '));
    match token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(Error::new(ErrorCode::Unauthenticated, "send `Authorization: Bearer TOKEN`")),
    }
}
