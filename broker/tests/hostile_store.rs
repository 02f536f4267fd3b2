//! Live sessions over a store with the manners of a distributed log: answers are lost, with the batch durable or not,
//! other owners write in between, reads fail. What was acknowledged stays, once, and readers see it once, in order.
#![allow(clippy::unwrap_used)] // a test: a panic is its failure

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longwire_broker::ageing::Ageing;
use longwire_broker::auth::principal::Principal;
use longwire_broker::clock::Clock;
use longwire_broker::hub::Hub;
use longwire_broker::log_reader::LogReader;
use longwire_broker::page::{PageReader, Unit};
use longwire_broker::pattern_subscription::{PatternFrom, PatternSubscription, PatternWish};
use longwire_broker::queue::queue;
use longwire_broker::read_view::ReadView;
use longwire_broker::request::{Answer, Operation, ReplyTo, Request};
use longwire_broker::scheduler::{last_known_ms, write_clock};
use longwire_broker::store::hostile::Hostile;
use longwire_broker::store::hostile::faults::Faults;
use longwire_broker::store::memory::MemoryStore;
use longwire_broker::store::{Batch, BatchId, Reservation, Store};
use longwire_broker::subscription::{Event, Subscription};
use longwire_core::command::{Command, Reply};
use longwire_proto::codec::{Encoding, decode_server};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::kind;
use longwire_proto::limits::EXPIRY_MS_MIN;
use longwire_proto::meta::Meta;
use longwire_proto::position::Position;
use longwire_proto::record::{ProducerRef, Sender, Stamp, seal_at};
use longwire_proto::retention::Retention;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use longwire_proto::wire::server_frame::Frame;
use prost::Message;
use tokio::sync::watch;

const PUBLISHES: u64 = 1500;
const WRITERS: u64 = 3;
const SEED: u64 = 0x0dd_5eed;
/// Records that a page reads at once, and no more.
const PIECES: u64 = 300;
/// A session that nobody uses for this long leaves memory: short, so that it happens in between too.
const IDLE: Duration = Duration::from_millis(1);

/// Faults that come far more often than in anything that clients wait for.
const FAULTS: Faults = Faults {
    lost_answers: 10,
    lost_requests: 10,
    late_appends: 10,
    takeovers: 20,
    failed_reads: 40,
    short_reads: 2,
    delays: 0,
    lost_hints: 3,
    refusals: 20,
};

fn record(text: &str) -> Bytes {
    let record = wire::Record { body: Some(wire::record::Body::Text(text.into())), ..Default::default() };
    Bytes::from(record.encode_to_vec())
}

async fn ask(hub: &Arc<Hub>, session: &SessionId, command: Command) -> Result<Reply, Error> {
    let (answers, mut answered) = queue(1);
    let request = Request {
        operation: Operation::Command(command),
        reply_to: ReplyTo { request: 0, answers, pulse: None },
    };
    Arc::clone(hub).send(session.clone(), request).await.map_err(|(error, _)| error)?;
    let Answer { result, .. } = answered.recv().await.expect("every request is answered");
    result.map(|reply| reply.expect("a command has a reply"))
}

fn publish(name: &str, sequence: u64) -> Command {
    Command::Publish {
        sender: Sender { principal: "ada".into(), ..Sender::default() },
        producer: Some(ProducerRef { id: name.into(), epoch: 0, sequence }),
        if_end: None,
        may_create: true,
        records: vec![record(&format!("{name}-{sequence}"))],
        meant: None,
    }
}

