//! The folded view: whatever is cut where, and whoever reads it how, every message comes to the same bytes.
#![allow(clippy::unwrap_used)] // tests: a panic is their failure

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use longwire_broker::filter::Filter;
use longwire_broker::fold::{Folding, folded};
use longwire_broker::log_reader::LogReader;
use longwire_broker::page::{PageReader, Unit};
use longwire_broker::read_view::ReadView;
use longwire_broker::rests::Rests;
use longwire_broker::store::memory::MemoryStore;
use longwire_broker::store::{Batch, BatchId, LogId, Reservation, Store, Term, Version};
use longwire_broker::subscription::{Event, Subscription};
use longwire_broker::tail::{Progress, Tail};
use longwire_proto::codec::{Encoding, decode_server};
use longwire_proto::kind;
use longwire_proto::limits::{DELIVERY_BYTES_MAX, FOLD_BYTES_MAX};
use longwire_proto::position::Lineage;
use longwire_proto::record::{Sender, Stamp, erased, seal_at};
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use longwire_proto::wire::record::Body;
use longwire_proto::wire::server_frame::Frame;
use proptest::prelude::*;
use prost::Message;
use tokio::time::{Instant, advance};

const ROLLUP: Duration = Duration::from_millis(200);

/// What is published.
#[derive(Clone, Debug)]
enum Step {
    /// Something that is no delta.
    Plain,
    /// A piece of a message: what is in it, and whether it has more than a piece has.
    Piece { message: usize, bytes: Vec<u8>, is_plain: bool },
    /// One that was erased.
    Erased { message: usize, bytes: usize },
    /// The end of a message, which goes on under another name.
    Close { message: usize },
}

fn steps(bytes_max: usize, steps_max: usize) -> impl Strategy<Value = Vec<Step>> {
    let message = 0..3usize;
    let bytes = prop_oneof![
        8 => prop::collection::vec(97..123u8, 0..8),
        1 => prop::collection::vec(200..255u8, 1..8),
        1 => (1..bytes_max).prop_map(|bytes| vec![b'x'; bytes]),
    ];
    let piece = (message.clone(), bytes, prop::bool::weighted(0.95))
        .prop_map(|(message, bytes, is_plain)| Step::Piece { message, bytes, is_plain });
    let step = prop_oneof![
        20 => piece,
        1 => Just(Step::Plain),
        1 => (message.clone(), 1..9usize).prop_map(|(message, bytes)| Step::Erased { message, bytes }),
        1 => message.prop_map(|message| Step::Close { message }),
    ];
    prop::collection::vec(step, 1..steps_max)
}

/// A log, and what its messages come to; what was erased is 0.
#[derive(Clone, Debug, Default)]
struct Log {
    records: Vec<Bytes>,
    messages: BTreeMap<String, Vec<u8>>,
}

