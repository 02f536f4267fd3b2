//! QUIC: the same as WebSocket, on streams that do not hold each other up, from addresses that change.

mod attacks;
mod early;
mod narrowing;
mod networks;
mod states;

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use longwire::{Client, ClientBuilder, Closed, From, TlsFailure};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use quinn::{ConnectionError, Endpoint, ReadError, VarInt};
use rustls::version::TLS13;

use crate::support::broker::{Broker, LONGWIRE, folder};
use crate::support::certificates::{Authority, Time};
use crate::support::quic_client::{QuicClient, connect, quic_config, soon};
use crate::support::raw_quic::{Heard, RawQuic, framed, hello, stream};
use crate::support::rng::Rng;
use crate::support::tls_client;
use crate::support::tokens::{AUTH, Tokens};
use crate::support::udp_relay::UdpRelay;

const TLS: (&str, &str) = ("TLS_DEVELOPMENT", "true");
/// A client sees soon that a broker that was killed is silent: nothing tells it.
const LIVELY: (&str, &str) = ("HEARTBEAT_MS", "300");
/// Alerts of TLS are errors of QUIC from here on; this one is `no_application_protocol`.
const NO_PROTOCOL: u64 = 0x100 + 120;

fn client(builder: ClientBuilder) -> Client {
    let (client, driver) = builder.build().unwrap();
    drop(tokio::spawn(driver));
    client
}

fn quic(broker: &Broker) -> String {
    format!("quic://{}", broker.address())
}

fn by(url: &str, broker: &Broker) -> Client {
    client(Client::builder().url(url).fingerprint(broker.fingerprint()))
}

async fn metric(address: SocketAddr, name: &str) -> u64 {
    metric_as(address, "", name).await
}

