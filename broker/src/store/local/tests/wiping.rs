//! Erased and deleted content is in no file any more once [`LocalStore::erased`] says so.
#![allow(clippy::single_range_in_vec_init, reason = "what is erased is a list of ranges, often of one")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::store::conformance::Session;
use crate::store::conformance::erasure::{sealed, tombstone};
use crate::store::conformance::lifecycle::{beginning, lineage};
use crate::store::local::LocalStore;
use crate::store::local::segment::SegmentPool;
use crate::store::local::shared::Tuning;
use crate::store::local::table::rows::ROWS;
use crate::store::local::table::shred;
use crate::store::local::tests::faulty_disk::{Faults, FaultyDisk};
use crate::store::local::tests::{Random, manual};
use crate::store::{Batch, Projection, ReadLimit, Snapshot, Store, StoreError};

const MARK: &[u8] = b"needle-";
const DIGITS: usize = 12;

/// Text that is found again, whatever part of it is left: it repeats a number that no other has.
fn needle(number: u64, bytes: usize) -> String {
    let one = format!("needle-{number:012}.");
    one.repeat(1 + bytes / one.len())
}

/// The numbers of the needles in every file.
pub(crate) fn needles<'f>(files: impl IntoIterator<Item = &'f [u8]>) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for mut rest in files {
        // Of the standard library, because it is fast in an unoptimised build too.
        while rest.skip_until(MARK[0]).unwrap() > 0 {
            let digits = rest.strip_prefix(&MARK[1..]).and_then(|rest| rest.get(..DIGITS));
            let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
            found.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
        }
    }
    found
}

fn on(disk: &FaultyDisk) -> BTreeSet<u64> {
    let files = disk.files();
    needles(files.values().map(Vec::as_slice))
}

/// Where they are, for the text of a failure.
fn whereabouts(disk: &FaultyDisk, left: &[u64]) -> String {
    let mut places = String::new();
    for (name, bytes) in disk.files() {
        for number in left {
            let text = needle(*number, 0).into_bytes();
            let Some(at) = bytes.windows(text.len()).position(|window| window == text) else { continue };
            let around = bytes[at.saturating_sub(80)..bytes.len().min(at + 160)].escape_ascii();
            places += &format!("\n{name}, page {} of {}: {around}", at / 4096, bytes.len() / 4096);
        }
    }
    places
}

/// A session and the needles of its records, which are none where they were erased.
struct Log {
    session: Session,
    start: u64,
    base: u64,
    needles: Vec<Option<u64>>,
    beside: Vec<u64>,
}

