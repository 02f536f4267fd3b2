use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::grants::InvalidGrants;

use super::*;
use crate::auth::invalid_token::HEADER_CHARS_MAX;
use crate::auth::key::Source;
use crate::auth::mint::{Mint, MintError};
use crate::auth::principal::{Kind, check_name};
use crate::auth::signing_keys::TTL_MS_MAX;
use crate::auth::signing_keys::{Earlier, SigningKeys};
use crate::auth::testing::{ISSUER, NOW, NOW_MS, Signer, b64, claims, with, without};

const FOREIGN: &str = "https://id.example/realms/a";
const OTHER: &str = "https://id.example/realms/b";

fn issuer() -> Issuer {
    Issuer::own(ISSUER, "longwire").unwrap()
}

fn foreign(name: &str, namespace: &str) -> Issuer {
    let bounds = Grants::parse(&["acme/**:read,publish"]).unwrap();
    Issuer::foreign(name, "longwire", namespace, bounds).unwrap()
}

fn keys(jwks: &[Value]) -> Keys {
    Keys::from_jwks(&json!({ "keys": jwks }).to_string(), Source::File).unwrap()
}

/// Accepts what one signer signs as [`ISSUER`].
fn verifier(signer: &Signer) -> Verifier {
    let mut verifier = Verifier::new(vec![issuer()]).unwrap();
    verifier.put_keys(ISSUER, keys(&[signer.jwk("k-1")]));
    verifier
}

/// One signer with its verifier, and the shortest ways to try something.
struct Fixture {
    signer: Signer,
    verifier: Verifier,
}

impl Fixture {
    fn new() -> Self {
        let signer = Signer::ed();
        let verifier = verifier(&signer);
        Self { signer, verifier }
    }

    fn claims(&self, claims: &Value) -> Result<Principal, InvalidToken> {
        self.verifier.verify(&self.signer.token(&self.signer.header("k-1"), claims), NOW_MS)
    }

    fn header(&self, header: &Value) -> Result<Principal, InvalidToken> {
        self.verifier.verify(&self.signer.token(header, &claims()), NOW_MS)
    }
}

#[test]
fn a_token_of_each_algorithm_is_accepted() {
    for signer in Signer::all() {
        let token = signer.token(&signer.header("k-1"), &claims());
        let alice = verifier(&signer).verify(&token, NOW_MS).unwrap();
        assert_eq!((alice.id.as_str(), alice.kind, alice.via.as_deref()), ("alice", Kind::Human, None));
        assert_eq!((alice.issuer.as_str(), alice.tenant.as_deref()), (ISSUER, Some("acme")));
        assert_eq!(alice.grants.to_string(), "acme/**:read,publish");
        assert_eq!(alice.expires_ms, (NOW + 3600) * 1000);
        assert_eq!(alice.token, TokenId::new(ISSUER, "t-1").ok());
    }
}

#[test]
fn no_algorithm_is_none() {
    let fixture = Fixture::new();
    for alg in
        ["none", "None", "NONE", "nOnE", "", "EdDSA ", "eddsa", "HS384", "RS512", "PS256", "ES384", "Ed25519"]
    {
        let header = with(&fixture.signer.header("k-1"), "alg", alg);
        assert_eq!(fixture.header(&header), Err(InvalidToken::Algorithm), "{alg:?}");
    }
    let message =
        format!("{}.{}", b64(json!({"alg": "none", "kid": "k-1"}).to_string()), b64(claims().to_string()));
    for signature in ["", "e30"] {
        let token = format!("{message}.{signature}");
        assert_eq!(fixture.verifier.verify(&token, NOW_MS), Err(InvalidToken::Algorithm));
    }
    // Nor is a token without a signature one that says which.
    let message = format!("{}.{}", b64(fixture.signer.header("k-1").to_string()), b64(claims().to_string()));
    assert_eq!(fixture.verifier.verify(&format!("{message}."), NOW_MS), Err(InvalidToken::Signature));
    for alg in [json!(null), json!(1), json!(["EdDSA"]), json!({"EdDSA": true})] {
        assert_eq!(fixture.header(&json!({"alg": alg, "kid": "k-1"})), Err(InvalidToken::Header));
    }
    assert_eq!(fixture.header(&json!({"kid": "k-1"})), Err(InvalidToken::Header));
}

