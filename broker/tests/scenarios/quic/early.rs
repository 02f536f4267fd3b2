//! 0-RTT: what comes with a client's first packets. What reads is served at once; everything else waits until it is known that the
//! client is there; and packets that are sent again are heard by nobody.

use std::sync::atomic::Ordering;

use longwire::{Client, Closed, ConnectionState, From, TlsFailure};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use quinn::{ClientConfig, Endpoint, ZeroRttAccepted};
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::version::TLS13;

use super::{LIVELY, TLS, by, client, metric, metric_is};
use crate::support::broker::{Broker, folder};
use crate::support::certificates::{Authority, Time};
use crate::support::first_flight::{FirstFlight, send_again};
use crate::support::quic_client::{Frames, QuicClient, quic_config, soon};
use crate::support::raw_quic::{framed, hello};
use crate::support::tls_client;
use crate::support::udp_relay::UdpRelay;
use crate::support::wire_client::record;

const EARLY: &str = "longwire_quic_early_total";
const FINISHED: &str = "longwire_quic_handshakes_total";
const FAILED: &str = "longwire_quic_handshakes_failed_total";
/// A handshake that does not end is over soon.
const IMPATIENT: (&str, &str) = ("HANDSHAKE_TIMEOUT_MS", "2000");
/// A handshake does not end before a test says so.
const PATIENT: (&str, &str) = ("HANDSHAKE_TIMEOUT_MS", "60000");

/// A client that was here, and comes back.
struct Returning {
    config: ClientConfig,
    endpoint: Endpoint,
}

impl Returning {
    /// Connects once, for a ticket.
    async fn of(broker: &Broker, tls: rustls::ClientConfig) -> Self {
        let mut tls = tls;
        tls.enable_early_data = true;
        let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        let returning = Self { config: quic_config(tls), endpoint };
        let connecting = returning.connecting(broker.address());
        let connection = soon("it connects", connecting).await.unwrap();
        let first = QuicClient::over(returning.endpoint.clone(), connection).await;
        // The answer comes behind the ticket.
        first.greet("").await.ping(1).await;
        returning
    }

    /// The shares of the other groups do not fit into one datagram.
    async fn in_one_datagram(broker: &Broker) -> Self {
        Self::of(broker, tls_client::config_with(&["longwire/1"], kx_group::X25519)).await
    }

    fn connecting(&self, address: std::net::SocketAddr) -> quinn::Connecting {
        self.endpoint.connect_with(self.config.clone(), address, "localhost").unwrap()
    }

    /// Comes back, and says this before it has heard anything.
    async fn say(&self, address: std::net::SocketAddr, early: &[u8]) -> (QuicClient, ZeroRttAccepted) {
        let Ok((connection, accepted)) = self.connecting(address).into_0rtt() else {
            panic!("there is no ticket")
        };
        let mut client = QuicClient::over(self.endpoint.clone(), connection).await;
        client.send.write_all(early).await.unwrap();
        (client, accepted)
    }
}

fn subscribe(session: &str) -> Vec<u8> {
    let wanted = wire::Subscription {
        subscription: 1,
        session: session.into(),
        from: Some(wire::From { from: Some(wire::from::From::Start(true)) }),
        wait: true,
        ..Default::default()
    };
    framed(ClientFrame::Subscribe(wire::Subscribe { request: 1, subscriptions: vec![wanted] }))
}

fn publish(session: &str) -> Vec<u8> {
    framed(ClientFrame::Publish(wire::Publish {
        request: 7,
        session: session.into(),
        records: vec![record("x")],
        ..Default::default()
    }))
}

async fn welcomed(control: &mut Frames) {
    assert!(matches!(control.next().await, ServerFrame::Welcome(_)));
}

