//! A client that goes, with or without a word, whatever it was about: nothing of it is kept, and others notice nothing.

use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use quinn::VarInt;

use super::{TLS, by, metric_is};
use crate::support::broker::{Broker, folder};
use crate::support::quic_client::{Frames, QuicClient};
use crate::support::udp_relay::{UdpRelay, Weather};
use crate::support::wire_client::record;

/// Who says nothing is gone soon.
const SHORT: [(&str, &str); 4] =
    [TLS, ("IDLE_TIMEOUT_MS", "2000"), ("HEARTBEAT_MS", "500"), ("HANDSHAKE_TIMEOUT_MS", "2000")];
/// Records of the session that is read.
const RECORDS: u64 = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    BeforeHello,
    WithinHello,
    AfterHello,
    RequestPending,
    SubscribePending,
    CatchingUp,
    Live,
    WindowFull,
    NotReading,
}

const STATES: [State; 9] = [
    State::BeforeHello,
    State::WithinHello,
    State::AfterHello,
    State::RequestPending,
    State::SubscribePending,
    State::CatchingUp,
    State::Live,
    State::WindowFull,
    State::NotReading,
];

fn publish(number: u64) -> ClientFrame {
    ClientFrame::Publish(wire::Publish {
        request: number,
        session: "pending".into(),
        records: vec![record("x")],
        ..Default::default()
    })
}

/// Comes, and gets as far as this.
async fn come(relay: &UdpRelay, state: State) -> (QuicClient, Vec<Frames>) {
    let mut client = QuicClient::open(relay.address()).await;
    match state {
        State::BeforeHello => return (client, Vec::new()),
        State::WithinHello => {
            client.send.write_all(&[0, 0]).await.unwrap();
            return (client, Vec::new());
        }
        _ => client = client.greet("").await,
    }
    let mut streams = Vec::new();
    match state {
        State::RequestPending => {
            for number in 0..100 {
                client.send(publish(number)).await;
            }
        }
        State::SubscribePending => client.ask(1, 1, "flood").await,
        State::CatchingUp => {
            let mut stream = client.subscribe(1, 1, "flood").await;
            assert_eq!(stream.delivery().await.from, 0);
            streams.push(stream);
        }
        State::Live => {
            let mut stream = client.subscribe(1, 1, "flood").await;
            while stream.delivery().await.next < RECORDS {}
            streams.push(stream);
        }
        State::WindowFull => {
            let subscription = wire::Subscription {
                subscription: 1,
                session: "flood".into(),
                from: Some(wire::From { from: Some(wire::from::From::Start(true)) }),
                window_bytes: Some(1),
                ..Default::default()
            };
            let subscribe = wire::Subscribe { request: 1, subscriptions: vec![subscription] };
            client.send(ClientFrame::Subscribe(subscribe)).await;
            let mut stream = client.accept().await;
            stream.subscribed().await;
            stream.delivery().await;
            client.ping(1).await;
            streams.push(stream);
        }
        State::NotReading => {
            for number in 1..=5 {
                streams.push(client.subscribe(number, number as u32, "flood").await);
            }
        }
        State::BeforeHello | State::WithinHello | State::AfterHello => {}
    }
    (client, streams)
}

async fn flooded(broker: &Broker) {
    let session = by(&broker.url(), broker).session("flood").unwrap();
    for _ in 0..RECORDS {
        session.publish("x".repeat(100_000)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_in_whatever_state_leaves_nothing() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &SHORT);
    flooded(&broker).await;
    let mut gone = Vec::new();
    for state in STATES {
        let relay = UdpRelay::start(broker.address()).await;
        let (client, _streams) = come(&relay, state).await;
        client.connection.close(VarInt::from_u32(0), b"");
        // This one is not heard of any more.
        let relay = UdpRelay::start(broker.address()).await;
        let (client, streams) = come(&relay, state).await;
        relay.set_weather(Weather { lost: 100, ..Default::default() });
        gone.push((client, streams, relay));
    }
    metric_is(broker.address(), "", "longwire_connections", |now| now == 0).await;
    metric_is(broker.address(), "", "longwire_sockets_waiting", |now| now <= 1).await;
    let mut client = QuicClient::connect(broker.address()).await;
    let mut stream = client.subscribe(1, 1, "flood").await;
    let mut next = 0;
    while next < RECORDS {
        let delivery = stream.delivery().await;
        assert_eq!(delivery.from, next);
        next = delivery.next;
    }
    drop(gone);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_nobody_who_has_gone() {
    for state in STATES {
        let (_folder, data) = folder();
        let broker = Broker::start_with(&data, &SHORT);
        flooded(&broker).await;
        let (here, there) =
            (UdpRelay::start(broker.address()).await, UdpRelay::start(broker.address()).await);
        let (client, _streams) = come(&here, state).await;
        let gone = come(&there, state).await;
        there.set_weather(Weather { lost: 100, ..Default::default() });
        broker.ask_to_stop();
        // In the middle of it.
        client.connection.close(VarInt::from_u32(0), b"");
        let stopped = tokio::task::spawn_blocking(move || broker.wait()).await.unwrap();
        assert!(stopped, "{state:?}");
        drop(gone);
    }
}