#[test]
fn a_key_verifies_its_own_algorithm_only() {
    for signer in Signer::all() {
        let verifier = verifier(&signer);
        for other in Signer::all().iter().filter(|other| other.alg() != signer.alg()) {
            let token = other.token(&other.header("k-1"), &claims());
            assert_eq!(verifier.verify(&token, NOW_MS), Err(InvalidToken::OtherAlgorithm));
            // Nor when the header lies.
            let token = other.token(&signer.header("k-1"), &claims());
            assert_eq!(verifier.verify(&token, NOW_MS), Err(InvalidToken::Signature));
        }
    }
}

#[test]
fn a_public_key_is_not_a_secret() {
    // The classic confusion: everybody has the public key, and makes an HMAC with it.
    for signer in [Signer::ed(), Signer::es(), Signer::rs()] {
        let jwk = signer.jwk("k-1");
        let texts = [
            signer.pem(),
            signer.pem().trim().to_owned(),
            jwk.to_string(),
            jwk["x"].to_string(),
            jwk["n"].to_string(),
        ];
        for text in texts {
            let forger = Signer::Hs(text.into_bytes());
            for header in [forger.header("k-1"), signer.header("k-1")] {
                let token = forger.token(&header, &claims());
                let found = verifier(&signer).verify(&token, NOW_MS);
                assert!(
                    matches!(found, Err(InvalidToken::OtherAlgorithm | InvalidToken::Signature)),
                    "{found:?}"
                );
            }
        }
    }
}

#[test]
fn another_key_of_the_same_name_is_not_the_key() {
    for (signer, forger) in
        Signer::all().into_iter().zip([Signer::ed(), Signer::es(), Signer::rs(), Signer::Hs(vec![8; 32])])
    {
        let token = forger.token(&forger.header("k-1"), &claims());
        assert_eq!(verifier(&signer).verify(&token, NOW_MS), Err(InvalidToken::Signature));
    }
}

#[test]
fn the_signature_is_of_what_is_there() {
    let fixture = Fixture::new();
    let token = fixture.signer.token(&fixture.signer.header("k-1"), &claims());
    let parts: Vec<&str> = token.split('.').collect();
    let wider = b64(with(&claims(), "grants", json!(["**:manage"])).to_string());
    let changed = format!("{}.{wider}.{}", parts[0], parts[2]);
    assert_eq!(fixture.verifier.verify(&changed, NOW_MS), Err(InvalidToken::Signature));
    let header = b64(json!({"kid": "k-1", "alg": "EdDSA"}).to_string());
    assert_eq!(
        fixture.verifier.verify(&format!("{header}.{}.{}", parts[1], parts[2]), NOW_MS),
        Err(InvalidToken::Signature)
    );
    for place in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(fixture.verifier.verify(&changed, NOW_MS).is_err(), "{place}");
        assert!(fixture.verifier.verify(&token[..place], NOW_MS).is_err(), "{place}");
    }
}

#[test]
fn a_key_that_nobody_has_is_unknown() {
    let fixture = Fixture::new();
    let header = |kid: Value| fixture.header(&with(&fixture.signer.header("k-1"), "kid", kid));
    assert_eq!(header(json!("k-2")), Err(InvalidToken::UnknownKey));
    assert_eq!(header(json!("../../dev/null")), Err(InvalidToken::UnknownKey));
    assert_eq!(header(json!("k-1' OR '1'='1")), Err(InvalidToken::NoKeyId));
    assert_eq!(header(json!("")), Err(InvalidToken::NoKeyId));
    assert_eq!(header(json!("k\0")), Err(InvalidToken::NoKeyId));
    assert_eq!(header(json!("k".repeat(200))), Err(InvalidToken::NoKeyId));
    assert_eq!(header(json!(1)), Err(InvalidToken::Header));
    assert_eq!(fixture.header(&json!({"alg": "EdDSA"})), Err(InvalidToken::NoKeyId));
    assert_eq!(
        Verifier::new(vec![issuer()])
            .unwrap()
            .verify(&fixture.signer.token(&fixture.signer.header("k-1"), &claims()), NOW_MS),
        Err(InvalidToken::UnknownKey)
    );
}

