//! The client over real sockets against a small broker: publishing, reading, cuts, the outbox file.

#![allow(clippy::unwrap_used)]

mod mini_broker;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use longwire::{
    Backoff, Client, Closed, ConnectError, ConnectionState, Encoding, ErrorCode, From, Position, Publication,
    PublishError, SubscriptionError,
};
use mini_broker::{MiniBroker, Shared};
use tokio::net::TcpListener;

const QUICK: Backoff = Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(5) };

fn client(url: &str) -> Client {
    let (client, driver) = Client::builder().url(url).backoff(QUICK).build().unwrap();
    drop(tokio::spawn(driver));
    client
}

async fn read(subscription: &mut longwire::Subscription, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    for _ in 0..count {
        let record = subscription.next().await.unwrap().unwrap();
        assert_eq!(record.offset + 1, subscription.position().unwrap().offset);
        texts.push(record.text().unwrap().to_owned());
    }
    texts
}

#[tokio::test]
async fn publishes_and_reads_in_both_encodings() {
    for encoding in [Encoding::Proto, Encoding::Json] {
        let broker = MiniBroker::start().await;
        let (client, driver) = Client::builder().url(&broker.url).encoding(encoding).build().unwrap();
        let driver = tokio::spawn(driver);
        let session = client.session("acme/build/42").unwrap();
        let published = session.publish("one").await.unwrap();
        assert_eq!((published.from.offset, published.next.offset, published.duplicate), (0, 1, false));
        session.publish_all(["two", "three"]).await.unwrap();
        let mut records = session.subscribe(From::Start).await.unwrap();
        assert_eq!(read(&mut records, 3).await, ["one", "two", "three"]);
        session.publish(Publication::text("four").header("k", "v")).await.unwrap();
        assert_eq!(records.next().await.unwrap().unwrap().headers["k"], "v");
        assert_eq!(session.describe().await.unwrap().session, "acme/build/42");
        broker.close_session("acme/build/42");
        assert!(records.next().await.is_none());
        assert!(matches!(session.publish("late").await, Err(PublishError::SessionClosed)));
        client.shutdown().await.unwrap();
        driver.await.unwrap();
        assert!(matches!(session.publish("later").await, Err(PublishError::Closed(Closed::ShutDown))));
    }
}

#[tokio::test]
async fn every_record_once_in_order_whatever_is_cut() {
    for frames in [3, 4, 7, 13] {
        let broker = MiniBroker::start().await;
        broker.cut_every(frames);
        let client = client(&broker.url);
        let session = client.session("a").unwrap();
        let mut records = session.subscribe(From::Start).wait_for_session().await.unwrap();
        let wanted: Vec<String> = (0..60).map(|index| format!("record {index}")).collect();
        let mut acknowledgements = Vec::new();
        for text in &wanted {
            acknowledgements.push(session.enqueue(text).await.unwrap());
        }
        assert_eq!(read(&mut records, wanted.len()).await, wanted);
        for (offset, acknowledgement) in (0..).zip(acknowledgements) {
            assert_eq!(acknowledgement.await.unwrap().from, Position { epoch: 0, offset });
        }
        assert_eq!(broker.texts("a"), wanted);
        assert!(broker.shared.connections.load(Ordering::SeqCst) > 5);
    }
}

#[tokio::test]
async fn an_outbox_file_outlives_the_client_and_the_outage() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    drop(listener);
    let wanted: Vec<String> = (0..30).map(|index| format!("line {index}")).collect();
    let make = || {
        let builder = Client::builder().url(&url).backoff(QUICK).outbox_file(folder.path().join("outbox"));
        let (client, driver) = builder.build().unwrap();
        drop(tokio::spawn(driver));
        client
    };
    for part in wanted[..20].chunks(10) {
        let client = make();
        let session = client.session("a").unwrap();
        for text in part {
            drop(session.enqueue(text).await.unwrap());
        }
        client.close().await.unwrap();
    }
    let client = make();
    assert_eq!(client.outbox().borrow().recovered, 20);
    let session = client.session("a").unwrap();
    for text in &wanted[20..] {
        drop(session.enqueue(text).await.unwrap());
    }
    let listener = TcpListener::bind(url.trim_start_matches("ws://")).await.unwrap();
    let shared = Arc::new(Shared::default());
    shared.frames_per_connection.store(7, Ordering::SeqCst);
    let broker = MiniBroker::start_on(listener, shared);
    client.drained().await.unwrap();
    assert_eq!(broker.texts("a"), wanted);
    client.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_stalls_neither_others_nor_memory() {
    let broker = MiniBroker::start().await;
    let client = client(&broker.url);
    let (slow, quick) = (client.session("slow").unwrap(), client.session("quick").unwrap());
    let mut sleeper = slow.subscribe(From::Start).wait_for_session().window_bytes(4000).await.unwrap();
    let mut reader = quick.subscribe(From::Start).wait_for_session().window_bytes(4000).await.unwrap();
    let wanted: Vec<String> = (0..100).map(|index| format!("{index:01000}")).collect();
    for text in &wanted {
        drop(slow.enqueue(text).await.unwrap());
        drop(quick.enqueue(text).await.unwrap());
    }
    assert_eq!(read(&mut reader, 100).await, wanted);
    let delivery = 3 * 1100;
    assert!(broker.shared.outstanding_max.load(Ordering::SeqCst) <= 4000 + delivery);
    assert_eq!(read(&mut sleeper, 100).await, wanted);
}

