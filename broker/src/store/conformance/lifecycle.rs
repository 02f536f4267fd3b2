//! Trims, forks, renamings, and what an opening says of them.

use bytes::Bytes;
use longwire_proto::position::{Lineage, LineageEntry};
use longwire_proto::session_id::SessionId;

use crate::store::conformance::{ALL, Session, batch, id, read, texts};
use crate::store::{Batch, BatchId, ListQuery, LogId, Origin, ReadLimit, Snapshot, Store, StoreError};

/// A lineage whose entries are these epochs and offsets.
pub(crate) fn lineage(entries: &[(u64, u64)]) -> Lineage {
    let entry = |(epoch, from_offset): &(u64, u64)| LineageEntry { epoch: *epoch, from_offset: *from_offset };
    Lineage::from_entries(entries.iter().map(entry).collect()).unwrap()
}

/// The first batch of a log that comes from somewhere.
pub(crate) fn beginning(
    start: u64,
    base: u64,
    shares: Option<LogId>,
    epochs: Lineage,
    records: &[&str],
) -> Batch {
    let id = BatchId(u128::from(base) << 64 | 1 << 127);
    Batch { origin: Some(Origin { lineage: epochs, start, shares }), id, ..batch(1, base, records) }
}

impl Session {
    /// Makes everything so far coverable by a trim.
    pub(crate) async fn snapshot(&self, store: &impl Store) {
        let snapshot = Snapshot { through: self.end, rows: Vec::new() };
        store.put_snapshot(self.opened.log, self.opened.term, snapshot).await.unwrap();
    }

    /// A new session that shows the records of this one from `start` up to `base`.
    pub(crate) async fn fork(&self, store: &impl Store, name: &str, start: u64, base: u64) -> Session {
        let mut fork = Session::open(store, name).await;
        let epoch = 1 + self.opened.lineage.epoch().max(fork.opened.lineage.epoch());
        let epochs = lineage(&[(self.opened.lineage.epoch(), 0), (epoch, base)]);
        let first = beginning(start, base, Some(self.opened.log), epochs, &["forked"]);
        let (log, term) = (fork.opened.log, fork.opened.term);
        fork.version = store.append(log, term, fork.version, first).await.unwrap();
        fork.end = base + 1;
        fork
    }

    pub(crate) async fn texts(&self, store: &impl Store, from: u64) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let chunk = read(store, self.opened.log, from + all.len() as u64, ALL).await;
            assert_eq!(chunk.from, from + all.len() as u64);
            if chunk.records.is_empty() {
                return all;
            }
            all.extend(texts(&chunk));
        }
    }
}

fn out_of_range<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::OutOfRange(_))), "{result:?}");
}

pub(crate) async fn trims(store: impl Store) {
    let mut session = Session::open(&store, "a").await;
    let (log, term) = (session.opened.log, session.opened.term);
    assert_eq!(store.trim(log, term, 0, 0).await, Err(StoreError::NotFound), "it was never created");
    session.append(&store, &["zero", "one"]).await.unwrap();
    session.append(&store, &["two"]).await.unwrap();
    out_of_range(store.trim(log, term, 1, 4).await);
    let snapshot = Snapshot { through: 2, rows: vec![("k".into(), Some("v".into()))] };
    store.put_snapshot(log, term, snapshot).await.unwrap();
    out_of_range(store.trim(log, term, 3, 10).await);
    out_of_range(store.trim(log, term, u64::MAX, 0).await);
    let opened = store.open(&id("a")).await.unwrap();
    assert_eq!((opened.start, opened.born, opened.bytes), (0, 0, 10));
    assert_eq!(store.trim(log, term, 1, 4).await, Err(StoreError::Fenced));
    let term = opened.term;
    store.trim(log, term, 1, 4).await.unwrap();
    let read = async |from| {
        let chunk = store.read(log, from, ReadLimit { records: 2, bytes: 99 }).await.unwrap();
        (chunk.from, texts(&chunk))
    };
    assert_eq!(read(0).await, (1, vec!["one".into(), "two".into()]));
    store.trim(log, term, 0, 9).await.unwrap();
    store.trim(log, term, 1, 9).await.unwrap();
    session.opened = store.open(&id("a")).await.unwrap();
    let opened = &session.opened;
    assert_eq!((opened.start, opened.born, opened.bytes, opened.end), (1, 0, 6, 3), "nothing was done");
    session.append(&store, &["three"]).await.unwrap();
    session.snapshot(&store).await;
    store.trim(log, session.opened.term, 4, 11).await.unwrap();
    assert_eq!(read(0).await, (4, vec![]));
    session.append(&store, &["four"]).await.unwrap();
    assert_eq!(read(0).await, (4, vec!["four".into()]));
    let listed = store.list(ListQuery { limit: 9, ..ListQuery::default() }).await.unwrap().sessions;
    assert_eq!((listed[0].start, listed[0].end), (4, 5));
    let opened = store.open(&id("a")).await.unwrap();
    assert_eq!((opened.start, opened.bytes, opened.version), (4, 4, session.version));
    assert_eq!(store.rows(log, vec!["k".into()]).await, Ok(vec![Some("v".into())]));
    store.delete(log, opened.term).await.unwrap();
    assert_eq!(store.trim(log, opened.term, 5, 4).await, Err(StoreError::NotFound));
}

