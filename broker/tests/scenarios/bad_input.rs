//! Every bad input gets a typed error that names what was wrong and what is allowed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use longwire_proto::codec::Encoding;
use longwire_proto::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, RECORD_BYTES_MAX};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::support::broker::{Broker, folder, longwire};
use crate::support::wire_client::{WireClient, published, record, refusal, subscribed};

fn publish(session: &str, records: Vec<wire::Record>) -> wire::Publish {
    wire::Publish { session: session.into(), records, ..Default::default() }
}

#[tokio::test]
async fn requests_are_refused_with_what_was_wrong() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    for encoding in Encoding::ALL {
        let mut client = WireClient::connect(broker.address(), encoding).await;
        for (session, part) in [("", "empty"), ("a//b", "segment 2"), ("a b", "' '"), ("~x", "'~'")] {
            let error = refusal(client.publish(session, &["x"]).await);
            assert_eq!((error.code.as_str(), error.field.as_str()), ("invalid_session_id", "session"));
            assert!(error.message.contains(part), "{}", error.message);
        }
        let error = refusal(client.publish("a", &[]).await);
        assert_eq!(error.code, "batch_empty");
        let many = vec![record("x"); BATCH_RECORDS_MAX + 1];
        let error = refusal(client.publish_with(publish("a", many)).await);
        assert_eq!((error.code.as_str(), error.limit), ("batch_too_large", BATCH_RECORDS_MAX as u64));
        let large = vec![record(&"x".repeat(RECORD_BYTES_MAX - 100)); 5];
        let error = refusal(client.publish_with(publish("a", large)).await);
        assert_eq!((error.code.as_str(), error.limit), ("batch_too_large", BATCH_BYTES_MAX as u64));
        let large = vec![record("x"), record(&"x".repeat(RECORD_BYTES_MAX))];
        let error = refusal(client.publish_with(publish("a", large)).await);
        assert_eq!((error.code.as_str(), error.limit), ("record_too_large", RECORD_BYTES_MAX as u64));
        assert!(error.message.starts_with("record 1: "), "{}", error.message);
        let forged = wire::Record { time_ms: 1, ..record("x") };
        let error = refusal(client.publish_with(publish("a", vec![forged])).await);
        assert_eq!((error.code.as_str(), error.field.as_str()), ("field_reserved", "time_ms"));
        let forged = wire::Record { kind: 10, ..record("x") };
        let error = refusal(client.publish_with(publish("a", vec![forged])).await);
        assert_eq!(error.code, "kind_reserved");
        let producer = Some(wire::Producer { id: "p 1".into(), epoch: 0, sequence: 0 });
        let refused = wire::Publish { producer, ..publish("a", vec![record("x")]) };
        let error = refusal(client.publish_with(refused).await);
        assert_eq!((error.code.as_str(), error.field.as_str()), ("invalid_argument", "producer"));
        let unknown = Some(wire::Producer { id: "p1".into(), epoch: 0, sequence: 5 });
        let refused = wire::Publish { producer: unknown, ..publish("a", vec![record("x")]) };
        assert_eq!(refusal(client.publish_with(refused).await).code, "producer_unknown");
        let error = refusal(client.subscribe("never", From::Start(true)).await);
        assert_eq!(error.code, "session_not_found");
        client
            .send(ClientFrame::DescribeSession(wire::DescribeSession { request: 9, session: "never".into() }))
            .await;
        assert_eq!(client.refusal().await.code, "session_not_found");
        client
            .send(ClientFrame::DeleteSession(wire::DeleteSession { request: 9, session: "never".into() }))
            .await;
        assert_eq!(client.refusal().await.code, "session_not_found");
        client.send(ClientFrame::Unsubscribe(wire::Unsubscribe { request: 9, subscription: 7 })).await;
        assert_eq!(client.refusal().await.code, "subscription_not_found");
        client.send(ClientFrame::Subscribe(wire::Subscribe { request: 9, subscriptions: vec![] })).await;
        assert_eq!(client.refusal().await.code, "invalid_argument");
        let title = Some(wire::SessionMeta { title: "x".repeat(513), ..Default::default() });
        let create = wire::CreateSession { request: 9, session: "a".into(), meta: title, update: false };
        client.send(ClientFrame::CreateSession(create)).await;
        assert_eq!(client.refusal().await.field, "title");
        // Nothing of all this was half done, and the connection still works.
        let session = format!("fine/{}", encoding as usize);
        assert_eq!(published(client.publish(&session, &["x"]).await).from, 0);
    }
}