async fn write(hub: Arc<Hub>, session: SessionId, name: String) -> Vec<(String, u64)> {
    let mut acknowledged = Vec::new();
    for sequence in 0..PUBLISHES {
        let text = format!("{name}-{sequence}");
        let from = loop {
            match ask(&hub, &session, publish(&name, sequence)).await {
                Ok(Reply::Published { from, next, .. }) => {
                    assert_eq!(next, from + 1);
                    break from;
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => assert!(error.code.retryable(), "{error}"),
            }
        };
        acknowledged.push((text, from));
    }
    acknowledged
}

async fn read(hub: Arc<Hub>, session: SessionId, until: u64) -> Vec<String> {
    let mut seen = Vec::new();
    while (seen.len() as u64) < until {
        let mut reader = hub.attach(&session).await.unwrap();
        let progress = match reader.loaded().await {
            Ok(progress) => progress,
            Err(error) => {
                assert!(error.code.retryable(), "{error}");
                continue;
            }
        };
        let next = seen.len() as u64;
        let store = Arc::clone(hub.store());
        let mut subscription = Subscription::new(1, Encoding::Proto, store, reader, progress, next);
        // Begun anew now and then: another hand-over from catch-up to live.
        let again = next + 200;
        while (seen.len() as u64) < until.min(again) {
            match poll_fn(|context| subscription.poll_next(context)).await.unwrap() {
                Event::Frame(frame) => panic!("{frame:?} is of a pattern"),
                Event::Delivery { frame, next } => {
                    let Frame::Delivery(delivery) =
                        decode_server(Encoding::Proto, frame.into_bytes()).unwrap()
                    else {
                        panic!()
                    };
                    assert_eq!((delivery.from, delivery.next), (seen.len() as u64, next));
                    seen.extend(delivery.records.into_iter().map(|record| match record.body {
                        Some(wire::record::Body::Text(text)) => text,
                        other => panic!("{other:?}"),
                    }));
                }
                Event::Ended { error, next, .. } => {
                    assert!(error.code.retryable(), "{error}");
                    assert_eq!(next, seen.len() as u64);
                    break;
                }
            }
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_store_loses_repeats_and_reorders_nothing() {
    println!("seed {SEED}");
    let store = Arc::new(Hostile::new(MemoryStore::new(), FAULTS, SEED));
    let hub = Hub::new(Arc::clone(&store) as Arc<dyn Store>, Clock::start(), Ageing::default(), IDLE);
    let session = SessionId::parse("s").unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(Arc::clone(&hub), session.clone(), format!("w{writer}"))))
        .collect();
    let total = WRITERS * PUBLISHES;
    let readers: Vec<_> =
        (0..2).map(|_| tokio::spawn(read(Arc::clone(&hub), session.clone(), total))).collect();
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.push(writer.await.unwrap());
    }
    for reader in readers {
        let seen = reader.await.unwrap();
        assert_eq!(seen.len() as u64, total, "nothing is there twice");
        for (text, offset) in acknowledged.iter().flatten() {
            assert_eq!(&seen[usize::try_from(*offset).unwrap()], text);
        }
    }
    assert!(acknowledged.iter().all(|of_writer| of_writer.is_sorted_by_key(|(_, offset)| *offset)));
    let faults = store.injected();
    assert!(faults > PUBLISHES / 10, "{faults} faults");
    hub.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_cannot_be_loaded_says_so_and_the_others_go_on() {
    let damaged = SessionId::parse("damaged").unwrap();
    let store = Hostile::with_damage(MemoryStore::new(), Faults::none(), SEED, Some(damaged.clone()));
    let hub = Hub::new(Arc::new(store), Clock::start(), Ageing::default(), IDLE);
    for _ in 0..20 {
        let error = ask(&hub, &damaged, Command::Describe).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::DataCorrupt);
        assert!(error.message.contains("offset 0"), "{}", error.message);
        let absent = ask(&hub, &SessionId::parse("other").unwrap(), Command::Describe).await.unwrap_err();
        assert_eq!(absent.code, ErrorCode::SessionNotFound);
    }
    hub.drain().await;
}

/// A page is as whole as over any other store, however little of it a read gives.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_does_not_depend_on_how_much_a_read_gives() {
    println!("seed {SEED}");
    let stamp =
        Stamp { time_ms: 1, sender: Sender { principal: "ada".into(), ..Sender::default() }, producer: None };
    let opens = wire::Record { id: "m".into(), grows: true, ..Default::default() };
    let delta = || wire::Record {
        kind: kind::DELTA,
        message: "m".into(),
        body: Some(wire::record::Body::Text("x".into())),
        ..Default::default()
    };
    let records: Vec<_> = std::iter::once(opens).chain((1..PIECES).map(|_| delta())).collect();
    let records: Vec<Bytes> = records.iter().map(|record| record.encode_to_vec().into()).collect();
    let at_bytes: Vec<u64> = (0..PIECES).map(|piece| piece.saturating_sub(1)).collect();
    let inner = MemoryStore::new();
    let session = SessionId::parse("s").unwrap();
    let opened = inner.open(&session).await.unwrap();
    let batch = Batch {
        id: BatchId(1),
        base: 0,
        last_time_ms: 1,
        records: seal_at(&stamp, &records, &at_bytes),
        projection: None,
        origin: None,
        erase: Vec::new(),
        reservation: Reservation::none(),
    };
    inner.append(opened.log, opened.term, opened.version, batch).await.unwrap();
    let short = Hostile::new(inner, Faults { short_reads: 1, failed_reads: 8, ..Faults::none() }, SEED);
    let log = LogReader { store: Arc::new(short), session, log: opened.log };
    let mut pages = PageReader { log, filter: None, limit: 5, unit: Unit::Records, view: ReadView::Folded };
    for page in [pages.backwards(0, PIECES).await.unwrap(), pages.forwards(0, PIECES).await.unwrap()] {
        let offsets: Vec<u64> = page.records.iter().map(|(offset, _)| *offset).collect();
        assert_eq!((page.from, page.next, offsets), (0, PIECES, vec![0, PIECES - 1]));
    }
    pages.view = ReadView::Raw;
    let page = pages.backwards(0, PIECES).await.unwrap();
    assert_eq!((page.from, page.next, page.records.len()), (PIECES - 5, PIECES, 5));
}

