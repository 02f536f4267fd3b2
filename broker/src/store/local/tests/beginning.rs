//! How a store begins: with little of the disk, until somebody was answered.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use crate::store::Store;
use crate::store::conformance::Session;
use crate::store::local::disk::{Disk as _, RealDisk};
use crate::store::local::error::OpenStoreError;
use crate::store::local::group::{BLOCK_BYTES, HEADER_BYTES};
use crate::store::local::segment::file_name;
use crate::store::local::shared::Tuning;
use crate::store::local::tests::faulty_disk::FaultyDisk;
use crate::store::local::tests::manual;

/// Spares and ballast are not made while the test runs.
fn bare() -> Tuning {
    Tuning { spares_after: Duration::from_secs(3600), ..manual() }
}

fn names(disk: &FaultyDisk) -> Vec<String> {
    disk.files().into_keys().collect()
}

#[tokio::test]
async fn the_first_answer_waits_for_few_syncs() {
    let disk = FaultyDisk::new();
    let store = disk.store(bare());
    // The database, the segment, and the names of both.
    assert_eq!(disk.syncs(), 4);
    assert_eq!(
        names(&disk),
        ["journal/0000000000000001", "sessions.redb"],
        "what nobody waits for comes later"
    );
    let mut session = Session::open(&store, "a").await;
    session.append(&store, &["x"]).await.unwrap();
    assert_eq!(disk.syncs(), 5, "that of its group");
    drop(store);
    // Nothing of the database was left for a later sync.
    let cut = disk.after_power_cut(|| false).store(manual());
    assert_eq!(Session::open(&cut, "a").await.read(&cut).await, ["x"]);
}

#[tokio::test]
async fn a_makeshift_serves_until_there_is_a_spare_and_is_not_kept() {
    let disk = FaultyDisk::new();
    let store = disk.store(bare());
    let mut session = Session::open(&store, "a").await;
    session.append(&store, &["one"]).await.unwrap();
    session.append(&store, &["two"]).await.unwrap();
    assert_eq!(disk.written("journal/"), ["journal/0000000000000001"]);
    store.shared.pool.top_up().unwrap();
    session.append(&store, &["three"]).await.unwrap();
    assert_eq!(disk.written("journal/"), ["journal/0000000000000001", "journal/0000000000000002"]);
    store.settle().await.unwrap();
    assert!(!names(&disk).contains(&"journal/0000000000000001".to_owned()), "it is not recycled");
    assert_eq!(session.read(&store).await, ["one", "two", "three"]);
    assert_eq!(disk.length("journal/0000000000000002"), manual().segment_bytes as usize);
}

/// The last group of one, and the first one of the next.
#[tokio::test]
async fn damage_on_either_side_of_a_change_of_segments_is_told_where_it_is() {
    let disk = FaultyDisk::new();
    let store = disk.store(bare());
    let mut session = Session::open(&store, "a").await;
    session.append(&store, &["one"]).await.unwrap();
    session.append(&store, &["two"]).await.unwrap();
    store.shared.pool.top_up().unwrap();
    session.append(&store, &["three"]).await.unwrap();
    session.append(&store, &["four"]).await.unwrap();
    drop(store);
    for (segment, at, commit) in [(1, BLOCK_BYTES, 2), (2, 0, 3)] {
        let damaged = disk.copy();
        damaged.change(&file_name(segment), |bytes| bytes[at + HEADER_BYTES] ^= 1);
        let refused = damaged.try_store(bare()).unwrap_err();
        let OpenStoreError::DamagedJournal { segment: told, commit: missing } = refused else {
            panic!("{refused}");
        };
        assert_eq!((told, missing), (segment, commit));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spares_and_ballast_come_by_themselves() {
    let disk = FaultyDisk::new();
    let store = disk.store(Tuning { spares_after: Duration::from_millis(1), ..manual() });
    while disk.length("ballast") == 0 || !store.shared.pool.has_spare() {
        tokio::task::yield_now().await;
    }
    store.shutdown().await.unwrap();
}

#[test]
fn what_is_reserved_is_there_and_zero() -> io::Result<()> {
    const BYTES: usize = 1 << 20;
    let folder = tempfile::tempdir()?;
    let disk = RealDisk::new(folder.path().into());
    let (file, created) = disk.open_now("a")?;
    file.reserve(BYTES as u64)?;
    let mut read = vec![1; BYTES];
    file.read_at(0, &mut read)?;
    assert!(created && read.iter().all(|byte| *byte == 0));
    assert_eq!(file.bytes()?, BYTES as u64);
    assert!(std::fs::metadata(folder.path().join("a"))?.blocks() * 512 >= BYTES as u64, "the room is taken");
    Ok(())
}