#[test]
fn a_token_brings_no_key_of_its_own() {
    let fixture = Fixture::new();
    let forger = Signer::ed();
    for member in ["jku", "x5u", "x5c", "jwk"] {
        for value in [json!("https://evil.example/keys"), json!(null), json!([]), forger.jwk("k-1")] {
            let header = with(&fixture.signer.header("k-1"), member, value);
            assert_eq!(fixture.header(&header), Err(InvalidToken::BringsKey), "{member}");
            let token = forger.token(&header, &claims());
            assert_eq!(fixture.verifier.verify(&token, NOW_MS), Err(InvalidToken::BringsKey), "{member}");
        }
    }
}

#[test]
fn what_would_change_the_meaning_is_refused() {
    let fixture = Fixture::new();
    for member in ["crit", "b64", "zip", "enc", "cty"] {
        for value in [json!(["exp"]), json!([]), json!(null), json!(false), json!("JWT")] {
            let header = with(&fixture.signer.header("k-1"), member, value);
            assert_eq!(fixture.header(&header), Err(InvalidToken::Extended), "{member}");
        }
    }
    // What says nothing about how to read it does no harm.
    assert!(fixture.header(&with(&fixture.signer.header("k-1"), "x5t", "hash")).is_ok());
}

#[test]
fn a_token_is_what_it_says_it_is() {
    let fixture = Fixture::new();
    let header = |typ: Value| fixture.header(&with(&fixture.signer.header("k-1"), "typ", typ));
    for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
        assert!(header(json!(typ)).is_ok(), "{typ}");
    }
    assert!(fixture.header(&without(&fixture.signer.header("k-1"), "typ")).is_ok());
    for typ in ["", "JWS", "dpop+jwt", "logout+jwt", "JOSE", "secevent+jwt", "JWT "] {
        assert_eq!(header(json!(typ)), Err(InvalidToken::Type), "{typ}");
    }
    assert_eq!(
        (header(json!(null)), header(json!(1))),
        (Err(InvalidToken::Header), Err(InvalidToken::Header))
    );
}

#[test]
fn members_are_there_once() {
    let fixture = Fixture::new();
    let headers = [
        r#"{"alg":"none","alg":"EdDSA","kid":"k-1"}"#,
        r#"{"alg":"EdDSA","kid":"k-2","kid":"k-1"}"#,
        r#"{"alg":"EdDSA","kid":"k-1","typ":"JWT","typ":"JWT"}"#,
    ];
    for header in headers {
        let token = fixture.signer.token_of_text(header, &claims().to_string());
        assert_eq!(fixture.verifier.verify(&token, NOW_MS), Err(InvalidToken::Header), "{header}");
    }
    let text = claims().to_string();
    for member in [
        "\"iss\":\"longwire\"",
        "\"sub\":\"bob\"",
        "\"exp\":9999999999",
        "\"grants\":[]",
        "\"kind\":\"agent\"",
        "\"jti\":\"t-2\"",
        "\"aud\":\"x\"",
    ] {
        let twice = format!("{},{member}}}", text.strip_suffix('}').unwrap());
        let token = fixture.signer.token_of_text(&fixture.signer.header("k-1").to_string(), &twice);
        assert_eq!(fixture.verifier.verify(&token, NOW_MS), Err(InvalidToken::Claims), "{member}");
    }
}

#[test]
fn what_is_not_a_token_is_refused() {
    let fixture = Fixture::new();
    let refused = |token: &str| fixture.verifier.verify(token, NOW_MS).unwrap_err();
    for token in ["", "a", "a.b", "a.b.c.d", "....", "Bearer a", "\0"] {
        assert_eq!(refused(token), InvalidToken::Form, "{token:?}");
    }
    assert_eq!(refused(".."), InvalidToken::Header);
    assert_eq!(refused(&"a".repeat(TOKEN_CHARS_MAX + 1)), InvalidToken::Length(TOKEN_CHARS_MAX + 1));
    let long = "a".repeat(HEADER_CHARS_MAX + 1);
    assert_eq!(refused(&format!("{long}.b.c")), InvalidToken::HeaderLength(HEADER_CHARS_MAX + 1));
    for header in [
        "",
        "[]",
        "null",
        "1",
        "{",
        "\"EdDSA\"",
        &"[".repeat(700),
        "{\"alg\":\"EdDSA\",\"kid\":\"k-1\"}x",
        "\u{feff}{}",
    ] {
        assert_eq!(refused(&format!("{}.e30.e30", b64(header))), InvalidToken::Header, "{header}");
    }
    // Padding, the other alphabet and line ends are other texts for the same bytes.
    let whole = fixture.signer.token(&fixture.signer.header("k-1"), &claims());
    let (header, rest) = whole.split_once('.').unwrap();
    for other in [
        format!("{header}=.{rest}"),
        format!("{header}\n.{rest}"),
        format!(" {whole}"),
        format!("{whole}\n"),
        format!("{whole}="),
    ] {
        assert!(fixture.verifier.verify(&other, NOW_MS).is_err(), "{other:?}");
    }
    for claims in ["", "[]", "null", "{}", "{\"sub\":\"alice\"}", &"[".repeat(2000)] {
        let token = fixture.signer.token_of_text(&fixture.signer.header("k-1").to_string(), claims);
        assert_eq!(refused(&token), InvalidToken::Claims, "{claims}");
    }
}