#[tokio::test]
async fn positions_have_typed_outcomes() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    client.publish("s", &["a", "b", "c"]).await;
    for bad in ["", "3", "0_3", "0000000000000000_000000000000000x", "-000000000000001_0000000000000000"] {
        let error = refusal(client.subscribe("s", From::Position(bad.into())).await);
        assert_eq!((error.code.as_str(), error.field.as_str()), ("invalid_position", "from"), "{bad:?}");
    }
    let cases = [
        (From::Position("0000000000000000_0000000000000004".into()), "future_position", 3),
        (From::Offset(4), "future_position", 3),
        (From::Position("0000000000000007_0000000000000001".into()), "epoch_changed", 0),
        (From::Position("0000000000000000_0000000000000003".into()), "resumed", 3),
    ];
    for (from, outcome, begins) in cases {
        let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
        let subscribed = subscribed(client.subscribe("s", from).await);
        assert_eq!((subscribed.outcome.as_str(), subscribed.from), (outcome, begins));
    }
}

#[tokio::test]
async fn what_is_not_a_frame_ends_the_connection_with_a_reason() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let json: [(&[u8], &str, &str); 4] = [
        (br#"{"publish":{"session":"a","colour":"red"}}"#, "unknown_field", "`colour`"),
        (br#"{"publish":"#, "invalid_frame", "EOF"),
        (b"{}", "unknown_frame", "docs/protocol.md"),
        (br#"{"publish":{"request":-1}}"#, "invalid_frame", "`publish.request`"),
    ];
    for (bytes, code, part) in json {
        let mut client = WireClient::connect(broker.address(), Encoding::Json).await;
        client.send_bytes(Bytes::from_static(bytes)).await;
        let ended = client.ended().await;
        assert_eq!(ended.code(), code, "{ended:?}");
        assert!(ended.message().contains(part), "{}", ended.message());
    }
    for (bytes, code, close) in [(&b"\xff\xff\xff"[..], "invalid_frame", 1007), (b"", "unknown_frame", 1008)]
    {
        let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
        client.send_bytes(Bytes::from_static(bytes)).await;
        let ended = client.ended().await;
        assert_eq!((ended.code(), ended.close_code()), (code, close));
    }
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    client.send_message(Message::Text("{}".into())).await;
    let ended = client.ended().await;
    assert_eq!((ended.code(), ended.close_code()), ("wrong_message_type", 1003));
    assert!(ended.message().contains("binary"), "{}", ended.message());
    let mut client = WireClient::connect(broker.address(), Encoding::Json).await;
    client.send_message(Message::Binary(Bytes::from_static(b"{}"))).await;
    assert_eq!(client.ended().await.code(), "wrong_message_type");
}

#[tokio::test]
async fn hello_comes_first_once_and_in_time() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("HANDSHAKE_TIMEOUT_MS", "200"), ("IDLE_TIMEOUT_MS", "400")]);
    let proto = Encoding::Proto.subprotocol();
    let mut client = WireClient::open(broker.address(), proto).await.unwrap();
    client.send(ClientFrame::Ping(wire::Ping { token: 1 })).await;
    assert_eq!(client.ended().await.code(), "hello_expected");
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    client.send(ClientFrame::Hello(wire::Hello::default())).await;
    assert_eq!(client.ended().await.code(), "hello_repeated");
    let mut client = WireClient::open(broker.address(), proto).await.unwrap();
    client.send(ClientFrame::Hello(wire::Hello { device: "my phone".into(), ..Default::default() })).await;
    assert_eq!(client.ended().await.code(), "invalid_argument");
    let mut silent = WireClient::open(broker.address(), proto).await.unwrap();
    assert_eq!(silent.ended().await.code(), "handshake_timeout");
    let mut idle = WireClient::connect(broker.address(), Encoding::Proto).await;
    assert_eq!(idle.ended().await.code(), "idle_timeout");
}

#[tokio::test]
async fn the_upgrade_names_what_is_spoken() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    for protocol in ["", "longwire.v2.proto", "mqtt"] {
        let refused = WireClient::open(broker.address(), protocol).await.err().unwrap();
        let tungstenite::Error::Http(response) = refused else { panic!("{refused}") };
        assert_eq!(response.status(), 400);
        let body = String::from_utf8(response.into_body().unwrap()).unwrap();
        assert!(body.contains("unsupported_protocol") && body.contains("longwire.v1.json"), "{body}");
    }
    let (status, body) = broker.get("/v1/connect");
    assert!(status == 400 && body.contains("Upgrade: websocket"), "{status} {body}");
    assert_eq!(broker.get("/healthz"), (200, "ok\n".into()));
    assert_eq!(broker.get("/readyz").0, 200);
    assert!(broker.get("/metrics").1.contains("longwire_sessions_live"));
}

