//! A session of 100,000 records through its whole life: exported, deleted, imported, forked, trimmed, erased by sender,
//! backed up under load, restored. After each step every record is compared with what it must be by then.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use longwire::{Client, From, Position, RequestError, Session, SessionId, SessionInfo};
use longwire_proto::wire;
use tokio::task::JoinSet;

use crate::support::broker::{Broker, folder, hostile, longwire};
use crate::support::rng::Rng;

/// Records that come from another broker, with the senders that they had there.
const BROUGHT: usize = 50_000;
/// Records that are published here.
const PUBLISHED: usize = 50_000;
const SENDERS: [&str; 3] = ["ada", "bob", "eve"];
/// Records of one step of an import.
const STEP: usize = 1000;
/// Records between two breaths of whoever publishes.
const PIPELINED: usize = 1000;
/// Records acknowledged before and after a backup.
const AROUND: usize = 2000;
/// `kind` of tombstones, and of the records of a session itself.
const TOMBSTONE: u32 = 11;
const SESSION: u32 = 10;

/// So much of a number of records, or a tenth: over a hostile store every one is read in many pieces, and waited for.
fn sized(records: usize) -> usize {
    if hostile().is_some() { records / 10 } else { records }
}

/// What a record must be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    kind: u32,
    text: String,
    /// Who sent it first, wherever that was.
    by: String,
}

impl Expected {
    fn message(text: String, by: &str) -> Self {
        Self { kind: 0, text, by: by.to_owned() }
    }

    fn own() -> Self {
        Self { kind: SESSION, text: String::new(), by: String::new() }
    }

    fn erase(&mut self) {
        *self = Self { kind: TOMBSTONE, text: String::new(), by: String::new() };
    }

    fn of(record: &wire::Record) -> Self {
        let text = match &record.body {
            Some(wire::record::Body::Text(text)) => text.clone(),
            _ => String::new(),
        };
        assert!(record.time_ms > 0, "a record has a time");
        let sender = record.sender.as_ref().expect("a record has a sender");
        let original = record.original.as_ref().and_then(|original| original.sender.as_ref());
        match record.kind {
            0 => Self::message(text, &original.unwrap_or(sender).principal),
            SESSION => Self::own(),
            kind => Self { kind, text, by: String::new() },
        }
    }
}

/// A session as it must be: its records from `start` on.
#[derive(Clone, Debug)]
struct Log {
    start: u64,
    records: Vec<Expected>,
}

impl Log {
    fn end(&self) -> u64 {
        self.records.len() as u64
    }

    /// Compares every record, read forwards.
    async fn check(&self, step: &str, session: &Session) {
        let info = session.describe().await.unwrap();
        assert_eq!((info.start, info.end), (self.start, self.end()), "{step}");
        let epoch = epochs(&info);
        let mut next = self.start;
        while next < info.end {
            let at = Position { epoch: epoch(next), offset: next };
            let page = session.read().after(at).limit(1000).as_sent().await.unwrap();
            assert_eq!(page.from, next, "{step}: forwards");
            self.compare(step, page.from, page.next, &page.records);
            next = page.next;
        }
    }

    /// Compares every record, read forwards, backwards and by following.
    async fn check_every_way(&self, step: &str, session: &Session) {
        self.check(step, session).await;
        let info = session.describe().await.unwrap();
        let epoch = epochs(&info);
        let mut end = info.end;
        while end > self.start {
            let at = Position { epoch: epoch(end - 1), offset: end };
            let page = session.read().before(at).limit(1000).as_sent().await.unwrap();
            assert_eq!(page.next, end, "{step}: backwards");
            self.compare(step, page.from, page.next, &page.records);
            end = page.from;
        }
        let mut reader = session.subscribe(From::Start).await.unwrap();
        for (offset, expected) in (self.start..).zip(&self.records[self.start as usize..]) {
            let record = reader.next().await.unwrap().unwrap();
            assert_eq!((record.offset, record.kind), (offset, expected.kind), "{step}: following");
            if record.kind != SESSION {
                assert_eq!(record.text().unwrap_or_default(), expected.text, "{step}: following, {offset}");
            }
        }
    }

    fn compare(&self, step: &str, from: u64, next: u64, records: &[wire::Record]) {
        assert_eq!(next - from, records.len() as u64, "{step}: no filter");
        for (offset, record) in (from..next).zip(records) {
            assert_eq!(Expected::of(record), self.records[offset as usize], "{step}: offset {offset}");
        }
    }
}

