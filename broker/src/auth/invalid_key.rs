//! Why something is not a key, and what a key must have.

/// Bits of an RSA modulus: below, it can be factored (NIST SP 800-131A).
pub const RSA_BITS_MIN: usize = 2048;
/// Bits of an RSA modulus: above, each token costs whoever verifies it milliseconds.
pub const RSA_BITS_MAX: usize = 8192;
/// Bits of an RSA exponent: the usual one has 17, and larger ones make verifying slow.
pub(super) const RSA_EXPONENT_BITS_MAX: usize = 33;
/// Below, a signature of another exponent can be made for some messages without the key (FIPS 186-5).
pub(super) const RSA_EXPONENT_MIN: u64 = 65_537;
/// Bytes of a secret: as many as the hash has (RFC 7518, section 3.2).
pub const SECRET_BYTES_MIN: usize = 32;
/// Bytes of a secret: more add nothing.
pub const SECRET_BYTES_MAX: usize = 1024;

/// Why something is not a key. It does not repeat what was read, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// It cannot be read.
    #[error("the key is not well formed")]
    Malformed,
    /// Its point or its numbers are no key.
    #[error("the numbers of the key are not those of a key of its kind")]
    NotAKey,
    /// It says no algorithm.
    #[error("the key has no `alg`; a key is of exactly one algorithm: EdDSA, ES256, RS256 or HS256")]
    NoAlgorithm,
    /// Its kind and its algorithm do not belong together.
    #[error(
        "`kty`, `crv` and `alg` of the key do not belong together: use OKP with Ed25519 and EdDSA, EC with P-256 and ES256, RSA and RS256, or oct and HS256"
    )]
    Mismatch,
    /// The modulus has a length that is not allowed.
    #[error("an RSA key has {RSA_BITS_MIN} to {RSA_BITS_MAX} bits, this one has {0}")]
    RsaBits(usize),
    /// The exponent is not allowed.
    #[error(
        "the exponent of an RSA key is odd, at least {RSA_EXPONENT_MIN}, and has at most {RSA_EXPONENT_BITS_MAX} bits"
    )]
    RsaExponent,
    /// The secret has a length that is not allowed.
    #[error(
        "the secret of HS256 has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} random bytes, this one has {0}"
    )]
    SecretBytes(usize),
    /// A secret that comes from elsewhere is none.
    #[error("a secret is taken from a file only: who can fetch it can make tokens")]
    SecretElsewhere,
    /// It is a private key.
    #[error("this is a private key; verifying takes the public one, and nobody else should have this one")]
    Private,
    /// It is PEM of something else.
    #[error("PEM is taken with `-----BEGIN PUBLIC KEY-----` only (openssl pkey -pubout)")]
    PemLabel,
    /// There are several where one is due.
    #[error("a PEM file has one key; put several into a JWKS file, each with its `kid`")]
    Several,
    /// It is a public key of a kind that is not used.
    #[error("a public key is Ed25519, P-256 or RSA")]
    Kind,
}
