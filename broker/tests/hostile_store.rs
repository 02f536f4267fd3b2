//! Live sessions over a store with the manners of a distributed log: answers are lost, with the batch durable or not,
//! other owners write in between, reads fail. What was acknowledged stays, once, and readers see it once, in order.
#![allow(clippy::unwrap_used)] // a test: a panic is its failure

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use longwire_broker::ageing::Ageing;
use longwire_broker::clock::Clock;
use longwire_broker::hub::Hub;
use longwire_broker::request::{Answer, Operation, ReplyTo, Request};
use longwire_broker::store::memory::MemoryStore;
use longwire_broker::store::{
    Batch, Capabilities, Cas, Changes, Chunk, Due, Health, ListPage, ListQuery, LogId, Opened, ReadLimit,
    Reservation, Snapshot, Store, StoreError, StoreFuture, Term, Version,
};
use longwire_broker::subscription::{Event, Subscription};
use longwire_core::command::{Command, Reply};
use longwire_proto::codec::{Encoding, decode_server};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::record::{ProducerRef, Sender};
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use longwire_proto::wire::server_frame::Frame;
use prost::Message;
use tokio::sync::{mpsc, watch};

const PUBLISHES: u64 = 1500;
const WRITERS: u64 = 3;
/// A session that nobody uses for this long leaves memory: short, so that it happens in between too.
const IDLE: Duration = Duration::from_millis(1);

struct HostileStore {
    inner: MemoryStore,
    random: Mutex<u64>,
    /// One call in so many fails; 0 for none.
    one_in: u64,
    /// The session whose log is damaged.
    damaged: Option<SessionId>,
    faults: AtomicU64,
}

impl HostileStore {
    fn new(seed: u64, one_in: u64, damaged: Option<SessionId>) -> Self {
        println!("seed {seed}");
        let inner = MemoryStore::default();
        Self { inner, random: Mutex::new(seed), one_in, damaged, faults: AtomicU64::new(0) }
    }

    /// Which of `choices` faults happens now, if any.
    fn fault(&self, choices: u64) -> Option<u64> {
        let mut random = self.random.lock().unwrap();
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        let fault =
            (self.one_in > 0 && (*random).is_multiple_of(self.one_in)).then_some((*random >> 32) % choices);
        self.faults.fetch_add(u64::from(fault.is_some()), Ordering::Relaxed);
        fault
    }
}

fn failed<T: Send + 'static>(error: StoreError) -> StoreFuture<T> {
    Box::pin(async move { Err(error) })
}

impl Store for HostileStore {
    fn open(&self, session: &SessionId) -> StoreFuture<Opened> {
        if self.damaged.as_ref() == Some(session) {
            return failed(StoreError::Corrupt {
                log: LogId(1),
                offset: 7,
                what: "its checksum is wrong".into(),
            });
        }
        self.inner.open(session)
    }

    fn reserve(&self, log: LogId, bytes: usize) -> StoreFuture<Reservation> {
        match self.fault(2) {
            Some(0) => failed(StoreError::Overloaded { scope: "this session", limit: 1 }),
            Some(_) => failed(StoreError::Unavailable("the disk is full".into())),
            None => self.inner.reserve(log, bytes),
        }
    }

    fn append(&self, log: LogId, term: Term, version: Version, batch: Batch) -> StoreFuture<Version> {
        match self.fault(4) {
            Some(0) => failed(StoreError::VersionConflict),
            Some(1) => failed(StoreError::Fenced),
            Some(2) => failed(StoreError::Unknown("the request was lost".into())),
            Some(_) => {
                let applied = self.inner.append(log, term, version, batch);
                Box::pin(async move {
                    applied.await?;
                    Err(StoreError::Unknown("the answer was lost".into()))
                })
            }
            None => self.inner.append(log, term, version, batch),
        }
    }

    fn read(&self, log: LogId, from: u64, limit: ReadLimit) -> StoreFuture<Chunk> {
        self.inner.read(log, from, ReadLimit { records: limit.records.min(7), ..limit })
    }

    fn rows(&self, log: LogId, keys: Vec<Bytes>) -> StoreFuture<Vec<Option<Bytes>>> {
        self.inner.rows(log, keys)
    }

    fn put_snapshot(&self, log: LogId, term: Term, snapshot: Snapshot) -> StoreFuture<()> {
        match self.fault(1) {
            Some(_) => failed(StoreError::Unavailable("the disk is full".into())),
            None => self.inner.put_snapshot(log, term, snapshot),
        }
    }

    fn delete(&self, log: LogId, term: Term) -> StoreFuture<()> {
        self.inner.delete(log, term)
    }

    fn check_erase(&self, log: LogId, ranges: Vec<std::ops::Range<u64>>) -> StoreFuture<()> {
        self.inner.check_erase(log, ranges)
    }

