//! What is trimmed leaves the database with the settling that has the trim, and what somebody shows does not.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use redb::ReadableTable as _;

use crate::store::conformance::Session;
use crate::store::local::LocalStore;
use crate::store::local::database::Database;
use crate::store::local::table::chunks::{CHUNKS, Packed};
use crate::store::local::table::doomed::{self, DOOMED, Lost, Tables};
use crate::store::local::table::logs::{LOGS, LogRow};
use crate::store::local::table::shares::SHARES;
use crate::store::local::tests::faulty_disk::FaultyDisk;
use crate::store::local::tests::{Random, manual};
use crate::store::{LogId, Snapshot, Store};

/// Two of them fill a chunk.
const HALF_A_CHUNK: usize = 30_000;

/// Texts that no two records share.
fn distinct(serials: Range<usize>, bytes: usize) -> Vec<String> {
    serials.map(|serial| format!("{serial} {}", "x".repeat(bytes))).collect()
}

async fn append(store: &LocalStore, session: &mut Session, texts: &[String]) {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    session.append(store, &texts).await.unwrap();
}

/// Settles with a snapshot of each, so that they can be trimmed to their ends.
async fn settle(store: &LocalStore, sessions: &[&Session]) {
    let put: Vec<_> = sessions
        .iter()
        .map(|session| {
            let snapshot = Snapshot { through: session.end, rows: Vec::new() };
            store.put_snapshot(session.opened.log, session.opened.term, snapshot)
        })
        .collect();
    store.settle().await.unwrap();
    for put in put {
        put.await.unwrap();
    }
}

/// The offsets of every chunk.
fn chunks(database: &Database) -> Vec<(LogId, Range<u64>)> {
    let found = database.read(|transaction| {
        let mut found = Vec::new();
        for entry in transaction.open_table(CHUNKS)?.iter()? {
            let (key, value) = entry?;
            let (log, base) = key.value();
            found.push((LogId(log), base..Packed::parse(LogId(log), base, value.value())?.end()));
        }
        Ok(found)
    });
    found.unwrap()
}

/// In the order of ids or against it: a plan has its logs in that order.
#[tokio::test]
async fn a_fork_and_a_trim_of_its_parent_settle_together() {
    for case in 0..16 {
        let is = |bit: u32| case & 1 << bit != 0;
        let (fork_is_lower, trimmed_before, crashes, fork_goes) = (is(0), is(1), is(2), is(3));
        let disk = FaultyDisk::new();
        let mut store = disk.store(manual());
        if fork_is_lower {
            store.open(&"fork".parse().unwrap()).await.unwrap();
            store.open(&"low".parse().unwrap()).await.unwrap();
        }
        let mut parent = Session::open(&store, "parent").await;
        let texts = distinct(0..12, HALF_A_CHUNK);
        append(&store, &mut parent, &texts).await;
        settle(&store, &[&parent]).await;
        let (log, term) = (parent.opened.log, parent.opened.term);
        let from = if trimmed_before { 4 } else { 0 };
        store.trim(log, term, from, 1).await.unwrap();
        let fork = parent.fork(&store, "fork", from, 8).await;
        fork.fork(&store, "low", from + 1, 6).await;
        store.trim(log, term, 10, 1).await.unwrap();
        if fork_goes {
            store.delete(fork.opened.log, fork.opened.term).await.unwrap();
        }
        for round in 0..3 {
            if crashes != (round == 1) {
                drop(store);
                store = disk.store(manual());
            } else {
                store.settle().await.unwrap();
            }
            let at = |from: u64, until: u64| texts[from as usize..until as usize].to_vec();
            let expect = async |name: &str, from: u64, mut texts: Vec<String>, forked: bool| {
                texts.extend(forked.then(|| "forked".to_owned()));
                let session = Session::open(&store, name).await;
                assert_eq!(session.opened.start, from, "{name}, case {case}, round {round}");
                assert!(session.texts(&store, from).await == texts, "{name}, case {case}, round {round}");
            };
            expect("parent", 10, at(10, 12), false).await;
            expect("low", from + 1, at(from + 1, 6), true).await;
            if !fork_goes {
                expect("fork", from, at(from, 8), true).await;
            }
        }
        while store.shared.database.write(doomed::step).unwrap() {}
        let left = chunks(&store.shared.database);
        let until = if fork_goes { 6 } else { 8 };
        let mut held = left.iter().filter(|(holder, _)| *holder == log).map(|(_, offsets)| offsets.clone());
        assert!(
            held.all(|offsets| offsets.start >= 10 || from < offsets.end && offsets.start < until),
            "case {case}: {left:?}"
        );
    }
}

