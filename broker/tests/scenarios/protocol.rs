//! What docs/protocol.md promises of a connection, over both encodings.

use futures_util::StreamExt;
use longwire_proto::codec::Encoding;
use longwire_proto::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, RECORD_BYTES_MAX};
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use longwire_proto::{raw, wire};

use prost::Message;

use crate::support::broker::{Broker, folder, hostile};
use crate::support::wire_client::{
    WireClient, delivery, is_for_now, published, record, refusal, subscribed, text,
};

#[tokio::test]
async fn records_go_from_one_encoding_to_the_other_and_survive_kill_9() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut json = WireClient::connect(broker.address(), Encoding::Json).await;
    let mut proto = WireClient::connect(broker.address(), Encoding::Proto).await;
    let rich = wire::Record {
        id: "m-1".into(),
        r#type: "note".into(),
        headers: [("k".to_owned(), "v".to_owned())].into(),
        content_type: "text/markdown".into(),
        ..record("höi")
    };
    let data_record =
        wire::Record { body: Some(wire::record::Body::Data(vec![0, 255, 7].into())), ..Default::default() };
    for client in [&mut json, &mut proto] {
        let records = vec![rich.clone(), data_record.clone()];
        published(
            client.publish_with(wire::Publish { session: "s".into(), records, ..Default::default() }).await,
        );
    }
    broker.kill();
    let broker = Broker::start(&data);
    for encoding in Encoding::ALL {
        let mut client = WireClient::connect(broker.address(), encoding).await;
        assert_eq!(subscribed(client.subscribe("s", From::Start(true)).await).end, 4);
        let records = client.take(0, 4).await;
        for pair in records.chunks(2) {
            assert!(pair[0].time_ms > 1_600_000_000_000);
            assert_eq!(pair[0].sender.as_ref().unwrap().principal, "anonymous");
            // A client that may have to repeat its publishes gives them a producer.
            let producer = |record: &wire::Record| record.producer.clone().filter(|_| hostile().is_none());
            let unstamped = |record: &wire::Record| wire::Record {
                time_ms: 0,
                sender: None,
                producer: producer(record),
                ..record.clone()
            };
            assert_eq!(unstamped(&pair[0]), rich);
            assert_eq!(unstamped(&pair[1]), data_record);
        }
    }
}

#[tokio::test]
async fn many_subscriptions_share_a_connection_and_a_number_replaces_its_predecessor() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    client.publish("a", &["a0", "a1"]).await;
    client.publish("b", &["b0"]).await;
    let subscription = |subscription, session: &str, from| wire::Subscription {
        subscription,
        session: session.into(),
        from: Some(wire::From { from: Some(from) }),
        ..Default::default()
    };
    let subscriptions = vec![
        subscription(1, "a", From::Start(true)),
        subscription(2, "b", From::Start(true)),
        subscription(3, "none", From::Start(true)),
    ];
    client.send(ClientFrame::Subscribe(wire::Subscribe { request: 77, subscriptions })).await;
    let (mut opened, mut refused, mut texts) = (0, 0, Vec::new());
    while opened + refused + texts.len() < 6 {
        match client.receive().await {
            ServerFrame::Subscribed(subscribed) => {
                assert_eq!(subscribed.request, 77);
                opened += 1;
            }
            ServerFrame::Refused(error) => {
                assert_eq!((error.request, error.subscription), (77, 3));
                refused += 1;
            }
            frame => {
                let delivery = delivery(frame);
                texts.extend(delivery.records.iter().map(|r| (delivery.subscription, text(r).to_owned())));
            }
        }
    }
    texts.sort();
    let expected = [(1, "a0"), (1, "a1"), (2, "b0")].map(|(number, text)| (number, text.to_owned()));
    assert_eq!((opened, refused, texts), (2, 1, expected.to_vec()));
    // Number 1 now reads b, and nothing of a comes any more.
    client
        .send(ClientFrame::Subscribe(wire::Subscribe {
            request: 78,
            subscriptions: vec![subscription(1, "b", From::End(true))],
        }))
        .await;
    assert_eq!(subscribed(client.receive().await).session, "b");
    let mut other = WireClient::connect(broker.address(), Encoding::Json).await;
    other.publish("a", &["a2"]).await;
    other.publish("b", &["b1"]).await;
    let mut numbers = [delivery(client.receive().await), delivery(client.receive().await)].map(|d| {
        assert_eq!(text(&d.records[0]), "b1");
        d.subscription
    });
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2]);
}

