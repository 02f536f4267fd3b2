//! Quotas, eviction, and the removal of deleted logs.

use std::time::Duration;

use redb::ReadableTableMetadata as _;

use crate::store::conformance::{Session, batch};
use crate::store::local::quota::QuotaLimits;
use crate::store::local::shared::Tuning;
use crate::store::local::table::chunks::CHUNKS;
use crate::store::local::table::doomed::{self, DOOMED};
use crate::store::local::table::rows::ROWS;
use crate::store::local::tests::faulty_disk::FaultyDisk;
use crate::store::local::tests::manual;
use crate::store::{Batch, ListQuery, LogId, Snapshot, Store, StoreError};

#[tokio::test]
async fn reservations_are_bounded_and_given_back() {
    let quota =
        QuotaLimits { session: 10_000, all: 15_000, control: 2_000, timeout: Duration::from_millis(500) };
    let store = FaultyDisk::new().store(Tuning { quota, ..manual() });
    let mut session = Session::open(&store, "a").await;
    let (log, other) = (session.opened.log, LogId(99));
    let held = store.reserve(log, 6_000).await.unwrap();
    let error = store.reserve(log, 6_000).await.unwrap_err();
    assert_eq!(error, StoreError::Overloaded { scope: "this session", limit: 10_000 });
    let error = store.reserve(other, 7_500).await.unwrap_err();
    assert_eq!(error, StoreError::Overloaded { scope: "the store", limit: 15_000 });
    let small = store.reserve(other, 1_000).await.unwrap();
    drop(small);
    // It travels with the batch, and comes back when that is settled.
    let full = Batch { reservation: held, ..batch(1, 0, &["x"]) };
    session.version = store.append(log, session.opened.term, session.version, full).await.unwrap();
    let whole = store.reserve(log, 1 << 30).await.unwrap();
    assert!(store.shared.state().is_settled(), "waiting for room settles at once");
    drop(whole);
}

#[tokio::test]
async fn unreserved_batches_end_at_the_control_reserve() {
    let quota = QuotaLimits { session: 3_000, all: 3_000, control: 2_000, timeout: Duration::ZERO };
    let store = FaultyDisk::new().store(Tuning { quota, ..manual() });
    let mut session = Session::open(&store, "a").await;
    let mut taken = 0;
    let error = loop {
        match session.append(&store, &["x"]).await {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Overloaded { .. }));
    assert!((4..9).contains(&taken), "{taken}");
    store.settle().await.unwrap();
    session.append(&store, &["x"]).await.unwrap();
    assert_eq!(session.read(&store).await.len(), taken + 1);
}

#[tokio::test]
async fn forgotten_logs_are_fenced_and_come_back() {
    let store = FaultyDisk::new().store(Tuning { logs_max: 4, ..manual() });
    let mut first = Session::open(&store, "s000").await;
    first.append(&store, &["s000"]).await.unwrap();
    for count in 1..60 {
        let name = format!("s{count:03}");
        let mut session = Session::open(&store, &name).await;
        session.append(&store, &[&name]).await.unwrap();
        store.settle().await.unwrap();
    }
    assert!(store.shared.state().logs.len() <= 5);
    assert_eq!(first.append(&store, &["x"]).await, Err(StoreError::Fenced));
    assert_eq!(
        store.list(ListQuery { limit: 100, ..ListQuery::default() }).await.unwrap().sessions.len(),
        60
    );
    for count in 0..60 {
        let name = format!("s{count:03}");
        let mut session = Session::open(&store, &name).await;
        assert_eq!(session.read(&store).await, [name.as_str()]);
        session.append(&store, &["more"]).await.unwrap();
    }
}

#[tokio::test]
async fn a_long_list_takes_several_transactions() {
    let store = FaultyDisk::new().store(manual());
    let appends: Vec<_> = {
        let mut appends = Vec::new();
        for count in 0..2500 {
            let opened = store.open(&format!("s{count:05}").parse().unwrap()).await.unwrap();
            appends.push(store.append(opened.log, opened.term, opened.version, batch(1, 0, &["x"])));
        }
        appends
    };
    for append in appends {
        append.await.unwrap();
    }
    store.settle().await.unwrap();
    let all = store
        .list(ListQuery { prefix: "s".into(), after: None, limit: usize::MAX, ..ListQuery::default() })
        .await
        .unwrap()
        .sessions;
    assert_eq!(all.len(), 2500);
    assert!(all.is_sorted_by(|a, b| a.session < b.session));
    let last = store
        .list(ListQuery {
            prefix: "s".into(),
            after: Some("s02498".parse().unwrap()),
            limit: 9,
            ..ListQuery::default()
        })
        .await
        .unwrap()
        .sessions;
    assert_eq!(last.len(), 1);
}

#[tokio::test]
async fn deleted_logs_are_removed_in_steps() {
    let disk = FaultyDisk::new();
    let store = disk.store(manual());
    let mut session = Session::open(&store, "a").await;
    let long = "x".repeat(70_000);
    for _ in 0..6 {
        session.append(&store, &[long.as_str(); 50]).await.unwrap();
        store.settle().await.unwrap();
    }
    let mut kept = Session::open(&store, "b").await;
    kept.append(&store, &["kept"]).await.unwrap();
    let rows = (0..300).map(|key| (format!("k{key}").into(), Some("v".into()))).collect();
    let (log, term) = (session.opened.log, session.opened.term);
    let snapshot = store.put_snapshot(log, term, Snapshot { through: 1, rows });
    store.settle().await.unwrap();
    snapshot.await.unwrap();
    store.delete(log, term).await.unwrap();
    store.settle().await.unwrap();
    let database = &store.shared.database;
    while database.write(doomed::step).unwrap() {}
    let left = database.read(|transaction| {
        let rows = transaction.open_table(ROWS)?.len()?;
        Ok((transaction.open_table(CHUNKS)?.len()?, rows, transaction.open_table(DOOMED)?.len()?))
    });
    assert_eq!(left.unwrap(), (1, 0, 0));
    assert_eq!(kept.read(&store).await, ["kept"]);
}
