use serde_json::{Value, json};

use super::*;
use crate::auth::algorithm::Algorithm;
use crate::auth::testing::{Signer, b64, pem, with, without};

fn jwks(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

fn read(keys: &[Value]) -> Result<Keys, InvalidKeys> {
    Keys::from_jwks(&jwks(keys), Source::File)
}

/// Why one key is refused.
fn why(key: Value) -> InvalidKey {
    match read(&[key]) {
        Err(InvalidKeys::Key { index: 1, why }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_key_is_of_the_algorithm_that_it_says() {
    for signer in Signer::all() {
        let keys = read(&[signer.jwk("k-1")]).unwrap();
        let (id, key) = keys.iter().next().unwrap();
        assert_eq!((id, key.algorithm().as_str()), ("k-1", signer.alg()));
        let signature = b64(signer.sign(b"message"));
        assert!(key.verifies("message", &signature) && !key.verifies("massage", &signature));
        assert!(
            !key.verifies("message", "")
                && !key.verifies("message", "&")
                && !key.verifies("message", &signature[1..])
        );
    }
}

#[test]
fn pem_of_each_kind_is_read() {
    for signer in [Signer::ed(), Signer::es(), Signer::rs()] {
        let keys = Keys::from_file(&format!("\n{}\n", signer.pem()), "from-file").unwrap();
        let (id, key) = keys.iter().next().unwrap();
        assert_eq!((id, key.algorithm().as_str()), ("from-file", signer.alg()));
        assert!(key.verifies("message", &b64(signer.sign(b"message"))));
    }
    assert!(Keys::from_file(&jwks(&[Signer::ed().jwk("k-1")]), "unused").is_ok());
}

#[test]
fn pem_that_is_no_public_key_is_refused() {
    let refused = |text: &str| match Keys::from_file(text, "k-1") {
        Err(InvalidKeys::Key { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    let whole = Signer::ed().pem();
    assert_eq!(refused(&pem("PRIVATE KEY", b"secret-canary")), InvalidKey::Private);
    assert_eq!(refused(&pem("RSA PRIVATE KEY", b"secret-canary")), InvalidKey::Private);
    assert_eq!(refused(&pem("ENCRYPTED PRIVATE KEY", b"x")), InvalidKey::Private);
    assert_eq!(refused(&pem("CERTIFICATE", b"x")), InvalidKey::PemLabel);
    assert_eq!(refused(&pem("RSA PUBLIC KEY", b"x")), InvalidKey::PemLabel);
    assert_eq!(refused(&pem("PUBLIC KEY", b"x")), InvalidKey::Kind);
    assert_eq!(refused(&pem("PUBLIC KEY", b"")), InvalidKey::Kind);
    assert_eq!(refused(&format!("{whole}{whole}")), InvalidKey::Several);
    assert_eq!(refused(&whole.replace("END PUBLIC", "END OTHER")), InvalidKey::Malformed);
    assert_eq!(refused("-----BEGIN PUBLIC KEY-----\n"), InvalidKey::Malformed);
    assert_eq!(refused("-----BEGIN PUBLIC KEY-----\n*\n-----END PUBLIC KEY-----"), InvalidKey::Malformed);
    // P-384 has other bytes in front, and another length.
    assert_eq!(refused(&pem("PUBLIC KEY", &[0x30, 0x76, 0x30, 0x10, 0x06])), InvalidKey::Kind);
}

#[test]
fn weak_keys_are_refused() {
    let rsa = Signer::rs().jwk("k-1");
    assert_eq!(why(with(&rsa, "n", b64([0xff; 128]))), InvalidKey::RsaBits(1024));
    assert_eq!(why(with(&rsa, "n", b64([&[0x7f][..], &[0xff; 255]].concat()))), InvalidKey::RsaBits(2047));
    // Zeros in front do not make it longer.
    assert_eq!(why(with(&rsa, "n", b64([&[0; 256][..], &[0xff; 128]].concat()))), InvalidKey::RsaBits(1024));
    assert_eq!(why(with(&rsa, "n", b64([0xff; 1025]))), InvalidKey::RsaBits(8200));
    assert_eq!(why(with(&rsa, "n", "")), InvalidKey::RsaBits(0));
    assert_eq!(why(with(&rsa, "n", b64([0xfe; 256]))), InvalidKey::NotAKey);
    for exponent in [&[][..], &[0], &[1], &[3], &[17], &[1, 0, 0], &[1, 0, 2], &[0xff; 5], &[1; 256]] {
        assert_eq!(why(with(&rsa, "e", b64(exponent))), InvalidKey::RsaExponent, "{exponent:?}");
    }
    let secret = Signer::hs().jwk("k-1");
    for length in [0, 1, 31, SECRET_TOO_LONG] {
        assert_eq!(why(with(&secret, "k", b64(vec![7; length]))), InvalidKey::SecretBytes(length));
    }
}

const SECRET_TOO_LONG: usize = crate::auth::invalid_key::SECRET_BYTES_MAX + 1;

#[test]
fn numbers_that_are_no_key_are_refused() {
    let (ed, es) = (Signer::ed().jwk("k-1"), Signer::es().jwk("k-1"));
    assert_eq!(why(with(&ed, "x", b64([1; 31]))), InvalidKey::NotAKey);
    assert_eq!(why(with(&ed, "x", b64([1; 33]))), InvalidKey::NotAKey);
    assert_eq!(why(with(&ed, "x", "**")), InvalidKey::Malformed);
    assert_eq!(why(without(&ed, "x")), InvalidKey::Malformed);
    // Not on the curve, at infinity, and too short.
    assert_eq!(why(with(&es, "x", b64([1; 32]))), InvalidKey::NotAKey);
    assert_eq!(why(with(&with(&es, "x", b64([0; 32])), "y", b64([0; 32]))), InvalidKey::NotAKey);
    assert_eq!(why(with(&es, "y", b64([1; 31]))), InvalidKey::NotAKey);
}

#[test]
fn a_key_without_an_algorithm_or_of_another_kind_is_refused() {
    for signer in Signer::all() {
        assert_eq!(why(without(&signer.jwk("k-1"), "alg")), InvalidKey::NoAlgorithm);
        for other in Algorithm::ALL.into_iter().filter(|other| other.as_str() != signer.alg()) {
            assert_eq!(why(with(&signer.jwk("k-1"), "alg", other.as_str())), InvalidKey::Mismatch);
        }
    }
    assert_eq!(why(with(&Signer::ed().jwk("k-1"), "crv", "X25519")), InvalidKey::Mismatch);
    assert_eq!(why(with(&Signer::es().jwk("k-1"), "crv", "P-384")), InvalidKey::Mismatch);
}

#[test]
fn a_private_key_is_refused() {
    assert_eq!(why(with(&Signer::ed().jwk("k-1"), "d", "secret-canary")), InvalidKey::Private);
    assert_eq!(why(with(&Signer::rs().jwk("k-1"), "d", json!({"x": 1}))), InvalidKey::Private);
}

#[test]
fn a_secret_is_not_taken_from_elsewhere() {
    let set = jwks(&[Signer::ed().jwk("k-1"), Signer::hs().jwk("k-2")]);
    let refused = Keys::from_jwks(&set, Source::Elsewhere).unwrap_err();
    assert_eq!(refused, InvalidKeys::Key { index: 2, why: InvalidKey::SecretElsewhere });
    assert!(Keys::from_jwks(&set, Source::File).is_ok());
}

#[test]
fn an_id_names_one_key() {
    let (one, two) = (Signer::ed().jwk("k-1"), Signer::es().jwk("k-1"));
    assert_eq!(read(&[one.clone(), two.clone()]).unwrap_err(), InvalidKeys::Twice(2));
    let both = read(std::slice::from_ref(&one)).unwrap().and(read(&[two]).unwrap());
    assert_eq!(both.unwrap_err(), InvalidKeys::Twice(2));
    assert_eq!(read(&[without(&one, "kid")]).unwrap_err(), InvalidKeys::Id(1));
    for id in ["", "a b", "é", "a\0", &"a".repeat(KEY_ID_BYTES_MAX + 1)] {
        assert_eq!(read(&[with(&one, "kid", id)]).unwrap_err(), InvalidKeys::Id(1), "{id:?}");
    }
}

#[test]
fn two_issuers_may_have_one_id() {
    let mut set = KeySet::default();
    set.put("a", read(&[Signer::ed().jwk("k-1")]).unwrap());
    set.put("b", read(&[Signer::es().jwk("k-1"), Signer::rs().jwk("k-2")]).unwrap());
    let algorithm = |issuer, id| set.get(issuer, id).map(Key::algorithm);
    assert_eq!(algorithm("a", "k-1"), Some(Algorithm::EdDsa));
    assert_eq!(algorithm("b", "k-1"), Some(Algorithm::Es256));
    assert_eq!((algorithm("a", "k-2"), algorithm("c", "k-1")), (None, None));
}

#[test]
fn keys_for_something_else_are_left_out() {
    let one = Signer::ed().jwk("k-1");
    let other = Signer::rs().jwk("k-1");
    let others = [
        with(&other, "use", "enc"),
        with(&other, "key_ops", json!(["sign"])),
        with(&other, "alg", "RSA-OAEP"),
        with(&other, "alg", "RS512"),
        with(&other, "alg", "none"),
        json!({"kty": "new", "alg": "new"}),
    ];
    for other in others {
        assert_eq!(read(&[other.clone(), one.clone()]).unwrap().iter().count(), 1);
        assert_eq!(read(&[other]).unwrap_err(), InvalidKeys::None);
    }
}

#[test]
fn what_is_huge_or_malformed_is_refused() {
    let long = " ".repeat(KEYS_BYTES_MAX + 1);
    assert_eq!(read_text(&long), InvalidKeys::Length(long.len()));
    assert_eq!(Keys::from_file(&long, "k-1").unwrap_err(), InvalidKeys::Length(long.len()));
    let many = vec![Signer::hs().jwk("k-1"); KEYS_MAX + 1];
    assert_eq!(read(&many).unwrap_err(), InvalidKeys::TooMany(KEYS_MAX + 1));
    assert_eq!(read(&[]).unwrap_err(), InvalidKeys::None);
    let deep = format!("{{\"keys\":{}", "[".repeat(100_000));
    let twice = r#"{"keys":[{"kty":"oct","kid":"a","kid":"b","alg":"HS256","k":"secret-canary"}]}"#;
    for text in ["", "{", "[]", "null", "{\"keys\":{}}", "{\"keys\":[1]}", "<html>", &deep, twice] {
        let error = read_text(text);
        assert_eq!(error, InvalidKeys::Form);
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
}

fn read_text(text: &str) -> InvalidKeys {
    Keys::from_jwks(text, Source::File).unwrap_err()
}

#[test]
fn secrets_are_not_shown() {
    let secret = "secret-canary-secret-canary-secret";
    let key = with(&Signer::hs().jwk("k-1"), "k", b64(secret));
    let shown = format!("{:?}", read(&[key]).unwrap());
    assert!(
        shown.contains("k-1")
            && shown.contains("HS256")
            && !shown.contains("canary")
            && !shown.contains("115"),
        "{shown}"
    );
}
