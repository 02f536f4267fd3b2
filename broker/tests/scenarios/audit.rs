//! The audit log of the real broker: what is in it, and what is not.

use std::path::Path;

use longwire_proto::codec::Encoding;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as Ask;
use longwire_proto::wire::server_frame::Frame as Answer;
use serde_json::Value;

use crate::support::broker::folder;
use crate::support::tokens::Tokens;
use crate::support::wire_client::{WireClient, published, refusal};

fn lines(data: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(data.join("audit.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn has(lines: &[Value], wanted: &[(&str, &str)]) -> bool {
    lines.iter().any(|line| wanted.iter().all(|(name, value)| line[name] == *value))
}

#[tokio::test]
async fn it_tells_who_came_who_was_refused_and_who_managed_what() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let ada = tokens.token("ada", &["acme/**:read,publish,create,manage"]);
    let eve = tokens.token_for("eve", &["other/**:read"], 3_600_000, Some("laptop"));
    let wrong = format!("{}x", &ada[..ada.len() - 1]);
    let hello = wire::Hello { token: wrong.clone(), device: "phone".into(), ..Default::default() };
    assert!(WireClient::greet(broker.address(), hello).await.is_err());
    let mut client = WireClient::connect_as(broker.address(), &ada).await;
    published(client.publish("acme/build", &["not in the audit log"]).await);
    client
        .send(Ask::ShareSession(wire::ShareSession {
            request: 1,
            session: "acme/build".into(),
            ..Default::default()
        }))
        .await;
    let Answer::Shared(shared) = client.receive().await else { panic!("nothing was shared") };
    let mut stranger = WireClient::connect_as(broker.address(), &eve).await;
    stranger
        .send(Ask::DescribeSession(wire::DescribeSession { request: 1, session: "acme/build".into() }))
        .await;
    assert_eq!(refusal(stranger.receive().await).code, "session_not_found");
    client
        .send(Ask::RevokeToken(wire::RevokeToken {
            request: 2,
            token: shared.token.clone(),
            ..Default::default()
        }))
        .await;
    assert!(matches!(client.receive().await, Answer::Done(_)));
    for _ in 0..2 {
        client
            .send(Ask::DeleteSession(wire::DeleteSession { request: 3, session: "acme/build".into() }))
            .await;
        client.receive().await;
    }
    // What was told is written before the broker ends.
    assert!(broker.terminate());
    let lines = lines(&data);
    for wanted in [
        &[("event", "authentication"), ("outcome", "unauthenticated"), ("device", "phone")][..],
        &[
            ("event", "authentication"),
            ("outcome", "ok"),
            ("principal", "ada"),
            ("kind", "human"),
            ("issuer", "longwire"),
        ],
        &[("event", "authentication"), ("outcome", "ok"), ("principal", "eve"), ("device", "laptop")],
        &[
            ("event", "refusal"),
            ("principal", "eve"),
            ("operation", "describe"),
            ("session", "acme/build"),
            ("outcome", "session_not_found"),
        ],
        &[
            ("event", "management"),
            ("principal", "ada"),
            ("operation", "share"),
            ("target", &shared.id),
            ("session", "acme/build"),
            ("outcome", "ok"),
        ],
        &[
            ("event", "management"),
            ("principal", "ada"),
            ("operation", "revoke_token"),
            ("target", &shared.id),
            ("outcome", "ok"),
        ],
        &[
            ("event", "management"),
            ("principal", "ada"),
            ("operation", "delete"),
            ("session", "acme/build"),
            ("outcome", "ok"),
        ],
        &[
            ("event", "management"),
            ("principal", "ada"),
            ("operation", "delete"),
            ("session", "acme/build"),
            ("outcome", "session_not_found"),
        ],
    ] {
        assert!(has(&lines, wanted), "{wanted:?} is not in {lines:#?}");
    }
    assert!(!has(&lines, &[("operation", "publish")]), "work is no management");
    assert!(lines.iter().all(|line| line["time_ms"].is_u64() && line["remote"].is_string()), "{lines:#?}");
    let text = std::fs::read_to_string(data.join("audit.jsonl")).unwrap();
    for secret in [&ada, &eve, &wrong, &shared.token] {
        let signature = secret.rsplit('.').next().unwrap();
        assert!(!text.contains(secret.as_str()) && !text.contains(signature), "a token is in the audit log");
    }
    assert!(!text.contains("not in the audit log"));
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(data.join("audit.jsonl")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn who_needs_no_token_is_named_as_nobody_in_particular() {
    let (_folder, data) = folder();
    let broker = crate::support::broker::Broker::start(&data);
    let mut client = WireClient::connect(broker.address(), Encoding::Json).await;
    published(client.publish("a", &["x"]).await);
    client
        .send(Ask::CloseSession(wire::CloseSession {
            request: 1,
            session: "a".into(),
            reason: String::new(),
        }))
        .await;
    assert!(matches!(client.receive().await, Answer::SessionDescription(_)));
    assert!(broker.terminate());
    let lines = lines(&data);
    assert!(
        has(&lines, &[("event", "management"), ("operation", "close"), ("principal", "anonymous")]),
        "{lines:#?}"
    );
    assert!(!has(&lines, &[("event", "authentication")]), "{lines:#?}");
}