#[tokio::test]
async fn pages_of_another_origin_may_not_connect() {
    use tungstenite::client::IntoClientRequest;
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    for (origin, allowed) in [
        ("http://evil.example".to_owned(), false),
        ("null".to_owned(), false),
        (format!("http://{}", broker.address()), true),
    ] {
        let mut request = format!("{}/v1/connect", broker.url()).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "longwire.v1.json".parse().unwrap());
        request.headers_mut().insert("origin", origin.parse().unwrap());
        match tokio_tungstenite::connect_async(request).await {
            Ok(_) => assert!(allowed, "{origin}"),
            Err(tungstenite::Error::Http(response)) => {
                assert!(!allowed && response.status() == 403, "{origin}")
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Every file below a folder, by its path.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(contents(&entry.path())),
            false => drop(found.insert(entry.path(), std::fs::read(entry.path()).unwrap())),
        }
    }
    found
}

#[test]
fn names_that_are_not_the_brokers_are_not_answered_to() {
    let (_folder, data) = folder();
    let settings = [("HOSTS", r#"["broker.example"]"#)];
    let broker = Broker::start_with(&data, &settings);
    let port = broker.address().port();
    for path in ["/", "/metrics", "/v1/connect"] {
        let (status, body) = broker.get_as(&format!("evil.example:{port}"), path);
        assert!(status == 403 && body.contains("origin_forbidden"), "{path}: {status} {body}");
    }
    for host in ["localhost", "broker.example"] {
        assert_eq!(broker.get_as(&format!("{host}:{port}"), "/").0, 200, "{host}");
    }
}

#[test]
fn the_command_line_says_what_keeps_it_from_serving() {
    let (folder, data) = folder();
    let broker = Broker::start(&data);
    let data = data.to_str().unwrap();
    let serve = |arguments: &[&str]| {
        let mut whole = vec!["serve"];
        whole.extend_from_slice(arguments);
        let output = longwire(&whole);
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let in_use = serve(&["--listen", "127.0.0.1:0", "--data", data]);
    assert!(in_use.contains("in use") && in_use.contains(data), "{in_use}");
    let other = folder.path().join("other");
    let port = serve(&["--listen", &broker.address().to_string(), "--data", other.to_str().unwrap()]);
    assert!(port.contains("cannot listen") && port.contains("--listen"), "{port}");
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let not_a_folder = serve(&["--listen", "127.0.0.1:0", "--data", file.to_str().unwrap()]);
    assert!(not_a_folder.contains(file.to_str().unwrap()), "{not_a_folder}");
    let unwritable = serve(&["--listen", "127.0.0.1:0", "--data", "/proc/longwire"]);
    assert!(unwritable.contains("/proc/longwire"), "{unwritable}");
    let config = folder.path().join("longwire.toml");
    std::fs::write(&config, "colour = 'red'\n").unwrap();
    let unknown = serve(&["--config", config.to_str().unwrap()]);
    assert!(unknown.contains("colour") && unknown.contains("heartbeat_ms"), "{unknown}");
    let mut variable = std::process::Command::new(crate::support::broker::LONGWIRE);
    let variable = variable.arg("serve").env("LONGWIRE_SERVE_COLOUR", "red").output().unwrap();
    let variable = String::from_utf8(variable.stderr).unwrap();
    assert!(variable.to_lowercase().contains("colour"), "{variable}");
    let open = serve(&["--listen", "0.0.0.0:0", "--data", other.to_str().unwrap()]);
    assert!(open.contains("--auth") && open.contains("127.0.0.1"), "{open}");
    assert_eq!(std::fs::read(&file).unwrap(), b"x");
    assert!(broker.terminate());
    // A folder of a newer version is refused, and left as it was.
    let format = Path::new(data).join("FORMAT");
    let newer = std::fs::read_to_string(&format).unwrap().replace("longwire-store 2", "longwire-store 3");
    std::fs::write(&format, newer).unwrap();
    let before = contents(Path::new(data));
    let refused = serve(&["--listen", "127.0.0.1:0", "--data", data]);
    assert!(refused.contains("format") && refused.contains('3'), "{refused}");
    assert!(before == contents(Path::new(data)), "the folder was touched");
}