#[tokio::test]
async fn a_session_can_be_awaited_closed_deleted_and_created_again() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut reader = WireClient::connect(broker.address(), Encoding::Json).await;
    let waiting = wire::Subscription {
        subscription: 5,
        session: "s".into(),
        from: Some(wire::From { from: Some(From::Start(true)) }),
        wait: true,
        ..Default::default()
    };
    let answer = subscribed(reader.subscribe_with(waiting.clone()).await);
    assert!(!answer.exists);
    let mut writer = WireClient::connect(broker.address(), Encoding::Proto).await;
    let meta = wire::SessionMeta { title: "First".into(), ..Default::default() };
    let create = wire::CreateSession { request: 1, session: "s".into(), meta: Some(meta), update: false };
    writer.send(ClientFrame::CreateSession(create.clone())).await;
    let ServerFrame::SessionDescription(described) = writer.receive().await else { panic!() };
    let session = described.session.unwrap();
    assert_eq!((session.end, session.meta.unwrap().title), (1, "First".into()));
    writer.send(ClientFrame::CreateSession(create)).await;
    assert_eq!(writer.refusal().await.code, "session_exists");
    writer.publish("s", &["x"]).await;
    writer
        .send(ClientFrame::CloseSession(wire::CloseSession {
            request: 2,
            session: "s".into(),
            reason: "done".into(),
        }))
        .await;
    let ServerFrame::SessionDescription(described) = writer.receive().await else { panic!() };
    assert!(described.session.unwrap().closed);
    assert_eq!(refusal(writer.publish("s", &["late"]).await).code, "session_closed");
    let mut kinds = Vec::new();
    let ended = loop {
        match reader.receive().await {
            ServerFrame::Delivery(delivery) => {
                kinds.extend(delivery.records.iter().map(|record| record.kind))
            }
            ServerFrame::SubscriptionEnded(ended) => break ended,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(kinds, [10, 0, 10]);
    assert_eq!((ended.next, ended.error.unwrap().code.as_str()), (3, "session_closed"));
    let again = subscribed(reader.subscribe("s", From::End(true)).await);
    assert_eq!(again.outcome, "closed");
    writer.send(ClientFrame::DeleteSession(wire::DeleteSession { request: 3, session: "s".into() })).await;
    assert!(matches!(writer.receive().await, ServerFrame::Done(wire::Done { request: 3 })));
    assert_eq!(refusal(reader.subscribe("s", From::Start(true)).await).code, "session_not_found");
    let ServerFrame::SessionList(list) = ({
        writer.send(ClientFrame::ListSessions(wire::ListSessions { request: 4, ..Default::default() })).await;
        writer.receive().await
    }) else {
        panic!()
    };
    assert_eq!(list.sessions, []);
    let anew = published(writer.publish("s", &["new life"]).await);
    assert_eq!((anew.epoch, anew.from), (1, 0));
    let old = From::Position("0000000000000000_0000000000000002".into());
    let changed = subscribed(reader.subscribe("s", old).await);
    assert_eq!((changed.outcome.as_str(), changed.epoch, changed.from), ("epoch_changed", 1, 0));
    broker.kill();
    let broker = Broker::start(&data);
    let mut reader = WireClient::connect(broker.address(), Encoding::Proto).await;
    let after = subscribed(reader.subscribe("s", From::Start(true)).await);
    assert_eq!((after.epoch, after.end), (1, 1), "an acknowledged delete never comes back");
}

#[tokio::test]
async fn deleting_ends_the_subscriptions_of_the_session() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut reader = WireClient::connect(broker.address(), Encoding::Proto).await;
    reader.publish("s", &["x"]).await;
    subscribed(reader.subscribe("s", From::End(true)).await);
    let mut writer = WireClient::connect(broker.address(), Encoding::Proto).await;
    writer.send(ClientFrame::DeleteSession(wire::DeleteSession { request: 3, session: "s".into() })).await;
    let ServerFrame::SubscriptionEnded(ended) = reader.receive().await else { panic!() };
    assert_eq!(ended.error.unwrap().code, "session_deleted");
}

