//! gRPC over the real binary: a client that was generated from `proto/`, and peers that break its rules.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use longwire::{Backoff, Client, ClientBuilder, Closed, From, TlsFailure};
use longwire_proto::limits::HELLO_BYTES_MAX;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame;
use prost::Message;

use crate::python::interpreter;
use crate::support::broker::{Broker, LONGWIRE, folder, hostile, wait_until};
use crate::support::certificates::{Authority, Time};
use crate::support::grpc_client::{Call, GrpcClient, client_frame, framed, hello};
use crate::support::proxy::Proxy;
use crate::support::quic_client::soon;
use crate::support::tokens::{AUTH, Tokens, token};

/// A hang is a failure; nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The interpreter, unless the store is a hostile one: a generated client repeats nothing by itself. The SDK does.
fn patient_interpreter() -> Option<String> {
    if hostile().is_some() {
        return None;
    }
    interpreter()
}

/// What the client is generated from.
fn protos() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/proto")
}

/// Generates the client, as anybody would.
fn generate(python: &str, stubs: &Path) {
    std::fs::create_dir_all(stubs).unwrap();
    let mut command = Command::new(python);
    command.args(["-m", "grpc_tools.protoc", "--proto_path"]).arg(protos());
    for option in ["--python_out", "--grpc_python_out"] {
        command.arg(format!("{option}={}", stubs.display()));
    }
    let output = command.args(["longwire/v1/longwire.proto", "longwire/v1/service.proto"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A part of the story that runs.
struct Story {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Story {
    fn start(
        python: &str,
        folder: &Path,
        address: &str,
        token: &str,
        ca: Option<&Path>,
        phase: &str,
    ) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/grpc_story.py");
        let mut command = Command::new(python);
        command.arg(script).arg(address).args(["--token", token, "--phase", phase]);
        command.arg("--stubs").arg(folder.join("stubs")).arg("--state").arg(folder.join("state.json"));
        if let Some(ca) = ca {
            command.arg("--ca").arg(ca);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn end(mut self) {
        assert_eq!(self.line(), "ok");
        assert!(self.child.wait().unwrap().success());
    }
}

fn whole_story(with_tls: bool) {
    let Some(python) = patient_interpreter() else { return };
    let (folder, data) = folder();
    generate(&python, &folder.path().join("stubs"));
    let authority = Authority::new(folder.path(), "story");
    let files = authority.issue("broker", &["localhost", "127.0.0.1"], Time::Valid);
    let (backups, ca) = (folder.path().join("backups"), authority.file());
    let mut settings = vec![AUTH, ("BACKUPS", backups.to_str().unwrap())];
    if with_tls {
        settings.extend(files.settings());
    }
    let ca = with_tls.then_some(ca.as_path());
    let token = token(&data, "py", &["**:read,publish,create,manage"]);
    let broker = Broker::start_with(&data, &settings);
    let mut story = Story::start(&python, folder.path(), &broker.address().to_string(), &token, ca, "begin");
    assert_eq!(story.line(), "kill");
    broker.kill();
    story.end();
    let broker = Broker::start_with(&data, &settings);
    Story::start(&python, folder.path(), &broker.address().to_string(), &token, ca, "resume").end();
    assert!(broker.terminate());
}

#[test]
fn a_generated_client_with_a_token_does_everything_over_tls_and_a_kill() {
    whole_story(true);
}

#[test]
fn a_generated_client_does_everything_in_plain_text() {
    whole_story(false);
}

/// The program that docs/protocol.md shows is one.
#[test]
fn the_documented_program_runs() {
    let Some(python) = patient_interpreter() else { return };
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("<!-- grpc example -->\n```python\n").unwrap();
    let (program, _) = rest.split_once("```").unwrap();
    let (folder, data) = folder();
    generate(&python, folder.path());
    std::fs::write(folder.path().join("program.py"), program).unwrap();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let token = tokens.token("py", &["demo/**:read,publish,create"]);
    let program = folder.path().join("program.py");
    let output =
        Command::new(python).arg(program).arg(broker.address().to_string()).arg(token).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.starts_with("0 False\n0 True\n['hello'] go on at "), "{said}");
}

// Numbers of gRPC.
const INVALID_ARGUMENT: u8 = 3;
const DEADLINE_EXCEEDED: u8 = 4;
const PERMISSION_DENIED: u8 = 7;
const RESOURCE_EXHAUSTED: u8 = 8;
const FAILED_PRECONDITION: u8 = 9;
const UNIMPLEMENTED: u8 = 12;
const UNAVAILABLE: u8 = 14;
const UNAUTHENTICATED: u8 = 16;

fn publish(session: &str, text: &str) -> wire::Publish {
    let body = Some(wire::record::Body::Text(text.to_owned()));
    let records = vec![wire::Record { body, ..Default::default() }];
    wire::Publish { session: session.to_owned(), records, ..Default::default() }
}

fn subscribe(session: &str) -> Vec<u8> {
    let from = Some(wire::From { from: Some(wire::from::From::Start(true)) });
    let subscription = wire::Subscription {
        subscription: 1,
        session: session.to_owned(),
        from,
        wait: true,
        ..Default::default()
    };
    wire::Subscribe { request: 1, subscriptions: vec![subscription] }.encode_to_vec()
}

async fn attach(client: &GrpcClient) -> Call {
    let mut call = client.begin("Attach").await;
    call.send(hello(), false);
    assert!(matches!(call.frame().await.unwrap(), Frame::Welcome(_)));
    call
}

/// That the broker serves, as if nothing had been.
async fn serves(broker: &Broker) {
    let client = GrpcClient::connect(broker.address()).await;
    let published = client.call("Publish", &publish("check", "x").encode_to_vec()).await.unwrap();
    let published = wire::Published::decode(published).unwrap();
    let read = wire::Read { session: "check".into(), ..Default::default() };
    let page = wire::Page::decode(client.call("Read", &read.encode_to_vec()).await.unwrap()).unwrap();
    assert_eq!(page.end, published.next);
}

/// Waits until there are so many connections.
fn connections(broker: &Broker, count: usize) {
    let wanted = format!("longwire_connections {count}");
    wait_until(&wanted, || broker.get("/metrics").1.lines().any(|line| line == wanted));
}

/// That nothing is left of those who were here.
fn forgets(broker: &Broker) {
    connections(broker, 0);
}

#[tokio::test]
async fn what_there_is_not_is_not_implemented() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let client = GrpcClient::connect(broker.address()).await;
    for path in ["/longwire.v1.SessionService/Connect", "/longwire.v2.SessionService/Publish", "/x/y", "/"] {
        // A path of the page's is no method of any service either.
        let metadata: &[_] = if path == "/" { &[("content-type", "application/grpc+proto")] } else { &[] };
        let mut call = client.begin_with(path, metadata).await;
        call.send(framed(b""), true);
        if path == "/" {
            assert_eq!(call.http_status().await, 405);
        } else {
            assert_eq!(call.status().await.number, UNIMPLEMENTED, "{path}");
            assert_eq!(call.http_status, 200);
        }
    }
    for (metadata, path, wanted) in [
        (("content-type", "application/grpc-web"), "/longwire.v1.SessionService/Publish", 400),
        (("content-type", "application/json"), "/longwire.v1.SessionService/Publish", 400),
        (("content-type", "text/plain"), "/nowhere", 404),
    ] {
        let mut call = client.begin_with(path, &[metadata]).await;
        call.send(framed(b""), true);
        assert_eq!(call.http_status().await, wanted, "{path}");
    }
    let (status, _) = broker.get("/longwire.v1.SessionService/Publish");
    assert_eq!(status, 400, "gRPC needs HTTP/2");
    serves(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_none_are_refused() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let client = GrpcClient::connect(broker.address()).await;
    let deep = vec![0x7b; 100_000];
    let nested = |depth: usize| {
        // A field that nobody knows, in itself, again and again.
        (0..depth).fold(Vec::new(), |inner: Vec<u8>, _| {
            let mut outer = vec![0x0a];
            prost::encoding::encode_varint(inner.len() as u64, &mut outer);
            [outer, inner].concat()
        })
    };
    let metadata = wire::Publish { session: "a".into(), ..Default::default() }.encode_to_vec();
    for message in
        [deep.clone(), [metadata, deep].concat(), vec![0xff; 100], nested(200), b"\x0a\x05a".to_vec()]
    {
        for method in ["Publish", "CreateSession", "DescribeSession", "ImportRecords", "Subscribe"] {
            let status = match client.call(method, &message).await {
                Err(status) => status,
                Ok(_) => panic!("{method} took what it cannot read"),
            };
            assert_eq!(status.number, INVALID_ARGUMENT, "{method}: {status:?}");
        }
    }
    // Nesting inside of a record, which the broker does not decode but looks through.
    let record = [&[0x7b; 1000][..], &[0x7c; 1000]].concat();
    let mut nested = wire::Publish { session: "a".into(), ..Default::default() }.encode_to_vec();
    nested.extend([0x1a]);
    prost::encoding::encode_varint(record.len() as u64, &mut nested);
    nested.extend(record);
    client.call("Publish", &nested).await.unwrap_err().is(INVALID_ARGUMENT, "invalid_record");

    for (bytes, number, code) in [
        // Lengths that are refused before anything comes.
        (vec![0, 0, 0x80, 0, 1], RESOURCE_EXHAUSTED, "frame_too_large"),
        (vec![0, 0xff, 0xff, 0xff, 0xff], RESOURCE_EXHAUSTED, "frame_too_large"),
        (vec![1, 0, 0, 0, 0], INVALID_ARGUMENT, "invalid_frame"),
    ] {
        let mut call = client.begin("Publish").await;
        call.send(bytes, false);
        call.status().await.is(number, code);
    }
    // One that is as long as it may be, and then is too long as a frame.
    let mut call = client.begin("Publish").await;
    call.send(framed(&vec![0; 8 << 20]), true);
    call.status().await.is(RESOURCE_EXHAUSTED, "frame_too_large");
    for whole in [vec![], vec![0, 0], vec![0, 0, 0, 0, 5, 1], [framed(b""), framed(b"")].concat()] {
        let mut call = client.begin("DescribeSession").await;
        call.send(whole, true);
        call.status().await.is(INVALID_ARGUMENT, "invalid_frame");
    }
    let path = "/longwire.v1.SessionService/Publish";
    let mut call = client.begin_with(path, &[("grpc-encoding", "gzip")]).await;
    assert_eq!(call.status().await.number, UNIMPLEMENTED);
    drop(client);
    serves(&broker).await;
    forgets(&broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_have_the_time_that_they_are_given() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let client = GrpcClient::connect(broker.address()).await;
    for method in ["Publish", "Subscribe", "Attach", "ListSessions"] {
        let path = format!("/longwire.v1.SessionService/{method}");
        for (timeout, number) in
            [("0n", DEADLINE_EXCEEDED), ("-1S", INVALID_ARGUMENT), ("soon", INVALID_ARGUMENT)]
        {
            let mut call = client.begin_with(&path, &[("grpc-timeout", timeout)]).await;
            call.send("", true);
            assert_eq!(call.status().await.number, number, "{method} {timeout}");
        }
        // Nothing is sent, so nothing can be answered.
        let mut call = client.begin_with(&path, &[("grpc-timeout", "20m")]).await;
        assert_eq!(call.status().await.number, DEADLINE_EXCEEDED, "{method}");
    }
    let path = "/longwire.v1.SessionService/Subscribe";
    let mut call = client.begin_with(path, &[("grpc-timeout", "50m")]).await;
    call.send(framed(&subscribe("quiet")), true);
    assert_eq!(call.status().await.number, DEADLINE_EXCEEDED);
    drop((call, client));
    serves(&broker).await;
    forgets(&broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_none_end_an_attach() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("HANDSHAKE_TIMEOUT_MS", "300")]);
    let client = GrpcClient::connect(broker.address()).await;
    let ping = client_frame(ClientFrame::Ping(wire::Ping::default()));
    for (bytes, number, code) in [
        (framed(b"\xff\xff\xff"), INVALID_ARGUMENT, "invalid_frame"),
        (framed(b""), INVALID_ARGUMENT, "unknown_frame"),
        (hello(), FAILED_PRECONDITION, "hello_repeated"),
        (bytes::Bytes::from_static(&[0, 0x7f, 0, 0, 0]), RESOURCE_EXHAUSTED, "frame_too_large"),
    ] {
        let mut call = attach(&client).await;
        call.send(bytes, false);
        let Frame::Goodbye(goodbye) = call.frame().await.unwrap() else { panic!("no goodbye") };
        assert_eq!(goodbye.error.unwrap().code, code);
        call.status().await.is(number, code);
    }
    // Before its hello.
    for (bytes, number, code) in [
        (ping, FAILED_PRECONDITION, "hello_expected"),
        (framed(b"\xff\xff\xff"), INVALID_ARGUMENT, "invalid_frame"),
        (framed(&vec![0; HELLO_BYTES_MAX + 1]), RESOURCE_EXHAUSTED, "frame_too_large"),
        (bytes::Bytes::new(), UNAVAILABLE, "handshake_timeout"),
    ] {
        let mut call = client.begin("Attach").await;
        call.send(bytes, false);
        call.status().await.is(number, code);
    }
    // Who ends its half has left.
    let mut call = attach(&client).await;
    call.send("", true);
    assert_eq!(call.status().await.number, 0);
    drop((call, client));
    serves(&broker).await;
    forgets(&broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_in_any_state_leaves_nothing() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let address = broker.address();
    for with_reset in [true, false] {
        for state in 0..8 {
            let client = GrpcClient::connect(address).await;
            let mut call = match state {
                0..3 => client.begin("Attach").await,
                3 | 4 => attach(&client).await,
                5 => client.begin("Subscribe").await,
                _ => client.begin("Publish").await,
            };
            match state {
                0 => {}
                1 => call.send(vec![0, 0, 0], false),
                2 => call.send(hello().slice(..6), false),
                3 => call.send(vec![0, 0, 0, 1, 0, 1], false),
                4 => call.send(client_frame(ClientFrame::Publish(publish("left", "x"))), false),
                5 => {
                    call.send(framed(&subscribe("left")), true);
                    assert!(matches!(call.frame().await.unwrap(), Frame::Subscribed(_)));
                }
                6 => call.send(framed(&publish("left", "x").encode_to_vec()), false),
                _ => call.send(vec![0, 0, 0, 1, 0, 1], false),
            }
            if with_reset {
                call.reset();
                assert!(client.call("ListSessions", b"").await.is_ok(), "other calls go on");
            }
        }
    }
    forgets(&broker);
    serves(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opens_and_resets_calls_hurts_nobody_else() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let other = GrpcClient::connect(broker.address()).await;
    let mut quiet = attach(&other).await;
    let client = GrpcClient::connect(broker.address()).await;
    for round in 0..3000 {
        let method = ["Attach", "Publish", "Subscribe"][round % 3];
        let path = format!("/longwire.v1.SessionService/{method}");
        // At some point the broker may have had enough of it.
        let Ok(mut call) = client.try_begin(&path, &[]).await else { break };
        call.send(hello(), false);
        call.reset();
    }
    drop(client);
    // Who is refused before its message was read, again and again, loses no call by that.
    let refused = GrpcClient::connect(broker.address()).await;
    for _ in 0..300 {
        let path = "/longwire.v1.SessionService/Publish";
        let mut call = refused.begin_with(path, &[("authorization", "none")]).await;
        call.send(framed(&vec![0; 50_000]), true);
        call.status().await.is(UNAUTHENTICATED, "unauthenticated");
    }
    refused.call("ListSessions", b"").await.unwrap();
    drop(refused);
    quiet.send(client_frame(ClientFrame::Ping(wire::Ping { token: 9 })), false);
    assert!(matches!(quiet.frame().await.unwrap(), Frame::Pong(pong) if pong.token == 9));
    drop((quiet, other));
    forgets(&broker);
    serves(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_wait_for_each_other_and_for_nobody_else() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[("HANDSHAKE_TIMEOUT_MS", "600000")]);
    let metrics = tokens.token("root", &["**:manage"]);
    let serves = |count: usize| {
        let wanted = format!("longwire_connections {count}");
        wait_until(&wanted, || broker.get_bearer(&metrics, "/metrics").1.lines().any(|line| line == wanted));
    };
    let client = GrpcClient::connect(broker.address()).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(client.begin("Attach").await);
        silent.last_mut().unwrap().send(vec![0, 0], false);
    }
    serves(4);
    let token = tokens.token("me", &["a/**:read"]);
    let mut waiting = client.begin("Attach").await;
    let hello = wire::Hello { token: token.clone(), ..Default::default() };
    waiting.send(client_frame(ClientFrame::Hello(hello)), false);
    // A call whose token is known waits for nobody, and one whose token is not is refused at once.
    let bearer = format!("Bearer {token}");
    let path = "/longwire.v1.SessionService/ListSessions";
    let mut call = client.begin_with(path, &[("authorization", &bearer)]).await;
    call.send(framed(b""), true);
    assert_eq!(call.status().await.number, 0);
    client.call("ListSessions", b"").await.unwrap_err().is(UNAUTHENTICATED, "unauthenticated");
    serves(4);
    silent.pop().unwrap().reset();
    assert!(matches!(waiting.frame().await.unwrap(), Frame::Welcome(_)));
}

#[tokio::test]
async fn a_socket_that_has_the_last_place_can_use_it_again() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("CONNECTIONS_MAX", "1")]);
    let client = GrpcClient::connect(broker.address()).await;
    for _ in 0..3 {
        // The place is free soon after the end of the call was heard, and until then there is none.
        let used_again = async {
            loop {
                let mut call = client.begin("Attach").await;
                call.send(hello(), false);
                match call.frame().await.unwrap() {
                    Frame::Welcome(_) => break call,
                    Frame::Goodbye(goodbye) => assert_eq!(goodbye.error.unwrap().code, "overloaded"),
                    other => panic!("{other:?}"),
                }
            }
        };
        let mut call = soon("the place is free", used_again).await;
        call.send("", true);
        assert_eq!(call.status().await.number, 0);
    }
}

#[tokio::test]
async fn a_stranger_whose_place_others_need_leaves_it() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("UNAUTHENTICATED_MAX", "2")]);
    let client = GrpcClient::connect(broker.address()).await;
    let mut call = client.begin("Attach").await;
    call.send(vec![0, 0], false);
    assert_eq!(call.http_status().await, 200);
    let attached = GrpcClient::connect(broker.address()).await;
    let mut stays = attach(&attached).await;
    let others: Vec<_> = (0..2).map(|_| std::net::TcpStream::connect(broker.address()).unwrap()).collect();
    // It has little time to hear that.
    if let Some(status) = call.status_or_cut().await {
        status.is(UNAVAILABLE, "overloaded");
    }
    stays.send(client_frame(ClientFrame::Ping(wire::Ping::default())), false);
    assert!(matches!(stays.frame().await.unwrap(), Frame::Pong(_)));
    drop(others);
}