/// An owner that opens the log finds the snapshot that the last one has put, whether it is durable or not.
pub(crate) async fn trims_what_a_snapshot_under_way_covers(store: impl Store) {
    for end in 1..3 {
        let mut session = Session::open(&store, "a").await;
        session.append(&store, &["x"]).await.unwrap();
        let (log, term) = (session.opened.log, session.opened.term);
        let put = store.put_snapshot(log, term, Snapshot { through: end, rows: vec![] });
        let opened = store.open(&id("a")).await.unwrap();
        if opened.snapshot_through == Some(end) {
            store.trim(log, opened.term, end, 1).await.unwrap();
            assert_eq!(store.open(&id("a")).await.unwrap().start, end);
        }
        drop(put.await);
    }
}

pub(crate) async fn begins_elsewhere(store: impl Store) {
    let session = Session::open(&store, "a").await;
    let (log, term, version) = (session.opened.log, session.opened.term, session.version);
    let append = async |batch| store.append(log, term, version, batch).await;
    assert_eq!(append(batch(1, 7, &["x"])).await, Err(StoreError::VersionConflict), "it begins at 0");
    out_of_range(append(beginning(7, 8, None, lineage(&[(3, 0)]), &["x"])).await);
    out_of_range(append(beginning(7, 6, None, lineage(&[(3, 0)]), &["x"])).await);
    out_of_range(append(beginning(7, 8, Some(LogId(77)), lineage(&[(3, 0)]), &["x"])).await);
    out_of_range(append(beginning(0, 0, Some(log), lineage(&[(3, 0)]), &["x"])).await);
    let epochs = lineage(&[(1, 0), (3, 5)]);
    let first = || beginning(7, 7, None, epochs.clone(), &["seven", "eight"]);
    let after = append(first()).await.unwrap();
    assert_eq!(append(first()).await, Ok(after), "its answer was lost");
    let again = beginning(9, 9, None, epochs.clone(), &["x"]);
    assert_eq!(store.append(log, term, after, again).await, Err(StoreError::VersionConflict));
    let mut session = Session::open(&store, "a").await;
    let opened = session.opened.clone();
    assert!(opened.exists && opened.lineage == epochs);
    assert_eq!((opened.start, opened.born, opened.end, opened.bytes), (7, 7, 9, 10));
    assert_eq!(opened.snapshot_through, None);
    session.append(&store, &["nine"]).await.unwrap();
    let chunk = store.read(log, 0, ALL).await.unwrap();
    assert_eq!((chunk.from, texts(&chunk)), (7, vec!["seven".into(), "eight".into(), "nine".into()]));
    out_of_range(store.trim(log, session.opened.term, 8, 5).await);
    session.snapshot(&store).await;
    store.trim(log, session.opened.term, 8, 5).await.unwrap();
    let opened = store.open(&id("a")).await.unwrap();
    assert_eq!((opened.start, opened.born, opened.bytes), (8, 7, 9));
    store.delete(log, opened.term).await.unwrap();
    // Epochs must rise above those of the deleted one.
    let next = Session::open(&store, "a").await;
    assert_eq!(next.opened.lineage.epoch(), 4);
    let (log, term, version) = (next.opened.log, next.opened.term, next.version);
    let append = async |epochs| store.append(log, term, version, beginning(0, 0, None, epochs, &["x"])).await;
    assert_eq!(append(lineage(&[(3, 0)])).await, Err(StoreError::VersionConflict));
    append(lineage(&[(0, 0), (4, 0)])).await.unwrap();
}

