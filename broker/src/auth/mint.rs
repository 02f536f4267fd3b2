//! Making tokens.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use longwire_proto::grants::Grants;
use longwire_proto::short_id::is_short_id;

use crate::auth::claims::{Audience, Claims};
use crate::auth::invalid_token::TOKEN_CHARS_MAX;
use crate::auth::issuer::Issuer;
use crate::auth::principal::{InvalidName, Kind, check_own_name};
use crate::auth::role::{InvalidRoles, check_roles};
use crate::auth::signing_keys::{SigningKeys, TTL_MS_MAX};

use crate::auth::token_id::TokenId;

/// The shortest: times in tokens are whole seconds.
pub const TTL_MS_MIN: u64 = 1000;
/// Random bytes of a token's id: nobody guesses one, and none comes twice.
const ID_BYTES: usize = 16;

/// What a token is to say.
#[derive(Clone, Debug)]
pub struct Mint<'a> {
    /// Of whom.
    pub sub: &'a str,
    /// What kind of somebody.
    pub kind: Kind,
    /// What it may do.
    pub grants: &'a Grants,
    /// What it is to those who ask for somebody of a role.
    pub roles: &'a [String],
    /// The only endpoint that may use it.
    pub device: Option<&'a str>,
    /// For how long.
    pub ttl_ms: u64,
}

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub struct Minted {
    /// The token itself: whoever has it is the principal.
    pub token: String,
    /// By which it is revoked.
    pub id: TokenId,
    /// When it expires, in Unix milliseconds.
    pub expires_ms: u64,
}

impl fmt::Debug for Minted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minted")
            .field("id", &self.id)
            .field("expires_ms", &self.expires_ms)
            .finish_non_exhaustive()
    }
}

/// Why no token was made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The broker makes tokens in its own name only.
    #[error("tokens are made in the broker's own name only")]
    Issuer,
    /// The principal cannot be called that.
    #[error(transparent)]
    Subject(#[from] InvalidName),
    /// The device cannot be called that.
    #[error("a device is a short id: A-Z a-z 0-9 _ -")]
    Device,
    /// A role cannot be called that, or there are too many.
    #[error(transparent)]
    Roles(#[from] InvalidRoles),
    /// It would be valid for too long, or too short.
    #[error("a token is valid for {TTL_MS_MIN} to {TTL_MS_MAX} milliseconds")]
    Ttl,
    /// It would be too long to be sent.
    #[error(
        "with these grants the token has {0} characters, and {TOKEN_CHARS_MAX} are allowed: use fewer, or wider patterns"
    )]
    Length(usize),
    /// The host gives no random numbers, or the key cannot sign.
    #[error("the token could not be signed")]
    Sign,
}

impl SigningKeys {
    /// Makes a token.
    ///
    /// # Errors
    /// [`MintError`].
    pub fn mint(&self, issuer: &Issuer, mint: &Mint<'_>, now_ms: u64) -> Result<Minted, MintError> {
        if issuer.namespace().is_some() {
            return Err(MintError::Issuer);
        }
        check_own_name(mint.sub)?;
        check_roles(mint.roles)?;
        if mint.device.is_some_and(|device| !is_short_id(device.as_bytes())) {
            return Err(MintError::Device);
        }
        if !(TTL_MS_MIN..=TTL_MS_MAX).contains(&mint.ttl_ms) {
            return Err(MintError::Ttl);
        }
        let mut random = [0; ID_BYTES];
        getrandom::fill(&mut random).map_err(|_| MintError::Sign)?;
        let jti = URL_SAFE_NO_PAD.encode(random);
        let exp = now_ms.saturating_add(mint.ttl_ms).div_ceil(1000);
        let claims = Claims {
            iss: issuer.name().to_owned(),
            sub: mint.sub.to_owned(),
            aud: Audience::One(issuer.audience().to_owned()),
            exp: exp.into(),
            nbf: None,
            iat: Some((now_ms / 1000).into()),
            jti: Some(jti.clone()),
            kind: mint.kind.to_string(),
            grants: mint.grants.as_slice().iter().map(ToString::to_string).collect(),
            roles: mint.roles.to_vec(),
            device: mint.device.map(str::to_owned),
        };
        let token = self.sign(&claims).ok_or(MintError::Sign)?;
        if token.len() > TOKEN_CHARS_MAX {
            return Err(MintError::Length(token.len()));
        }
        let id = TokenId::new(issuer.name(), &jti).map_err(|_| MintError::Sign)?;
        Ok(Minted { token, id, expires_ms: exp.saturating_mul(1000) })
    }
}