#[tokio::test]
async fn publishes_are_idempotent_and_conditional() {
    let (_folder, data) = folder();
    let mut broker = Broker::start(&data);
    let publish = |epoch, sequence, text: &str| wire::Publish {
        session: "s".into(),
        records: vec![record(text)],
        producer: Some(wire::Producer { id: "p".into(), epoch, sequence }),
        ..Default::default()
    };
    for encoding in Encoding::ALL {
        let mut client = WireClient::connect(broker.address(), encoding).await;
        let first = published(client.publish_with(publish(0, 0, "zero")).await);
        assert_eq!((first.from, first.next, first.duplicate), (0, 1, encoding == Encoding::Json));
        assert_eq!(refusal(client.publish_with(publish(0, 0, "other")).await).code, "sequence_conflict");
        let gap = refusal(client.publish_with(publish(0, 5, "five")).await);
        assert_eq!((gap.code.as_str(), gap.expected), ("sequence_gap", 1));
        let wrong = wire::Publish { if_end: Some(9), ..publish(0, 1, "one") };
        let mismatch = refusal(client.publish_with(wrong).await);
        assert_eq!((mismatch.code.as_str(), mismatch.expected), ("end_mismatch", 1));
        // The same answers after a crash, over the other encoding.
        broker.kill();
        broker = Broker::start(&data);
    }
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    assert_eq!(published(client.publish_with(publish(3, 0, "newer")).await).from, 1);
    let fenced = refusal(client.publish_with(publish(0, 1, "older")).await);
    assert_eq!((fenced.code.as_str(), fenced.expected), ("producer_fenced", 3));
    let guarded = wire::Publish { if_end: Some(2), ..publish(3, 1, "at the end") };
    assert_eq!(published(client.publish_with(guarded).await).from, 2);
}

#[tokio::test]
async fn a_window_holds_deliveries_back_until_they_are_consumed() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    let large = "x".repeat(100_000);
    for _ in 0..6 {
        client.publish("s", &[&large]).await;
    }
    let windowed = wire::Subscription {
        subscription: 1,
        session: "s".into(),
        from: Some(wire::From { from: Some(From::Start(true)) }),
        window_bytes: Some(1),
        ..Default::default()
    };
    subscribed(client.subscribe_with(windowed).await);
    let mut next = 0;
    while next < 6 {
        let delivery = delivery(client.receive().await);
        assert_eq!(delivery.from, next);
        next = delivery.next;
        // Nothing more comes before the credit: a ping is answered first.
        client.send(ClientFrame::Ping(wire::Ping { token: next })).await;
        let ServerFrame::Pong(pong) = client.receive().await else { panic!("a delivery passed the window") };
        assert_eq!(pong.token, next);
        for _ in 0..2 {
            let credit = wire::Credit { subscription: 1, consumed_through: next };
            client.send(ClientFrame::Credit(credit)).await;
        }
    }
}

#[tokio::test]
async fn heartbeats_tell_the_ends_that_changed() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("HEARTBEAT_MS", "50")]);
    let mut client = WireClient::connect(broker.address(), Encoding::Json).await;
    client.publish("s", &["x"]).await;
    // A window that is full: the end is learnt from the heartbeat alone.
    let windowed = wire::Subscription {
        subscription: 4,
        session: "s".into(),
        from: Some(wire::From { from: Some(From::Start(true)) }),
        window_bytes: Some(0),
        ..Default::default()
    };
    client.subscribe_with(windowed).await;
    delivery(client.receive().await);
    let mut other = WireClient::connect(broker.address(), Encoding::Proto).await;
    other.publish("s", &["y", "z"]).await;
    let ends = loop {
        if let Some(ServerFrame::Heartbeat(heartbeat)) = client.receive_any().await
            && !heartbeat.ends.is_empty()
        {
            break heartbeat.ends;
        }
    };
    assert_eq!(ends, [wire::SubscriptionProgress { subscription: 4, epoch: 0, end: 3 }]);
}

