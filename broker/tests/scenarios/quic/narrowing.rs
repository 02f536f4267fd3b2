//! What somebody may read no more does not go out, whatever was on its way.

use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use quinn::{ReadError, TransportConfig, VarInt};

use super::{TLS, metric_as, metric_is};
use crate::support::broker::{Broker, folder};
use crate::support::quic_client::{Frames, QuicClient};
use crate::support::tokens::Tokens;
use crate::support::udp_relay::{UdpRelay, Weather};
use crate::support::wire_client::record;

fn publish(request: u64, session: &str, bytes: usize) -> ClientFrame {
    let record = record(&"x".repeat(bytes));
    ClientFrame::Publish(wire::Publish {
        request,
        session: session.into(),
        records: vec![record],
        ..Default::default()
    })
}

async fn published(client: &mut QuicClient, request: u64, session: &str, bytes: usize) {
    client.send(publish(request, session, bytes)).await;
    match client.control.next().await {
        ServerFrame::Published(published) => assert_eq!(published.request, request),
        other => panic!("{other:?} came instead of an ack"),
    }
}

/// Waits until the broker has read this from a session.
async fn delivered(broker: &Broker, token: &str, deliveries: u64) {
    metric_is(broker.address(), token, "longwire_deliveries_total", |now| now >= deliveries).await;
}

/// The stream ends with a reset, and nothing comes before it.
async fn nothing_comes(mut stream: Frames) {
    assert_eq!(stream.try_next().await.unwrap_err(), ReadError::Reset(VarInt::from_u32(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_token_takes_away_is_taken_back_from_its_streams() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[TLS]);
    let admin = tokens.token("root", &["**:read,publish,create,manage"]);
    let mut boss = QuicClient::connect_as(broker.address(), &admin).await;
    for request in 0..10 {
        published(&mut boss, request, "b/live", 10_000).await;
    }
    published(&mut boss, 10, "b/over", 100).await;
    let close = wire::CloseSession { request: 11, session: "b/over".into(), ..Default::default() };
    boss.send(ClientFrame::CloseSession(close)).await;
    assert!(matches!(boss.control.next().await, ServerFrame::SessionDescription(_)));
    let wide = tokens.token("ada", &["a/**:read,publish,create", "b/**:read"]);
    let relay = UdpRelay::start(broker.address()).await;
    let mut reader = QuicClient::connect_as(relay.address(), &wide).await;
    // Everything that the broker sends from here on is on its way until the client hears again.
    relay.set_weather(Weather { deaf: true, ..Default::default() });
    let before = metric_as(broker.address(), &admin, "longwire_deliveries_total").await;
    reader.ask(1, 1, "b/over").await;
    delivered(&broker, &admin, before + 1).await;
    reader.ask(2, 2, "b/live").await;
    delivered(&broker, &admin, before + 2).await;
    let narrow = tokens.token("ada", &["a/**:read,publish,create"]);
    reader.send(ClientFrame::Authenticate(wire::Authenticate { request: 3, token: narrow })).await;
    // It is handled behind the token, and shows to others that it was.
    reader.send(publish(4, "a/shown", 1)).await;
    let mut shown = boss.subscribe(12, 1, "a/shown").await;
    assert_eq!(shown.delivery().await.next, 1);
    relay.set_weather(Weather::default());
    let mut ended = Vec::new();
    loop {
        match reader.control.next().await {
            ServerFrame::SubscriptionEnded(one) => {
                assert_eq!(one.error.unwrap().code, "session_not_found");
                ended.push(one.subscription);
            }
            ServerFrame::Authenticated(answer) => break assert_eq!(answer.request, 3),
            other => panic!("{other:?} came instead of what ended"),
        }
    }
    ended.sort_unstable();
    assert_eq!(ended, [1, 2]);
    assert!(matches!(reader.control.next().await, ServerFrame::Published(_)));
    for _ in 0..2 {
        nothing_comes(reader.accept().await).await;
    }
    // The numbers and their streams are free again.
    let mut again = reader.subscribe(5, 2, "a/shown").await;
    assert_eq!(again.delivery().await.next, 1);
}

const STREAMS: u32 = 8;

/// Revokes the token of a client that does not read, once so much is on its way to it.
async fn revoke_who_does_not_read(transport: TransportConfig, deliveries: u64) -> (String, u64, String) {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[TLS]);
    let admin = tokens.token("root", &["**:read,publish,create,manage"]);
    let mut boss = QuicClient::connect_as(broker.address(), &admin).await;
    for request in 0..20 {
        published(&mut boss, request, "b/live", 100_000).await;
    }
    let token = tokens.token("ada", &["b/**:read"]);
    let mut reader = QuicClient::open_with(broker.address(), transport).await.greet(&token).await;
    let before = metric_as(broker.address(), &admin, "longwire_deliveries_total").await;
    for number in 1..=STREAMS {
        reader.ask(number.into(), number, "b/live").await;
    }
    delivered(&broker, &admin, before + deliveries).await;
    let revoke = wire::RevokeToken { request: 30, token, id: String::new() };
    boss.send(ClientFrame::RevokeToken(revoke)).await;
    assert!(matches!(boss.control.next().await, ServerFrame::Done(_)));
    let told = reader.ended().await;
    metric_is(broker.address(), &admin, "longwire_connections", |now| now == 1).await;
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_hears_it_before_what_waits() {
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(10_000));
    let (said, code, reason) = revoke_who_does_not_read(transport, STREAMS.into()).await;
    assert_eq!((said.as_str(), code), ("token_revoked", 1008));
    assert!(reason.starts_with("token_revoked: "), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_and_takes_nothing_at_all_is_told_by_the_close() {
    let mut transport = TransportConfig::default();
    // The first stream, which nobody reads, uses it up: nothing is left for others, or for the goodbye.
    transport.receive_window(VarInt::from_u32(10_000));
    let (_, code, reason) = revoke_who_does_not_read(transport, 1).await;
    assert_eq!(code, 1008);
    assert!(reason.starts_with("token_revoked: "), "{reason}");
}