#[tokio::test]
async fn a_mismatched_end_is_told_and_what_follows_goes_on() {
    let broker = MiniBroker::start().await;
    let client = client(&broker.url);
    let session = client.session("a").unwrap();
    session.publish_if_end(0, "first").await.unwrap();
    let error = session.publish_if_end(0, "again").await.unwrap_err();
    assert!(matches!(error, PublishError::EndMismatch { end: 1 }), "{error:?}");
    session.publish_if_end(1, "second").await.unwrap();
    assert_eq!(broker.texts("a"), ["first", "second"]);
}

#[tokio::test]
async fn says_what_is_wrong() {
    let broker = MiniBroker::start().await;
    let client = client(&broker.url);
    let session = client.session("a").unwrap();
    let error = session.subscribe(From::Start).await.unwrap_err();
    assert_eq!(error, SubscriptionError::NotFound("a".into()));
    session.publish("x").await.unwrap();
    let mut records = session.subscribe(Position { epoch: 0, offset: 9 }).await.unwrap();
    let end = Position { epoch: 0, offset: 1 };
    assert_eq!(records.next().await, Some(Err(SubscriptionError::FuturePosition { end })));
    assert_eq!(records.next().await, None);
    assert!(matches!(session.publish("x".repeat(2 << 20)).await, Err(PublishError::Invalid(_))));
    assert!(client.session("no spaces").is_err());
    let plain = Client::builder().url("ws://box").fingerprint("00".repeat(32)).build();
    assert!(matches!(plain, Err(ConnectError::PlainText { .. })));
}

#[tokio::test]
async fn a_broker_that_refuses_for_good_closes_the_client() {
    let broker = MiniBroker::start().await;
    *broker.shared.goodbye.lock().unwrap() = Some(ErrorCode::HelloExpected);
    let client = client(&broker.url);
    assert!(matches!(client.connected().await, Err(Closed::Refused(_))));
    let error = client.session("a").unwrap().publish("x").await.unwrap_err();
    assert!(matches!(error, PublishError::Closed(Closed::Refused(_))), "{error:?}");
    assert!(client.shutdown().await.is_err());
}

#[tokio::test]
async fn a_full_outbox_makes_publishers_wait_and_loses_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let builder = Client::builder().url(&url).backoff(QUICK).outbox_entries_max(4);
    let (client, driver) = builder.build().unwrap();
    drop(tokio::spawn(driver));
    let session = client.session("a").unwrap();
    let publisher = tokio::spawn(async move {
        for index in 0..20 {
            drop(session.enqueue(format!("{index}")).await.unwrap());
        }
    });
    let mut outbox = client.outbox();
    outbox.wait_for(|status| status.entries == 4).await.unwrap();
    assert!(!publisher.is_finished());
    let shared = Arc::new(Shared::default());
    shared.frames_per_connection.store(-1, Ordering::SeqCst);
    let broker = MiniBroker::start_on(listener, shared);
    publisher.await.unwrap();
    client.drained().await.unwrap();
    assert_eq!(broker.texts("a"), (0..20).map(|index| index.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_state_shows_what_happens() {
    let broker = MiniBroker::start().await;
    let client = client(&broker.url);
    let mut state = client.state();
    let connected = |state: &ConnectionState| matches!(state, ConnectionState::Connected { .. });
    state.wait_for(connected).await.unwrap();
    drop(broker);
    state.wait_for(|state| matches!(state, ConnectionState::Reconnecting { .. })).await.unwrap();
    client.close().await.unwrap();
    assert_eq!(*client.state().borrow(), ConnectionState::Closed(Closed::ShutDown));
}