pub(crate) async fn forks_share_and_outlive(store: impl Store) {
    let mut parent = Session::open(&store, "parent").await;
    parent.append(&store, &["p0", "p1", "p2"]).await.unwrap();
    parent.append(&store, &["p3", "p4"]).await.unwrap();
    let refused = Session::open(&store, "refused").await;
    let shared = parent.opened.log;
    let try_fork = async |start, base| {
        let first = beginning(start, base, Some(shared), lineage(&[(1, 0)]), &["x"]);
        store.append(refused.opened.log, refused.opened.term, refused.version, first).await
    };
    out_of_range(try_fork(0, 6).await);
    out_of_range(try_fork(6, 6).await);
    let mut fork = parent.fork(&store, "fork", 1, 4).await;
    parent.append(&store, &["p5"]).await.unwrap();
    fork.append(&store, &["f5"]).await.unwrap();
    assert_eq!(fork.texts(&store, 1).await, ["p1", "p2", "p3", "forked", "f5"]);
    assert_eq!(parent.texts(&store, 0).await, ["p0", "p1", "p2", "p3", "p4", "p5"]);
    let one = store.read(fork.opened.log, 0, ReadLimit { records: 1, bytes: 1 }).await.unwrap();
    assert_eq!((one.from, texts(&one)), (1, vec!["p1".into()]));
    let opened = store.open(&id("fork")).await.unwrap();
    assert_eq!((opened.start, opened.born, opened.end, opened.bytes), (1, 1, 6, 8));
    assert_eq!((opened.lineage.epoch(), opened.snapshot_through), (1, None));
    fork.opened.term = opened.term;
    // A fork of a fork, within what that shares, and beyond it.
    let low = fork.fork(&store, "low", 2, 3).await;
    let high = fork.fork(&store, "high", 1, 5).await;
    assert_eq!(low.texts(&store, 2).await, ["p2", "forked"]);
    assert_eq!(high.texts(&store, 1).await, ["p1", "p2", "p3", "forked", "forked"]);
    store.delete(parent.opened.log, parent.opened.term).await.unwrap();
    assert_eq!(store.read(parent.opened.log, 0, ALL).await.unwrap_err(), StoreError::Deleted);
    out_of_range(try_fork(1, 2).await);
    assert_eq!(fork.texts(&store, 1).await, ["p1", "p2", "p3", "forked", "f5"]);
    let mut again = Session::open(&store, "parent").await;
    assert!(!again.opened.exists && again.opened.log != parent.opened.log);
    again.append(&store, &["new"]).await.unwrap();
    assert_eq!(low.texts(&store, 2).await, ["p2", "forked"]);
    store.delete(fork.opened.log, fork.opened.term).await.unwrap();
    let highest = high.fork(&store, "highest", 3, 6).await;
    assert_eq!(highest.texts(&store, 3).await, ["p3", "forked", "forked", "forked"]);
    high.snapshot(&store).await;
    store.trim(high.opened.log, high.opened.term, 5, 0).await.unwrap();
    assert_eq!(high.texts(&store, 5).await, ["forked"]);
    assert_eq!(store.open(&id("high")).await.unwrap().bytes, 6);
    assert_eq!(highest.texts(&store, 3).await, ["p3", "forked", "forked", "forked"]);
    assert_eq!(low.texts(&store, 2).await, ["p2", "forked"]);
    let names = store.list(ListQuery { limit: 9, ..ListQuery::default() }).await.unwrap().sessions;
    let names: Vec<String> = names.into_iter().map(|listed| listed.session.to_string()).collect();
    assert_eq!(names, ["high", "highest", "low", "parent"]);
}

