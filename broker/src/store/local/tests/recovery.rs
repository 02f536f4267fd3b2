//! What is there after a crash.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::store::conformance::Session;
use crate::store::local::LocalStore;
use crate::store::local::error::OpenStoreError;
use crate::store::local::group::{BLOCK_BYTES, HEADER_BYTES};
use crate::store::local::shared::Tuning;
use crate::store::local::tests::faulty_disk::FaultyDisk;
use crate::store::local::tests::{Random, manual};
use crate::store::{ListPage, ListQuery, Snapshot, Store};

async fn append_one(disk: &FaultyDisk, name: &str, record: &str) -> LocalStore {
    let store = disk.store(manual());
    Session::open(&store, name).await.append(&store, &[record]).await.unwrap();
    store
}

async fn read_all(store: &LocalStore, name: &str) -> Vec<String> {
    Session::open(store, name).await.read(store).await
}

#[tokio::test]
async fn everything_survives_a_crash() {
    let disk = FaultyDisk::new();
    let mut expected = Vec::new();
    for life in 0..5 {
        let record = format!("life {life}");
        let store = append_one(&disk, "a", &record).await;
        expected.push(record);
        assert_eq!(read_all(&store, "a").await, expected);
        // Dropped without a word.
    }
    let store = disk.store(manual());
    let listed = store.list(ListQuery { limit: 9, ..ListQuery::default() }).await.unwrap().sessions;
    assert_eq!((listed.len(), listed[0].end), (1, 5));
    let session = Session::open(&store, "a").await;
    store.delete(session.opened.log, session.opened.term).await.unwrap();
    drop(store);
    let store = disk.store(manual());
    assert_eq!(store.list(ListQuery { limit: 9, ..ListQuery::default() }).await, Ok(ListPage::default()));
    let mut again = Session::open(&store, "a").await;
    assert!(!again.opened.exists, "a delete that was acknowledged never comes back");
    assert_eq!(again.opened.lineage.epoch(), 1);
    again.append(&store, &["new"]).await.unwrap();
    drop(store);
    let store = disk.store(manual());
    assert_eq!(read_all(&store, "a").await, ["new"]);
}

#[tokio::test]
async fn snapshots_survive_once_they_are_acknowledged() {
    let disk = FaultyDisk::new();
    let store = disk.store(manual());
    let mut session = Session::open(&store, "a").await;
    session.append(&store, &["x"]).await.unwrap();
    let (log, term) = (session.opened.log, session.opened.term);
    let snapshot = |row: &'static str| Snapshot { through: 1, rows: vec![("k".into(), Some(row.into()))] };
    let first = store.put_snapshot(log, term, snapshot("1"));
    store.settle().await.unwrap();
    first.await.unwrap();
    drop(store.put_snapshot(log, term, snapshot("2")));
    drop(store);
    let store = disk.store(manual());
    assert_eq!(store.open(&"a".parse().unwrap()).await.unwrap().snapshot_through, Some(1));
    assert_eq!(store.rows(log, vec!["k".into()]).await, Ok(vec![Some("1".into())]));
}

/// The disk after three groups, its segment, and the bytes of each group.
async fn three_groups() -> (FaultyDisk, String, Vec<std::ops::Range<usize>>) {
    let disk = FaultyDisk::new();
    // They are in one segment as long as nothing takes its place.
    let store = disk.store(Tuning { spares_after: Duration::from_secs(3600), ..manual() });
    let mut session = Session::open(&store, "a").await;
    for record in ["one", "two", "three"] {
        session.append(&store, &[record]).await.unwrap();
    }
    drop(store);
    let [segment] = <[String; 1]>::try_from(disk.written("journal/")).unwrap();
    let bytes = disk.bytes(&segment);
    let groups = (0..3).map(|group| {
        let at = group * BLOCK_BYTES;
        let length = u32::from_le_bytes(bytes[at + 32..at + 36].try_into().unwrap()) as usize;
        at..at + HEADER_BYTES + length
    });
    (disk, segment, groups.collect())
}

#[tokio::test]
async fn a_torn_end_is_cut_at_every_byte() {
    let (disk, segment, groups) = three_groups().await;
    let whole = disk.bytes(&segment);
    let last = groups[2].clone();
    for cut in last.clone() {
        let torn = disk.copy();
        torn.change(&segment, |bytes| bytes[cut..].fill(0));
        let complete = torn.bytes(&segment) == whole;
        let store = torn.store(manual());
        let mut expected = vec!["one".to_owned(), "two".to_owned()];
        expected.extend(complete.then(|| "three".to_owned()));
        let mut session = Session::open(&store, "a").await;
        assert_eq!(session.read(&store).await, expected, "cut at {cut}");
        session.append(&store, &["after"]).await.unwrap();
        drop(store);
        let store = torn.store(manual());
        expected.push("after".into());
        assert_eq!(read_all(&store, "a").await, expected, "cut at {cut}");
    }
}