/// A trim that nobody minds is carried out by its settling alone.
#[tokio::test]
async fn what_is_trimmed_is_gone_when_that_is_settled() {
    let store = FaultyDisk::new().store(manual());
    let (mut one, mut other) = (Session::open(&store, "a").await, Session::open(&store, "b").await);
    append(&store, &mut one, &distinct(0..20, HALF_A_CHUNK)).await;
    append(&store, &mut other, &distinct(20..40, HALF_A_CHUNK)).await;
    settle(&store, &[&one, &other]).await;
    let growths = store.shared.database.growths();
    for round in 1..20 {
        for session in [&mut one, &mut other] {
            let more = distinct(100 * round..100 * round + 20, HALF_A_CHUNK);
            append(&store, session, &more).await;
        }
        for session in [&one, &other] {
            let (log, term) = (session.opened.log, session.opened.term);
            store.trim(log, term, session.end - 20, 20 * HALF_A_CHUNK as u64).await.unwrap();
        }
        // Nothing is left for a step: what is there when the settling is done stays.
        settle(&store, &[&one, &other]).await;
        let left = chunks(&store.shared.database);
        assert!(left.iter().all(|(_, offsets)| offsets.end > one.end - 20), "round {round}: {left:?}");
    }
    // A free page is used again: the first rounds make the file as large as it gets.
    let grown = store.shared.database.growths() - growths;
    assert!(grown < 10, "the file grew {grown} times while nothing more was kept");
}

/// What a settling has no time for is left to the steps, many logs in one.
#[tokio::test]
async fn a_bounded_part_goes_with_a_settling_and_the_rest_in_steps() {
    const LOGS_TRIMMED: usize = 12;
    let disk = FaultyDisk::new();
    let store = disk.store(manual());
    let mut logs = Vec::new();
    for number in 0..LOGS_TRIMMED {
        let mut session = Session::open(&store, &format!("s{number:02}")).await;
        append(&store, &mut session, &distinct(0..20, HALF_A_CHUNK)).await;
        logs.push(session.opened.log);
    }
    store.settle().await.unwrap();
    drop(store);
    let database = Database::open(Arc::new(disk), 1 << 20).unwrap();
    let before = chunks(&database).len();
    let trim = |looks| {
        database.write(|transaction| {
            let mut rows = transaction.open_table(LOGS)?;
            for log in &logs {
                let row = rows.get(log.0)?.map(|row| LogRow::decode(*log, row.value())).transpose()?;
                let row = LogRow { start: 15, ..row.unwrap() };
                rows.insert(log.0, row.encode(*log).as_slice())?;
            }
            let (mut chunks, mut doomed) = (transaction.open_table(CHUNKS)?, transaction.open_table(DOOMED)?);
            let shares = transaction.open_table(SHARES)?;
            let tables = Tables { logs: &rows, shares: &shares, chunks: &mut chunks, doomed: &mut doomed };
            let lost = logs.iter().map(|log| Lost { holder: *log, offsets: 0..15 }).collect();
            doomed::remove(tables, lost, looks)
        })
    };
    trim(0).unwrap();
    assert_eq!(chunks(&database).len(), before);
    trim(10).unwrap();
    // Of those that were looked at the one across a start stays.
    assert_eq!(chunks(&database).len(), before - 9);
    assert!(database.write(doomed::step).unwrap());
    assert!(!database.write(doomed::step).unwrap(), "one step is enough for all of them");
    let left = chunks(&database);
    assert!(left.iter().all(|(_, offsets)| offsets.end > 15), "{left:?}");
    assert_eq!(left.len(), 3 * LOGS_TRIMMED);
}