#[test]
fn every_claim_is_needed_and_of_its_type() {
    let fixture = Fixture::new();
    for member in ["iss", "sub", "aud", "exp", "kind", "grants"] {
        assert_eq!(fixture.claims(&without(&claims(), member)), Err(InvalidToken::Claims), "{member}");
        for value in [json!(null), json!({}), json!(true), json!([[]])] {
            let found = fixture.claims(&with(&claims(), member, value.clone()));
            assert_eq!(found, Err(InvalidToken::Claims), "{member} {value}");
        }
    }
    assert_eq!(fixture.claims(&with(&claims(), "exp", "9999999999")), Err(InvalidToken::Claims));
    assert!(fixture.claims(&without(&claims(), "jti")).unwrap().token.is_none());
    assert!(matches!(fixture.claims(&with(&claims(), "jti", "a b")), Err(InvalidToken::Id(_))));
    assert!(matches!(fixture.claims(&with(&claims(), "jti", "")), Err(InvalidToken::Id(_))));
    assert!(matches!(fixture.claims(&with(&claims(), "kind", "root")), Err(InvalidToken::Kind(_))));
    assert_eq!(fixture.claims(&with(&claims(), "device", "")), Err(InvalidToken::Device));
    assert_eq!(fixture.claims(&with(&claims(), "device", "phone")).unwrap().device.as_deref(), Some("phone"));
    assert!(fixture.claims(&with(&claims(), "something", json!({"else": 1}))).is_ok());
}

#[test]
fn the_audience_is_this_broker() {
    let fixture = Fixture::new();
    let audience = |value: Value| fixture.claims(&with(&claims(), "aud", value));
    assert!(audience(json!(["other", "longwire"])).is_ok());
    for value in [
        json!("other"),
        json!(""),
        json!([]),
        json!(["other"]),
        json!("Longwire"),
        json!("longwire2"),
        json!("longwir"),
        json!(["long", "wire"]),
    ] {
        assert_eq!(audience(value), Err(InvalidToken::Audience));
    }
}

#[test]
fn a_token_is_valid_from_its_beginning_to_its_end() {
    let fixture = Fixture::new();
    let token = fixture.signer.token(&fixture.signer.header("k-1"), &with(&claims(), "nbf", NOW + 10));
    let at = |now_ms| fixture.verifier.verify(&token, now_ms).map(|alice| alice.expires_ms);
    let (begin, end) = ((NOW + 10) * 1000, (NOW + 3600) * 1000);
    assert_eq!(at(begin - 1), Err(InvalidToken::NotYet));
    assert_eq!((at(begin), at(end - 1)), (Ok(end), Ok(end)));
    assert_eq!((at(end), at(u64::MAX)), (Err(InvalidToken::Expired), Err(InvalidToken::Expired)));
    assert_eq!(at(0), Err(InvalidToken::NotYet));
}

#[test]
fn other_hosts_clocks_may_be_off_a_little() {
    let signer = Signer::ed();
    let mut verifier = Verifier::new(vec![foreign(FOREIGN, "idp")]).unwrap();
    verifier.put_keys(FOREIGN, keys(&[signer.jwk("k-1")]));
    let told = with(&with(&claims(), "iss", FOREIGN), "nbf", NOW);
    let token = signer.token(&signer.header("k-1"), &told);
    let at = |now_ms| verifier.verify(&token, now_ms).map(|alice| alice.expires_ms);
    let leeway = crate::auth::issuer::LEEWAY_MS;
    let end = (NOW + 3600) * 1000 + leeway;
    assert_eq!((at(NOW_MS - leeway - 1), at(NOW_MS - leeway)), (Err(InvalidToken::NotYet), Ok(end)));
    assert_eq!((at(end - 1), at(end)), (Ok(end), Err(InvalidToken::Expired)));
}

