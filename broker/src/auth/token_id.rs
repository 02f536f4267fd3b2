//! Ids of tokens, by which they are revoked.

use longwire_proto::limits::PRINCIPAL_BYTES_MAX;

/// Bytes of a token's `jti`: that of a UUID or a hash in any notation, with a prefix.
pub const TOKEN_ID_BYTES_MAX: usize = 128;
/// Bytes of an issuer's name, which is often a URL.
pub const ISSUER_BYTES_MAX: usize = PRINCIPAL_BYTES_MAX;

/// A token: two issuers may use the same id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId {
    issuer: String,
    id: String,
}

/// Something is not the id of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the id of a token has 1 to {TOKEN_ID_BYTES_MAX} visible ASCII characters, its issuer 1 to {ISSUER_BYTES_MAX}"
)]
pub struct InvalidTokenId;

impl TokenId {
    /// A token of an issuer.
    ///
    /// # Errors
    /// [`InvalidTokenId`].
    pub fn new(issuer: &str, id: &str) -> Result<Self, InvalidTokenId> {
        if !is_visible(issuer, ISSUER_BYTES_MAX) || !is_visible(id, TOKEN_ID_BYTES_MAX) {
            return Err(InvalidTokenId);
        }
        Ok(Self { issuer: issuer.to_owned(), id: id.to_owned() })
    }

    /// Who issued it.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Its id among those of its issuer.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// Whether a text has 1 to `max` visible ASCII characters: it fits a key, a line of a log and a URL, and looks like itself.
pub(super) fn is_visible(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}