impl Log {
    fn of(steps: &[Step]) -> Self {
        let (mut log, mut generations) = (Self::default(), [0; 3]);
        for step in steps {
            let time_ms = log.records.len() as u64 + 1;
            let (message, record, is_erased) = match step {
                Step::Plain => {
                    (None, wire::Record { id: format!("r-{time_ms}"), ..Default::default() }, false)
                }
                Step::Piece { message, bytes, is_plain } => {
                    let body = match std::str::from_utf8(bytes) {
                        Ok(text) => Body::Text(text.to_owned()),
                        Err(_) => Body::Data(bytes.clone().into()),
                    };
                    let r#type = if *is_plain { String::new() } else { "special".to_owned() };
                    (Some(*message), wire::Record { body: Some(body), r#type, ..Default::default() }, false)
                }
                Step::Erased { message, bytes } => {
                    let body = Some(Body::Text("s".repeat(*bytes)));
                    (Some(*message), wire::Record { body, ..Default::default() }, true)
                }
                Step::Close { message } => {
                    (Some(*message), wire::Record { close: "complete".into(), ..Default::default() }, false)
                }
            };
            log.push(
                time_ms,
                message.map(|message| format!("m{message}-{}", generations[message])),
                record,
                is_erased,
            );
            if let Step::Close { message } = step {
                generations[*message] += 1;
            }
        }
        log
    }

    fn push(&mut self, time_ms: u64, message: Option<String>, mut record: wire::Record, is_erased: bool) {
        let stamp = Stamp {
            time_ms,
            sender: Sender { principal: "ada".into(), ..Sender::default() },
            producer: None,
        };
        let mut at_byte = 0;
        if let Some(message) = message {
            let whole = self.messages.entry(message.clone()).or_default();
            at_byte = whole.len() as u64;
            let body = body_of(&record);
            whole.extend(if is_erased { vec![0; body.len()] } else { body });
            record = wire::Record { kind: kind::DELTA, message, ..record };
        }
        let sealed = seal_at(&stamp, &[record.encode_to_vec().into()], &[at_byte]).remove(0);
        self.records.push(if is_erased { erased(&sealed).unwrap() } else { sealed });
    }

    fn end(&self) -> u64 {
        self.records.len() as u64
    }
}

fn body_of(record: &wire::Record) -> Vec<u8> {
    match &record.body {
        Some(Body::Text(text)) => text.clone().into_bytes(),
        Some(Body::Data(data)) => data.to_vec(),
        _ => Vec::new(),
    }
}

/// What somebody has read, from the start on.
#[derive(Default)]
struct Reader {
    messages: BTreeMap<String, Vec<u8>>,
    /// What is no fold, with its offset.
    seen: Vec<(u64, Bytes)>,
    next: u64,
}

impl Reader {
    /// Takes what a range has.
    fn take(&mut self, log: &Log, from: u64, next: u64, records: impl IntoIterator<Item = (u64, Bytes)>) {
        assert_eq!(from, self.next, "every offset is covered once");
        assert!(next > from);
        let mut last = None;
        for (offset, record) in records {
            assert!((from..next).contains(&offset) && last < Some(offset), "{offset} of {from}..{next}");
            last = Some(offset);
            let decoded = wire::Record::decode(record.clone()).unwrap();
            match decoded.folded_from {
                Some(first) => assert!((from..offset).contains(&first), "{first} of {from}..{offset}"),
                None => self.seen.push((offset, record)),
            }
            if decoded.kind == kind::DELTA {
                let whole = &log.messages[&decoded.message];
                let message = self.messages.entry(decoded.message.clone()).or_default();
                let at = usize::try_from(decoded.at_byte).unwrap();
                assert!(at >= message.len(), "nothing is read twice");
                // What is between was erased.
                message.resize(at, 0);
                match &decoded.body {
                    Some(Body::Reference(reference)) => {
                        let bytes = usize::try_from(reference.bytes).unwrap();
                        assert!(bytes > FOLD_BYTES_MAX && decoded.folded_from.is_some());
                        message.extend_from_slice(&whole[at..at + bytes]);
                    }
                    _ => message.extend(body_of(&decoded)),
                }
            }
        }
        self.next = next;
    }

    fn has_all(mut self, log: &Log) {
        assert_eq!(self.next, log.end());
        for (offset, record) in &self.seen {
            assert_eq!(*record, log.records[usize::try_from(*offset).unwrap()], "it is as it was");
        }
        for (message, whole) in &log.messages {
            let read = self.messages.entry(message.clone()).or_default();
            // An erased end is told by nothing.
            read.resize(read.len().max(whole.len()), 0);
            assert_eq!(read, whole, "{message}");
        }
        let others = log
            .records
            .iter()
            .filter(|record| wire::Record::decode((*record).clone()).unwrap().kind != kind::DELTA);
        let is_other = |record: &Bytes| wire::Record::decode(record.clone()).unwrap().kind != kind::DELTA;
        let seen = self.seen.iter().filter(|(_, record)| is_other(record)).map(|(_, record)| record);
        assert!(others.eq(seen), "what is no delta is there once, in its order");
    }
}

fn run<F: Future>(future: F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(future)
}

/// A session that is live.
struct Session {
    store: MemoryStore,
    tail: Arc<Tail>,
    log: LogId,
    term: Term,
    version: Version,
    progress: Progress,
    rests: Rests,
}

impl Session {
    /// It has these records before it is live.
    async fn new(records: &[Bytes]) -> Self {
        let store = MemoryStore::default();
        let name = SessionId::parse("s").unwrap();
        let opened = store.open(&name).await.unwrap();
        let progress = Progress {
            session: name,
            log: opened.log,
            lineage: Arc::new(Lineage::beginning(0)),
            start: 0,
            end: 0,
            closed: false,
            view: Arc::default(),
        };
        let tail = Arc::new(Tail::new(Arc::default()));
        let (log, term, version) = (opened.log, opened.term, opened.version);
        let mut session = Self { store, tail, log, term, version, progress, rests: Rests::default() };
        for records in records.chunks(1000) {
            session.append(records).await;
        }
        session.tail.loaded(session.progress.clone());
        session
    }

    async fn append(&mut self, records: &[Bytes]) {
        let base = self.progress.end;
        let batch = Batch {
            id: BatchId(u128::from(base)),
            base,
            last_time_ms: base,
            records: records.to_vec(),
            projection: None,
            origin: None,
            erase: Vec::new(),
            reservation: Reservation::none(),
        };
        self.version = self.store.append(self.log, self.term, self.version, batch).await.unwrap();
        self.progress.end += records.len() as u64;
    }

    async fn publish(&mut self, records: &[Bytes]) {
        let from = self.progress.end;
        self.append(records).await;
        self.tail.extend(from, records.to_vec(), false, Arc::default());
    }

    fn subscribe(&self, from: u64, view: ReadView, rollup: Duration) -> Subscription {
        let (store, reader) = (Arc::new(self.store.clone()), self.tail.attach().unwrap());
        let subscription = Subscription::new(1, Encoding::Proto, store, reader, self.progress.clone(), from);
        match view {
            ReadView::Raw => subscription,
            ReadView::Folded => {
                subscription.folded((!rollup.is_zero()).then(|| (rollup, self.rests.place(1))))
            }
        }
    }

    /// What it has now: none when it waits, or rests.
    async fn poll(&self, subscription: &mut Subscription) -> Option<wire::Delivery> {
        // A store answers at the second look, or the third.
        for _ in 0..1000 {
            let event = poll_fn(|context| Poll::Ready(subscription.poll_next(context))).await;
            match event {
                Poll::Ready(Some(Event::Delivery { frame, .. })) => {
                    let Frame::Delivery(delivery) =
                        decode_server(Encoding::Proto, frame.into_bytes()).unwrap()
                    else {
                        panic!("it is a delivery");
                    };
                    return Some(delivery);
                }
                Poll::Ready(other) => panic!("{other:?}"),
                Poll::Pending if self.rests.next().is_some() => return None,
                Poll::Pending => tokio::task::yield_now().await,
            }
        }
        None
    }

    /// Waits for as long as somebody rests.
    async fn rest(&self) -> Option<Duration> {
        let at = self.rests.next()?;
        let rest = at.saturating_duration_since(Instant::now());
        advance(rest).await;
        self.rests.wake(Instant::now());
        Some(rest)
    }
}

/// The records of a delivery, with their offsets.
fn delivered(delivery: &wire::Delivery) -> Vec<(u64, Bytes)> {
    let offsets = match delivery.offsets.is_empty() {
        true if delivery.records.is_empty() => Vec::new(),
        true => (delivery.from..delivery.next).collect(),
        false => delivery.offsets.clone(),
    };
    assert_eq!(offsets.len(), delivery.records.len());
    offsets.into_iter().zip(delivery.records.iter().map(|record| record.encode_to_vec().into())).collect()
}

/// The same, of which each record is as the generated code writes it: a delivery is decoded here.
fn rewritten(log: &Log) -> Log {
    let again = |record: &Bytes| wire::Record::decode(record.clone()).unwrap().encode_to_vec().into();
    Log { records: log.records.iter().map(again).collect(), messages: log.messages.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Some of it raw, some folded, cut anywhere.
    #[test]
    fn any_cut_comes_to_the_same(
        steps in steps(40_000, 120),
        cuts in prop::collection::vec((any::<bool>(), 1..40usize, prop_oneof![Just(1), 1..300usize, Just(usize::MAX)]), 1..20),
    ) {
        let log = Log::of(&steps);
        let (mut reader, mut cuts) = (Reader::default(), cuts.iter().cycle());
        while reader.next < log.end() {
            let (is_folded, records, bytes_max) = *cuts.next().unwrap();
            let from = reader.next;
            let rest = &log.records[usize::try_from(from).unwrap()..];
            let part = &rest[..records.min(rest.len())];
            if !is_folded {
                reader.take(&log, from, from + part.len() as u64, (from..).zip(part.iter().cloned()));
                continue;
            }
            let mut folding = Folding::default();
            let next = folding.take(from, part, None, bytes_max);
            let passed = folding.finish();
            let bytes: usize = passed.records.iter().map(Bytes::len).sum();
            assert!(bytes <= bytes_max || passed.records.len() == 1, "{bytes} of {bytes_max}");
            reader.take(&log, from, next, passed.offsets.into_iter().zip(passed.records));
        }
        reader.has_all(&log);
    }

    /// Subscriptions of every view, one after the other, while records come.
    #[test]
    fn any_reader_comes_to_the_same(
        steps in steps(40_000, 150),
        before in 0..150usize,
        batches in prop::collection::vec(1..12usize, 1..20),
        readers in prop::collection::vec((0..3usize, 1..6usize, any::<bool>()), 1..20),
    ) {
        let log = rewritten(&Log::of(&steps));
        run(async {
            let before = before.min(log.records.len());
            let mut session = Session::new(&log.records[..before]).await;
            let (mut batches, mut readers) = (batches.iter().cycle(), readers.iter().cycle());
            let mut rest = &log.records[before..];
            let mut reader = Reader::default();
            while reader.next < log.end() {
                let (view, deliveries, publishes) = *readers.next().unwrap();
                let (view, rollup) = [(ReadView::Raw, Duration::ZERO), (ReadView::Folded, Duration::ZERO), (ReadView::Folded, ROLLUP)][view];
                let mut subscription = session.subscribe(reader.next, view, rollup);
                for _ in 0..deliveries {
                    if publishes && !rest.is_empty() {
                        let (some, others) = rest.split_at((*batches.next().unwrap()).min(rest.len()));
                        session.publish(some).await;
                        rest = others;
                    }
                    match session.poll(&mut subscription).await {
                        Some(delivery) => reader.take(&log, delivery.from, delivery.next, delivered(&delivery)),
                        None if session.rest().await.is_some() => {}
                        None => break,
                    }
                }
                drop(subscription);
                assert_eq!(session.rests.next(), None, "who has gone does not rest");
                if reader.next == session.progress.end && !rest.is_empty() {
                    let (some, others) = rest.split_at((*batches.next().unwrap()).min(rest.len()));
                    session.publish(some).await;
                    rest = others;
                }
            }
            reader.has_all(&log);
        });
    }

    /// Pages, in both directions.
    #[test]
    fn any_page_comes_to_the_same(steps in steps(40_000, 150), limit in 1..20usize) {
        let log = Log::of(&steps);
        run(async {
            let session = Session::new(&log.records).await;
            let pages = PageReader {
                log: LogReader {
                    store: Arc::new(session.store.clone()),
                    session: session.progress.session.clone(),
                    log: session.log,
                },
                filter: None,
                limit,
                unit: Unit::Records,
                view: ReadView::Folded,
            };
            let (mut reader, mut before, mut backwards) = (Reader::default(), log.end(), Vec::new());
            while reader.next < log.end() {
                let page = pages.forwards(reader.next, log.end()).await.unwrap();
                assert!(page.records.len() <= limit);
                reader.take(&log, page.from, page.next, page.records);
            }
            reader.has_all(&log);
            while before > 0 {
                let page = pages.backwards(0, before).await.unwrap();
                assert!(page.next == before && page.from < before && page.records.len() <= limit);
                before = page.from;
                backwards.push(page);
            }
            let mut reader = Reader::default();
            for page in backwards.into_iter().rev() {
                reader.take(&log, page.from, page.next, page.records);
            }
            reader.has_all(&log);
        });
    }
}

fn piece(message: usize, text: &str) -> Step {
    Step::Piece { message, bytes: text.as_bytes().to_vec(), is_plain: true }
}

fn texts(delivery: &wire::Delivery) -> Vec<String> {
    delivery.records.iter().map(|record| String::from_utf8(body_of(record)).unwrap()).collect()
}

#[test]
fn who_comes_late_to_a_long_message_gets_it_in_a_handful_of_deliveries() {
    const DELTAS: usize = 20_000;
    let log = rewritten(&Log::of(&vec![piece(0, "token"); DELTAS]));
    run(async {
        let session = Session::new(&log.records).await;
        let mut subscription = session.subscribe(0, ReadView::Folded, ROLLUP);
        let (mut reader, mut deliveries, mut bytes) = (Reader::default(), 0, 0);
        while reader.next < log.end() {
            let delivery = session.poll(&mut subscription).await.unwrap();
            deliveries += 1;
            bytes += delivery.encoded_len();
            reader.take(&log, delivery.from, delivery.next, delivered(&delivery));
        }
        reader.has_all(&log);
        assert!(deliveries <= 8 && bytes < DELIVERY_BYTES_MAX, "{deliveries} deliveries of {bytes} bytes");
    });
}

#[test]
fn interleaved_messages_are_folded_each_where_its_last_delta_is() {
    let steps = [piece(0, "a"), piece(1, "x"), piece(0, "b"), piece(1, "y"), piece(0, "c")];
    let log = rewritten(&Log::of(&steps));
    run(async {
        let session = Session::new(&log.records).await;
        let mut subscription = session.subscribe(0, ReadView::Folded, Duration::ZERO);
        let delivery = session.poll(&mut subscription).await.unwrap();
        assert_eq!((delivery.from, delivery.next, delivery.offsets.as_slice()), (0, 5, &[3, 4][..]));
        assert_eq!(texts(&delivery), ["xy", "abc"]);
        let from: Vec<_> = delivery.records.iter().map(|record| record.folded_from).collect();
        assert_eq!(from, [Some(1), Some(0)]);
        // In the middle it begins with exactly the rest.
        let mut subscription = session.subscribe(2, ReadView::Folded, Duration::ZERO);
        let delivery = session.poll(&mut subscription).await.unwrap();
        assert_eq!((delivery.from, texts(&delivery)), (2, vec!["y".to_owned(), "bc".to_owned()]));
        assert_eq!(delivery.records.iter().map(|record| record.at_byte).collect::<Vec<_>>(), [1, 1]);
    });
}

#[test]
fn any_piece_that_a_filter_leaves_out_ends_a_fold() {
    let special = |text: &str| Step::Piece { message: 0, bytes: text.into(), is_plain: false };
    let log = Log::of(&[piece(0, "a"), piece(0, "b"), special("c"), piece(0, "d"), piece(0, "e")]);
    let plain = Filter::from_wire(Some(wire::Filter { types: vec![String::new()], ..Default::default() }));
    let shown = folded(0, &log.records, plain.unwrap().as_ref());
    assert_eq!(shown.offsets, [1, 4]);
    let shown = shown.records.iter().map(|record| wire::Record::decode(record.clone()).unwrap());
    let places: Vec<_> = shown.map(|record| (record.at_byte, body_of(&record))).collect();
    assert_eq!(places, [(0, b"ab".to_vec()), (3, b"de".to_vec())]);
}

#[test]
fn deltas_are_gathered_and_nothing_else_waits() {
    let text = |text: &str| piece(0, text);
    let close = Step::Close { message: 0 };
    let steps = [text("a"), text("b"), text("c"), text("d"), Step::Plain, text("e"), close, text("f")];
    let log = rewritten(&Log::of(&steps));
    run(async {
        let mut session = Session::new(&[]).await;
        let mut subscription = session.subscribe(0, ReadView::Folded, ROLLUP);
        let publish = |range: std::ops::Range<usize>| log.records[range].to_vec();
        session.publish(&publish(0..1)).await;
        let first = session.poll(&mut subscription).await.expect("the first comes at once");
        assert_eq!(texts(&first), ["a"]);
        for index in 1..3 {
            session.publish(&publish(index..index + 1)).await;
            assert_eq!(session.poll(&mut subscription).await, None, "it rests");
        }
        assert_eq!(session.rest().await, Some(ROLLUP));
        let gathered = session.poll(&mut subscription).await.unwrap();
        assert_eq!((gathered.from, gathered.next, texts(&gathered)), (1, 3, vec!["bc".to_owned()]));
        session.publish(&publish(3..4)).await;
        assert_eq!(session.poll(&mut subscription).await, None);
        session.publish(&publish(4..5)).await;
        let at_once = session.poll(&mut subscription).await.expect("a message does not wait");
        assert_eq!((at_once.next, texts(&at_once)), (5, vec!["d".to_owned(), String::new()]));
        assert_eq!(session.rests.next(), None);
        session.publish(&publish(5..6)).await;
        assert_eq!(session.poll(&mut subscription).await, None);
        session.publish(&publish(6..7)).await;
        let ended = session.poll(&mut subscription).await.expect("nor does the end of one");
        assert_eq!((texts(&ended), ended.records[0].close.as_str()), (vec!["e".to_owned()], "complete"));
        session.publish(&publish(7..8)).await;
        assert_eq!(session.poll(&mut subscription).await, None);
        // Nothing is held back when there is nothing more to come.
        session
            .tail
            .end(longwire_proto::error::Error::new(longwire_proto::error::ErrorCode::Draining, "drained"));
        let last = session.poll(&mut subscription).await.expect("the end does not wait");
        assert_eq!(texts(&last), ["f"]);
    });
}
