//! Who means harm, over raw sockets: each attack has a typed outcome where somebody can be told, and everybody else goes on.

use std::process::Command;

use longwire_proto::codec::Encoding;
use longwire_proto::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX, REQUESTS_MAX, SUBSCRIPTIONS_MAX};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::attacker::{Attacker, CONTINUATION, PING, TEXT, raise_open_files};
use crate::support::broker::{Broker, folder, hostile, wait_until};
use crate::support::h2_attacker::H2Attacker;
use crate::support::wire_client::{WireClient, published, record, refusal, subscribed};

/// As the issue has it: silent sockets, and as many slow handshakes.
const CROWD: usize = 2000;

/// Somebody else connects and publishes. Who is pushed out by a flood tries again, as every client does.
async fn others_go_on(broker: &Broker) {
    let mut client = loop {
        match WireClient::try_connect(broker.address()).await {
            Some(client) => break client,
            None => tokio::task::yield_now().await,
        }
    };
    // A store with the manners of a distributed log refuses now and then.
    while refused_for_now(client.publish("others", &["still here"]).await) {}
}

/// Connects, and waits until the connection has its place: who was only welcomed may be about to take it.
async fn placed(broker: &Broker, encoding: Encoding) -> WireClient {
    let mut client = WireClient::connect(broker.address(), encoding).await;
    client.send(ClientFrame::Ping(wire::Ping { token: 1 })).await;
    assert!(matches!(client.receive().await, ServerFrame::Pong(_)));
    client
}

fn refused_for_now(frame: ServerFrame) -> bool {
    match frame {
        ServerFrame::Published(_) => false,
        other => {
            let error = refusal(other);
            assert!(hostile().is_some() && error.retryable, "{error:?}");
            true
        }
    }
}