/// An answer that is lost once is found out by asking again. One that is lost again and again is the client's to repeat,
/// whether the publish was carried out or not.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_engine_never_answers_is_unknown_and_can_be_repeated() {
    for (faults, carried_out) in [
        (Faults { lost_answers: 1, ..Faults::none() }, true),
        (Faults { lost_requests: 1, ..Faults::none() }, false),
    ] {
        let inner = MemoryStore::new();
        let session = SessionId::parse("s").unwrap();
        let silent = Hostile::new(inner.clone(), faults, SEED);
        let hub = Hub::new(Arc::new(silent), Clock::start(), Ageing::default(), IDLE);
        let error = ask(&hub, &session, publish("w", 0)).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::OutcomeUnknown);
        hub.drain().await;
        let hub = Hub::new(Arc::new(inner), Clock::start(), Ageing::default(), IDLE);
        match ask(&hub, &session, publish("w", 0)).await {
            Ok(Reply::Published { from, duplicate, .. }) => assert_eq!((from, duplicate), (0, carried_out)),
            other => panic!("{other:?}"),
        }
        hub.drain().await;
    }
}

/// What clients see of an engine that loses answers now and then is nothing: no session is found to be there already by the
/// one who has just made it, and none is gone before it was deleted.
#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_are_found_out() {
    println!("seed {SEED}");
    let store = Hostile::new(MemoryStore::new(), Faults { delays: 0, ..Faults::of_an_engine() }, SEED);
    let hub = Hub::new(Arc::new(store), Clock::start(), Ageing::default(), IDLE);
    for number in 0..100 {
        let name = |kind: &str| SessionId::parse(&format!("{kind}/{number}")).unwrap();
        let (session, other) = (name("a"), name("b"));
        for sequence in 0..3 {
            match ask(&hub, &session, publish("w", sequence)).await {
                Ok(Reply::Published { from, duplicate, .. }) => {
                    assert_eq!((from, duplicate), (sequence, false));
                }
                other => panic!("{other:?}"),
            }
        }
        hub.ask(&session, Operation::Rename(other.clone())).await.unwrap();
        let error = loop {
            let error = ask(&hub, &session, Command::Describe).await.unwrap_err();
            // What comes while its owner leaves is sent back, with any store.
            if error.code != ErrorCode::OutcomeUnknown {
                break error;
            }
        };
        assert_eq!(error.code, ErrorCode::SessionNotFound);
        hub.ask(&other, Operation::Delete).await.unwrap();
    }
    hub.drain().await;
}

/// A read that fails makes a pattern neither forget a session nor begin it again, and a missed hint costs time alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_reads_on_when_reads_fail_and_hints_are_missed() {
    const SESSIONS: u64 = 8;
    const RECORDS: u64 = 40;
    println!("seed {SEED}");
    let faults = Faults { failed_reads: 6, short_reads: 2, lost_hints: 3, ..Faults::none() };
    let store: Arc<dyn Store> = Arc::new(Hostile::new(MemoryStore::new(), faults, SEED));
    let wish = PatternWish {
        number: 1,
        encoding: Encoding::Proto,
        pattern: "s/*".parse().unwrap(),
        from: PatternFrom::End,
        filter: None,
        view: ReadView::Raw,
        whoever: watch::Sender::new(Arc::new(Principal::anonymous())).subscribe(),
    };
    let mut pattern = PatternSubscription::open(Arc::clone(&store), wish).await.unwrap();
    let hub = Hub::new(store, Clock::start(), Ageing::default(), Duration::from_secs(60));
    let writer = {
        let hub = Arc::clone(&hub);
        tokio::spawn(async move {
            for sequence in 0..RECORDS {
                for number in 0..SESSIONS {
                    let session = SessionId::parse(&format!("s/{number}")).unwrap();
                    ask(&hub, &session, publish(session.as_str().trim_start_matches("s/"), sequence))
                        .await
                        .unwrap();
                }
            }
        })
    };
    let mut places: HashMap<String, u64> = HashMap::new();
    while places.values().sum::<u64>() < SESSIONS * RECORDS {
        match pattern.next().await.unwrap() {
            Event::Frame(frame) => match *frame {
                Frame::Subscribed(subscribed) => {
                    assert_eq!(places.insert(subscribed.session, subscribed.from), None, "it joins once");
                }
                other => panic!("{other:?}"),
            },
            Event::Delivery { frame, .. } => {
                let Frame::Delivery(delivery) = decode_server(Encoding::Proto, frame.into_bytes()).unwrap()
                else {
                    panic!()
                };
                let place = places.get_mut(&delivery.session).unwrap();
                assert_eq!(*place, delivery.from);
                *place = delivery.next;
            }
            Event::Ended { error, .. } => panic!("{error}"),
        }
    }
    writer.await.unwrap();
    hub.drain().await;
}