#[tokio::test]
async fn sessions_are_listed_in_pages() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    for number in 0..25 {
        client.publish(&format!("a/{number:02}"), &["x"]).await;
    }
    client.publish("b", &["x"]).await;
    let mut found = Vec::new();
    let mut page = String::new();
    loop {
        let list =
            wire::ListSessions { request: 1, prefix: "a/".into(), page, limit: 10, ..Default::default() };
        client.send(ClientFrame::ListSessions(list)).await;
        let ServerFrame::SessionList(list) = client.receive().await else { panic!() };
        assert!(list.sessions.len() <= 10);
        assert!(
            list.sessions
                .iter()
                .all(|session| session.last_time_ms >= session.created_ms && session.created_ms > 0)
        );
        found.extend(list.sessions.into_iter().map(|session| (session.session, session.end)));
        page = list.next_page;
        if page.is_empty() {
            break;
        }
    }
    let expected: Vec<_> = (0..25).map(|number| (format!("a/{number:02}"), 1)).collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn the_largest_batch_and_the_largest_record_are_taken() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    let producer = Some(wire::Producer { id: "p".repeat(64), epoch: 0, sequence: 0 });
    // The field's key and length take 4 bytes of the 4 KiB, and 5 of the MiB.
    let records = vec![record(&"x".repeat((BATCH_BYTES_MAX / BATCH_RECORDS_MAX) - 4)); BATCH_RECORDS_MAX];
    let whole = wire::Publish { session: "s".into(), records, producer, ..Default::default() };
    assert_eq!(published(client.publish_with(whole).await).next, BATCH_RECORDS_MAX as u64);
    let large = record(&"x".repeat(RECORD_BYTES_MAX - 5));
    let large = wire::Publish { session: "s".into(), records: vec![large; 4], ..Default::default() };
    published(client.publish_with(large).await);
    assert_eq!(subscribed(client.subscribe("s", From::Start(true)).await).end, BATCH_RECORDS_MAX as u64 + 4);
    let mut next = 0;
    while next < BATCH_RECORDS_MAX as u64 + 4 {
        next = delivery(client.receive().await).next;
    }
}

#[tokio::test]
async fn a_subscribe_reflects_the_publishes_before_it_without_waiting_for_them() {
    const ROUNDS: u64 = 50;
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    let (mut rounds, mut attempts) = (0, 0);
    while rounds < ROUNDS {
        attempts += 1;
        let session = format!("s/{attempts}");
        let publish = wire::Publish {
            request: 1,
            session: session.clone(),
            records: vec![record("x")],
            ..Default::default()
        };
        client.send_as_is(ClientFrame::Publish(publish)).await;
        let subscription = wire::Subscription {
            subscription: 1,
            session,
            from: Some(wire::From { from: Some(From::End(true)) }),
            ..Default::default()
        };
        let subscribe = wire::Subscribe { request: 2, subscriptions: vec![subscription] };
        client.send_as_is(ClientFrame::Subscribe(subscribe)).await;
        let frames = [client.receive_as_is().await.unwrap(), client.receive_as_is().await.unwrap()];
        if frames.iter().any(is_for_now) {
            // Nothing follows from what was not carried out.
            client = WireClient::connect(broker.address(), Encoding::Proto).await;
            continue;
        }
        let subscribed = frames.into_iter().find_map(|frame| match frame {
            ServerFrame::Subscribed(subscribed) => Some(subscribed),
            _ => None,
        });
        assert_eq!(subscribed.unwrap().from, 1);
        rounds += 1;
    }
}

