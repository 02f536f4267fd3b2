//! Failing and full disks.

use std::sync::Arc;

use crate::store::conformance::Session;
use crate::store::local::shared::Tuning;
use crate::store::local::tests::faulty_disk::{Faults, FaultyDisk};
use crate::store::local::tests::manual;
use crate::store::{Health, Store, StoreError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_is_written_elsewhere_and_acknowledged_later() {
    for after in 0..6 {
        let disk = FaultyDisk::new();
        let store = disk.store(manual());
        let mut session = Session::open(&store, "a").await;
        session.append(&store, &["before"]).await.unwrap();
        disk.set_faults(Faults { fail_sync: Some(("journal/", after, 3)), room: None });
        let mut expected = vec!["before".to_owned()];
        for count in 0..8 {
            let record = format!("record {count}");
            session.append(&store, &[&record]).await.unwrap();
            expected.push(record);
        }
        assert_eq!(disk.failures(), 3);
        assert_eq!(disk.misuses(), 0, "a segment that failed is never written to again");
        assert_eq!(store.health(), Health::Ready);
        assert_eq!(session.read(&store).await, expected);
        // The failed segments may hold anything or nothing: what was acknowledged is elsewhere.
        for keep in [false, true] {
            let recovered = disk.after_power_cut(|| keep).store(manual());
            assert_eq!(Session::open(&recovered, "a").await.read(&recovered).await, expected);
        }
        store.settle().await.unwrap();
        assert_eq!(session.read(&store).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_journal_degrades_and_recovers_without_a_restart() {
    let disk = FaultyDisk::new();
    let store = Arc::new(disk.store(manual()));
    let mut session = Session::open(&*store, "a").await;
    session.append(&*store, &["before"]).await.unwrap();
    let log = session.opened.log;
    disk.set_faults(Faults { fail_sync: Some(("journal/", 0, usize::MAX)), room: None });
    let append = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            session.append(&*store, &["during"]).await.unwrap();
            session
        })
    };
    let trouble = store.shared.health.troubled().await;
    assert!(matches!(&trouble, StoreError::Unavailable(text) if text.contains("injected")), "{trouble}");
    assert!(matches!(store.health(), Health::Degraded(_)));
    assert!(matches!(store.reserve(log, 1).await, Err(StoreError::Unavailable(_))));
    let chunk = store.read(log, 0, crate::store::conformance::ALL).await.unwrap();
    assert_eq!(chunk.records, ["before"], "reads go on, and what is not durable is not seen");
    assert!(!append.is_finished());
    // A later opening cannot know yet what is in the log.
    assert!(matches!(store.open(&"a".parse().unwrap()).await, Err(StoreError::Unavailable(_))));
    disk.set_faults(Faults::default());
    let session = append.await.unwrap();
    assert_eq!(session.read(&*store).await, ["before", "during"]);
    assert_eq!(store.health(), Health::Ready);
    store.reserve(log, 1).await.unwrap();
    drop(store);
    let store = disk.store(manual());
    assert_eq!(Session::open(&store, "a").await.read(&store).await, ["before", "during"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_durable_at_shutdown_is_unknown() {
    let disk = FaultyDisk::new();
    let store = Arc::new(disk.store(manual()));
    let mut session = Session::open(&*store, "a").await;
    disk.set_faults(Faults { fail_sync: Some(("journal/", 0, usize::MAX)), room: None });
    let append = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { session.append(&*store, &["during"]).await })
    };
    store.shared.health.troubled().await;
    store.shutdown().await.unwrap();
    assert!(matches!(append.await.unwrap(), Err(StoreError::Unknown(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_database_loses_nothing() {
    for after in 0..5 {
        let disk = FaultyDisk::new();
        let store = disk.store(manual());
        let mut session = Session::open(&store, "a").await;
        let mut expected = Vec::new();
        for round in 0..3 {
            let record = format!("round {round}");
            session.append(&store, &[&record]).await.unwrap();
            expected.push(record);
            disk.set_faults(Faults { fail_sync: Some(("sessions.redb", after, 2)), room: None });
            // It says so when it is in trouble, and goes on trying.
            while store.settle().await.is_err() {
                tokio::task::yield_now().await;
            }
            assert_eq!(session.read(&store).await, expected, "after {after}, round {round}");
        }
        drop(store);
        let store = disk.after_power_cut(|| false).store(manual());
        assert_eq!(Session::open(&store, "a").await.read(&store).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ballast_lets_a_full_disk_settle() {
    let disk = FaultyDisk::new();
    let store = disk.store(Tuning { ballast_bytes: 8 << 20, segment_bytes: 4 << 20, ..manual() });
    let mut session = Session::open(&store, "a").await;
    let long = "x".repeat(200_000);
    for _ in 0..8 {
        session.append(&store, &[&long]).await.unwrap();
    }
    while disk.length("ballast") < 8 << 20 {
        tokio::task::yield_now().await;
    }
    disk.set_faults(Faults { fail_sync: None, room: Some(disk.used()) });
    while store.settle().await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(disk.failures() > 0, "the disk was full");
    assert_eq!(session.read(&store).await.len(), 8);
    session.append(&store, &["and on"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_until_there_is_room() {
    let disk = FaultyDisk::new();
    let store = Arc::new(disk.store(manual()));
    let mut session = Session::open(&*store, "a").await;
    let log = session.opened.log;
    session.append(&*store, &["x"]).await.unwrap();
    disk.set_faults(Faults { fail_sync: None, room: Some(0) });
    let append = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            // Longer than a segment: there is no spare that it fits into.
            session.append(&*store, &[&"x".repeat(100_000)]).await.unwrap();
            session
        })
    };
    store.shared.health.troubled().await;
    assert!(matches!(store.reserve(log, 1).await, Err(StoreError::Unavailable(_))));
    disk.set_faults(Faults::default());
    let session = append.await.unwrap();
    assert_eq!(session.read(&*store).await.len(), 2);
}