/// What is too old goes, however often the store does not say whether the snapshot that a trim relies on is durable.
#[tokio::test(flavor = "multi_thread")]
async fn the_retention_does_not_give_up() {
    println!("seed {SEED}");
    let faults = Faults { lost_answers: 2, ..Faults::none() };
    let store = Hostile::new(MemoryStore::new(), faults, SEED);
    let idle = Duration::from_secs(60);
    let hub = Hub::new(Arc::new(store), Clock::start(), Ageing::default(), idle);
    let sessions: Vec<_> = (0..16).map(|number| SessionId::parse(&format!("s/{number}")).unwrap()).collect();
    for session in &sessions {
        let retention = Retention { age_ms: Some(EXPIRY_MS_MIN as u64), ..Retention::default() };
        let create = || Command::Create {
            sender: Sender { principal: "ada".into(), ..Sender::default() },
            meta: Box::new(Meta { retention, ..Meta::default() }),
            update: true,
        };
        while let Err(error) = ask(&hub, session, create()).await {
            assert!(error.code.retryable(), "{error}");
        }
    }
    for session in &sessions {
        loop {
            match ask(&hub, session, Command::Describe).await {
                Ok(Reply::Described(description)) if description.start == description.end => break,
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => assert!(error.code.retryable(), "{error}"),
            }
        }
    }
    hub.drain().await;
}

/// A broker that starts has nobody who would ask again: it finds the time that was written down, and writes it down.
#[tokio::test]
async fn the_clock_of_the_last_life_is_known_at_the_start() {
    let (clock, mut injected) = (Clock::start(), 0);
    for seed in SEED..SEED + 64 {
        println!("seed {seed}");
        let faults = Faults { delays: 0, ..Faults::of_an_engine() };
        let store = Hostile::new(MemoryStore::new(), faults, seed);
        assert_eq!(last_known_ms(&store).await, Ok(None));
        let before_ms = clock.now_ms();
        write_clock(&store, clock).await;
        assert!(last_known_ms(&store).await.unwrap().is_some_and(|known_ms| known_ms >= before_ms));
        injected += store.injected();
    }
    assert!(injected > 0);
}

/// Whoever waits for a batch that is on its way when a trim fails is told so, and asks again.
#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_answered_when_a_trim_fails() {
    const TRIMS: u64 = 60;
    println!("seed {SEED}");
    let faults = Faults { takeovers: 8, delays: 2, ..Faults::none() };
    let store = Hostile::new(MemoryStore::new(), faults, SEED);
    let hub = Hub::new(Arc::new(store), Clock::start(), Ageing::default(), Duration::from_secs(60));
    let session = SessionId::parse("s").unwrap();
    let (trimmed, is_trimmed) = watch::channel(false);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (hub, session, is_trimmed) = (Arc::clone(&hub), session.clone(), is_trimmed.clone());
            tokio::spawn(async move {
                let mut published = 0;
                while !*is_trimmed.borrow() {
                    // Producers are forgotten with their last record.
                    let publish = Command::Publish {
                        sender: Sender { principal: format!("w{writer}"), ..Sender::default() },
                        producer: None,
                        if_end: None,
                        may_create: true,
                        records: vec![record("x")],
                        meant: None,
                    };
                    match ask(&hub, &session, publish).await {
                        Ok(_) => published += 1,
                        Err(error) => assert!(error.code.retryable(), "{error}"),
                    }
                }
                published
            })
        })
        .collect();
    let (mut trims, mut failed) = (0, 0);
    while trims < TRIMS || failed == 0 {
        let Ok(Reply::Described(description)) = ask(&hub, &session, Command::Describe).await else {
            continue;
        };
        let before = Position { epoch: description.epoch, offset: description.end };
        match hub.ask(&session, Operation::Trim(before)).await {
            Ok(_) => trims += 1,
            Err(error) => {
                assert!(error.code.retryable(), "{error}");
                failed += 1;
            }
        }
    }
    trimmed.send_replace(true);
    for writer in writers {
        assert!(writer.await.unwrap() > 0);
    }
    hub.drain().await;
}