/// Readers at the tail of a session under load: none is told an end that is not, and none sleeps through the last record.
#[tokio::test(flavor = "multi_thread")]
async fn the_hand_over_from_catch_up_to_live_has_no_gap() {
    const ROUNDS: u64 = 200;
    const PUBLISHES: u64 = 50;
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let address = broker.address();
    let writer = tokio::spawn(async move {
        let mut client = WireClient::connect(address, Encoding::Proto).await;
        for _ in 0..ROUNDS {
            for request in 0..PUBLISHES {
                let records = vec![record("x")];
                let publish = wire::Publish { request, session: "s".into(), records, ..Default::default() };
                client.send(ClientFrame::Publish(publish)).await;
            }
            // The end of a round is the end of the load for a moment: a reader that misses its wake-up hangs here.
            for _ in 0..PUBLISHES {
                published(client.receive().await);
            }
        }
    });
    let readers = (0..4).map(|_| {
        tokio::spawn(async move {
            let mut subscriptions = 0;
            let mut next = 0;
            while next < ROUNDS * PUBLISHES {
                let mut client = WireClient::connect(address, Encoding::Proto).await;
                let from = Some(wire::From { from: Some(From::Offset(next)) });
                let subscription = wire::Subscription {
                    subscription: 1,
                    session: "s".into(),
                    from,
                    wait: true,
                    ..Default::default()
                };
                assert_eq!(subscribed(client.subscribe_with(subscription).await).from, next);
                subscriptions += 1;
                let until = (next + 3 * PUBLISHES).min(ROUNDS * PUBLISHES);
                while next < until {
                    let delivery = delivery(client.receive().await);
                    assert_eq!(delivery.from, next);
                    next = delivery.next;
                }
            }
            subscriptions
        })
    });
    let readers: Vec<_> = readers.collect();
    writer.await.unwrap();
    for reader in readers {
        assert!(reader.await.unwrap() > 10);
    }
}

#[tokio::test]
async fn records_are_filtered_and_every_offset_is_covered() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut writer = WireClient::connect(broker.address(), Encoding::Proto).await;
    let typed = |name: &str| wire::Record { r#type: name.into(), ..record(name) };
    let publish = |names: &[&str]| {
        let records = names.iter().map(|name| typed(name)).collect();
        wire::Publish { session: "s".into(), records, ..Default::default() }
    };
    published(writer.publish_with(publish(&["a", "b", "a", "b"])).await);
    for encoding in Encoding::ALL {
        let mut reader = WireClient::connect(broker.address(), encoding).await;
        let end = writer.publish_with(publish(&["b"])).await;
        let end = published(end).next;
        let filter = Some(wire::Filter { kinds: vec![0], types: vec!["a".into()], ..Default::default() });
        let from = Some(wire::From { from: Some(From::Offset(1)) });
        let subscription =
            wire::Subscription { subscription: 1, session: "s".into(), from, filter, ..Default::default() };
        subscribed(reader.subscribe_with(subscription.clone()).await);
        let (mut next, mut seen) = (1, Vec::new());
        let mut take = |delivery: wire::Delivery| {
            assert_eq!(delivery.from, next);
            assert_eq!(delivery.offsets.len(), delivery.records.len());
            seen.extend(
                delivery.offsets.iter().copied().zip(delivery.records.iter().map(|r| text(r).to_owned())),
            );
            next = delivery.next;
            next
        };
        while take(delivery(reader.receive().await)) < end {}
        // Live: what does not pass still moves the reader on.
        let live = published(writer.publish_with(publish(&["b", "a", "b"])).await);
        while take(delivery(reader.receive().await)) < live.next {}
        assert_eq!(seen.first(), Some(&(2, "a".to_owned())));
        assert_eq!(seen.last(), Some(&(live.from + 1, "a".to_owned())));
        assert!(seen.iter().all(|(_, text)| text == "a"));
        let many = Some(wire::Filter { kinds: (0..33).collect(), ..Default::default() });
        let refused =
            refusal(reader.subscribe_with(wire::Subscription { filter: many, ..subscription }).await);
        assert_eq!((refused.code.as_str(), refused.limit), ("invalid_argument", 32));
    }
}