#[test]
fn times_are_seconds_with_or_without_a_fraction() {
    let fixture = Fixture::new();
    let exp = |value: Value| fixture.claims(&with(&claims(), "exp", value)).map(|alice| alice.expires_ms);
    let later = NOW + 5;
    assert_eq!(exp(json!(later as f64 + 0.5)), Ok(later * 1000 + 500));
    assert_eq!(exp(json!(9_007_199_254_740_u64)), Ok(9_007_199_254_740_000));
    for value in
        [json!(u64::MAX), json!(9_007_199_254_741_u64), json!(-1), json!(-0.5), json!(1e300), json!(f64::MAX)]
    {
        assert_eq!(exp(value.clone()), Err(InvalidToken::Time), "{value}");
    }
    assert_eq!(exp(json!(0)), Err(InvalidToken::Expired));
    assert_eq!(fixture.claims(&with(&claims(), "nbf", -1)), Err(InvalidToken::Time));
}

#[test]
fn one_issuer_does_not_speak_for_another() {
    // Both have a key of the same name.
    let (a, b) = (Signer::ed(), Signer::ed());
    let mut verifier = Verifier::new(vec![foreign(FOREIGN, "a"), foreign(OTHER, "b")]).unwrap();
    verifier.put_keys(FOREIGN, keys(&[a.jwk("k-1"), a.jwk("k-a")]));
    verifier.put_keys(OTHER, keys(&[b.jwk("k-1"), b.jwk("k-b")]));
    let verify = |signer: &Signer, kid: &str, iss: &str| {
        let token = signer.token(&signer.header(kid), &with(&claims(), "iss", iss));
        verifier.verify(&token, NOW_MS).map(|somebody| (somebody.id, somebody.issuer))
    };
    assert_eq!(verify(&a, "k-1", FOREIGN), Ok(("a/alice".into(), FOREIGN.into())));
    assert_eq!(verify(&b, "k-1", OTHER), Ok(("b/alice".into(), OTHER.into())));
    for (signer, kid, iss) in
        [(&a, "k-1", OTHER), (&b, "k-1", FOREIGN), (&a, "k-a", OTHER), (&b, "k-b", FOREIGN)]
    {
        assert_eq!(verify(signer, kid, iss), Err(InvalidToken::Issuer));
    }
    assert_eq!(verify(&a, "k-b", OTHER), Err(InvalidToken::Signature));
    for iss in [
        "",
        ISSUER,
        "https://id.example/realms/A",
        "https://id.example/realms/a/",
        "https://id.example/realms",
    ] {
        assert_eq!(verify(&a, "k-1", iss), Err(InvalidToken::Issuer), "{iss}");
    }
}

#[test]
fn two_issuers_with_one_key_are_told_apart() {
    let signer = Signer::hs();
    let mut verifier = Verifier::new(vec![foreign(FOREIGN, "a"), foreign(OTHER, "b")]).unwrap();
    verifier.put_keys(FOREIGN, keys(&[signer.jwk("k-1")]));
    verifier.put_keys(OTHER, keys(&[signer.jwk("k-1")]));
    for (iss, id) in [(FOREIGN, "a/alice"), (OTHER, "b/alice")] {
        let token = signer.token(&signer.header("k-1"), &with(&claims(), "iss", iss));
        assert_eq!(verifier.verify(&token, NOW_MS).unwrap().id, id);
    }
}