fn is_refused_as_cut(disk: &FaultyDisk, segment: &str, to: usize, least: usize) {
    let damaged = disk.copy();
    damaged.change(segment, |bytes| bytes.truncate(to));
    let before = damaged.files();
    match damaged.try_store(manual()) {
        Err(error @ OpenStoreError::CutJournal { .. }) => {
            let told = format!("{segment} of the data folder has {to} bytes, and had at least {least} ");
            assert!(error.to_string().starts_with(&told), "{error}");
        }
        other => panic!("cut to {to}: {other:?}"),
    }
    let journal = |files: &BTreeMap<String, Vec<u8>>| files.get(segment).cloned();
    assert_eq!(journal(&damaged.files()), journal(&before), "nothing was touched");
}

#[tokio::test]
async fn a_segment_that_was_cut_short_is_refused() {
    let (disk, segment, groups) = three_groups().await;
    let whole = disk.length(&segment);
    let within = groups.iter().flat_map(|group| [group.start, group.start + 10, group.end]);
    for to in within.chain([BLOCK_BYTES + 1, HEADER_BYTES, whole - 1]).filter(|to| *to >= HEADER_BYTES) {
        is_refused_as_cut(&disk, &segment, to, whole);
    }
    // The first header alone may be damaged too.
    disk.change(&segment, |bytes| bytes[0] ^= 1);
    is_refused_as_cut(&disk, &segment, groups[1].end, whole);
}

/// A group that is longer than a segment has one of its own.
#[tokio::test]
async fn a_long_segment_that_was_cut_short_is_refused() {
    let long = "x".repeat(3 * manual().segment_bytes as usize);
    let disk = FaultyDisk::new();
    drop(append_one(&disk, "a", &long).await);
    let [segment] = <[String; 1]>::try_from(disk.written("journal/")).unwrap();
    let (whole, usual) = (disk.length(&segment), manual().segment_bytes as usize);
    for to in [usual + 1, 2 * usual, whole - 1] {
        is_refused_as_cut(&disk, &segment, to, whole);
    }
    is_refused_as_cut(&disk, &segment, usual - 1, usual);
    // The torn end of a crash: any part of it may be there.
    for from in [0, 4, 33, HEADER_BYTES, usual] {
        let torn = disk.copy();
        torn.change(&segment, |bytes| bytes[from..].fill(0));
        assert_eq!(read_all(&torn.store(manual()), "a").await, [""; 0], "torn at {from}");
    }
}

/// What a crash leaves of a segment that was being made.
#[tokio::test]
async fn a_segment_that_was_never_written_to_may_have_any_length() {
    use crate::store::local::disk::Disk as _;
    let (disk, segment, _) = three_groups().await;
    let number: u64 = segment.trim_start_matches("journal/").parse().unwrap();
    for bytes in [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1] {
        let made = disk.copy();
        let next = format!("journal/{:016}", number + 100);
        made.open(&next).unwrap().set_bytes(bytes as u64).unwrap();
        assert_eq!(read_all(&made.store(manual()), "a").await, ["one", "two", "three"]);
    }
}

#[tokio::test]
async fn damage_below_the_last_durable_commit_is_refused() {
    let (disk, segment, groups) = three_groups().await;
    for (group, range) in groups[..2].iter().enumerate() {
        for at in range.clone() {
            let damaged = disk.copy();
            damaged.change(&segment, |bytes| bytes[at] ^= 1 << (at % 8));
            let before = damaged.bytes(&segment);
            match damaged.try_store(manual()) {
                Err(OpenStoreError::DamagedJournal { segment: found, commit }) => {
                    assert_eq!(commit, group as u64 + 1, "flip at {at}");
                    assert!(segment.ends_with(&format!("{found:016}")));
                }
                other => panic!("flip at {at}: {other:?}"),
            }
            assert_eq!(damaged.bytes(&segment), before, "nothing was touched");
        }
    }
    let padding = disk.copy();
    padding.change(&segment, |bytes| bytes[groups[0].end + 1] ^= 1);
    assert_eq!(read_all(&padding.store(manual()), "a").await.len(), 3);
}

