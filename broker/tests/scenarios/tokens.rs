//! Tokens over the real binary: whose are accepted, how long, and that they are nowhere to be read.

mod elsewhere;
mod signer;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use longwire_proto::codec::Encoding;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use serde_json::{Value, json};

use crate::support::broker::{Broker, LONGWIRE, folder, wait_until};
use crate::support::wire_client::{Ended, WireClient, published, refusal};
use crate::tokens::elsewhere::{Answer, Elsewhere};
use crate::tokens::signer::{Signer, b64, claims, now_s, with, without};

const AUTH: (&str, &str) = ("AUTH", "true");

/// Comes with a token: the connection, or how it ended.
async fn hello(broker: &Broker, token: &str, device: &str) -> Result<WireClient, Ended> {
    let mut client = WireClient::open(broker.address(), Encoding::Proto.subprotocol()).await.unwrap();
    let (token, device) = (token.to_owned(), device.to_owned());
    client.send(ClientFrame::Hello(wire::Hello { token, device, ..Default::default() })).await;
    match client.receive_any().await {
        Some(ServerFrame::Welcome(_)) => {
            client.be_patient();
            Ok(client)
        }
        Some(ServerFrame::Goodbye(goodbye)) => Err(Ended { goodbye: Some(goodbye), close: None }),
        other => panic!("{other:?} came instead of a welcome or a goodbye"),
    }
}

async fn admitted(broker: &Broker, token: &str) -> WireClient {
    hello(broker, token, "").await.unwrap_or_else(|ended| panic!("{}: {}", ended.code(), ended.message()))
}

/// The code with which somebody is not let in; empty when they are.
async fn code(broker: &Broker, token: &str) -> String {
    hello(broker, token, "").await.err().map(|ended| ended.code().to_owned()).unwrap_or_default()
}

/// Comes with a token again and again until it is answered so.
async fn until(broker: &Broker, token: &str, expected: &str) {
    let mut last = String::new();
    let patience = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    while tokio::time::Instant::now() < patience {
        last = code(broker, token).await;
        if last == expected {
            return;
        }
    }
    panic!("it is still answered {last:?} instead of {expected:?}");
}

