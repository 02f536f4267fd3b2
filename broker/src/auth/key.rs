//! Keys that tokens are verified with.

use std::fmt;

use aws_lc_rs::rsa;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RsaPublicKeyComponents};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::crypto::verify;

use crate::auth::algorithm::Algorithm;
use crate::auth::invalid_key::{
    InvalidKey, RSA_BITS_MAX, RSA_BITS_MIN, RSA_EXPONENT_BITS_MAX, RSA_EXPONENT_MIN, SECRET_BYTES_MAX,
    SECRET_BYTES_MIN,
};
use crate::auth::pem;

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

/// Where keys come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file of the broker's host: it may have secrets.
    File,
    /// Another host.
    Elsewhere,
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