#[tokio::test]
async fn calls_count_among_the_connections_of_whom_they_are() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[("LIMITS_PRINCIPAL_CONNECTIONS", "1")]);
    let token = tokens.token("me", &["a/**:read"]);
    let bearer = format!("Bearer {token}");
    let client = GrpcClient::connect(broker.address()).await;
    let mut attached = client.begin("Attach").await;
    let hello = wire::Hello { token, ..Default::default() };
    attached.send(client_frame(ClientFrame::Hello(hello)), false);
    assert!(matches!(attached.frame().await.unwrap(), Frame::Welcome(_)));
    let path = "/longwire.v1.SessionService/ListSessions";
    let mut call = client.begin_with(path, &[("authorization", &bearer)]).await;
    call.send(framed(b""), true);
    call.status().await.is(RESOURCE_EXHAUSTED, "too_many_connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_has_the_place_of_a_connection() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("CONNECTIONS_MAX", "2")]);
    let client = GrpcClient::connect(broker.address()).await;
    let first = attach(&client).await;
    let second = attach(&client).await;
    let mut third = client.begin("Attach").await;
    third.send(hello(), false);
    third.status().await.is(UNAVAILABLE, "overloaded");
    client.call("ListSessions", b"").await.unwrap_err().is(UNAVAILABLE, "overloaded");
    drop(second);
    connections(&broker, 1);
    // The place is left a moment after the connection.
    let again = async {
        while let Err(status) = client.call("ListSessions", b"").await {
            status.is(UNAVAILABLE, "overloaded");
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("the place is kept");
    drop(first);
}

#[tokio::test]
async fn pages_and_other_hosts_are_refused() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let client = GrpcClient::connect(broker.address()).await;
    for (name, value) in [("origin", "https://evil.example"), (":authority", "evil.example")] {
        for path in ["/longwire.v1.SessionService/ListSessions", "/longwire.v1.SessionService/Attach"] {
            let mut call = client.begin_with(path, &[(name, value)]).await;
            call.send("", true);
            call.status().await.is(PERMISSION_DENIED, "origin_forbidden");
        }
    }
}

#[tokio::test]
async fn a_broker_that_stops_tells_every_call_when_to_come_back() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("RECONNECT_AFTER_MS", "1234")]);
    let client = GrpcClient::connect(broker.address()).await;
    let mut attached = attach(&client).await;
    let mut following = client.begin("Subscribe").await;
    following.send(framed(&subscribe("a")), true);
    assert!(matches!(following.frame().await.unwrap(), Frame::Subscribed(_)));
    let mut health = client.begin_with("/grpc.health.v1.Health/Watch", &[]).await;
    health.send(framed(b""), true);
    assert_eq!(health.next().await.unwrap(), &b"\x08\x01"[..], "serving");
    broker.ask_to_stop();
    assert_eq!(health.next().await.unwrap(), &b"\x08\x02"[..], "not serving");
    let Frame::Goodbye(goodbye) = attached.frame().await.unwrap() else { panic!("no goodbye") };
    assert_eq!(goodbye.reconnect_after_ms, 1234);
    for call in [&mut attached, &mut following] {
        let status = call.status().await;
        status.is(UNAVAILABLE, "draining");
        assert_eq!(status.pushback_ms, Some(1234));
    }
    assert!(broker.wait());
}

