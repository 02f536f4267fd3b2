//! What a peer sends that is no client: packets, streams and frames that are none, out of turn, or without an end.

use longwire_proto::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX, SUBSCRIPTIONS_MAX};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use quinn::{ConnectionError, TransportConfig, VarInt};
use tokio::net::UdpSocket;

use super::{TLS, by, metric, metric_is};
use crate::support::broker::{Broker, folder};
use crate::support::quic_client::{QuicClient, soon};
use crate::support::raw_quic::{Heard, INITIAL_BYTES, RawQuic, framed, hello, stream};
use crate::support::udp_relay::{UdpRelay, Weather};
use crate::support::wire_client::record;

/// Errors of QUIC (RFC 9000, section 20.1).
const FLOW_CONTROL_ERROR: u64 = 0x03;
const STREAM_LIMIT_ERROR: u64 = 0x04;
const STREAM_STATE_ERROR: u64 = 0x05;

/// Nobody is left of whom the broker keeps anything, and it serves who comes.
async fn nothing_is_kept(broker: &Broker) {
    metric_is(broker.address(), "", "longwire_connections", |now| now == 0).await;
    metric_is(broker.address(), "", "longwire_sockets_waiting", |now| now <= 1).await;
    QuicClient::connect(broker.address()).await.ping(1).await;
}