#[tokio::test]
async fn bytes_of_another_life_are_never_valid() {
    use crate::store::local::group::find;
    use crate::store::local::segment::number;
    use crate::store::local::tests::faulty_disk::SALT;
    let (disk, segment, _) = three_groups().await;
    let bytes = disk.bytes(&segment);
    let number = number(segment.trim_start_matches("journal/")).unwrap();
    assert!(find(SALT, number, &bytes).is_some());
    assert_eq!(find(SALT, number + 1, &bytes), None, "a recycled segment has another number");
    assert_eq!(find(SALT + 1, number, &bytes), None, "another folder has another salt");
}

#[tokio::test]
async fn a_missing_segment_is_refused() {
    let disk = FaultyDisk::new();
    // Nothing is settled before two are full.
    let store = disk.store(Tuning { spares_after: Duration::from_secs(3600), ..manual() });
    let mut session = Session::open(&store, "a").await;
    // Every group takes a block, so these fill several segments.
    for _ in 0..40 {
        session.append(&store, &["x"]).await.unwrap();
    }
    drop(store);
    let segments = disk.written("journal/");
    assert!(segments.len() > 2);
    let first_commit = |name: &String| u64::from_le_bytes(disk.bytes(name)[16..24].try_into().unwrap());
    let last = segments.iter().max_by_key(|name| first_commit(name)).unwrap();
    for segment in segments.iter().filter(|name| *name != last) {
        let damaged = disk.copy();
        damaged.change(segment, |bytes| bytes.clear());
        assert!(matches!(damaged.try_store(manual()), Err(OpenStoreError::DamagedJournal { .. })));
    }
    assert_eq!(read_all(&disk.store(manual()), "a").await.len(), 40);
}

/// Many sessions are written and settled while copies of the disk are taken, as power cuts would leave it; each copy
/// must have what was acknowledged before, in order, and be recovered again after a crash during recovery.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_is_durable_at_any_moment() {
    const SESSIONS: usize = 4;
    const CUTS: u64 = 40;
    let disk = FaultyDisk::new();
    let eager = Tuning { settle_age: Duration::from_millis(1), ..manual() };
    let store = Arc::new(disk.store(eager));
    let acked: Arc<[AtomicU64; SESSIONS]> = Arc::default();
    let writers: Vec<_> = (0..SESSIONS)
        .map(|index| {
            let (store, acked) = (Arc::clone(&store), Arc::clone(&acked));
            tokio::spawn(async move {
                let mut session = Session::open(&*store, &format!("s{index}")).await;
                for count in 0.. {
                    let record = format!("{index} {count}");
                    if session.append(&*store, &[&record]).await.is_err() {
                        return;
                    }
                    acked[index].store(count + 1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for cut in 0..CUTS {
        let acked: Vec<u64> = acked.iter().map(|count| count.load(Ordering::SeqCst)).collect();
        let mut random = Random(cut + 1);
        // From nothing unsynced to everything.
        let chance = (cut % 5) as usize;
        let after = disk.after_power_cut(|| random.below(4) < chance);
        // A recovery that dies at once, and a second one over what that left.
        drop(after.store(manual()));
        let after = after.after_power_cut(|| random.below(4) < chance);
        let recovered = after.store(manual());
        for (index, acked) in acked.iter().enumerate() {
            let records = read_all(&recovered, &format!("s{index}")).await;
            assert!(records.len() as u64 >= *acked, "cut {cut}: {} of {acked}", records.len());
            for (count, record) in records.iter().enumerate() {
                assert_eq!(*record, format!("{index} {count}"), "cut {cut}");
            }
        }
    }
    store.shutdown().await.unwrap();
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Readers follow a log that is appended to and settled all the time: no gap, no repetition, no wrong record.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_are_gapless_while_settling() {
    const BATCHES: u64 = 1500;
    let disk = FaultyDisk::new();
    let store = Arc::new(disk.store(Tuning { settle_age: Duration::ZERO, ..manual() }));
    let mut session = Session::open(&*store, "a").await;
    let log = session.opened.log;
    let readers: Vec<_> = [1, 7, usize::MAX]
        .into_iter()
        .map(|records| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut next = 0;
                while next < 2 * BATCHES {
                    let limit = crate::store::ReadLimit { records, bytes: usize::MAX };
                    let chunk = store.read(log, next, limit).await.unwrap();
                    assert_eq!(chunk.from, next);
                    for record in &chunk.records {
                        assert_eq!(*record, format!("record {next}"));
                        next += 1;
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for batch in 0..BATCHES {
        let records = [format!("record {}", 2 * batch), format!("record {}", 2 * batch + 1)];
        session.append(&*store, &[&records[0], &records[1]]).await.unwrap();
    }
    for reader in readers {
        reader.await.unwrap();
    }
}