pub(crate) async fn renames(store: impl Store) {
    let names = async || {
        let listed = store.list(ListQuery { limit: 9, ..ListQuery::default() }).await.unwrap().sessions;
        listed.into_iter().map(|listed| listed.session.to_string()).collect::<Vec<_>>()
    };
    let mut session = Session::open(&store, "a").await;
    let (log, term) = (session.opened.log, session.opened.term);
    assert_eq!(store.rename(log, term, id("b")).await, Err(StoreError::NotFound), "it was never created");
    session.append(&store, &["x"]).await.unwrap();
    let mut there = Session::open(&store, "there").await;
    there.append(&store, &["y"]).await.unwrap();
    assert_eq!(store.rename(log, term, id("there")).await, Err(StoreError::AlreadyExists));
    assert_eq!(store.rename(log, term, id("a")).await, Err(StoreError::AlreadyExists));
    // Who had opened the vacant name finds it taken.
    let mut late = Session::open(&store, "b").await;
    store.rename(log, term, id("b")).await.unwrap();
    assert_eq!(late.append(&store, &["late"]).await, Err(StoreError::Fenced));
    session.append(&store, &["x1"]).await.unwrap();
    assert_eq!(names().await, ["b", "there"]);
    assert_eq!(Session::open(&store, "b").await.opened.log, log);
    assert_eq!(store.rename(log, term, id("c")).await, Err(StoreError::Fenced));
    let mut again = Session::open(&store, "a").await;
    assert!(!again.opened.exists && again.opened.log != log);
    assert_eq!(again.opened.lineage.epoch(), 0);
    again.append(&store, &["new"]).await.unwrap();
    assert_eq!(names().await, ["a", "b", "there"]);
    // A name that was deleted has an epoch that the log's must reach.
    store.delete(again.opened.log, again.opened.term).await.unwrap();
    let term = store.open(&id("b")).await.unwrap().term;
    assert_eq!(store.rename(log, term, id("a")).await, Err(StoreError::VersionConflict));
    let import = Session::open(&store, "import").await;
    let first = beginning(0, 0, None, lineage(&[(1, 0)]), &["imported"]);
    let (imported, term) = (import.opened.log, import.opened.term);
    store.append(imported, term, import.version, first).await.unwrap();
    let hidden = SessionId::reserved("~import/a").unwrap();
    store.rename(imported, term, hidden.clone()).await.unwrap();
    assert_eq!(names().await, ["b", "there"], "the broker's own are not listed");
    let reserved = ListQuery { prefix: "~".into(), limit: 9, ..ListQuery::default() };
    assert_eq!(store.list(reserved).await.unwrap().sessions, []);
    let opened = store.open(&hidden).await.unwrap();
    assert_eq!((opened.log, opened.exists), (imported, true));
    store.rename(imported, opened.term, id("a")).await.unwrap();
    assert_eq!(names().await, ["a", "b", "there"]);
    assert!(!store.open(&hidden).await.unwrap().exists);
    let opened = Session::open(&store, "a").await;
    assert_eq!((opened.opened.log, opened.read(&store).await), (imported, vec!["imported".to_owned()]));
    store.delete(imported, opened.opened.term).await.unwrap();
    assert_eq!(store.open(&id("a")).await.unwrap().lineage.epoch(), 2);
    assert_eq!(names().await, ["b", "there"]);
}

pub(crate) async fn scans_rows(store: impl Store) {
    let mut session = Session::open(&store, "a").await;
    let (log, term) = (session.opened.log, session.opened.term);
    let scan = async |prefix: &'static str, after: Option<&'static str>, limit| {
        let rows = store.scan_rows(log, prefix.into(), after.map(Bytes::from), limit).await.unwrap();
        rows.into_iter()
            .map(|(key, row)| format!("{}={}", key.escape_ascii(), row.escape_ascii()))
            .collect::<Vec<_>>()
    };
    assert_eq!(scan("", None, 9).await, Vec::<String>::new());
    session.append(&store, &["x"]).await.unwrap();
    let put = |rows: &[(&'static str, Option<&'static str>)]| {
        let rows = rows.iter().map(|(key, row)| (Bytes::from(*key), row.map(Bytes::from))).collect();
        store.put_snapshot(log, term, Snapshot { through: 1, rows })
    };
    put(&[("b1", Some("1")), ("b3", Some("3")), ("a", Some("a")), ("b5", Some("5")), ("c", Some("c"))])
        .await
        .unwrap();
    // A neighbour whose rows sort right behind.
    let mut other = Session::open(&store, "b").await;
    other.append(&store, &["x"]).await.unwrap();
    let rows = vec![("b".into(), Some("other".into()))];
    store.put_snapshot(other.opened.log, other.opened.term, Snapshot { through: 1, rows }).await.unwrap();
    assert_eq!(scan("b", None, 9).await, ["b1=1", "b3=3", "b5=5"]);
    let second =
        put(&[("b0", Some("0")), ("b3", None), ("b4", Some("4")), ("b5", Some("new")), ("b6", Some("6"))]);
    let expected = ["b0=0", "b1=1", "b4=4", "b5=new", "b6=6"];
    for _ in 0..2 {
        assert_eq!(scan("b", None, 9).await, expected, "readable at once");
        assert_eq!(scan("b", None, 3).await, expected[..3]);
        assert_eq!(scan("b", Some("b1"), 2).await, expected[2..4]);
        assert_eq!(scan("b", Some("b3"), 9).await, expected[2..]);
        assert_eq!(scan("b", Some("a"), 1).await, expected[..1]);
        assert_eq!(scan("b", Some("c"), 9).await, Vec::<String>::new());
        assert_eq!(scan("b1", None, 9).await, ["b1=1"]);
        assert_eq!(scan("", None, 99).await.len(), 7);
        // The second time after both are in the same place.
        session.snapshot(&store).await;
    }
    second.await.unwrap();
    store.delete(log, term).await.unwrap();
    assert_eq!(store.scan_rows(log, Bytes::new(), None, 9).await, Err(StoreError::Deleted));
}