/// The epoch of each offset.
fn epochs(info: &SessionInfo) -> impl Fn(u64) -> u64 {
    |offset| info.lineage.iter().rfind(|entry| entry.from_offset <= offset).map_or(0, |entry| entry.epoch)
}

fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(broker: Option<&Broker>, arguments: &[&str]) {
    let url = broker.map(Broker::url);
    let before: Vec<&str> = url.iter().flat_map(|url| ["--url", url.as_str()]).collect();
    let output = longwire(&[&before[..], arguments].concat());
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
}

/// Brings records of several senders from another broker.
async fn bring(client: &Client, id: &SessionId, rng: &mut Rng) -> Log {
    let begin = wire::ImportBegin {
        end: sized(BROUGHT) as u64,
        lineage: vec![wire::LineageEntry { epoch: 0, from_offset: 0 }],
        session: "elsewhere/journey".into(),
        ..Default::default()
    };
    let import = client.import(id, "first", begin);
    let mut log = Log { start: 0, records: Vec::new() };
    while log.records.len() < sized(BROUGHT) {
        let from = log.end();
        let step: Vec<_> = (from..from + STEP as u64)
            .map(|number| {
                let by = SENDERS[rng.below(SENDERS.len() as u64) as usize];
                Expected::message(format!("{by} {number} {}", "x".repeat(rng.below(60) as usize)), by)
            })
            .collect();
        let records = step.iter().map(|expected| wire::Record {
            time_ms: 1_700_000_000_000,
            sender: Some(wire::Sender { principal: expected.by.clone(), ..Default::default() }),
            body: Some(wire::record::Body::Text(expected.text.clone())),
            ..Default::default()
        });
        let records = records.collect();
        let finish = log.records.len() + STEP == sized(BROUGHT);
        log.records.extend(step);
        assert_eq!(import.step(from, records, finish).await.unwrap().next, log.end());
    }
    log.records.push(Expected::own());
    log
}

async fn publish(session: &Session, log: &mut Log, rng: &mut Rng) {
    for _ in 0..sized(PUBLISHED) / PIPELINED {
        let from = log.end();
        let texts: Vec<_> = (from..from + PIPELINED as u64)
            .map(|number| format!("here {number} {}", "y".repeat(rng.below(60) as usize)))
            .collect();
        let mut last = None;
        for text in &texts {
            last = Some(session.enqueue(text.as_str()).await.unwrap());
        }
        assert_eq!(last.unwrap().await.unwrap().from.offset, log.end() + PIPELINED as u64 - 1);
        log.records.extend(texts.into_iter().map(|text| Expected::message(text, "anonymous")));
    }
}

/// Publishes one after the other; `acknowledged` counts.
async fn go_on(session: Session, acknowledged: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Vec<Expected> {
    let mut published = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let text = format!("{} during the backup {}", session.id(), published.len());
        session.publish(text.as_str()).await.unwrap();
        published.push(Expected::message(text, "anonymous"));
        acknowledged.store(published.len() as u64, Ordering::SeqCst);
    }
    published
}

