//! What the tests of this module share: principals, and a signer that knows nothing of the code under test.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use longwire_proto::grants::Grants;
use serde_json::{Value, json};

use crate::auth::principal::{Kind, Principal};
use crate::auth::token_id::TokenId;

pub(crate) const NOW_MS: u64 = 1_764_000_000_000;
pub(crate) const NOW: u64 = NOW_MS / 1000;
pub(crate) const ISSUER: &str = "longwire";

pub(crate) fn principal(grants: &[&str]) -> Principal {
    Principal {
        roles: Vec::new(),
        id: "alice".into(),
        kind: Kind::Human,
        device: None,
        via: None,
        tenant: None,
        grants: Grants::parse(grants).unwrap(),
        expires_ms: NOW_MS + 3_600_000,
        token: Some(TokenId::new(ISSUER, "t-1").unwrap()),
        issuer: ISSUER.into(),
        signed_by: "k-1".into(),
    }
}

/// Who signs tokens, rightly or not.
pub(crate) enum Signer {
    Ed(Ed25519KeyPair),
    Es(EcdsaKeyPair),
    Rs(RsaKeyPair),
    Hs(Vec<u8>),
}

pub(crate) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    pub(crate) fn ed() -> Self {
        Self::Ed(Ed25519KeyPair::generate().unwrap())
    }

    pub(crate) fn es() -> Self {
        Self::Es(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn rs() -> Self {
        Self::Rs(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub(crate) fn hs() -> Self {
        Self::Hs(vec![7; 32])
    }

    pub(crate) fn all() -> [Self; 4] {
        [Self::ed(), Self::es(), Self::rs(), Self::hs()]
    }

    pub(crate) fn alg(&self) -> &'static str {
        match self {
            Self::Ed(_) => "EdDSA",
            Self::Es(_) => "ES256",
            Self::Rs(_) => "RS256",
            Self::Hs(_) => "HS256",
        }
    }

    pub(crate) fn jwk(&self, kid: &str) -> Value {
        let (kid, alg) = (kid.to_owned(), self.alg());
        match self {
            Self::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "alg": alg, "x": b64(pair.public_key())})
            }
            Self::Es(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "alg": alg, "x": b64(x), "y": b64(y), "use": "sig"})
            }
            Self::Rs(pair) => {
                let public = pair.public_key();
                let (n, e) = (public.modulus(), public.exponent());
                let (n, e) = (n.big_endian_without_leading_zero(), e.big_endian_without_leading_zero());
                json!({"kty": "RSA", "kid": kid, "alg": alg, "n": b64(n), "e": b64(e), "key_ops": ["verify"]})
            }
            Self::Hs(secret) => json!({"kty": "oct", "kid": kid, "alg": alg, "k": b64(secret)}),
        }
    }

    /// The public key in PEM; that of a secret is none.
    pub(crate) fn pem(&self) -> String {
        use aws_lc_rs::encoding::AsDer;
        let der = match self {
            Self::Ed(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Self::Es(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Self::Rs(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Self::Hs(_) => Vec::new(),
        };
        pem("PUBLIC KEY", &der)
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Self::Es(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Rs(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Self::Hs(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
            }
        }
    }

    /// A token of exactly this header and these claims, as text.
    pub(crate) fn token_of_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", b64(header), b64(claims));
        let signature = b64(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    pub(crate) fn token(&self, header: &Value, claims: &Value) -> String {
        self.token_of_text(&header.to_string(), &claims.to_string())
    }

    pub(crate) fn header(&self, kid: &str) -> Value {
        json!({"alg": self.alg(), "kid": kid, "typ": "JWT"})
    }
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Claims that are accepted of [`ISSUER`].
pub(crate) fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "alice", "aud": "longwire", "exp": NOW + 3600, "jti": "t-1", "kind": "human",
        "grants": ["acme/**:read,publish"],
    })
}

/// The value with one member set to another one, or added.
pub(crate) fn with(value: &Value, member: &str, new: impl Into<Value>) -> Value {
    let mut value = value.clone();
    value[member] = new.into();
    value
}

pub(crate) fn without(value: &Value, member: &str) -> Value {
    let mut value = value.clone();
    value.as_object_mut().unwrap().remove(member).unwrap();
    value
}
