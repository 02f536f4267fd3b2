//! Tokens: JSON Web Tokens (RFC 7519) that become principals, or do not.

use std::collections::BTreeSet;

use longwire_proto::grants::Grants;
use longwire_proto::short_id::is_short_id;

use crate::auth::algorithm::Algorithm;
use crate::auth::claims::{Claims, json, milliseconds};
use crate::auth::header::Header;
use crate::auth::invalid_token::{InvalidToken, TOKEN_CHARS_MAX};
use crate::auth::issuer::Issuer;
use crate::auth::key::Key;
use crate::auth::key_set::{KeySet, Keys};
use crate::auth::principal::Principal;
use crate::auth::role::check_roles;
use crate::auth::token_id::TokenId;

/// Issuers: a token of an unknown one is tried with a key of each.
pub const ISSUERS_MAX: usize = 16;

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
    let Claims { iss: _, sub, aud, exp, nbf, iat: _, jti, kind, grants, roles, device } = claims;
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
    check_roles(&roles)?;
    let token = jti.map(|jti| TokenId::new(issuer.name(), &jti)).transpose()?;
    let tenant = grants.tenant().map(str::to_owned);
    let kind = kind.parse()?;
    let issuer = issuer.name().to_owned();
    Ok(Principal { id, kind, device, via: None, tenant, grants, roles, expires_ms, token, issuer, signed_by })
}

#[cfg(test)]
mod tests;
