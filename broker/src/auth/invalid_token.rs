//! Why a token is not accepted.

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::grants::InvalidGrants;

use crate::auth::principal::{InvalidKind, InvalidName};
use crate::auth::role::InvalidRoles;
use crate::auth::token_id::InvalidTokenId;

/// Characters of a token: what servers and proxies take in one header of HTTP.
pub const TOKEN_CHARS_MAX: usize = 7 << 10;
/// Characters of a token's header: it is read before anything is verified, and needs two names.
pub const HEADER_CHARS_MAX: usize = 1024;

/// It repeats nothing of the token: whoever sent it may want it to be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// It is too long.
    #[error("a token has at most {TOKEN_CHARS_MAX} characters, this one has {0}")]
    Length(usize),
    /// It has not three parts.
    #[error("a token has three parts, separated by `.`")]
    Form,
    /// The header is too long.
    #[error("the header of a token has at most {HEADER_CHARS_MAX} characters, this one has {0}")]
    HeaderLength(usize),
    /// The header cannot be read.
    #[error("the header of the token is not base64url of JSON with `alg`, each member once")]
    Header,
    /// The header names a key.
    #[error("the header of the token names a key of its own (`jku`, `jwk`, `x5u` or `x5c`)")]
    BringsKey,
    /// The header wants more than a signature.
    #[error("the header of the token has `crit`, `b64`, `zip`, `enc` or `cty`, none of which is known here")]
    Extended,
    /// It says that it is something else.
    #[error("the token says that it is something else: `typ` is `JWT` or `at+jwt`")]
    Type,
    /// It names an algorithm that is not used, or none.
    #[error("the `alg` of a token is EdDSA, ES256, RS256 or HS256")]
    Algorithm,
    /// It names no key.
    #[error("the token has no `kid`, or not one that a key can have")]
    NoKeyId,
    /// It names a key that nobody has.
    #[error("no issuer has the key that the token names")]
    UnknownKey,
    /// It names a key of another algorithm.
    #[error("the key that the token names is of another algorithm")]
    OtherAlgorithm,
    /// The signature is not the key's.
    #[error("the signature of the token is not that of the key that it names")]
    Signature,
    /// What it says cannot be read.
    #[error(
        "the token lacks one of `iss`, `sub`, `aud`, `exp`, `kind` and `grants`, or has one that is not well formed, or twice"
    )]
    Claims,
    /// It is signed by one and says to be another one's.
    #[error("the `iss` of the token is not the issuer whose key it is signed with")]
    Issuer,
    /// It is meant for somebody else.
    #[error("the token is not meant for this broker: another `aud`")]
    Audience,
    /// It has a time that is none.
    #[error("`exp` or `nbf` of the token is no time in seconds since 1970")]
    Time,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYet,
    /// Its principal cannot be called that.
    #[error("`sub` of the token: {0}")]
    Subject(#[source] InvalidName),
    /// Its principal is of no kind.
    #[error("`kind` of the token: {0}")]
    Kind(#[from] InvalidKind),
    /// Its grants.
    #[error("`grants` of the token: {0}")]
    Grants(#[from] InvalidGrants),
    /// It grants more than its issuer may.
    #[error("the token grants more than its issuer may")]
    Beyond,
    /// Its roles.
    #[error("`roles` of the token: {0}")]
    Roles(#[from] InvalidRoles),
    /// Its device.
    #[error("`device` of the token is no short id: A-Z a-z 0-9 _ -")]
    Device,
    /// Its id.
    #[error("`jti` of the token: {0}")]
    Id(#[from] InvalidTokenId),
}

impl From<InvalidToken> for Error {
    fn from(invalid: InvalidToken) -> Self {
        let code = match invalid {
            InvalidToken::Expired => ErrorCode::TokenExpired,
            _ => ErrorCode::Unauthenticated,
        };
        Self::new(code, invalid.to_string()).field("token")
    }
}