fn metric(broker: &Broker, name: &str) -> f64 {
    let (_, text) = broker.get("/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_silent_and_slow_sockets_leaves_room() {
    raise_open_files();
    let (_folder, data) = folder();
    // They go because of their number, and not because they took too long.
    let broker = Broker::start_with(&data, &[("HANDSHAKE_TIMEOUT_MS", "120000")]);
    let mut silent = Vec::new();
    for _ in 0..CROWD {
        silent.push(Attacker::connect(broker.address()).await);
    }
    let mut slow = Vec::new();
    for _ in 0..CROWD {
        let mut attacker = Attacker::connect(broker.address()).await;
        attacker.write(b"GET /v1/connect HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await;
        slow.push(attacker);
    }
    others_go_on(&broker).await;
    // The oldest went, and only as many as had to.
    for attacker in &mut silent {
        attacker.ended().await;
    }
    assert!(metric(&broker, "longwire_sockets_evicted_total") >= CROWD as f64);
    assert!(metric(&broker, "longwire_sockets_waiting") <= CROWD as f64);
    assert!(broker.terminate());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_during_a_flood_is_not_kept_out() {
    raise_open_files();
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("UNAUTHENTICATED_MAX", "500")]);
    let address = broker.address();
    let flood = tokio::spawn(async move {
        let mut attackers = std::collections::VecDeque::new();
        loop {
            attackers.push_back(Attacker::connect(address).await);
            if attackers.len() > CROWD {
                attackers.pop_front();
            }
        }
    });
    wait_until("the places are taken", || metric(&broker, "longwire_sockets_evicted_total") > 0.0);
    for _ in 0..10 {
        others_go_on(&broker).await;
    }
    flood.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_connected_is_never_pushed_out_and_who_says_no_hello_is_told() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("UNAUTHENTICATED_MAX", "2")]);
    let mut connected = placed(&broker, Encoding::Proto).await;
    let proto = Encoding::Proto.subprotocol();
    let mut mute = WireClient::open(broker.address(), proto).await.unwrap();
    let mut crowd = Vec::new();
    for _ in 0..2 {
        crowd.push(WireClient::open(broker.address(), proto).await.unwrap());
    }
    let ended = mute.ended().await;
    assert_eq!((ended.code(), ended.close_code()), ("overloaded", 1013));
    assert!(ended.goodbye.unwrap().error.unwrap().retry_after_ms > 0);
    for _ in 0..10 {
        Attacker::connect(broker.address()).await;
    }
    connected.send(ClientFrame::Ping(wire::Ping { token: 1 })).await;
    assert!(matches!(connected.receive().await, ServerFrame::Pong(_)));
    others_go_on(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_allowed_are_refused_before_the_upgrade_and_health_still_answers() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("CONNECTIONS_MAX", "2")]);
    let first = placed(&broker, Encoding::Proto).await;
    let _second = placed(&broker, Encoding::Json).await;
    let refused = WireClient::open(broker.address(), Encoding::Proto.subprotocol()).await.err().unwrap();
    let tungstenite::Error::Http(response) = refused else { panic!("{refused}") };
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    let problem: serde_json::Value = serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
    assert_eq!((&problem["code"], &problem["limit"]), (&"overloaded".into(), &2.into()));
    assert_eq!(problem["retryable"], true);
    assert!(problem["retry_after_ms"].as_u64().unwrap() > 0);
    assert_eq!(broker.get("/healthz").0, 200);
    drop(first);
    others_go_on(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_upgrades_while_there_was_room_and_is_late_is_told() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("CONNECTIONS_MAX", "1")]);
    let mut late = WireClient::open(broker.address(), Encoding::Json.subprotocol()).await.unwrap();
    let early = placed(&broker, Encoding::Proto).await;
    late.send(ClientFrame::Hello(wire::Hello::default())).await;
    let ended = late.ended().await;
    assert_eq!((ended.code(), ended.close_code()), ("overloaded", 1013));
    drop(early);
    others_go_on(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_files_are_shared_so_that_the_store_has_its_own() {
    raise_open_files();
    let (_folder, data) = folder();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 400; exec \"$@\"", "sh"]);
    let broker = Broker::start_under(limited, &data, &[]);
    let mut crowd = Vec::new();
    for _ in 0..600 {
        crowd.push(Attacker::connect(broker.address()).await);
    }
    others_go_on(&broker).await;
    assert_eq!(broker.get("/readyz").0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_and_a_byte_now_and_then_end_in_time() {
    let (_folder, data) = folder();
    let settings = [("HANDSHAKE_TIMEOUT_MS", "1000"), ("IDLE_TIMEOUT_MS", "1500")];
    let broker = Broker::start_with(&data, &settings);
    let address = broker.address();
    let silent = tokio::spawn(async move { Attacker::connect(address).await.ended().await });
    let headers = tokio::spawn(async move {
        let mut attacker = Attacker::connect(address).await;
        attacker.write(b"GET / HTTP/1.1\r\n").await;
        attacker.dribble(b"x").await
    });
    let preface = tokio::spawn(async move {
        let mut attacker = Attacker::connect(address).await;
        attacker.write(b"PRI * HTTP/2.0\r\n").await;
        attacker.dribble(b"").await
    });
    let hello = tokio::spawn(async move {
        let mut attacker = Attacker::upgraded(address).await;
        // A text frame of 125 bytes, of which one comes at a time.
        attacker.write(&[0x80 | TEXT, 0x80 | 125, 0, 0, 0, 0]).await;
        attacker.dribble(b" ").await
    });
    let frame = tokio::spawn(async move {
        let mut attacker = Attacker::greeted(address).await;
        attacker.write(&[0x80 | TEXT, 0x80 | 126, 0xff, 0xff, 0, 0, 0, 0]).await;
        attacker.dribble(b" ").await
    });
    let pings = tokio::spawn(async move {
        let mut attacker = Attacker::greeted(address).await;
        attacker.dribble(&[0x80 | PING, 0x80, 0, 0, 0, 0]).await
    });
    others_go_on(&broker).await;
    silent.await.unwrap();
    headers.await.unwrap();
    preface.await.unwrap();
    assert!(hello.await.unwrap().contains("handshake_timeout"));
    assert!(frame.await.unwrap().contains("idle_timeout"));
    assert!(pings.await.unwrap().contains("idle_timeout"));
    others_go_on(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_reads_is_disconnected_and_slows_nobody() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("IDLE_TIMEOUT_MS", "2000")]);
    let mut writer = WireClient::connect(broker.address(), Encoding::Proto).await;
    let mut attackers = Vec::new();
    for _ in 0..10 {
        let mut attacker = Attacker::greeted(broker.address()).await;
        let subscribe = br#"{"subscribe":{"request":1,"subscriptions":[{"subscription":1,"session":"flood","from":{"start":true},"wait":true}]}}"#;
        attacker.write_frame(true, TEXT, subscribe).await;
        attackers.push(attacker);
    }
    let body = "x".repeat(10_000);
    for _ in 0..64 {
        let records = vec![record(&body); 31];
        let publish = wire::Publish { session: "flood".into(), records, ..Default::default() };
        published(writer.publish_with(publish).await);
    }
    // They go on asking, so only what they do not take tells that they are not there.
    let asking: Vec<_> = attackers
        .into_iter()
        .map(|mut attacker| {
            tokio::spawn(async move {
                attacker.ask_without_reading(br#"{"ping":{"token":1}}"#).await;
            })
        })
        .collect();
    let rest = tokio::spawn(async move {
        for asking in asking {
            asking.await.unwrap();
        }
    });
    while !rest.is_finished() {
        writer.send(ClientFrame::Ping(wire::Ping { token: 1 })).await;
        assert!(matches!(writer.receive().await, ServerFrame::Pong(_)));
        tokio::task::yield_now().await;
    }
    others_go_on(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fragments_without_end_are_bounded() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("IDLE_TIMEOUT_MS", "2000")]);
    let address = broker.address();
    // Before the hello: whatever the bytes are, there are few.
    for (payload, code) in [(&b""[..], "frame_too_large"), (&[b' '; 1000][..], "frame_too_large")] {
        let mut attacker = Attacker::upgraded(address).await;
        attacker.write_frame(false, TEXT, payload).await;
        let said = attacker.flood(|attacker| attacker.frame(false, CONTINUATION, payload)).await;
        assert!(said.contains(code) && said.contains(&HELLO_BYTES_MAX.to_string()), "{said}");
    }
    let mut attacker = Attacker::upgraded(address).await;
    // No more than the broker throws away for those who are to hear why.
    let said = attacker.burst(&attacker.frame(true, PING, &[0; 125]), FRAME_BYTES_MAX).await;
    assert!(said.contains("frame_too_large"), "{said}");
    // After it, what they come to is bounded by the largest frame, and what they take by the idle time.
    let mut attacker = Attacker::greeted(address).await;
    attacker.write_frame(false, TEXT, b"").await;
    let said = attacker.flood(|attacker| attacker.frame(false, CONTINUATION, &[b' '; 60_000])).await;
    assert!(said.contains("frame_too_large") && said.contains(&FRAME_BYTES_MAX.to_string()), "{said}");
    let mut attacker = Attacker::greeted(address).await;
    attacker.write_frame(false, TEXT, b"").await;
    let said = attacker.flood(|attacker| attacker.frame(false, CONTINUATION, b"")).await;
    assert!(said.contains("idle_timeout"), "{said}");
    others_go_on(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_cannot_be_are_refused_without_room_being_made() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let lengths = [1 << 63, u64::MAX, (1 << 63) - 1, 1 << 40, FRAME_BYTES_MAX as u64 + 1];
    for length in lengths {
        for has_greeted in [false, true] {
            let mut attacker = match has_greeted {
                false => Attacker::upgraded(broker.address()).await,
                true => Attacker::greeted(broker.address()).await,
            };
            let mut header = vec![0x80 | TEXT, 0x80 | 127];
            header.extend(length.to_be_bytes());
            header.extend([0; 4]);
            attacker.write(&header).await;
            let said = attacker.ended().await;
            assert!(said.contains("frame_too_large") || said.contains("invalid_frame"), "{length}: {said}");
        }
    }
    others_go_on(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_opened_and_reset_end_the_connection() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut attacker = H2Attacker::connect(broker.address()).await;
    let goaway = attacker.rapid_reset().await;
    assert!(goaway, "the connection ended without a word");
    others_go_on(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_end_and_too_large_are_refused() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut attacker = H2Attacker::connect(broker.address()).await;
    assert!(attacker.continuation_flood().await, "the connection ended without a word");
    let mut attacker = H2Attacker::connect(broker.address()).await;
    attacker.settings_and_ping_flood().await;
    for line in ["x: y\r\n".to_owned(), format!("x: {}\r\n", "y".repeat(8000))] {
        let mut attacker = Attacker::connect(broker.address()).await;
        attacker.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n").await;
        let said = attacker.flood(|_| line.clone().into_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 431 "), "{said}");
    }
    others_go_on(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_allowed_of_one_connection_is_refused_or_waits() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    let subscription = |number| wire::Subscription {
        subscription: number,
        session: "more".into(),
        wait: true,
        ..Default::default()
    };
    let most = u32::try_from(SUBSCRIPTIONS_MAX).unwrap();
    let subscriptions = (0..most).map(subscription).collect();
    client.send(ClientFrame::Subscribe(wire::Subscribe { request: 1, subscriptions })).await;
    for _ in 0..SUBSCRIPTIONS_MAX {
        subscribed(client.receive().await);
    }
    let error = refusal(client.subscribe_with(subscription(most)).await);
    assert_eq!((error.code.as_str(), error.limit), ("too_many_subscriptions", SUBSCRIPTIONS_MAX as u64));
    // Requests wait in the socket: each is answered, however many are sent before any is read.
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    let requests = 3 * REQUESTS_MAX as u64;
    for request in 0..requests {
        let session = format!("none/{}", request % 10);
        let describe = wire::DescribeSession { request, session };
        client.send_as_is(ClientFrame::DescribeSession(describe)).await;
    }
    for _ in 0..requests {
        let error = refusal(client.receive_as_is().await.unwrap());
        assert!(error.code == "session_not_found" || (hostile().is_some() && error.retryable), "{error:?}");
    }
    others_go_on(&broker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_comes_back_begins_one_after_the_other_and_nobody_is_forgotten() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("ADMISSIONS_PER_SECOND", "20")]);
    let mut crowd = Vec::new();
    for _ in 0..40 {
        crowd.push(WireClient::connect(broker.address(), Encoding::Proto).await);
    }
    for client in &mut crowd {
        client.send(ClientFrame::Ping(wire::Ping { token: 3 })).await;
    }
    for client in &mut crowd {
        assert!(matches!(client.receive().await, ServerFrame::Pong(wire::Pong { token: 3, .. })));
    }
}

/// What is small on the wire and large in memory is not taken: nothing is ever decompressed.
#[tokio::test(flavor = "multi_thread")]
async fn compression_is_not_spoken() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut request = format!("{}/v1/connect", broker.url()).into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("sec-websocket-protocol", Encoding::Json.subprotocol().parse().unwrap());
    headers.insert("sec-websocket-extensions", "permessage-deflate".parse().unwrap());
    let (_socket, response) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(response.headers().get("sec-websocket-extensions"), None);
    // A frame that says that it is compressed.
    for has_greeted in [false, true] {
        let mut attacker = match has_greeted {
            false => Attacker::upgraded(broker.address()).await,
            true => Attacker::greeted(broker.address()).await,
        };
        let mut compressed = attacker.frame(true, TEXT, b"{}");
        compressed[0] |= 0x40;
        attacker.write(&compressed).await;
        let said = attacker.ended().await;
        assert!(said.contains("invalid_frame"), "{said}");
    }
    others_go_on(&broker).await;
}

/// Nobody is told anything here; it is only that nothing breaks.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_protocol_at_all_is_ended() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let garbage: [&[u8]; 5] = [
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello where none is due",
        b"GET /v1/connect HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff1\r\n",
    ];
    for bytes in garbage {
        let mut attacker = Attacker::connect(broker.address()).await;
        attacker.write(bytes).await;
        attacker.ended().await;
    }
    others_go_on(&broker).await;
}