/// A line of `/proc/PID/status`, in bytes.
fn resident(broker: &Broker) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_is_told_which_there_is() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(broker.address()).await.unwrap();
    let mut packet = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8];
    packet.extend(*b"the dest");
    packet.extend([8]);
    packet.extend(*b"the srce");
    // One that is too short for a beginning is not answered: the answer may go to somebody else.
    socket.send(&packet).await.unwrap();
    packet.resize(INITIAL_BYTES, 0);
    socket.send(&packet).await.unwrap();
    let mut answer = [0; 2048];
    let length = soon("it is answered", socket.recv(&mut answer)).await.unwrap();
    assert!(length < INITIAL_BYTES);
    let answer = &answer[..length];
    assert_eq!(&answer[1..5], &[0; 4], "version negotiation");
    assert_eq!(&answer[5..23], b"\x08the srce\x08the dest");
    let versions: Vec<u32> =
        answer[23..].chunks(4).map(|version| u32::from_be_bytes(version.try_into().unwrap())).collect();
    // Beside it there may be one that nobody has, so that nobody relies on a list.
    assert!(versions.contains(&1), "{versions:x?}");
    assert!(
        versions.iter().all(|version| *version == 1 || version & 0x0f0f_0f0f == 0x0a0a_0a0a),
        "{versions:x?}"
    );
    assert!(socket.try_recv(&mut [0; 2048]).is_err(), "there was one answer");
    nothing_is_kept(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_was_not_proved_gets_no_more_than_three_times_what_it_sent() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS, ("HANDSHAKE_TIMEOUT_MS", "2000")]);
    let forged = RawQuic::new(broker.address(), 11).await;
    forged.throw(&forged.first).await;
    let mut came = 0;
    while metric(broker.address(), "longwire_quic_handshakes_failed_total").await == 0 {
        while let Some(datagram) = forged.datagram().await {
            came += datagram.len();
        }
    }
    assert!(came > 0);
    // The stack ends a datagram that it has begun within the three times.
    assert!(came < 4 * INITIAL_BYTES, "{came} bytes came for {INITIAL_BYTES}");
    nothing_is_kept(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn early_packets_of_nobody_are_thrown_away() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    // Packets of early data that come with a beginning, and behind it.
    let mut raw = RawQuic::new(broker.address(), 12).await;
    let mut early = raw.first.clone();
    early[0] = 0xd3;
    for packet in [&early, &raw.first, &early] {
        raw.throw(packet).await;
    }
    raw.until(|heard| *heard == Heard::HandshakeDone).await;
    raw.send(&stream(0, 0, &hello(), false)).await;
    raw.until(|heard| matches!(heard, Heard::Stream { id: 0, .. })).await;
    assert_eq!(metric(broker.address(), "longwire_quic_early_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_that_come_again_change_nothing() {
    const RECORDS: u64 = 500;
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let relay = UdpRelay::start(broker.address()).await;
    relay.set_weather(Weather { repeats: true, ..Default::default() });
    let client = by(&relay.url(), &broker);
    let session = client.session("s").unwrap();
    session.publish("0").await.unwrap();
    let mut records = session.subscribe(longwire::From::Start).await.unwrap();
    let mut sent = Vec::new();
    for number in 1..RECORDS {
        sent.push(session.enqueue(number.to_string()).await.unwrap());
        // As many packets as there can be.
        if number % 10 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for number in 0..RECORDS {
        let record = soon("it is delivered", records.next()).await.unwrap().unwrap();
        assert_eq!((record.offset, record.text()), (number, Some(number.to_string().as_str())));
    }
    for (number, sent) in sent.into_iter().enumerate() {
        assert_eq!(sent.await.unwrap().from.offset, number as u64 + 1);
    }
    assert_eq!(metric(broker.address(), "longwire_quic_handshakes_total").await, 1);
    client.shutdown().await.unwrap();
    drop(relay);
    // By hand: the beginning of a connection, and a packet within it, when both were taken long ago.
    let mut raw = RawQuic::connect(broker.address(), 13).await;
    let greeting = raw.send(&stream(0, 0, &hello(), false)).await;
    raw.until(|heard| matches!(heard, Heard::Stream { id: 0, .. })).await;
    let create =
        wire::Publish { session: "t".into(), request: 1, records: vec![record("x")], ..Default::default() };
    let publish =
        raw.send(&stream(0, hello().len() as u64, &framed(ClientFrame::Publish(create)), false)).await;
    raw.until(|heard| matches!(heard, Heard::Stream { id: 0, .. })).await;
    for _ in 0..100 {
        for packet in [&raw.first, &greeting, &publish] {
            raw.throw(packet).await;
        }
    }
    let mut reader = QuicClient::connect(broker.address()).await;
    let mut stream = reader.subscribe(1, 1, "t").await;
    assert_eq!(stream.delivery().await.next, 1, "it was published once");
    // And then there is no such connection any more.
    raw.send(&[0x1d, 0, 0]).await;
    metric_is(broker.address(), "", "longwire_connections", |now| now == 1).await;
    for packet in [&greeting, &publish, &publish] {
        raw.throw(packet).await;
    }
    drop(reader);
    nothing_is_kept(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_not_allowed_end_the_connection() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    // The second of both directions, the ten thousandth, any of one direction, and one that is the broker's to open.
    let cases = [
        (4, STREAM_LIMIT_ERROR),
        (40_000, STREAM_LIMIT_ERROR),
        (2, STREAM_LIMIT_ERROR),
        (40_002, STREAM_LIMIT_ERROR),
        (3, STREAM_STATE_ERROR),
        (1, STREAM_STATE_ERROR),
    ];
    for (seed, (id, expected)) in cases.into_iter().enumerate() {
        let mut raw = RawQuic::greet(broker.address(), 20 + seed as u64).await;
        let (by_application, code, _) = raw.ended_for(&stream(id, 0, b"x", false)).await;
        assert_eq!((by_application, code), (false, expected), "stream {id}");
    }
    nothing_is_kept(&broker).await;
    // A stack that keeps to the limit waits for ever.
    let polite = QuicClient::connect(broker.address()).await;
    let more: Vec<_> = (0..10_000).map(|_| Box::pin(polite.connection.open_bi())).collect();
    for mut opening in more {
        assert!(futures_util::poll!(&mut opening).is_pending());
    }
}

/// A stream whose beginning does not come, up to what is allowed and a byte more.
async fn a_hole_is_bounded(raw: &mut RawQuic, begins: u64, window: u64, piece: usize) {
    let mut offset = begins + 1;
    let end = begins + window;
    while offset < end {
        let length = piece.min((end - offset) as usize);
        raw.send(&stream(0, offset, &vec![0; length], false)).await;
        offset += length as u64;
        // The broker's acks are taken in between, so that what is sent does arrive.
        if (offset / piece as u64).is_multiple_of(16) {
            raw.send(&[0x01]).await;
            raw.receive().await;
        }
    }
    let (by_application, code, _) = raw.ended_for(&stream(0, end, &[0], false)).await;
    assert_eq!((by_application, code), (false, FLOW_CONTROL_ERROR));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_behind_a_hole_is_bounded() {
    const PEERS: u64 = 20;
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS, ("HANDSHAKE_TIMEOUT_MS", "60000")]);
    // Before the hello; the hole is filled in the end, and all is well.
    let mut raw = RawQuic::connect(broker.address(), 40).await;
    let greeting = hello();
    let ping = framed(ClientFrame::Ping(wire::Ping { token: 7 }));
    raw.send(&stream(0, greeting.len() as u64, &ping, false)).await;
    raw.send(&stream(0, 1, &greeting[1..], false)).await;
    raw.send(&stream(0, 0, &greeting[..1], false)).await;
    raw.until(|heard| matches!(heard, Heard::Stream { id: 0, .. })).await;
    let window = (HELLO_BYTES_MAX + 4) as u64;
    let mut raw = RawQuic::connect(broker.address(), 41).await;
    a_hole_is_bounded(&mut raw, 0, window, 1000).await;
    // After it.
    let mut raw = RawQuic::greet(broker.address(), 42).await;
    a_hole_is_bounded(&mut raw, greeting.len() as u64, 1 << 20, 1100).await;
    // As dear as it can be: every byte for itself, with a hole behind each.
    let before = resident(&broker);
    let mut peers = Vec::new();
    for peer in 0..PEERS {
        let mut raw = RawQuic::connect(broker.address(), 50 + peer).await;
        for offset in 0..window / 2 {
            raw.send(&stream(0, 2 * offset + 1, &[0], false)).await;
            if offset.is_multiple_of(64) {
                raw.send(&[0x01]).await;
                raw.receive().await;
            }
        }
        peers.push(raw);
    }
    let grown = resident(&broker).saturating_sub(before);
    println!("COUNT bytes_of_a_peer_with_holes={}", grown / PEERS as usize);
    assert!(grown <= PEERS as usize * (1 << 20), "{} bytes a peer", grown / PEERS as usize);
    for raw in &mut peers {
        raw.send(&[0x1d, 0, 0]).await;
    }
    drop(peers);
}

#[tokio::test(flavor = "multi_thread")]
async fn control_that_ends_in_the_middle_of_a_frame_ends_the_connection() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let half = &framed(ClientFrame::Ping(wire::Ping { token: 1 }))[..5];
    for case in 0..4 {
        let mut client = QuicClient::connect(broker.address()).await;
        client.send.write_all(half).await.unwrap();
        match case {
            0 => client.send.reset(VarInt::from_u32(7)).unwrap(),
            1 => client.send.finish().unwrap(),
            2 => {
                client.control.stream.stop(VarInt::from_u32(7)).unwrap();
                // It hears of that when it has something to say.
                client
                    .send
                    .write_all(&framed(ClientFrame::Ping(wire::Ping { token: 2 }))[5..])
                    .await
                    .unwrap();
            }
            _ => client.connection.close(VarInt::from_u32(0), b""),
        }
        match soon("it ends", client.connection.closed()).await {
            ConnectionError::ApplicationClosed(close) => {
                assert_eq!((u64::from(close.error_code), case == 3), (0, false));
            }
            other => assert_eq!((other, case), (ConnectionError::LocallyClosed, 3)),
        }
    }
    let mut client = QuicClient::connect(broker.address()).await;
    client.send.write_all(&(FRAME_BYTES_MAX as u32 + 1).to_be_bytes()).await.unwrap();
    let (code, close, _) = client.ended().await;
    assert_eq!((code.as_str(), close), ("frame_too_large", 1009));
    let mut client = QuicClient::connect(broker.address()).await;
    client.send.write_all(&[0, 0, 0, 2, 0xff, 0xff]).await.unwrap();
    let (code, close, _) = client.ended().await;
    assert_eq!((code.as_str(), close), ("invalid_frame", 1007));
    nothing_is_kept(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_frame_and_then_silence_is_idle() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS, ("IDLE_TIMEOUT_MS", "1000"), ("HEARTBEAT_MS", "300")]);
    // A stack that keeps the connection alive is no client that does.
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(std::time::Duration::from_millis(100)));
    let mut client = QuicClient::open_with(broker.address(), transport).await.greet("").await;
    client.send.write_all(&[0, 0, 1, 0, 1]).await.unwrap();
    let (code, close, _) = client.ended().await;
    assert_eq!((code.as_str(), close), ("idle_timeout", 1001));
    nothing_is_kept(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_subscriptions_that_are_none_is_answered_or_ignored() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let session = by(&broker.url(), &broker).session("s").unwrap();
    session.publish("0").await.unwrap();
    session.close("over").await.unwrap();
    let mut client = QuicClient::connect(broker.address()).await;
    let mut ended = client.subscribe(1, 1, "s").await;
    // Its end is a record too.
    assert_eq!(ended.delivery().await.next, 2);
    assert!(matches!(ended.next().await, ServerFrame::SubscriptionEnded(_)));
    assert_eq!(ended.try_next().await, Ok(None));
    // It is over on both sides; who stops it all the same says nothing new.
    drop(ended.stream.stop(VarInt::from_u32(0)));
    for subscription in [1, 77] {
        client.send(ClientFrame::Credit(wire::Credit { subscription, consumed_through: u64::MAX })).await;
        client.send(ClientFrame::Unsubscribe(wire::Unsubscribe { request: 2, subscription })).await;
        match client.control.next().await {
            ServerFrame::Refused(refused) => {
                assert_eq!(refused.error.unwrap().code, "subscription_not_found");
            }
            other => panic!("{other:?} came instead of a refusal"),
        }
    }
    client.ping(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_stopped_for_ever_leave_nothing() {
    const TIMES: u64 = 4000;
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let session = by(&broker.url(), &broker).session("s").unwrap();
    session.publish("x".repeat(100_000)).await.unwrap();
    let mut client = QuicClient::connect(broker.address()).await;
    let mut before = 0;
    for request in 1..=TIMES {
        let mut stream = client.subscribe(request, request as u32, "s").await;
        stream.stream.stop(VarInt::from_u32(9)).unwrap();
        // By then what the allocator keeps for such a client is level.
        if request == TIMES / 2 {
            before = resident(&broker);
        }
    }
    // None of them has a place: all that there are can be had again. Those that had nothing to say find out now.
    session.publish("y").await.unwrap();
    client.ping(1).await;
    let grown = resident(&broker).saturating_sub(before);
    assert!(grown < 16 << 20, "it grew by {grown} bytes in {TIMES} rounds");
    let mut stream = client.subscribe(TIMES + 1, 1, "s").await;
    assert_eq!(stream.delivery().await.from, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_allows_no_streams_waits_and_piles_up_nothing() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let session = by(&broker.url(), &broker).session("s").unwrap();
    session.publish("x").await.unwrap();
    session.close("over").await.unwrap();
    let mut transport = TransportConfig::default();
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    let mut client = QuicClient::open_with(broker.address(), transport).await.greet("").await;
    let most = SUBSCRIPTIONS_MAX as u32;
    // Each ends at once; its end waits for a stream, and it has its place as long.
    for number in 0..=most {
        client.ask(u64::from(number) + 1, number, "s").await;
    }
    match client.control.next().await {
        ServerFrame::Refused(refused) => {
            assert_eq!(
                (refused.subscription, refused.error.unwrap().code.as_str()),
                (most, "too_many_subscriptions")
            );
        }
        other => panic!("{other:?} came instead of a refusal"),
    }
    client.ping(1).await;
    // Slowly, one more at a time.
    for count in 1..=most {
        client.connection.set_max_concurrent_uni_streams(VarInt::from_u32(1));
        let mut stream = client.accept().await;
        assert!(stream.subscribed().await.subscription < most);
        // A store in trouble gives what it has in parts.
        let mut next = 0;
        while next < 2 {
            let delivery = stream.delivery().await;
            assert_eq!(delivery.from, next, "stream {count}");
            next = delivery.next;
        }
        assert!(matches!(stream.next().await, ServerFrame::SubscriptionEnded(_)));
        assert_eq!(stream.try_next().await, Ok(None));
    }
    let mut again = client.subscribe(5000, most, "s").await;
    while again.delivery().await.next < 2 {}
}