#[test]
fn issuers_are_told_apart() {
    let refused = |issuers: Vec<Issuer>| Verifier::new(issuers).unwrap_err();
    assert_eq!(refused(vec![issuer(), issuer()]), InvalidIssuers::Name);
    assert_eq!(refused(vec![foreign(FOREIGN, "a"), foreign(FOREIGN, "b")]), InvalidIssuers::Name);
    assert_eq!(refused(vec![foreign(FOREIGN, "a"), foreign(OTHER, "a")]), InvalidIssuers::Namespace);
    assert_eq!(refused(vec![issuer(), Issuer::own("other", "x").unwrap()]), InvalidIssuers::Namespace);
    let many =
        (0..=ISSUERS_MAX).map(|number| foreign(&format!("i{number}"), &format!("n{number}"))).collect();
    assert_eq!(refused(many), InvalidIssuers::TooMany(ISSUERS_MAX + 1));
    let namespace = |text: &str| Issuer::foreign(FOREIGN, "longwire", text, Grants::default()).is_ok();
    assert!(namespace("idp-1") && !["", "a/b", "a b", "é", "a.b"].into_iter().any(namespace));
    assert!(
        Issuer::own("", "longwire").is_err()
            && Issuer::own("a b", "longwire").is_err()
            && Issuer::own("a", "").is_err()
    );
}

#[test]
fn nobody_from_elsewhere_is_somebody_from_here() {
    let fixture = Fixture::new();
    let sub = |value: &str| fixture.claims(&with(&claims(), "sub", value));
    for value in [
        "",
        "a/alice",
        "anonymous",
        "ANONYMOUS",
        "al ice",
        "аlice",
        "alice\n",
        "alice\u{200b}",
        &"a".repeat(256),
    ] {
        assert!(matches!(sub(value), Err(InvalidToken::Subject(_))), "{value:?}");
    }
    let longest = "a".repeat(253);
    let issuer = foreign(FOREIGN, "a");
    assert_eq!(issuer.principal(&longest).map(|id| (id.len(), check_name(&id).is_ok())), Ok((255, true)));
    assert!(issuer.principal(&"a".repeat(254)).is_err() && issuer.principal("anonymous").is_err());
    assert_eq!(issuer.principal("x/y").as_deref(), Ok("a/x/y"));
}

#[test]
fn grants_have_limits_and_a_grammar() {
    let fixture = Fixture::new();
    let grants = |value: Value| fixture.claims(&with(&claims(), "grants", value));
    assert!(grants(json!([])).unwrap().grants.as_slice().is_empty());
    assert!(matches!(
        grants(json!(vec!["a:read"; 65])),
        Err(InvalidToken::Grants(InvalidGrants::TooMany(65)))
    ));
    for grant in [
        "acme/../other:read",
        ":read",
        "acme/%2e%2e:read",
        "аcme/**:read",
        "~acme/**:read",
        "acme/**:all",
        "acme/**",
        "*/**:read",
        "",
    ] {
        let found = grants(json!([grant]));
        assert!(matches!(found, Err(InvalidToken::Grants(InvalidGrants::Grant { index: 1, .. }))), "{grant}");
    }
}

#[test]
fn an_issuer_grants_no_more_than_it_may() {
    let signer = Signer::ed();
    let mut verifier = Verifier::new(vec![issuer(), foreign(FOREIGN, "idp")]).unwrap();
    verifier.put_keys(FOREIGN, keys(&[signer.jwk("k-1")]));
    let grants = |value: Value| {
        let claims = with(&with(&claims(), "iss", FOREIGN), "grants", value);
        verifier.verify(&signer.token(&signer.header("k-1"), &claims), NOW_MS).map(|somebody| somebody.id)
    };
    assert_eq!(grants(json!(["acme/a/*:read"])), Ok("idp/alice".into()));
    for beyond in [
        json!(["**:read"]),
        json!(["other/**:read"]),
        json!(["acme/**:manage"]),
        json!(["acme/**:read", "acme/a:create"]),
    ] {
        assert_eq!(grants(beyond), Err(InvalidToken::Beyond));
    }
}