/// What a log shows: which log holds each record, and its text.
struct Shown {
    session: Session,
    start: u64,
    records: Vec<(LogId, String)>,
    covered: u64,
}

impl Shown {
    fn end(&self) -> u64 {
        self.start + self.records.len() as u64
    }
}

/// Forks of forks, trims and deletions, settled together in any number and any order, with restarts. After each settling
/// everything is read; in the end nothing is left that nobody shows.
#[tokio::test]
async fn generations_share_chunks_until_the_last_lets_go() {
    const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for seed in 1..=10 {
        let mut random = Random(0x7e1e_5c0e * seed);
        let disk = FaultyDisk::new();
        let mut store = disk.store(manual());
        let mut logs: BTreeMap<&str, Shown> = BTreeMap::new();
        let mut serial = 0;
        for name in NAMES {
            // Ids in this order, whoever begins first and is a fork of whom.
            store.open(&name.parse().unwrap()).await.unwrap();
        }
        for step in 0..140 {
            let name = NAMES[random.below(NAMES.len())];
            let others: Vec<&str> = logs.keys().copied().collect();
            match (random.below(20), logs.get_mut(name)) {
                (0..=4, None) if !others.is_empty() => {
                    let parent = &logs[others[random.below(others.len())]];
                    let start = parent.start + random.below(parent.records.len() + 1) as u64;
                    let base = start + random.below((parent.end() - start) as usize + 1) as u64;
                    let session = parent.session.fork(&store, name, start, base).await;
                    let shown = (start - parent.start) as usize..(base - parent.start) as usize;
                    let mut records = parent.records[shown].to_vec();
                    records.push((session.opened.log, "forked".to_owned()));
                    logs.insert(name, Shown { session, start, records, covered: 0 });
                }
                (0..=4, None) => {
                    let session = Session::open(&store, name).await;
                    let mut shown = Shown { start: 0, records: Vec::new(), covered: 0, session };
                    append(&store, &mut shown.session, &["first".to_owned()]).await;
                    shown.records.push((shown.session.opened.log, "first".to_owned()));
                    logs.insert(name, shown);
                }
                (0..=7, Some(log)) => {
                    let bytes = [10, 9_000, HALF_A_CHUNK, 64_000][random.below(4)];
                    let more = distinct(serial..serial + 1 + random.below(6), bytes);
                    serial += more.len();
                    append(&store, &mut log.session, &more).await;
                    log.records.extend(more.into_iter().map(|text| (log.session.opened.log, text)));
                }
                (8..=12, Some(log)) if log.covered > log.start => {
                    let start = log.start + 1 + random.below((log.covered - log.start) as usize) as u64;
                    let (id, term) = (log.session.opened.log, log.session.opened.term);
                    store.trim(id, term, start, 1).await.unwrap();
                    log.records.drain(..(start - log.start) as usize);
                    log.start = start;
                }
                (13, Some(log)) => {
                    store.delete(log.session.opened.log, log.session.opened.term).await.unwrap();
                    logs.remove(name);
                }
                (14..=16, _) => {
                    let sessions: Vec<&Session> = logs.values().map(|log| &log.session).collect();
                    settle(&store, &sessions).await;
                    logs.values_mut().for_each(|log| log.covered = log.end());
                }
                (17, _) => {
                    drop(store);
                    store = disk.store(manual());
                    for (name, log) in &mut logs {
                        log.session = Session::open(&store, name).await;
                    }
                }
                _ => continue,
            }
            for (name, log) in &logs {
                let found = log.session.texts(&store, log.start).await;
                let expected = log.records.iter().map(|(_, text)| text);
                assert!(found.iter().eq(expected), "{name}, seed {seed}, step {step}");
            }
        }
        store.settle().await.unwrap();
        while store.shared.database.write(doomed::step).unwrap() {}
        for (holder, offsets) in chunks(&store.shared.database) {
            let shows = |log: &Shown| {
                let mut held = (log.start..).zip(&log.records);
                held.any(|(offset, (found, _))| *found == holder && offsets.contains(&offset))
            };
            assert!(logs.values().any(shows), "seed {seed}: nobody shows {offsets:?} of log {}", holder.0);
        }
    }
}