// One thread, so that what is said early goes with the first packet.
#[tokio::test]
async fn what_reads_is_served_before_the_handshake_is_over_and_not_served_again() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS, PATIENT]);
    by(&broker.url(), &broker).session("s").unwrap().publish("0").await.unwrap();
    let returning = Returning::in_one_datagram(&broker).await;
    let relay = FirstFlight::new().await;
    let (mut client, accepted) = returning.say(relay.address(), &[hello(), subscribe("s")].concat()).await;
    let (flight, from) = relay.take().await;
    let gate = relay.pass((&flight, from), broker.address()).await;
    welcomed(&mut client.control).await;
    let mut stream = client.accept().await;
    assert_eq!(stream.subscribed().await.request, 1);
    assert_eq!(stream.delivery().await.next, 1);
    // The broker has heard one flight of the client, and no more.
    assert_eq!(metric(broker.address(), EARLY).await, 1);
    assert_eq!(metric(broker.address(), FINISHED).await, 1);
    gate.open();
    assert!(soon("it is known to be taken", accepted).await);
    client.ping(1).await;
    metric_is(broker.address(), "", FINISHED, |finished| finished == 2).await;
    drop((client, stream));
    metric_is(broker.address(), "", "longwire_connections", |now| now == 0).await;
    // As long as something of that connection is left, they are taken for packets of it. Then they begin another one.
    let answer = send_again(&flight, broker.address()).await;
    assert_eq!(answer[0] & 0xb0, 0x80, "the beginning of a handshake");
    let mut other = QuicClient::connect(broker.address()).await;
    for number in 0..20 {
        other.ping(number).await;
    }
    assert_eq!(metric(broker.address(), EARLY).await, 1, "nothing of it is heard");
    assert_eq!(metric(broker.address(), FINISHED).await, 3);
    assert_eq!(metric(broker.address(), "longwire_connections").await, 1);
}

#[tokio::test]
async fn a_publish_that_comes_early_waits_and_is_done_once() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS, PATIENT]);
    let returning = Returning::in_one_datagram(&broker).await;
    let relay = FirstFlight::new().await;
    let early = [hello(), subscribe("other"), publish("s"), subscribe("s")].concat();
    let (mut client, _accepted) = returning.say(relay.address(), &early).await;
    let (flight, from) = relay.take().await;
    let gate = relay.pass((&flight, from), broker.address()).await;
    welcomed(&mut client.control).await;
    assert_eq!(client.accept().await.subscribed().await.session, "other");
    let mut other = QuicClient::connect(broker.address()).await;
    for request in 1..=20 {
        other
            .send(ClientFrame::DescribeSession(wire::DescribeSession { request, session: "s".into() }))
            .await;
        match other.control.next().await {
            ServerFrame::Refused(refused) => assert_eq!(refused.error.unwrap().code, "session_not_found"),
            unexpected => panic!("{unexpected:?}: it was published by whoever sent these packets"),
        }
    }
    assert_eq!(metric(broker.address(), FINISHED).await, 2);
    gate.open();
    match client.control.next().await {
        ServerFrame::Published(published) => assert_eq!((published.request, published.next), (7, 1)),
        unexpected => panic!("{unexpected:?} came instead of an answer"),
    }
    let mut stream = client.accept().await;
    assert_eq!(stream.subscribed().await.end, 1);
    drop((client, stream));
    metric_is(broker.address(), "", "longwire_connections", |now| now == 1).await;
    send_again(&flight, broker.address()).await;
    for number in 0..20 {
        other.ping(number).await;
    }
    let mut stream = other.subscribe(30, 1, "s").await;
    assert_eq!(stream.delivery().await.next, 1);
    assert_eq!(metric(broker.address(), EARLY).await, 1);
}