async fn reach(counts: &[Arc<AtomicU64>], more: u64) -> Vec<u64> {
    let known = || counts.iter().map(|count| count.load(Ordering::SeqCst)).collect::<Vec<_>>();
    let wanted: Vec<u64> = known().iter().map(|count| count + more).collect();
    while known().iter().zip(&wanted).any(|(known, wanted)| known < wanted) {
        tokio::task::yield_now().await;
    }
    known()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_through_its_whole_life() {
    let mut rng = Rng::from_env(7);
    let (around, data) = folder();
    let backups = around.path().join("backups");
    let settings = [("BACKUPS", name(&backups)), ("SESSION_IDLE_MS", "100")];
    let mut broker = Broker::start_with(&data, &settings);
    let mut client = Client::connect(&broker.url()).unwrap();
    let session = client.session("acme/journey").unwrap();

    let mut log = bring(&client, session.id(), &mut rng).await;
    publish(&session, &mut log, &mut rng).await;
    log.check_every_way("written", &session).await;

    for form in ["jsonl", "binary"] {
        let file = around.path().join(form);
        run(Some(&broker), &["export", "acme/journey", "-o", name(&file), "--format", form]);
        session.delete().await.unwrap();
        assert!(matches!(session.describe().await, Err(RequestError::NotFound(_))));
        run(Some(&broker), &["import", name(&file), "--to", "acme/journey"]);
        log.records.push(Expected::own());
        log.check(&format!("exported as {form}, deleted and imported"), &session).await;
    }
    broker.kill();
    broker = Broker::start_with(&data, &settings);
    client = Client::connect(&broker.url()).unwrap();
    let session = client.session("acme/journey").unwrap();
    log.check_every_way("after a kill", &session).await;

    let base = sized(60_000) as u64;
    let info = session.describe().await.unwrap();
    let epoch = info.lineage.iter().rfind(|entry| entry.from_offset <= base).unwrap().epoch;
    let fork = client.session("acme/fork").unwrap();
    session.fork(fork.id(), Some(Position { epoch, offset: base }), None).await.unwrap();
    let mut forked = Log { start: 0, records: log.records[..base as usize].to_vec() };
    forked.records.push(Expected::own());
    forked.check("forked", &fork).await;

    log.start = sized(20_000) as u64;
    session.trim(Position { epoch, offset: log.start }).await.unwrap();
    log.check("trimmed", &session).await;
    forked.check("the fork of what was trimmed", &fork).await;

    let of_ada = |records: &[Expected]| records.iter().filter(|record| record.by == "ada").count() as u64;
    let erased = session.erase_sender("ada", "asked").await.unwrap();
    assert_eq!(erased.records, of_ada(&log.records[log.start as usize..]));
    let start = log.start as usize;
    for record in log.records[start..].iter_mut().filter(|record| record.by == "ada") {
        record.erase();
    }
    forked.records[start..base as usize].clone_from_slice(&log.records[start..base as usize]);
    log.records.push(Expected::own());
    log.check_every_way("erased by sender", &session).await;
    forked.check("the fork of what was erased", &fork).await;
    // What the other one has trimmed is erased where it still is.
    let erased = fork.erase_sender("ada", "asked").await.unwrap();
    assert_eq!(erased.records, of_ada(&forked.records));
    forked.records.iter_mut().filter(|record| record.by == "ada").for_each(Expected::erase);
    forked.records.push(Expected::own());
    forked.check_every_way("erased in the fork too", &fork).await;
    log.check("the other one does not see that", &session).await;

    let stop = Arc::new(AtomicBool::new(false));
    let counts: Vec<Arc<AtomicU64>> = (0..2).map(|_| Arc::default()).collect();
    let mut writers = JoinSet::new();
    for (index, session) in [&session, &fork].into_iter().enumerate() {
        let writing = go_on(session.clone(), Arc::clone(&counts[index]), Arc::clone(&stop));
        writers.spawn(async move { (index, writing.await) });
    }
    let before = reach(&counts, sized(AROUND) as u64).await;
    let made = client.back_up("monday").await.unwrap();
    assert_eq!(made.sessions, 2);
    reach(&counts, sized(AROUND) as u64).await;
    stop.store(true, Ordering::SeqCst);
    let mut published = [Vec::new(), Vec::new()];
    while let Some(written) = writers.join_next().await {
        let (index, records) = written.unwrap();
        published[index] = records;
    }
    let [first, second] = published;
    let (until_backup, forked_until_backup) = (log.end(), forked.end());
    log.records.extend(first);
    forked.records.extend(second);
    log.check("written during a backup", &session).await;
    forked.check("written during a backup", &fork).await;
    assert!(broker.terminate());

    let restored = around.path().join("restored");
    run(None, &["store", "restore", name(&backups.join("monday")), "--data", name(&restored)]);
    run(None, &["store", "check", "--data", name(&restored)]);
    let broker = Broker::start(&restored);
    let client = Client::connect(&broker.url()).unwrap();
    let logs = [(session, log, until_backup, before[0]), (fork, forked, forked_until_backup, before[1])];
    for (old, mut log, until_backup, acknowledged) in logs {
        let session = client.session(old.id().as_str()).unwrap();
        let end = session.describe().await.unwrap().end;
        assert!(end >= until_backup + acknowledged, "what was acknowledged before the backup is in it");
        assert!(end <= log.end(), "{end} is more than was ever written");
        log.records.truncate(end as usize);
        log.check("restored", &session).await;
        let next = session.publish("after the restore").await.unwrap();
        assert_eq!(next.from.offset, end);
        log.records.push(Expected::message("after the restore".into(), "anonymous"));
        log.check_every_way("goes on after the restore", &session).await;
    }
}
