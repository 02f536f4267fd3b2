//! Damage in the database is detected and never served.

use crate::store::conformance::{ALL, Session};
use crate::store::local::folder::DATABASE_FILE;
use crate::store::local::tests::faulty_disk::FaultyDisk;
use crate::store::local::tests::{Random, manual};
use crate::store::{LogId, Snapshot, Store, StoreError};

const RECORDS: u64 = 600;

fn record(name: &str, offset: u64) -> String {
    format!("<{name} {offset:06}{}>", "x".repeat(240))
}

/// Two settled sessions of several chunks, and a row.
async fn settled() -> (FaultyDisk, LogId, LogId) {
    let disk = FaultyDisk::new();
    let store = disk.store(manual());
    let mut logs = Vec::new();
    for name in ["a", "b"] {
        let mut session = Session::open(&store, name).await;
        for base in (0..RECORDS).step_by(50) {
            let records: Vec<String> = (base..base + 50).map(|offset| record(name, offset)).collect();
            let records: Vec<&str> = records.iter().map(String::as_str).collect();
            session.append(&store, &records).await.unwrap();
            store.settle().await.unwrap();
        }
        let snapshot = Snapshot { through: 1, rows: vec![("key".into(), Some("<the row>".into()))] };
        let snapshot = store.put_snapshot(session.opened.log, session.opened.term, snapshot);
        store.settle().await.unwrap();
        snapshot.await.unwrap();
        logs.push(session.opened.log);
    }
    store.shutdown().await.unwrap();
    (disk, logs[0], logs[1])
}

fn flip_everywhere(disk: &FaultyDisk, pattern: &str, bit: usize) -> usize {
    let mut found = 0;
    disk.change(DATABASE_FILE, |bytes| {
        let places: Vec<usize> = (0..bytes.len() - pattern.len())
            .filter(|at| bytes[*at..].starts_with(pattern.as_bytes()))
            .collect();
        for at in &places {
            bytes[at + bit / 8] ^= 1 << (bit % 8);
        }
        found = places.len();
    });
    found
}

#[tokio::test]
async fn a_damaged_record_is_named_and_the_others_go_on() {
    let (disk, a, b) = settled().await;
    for (offset, bit) in [(0, 9), (299, 200), (RECORDS - 1, 17)] {
        let damaged = disk.copy();
        assert!(flip_everywhere(&damaged, &record("a", offset)[..12], bit % 96) > 0);
        let store = damaged.store(manual());
        let mut next = 0;
        let error = loop {
            match store.read(a, next, ALL).await {
                Ok(chunk) => {
                    assert!(!chunk.records.is_empty(), "the end is beyond the damage");
                    for found in &chunk.records {
                        assert_eq!(*found, record("a", next));
                        next += 1;
                    }
                }
                Err(error) => break error,
            }
        };
        assert_eq!(next, offset, "what is before the damage is served");
        assert!(
            matches!(error, StoreError::Corrupt { log, offset: o, .. } if log == a && o == offset),
            "{error}"
        );
        if offset + 1 < RECORDS {
            let after = store.read(a, offset + 1, ALL).await.unwrap();
            assert_eq!(after.records[0], record("a", offset + 1));
        }
        let mut session = Session::open(&store, "b").await;
        assert_eq!(session.opened.log, b);
        session.append(&store, &["more"]).await.unwrap();
        assert_eq!(session.read(&store).await.len() as u64, RECORDS + 1);
        // The damaged log can still be appended to, settled and read behind the damage.
        let mut session = Session::open(&store, "a").await;
        session.append(&store, &["more"]).await.unwrap();
        store.settle().await.unwrap();
        assert_eq!(store.read(a, RECORDS, ALL).await.unwrap().records, ["more"]);
        assert!(matches!(store.read(a, offset, ALL).await, Err(StoreError::Corrupt { .. })));
    }
}

#[tokio::test]
async fn a_damaged_row_is_refused() {
    let (disk, a, _) = settled().await;
    assert!(flip_everywhere(&disk, "<the row>", 12) > 0);
    let store = disk.store(manual());
    assert!(
        matches!(store.rows(a, vec!["key".into()]).await, Err(StoreError::Corrupt { log, .. }) if log == a)
    );
}

/// Bits anywhere in the database are flipped: records read are right, or reading fails.
#[tokio::test]
async fn random_flips_never_give_wrong_records() {
    const FLIPS: u64 = 250;
    let (disk, a, b) = settled().await;
    let length = disk.bytes(DATABASE_FILE).len();
    let (mut noticed, mut refused) = (0, 0);
    for seed in 1..=FLIPS {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let damaged = disk.copy();
        for _ in 0..8 {
            let at = random.below(length);
            damaged.change(DATABASE_FILE, |bytes| bytes[at] ^= 1 << random.below(8));
        }
        let Ok(store) = damaged.try_store(manual()) else {
            refused += 1;
            continue;
        };
        for (name, log) in [("a", a), ("b", b)] {
            let mut next = 0;
            while next < RECORDS {
                match store.read(log, next, ALL).await {
                    Ok(chunk) => {
                        assert!(!chunk.records.is_empty(), "seed {seed}: the log seems to end at {next}");
                        for found in &chunk.records {
                            assert_eq!(*found, record(name, next), "seed {seed}");
                            next += 1;
                        }
                    }
                    Err(_) => {
                        noticed += 1;
                        next += 1;
                    }
                }
            }
        }
    }
    assert!(noticed > 0 && refused < FLIPS, "{noticed} noticed, {refused} refused");
}
