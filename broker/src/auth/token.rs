//! Tokens: JSON Web Tokens (RFC 7519) that become principals, or do not.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::grants::{Grants, InvalidGrants};
use longwire_proto::short_id::is_short_id;
use serde::de::DeserializeOwned;

use crate::auth::algorithm::Algorithm;
use crate::auth::claims::{Claims, milliseconds};
use crate::auth::header::{HEADER_CHARS_MAX, Header};
use crate::auth::issuer::Issuer;
use crate::auth::key::Key;
use crate::auth::key_set::{KeySet, Keys};
use crate::auth::principal::{InvalidKind, InvalidName, Principal};
use crate::auth::token_id::{InvalidTokenId, TokenId};

/// Characters of a token: what servers and proxies take in one header of HTTP.
pub const TOKEN_CHARS_MAX: usize = 7 << 10;
/// Issuers: a token of an unknown one is tried with a key of each.
pub const ISSUERS_MAX: usize = 16;

/// Why a token is not accepted. It repeats nothing of the token: whoever sent it may want it to be read.
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

/// Why issuers cannot be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIssuers {
    /// There are too many.
    #[error("there are at most {ISSUERS_MAX} issuers, these are {0}")]
    TooMany(usize),
    /// Two have one name.
    #[error("two issuers have the same name")]
    Name,
    /// The principals of two could have the same names.
    #[error("two issuers have the same namespace")]
    Namespace,
}

/// Decides whose tokens are accepted.
#[derive(Clone, Debug)]
pub struct Verifier {
    issuers: Vec<Issuer>,
    keys: KeySet,
}

impl Verifier {
    /// Accepts tokens of these issuers, once they have keys.
    ///
    /// # Errors
    /// [`InvalidIssuers`].
    pub fn new(issuers: Vec<Issuer>) -> Result<Self, InvalidIssuers> {
        if issuers.len() > ISSUERS_MAX {
            return Err(InvalidIssuers::TooMany(issuers.len()));
        }
        let (mut names, mut namespaces) = (BTreeSet::new(), BTreeSet::new());
        if !issuers.iter().all(|issuer| names.insert(issuer.name())) {
            return Err(InvalidIssuers::Name);
        }
        if !issuers.iter().all(|issuer| namespaces.insert(issuer.namespace())) {
            return Err(InvalidIssuers::Namespace);
        }
        Ok(Self { issuers, keys: KeySet::default() })
    }

    /// Gives an issuer these keys, instead of any that it had.
    pub fn put_keys(&mut self, issuer: &str, keys: Keys) {
        self.keys.put(issuer, keys);
    }

    /// Whether tokens that are signed with this key are still accepted.
    #[must_use]
    pub fn has_key(&self, issuer: &str, id: &str) -> bool {
        self.keys.get(issuer, id).is_some()
    }

    /// Who shows a token. Until the signature was verified the token says nothing but which key to try: not even its issuer
    /// is believed.
    ///
    /// # Errors
    /// [`InvalidToken`].
    pub fn verify(&self, token: &str, now_ms: u64) -> Result<Principal, InvalidToken> {
        let parts = Parts::of(token)?;
        let signers = self.signers(&parts)?;
        let claims: Claims = json(parts.payload).ok_or(InvalidToken::Claims)?;
        let issuer =
            signers.into_iter().find(|issuer| issuer.name() == claims.iss).ok_or(InvalidToken::Issuer)?;
        principal(issuer, parts.header.key, claims, now_ms)
    }

    /// Refuses a token that no issuer's key signed. What it says is not looked at.
    ///
    /// # Errors
    /// [`InvalidToken`].
    pub fn check_signature(&self, token: &str) -> Result<(), InvalidToken> {
        self.signers(&Parts::of(token)?).map(|_| ())
    }

    /// The issuers whose key signed this. There is more than one only when they have the same key.
    fn signers(&self, parts: &Parts<'_>) -> Result<Vec<&Issuer>, InvalidToken> {
        let Parts { header, message, signature, .. } = parts;
        let named: Vec<(&Issuer, &Key)> = self
            .issuers
            .iter()
            .filter_map(|issuer| Some((issuer, self.keys.get(issuer.name(), &header.key)?)))
            .collect();
        if named.is_empty() {
            return Err(InvalidToken::UnknownKey);
        }
        let of = |algorithm: Algorithm| named.iter().filter(move |(_, key)| key.algorithm() == algorithm);
        if of(header.algorithm).next().is_none() {
            return Err(InvalidToken::OtherAlgorithm);
        }
        let signers: Vec<&Issuer> = of(header.algorithm)
            .filter(|(_, key)| key.verifies(message, signature))
            .map(|(issuer, _)| *issuer)
            .collect();
        if signers.is_empty() { Err(InvalidToken::Signature) } else { Ok(signers) }
    }
}

/// A token, taken apart.
struct Parts<'a> {
    header: Header,
    payload: &'a str,
    /// What is signed: header and payload.
    message: &'a str,
    signature: &'a str,
}

impl<'a> Parts<'a> {
    fn of(token: &'a str) -> Result<Self, InvalidToken> {
        if token.len() > TOKEN_CHARS_MAX {
            return Err(InvalidToken::Length(token.len()));
        }
        let (message, signature) = token.rsplit_once('.').ok_or(InvalidToken::Form)?;
        let (header, payload) = message.split_once('.').ok_or(InvalidToken::Form)?;
        if payload.contains('.') {
            return Err(InvalidToken::Form);
        }
        Ok(Self { header: Header::parse(header)?, payload, message, signature })
    }
}

/// Who it is whom an issuer says this of.
fn principal(
    issuer: &Issuer,
    signed_by: String,
    claims: Claims,
    now_ms: u64,
) -> Result<Principal, InvalidToken> {
    let Claims { iss: _, sub, aud, exp, nbf, iat: _, jti, kind, grants, device } = claims;
    if !aud.has(issuer.audience()) {
        return Err(InvalidToken::Audience);
    }
    // The leeway is in the time that the principal has, so that a connection ends when the token would be refused.
    let expires_ms = milliseconds(&exp).ok_or(InvalidToken::Time)?.saturating_add(issuer.leeway_ms());
    if now_ms >= expires_ms {
        return Err(InvalidToken::Expired);
    }
    if let Some(begins) = nbf {
        let begins_ms = milliseconds(&begins).ok_or(InvalidToken::Time)?;
        if now_ms.saturating_add(issuer.leeway_ms()) < begins_ms {
            return Err(InvalidToken::NotYet);
        }
    }
    let id = issuer.principal(&sub).map_err(InvalidToken::Subject)?;
    let grants = Grants::parse(&grants)?;
    if !issuer.may_grant(&grants) {
        return Err(InvalidToken::Beyond);
    }
    if device.as_ref().is_some_and(|device| !is_short_id(device.as_bytes())) {
        return Err(InvalidToken::Device);
    }
    let token = jti.map(|jti| TokenId::new(issuer.name(), &jti)).transpose()?;
    let tenant = grants.tenant().map(str::to_owned);
    let kind = kind.parse()?;
    let issuer = issuer.name().to_owned();
    Ok(Principal { id, kind, device, via: None, tenant, grants, expires_ms, token, issuer, signed_by })
}

/// What a part of a token has, when it is base64url of JSON. What was wrong is not said: it would repeat what is there.
pub(super) fn json<T: DeserializeOwned>(encoded: &str) -> Option<T> {
    let decoded = URL_SAFE_NO_PAD.decode(encoded).ok()?;
    serde_json::from_slice(&decoded).ok()
}

#[cfg(test)]
mod tests;
