//! Keys that tokens are verified with.

use std::fmt;

use aws_lc_rs::rsa;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RsaPublicKeyComponents};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::crypto::verify;

use crate::auth::algorithm::Algorithm;
use crate::auth::pem;

/// Bits of an RSA modulus: below, it can be factored (NIST SP 800-131A).
pub const RSA_BITS_MIN: usize = 2048;
/// Bits of an RSA modulus: above, each token costs whoever verifies it milliseconds.
pub const RSA_BITS_MAX: usize = 8192;
/// Bits of an RSA exponent: the usual one has 17, and larger ones make verifying slow.
const RSA_EXPONENT_BITS_MAX: usize = 33;
/// Below, a signature of another exponent can be made for some messages without the key (FIPS 186-5).
const RSA_EXPONENT_MIN: u64 = 65_537;
/// Bytes of a secret: as many as the hash has (RFC 7518, section 3.2).
pub const SECRET_BYTES_MIN: usize = 32;
/// Bytes of a secret: more add nothing.
pub const SECRET_BYTES_MAX: usize = 1024;

/// A SubjectPublicKeyInfo of Ed25519 is this and the 32 bytes of the key (RFC 8410).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// A SubjectPublicKeyInfo of P-256 is this and the 65 bytes of an uncompressed point (RFC 5480).
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const ED25519_BYTES: usize = 32;
const COORDINATE_BYTES: usize = 32;
/// What a point that is not compressed begins with.
const UNCOMPRESSED: u8 = 4;

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

/// A key, of one algorithm for as long as it lives.
#[derive(Clone)]
pub struct Key {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Key {
    /// An Ed25519 key.
    ///
    /// # Errors
    /// [`InvalidKey`].
    pub fn ed25519(public: &[u8]) -> Result<Self, InvalidKey> {
        if public.len() != ED25519_BYTES {
            return Err(InvalidKey::NotAKey);
        }
        ParsedPublicKey::new(&ED25519, public).map_err(|_| InvalidKey::NotAKey)?;
        Ok(Self { algorithm: Algorithm::EdDsa, key: DecodingKey::from_ed_der(public) })
    }

    /// A P-256 key, from the coordinates of its point.
    ///
    /// # Errors
    /// [`InvalidKey`].
    pub fn p256(x: &[u8], y: &[u8]) -> Result<Self, InvalidKey> {
        if x.len() != COORDINATE_BYTES || y.len() != COORDINATE_BYTES {
            return Err(InvalidKey::NotAKey);
        }
        let point = [&[UNCOMPRESSED], x, y].concat();
        // A point that is not on the curve is no key: it could be one of a group in which signatures are easily forged.
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).map_err(|_| InvalidKey::NotAKey)?;
        Ok(Self { algorithm: Algorithm::Es256, key: DecodingKey::from_ec_der(&point) })
    }

    /// An RSA key, from its numbers, highest byte first.
    ///
    /// # Errors
    /// [`InvalidKey`].
    pub fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, InvalidKey> {
        let (modulus, exponent) = (without_zeros(modulus), without_zeros(exponent));
        let bits = bits(modulus);
        if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
            return Err(InvalidKey::RsaBits(bits));
        }
        if self::bits(exponent) > RSA_EXPONENT_BITS_MAX {
            return Err(InvalidKey::RsaExponent);
        }
        let value = exponent.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        if value < RSA_EXPONENT_MIN || value & 1 == 0 {
            return Err(InvalidKey::RsaExponent);
        }
        if modulus.last().is_none_or(|byte| byte & 1 == 0) {
            return Err(InvalidKey::NotAKey);
        }
        Ok(Self { algorithm: Algorithm::Rs256, key: DecodingKey::from_rsa_raw_components(modulus, exponent) })
    }

    /// A secret that both sides have.
    ///
    /// # Errors
    /// [`InvalidKey::SecretBytes`].
    pub fn secret(secret: &[u8]) -> Result<Self, InvalidKey> {
        if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.len()) {
            return Err(InvalidKey::SecretBytes(secret.len()));
        }
        Ok(Self { algorithm: Algorithm::Hs256, key: DecodingKey::from_secret(secret) })
    }

    /// The one public key in a PEM text. Its kind says its algorithm.
    ///
    /// # Errors
    /// [`InvalidKey`].
    pub fn from_pem(text: &str) -> Result<Self, InvalidKey> {
        let der = pem::public_key(text)?;
        if let Some(public) = der.strip_prefix(&ED25519_SPKI) {
            return Self::ed25519(public);
        }
        if let Some([UNCOMPRESSED, point @ ..]) = der.strip_prefix(&P256_SPKI)
            && let Some((x, y)) = point.split_at_checked(COORDINATE_BYTES)
        {
            return Self::p256(x, y);
        }
        let public = rsa::PublicKey::from_der(&der).map_err(|_| InvalidKey::Kind)?;
        let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(&public);
        Self::rsa(&n, &e)
    }

    /// Its algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether a signature, in base64url, is this key's for the message.
    #[must_use]
    pub fn verifies(&self, message: &str, signature: &str) -> bool {
        verify(signature, message.as_bytes(), &self.key, self.algorithm.jwa()).unwrap_or(false)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.algorithm)
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

fn bits(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}