/// The same, of a broker that asks for tokens.
async fn metric_as(address: SocketAddr, token: &str, name: &str) -> u64 {
    let headers = format!("authorization: Bearer {token}\r\n");
    let (status, text) =
        tls_client::get(address, "/metrics", if token.is_empty() { "" } else { &headers }).await;
    assert_eq!(status, 200, "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
}

/// Waits until a metric is as it is to be.
async fn metric_is(address: SocketAddr, token: &str, name: &str, is: impl Fn(u64) -> bool) {
    soon(name, async { while !is(metric_as(address, token, name).await) {} }).await;
}

async fn why_not(builder: ClientBuilder) -> TlsFailure {
    match soon("it does not go on trying", client(builder).connected()).await.unwrap_err() {
        Closed::Tls { failure, .. } => failure,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_go_on_over_kills() {
    const ROUNDS: u64 = 3;
    let (_folder, data) = folder();
    let mut broker = Broker::start_with(&data, &[TLS, LIVELY]);
    let relay = UdpRelay::start(broker.address()).await;
    let client = by(&relay.url(), &broker);
    let session = client.session("acme/quic").unwrap();
    session.publish("0").await.unwrap();
    let mut records = session.subscribe(From::Start).await.unwrap();
    for round in 0..ROUNDS {
        if round > 0 {
            broker.kill();
            let sent = session.enqueue(round.to_string()).await.unwrap();
            broker = Broker::start_with(&data, &[TLS, LIVELY]);
            relay.set_upstream(broker.address());
            soon("it is acknowledged", sent).await.unwrap();
        }
        let record = soon("it is delivered", records.next()).await.unwrap().unwrap();
        assert_eq!((record.offset, record.text()), (round, Some(round.to_string().as_str())));
    }
    client.shutdown().await.unwrap();
    assert!(broker.terminate());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_was_killed_ends_the_connections_of_its_last_life() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let relay = UdpRelay::start(broker.address()).await;
    let mut client = QuicClient::connect(relay.address()).await;
    broker.kill();
    let broker = Broker::start_with(&data, &[TLS]);
    relay.set_upstream(broker.address());
    client.send(ClientFrame::Ping(wire::Ping { token: 1 })).await;
    let ended = soon("it ends", client.connection.closed()).await;
    assert_eq!(ended, ConnectionError::Reset);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_address_changes_goes_on_and_misses_nothing() {
    const RECORDS: u64 = 500;
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let relay = UdpRelay::start(broker.address()).await;
    let reader = by(&relay.url(), &broker);
    let session = reader.session("acme/move").unwrap();
    session.publish("0").await.unwrap();
    let mut records = session.subscribe(From::Start).await.unwrap();
    let writer = by(&broker.url(), &broker);
    let writing = tokio::spawn(async move {
        let session = writer.session("acme/move").unwrap();
        for number in 1..RECORDS {
            session.publish(number.to_string()).await.unwrap();
        }
    });
    for offset in 0..RECORDS {
        // Three times, in the middle of what is under way.
        if offset % (RECORDS / 4) == RECORDS / 8 {
            relay.rebind();
        }
        let record = soon("it is delivered", records.next()).await.unwrap().unwrap();
        assert_eq!((record.offset, record.text()), (offset, Some(offset.to_string().as_str())));
    }
    writing.await.unwrap();
    session.publish("both ways").await.unwrap();
    assert_eq!(
        metric(broker.address(), "longwire_quic_handshakes_total").await,
        1,
        "it never connected again"
    );
    reader.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_bound_anew_keeps_its_streams() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let mut reader = QuicClient::connect(broker.address()).await;
    let mut stream = reader.subscribe(1, 1, "s").await;
    let session = by(&broker.url(), &broker).session("s").unwrap();
    for offset in 0..20 {
        if offset % 5 == 0 {
            reader.endpoint.rebind(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
            reader.ping(offset).await;
        }
        session.publish("x").await.unwrap();
        assert_eq!(stream.delivery().await.from, offset);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_read_holds_up_nothing_else() {
    const FLOOD: u64 = 200;
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let mut reader = QuicClient::connect(broker.address()).await;
    let mut unread = reader.subscribe(1, 1, "flood").await;
    let mut read = reader.subscribe(2, 2, "calm").await;
    let writer = by(&broker.url(), &broker);
    let (flood, calm) = (writer.session("flood").unwrap(), writer.session("calm").unwrap());
    let body = "x".repeat(100_000);
    for offset in 0..FLOOD {
        flood.publish(body.clone()).await.unwrap();
        if offset % 20 == 0 {
            calm.publish(offset.to_string()).await.unwrap();
            let delivery = read.delivery().await;
            assert_eq!((delivery.subscription, delivery.from), (2, offset / 20));
            reader.ping(offset).await;
        }
    }
    let mut next = 0;
    while next < FLOOD {
        let delivery = unread.delivery().await;
        assert_eq!((delivery.subscription, delivery.from), (1, next));
        next = delivery.next;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_is_registered_again_gets_a_stream_of_its_own() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let session = by(&broker.url(), &broker).session("s").unwrap();
    session.publish("0").await.unwrap();
    let mut reader = QuicClient::connect(broker.address()).await;
    let mut first = reader.subscribe(1, 7, "s").await;
    assert_eq!(first.delivery().await.next, 1);
    let mut second = reader.subscribe(2, 7, "s").await;
    assert_eq!(first.try_next().await, Err(ReadError::Reset(VarInt::from_u32(0))));
    assert_eq!(second.delivery().await.from, 0);
    reader.send(ClientFrame::Unsubscribe(wire::Unsubscribe { request: 3, subscription: 7 })).await;
    assert!(matches!(reader.control.next().await, ServerFrame::Done(done) if done.request == 3));
    assert_eq!(second.try_next().await, Err(ReadError::Reset(VarInt::from_u32(0))));
    let mut third = reader.subscribe(4, 7, "s").await;
    assert_eq!(third.delivery().await.from, 0);
    // Who wants no more of a stream can say that to QUIC alone.
    third.stream.stop(VarInt::from_u32(0)).unwrap();
    session.publish("1").await.unwrap();
    reader.ping(1).await;
    let mut fourth = reader.subscribe(5, 7, "s").await;
    assert_eq!(fourth.delivery().await.from, 0);
    session.close("over").await.unwrap();
    let ended = loop {
        match fourth.next().await {
            ServerFrame::Delivery(_) => {}
            ServerFrame::SubscriptionEnded(ended) => break ended,
            other => panic!("{other:?} is on the stream of a subscription"),
        }
    };
    assert_eq!((ended.subscription, ended.error.unwrap().code.as_str()), (7, "session_closed"));
    assert_eq!(fourth.try_next().await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_token_narrows_and_a_revoked_one_ends() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[TLS]);
    let admin = tokens.token("root", &["**:read,publish,create,manage"]);
    let mut boss = QuicClient::connect_as(broker.address(), &admin).await;
    let wide = tokens.token("ada", &["a/**:read", "b/**:read"]);
    let mut reader = QuicClient::connect_as(broker.address(), &wide).await;
    let (mut kept, mut lost) = (reader.subscribe(1, 1, "a/1").await, reader.subscribe(2, 2, "b/1").await);
    let narrow = tokens.token("ada", &["a/**:read"]);
    reader.send(ClientFrame::Authenticate(wire::Authenticate { request: 3, token: narrow.clone() })).await;
    match reader.control.next().await {
        ServerFrame::SubscriptionEnded(ended) => {
            assert_eq!((ended.subscription, ended.error.unwrap().code.as_str()), (2, "session_not_found"));
        }
        other => panic!("{other:?} came instead of the end"),
    }
    assert_eq!(lost.try_next().await, Err(ReadError::Reset(VarInt::from_u32(0))));
    assert!(matches!(reader.control.next().await, ServerFrame::Authenticated(answer) if answer.request == 3));
    let create = |session: &str| {
        ClientFrame::CreateSession(wire::CreateSession {
            request: 1,
            session: session.into(),
            ..Default::default()
        })
    };
    boss.send(create("a/1")).await;
    assert_eq!(kept.delivery().await.from, 0);
    let revoke = wire::RevokeToken { request: 9, token: narrow.clone(), id: String::new() };
    boss.send(ClientFrame::RevokeToken(revoke)).await;
    let (code, close, reason) = reader.ended().await;
    assert_eq!((code.as_str(), close), ("token_revoked", 1008));
    assert!(reason.starts_with("token_revoked: "), "{reason}");
    let mut again = QuicClient::open(broker.address()).await;
    again.send(ClientFrame::Hello(wire::Hello { token: narrow, ..Default::default() })).await;
    assert_eq!(again.ended().await.0, "token_revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_and_another_certificate_are_refused_and_it_is_said_why() {
    let (folder, data) = folder();
    let authority = Authority::new(folder.path(), "ca");
    let stranger = Authority::new(folder.path(), "stranger");
    let files = authority.issue("broker", &["127.0.0.1"], Time::Valid);
    let broker = Broker::start_with(&data, &files.settings());
    match connect(broker.address(), "h3").await.err().unwrap() {
        ConnectionError::ConnectionClosed(close) => assert_eq!(u64::from(close.error_code), NO_PROTOCOL),
        other => panic!("{other:?}"),
    }
    let to = || Client::builder().url(quic(&broker));
    let trusting = client(to().ca_file(authority.file()));
    soon("it connects", trusting.connected()).await.unwrap();
    trusting.close().await.unwrap();
    assert_eq!(why_not(to().ca_file(stranger.file())).await, TlsFailure::UnknownAuthority);
    assert!(matches!(why_not(to().fingerprint("00".repeat(32))).await, TlsFailure::Fingerprint { .. }));
    let elsewhere = authority.issue("elsewhere", &["broker.example"], Time::Valid);
    let (_other_folder, other_data) = crate::support::broker::folder();
    let other = Broker::start_with(&other_data, &elsewhere.settings());
    let named = Client::builder().url(quic(&other)).ca_file(authority.file());
    assert!(matches!(why_not(named).await, TlsFailure::WrongName { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_tls_is_resumed_and_a_client_certificate_is_asked_for_each_time() {
    let (folder, data) = folder();
    let authority = Authority::new(folder.path(), "ca");
    let files = authority.issue("broker", &["127.0.0.1"], Time::Valid);
    let own = authority.issue("client", &["client"], Time::Valid);
    let broker = Broker::start_with(&data, &files.settings());
    let (config, shown) = tls_client::counting(&[&TLS13], &["longwire/1"]);
    let (config, endpoint) = (quic_config(config), Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap());
    for _ in 0..3 {
        let connecting = endpoint.connect_with(config.clone(), broker.address(), "localhost").unwrap();
        let connection = soon("it connects", connecting).await.unwrap();
        // The answer comes behind what a session is resumed with.
        QuicClient::over(endpoint.clone(), connection).await.greet("").await.ping(1).await;
    }
    assert_eq!(shown.load(Ordering::SeqCst), 1);
    drop(broker);
    let (ca, [certificate, key]) = (authority.file(), files.settings());
    let asks = [certificate, key, ("TLS_CLIENT_CA", ca.to_str().unwrap())];
    let broker = Broker::start_with(&data, &asks);
    let to = || Client::builder().url(quic(&broker)).ca_file(authority.file());
    let known = client(to().client_certificate(&own.certificate, &own.key));
    soon("it connects", known.connected()).await.unwrap();
    known.close().await.unwrap();
    assert!(matches!(why_not(to()).await, TlsFailure::ClientCertificate(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_was_replaced_is_served_to_who_comes_then() {
    let (folder, data) = folder();
    let authority = Authority::new(folder.path(), "ca");
    let files = authority.issue("broker", &["127.0.0.1"], Time::Valid);
    let broker = Broker::start_with(&data, &files.settings());
    let before = by(&quic(&broker), &broker);
    before.session("s").unwrap().publish("before").await.unwrap();
    authority.issue("broker", &["127.0.0.1"], Time::Valid);
    let mut now = broker.fingerprint().to_owned();
    while now == broker.fingerprint() {
        now = tls_client::shown(broker.address()).await;
    }
    let newer = client(Client::builder().url(quic(&broker)).fingerprint(&now));
    newer.session("s").unwrap().publish("after").await.unwrap();
    before.session("s").unwrap().publish("still").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_no_hello_in_time_and_within_its_bytes_is_sent_away() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS, ("HANDSHAKE_TIMEOUT_MS", "500")]);
    let ping = ClientFrame::Ping(wire::Ping { token: 1 });
    let mut early = QuicClient::open(broker.address()).await;
    early.send(ping).await;
    assert_eq!(early.ended().await.0, "hello_expected");
    let mut long = QuicClient::open(broker.address()).await;
    long.send.write_all(&[0, 1, 0, 0]).await.unwrap();
    let (code, close, _) = long.ended().await;
    assert_eq!((code.as_str(), close), ("frame_too_large", 1009));
    let mut silent = QuicClient::open(broker.address()).await;
    silent.send.write_all(&[0]).await.unwrap();
    assert_eq!(silent.ended().await.0, "handshake_timeout");
    // One without a control stream is told the only way there is.
    loop {
        let (_endpoint, connection) = connect(broker.address(), "longwire/1").await.unwrap();
        match soon("it ends", connection.closed()).await {
            ConnectionError::ApplicationClosed(close) => {
                assert!(close.reason.starts_with(b"handshake_timeout"));
                break;
            }
            // The packet that said so was lost, and is not sent again once the connection is forgotten (RFC 9000, section 10.2).
            ConnectionError::Reset => {}
            other => panic!("{other:?}"),
        }
    }
    let mut polite = QuicClient::connect(broker.address()).await;
    assert!(polite.connection.open_bi().now_or_never().is_none(), "there is one stream for control");
    assert!(polite.connection.open_uni().now_or_never().is_none(), "and no other");
    polite.send.reset(VarInt::from_u32(1)).unwrap();
    let ended = soon("it ends", polite.connection.closed()).await;
    assert!(matches!(ended, ConnectionError::ApplicationClosed(_)), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_that_are_none_change_nothing() {
    const PACKETS: usize = 2000;
    let mut rng = Rng::from_env(5);
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let mut client = QuicClient::connect(broker.address()).await;
    let noise = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..PACKETS {
        let length = 1 + rng.below(1400) as usize;
        let mut packet: Vec<u8> = (0..length).map(|_| rng.below(256) as u8).collect();
        // Half of them look like the beginning of a connection: a long header, and version 1.
        if number % 2 == 0 && length > 5 {
            packet[..5].copy_from_slice(&[0xc0, 0, 0, 0, 1]);
        }
        noise.send_to(&packet, broker.address()).unwrap();
    }
    // And such as are nearly right: beginnings, and packets of a connection that lives.
    let mut raw = RawQuic::greet(broker.address(), 6).await;
    let first = RawQuic::new(broker.address(), 7).await.first;
    let handshakes = metric(broker.address(), "longwire_quic_handshakes_total").await;
    for number in 0..PACKETS {
        let mut packet = if number % 2 == 0 { first.clone() } else { raw.send(&[0x01; 64]).await };
        let at = rng.below(packet.len() as u64) as usize;
        packet[at] ^= 1 << rng.below(8);
        raw.throw(&packet).await;
        if number % 64 == 0 {
            raw.receive().await;
        }
    }
    client.ping(1).await;
    let ping = stream(0, hello().len() as u64, &framed(ClientFrame::Ping(wire::Ping { token: 1 })), false);
    raw.say(&ping, |heard| matches!(heard, Heard::Stream { id: 0, offset: 1.., .. })).await;
    metric_is(broker.address(), "", "longwire_sockets_waiting", |now| now <= 1).await;
    assert_eq!(metric(broker.address(), "longwire_quic_handshakes_total").await, handshakes);
    assert_eq!(metric(broker.address(), "longwire_connections").await, 2);
    QuicClient::connect(broker.address()).await.ping(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_crowd_who_comes_proves_its_address_first() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS, ("UNAUTHENTICATED_MAX", "4")]);
    let waiting = TcpStream::connect(broker.address()).unwrap();
    // The broker has a place for it only when it has accepted it.
    let asked = async {
        while metric(broker.address(), "longwire_quic_retries_total").await == 0 {
            QuicClient::connect(broker.address()).await.ping(1).await;
        }
    };
    soon("somebody is asked for a proof", asked).await;
    drop(waiting);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_shuts_down_says_goodbye() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let mut client = QuicClient::connect(broker.address()).await;
    let _stream = client.subscribe(1, 1, "s").await;
    broker.ask_to_stop();
    let (code, close, _) = client.ended().await;
    assert_eq!((code.as_str(), close), ("draining", 1012));
    assert!(broker.wait());
}

fn tail(url: &str, fingerprint: &str, token: &Path) -> String {
    let mut command = Command::new(LONGWIRE);
    command.env("LONGWIRE_URL", url).env("LONGWIRE_FINGERPRINT", fingerprint);
    command.arg("--token-file").arg(token).args(["tail", "acme/told", "--from", "start", "--raw"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_the_same_by_quic_as_by_websocket() {
    let (folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[TLS]);
    assert_eq!(AUTH.1, "true");
    let token = tokens.token("ada", &["acme/**:read,publish,create,manage"]);
    let file = folder.path().join("token");
    std::fs::write(&file, &token).unwrap();
    let writer = client(Client::builder().url(quic(&broker)).fingerprint(broker.fingerprint()).token(&token));
    let session = writer.session("acme/told").unwrap();
    for number in 0..300 {
        drop(session.enqueue(format!("line {number}")).await.unwrap());
    }
    session.publish("the last").await.unwrap();
    session.close("over").await.unwrap();
    writer.shutdown().await.unwrap();
    let by_quic = tail(&quic(&broker), broker.fingerprint(), &file);
    assert_eq!(by_quic.lines().count(), 301, "{by_quic}");
    assert_eq!(by_quic, tail(&broker.url(), broker.fingerprint(), &file));
}