#[test]
fn a_refusal_repeats_nothing_and_has_a_code() {
    let fixture = Fixture::new();
    let canary = "secret-canary";
    let tries = [
        canary.to_owned(),
        format!("{canary}.{canary}.{canary}"),
        fixture.signer.token(&with(&fixture.signer.header("k-1"), "kid", canary), &claims()),
        fixture.signer.token(&with(&fixture.signer.header("k-1"), "alg", canary), &claims()),
        fixture.signer.token(&fixture.signer.header("k-1"), &json!({"iss": canary, canary: canary})),
        fixture.signer.token(&fixture.signer.header("k-1"), &with(&claims(), "exp", canary)),
        fixture.signer.token(&fixture.signer.header("k-1"), &with(&claims(), "iss", canary)),
        fixture.signer.token(&fixture.signer.header("k-1"), &with(&claims(), "kind", canary)),
        fixture.signer.token(&fixture.signer.header("k-1"), &with(&claims(), "sub", format!("{canary} "))),
        fixture.signer.token(
            &fixture.signer.header("k-1"),
            &with(&claims(), "grants", json!([format!("{canary}//:read")])),
        ),
        fixture.signer.token(
            &fixture.signer.header("k-1"),
            &with(&claims(), "grants", json!([format!("acme:{canary}")])),
        ),
    ];
    for token in tries {
        let invalid = fixture.verifier.verify(&token, NOW_MS).unwrap_err();
        let error = Error::from(invalid.clone());
        assert_eq!((error.code, error.field), (ErrorCode::Unauthenticated, "token"), "{invalid}");
        assert!(!format!("{error} {invalid:?}").contains(canary), "{invalid:?}");
    }
    assert_eq!(Error::from(InvalidToken::Expired).code, ErrorCode::TokenExpired);
}

#[test]
fn neither_principal_nor_verifier_shows_the_token_or_a_secret() {
    let signer = Signer::Hs(b"secret-canary-secret-canary-secret".to_vec());
    let token = signer.token(&signer.header("k-1"), &claims());
    let verifier = verifier(&signer);
    let shown = format!("{verifier:?} {:?}", verifier.verify(&token, NOW_MS).unwrap());
    assert!(!shown.contains("canary") && token.split('.').all(|part| !shown.contains(part)), "{shown}");
}

fn mint<'a>(grants: &'a Grants) -> Mint<'a> {
    Mint { sub: "ci", kind: Kind::Service, grants, roles: &[], device: Some("runner"), ttl_ms: 60_000 }
}

fn own_keys(folder: &tempfile::TempDir) -> (SigningKeys, Verifier) {
    let keys = SigningKeys::load_or_make(&folder.path().join("keys")).unwrap();
    let mut verifier = Verifier::new(vec![issuer()]).unwrap();
    verifier.put_keys(ISSUER, keys.keys(NOW_MS));
    (keys, verifier)
}

#[test]
fn what_the_broker_makes_it_accepts() {
    let folder = tempfile::tempdir().unwrap();
    let (keys, verifier) = own_keys(&folder);
    let grants = Grants::parse(&["acme/**:read,publish", "acme/ci/*:manage"]).unwrap();
    let minted = keys.mint(&issuer(), &mint(&grants), NOW_MS + 1).unwrap();
    let somebody = verifier.verify(&minted.token, NOW_MS).unwrap();
    assert_eq!(
        (somebody.id.as_str(), somebody.kind, somebody.device.as_deref()),
        ("ci", Kind::Service, Some("runner"))
    );
    assert_eq!((&somebody.grants, somebody.token.as_ref()), (&grants, Some(&minted.id)));
    // Never shorter than asked for, and at most a second longer.
    assert_eq!((somebody.expires_ms, minted.expires_ms), (NOW_MS + 61_000, NOW_MS + 61_000));
    assert!(!format!("{minted:?}").contains(minted.token.rsplit('.').next().unwrap()));
    let again = keys.mint(&issuer(), &mint(&grants), NOW_MS + 1).unwrap();
    assert_ne!(minted.id, again.id);
}

#[test]
fn a_rotation_ends_tokens_only_when_it_is_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let (keys, mut verifier) = own_keys(&folder);
    let grants = Grants::default();
    let minted = keys.mint(&issuer(), &mint(&grants), NOW_MS).unwrap();
    let rotated = keys.rotate(&folder.path().join("keys"), Earlier::Kept, NOW_MS).unwrap();
    verifier.put_keys(ISSUER, rotated.keys(NOW_MS));
    assert!(verifier.verify(&minted.token, NOW_MS).is_ok());
    let newer = rotated.mint(&issuer(), &mint(&grants), NOW_MS).unwrap();
    assert!(verifier.verify(&newer.token, NOW_MS).is_ok());
    let alone = rotated.rotate(&folder.path().join("keys"), Earlier::Dropped, NOW_MS).unwrap();
    verifier.put_keys(ISSUER, alone.keys(NOW_MS));
    assert_eq!(verifier.verify(&minted.token, NOW_MS), Err(InvalidToken::UnknownKey));
    assert_eq!(verifier.verify(&newer.token, NOW_MS), Err(InvalidToken::UnknownKey));
}