#[tokio::test]
async fn who_does_not_read_is_cut_off_and_loses_nothing() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("IDLE_TIMEOUT_MS", "500"), ("HEARTBEAT_MS", "100")]);
    let writer = GrpcClient::connect(broker.address()).await;
    let text = "x".repeat(200_000);
    for _ in 0..20 {
        writer.call("Publish", &publish("much", &text).encode_to_vec()).await.unwrap();
    }
    let client = GrpcClient::connect(broker.address()).await;
    let mut call = client.begin("Subscribe").await;
    call.send(framed(&subscribe("much")), true);
    call.cut_off().await;
    // Who reads stays, for as long as it likes, although it sends nothing.
    let reader = GrpcClient::connect(broker.address()).await;
    let mut call = reader.begin("Subscribe").await;
    call.send(framed(&subscribe("much")), true);
    let (mut records, mut heartbeats) = (0, 0);
    while records < 20 || heartbeats < 12 {
        match call.frame().await.unwrap() {
            Frame::Delivery(delivery) => records += delivery.records.len(),
            Frame::Heartbeat(_) => heartbeats += 1,
            _ => {}
        }
    }
}

fn sdk(builder: ClientBuilder) -> Client {
    let (client, driver) = builder.build().unwrap();
    drop(tokio::spawn(driver));
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_goes_on_over_cuts_and_kills() {
    const RECORDS: u64 = 300;
    let (_folder, data) = folder();
    let mut broker = Broker::start(&data);
    // Cut anywhere: in the preface, in headers, in messages; later and later, so that it comes to an end.
    let plan = |connection: u64| (connection < 100).then_some((60 + 47 * connection, 60 + 101 * connection));
    let proxy = Proxy::start_with(broker.address(), Arc::new(plan)).await;
    let backoff = Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(5) };
    let client = sdk(Client::builder().url(format!("grpc://{}", proxy.address())).backoff(backoff));
    let session = client.session("acme/cut").unwrap();
    session.publish("0").await.unwrap();
    let mut records = session.subscribe(From::Start).await.unwrap();
    let mut sent = Vec::new();
    for number in 1..RECORDS {
        sent.push(session.enqueue(number.to_string()).await.unwrap());
        if number == RECORDS / 2 {
            broker.kill();
            broker = Broker::start(&data);
            proxy.set_upstream(Some(broker.address()));
        }
    }
    for offset in 0..RECORDS {
        let record = tokio::time::timeout(PATIENCE, records.next()).await;
        let record = record.unwrap_or_else(|_| panic!("{offset} is due: {:?}", client.state().borrow()));
        let record = record.unwrap().unwrap();
        assert_eq!((record.offset, record.text()), (offset, Some(offset.to_string().as_str())));
    }
    for sent in sent {
        sent.await.unwrap();
    }
    client.shutdown().await.unwrap();
    assert!(broker.terminate());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_large_passes_both_ways() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("TLS_DEVELOPMENT", "true")]);
    let url = format!("grpcs://{}", broker.address());
    let client = sdk(Client::builder().url(url).fingerprint(broker.fingerprint()));
    let session = client.session("acme/large").unwrap();
    let text = |number: usize| number.to_string().repeat(900_000);
    for number in 0..8 {
        session.publish(text(number)).await.unwrap();
    }
    let mut records = session.subscribe(From::Start).await.unwrap();
    for number in 0..8 {
        let record = tokio::time::timeout(PATIENCE, records.next()).await.unwrap().unwrap().unwrap();
        assert!(record.text() == Some(&text(number)), "record {number}");
    }
    client.shutdown().await.unwrap();
    assert!(broker.terminate());
}

