//! Restores: everything that a backup has, in a history that goes on by itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use longwire_proto::position::{LineageEntry, Position, Resume};

use crate::store::conformance::{ALL, Session, id, texts};
use crate::store::local::error::OpenStoreError;
use crate::store::local::restore::{RestoreError, Restored, begin};
use crate::store::local::stats::stats;
use crate::store::local::tests::manual;
use crate::store::local::{LocalConfig, LocalStore};
use crate::store::{Batch, Origin, Store, StoreError};

const NOW_MS: u64 = 1_700_000_000_000;

fn opened(folder: &Path) -> LocalStore {
    LocalStore::open(LocalConfig::new(folder)).unwrap()
}

/// Every file below a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

fn restore(backup: &Path, data: &Path, now_ms: u64) -> Restored {
    begin(backup, data, now_ms).unwrap().finish().unwrap()
}

/// A live log, a fork of it and a deleted one, backed up.
async fn backed_up(around: &Path) -> PathBuf {
    let store = opened(&around.join("data"));
    let mut session = Session::open(&store, "a").await;
    session.append(&store, &["x", "y", "z"]).await.unwrap();
    let fork = Session::open(&store, "fork").await;
    let entries = vec![LineageEntry { epoch: 0, from_offset: 0 }, LineageEntry { epoch: 1, from_offset: 2 }];
    let lineage = longwire_proto::position::Lineage::from_entries(entries).unwrap();
    let origin = Origin { lineage, start: 0, shares: Some(session.opened.log) };
    let batch = Batch { origin: Some(origin), ..crate::store::conformance::batch(99, 2, &["own"]) };
    store.append(fork.opened.log, fork.opened.term, fork.version, batch).await.unwrap();
    let mut gone = Session::open(&store, "gone").await;
    gone.append(&store, &["x"]).await.unwrap();
    gone.delete(&store).await;
    let backup = around.join("backup");
    store.back_up(backup.clone()).await.unwrap();
    store.shutdown().await.unwrap();
    backup
}

#[tokio::test]
async fn a_restore_begins_a_new_epoch_under_every_name() {
    let around = tempfile::tempdir().unwrap();
    let backup = backed_up(around.path()).await;
    let before = files(&backup);
    let data = around.path().join("restored");
    assert_eq!(restore(&backup, &data, NOW_MS), Restored { sessions: 2, records: 6, damaged: 0 });
    assert_eq!(files(&backup), before, "a backup is only read");
    let salt = |folder: &Path| fs::read_to_string(folder.join("FORMAT")).unwrap();
    assert_ne!(salt(&data), salt(&backup));
    let store = opened(&data);
    let mut session = Session::open(&store, "a").await;
    assert_eq!(session.read(&store).await, ["x", "y", "z"]);
    let lineage = session.opened.lineage.clone();
    for (epoch, offset, leads) in [
        (0, 0, Resume::At(0)),
        (0, 3, Resume::At(3)),
        // What came after the backup is lost, whatever is at these offsets now.
        (0, 4, Resume::EpochChanged(3)),
        (NOW_MS, 3, Resume::At(3)),
        (NOW_MS, 9, Resume::At(9)),
    ] {
        assert_eq!(lineage.resume(Position { epoch, offset }), leads, "{epoch} {offset}");
    }
    session.append(&store, &["new"]).await.unwrap();
    let fork = Session::open(&store, "fork").await;
    assert_eq!(fork.read(&store).await, ["x", "y", "own"]);
    assert_eq!(fork.opened.lineage.entries().len(), 3);
    // Names without a log: one that was deleted before, one that the backup has never heard of.
    for name in ["gone", "unknown"] {
        let mut session = Session::open(&store, name).await;
        assert!(!session.opened.exists);
        assert_eq!(session.opened.lineage.entries(), [LineageEntry { epoch: NOW_MS, from_offset: 0 }]);
        session.append(&store, &["x"]).await.unwrap();
    }
    Session::open(&store, "unknown").await.delete(&store).await;
    assert_eq!(Session::open(&store, "unknown").await.opened.lineage.epoch(), NOW_MS + 1);
    store.shutdown().await.unwrap();
    drop(store);
    assert_eq!(stats(&data).unwrap().deleted_names, 1);
    let store = opened(&data);
    assert_eq!(Session::open(&store, "a").await.read(&store).await, ["x", "y", "z", "new"]);
    assert_eq!(Session::open(&store, "a").await.opened.lineage, lineage);
}

#[tokio::test]
async fn futures_of_one_backup_do_not_meet() {
    let around = tempfile::tempdir().unwrap();
    let backup = backed_up(around.path()).await;
    let mut positions = Vec::new();
    let mut stores = Vec::new();
    // The third from the second, with a clock that was put back.
    for (from, to, now_ms) in
        [("backup", "one", NOW_MS), ("backup", "two", NOW_MS + 5), ("two", "three", NOW_MS - 9)]
    {
        let data = around.path().join(to);
        restore(&around.path().join(from), &data, now_ms);
        let store = opened(&data);
        for name in ["a", "gone", "unknown"] {
            let mut session = Session::open(&store, name).await;
            session.append(&store, &["1", "2"]).await.unwrap();
            let session = Session::open(&store, name).await;
            positions.push((stores.len(), name, session.opened.lineage.epoch(), session.end));
        }
        store.shutdown().await.unwrap();
        stores.push(data);
    }
    drop(backup);
    for (index, data) in stores.iter().enumerate() {
        let store = opened(data);
        for (of, name, epoch, offset) in &positions {
            let lineage = Session::open(&store, name).await.opened.lineage;
            let resumes = lineage.resume(Position { epoch: *epoch, offset: *offset }) == Resume::At(*offset);
            // The third has all of the second.
            assert_eq!(resumes, *of == index || (*of, index) == (1, 2), "{name} of {of} in {index}");
        }
    }
}