/// Runs a command; `input` is what it reads.
fn longwire(broker: Option<&Broker>, arguments: &[&str], input: &str) -> Output {
    use std::io::Write;
    let mut command = Command::new(LONGWIRE);
    command.args(arguments).env_remove("LONGWIRE_TOKEN").stdin(Stdio::piped());
    if let Some(broker) = broker {
        command.env("LONGWIRE_URL", broker.url());
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // What reads nothing may have ended by now.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    child.wait_with_output().unwrap()
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap().trim().to_owned()
}

/// A token that the command line makes: the token and its id.
fn mint(data: &Path, arguments: &[&str]) -> (String, String) {
    let data = data.to_str().unwrap();
    let line = [&["--json", "token", "create", "--data", data][..], arguments].concat();
    let made: Value = serde_json::from_str(&out(&longwire(None, &line, ""))).unwrap();
    (made["token"].as_str().unwrap().to_owned(), made["id"].as_str().unwrap().to_owned())
}

fn rotate(data: &Path, more: &[&str]) {
    let line = [&["key", "rotate", "--data", data.to_str().unwrap()][..], more].concat();
    out(&longwire(None, &line, ""));
}

/// The setting for these issuers, as the environment has it: an array of tables.
fn issuers(tables: &[Value]) -> String {
    let table = |table: &Value| {
        let members = table.as_object().unwrap().iter().map(|(name, value)| format!("{name}={value}"));
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    };
    format!("[{}]", tables.iter().map(table).collect::<Vec<_>>().join(","))
}

fn issuer(name: &str) -> Value {
    json!({"name": name, "audience": "longwire", "namespace": name, "bounds": ["acme/**:read,publish,create"]})
}

fn write_jwks(path: &Path, keys: &[Value]) {
    // As careful operators do: whoever looks in between sees one or the other.
    let beside = path.with_extension("new");
    fs::write(&beside, json!({ "keys": keys }).to_string()).unwrap();
    fs::rename(beside, path).unwrap();
}

#[tokio::test]
async fn a_token_that_is_wrong_in_any_way_lets_nobody_in() {
    let (folder, data) = folder();
    let (a, b) = (Signer::ed(), Signer::ed());
    let (ec, secret) = (Signer::es(), Signer::hs());
    let (file_a, file_b) = (folder.path().join("a.json"), folder.path().join("b.json"));
    write_jwks(&file_a, &[a.jwk("shared"), ec.jwk("ec"), secret.jwk("hs")]);
    fs::set_permissions(&file_a, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    write_jwks(&file_b, &[b.jwk("shared")]);
    let bait = Elsewhere::start();
    bait.says(Answer::Jwks(vec![a.jwk("bait")]));
    let tables = [
        with(&issuer("a"), "keys", file_a.to_str().unwrap()),
        with(&issuer("b"), "keys", file_b.to_str().unwrap()),
    ];
    let broker = Broker::start_with(&data, &[AUTH, ("ISSUERS", &issuers(&tables))]);

    let of_a = claims("a");
    let header = |signer: &Signer| signer.header("shared");
    for good in [
        a.token(&header(&a), &of_a),
        b.token(&header(&b), &claims("b")),
        ec.token(&ec.header("ec"), &of_a),
        secret.token(&secret.header("hs"), &of_a),
        a.token(&header(&a), &with(&of_a, "aud", json!(["other", "longwire"]))),
    ] {
        admitted(&broker, &good).await;
    }

    let now = now_s();
    // Whoever has a public key has these bytes, and would sign with them if they were taken for a secret.
    let public = Signer::Hs(a.public());
    let none = |signature: &str| {
        format!("{}.{}.{signature}", b64(r#"{"alg":"none","kid":"shared"}"#), b64(of_a.to_string()))
    };
    let whole = a.token(&header(&a), &of_a);
    let (message, signature) = whole.rsplit_once('.').unwrap();
    let bad = [
        ("no token", String::new(), "unauthenticated"),
        ("no token at all", "what".into(), "unauthenticated"),
        ("too long", "x".repeat(10_000), "unauthenticated"),
        ("longer than a hello", "x".repeat(100_000), "frame_too_large"),
        ("alg none", none(""), "unauthenticated"),
        ("alg none with a signature", none(signature), "unauthenticated"),
        ("no signature", format!("{message}."), "unauthenticated"),
        ("another signature", format!("{message}.{}", b64([7; 64])), "unauthenticated"),
        ("the public key as a secret", public.token(&public.header("shared"), &of_a), "unauthenticated"),
        ("another algorithm", ec.token(&ec.header("shared"), &of_a), "unauthenticated"),
        (
            "the algorithm of another key",
            a.token(&with(&header(&a), "alg", "ES256"), &of_a),
            "unauthenticated",
        ),
        ("RS512", a.token(&with(&header(&a), "alg", "RS512"), &of_a), "unauthenticated"),
        ("expired", a.token(&header(&a), &with(&of_a, "exp", now - 60)), "token_expired"),
        ("no end", a.token(&header(&a), &without(&of_a, "exp")), "unauthenticated"),
        ("not yet", a.token(&header(&a), &with(&of_a, "nbf", now + 3600)), "unauthenticated"),
        ("another audience", a.token(&header(&a), &with(&of_a, "aud", "other")), "unauthenticated"),
        ("another issuer, of whom there is a key", a.token(&header(&a), &claims("b")), "unauthenticated"),
        ("another issuer's key of the same id", b.token(&header(&b), &of_a), "unauthenticated"),
        ("an issuer whom nobody knows", a.token(&header(&a), &claims("c")), "unauthenticated"),
        ("the broker itself", a.token(&header(&a), &claims("longwire")), "unauthenticated"),
        ("an unknown key", a.token(&a.header("unknown"), &of_a), "unauthenticated"),
        ("no key", a.token(&without(&header(&a), "kid"), &of_a), "unauthenticated"),
        ("jku", a.token(&with(&a.header("bait"), "jku", bait.url()), &of_a), "unauthenticated"),
        ("x5u", a.token(&with(&header(&a), "x5u", bait.url()), &of_a), "unauthenticated"),
        ("jwk", a.token(&with(&header(&a), "jwk", a.jwk("shared")), &of_a), "unauthenticated"),
        ("crit", a.token(&with(&header(&a), "crit", json!(["exp"])), &of_a), "unauthenticated"),
        ("b64", a.token(&with(&header(&a), "b64", false), &of_a), "unauthenticated"),
        (
            "more than its issuer may",
            a.token(&header(&a), &with(&of_a, "grants", json!(["**:read"]))),
            "unauthenticated",
        ),
        (
            "a right more",
            a.token(&header(&a), &with(&of_a, "grants", json!(["acme/**:manage"]))),
            "unauthenticated",
        ),
        ("nobody's name", a.token(&header(&a), &with(&of_a, "sub", "")), "unauthenticated"),
        (
            "another tenant by a look-alike",
            a.token(&header(&a), &with(&of_a, "grants", json!(["асme/**:read"]))),
            "unauthenticated",
        ),
        (
            "out of the tenant",
            a.token(&header(&a), &with(&of_a, "grants", json!(["acme/../other/**:read"]))),
            "unauthenticated",
        ),
        (
            "a claim twice",
            a.token_of_text(&header(&a).to_string(), &of_a.to_string().replacen('{', r#"{"sub":"eve","#, 1)),
            "unauthenticated",
        ),
    ];
    for (what, token, expected) in bad {
        let Err(ended) = hello(&broker, &token, "").await else { panic!("{what}: let in") };
        assert_eq!(ended.code(), expected, "{what}: {}", ended.message());
        // What was sent is not repeated: it may have come from somebody who wants it to be read.
        let parts = token.split('.').filter(|part| part.len() > 8);
        assert!(parts.into_iter().all(|part| !ended.message().contains(part)), "{what}: {}", ended.message());
    }
    assert_eq!(bait.asked(), 0);
    admitted(&broker, &whole).await;
}

#[tokio::test]
async fn keys_that_are_elsewhere_and_do_not_come_keep_nobody_else_out() {
    let (folder, data) = folder();
    let (good, bait) = (Elsewhere::start(), Elsewhere::start());
    let (key, other, bad) = (Signer::ed(), Signer::ed(), Signer::ed());
    good.says(Answer::Jwks(vec![key.jwk("k")]));
    bait.says(Answer::Jwks(vec![bad.jwk("bad")]));
    let misbehaving = [
        ("silent", Answer::Silent),
        ("endless", Answer::Endless),
        ("huge", Answer::Text(" ".repeat(1 << 20))),
        ("redirecting", Answer::Redirect(bait.url())),
        ("failing", Answer::Status(500)),
        ("malformed", Answer::Text("<html>".into())),
        ("secret", Answer::Jwks(vec![Signer::hs().jwk("bad")])),
        ("empty", Answer::Jwks(vec![])),
    ];
    let mut servers = Vec::new();
    let mut tables = vec![with(&issuer("good"), "jwks_url", good.url())];
    for (name, answer) in misbehaving {
        let server = Elsewhere::start();
        server.says(answer);
        tables.push(with(&issuer(name), "jwks_url", server.url()));
        servers.push(server);
    }
    tables.push(with(&issuer("unreachable"), "jwks_url", "http://127.0.0.1:1/jwks"));
    let file = folder.path().join("keys.json");
    write_jwks(&file, &[other.jwk("f")]);
    tables.push(with(&issuer("file"), "keys", file.to_str().unwrap()));
    let broker = Broker::start_with(&data, &[AUTH, ("ISSUERS", &issuers(&tables))]);

    // Nobody waits for any of them.
    admitted(&broker, &other.token(&other.header("f"), &claims("file"))).await;
    let (own, _) = mint(&data, &["--sub", "ada", "--grant", "acme/**:read"]);
    admitted(&broker, &own).await;
    let token = key.token(&key.header("k"), &claims("good"));
    until(&broker, &token, "").await;

    // Each was asked by now, or is being asked, and none has a key for it.
    for server in &servers {
        wait_until("it is asked", || server.asked() > 0);
    }
    for name in ["redirecting", "malformed", "secret", "silent", "unreachable"] {
        let stranger = bad.token(&bad.header("bad"), &claims(name));
        let Err(ended) = hello(&broker, &stranger, "").await else { panic!("{name}: let in") };
        assert_eq!(ended.code(), "overloaded", "{name}");
        let error = ended.goodbye.as_ref().and_then(|goodbye| goodbye.error.clone()).unwrap();
        assert!(error.retryable && error.retry_after_ms > 0, "{name}: {error:?}");
    }
    assert_eq!(bait.asked(), 0, "a redirect was followed");
    admitted(&broker, &token).await;
}

#[tokio::test]
async fn keys_that_are_elsewhere_follow_their_issuer() {
    let (_folder, data) = folder();
    let server = Elsewhere::start();
    let (first, second) = (Signer::ed(), Signer::es());
    server.says(Answer::Jwks(vec![first.jwk("1")]));
    let table = with(&with(&issuer("id"), "jwks_url", server.url()), "refresh_ms", 1000);
    let broker = Broker::start_with(&data, &[AUTH, ("ISSUERS", &issuers(&[table]))]);
    let (old, new) =
        (first.token(&first.header("1"), &claims("id")), second.token(&second.header("2"), &claims("id")));
    until(&broker, &old, "").await;
    let mut live = admitted(&broker, &old).await;

    // What is there stays while the issuer does not answer.
    server.says(Answer::Status(503));
    let asked = server.asked();
    wait_until("it is asked twice more", || server.asked() > asked + 1);
    published(live.publish("acme/a", &["still here"]).await);
    admitted(&broker, &old).await;

    server.says(Answer::Jwks(vec![first.jwk("1"), second.jwk("2")]));
    until(&broker, &new, "").await;
    published(live.publish("acme/a", &["and still"]).await);
    server.says(Answer::Jwks(vec![second.jwk("2")]));
    assert_eq!(live.ended().await.code(), "unauthenticated");
    assert_eq!(code(&broker, &old).await, "unauthenticated");
    admitted(&broker, &new).await;
}

#[tokio::test]
async fn files_with_keys_are_taken_up_while_connections_live() {
    let (folder, data) = folder();
    let (first, second) = (Signer::ed(), Signer::ed());
    let path = folder.path().join("keys.json");
    write_jwks(&path, &[first.jwk("1")]);
    let table = with(&issuer("id"), "keys", path.to_str().unwrap());
    // Whoever wants can read the metrics.
    let broker = Broker::start_with(&data, &[("ISSUERS", &issuers(&[table]))]);
    let (old, new) =
        (first.token(&first.header("1"), &claims("id")), second.token(&second.header("2"), &claims("id")));
    let mut live = admitted(&broker, &old).await;
    assert_eq!(code(&broker, &new).await, "unauthenticated");

    fs::write(&path, "{\"keys\":").unwrap();
    wait_until("the broken file is counted", || {
        broker.get("/metrics").1.contains("longwire_key_file_failures_total 1")
    });
    published(live.publish("acme/a", &["nothing has changed"]).await);
    admitted(&broker, &old).await;

    write_jwks(&path, &[first.jwk("1"), second.jwk("2")]);
    until(&broker, &new, "").await;
    published(live.publish("acme/a", &["still nothing"]).await);
    write_jwks(&path, &[second.jwk("2")]);
    assert_eq!(live.ended().await.code(), "unauthenticated");
    assert_eq!(code(&broker, &old).await, "unauthenticated");
}

#[tokio::test]
async fn a_token_of_the_command_line_is_for_what_it_says() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[AUTH]);
    let grant = ["--grant", "acme/**:create,publish", "--grant", "notes:read"];
    let (token, id) = mint(
        &data,
        &[&["--sub", "ada", "--kind", "human", "--device", "laptop", "--ttl", "10m"][..], &grant].concat(),
    );

    assert_eq!(hello(&broker, &token, "phone").await.err().unwrap().code(), "unauthenticated");
    let mut client = hello(&broker, &token, "laptop").await.unwrap_or_else(|ended| panic!("{ended:?}"));
    published(client.publish("acme/a", &["hello"]).await);
    assert_eq!(refusal(client.publish("notes", &["hello"]).await).code, "forbidden");
    assert_eq!(refusal(client.publish("other/a", &["hello"]).await).code, "session_not_found");

    let data = data.to_str().unwrap();
    let shown: Value = serde_json::from_str(&out(&longwire(
        None,
        &["--json", "token", "inspect", "-", "--data", data],
        &token,
    )))
    .unwrap();
    assert_eq!((&shown["signed_here"], &shown["valid_here"]), (&json!(true), &json!(true)));
    assert_eq!((&shown["claims"]["sub"], &shown["claims"]["jti"]), (&json!("ada"), &json!(id)));
    // From the environment, beside another folder, as text.
    let elsewhere = tempfile::tempdir().unwrap();
    let shown = Command::new(LONGWIRE)
        .args(["token", "inspect", "--data", elsewhere.path().to_str().unwrap()])
        .env("LONGWIRE_TOKEN", &token)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let shown = out(&shown);
    for line in ["subject     ada", "kind        human", "device      laptop", "grants      notes:read"] {
        assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
    }
    assert!(shown.contains("signature   not checked"), "{shown}");
    assert!(!shown.contains(&token));
    // Others verify it with what `key show` says.
    let jwks: Value =
        serde_json::from_str(&out(&longwire(None, &["--json", "key", "show", "--data", data], ""))).unwrap();
    let header: Value = serde_json::from_slice(&signer::unb64(token.split('.').next().unwrap())).unwrap();
    assert_eq!((jwks["keys"][0]["kid"].as_str(), jwks["keys"][0].get("d")), (header["kid"].as_str(), None));
}

#[tokio::test]
async fn a_rotation_ends_nobody_unless_it_drops() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[AUTH]);
    let grant = ["--sub", "ada", "--grant", "acme/**:create,publish,read"];
    let (old, _) = mint(&data, &grant);
    let mut live = admitted(&broker, &old).await;
    rotate(&data, &[]);
    let (new, _) = mint(&data, &grant);
    until(&broker, &new, "").await;
    published(live.publish("acme/a", &["still here"]).await);
    admitted(&broker, &old).await;
    let mut other = admitted(&broker, &new).await;

    rotate(&data, &["--drop"]);
    for live in [&mut live, &mut other] {
        assert_eq!(live.ended().await.code(), "unauthenticated");
    }
    for dropped in [&old, &new] {
        assert_eq!(code(&broker, dropped).await, "unauthenticated");
    }
    let (newest, _) = mint(&data, &grant);
    admitted(&broker, &newest).await;
    broker.kill();
    let broker = Broker::start_with(&data, &[AUTH]);
    assert_eq!(code(&broker, &old).await, "unauthenticated");
    admitted(&broker, &newest).await;
}

#[tokio::test]
async fn a_revoked_token_is_revoked_for_good() {
    let (_folder, data) = folder();
    // The command line shows no token, and may do everything.
    let broker = Broker::start(&data);
    let grant = ["--grant", "acme/**:create,publish,read"];
    let (by_token, _) = mint(&data, &[&["--sub", "ada"][..], &grant].concat());
    let (by_id, id) = mint(&data, &[&["--sub", "bob"][..], &grant].concat());
    let (other, _) = mint(&data, &[&["--sub", "ada"][..], &grant].concat());
    let mut first = admitted(&broker, &by_token).await;
    let mut second = admitted(&broker, &by_id).await;
    let mut third = admitted(&broker, &other).await;

    out(&longwire(Some(&broker), &["token", "revoke", "-"], &format!("{by_token}\n")));
    assert_eq!(first.ended().await.code(), "token_revoked");
    published(second.publish("acme/a", &["not I"]).await);
    out(&longwire(Some(&broker), &["token", "revoke", "--id", &id], ""));
    assert_eq!(second.ended().await.code(), "token_revoked");
    published(third.publish("acme/a", &["nor I"]).await);
    let again = longwire(Some(&broker), &["token", "revoke", "-"], "no.token.this");
    assert_eq!(again.status.code(), Some(1));
    assert!(!String::from_utf8_lossy(&again.stderr).contains("no.token.this"));

    broker.kill();
    let broker = Broker::start(&data);
    for revoked in [&by_token, &by_id] {
        assert_eq!(code(&broker, revoked).await, "token_revoked");
    }
    admitted(&broker, &other).await;
}

#[tokio::test]
async fn no_secret_is_to_be_read_anywhere() {
    let (folder, data) = folder();
    let (secret, ed) = (Signer::hs(), Signer::ed());
    let path = folder.path().join("keys.json");
    write_jwks(&path, &[secret.jwk("hs"), ed.jwk("ed")]);
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let table = with(&issuer("id"), "keys", path.to_str().unwrap());
    let log = folder.path().join("log");
    let mut program = Command::new("env");
    program.arg("LONGWIRE_LOG=trace").stderr(File::create(&log).unwrap());
    let broker = Broker::start_under(program, &data, &[AUTH, ("ISSUERS", &issuers(&[table]))]);

    let everything = ["--sub", "root", "--grant", "**:read,publish,create,manage"];
    let ((own, _), (more, _)) = (mint(&data, &everything), mint(&data, &everything));
    let of_secret = secret.token(&secret.header("hs"), &claims("id"));
    let expired = ed.token(&ed.header("ed"), &with(&claims("id"), "exp", now_s() - 60));
    let forged = Signer::ed().token(&ed.header("ed"), &claims("id"));
    let mut said = String::new();
    for refused in [&expired, &forged] {
        said.push_str(hello(&broker, refused, "").await.err().unwrap().message());
    }
    drop(admitted(&broker, &of_secret).await);
    let mut client = admitted(&broker, &own).await;
    published(client.publish("acme/a", &["hello"]).await);
    client.send(ClientFrame::Authenticate(wire::Authenticate { request: 91, token: more.clone() })).await;
    said.push_str(&format!("{:?}", client.receive().await));
    client.send(ClientFrame::Authenticate(wire::Authenticate { request: 92, token: forged.clone() })).await;
    said.push_str(&client.refusal().await.message);
    let share = wire::ShareSession { request: 93, session: "acme/a".into(), ..Default::default() };
    client.send(ClientFrame::ShareSession(share)).await;
    let ServerFrame::Shared(shared) = client.receive().await else { panic!("nothing was shared") };
    let revoke = wire::RevokeToken { request: 94, token: shared.token.clone(), ..Default::default() };
    client.send(ClientFrame::RevokeToken(revoke)).await;
    client.receive().await;
    let revoke = wire::RevokeToken { request: 95, token: forged.clone(), ..Default::default() };
    client.send(ClientFrame::RevokeToken(revoke)).await;
    said.push_str(&client.refusal().await.message);
    let bearer = |token: &str| get_as_bearer(&broker, token);
    let metrics = bearer(&own);
    assert!(metrics.contains("longwire_connections"), "{metrics}");
    said.push_str(&bearer(&forged));
    said.push_str(&metrics);
    rotate(&data, &["--drop"]);
    said.push_str(client.ended().await.message());

    let signing = fs::read_to_string(data.join("signing-keys.json")).unwrap();
    let current = serde_json::from_str::<Value>(&signing).unwrap()["current"].as_str().unwrap().to_owned();
    assert!(broker.terminate());
    let log = fs::read_to_string(&log).unwrap();
    assert!(
        log.contains("DEBUG") && log.contains("signing keys are in use"),
        "the log is not what it was to be"
    );
    let audit = fs::read_to_string(data.join("audit.jsonl")).unwrap();
    let tokens = [&own, &more, &of_secret, &expired, &forged, &shared.token];
    // Of a token what is behind the header; the header is the same for all of a key.
    let mut canaries: Vec<(String, String)> = tokens
        .iter()
        .flat_map(|token| token.split('.').skip(1))
        .map(|part| (part.to_owned(), part[..part.len().min(24)].to_owned()))
        .collect();
    // In the middle: what is before is the same in every PKCS #8.
    canaries.push((current.clone(), current[24..48].to_owned()));
    canaries.push(("the secret".to_owned(), secret.jwk("hs")["k"].as_str().unwrap()[..24].to_owned()));
    for (of, canary) in &canaries {
        for (what, text) in [("log", &log), ("answers", &said), ("audit log", &audit)] {
            let found = text.find(canary.as_str());
            let around = |at: usize| {
                let from = text.floor_char_boundary(at.saturating_sub(300));
                text[from..text.floor_char_boundary(at + 100)].to_owned()
            };
            assert!(found.is_none(), "{of} is in the {what}: {}", found.map(around).unwrap_or_default());
        }
        // As bytes in a debug form, too.
        let bytes: Vec<String> = canary.bytes().take(12).map(|byte| byte.to_string()).collect();
        assert!(!log.contains(&bytes.join(", ")), "{of} is in the log as numbers");
    }
}

/// `/metrics` for somebody with a token: status line, headers and body.
fn get_as_bearer(broker: &Broker, token: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(broker.address()).unwrap();
    let host = broker.address();
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}