#[test]
fn another_brokers_tokens_are_not_ours() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ((_, verifier), (keys, _)) = (own_keys(&here), own_keys(&there));
    let minted = keys.mint(&issuer(), &mint(&Grants::default()), NOW_MS).unwrap();
    assert_eq!(verifier.verify(&minted.token, NOW_MS), Err(InvalidToken::UnknownKey));
}

#[test]
fn nothing_is_made_that_would_not_be_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let (keys, _) = own_keys(&folder);
    let none = Grants::default();
    let refused = |mint: Mint<'_>| keys.mint(&issuer(), &mint, NOW_MS).unwrap_err();
    for sub in ["", "a/b", "anonymous", "a b", "é"] {
        assert!(matches!(refused(Mint { sub, ..mint(&none) }), MintError::Subject(_)), "{sub}");
    }
    for ttl_ms in [0, 999, TTL_MS_MAX + 1, u64::MAX] {
        assert_eq!(refused(Mint { ttl_ms, ..mint(&none) }), MintError::Ttl);
    }
    assert_eq!(refused(Mint { device: Some("a b"), ..mint(&none) }), MintError::Device);
    let texts: Vec<String> =
        (0..64).map(|number| format!("acme/{}/{number}:read", "a/".repeat(12) + &"b".repeat(60))).collect();
    let long = Grants::parse(&texts).unwrap();
    assert!(matches!(refused(mint(&long)), MintError::Length(_)));
    assert_eq!(keys.mint(&foreign(FOREIGN, "a"), &mint(&none), NOW_MS), Err(MintError::Issuer));
    let longest = keys.mint(&issuer(), &Mint { ttl_ms: TTL_MS_MAX, ..mint(&none) }, NOW_MS + 1).unwrap();
    // The earlier key of a rotation in the same moment is kept for as long.
    let rotated = keys.rotate(&folder.path().join("keys"), Earlier::Kept, NOW_MS + 1).unwrap();
    let mut verifier = Verifier::new(vec![issuer()]).unwrap();
    verifier.put_keys(ISSUER, rotated.keys(longest.expires_ms - 1));
    assert!(verifier.verify(&longest.token, longest.expires_ms - 1).is_ok());
}

const SEED: u64 = 0x746f_6b65_6e73;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500, rng_seed: RngSeed::Fixed(SEED), failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_is_sent_is_refused_and_not_shown(
        header in prop_oneof![Just(String::new()), "[ -~]{0,40}", "\\{\"alg\":\"[a-zA-Z0-9]{0,5}\",\"kid\":\"[a-z0-9-]{0,4}\"\\}"],
        claims in any::<String>(),
        signature in any::<Vec<u8>>(),
        raw in any::<bool>(),
    ) {
        let verifier = verifier(&Signer::hs());
        let token = match raw {
            true => format!("{header}.{claims}"),
            false => format!("{}.{}.{}", b64(&header), b64(&claims), b64(signature)),
        };
        let refused = verifier.verify(&token, NOW_MS);
        prop_assert!(refused.is_err(), "seed {SEED}: {token:?}");
        prop_assert!(Keys::from_file(&claims, "k-1").is_err() && Keys::from_file(&header, "k-1").is_err());
    }

    #[test]
    fn whoever_has_the_key_makes_no_broker_panic(claims in any::<String>(), member in "[a-z]{3}", number in any::<f64>()) {
        let fixture = (Signer::hs(), verifier(&Signer::hs()));
        let header = fixture.0.header("k-1");
        let numbers = [with(&self::claims(), "exp", number), with(&self::claims(), "nbf", number)];
        let tokens = [with(&self::claims(), "sub", claims.clone()), with(&self::claims(), &member, claims.clone())];
        for claims in numbers.iter().chain(&tokens) {
            // Accepted or refused; what is accepted is somebody who has a name and an end.
            if let Ok(somebody) = fixture.1.verify(&fixture.0.token(&header, claims), NOW_MS) {
                prop_assert!(check_name(&somebody.id).is_ok() && somebody.expires_ms > NOW_MS, "seed {SEED}: {claims}");
            }
        }
        let token = fixture.0.token_of_text(&header.to_string(), &claims);
        prop_assert!(fixture.1.verify(&token, NOW_MS).is_err(), "seed {SEED}: {claims}");
    }
}