fn longwire(url: &str, tls: &[&str], arguments: &[&str]) -> String {
    let output = Command::new(LONGWIRE)
        .args(["--url", url])
        .args(tls)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{url} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_command_line_shows_the_same_by_grpc_as_by_websocket() {
    for settings in [&[][..], &[("TLS_DEVELOPMENT", "true")]] {
        let (_folder, data) = folder();
        let broker = Broker::start_with(&data, settings);
        let (tls, scheme) = match settings {
            [] => (vec![], "grpc"),
            _ => (vec!["--fingerprint", broker.fingerprint()], "grpcs"),
        };
        let grpc = format!("{scheme}://{}", broker.address());
        for text in ["one", "two", "three"] {
            longwire(&grpc, &tls, &["pub", "acme/told", text]);
        }
        longwire(&grpc, &tls, &["session", "close", "acme/told"]);
        let tail = |url: &str| longwire(url, &tls, &["tail", "acme/told", "--from", "start", "--raw"]);
        let told = tail(&grpc);
        assert_eq!(told.lines().count(), 3, "{told}");
        assert_eq!(told, tail(&broker.url()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_wrong_ends_the_sdk() {
    let (folder, data) = folder();
    let authority = Authority::new(folder.path(), "clients");
    let ca = authority.file();
    let settings = [("TLS_DEVELOPMENT", "true"), ("TLS_CLIENT_CA", ca.to_str().unwrap())];
    let broker = Broker::start_with(&data, &settings);
    let to = || Client::builder().url(format!("grpcs://{}", broker.address()));
    let failure = async |builder: ClientBuilder| {
        let closed =
            tokio::time::timeout(PATIENCE, sdk(builder).connected()).await.expect("it goes on trying");
        match closed.unwrap_err() {
            Closed::Tls { failure, .. } => failure,
            other => panic!("{other}"),
        }
    };
    let wrong = failure(to().fingerprint("00".repeat(32))).await;
    assert!(matches!(wrong, TlsFailure::Fingerprint { .. }), "{wrong:?}");
    let nobody = failure(to().fingerprint(broker.fingerprint())).await;
    assert!(matches!(nobody, TlsFailure::ClientCertificate(_)), "{nobody:?}");
    let mine = authority.issue("mine", &["client"], Time::Valid);
    let known = sdk(to().fingerprint(broker.fingerprint()).client_certificate(mine.certificate, mine.key));
    tokio::time::timeout(PATIENCE, known.connected()).await.unwrap().unwrap();
    known.shutdown().await.unwrap();
}