#[tokio::test]
async fn a_session_is_read_in_pages_both_ways() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut writer = WireClient::connect(broker.address(), Encoding::Proto).await;
    let texts: Vec<String> = (0..250).map(|number| number.to_string()).collect();
    writer.publish("s", &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for encoding in Encoding::ALL {
        let client = longwire::Client::builder().url(broker.url()).encoding(encoding).build().unwrap();
        tokio::spawn(client.1);
        let session = client.0.session("s").unwrap();
        let newest = session.read().limit(100).await.unwrap();
        assert!(newest.is_last() && !newest.is_first());
        let mut before = newest.from;
        let mut seen: Vec<_> =
            newest.records.iter().map(|record| record.text().unwrap().to_owned()).collect();
        loop {
            let page = session.read().before(before).limit(70).await.unwrap();
            assert_eq!(page.next, before);
            seen.splice(0..0, page.records.iter().map(|record| record.text().unwrap().to_owned()));
            before = page.from;
            if page.is_first() {
                break;
            }
        }
        assert_eq!(seen, texts);
        let middle = session.read().after(longwire::Position { epoch: 0, offset: 240 }).await.unwrap();
        assert_eq!((middle.records.len(), middle.is_last()), (10, true));
        let typed = session.read().types(["none"]).await.unwrap();
        assert!(typed.records.is_empty() && typed.is_first());
        let foreign = session.read().after(longwire::Position { epoch: 7, offset: 240 }).await.unwrap();
        assert_eq!((foreign.outcome, foreign.from.offset), (longwire::Outcome::EpochChanged, 0));
        let absent = client.0.session("absent").unwrap().read().await.unwrap_err();
        assert!(matches!(absent, longwire::RequestError::NotFound(_)), "{absent}");
    }
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    let place = Some(wire::read::Place::Before("12".into()));
    client
        .send(ClientFrame::Read(wire::Read { request: 1, session: "s".into(), place, ..Default::default() }))
        .await;
    let error = client.refusal().await;
    assert_eq!((error.code.as_str(), error.field.as_str()), ("invalid_position", "before"));
}

/// What a newer client writes survives an older broker: its wire, its store, a restart, and its deliveries.
#[tokio::test]
async fn what_the_broker_does_not_know_of_a_record_survives_byte_for_byte() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let known = wire::Record { kind: 4_000_000, id: "m-1".into(), ..record("known") }.encode_to_vec();
    // Field 100, a string that no version has yet; it stands before and after what is known.
    let unknown = [0xa2, 0x06, 0x06, b'f', b'u', b't', b'u', b'r', b'e'];
    let newer = [&unknown[..], &known, &unknown].concat();
    let publish = raw::Publish {
        request: 1,
        session: "s".into(),
        records: vec![newer.clone().into()],
        ..Default::default()
    };
    let frame = raw::ClientFrame { frame: Some(raw::client_frame::Frame::Publish(publish)) };
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    loop {
        client.send_bytes(frame.encode_to_vec().into()).await;
        let answer = client.receive().await;
        if !is_for_now(&answer) {
            assert_eq!(published(answer).next, 1);
            break;
        }
    }
    broker.kill();
    let broker = Broker::start(&data);
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    subscribed(client.subscribe("s", From::Start(true)).await);
    let delivered = loop {
        let Some(Ok(message)) = client.socket().next().await else { panic!("the connection ended") };
        let frame = raw::ServerFrame::decode(message.into_data()).unwrap();
        match frame.frame {
            Some(raw::server_frame::Frame::Delivery(delivery)) => break delivery.records,
            Some(raw::server_frame::Frame::SubscriptionEnded(ended)) => {
                assert!(is_for_now(&ServerFrame::SubscriptionEnded(ended)));
                subscribed(client.subscribe("s", From::Start(true)).await);
            }
            _ => {}
        }
    };
    assert!(delivered[0].ends_with(&newer), "{delivered:?}");
    // A reader in JSON sees what its broker knows.
    let mut json = WireClient::connect(broker.address(), Encoding::Json).await;
    subscribed(json.subscribe("s", From::Start(true)).await);
    let seen = delivery(json.receive().await).records.remove(0);
    assert_eq!((seen.kind, seen.id.as_str(), text(&seen)), (4_000_000, "m-1", "known"));
}