#[tokio::test]
async fn a_folder_that_was_not_shut_down_is_restored_with_its_journal() {
    let around = tempfile::tempdir().unwrap();
    let data = around.path().join("data");
    let store = LocalStore::open_tuned(data.clone(), manual()).unwrap();
    let mut session = Session::open(&store, "a").await;
    session.append(&store, &["settled"]).await.unwrap();
    store.settle().await.unwrap();
    session.append(&store, &["in the journal"]).await.unwrap();
    let to = around.path().join("restored");
    let busy = begin(&data, &to, NOW_MS);
    assert!(matches!(busy, Err(RestoreError::Open(OpenStoreError::InUse(_)))), "{busy:?}");
    // Like a crash.
    drop(store);
    let before = files(&data);
    assert_eq!(restore(&data, &to, NOW_MS).records, 2);
    assert_eq!(files(&data), before);
    let store = opened(&to);
    let session = Session::open(&store, "a").await;
    assert_eq!(session.read(&store).await, ["settled", "in the journal"]);
    assert_eq!(session.opened.lineage.entries()[1], LineageEntry { epoch: NOW_MS, from_offset: 2 });
}

#[tokio::test]
async fn what_is_there_is_never_restored_over() {
    let around = tempfile::tempdir().unwrap();
    let backup = backed_up(around.path()).await;
    let data = around.path().join("data");
    let before = files(around.path());
    for to in [&data, &backup, &around.path().join("data/sessions.redb")] {
        let refused = begin(&backup, to, NOW_MS);
        assert!(matches!(refused, Err(RestoreError::NotEmpty(_))), "{refused:?}");
    }
    let live = opened(&data);
    let refused = begin(&backup, &data, NOW_MS);
    assert!(matches!(refused, Err(RestoreError::NotEmpty(_))), "{refused:?}");
    drop(live);
    for from in ["nowhere", "data/journal", "data/FORMAT"] {
        let refused = begin(&around.path().join(from), &around.path().join("new"), NOW_MS);
        assert!(matches!(refused, Err(RestoreError::NotABackup { .. })), "{refused:?}");
    }
    assert!(!around.path().join("new").exists() && !around.path().join("new.partial").exists());
    let same = |path: &PathBuf| path.ends_with("FORMAT") || path.starts_with(&backup);
    let kept = |files: BTreeMap<PathBuf, Vec<u8>>| {
        files.into_iter().filter(|(path, _)| same(path)).collect::<Vec<_>>()
    };
    assert_eq!(kept(files(around.path())), kept(before));
    // A backup that cannot be opened leaves nothing behind.
    fs::write(backup.join("sessions.redb"), "no database").unwrap();
    let to = around.path().join("new");
    assert!(begin(&backup, &to, NOW_MS).is_err());
    assert!(!to.exists() && !around.path().join("new.partial").exists());
}

#[tokio::test]
async fn a_restore_has_its_name_at_the_end_and_a_crash_leaves_it_free() {
    let around = tempfile::tempdir().unwrap();
    let backup = backed_up(around.path()).await;
    let data = around.path().join("new");
    fs::create_dir(&data).unwrap();
    let restoring = begin(&backup, &data, NOW_MS).unwrap();
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0, "nothing is there yet");
    // What is written to it before the end is settled, whatever becomes of the journal.
    let store = LocalStore::open_tuned(restoring.path().to_owned(), manual()).unwrap();
    Session::open(&store, "a").await.append(&store, &["erased again"]).await.unwrap();
    drop(store);
    // A crash: nobody removes the folder.
    std::mem::forget(restoring);
    assert!(around.path().join("new.partial").exists());
    let restoring = begin(&backup, &data, NOW_MS + 1).unwrap();
    let store = LocalStore::open_tuned(restoring.path().to_owned(), manual()).unwrap();
    let mut session = Session::open(&store, "a").await;
    session.append(&store, &["once"]).await.unwrap();
    drop(store);
    restoring.finish().unwrap();
    assert!(!around.path().join("new.partial").exists());
    let store = opened(&data);
    let opened = store.open(&id("a")).await.unwrap();
    assert_eq!(texts(&store.read(opened.log, 0, ALL).await.unwrap()), ["x", "y", "z", "once"]);
    assert_eq!(opened.lineage.epoch(), NOW_MS + 1);
    assert!(matches!(store.read(opened.log, 99, ALL).await, Ok(chunk) if chunk.records.is_empty()));
    assert!(matches!(store.back_up(data.clone()).await, Err(StoreError::AlreadyExists)));
}