/// Sessions that are worked on at random, and the needles that must be nowhere.
struct World {
    random: Random,
    next: u64,
    batches: u128,
    logs: BTreeMap<String, Log>,
    dead: BTreeSet<u64>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self { random: Random(seed), next: 1, batches: 0, logs: BTreeMap::new(), dead: BTreeSet::new() }
    }

    fn text(&mut self) -> (u64, String) {
        let length = [10, 60, 300, 1200, 5000, 20_000, 80_000][self.random.below(7)];
        let number = self.next;
        self.next += 1;
        (number, needle(number, self.random.below(length)))
    }

    async fn append(&mut self, store: &LocalStore, name: &str) {
        if !self.logs.contains_key(name) {
            let session = Session::open(store, name).await;
            let log = Log { start: 0, base: 0, needles: Vec::new(), beside: Vec::new(), session };
            self.logs.insert(name.into(), log);
        }
        let texts: Vec<(u64, String)> = (0..self.random.below(6)).map(|_| self.text()).collect();
        let beside = (self.random.below(3) == 0).then(|| self.text());
        let from = self.random.below(40) as u64;
        let erase = (self.random.below(4) == 0).then(|| from..from + self.random.below(20) as u64);
        let log = self.logs.get_mut(name).unwrap();
        let session = &mut log.session;
        let records =
            (session.end..).zip(&texts).map(|(offset, (_, text))| sealed(offset + 1, text)).collect();
        // Only its own, and only what there is.
        let erase: Vec<Range<u64>> = erase
            .map(|range| range.start.max(log.base)..range.end.min(session.end))
            .filter(|range| !range.is_empty())
            .into_iter()
            .collect();
        let projection = beside.as_ref().map(|(_, text)| Projection {
            row: Bytes::copy_from_slice(&text.as_bytes()[..text.len().min(500)]),
            ..Projection::default()
        });
        for offset in erase.iter().cloned().flatten() {
            self.dead.extend(log.needles[(offset - log.base) as usize].take());
        }
        self.batches += 1;
        let id = crate::store::BatchId(1 << 100 | self.batches);
        let batch =
            Batch { id, records, erase, projection, ..crate::store::conformance::batch(1, session.end, &[]) };
        let (id, term) = (session.opened.log, session.opened.term);
        session.version = store.append(id, term, session.version, batch).await.unwrap();
        session.end += texts.len() as u64;
        log.needles.extend(texts.iter().map(|(number, _)| Some(*number)));
        log.beside.extend(beside.map(|(number, _)| number));
    }

    async fn snapshot(&mut self, store: &LocalStore, name: &str) {
        let rows: Vec<(Bytes, u64, String)> = (0..1 + self.random.below(4))
            .map(|_| {
                let (number, text) = self.text();
                (Bytes::from(vec![b'k', self.random.below(5) as u8]), number, text)
            })
            .collect();
        let gone = Bytes::from(vec![b'k', self.random.below(5) as u8]);
        let Some(log) = self.logs.get_mut(name) else { return };
        log.beside.extend(rows.iter().map(|(_, number, _)| *number));
        let rows = rows.into_iter().map(|(key, _, text)| (key, Some(Bytes::from(text))));
        let rows = rows.chain([(gone, None)]).collect();
        let snapshot = Snapshot { through: log.session.end, rows };
        drop(store.put_snapshot(log.session.opened.log, log.session.opened.term, snapshot));
        if self.random.below(4) == 0 {
            store.settle().await.unwrap();
            let start = log.start.max(log.session.end / 2);
            store.trim(log.session.opened.log, log.session.opened.term, start, 0).await.unwrap();
            log.start = start;
        }
    }

    async fn delete(&mut self, store: &LocalStore, name: &str) {
        let Some(log) = self.logs.remove(name) else { return };
        store.delete(log.session.opened.log, log.session.opened.term).await.unwrap();
        self.dead.extend(log.needles.into_iter().flatten());
        self.dead.extend(log.beside);
    }

    async fn work(&mut self, store: &LocalStore, steps: usize) {
        for _ in 0..steps {
            let name = format!("s{}", self.random.below(6));
            match self.random.below(20) {
                0..=11 => self.append(store, &name).await,
                12 | 13 => self.snapshot(store, &name).await,
                14 => self.delete(store, &name).await,
                _ => store.settle().await.unwrap(),
            }
        }
    }

    /// Everything that is not erased is there, and what is erased is a tombstone.
    async fn check(&self, store: &LocalStore) {
        for (name, log) in &self.logs {
            let mut next = log.start;
            while next < log.session.end {
                let limit = ReadLimit { records: 7, bytes: usize::MAX };
                let chunk = store.read(log.session.opened.log, next, limit).await.unwrap();
                assert!(chunk.from == next && !chunk.records.is_empty(), "{name} {next}");
                for record in chunk.records {
                    match log.needles[(next - log.base) as usize] {
                        Some(number) => assert_eq!(needles([&record[..]]), [number].into(), "{name} {next}"),
                        None => assert_eq!(record, tombstone(next + 1), "{name} {next}"),
                    }
                    next += 1;
                }
            }
        }
    }

    async fn reopen(&mut self, store: &LocalStore) {
        for (name, log) in &mut self.logs {
            log.session = Session::open(store, name).await;
        }
    }
}