    fn trim(&self, log: LogId, term: Term, start: u64, freed_bytes: u64) -> StoreFuture<()> {
        self.inner.trim(log, term, start, freed_bytes)
    }

    fn rename(&self, log: LogId, term: Term, to: SessionId) -> StoreFuture<()> {
        self.inner.rename(log, term, to)
    }

    fn scan_rows(
        &self,
        log: LogId,
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    ) -> StoreFuture<Vec<(Bytes, Bytes)>> {
        self.inner.scan_rows(log, prefix, after, limit)
    }

    fn list(&self, query: ListQuery) -> StoreFuture<ListPage> {
        self.inner.list(query)
    }

    fn changes(&self, after: u64, limit: usize) -> StoreFuture<Changes> {
        self.inner.changes(after, limit)
    }

    fn commits(&self) -> watch::Receiver<u64> {
        self.inner.commits()
    }

    fn due(&self, until_ms: u64, after: Option<(u64, LogId)>, limit: usize) -> StoreFuture<Vec<Due>> {
        self.inner.due(until_ms, after, limit)
    }

    fn get(&self, key: Bytes) -> StoreFuture<Option<Bytes>> {
        self.inner.get(key)
    }

    fn scan(&self, prefix: Bytes, after: Option<Bytes>, limit: usize) -> StoreFuture<Vec<(Bytes, Bytes)>> {
        self.inner.scan(prefix, after, limit)
    }

    fn cas(&self, writes: Vec<Cas>) -> StoreFuture<()> {
        self.inner.cas(writes)
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn health(&self) -> Health {
        self.inner.health()
    }

    fn shutdown(&self) -> StoreFuture<()> {
        self.inner.shutdown()
    }
}

fn record(text: &str) -> Bytes {
    let record = wire::Record { body: Some(wire::record::Body::Text(text.into())), ..Default::default() };
    Bytes::from(record.encode_to_vec())
}

async fn ask(hub: &Arc<Hub>, session: &SessionId, command: Command) -> Result<Reply, Error> {
    let (answers, mut answered) = mpsc::channel(1);
    let request =
        Request { operation: Operation::Command(command), reply_to: ReplyTo { request: 0, answers } };
    Arc::clone(hub).send(session.clone(), request).await.map_err(|(error, _)| error)?;
    let Answer { result, .. } = answered.recv().await.expect("every request is answered");
    result.map(|reply| reply.expect("a command has a reply"))
}

async fn write(hub: Arc<Hub>, session: SessionId, name: String) -> Vec<(String, u64)> {
    let mut acknowledged = Vec::new();
    for sequence in 0..PUBLISHES {
        let text = format!("{name}-{sequence}");
        let publish = || Command::Publish {
            sender: Sender { principal: "ada".into(), device: String::new() },
            producer: Some(ProducerRef { id: name.clone(), epoch: 0, sequence }),
            if_end: None,
            records: vec![record(&text)],
        };
        let from = loop {
            match ask(&hub, &session, publish()).await {
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
        let progress = reader.loaded().await.unwrap();
        let next = seen.len() as u64;
        let store = Arc::clone(hub.store());
        let mut subscription = Subscription::new(1, Encoding::Proto, store, reader, progress, next);
        // Begun anew now and then: another hand-over from catch-up to live.
        let again = next + 200;
        while (seen.len() as u64) < until.min(again) {
            match subscription.next().await.unwrap() {
                Event::Frame(frame) => panic!("{frame:?} is of a pattern"),
                Event::Delivery { frame, next } => {
                    let Frame::Delivery(delivery) = decode_server(Encoding::Proto, frame).unwrap() else {
                        panic!()
                    };
                    assert_eq!((delivery.from, delivery.next), (seen.len() as u64, next));
                    seen.extend(delivery.records.into_iter().map(|record| match record.body {
                        Some(wire::record::Body::Text(text)) => text,
                        other => panic!("{other:?}"),
                    }));
                }
                Event::Ended { error, .. } => panic!("{error}"),
            }
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_store_loses_repeats_and_reorders_nothing() {
    let store = Arc::new(HostileStore::new(0x0dd_5eed, 10, None));
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
    let faults = store.faults.load(Ordering::Relaxed);
    assert!(faults > PUBLISHES / 10, "{faults} faults");
    hub.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_cannot_be_loaded_says_so_and_the_others_go_on() {
    let damaged = SessionId::parse("damaged").unwrap();
    let store = HostileStore::new(1, 0, Some(damaged.clone()));
    let hub = Hub::new(Arc::new(store), Clock::start(), Ageing::default(), IDLE);
    for _ in 0..20 {
        let error = ask(&hub, &damaged, Command::Describe).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::DataCorrupt);
        assert!(error.message.contains("offset 7"), "{}", error.message);
        let absent = ask(&hub, &SessionId::parse("other").unwrap(), Command::Describe).await.unwrap_err();
        assert_eq!(absent.code, ErrorCode::SessionNotFound);
    }
    hub.drain().await;
}
