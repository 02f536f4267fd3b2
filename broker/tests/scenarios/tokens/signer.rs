//! Who signs tokens, rightly or not: written without the code under test.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

pub(crate) enum Signer {
    Ed(Ed25519KeyPair),
    Es(EcdsaKeyPair),
    Hs(Vec<u8>),
}

pub(crate) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn unb64(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims of an issuer's token that are accepted within its bounds.
pub(crate) fn claims(issuer: &str) -> Value {
    json!({
        "iss": issuer, "sub": "alice", "aud": "longwire", "exp": now_s() + 3600, "kind": "human",
        "jti": format!("{issuer}-1"), "grants": ["acme/**:read,publish,create"],
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

impl Signer {
    pub(crate) fn ed() -> Self {
        Self::Ed(Ed25519KeyPair::generate().unwrap())
    }

    pub(crate) fn es() -> Self {
        Self::Es(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn hs() -> Self {
        let mut secret = vec![0; 48];
        getrandom::fill(&mut secret).unwrap();
        Self::Hs(secret)
    }

    /// The bytes of the public key.
    pub(crate) fn public(&self) -> Vec<u8> {
        match self {
            Self::Ed(pair) => pair.public_key().as_ref().to_vec(),
            Self::Es(pair) => pair.public_key().as_ref().to_vec(),
            Self::Hs(secret) => secret.clone(),
        }
    }

    fn alg(&self) -> &'static str {
        match self {
            Self::Ed(_) => "EdDSA",
            Self::Es(_) => "ES256",
            Self::Hs(_) => "HS256",
        }
    }

    pub(crate) fn jwk(&self, kid: &str) -> Value {
        let (public, alg) = (self.public(), self.alg());
        match self {
            Self::Ed(_) => json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "alg": alg, "x": b64(public)}),
            Self::Es(_) => {
                let (x, y) = public[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "alg": alg, "x": b64(x), "y": b64(y)})
            }
            Self::Hs(_) => json!({"kty": "oct", "kid": kid, "alg": alg, "k": b64(public)}),
        }
    }

    pub(crate) fn header(&self, kid: &str) -> Value {
        json!({"alg": self.alg(), "kid": kid, "typ": "JWT"})
    }

    pub(crate) fn token(&self, header: &Value, claims: &Value) -> String {
        self.token_of_text(&header.to_string(), &claims.to_string())
    }

    pub(crate) fn token_of_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", b64(header), b64(claims));
        let signature = match self {
            Self::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            Self::Es(pair) => pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Hs(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes()).as_ref().to_vec()
            }
        };
        format!("{message}.{}", b64(signature))
    }
}