#[tokio::test]
async fn who_is_served_early_and_does_not_go_on_is_gone_in_time() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS, IMPATIENT]);
    let returning = Returning::in_one_datagram(&broker).await;
    let relay = FirstFlight::new().await;
    let early = [hello(), publish("s")].concat();
    let (mut client, _accepted) = returning.say(relay.address(), &early).await;
    let (flight, from) = relay.take().await;
    let _closed = relay.pass((&flight, from), broker.address()).await;
    welcomed(&mut client.control).await;
    metric_is(broker.address(), "", FAILED, |failed| failed == 1).await;
    metric_is(broker.address(), "", "longwire_connections", |now| now == 0).await;
    let mut other = QuicClient::connect(broker.address()).await;
    let describe = wire::DescribeSession { request: 1, session: "s".into() };
    other.send(ClientFrame::DescribeSession(describe)).await;
    assert!(matches!(other.control.next().await, ServerFrame::Refused(_)), "nothing was published");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_nobody_knows_any_more_costs_nothing() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let (tls, shown) = tls_client::counting(&[&TLS13], &["longwire/1"]);
    let returning = Returning::of(&broker, tls).await;
    broker.kill();
    let broker = Broker::start_with(&data, &[TLS]);
    let (early, accepted) = returning.say(broker.address(), &hello()).await;
    assert!(!soon("the handshake ends", accepted).await);
    assert_eq!(shown.load(Ordering::SeqCst), 2, "it was a whole handshake");
    let again = QuicClient::over(early.endpoint.clone(), early.connection.clone()).await;
    again.greet("").await.ping(1).await;
    assert_eq!(metric(broker.address(), EARLY).await, 0);
    assert_eq!(metric(broker.address(), FAILED).await, 0);
}

/// Takes the path away, until the client has noticed.
async fn interrupt(relay: &UdpRelay, client: &Client) {
    let mut states = client.state();
    relay.block();
    let is_lost = |state: &ConnectionState| !matches!(state, ConnectionState::Connected { .. });
    drop(soon("it notices", states.wait_for(is_lost)).await.unwrap());
    relay.unblock();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_comes_back_with_its_subscriptions_in_its_first_packets() {
    const TIMES: u64 = 3;
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS, LIVELY]);
    let relay = UdpRelay::start(broker.address()).await;
    let client = by(&relay.url(), &broker);
    let session = client.session("acme/early").unwrap();
    session.publish("0").await.unwrap();
    let mut records = session.subscribe(From::Start).await.unwrap();
    for time in 0..=TIMES {
        let record = soon("it is delivered", records.next()).await.unwrap().unwrap();
        assert_eq!((record.offset, record.text()), (time, Some(time.to_string().as_str())));
        // A broker that is held up is taken for silent: then there is one more.
        assert!(metric(broker.address(), EARLY).await >= time);
        if time < TIMES {
            interrupt(&relay, &client).await;
            soon("it is acknowledged", session.publish((time + 1).to_string())).await.unwrap();
        }
    }
    client.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_does_not_make_up_for_a_certificate() {
    let (folder, data) = folder();
    let authority = Authority::new(folder.path(), "ca");
    let files = authority.issue("broker", &["127.0.0.1"], Time::Valid);
    let [certificate, key] = files.settings();
    let broker = Broker::start_with(&data, &[certificate, key, LIVELY]);
    let relay = UdpRelay::start(broker.address()).await;
    let known = client(Client::builder().url(relay.url()).fingerprint(broker.fingerprint()));
    known.session("s").unwrap().publish("before").await.unwrap();
    interrupt(&relay, &known).await;
    known.session("s").unwrap().publish("with a ticket").await.unwrap();
    assert!(metric(broker.address(), EARLY).await >= 1);
    authority.issue("broker", &["127.0.0.1"], Time::Valid);
    while tls_client::shown(broker.address()).await == broker.fingerprint() {}
    interrupt(&relay, &known).await;
    let is_closed = |state: &ConnectionState| matches!(state, ConnectionState::Closed(_));
    let mut states = known.state();
    let closed = soon("it does not go on trying", states.wait_for(is_closed)).await.unwrap();
    assert!(
        matches!(
            &*closed,
            ConnectionState::Closed(Closed::Tls { failure: TlsFailure::Fingerprint { .. }, .. })
        ),
        "{closed:?}"
    );
}
