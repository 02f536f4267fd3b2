//! The algorithms that tokens are signed with.

use std::fmt;

use jsonwebtoken::Algorithm as Jwa;

/// An algorithm; a key is of exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// Ed25519.
    EdDsa,
    /// ECDSA with P-256 and SHA-256.
    Es256,
    /// RSA PKCS #1 v1.5 with SHA-256.
    Rs256,
    /// HMAC with SHA-256: who can verify can sign.
    Hs256,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 4] = [Self::EdDsa, Self::Es256, Self::Rs256, Self::Hs256];

    /// The name of RFC 7518 and RFC 8037.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
            Self::Hs256 => "HS256",
        }
    }

    /// The algorithm that a header or a key names. `none`, in whatever spelling, is no algorithm.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text)
    }

    pub(super) fn jwa(self) -> Jwa {
        match self {
            Self::EdDsa => Jwa::EdDSA,
            Self::Es256 => Jwa::ES256,
            Self::Rs256 => Jwa::RS256,
            Self::Hs256 => Jwa::HS256,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