fn tuning() -> Tuning {
    Tuning { segment_bytes: 256 << 10, ..manual() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_erased_is_in_no_file() {
    let seeds: u64 = std::env::var("LONGWIRE_TEST_WIPES").map_or(6, |count| count.parse().unwrap());
    let first = std::env::var("LONGWIRE_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    for seed in first..first + seeds {
        println!("seed {seed}");
        let mut world = World::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let disk = FaultyDisk::new();
        let mut store = disk.store(tuning());
        let mut present = 0;
        for round in 0..5 {
            world.work(&store, 60).await;
            present += on(&disk).intersection(&world.dead).count();
            store.erased().await.unwrap();
            let left: Vec<u64> = on(&disk).intersection(&world.dead).copied().collect();
            world.check(&store).await;
            let what = format!("seed {seed}, round {round}");
            assert!(left.is_empty(), "{what}: {left:?} are left: {}", whereabouts(&disk, &left));
            if round % 2 == 1 {
                drop(store);
                store = disk.store(tuning());
                let left: Vec<u64> = on(&disk).intersection(&world.dead).copied().collect();
                assert!(left.is_empty(), "seed {seed}, round {round}, reopened: {left:?} are left");
                world.reopen(&store).await;
                world.check(&store).await;
            }
        }
        assert!(present > 20, "seed {seed}: {present} were found before, so not finding any says nothing");
    }
}

/// Without a wipe, erased content stays in free pages: this is what the others would find.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_wipe_it_stays() {
    let disk = FaultyDisk::new();
    let store = disk.store(tuning());
    let mut world = World::new(7);
    world.work(&store, 200).await;
    store.settle().await.unwrap();
    while !store.shared.state().erasing.is_empty() {
        store.settle().await.unwrap();
        tokio::task::yield_now().await;
    }
    drop(store);
    drop(disk.store(tuning()));
    let files = disk.files();
    let left = needles([files["sessions.redb"].as_slice()]);
    assert!(left.intersection(&world.dead).count() > 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wipe_goes_on_after_a_crash() {
    let disk = FaultyDisk::new();
    let store = disk.store(tuning());
    let mut world = World::new(11);
    world.work(&store, 150).await;
    let mut cuts = Vec::new();
    let wiped = {
        let wiping = store.erased();
        tokio::pin!(wiping);
        let mut random = Random(5);
        loop {
            let chance = random.below(5);
            cuts.push(disk.after_power_cut(|| random.below(4) < chance));
            tokio::select! {
                wiped = &mut wiping => break wiped,
                () = tokio::task::yield_now() => {}
            }
        }
    };
    wiped.unwrap();
    println!("{} cuts", cuts.len());
    let step = (cuts.len() / 12).max(1);
    for (index, cut) in cuts.into_iter().enumerate().step_by(step) {
        let store = cut.store(tuning());
        store.erased().await.unwrap();
        let left: Vec<u64> = on(&cut).intersection(&world.dead).copied().collect();
        assert!(left.is_empty(), "cut {index}: {left:?} are left");
        world.reopen(&store).await;
        world.check(&store).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wipe_is_not_put_off_for_longer_than_it_may_be() {
    let disk = FaultyDisk::new();
    let store = disk.store(Tuning { erase_within: Duration::from_millis(40), ..tuning() });
    let mut world = World::new(3);
    world.work(&store, 40).await;
    let mut wiped = store.shared.wiped.subscribe();
    let target = store.shared.state().erased_commit;
    assert!(target > 0);
    wiped.wait_for(|wiped| *wiped >= target).await.unwrap();
    assert_eq!(on(&disk).intersection(&world.dead).count(), 0);
}

/// What a fork shows of a deleted log stays, and nothing else of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_deleted_log_only_what_others_show_is_left() {
    for settle in [false, true] {
        let disk = FaultyDisk::new();
        let store = disk.store(tuning());
        let mut parent = Session::open(&store, "parent").await;
        let texts: Vec<String> = (0..40).map(|number| needle(number, 900)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        parent.publish(&store, &texts, &[]).await.unwrap();
        let mut forks = Vec::new();
        for (name, start, base) in [("one", 5, 9), ("two", 7, 20), ("three", 30, 32)] {
            let session = Session::open(&store, name).await;
            let epochs = lineage(&[(0, 0), (1, base)]);
            let first = beginning(start, base, Some(parent.opened.log), epochs, &[]);
            let (log, term) = (session.opened.log, session.opened.term);
            store.append(log, term, session.version, first).await.unwrap();
            forks.push((name, start..base));
        }
        if settle {
            store.settle().await.unwrap();
        }
        store.delete(parent.opened.log, parent.opened.term).await.unwrap();
        let mut shown: BTreeSet<u64> = forks.iter().flat_map(|(_, range)| range.clone()).collect();
        store.erased().await.unwrap();
        assert_eq!(on(&disk), shown);
        for gone in 0..3 {
            for (name, range) in &forks[gone..] {
                let session = Session::open(&store, name).await;
                let bodies = session.bodies(&store, range.start, 9).await;
                assert_eq!(bodies, texts[range.start as usize..range.end as usize]);
            }
            let session = Session::open(&store, forks[gone].0).await;
            store.delete(session.opened.log, session.opened.term).await.unwrap();
            shown = forks[gone + 1..].iter().flat_map(|(_, range)| range.clone()).collect();
            store.erased().await.unwrap();
            assert_eq!(on(&disk), shown);
        }
    }
}

/// A backup keeps the pages of its moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wipe_waits_for_a_backup_and_a_backup_does_not_outlast_the_deadline() {
    let disk = FaultyDisk::new();
    let store = disk.store(tuning());
    let mut world = World::new(13);
    world.work(&store, 60).await;
    store.settle().await.unwrap();
    // In the middle of a backup.
    let permit = std::sync::Arc::clone(&store.shared.backups).acquire_owned().await.unwrap();
    let moment = store.shared.database.snapshot().unwrap();
    world.work(&store, 60).await;
    let wiping = store.erased();
    tokio::pin!(wiping);
    tokio::select! {
        _ = &mut wiping => panic!("it did not wait"),
        () = async {
            while !store.shared.state().wipe_waits {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    drop(moment);
    drop(permit);
    wiping.await.unwrap();
    assert_eq!(on(&disk).intersection(&world.dead).count(), 0);
    assert!(!store.shared.state().wipe_waits);
    let around = tempfile::tempdir().unwrap();
    {
        // As it is when three quarters of the time are over.
        let mut state = store.shared.state();
        state.wipe_waits = true;
        state.erased_since = Instant::now().checked_sub(tuning().erase_within);
        assert!(state.erased_since.is_some());
    }
    let refused = store.back_up(around.path().join("late")).await;
    assert!(
        matches!(&refused, Err(StoreError::Unavailable(what)) if what.contains("deadline")),
        "{refused:?}"
    );
    assert_eq!(std::fs::read_dir(around.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_puts_it_off_and_is_given_its_room_back() {
    let disk = FaultyDisk::new();
    let store = disk.store(tuning());
    let mut world = World::new(9);
    world.work(&store, 100).await;
    store.settle().await.unwrap();
    let used = disk.length("sessions.redb");
    disk.set_faults(Faults { fail_sync: None, room: Some(disk.used()) });
    let failures = disk.failures();
    tokio::select! {
        _ = store.erased() => panic!("there was room"),
        () = async {
            while disk.failures() == failures {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    assert_eq!(disk.length("sessions.redb"), used);
    world.check(&store).await;
    disk.set_faults(Faults::default());
    drop(store);
    let store = disk.store(tuning());
    store.erased().await.unwrap();
    assert_eq!(on(&disk).intersection(&world.dead).count(), 0);
}

/// A page that a transaction made and changed in place keeps nothing of what was in it. Here one page has all the rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_page_in_use_keeps_what_was_replaced_or_removed() {
    const LOG: u64 = 1 << 40;
    let disk = FaultyDisk::new();
    let store = disk.store(tuning());
    let put = |rows: &[(&[u8], Option<String>)]| {
        let written = store.shared.database.write(|transaction| {
            let mut table = transaction.open_table(ROWS)?;
            for (key, row) in rows {
                match row {
                    Some(row) => shred::put(&mut table, &(LOG, *key), row.as_bytes())?,
                    None => shred::take(&mut table, &(LOG, *key))?,
                }
            }
            Ok(())
        });
        written.unwrap();
    };
    let long = |number| Some(needle(number, 600));
    put(&[(b"a", long(1)), (b"b", long(2)), (b"c", long(3)), (b"d", long(4))]);
    // The first change of each transaction makes the page, the others are of a page of its own.
    put(&[(b"a", Some("x".into())), (b"c", Some("x".into())), (b"d", Some("x".into()))]);
    put(&[(b"b", long(5)), (b"c", long(6)), (b"d", long(7))]);
    put(&[(b"a", None), (b"c", None), (b"d", None)]);
    let mut session = Session::open(&store, "a").await;
    session.publish(&store, &["x"], &[]).await.unwrap();
    store.delete(session.opened.log, session.opened.term).await.unwrap();
    let before = on(&disk);
    assert!(before.len() > 2, "not finding any afterwards says nothing: {before:?}");
    store.erased().await.unwrap();
    assert_eq!(on(&disk), [5].into());
}

#[test]
fn condemned_segments_are_removed_and_others_recycled() {
    for condemn in [false, true] {
        let disk = FaultyDisk::new();
        let pool = SegmentPool::new(Arc::new(disk.clone()), 8192, 1);
        pool.top_up().unwrap();
        let mut segment = pool.take(100).unwrap();
        segment.write(1, needle(1, 300).as_bytes()).unwrap();
        if condemn {
            pool.condemn();
        }
        assert_eq!((pool.has_condemned(), pool.is_condemned(&segment)), (condemn, condemn));
        pool.retire(segment, true);
        pool.recycle(0);
        assert_eq!((pool.has_condemned(), on(&disk).len()), (condemn, 1), "it is not settled");
        pool.recycle(1);
        assert!(!pool.has_condemned());
        assert_eq!(on(&disk).is_empty(), condemn);
        let again = pool.take(100).unwrap();
        assert!(!pool.is_condemned(&again));
    }
}

/// What a wipe costs: `cargo nextest run --run-ignored all --no-capture what_a_wipe_costs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test"]
async fn what_a_wipe_costs() {
    for megabytes in [16, 64, 256] {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open_tuned(folder.path().into(), Tuning::default()).unwrap();
        let mut session = Session::open(&store, "a").await;
        let text = "x".repeat(1000);
        for megabyte in 0..megabytes {
            if megabyte % 8 == 0 {
                store.settle().await.unwrap();
            }
            session.publish(&store, &[text.as_str(); 1000], &[]).await.unwrap();
        }
        store.settle().await.unwrap();
        let end = session.end;
        session.publish(&store, &[], std::slice::from_ref(&(0..end / 2))).await.unwrap();
        let size = || std::fs::metadata(folder.path().join("sessions.redb")).unwrap().len() >> 20;
        let (before, began) = (size(), Instant::now());
        store.erased().await.unwrap();
        let took = began.elapsed();
        println!("{megabytes} MB, half erased: {took:?}, the database has {before} MiB, then {} MiB", size());
    }
}
