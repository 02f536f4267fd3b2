//! What every engine must do, as tests that take a store. [`suite`] runs them all over an engine.

pub(crate) mod erasure;
pub(crate) mod feed;
pub(crate) mod lifecycle;
pub(crate) mod owner;

use bytes::Bytes;
use longwire_proto::session_id::SessionId;

use crate::store::{
    Batch, BatchId, Chunk, Health, ListPage, ListQuery, LogId, Opened, Projection, ReadLimit, Reservation,
    Snapshot, Store, StoreError, Version,
};

pub(crate) use crate::store::conformance::erasure::{erases, erases_what_others_show};
pub(crate) use crate::store::conformance::lifecycle::{
    begins_elsewhere, forks_share_and_outlive, renames, scans_rows, trims,
    trims_what_a_snapshot_under_way_covers,
};

/// No bound.
pub(crate) const ALL: ReadLimit = ReadLimit { records: usize::MAX, bytes: usize::MAX };

/// A session id.
pub(crate) fn id(text: &str) -> SessionId {
    SessionId::parse(text).unwrap()
}

/// A batch of text records.
pub(crate) fn batch(batch: u128, base: u64, records: &[&str]) -> Batch {
    let records = records.iter().map(|record| Bytes::copy_from_slice(record.as_bytes())).collect();
    Batch {
        id: BatchId(batch),
        base,
        last_time_ms: 1000 + batch as u64,
        records,
        projection: None,
        origin: None,
        erase: Vec::new(),
        reservation: Reservation::none(),
    }
}

/// The records as text.
pub(crate) fn texts(chunk: &Chunk) -> Vec<String> {
    chunk.records.iter().map(|record| String::from_utf8(record.to_vec()).unwrap()).collect()
}

/// Reads either way, which give the same: at most what the limit allows, and none only at the end.
pub(crate) async fn read(store: &impl Store, log: LogId, from: u64, limit: ReadLimit) -> Chunk {
    let chunk = store.read(log, from, limit).await.unwrap();
    let framed = store.read_framed(log, from, limit).await.unwrap();
    assert_eq!((framed.from, framed.count == 0), (chunk.from, chunk.records.is_empty()));
    let count = usize::try_from(framed.count).unwrap();
    assert!(count <= limit.records && (framed.record_bytes <= limit.bytes || count == 1), "{framed:?}");
    // Either may end earlier.
    let mut both = chunk.clone();
    both.records.truncate(count);
    if both.records.len() == count {
        assert_eq!(framed, both.into());
    }
    chunk
}

/// An open session that remembers its version and end.
pub(crate) struct Session {
    pub(crate) opened: Opened,
    pub(crate) version: Version,
    pub(crate) end: u64,
    batches: u128,
}

impl Session {
    pub(crate) async fn open(store: &impl Store, name: &str) -> Self {
        let opened = store.open(&id(name)).await.unwrap();
        // Batch ids are unique in a log, across openings too.
        let batches = u128::from(opened.version.0) << 32 | u128::from(opened.term.0) << 96;
        Self { version: opened.version, end: opened.end, opened, batches }
    }

    pub(crate) async fn append(&mut self, store: &impl Store, records: &[&str]) -> Result<(), StoreError> {
        self.batches += 1;
        let batch = batch(self.batches, self.end, records);
        self.version = store.append(self.opened.log, self.opened.term, self.version, batch).await?;
        self.end += records.len() as u64;
        Ok(())
    }

    pub(crate) async fn read(&self, store: &impl Store) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let chunk = read(store, self.opened.log, all.len() as u64, ALL).await;
            assert_eq!(chunk.from, all.len() as u64);
            if chunk.records.is_empty() {
                return all;
            }
            all.extend(texts(&chunk));
        }
    }
}

pub(crate) async fn appends_and_reads(store: impl Store) {
    let mut session = Session::open(&store, "acme/a").await;
    assert!(!session.opened.exists);
    assert_eq!((session.opened.start, session.opened.end), (0, 0));
    assert_eq!(session.opened.lineage.epoch(), 0);
    assert_eq!(session.read(&store).await, Vec::<String>::new());
    session.append(&store, &["zero", "one"]).await.unwrap();
    session.append(&store, &[]).await.unwrap();
    session.append(&store, &["", "three"]).await.unwrap();
    assert_eq!(session.read(&store).await, ["zero", "one", "", "three"]);
    let log = session.opened.log;
    let read = |from, records, bytes| store.read(log, from, ReadLimit { records, bytes });
    assert_eq!(texts(&read(1, 2, 99).await.unwrap()), ["one", ""]);
    // One byte more than three records have: a read may end where the bytes are used up.
    assert_eq!(texts(&read(0, 9, 8).await.unwrap()), ["zero", "one", ""]);
    assert_eq!(texts(&read(0, 9, 1).await.unwrap()), ["zero"], "one record is always returned");
    for from in [4, 5, u64::MAX] {
        let end = read(from, 9, 99).await.unwrap();
        assert_eq!((end.from, end.records.len()), (from, 0));
    }
    assert_eq!(read(1, 1, 99).await.unwrap().next(), 2);
    let again = Session::open(&store, "acme/a").await;
    assert!(again.opened.exists);
    assert_eq!((again.opened.log, again.end, again.version), (log, 4, session.version));
    assert_eq!(store.health(), Health::Ready);
}

pub(crate) async fn fences_earlier_openings(store: impl Store) {
    let mut first = Session::open(&store, "a").await;
    let mut second = Session::open(&store, "a").await;
    assert_eq!(first.opened.log, second.opened.log, "one name has one log");
    assert_eq!(first.append(&store, &["x"]).await, Err(StoreError::Fenced));
    second.append(&store, &["y"]).await.unwrap();
    let mut third = Session::open(&store, "a").await;
    let (log, term) = (second.opened.log, second.opened.term);
    assert_eq!(second.append(&store, &["z"]).await, Err(StoreError::Fenced));
    let snapshot = Snapshot { through: 1, rows: Vec::new() };
    assert_eq!(store.put_snapshot(log, term, snapshot).await, Err(StoreError::Fenced));
    assert_eq!(store.delete(log, term).await, Err(StoreError::Fenced));
    third.append(&store, &["w"]).await.unwrap();
    assert_eq!(third.read(&store).await, ["y", "w"]);
}

pub(crate) async fn detects_conflicts_and_repeats(store: impl Store) {
    let session = Session::open(&store, "a").await;
    let (log, term, before) = (session.opened.log, session.opened.term, session.version);
    let after = store.append(log, term, before, batch(7, 0, &["x"])).await.unwrap();
    assert_ne!(before, after);
    assert_eq!(store.append(log, term, before, batch(7, 0, &["x"])).await, Ok(after), "its answer was lost");
    assert_eq!(store.append(log, term, before, batch(8, 0, &["y"])).await, Err(StoreError::VersionConflict));
    assert_eq!(store.append(log, term, after, batch(8, 0, &["y"])).await, Err(StoreError::VersionConflict));
    assert_eq!(store.append(log, term, after, batch(8, 2, &["y"])).await, Err(StoreError::VersionConflict));
    store.append(log, term, after, batch(8, 1, &["y"])).await.unwrap();
    assert_eq!(session.read(&store).await, ["x", "y"]);
}

pub(crate) async fn deletes_and_recreates(store: impl Store) {
    let mut first = Session::open(&store, "a").await;
    let (log, term) = (first.opened.log, first.opened.term);
    assert_eq!(store.delete(log, term).await, Err(StoreError::NotFound), "it was never created");
    first.append(&store, &["x"]).await.unwrap();
    let snapshot = Snapshot { through: 1, rows: vec![("k".into(), Some("v".into()))] };
    store.put_snapshot(log, term, snapshot.clone()).await.unwrap();
    store.delete(log, term).await.unwrap();
    assert_eq!(first.append(&store, &["y"]).await, Err(StoreError::Deleted));
    assert_eq!(store.delete(log, term).await, Err(StoreError::NotFound));
    assert_eq!(store.put_snapshot(log, term, snapshot).await, Err(StoreError::Deleted));
    assert_eq!(store.read(log, 0, ALL).await.unwrap_err(), StoreError::Deleted);
    assert_eq!(store.rows(log, vec!["k".into()]).await, Err(StoreError::Deleted));
    assert_eq!(store.list(ListQuery { limit: 9, ..ListQuery::default() }).await, Ok(ListPage::default()));
    for epoch in 1..4 {
        let mut next = Session::open(&store, "a").await;
        assert!(!next.opened.exists);
        assert!(next.opened.log > log);
        assert_eq!(next.opened.lineage.epoch(), epoch);
        assert_eq!((next.opened.end, next.opened.snapshot_through), (0, None));
        next.append(&store, &["again"]).await.unwrap();
        assert_eq!(next.read(&store).await, ["again"]);
        assert_eq!(store.rows(next.opened.log, vec!["k".into()]).await, Ok(vec![None]));
        let listed = store.list(ListQuery { limit: 9, ..ListQuery::default() }).await.unwrap().sessions;
        assert_eq!((listed.len(), listed[0].epoch()), (1, epoch));
        store.delete(next.opened.log, next.opened.term).await.unwrap();
    }
}

pub(crate) async fn lists_in_order(store: impl Store) {
    for name in ["b/2", "a", "b/10", "b", "c/x", "b/1"] {
        let mut session = Session::open(&store, name).await;
        let batch = Batch {
            projection: Some(Projection {
                row: Bytes::copy_from_slice(name.as_bytes()),
                ..Projection::default()
            }),
            ..batch(1, 0, &["x"])
        };
        let (log, term) = (session.opened.log, session.opened.term);
        session.version = store.append(log, term, session.version, batch).await.unwrap();
    }
    drop(Session::open(&store, "b/never").await);
    let names = |listed: Vec<crate::store::Listed>| {
        for entry in &listed {
            assert_eq!(entry.projection, entry.session.as_str());
            assert_eq!((entry.start, entry.end, entry.last_time_ms), (0, 1, 1001));
        }
        listed.into_iter().map(|entry| entry.session.to_string()).collect::<Vec<_>>()
    };
    let list = async |prefix: &str, after: Option<&str>, limit| {
        let query = ListQuery { prefix: prefix.into(), after: after.map(id), limit, ..ListQuery::default() };
        names(store.list(query).await.unwrap().sessions)
    };
    assert_eq!(list("", None, 99).await, ["a", "b", "b/1", "b/10", "b/2", "c/x"]);
    assert_eq!(list("b/", None, 99).await, ["b/1", "b/10", "b/2"]);
    assert_eq!(list("b/", Some("b/10"), 99).await, ["b/2"]);
    assert_eq!(list("b/", Some("a"), 2).await, ["b/1", "b/10"]);
    assert_eq!(list("", Some("b/1"), 2).await, ["b/10", "b/2"]);
    assert_eq!(list("b/", Some("c"), 9).await, Vec::<String>::new());
    let opened = store.open(&id("b")).await.unwrap();
    store.delete(opened.log, opened.term).await.unwrap();
    assert_eq!(list("b", None, 99).await, ["b/1", "b/10", "b/2"]);
}

pub(crate) async fn keeps_snapshots(store: impl Store) {
    let mut session = Session::open(&store, "a").await;
    session.append(&store, &["x", "y"]).await.unwrap();
    let (log, term) = (session.opened.log, session.opened.term);
    let rows = |rows: &[(&'static str, Option<&'static str>)]| {
        rows.iter().map(|(key, row)| ((*key).into(), row.map(Bytes::from))).collect::<Vec<(Bytes, _)>>()
    };
    let get = async |keys: &[&'static str]| {
        store.rows(log, keys.iter().map(|key| Bytes::from(*key)).collect()).await.unwrap()
    };
    assert_eq!(get(&["k"]).await, [None]);
    let ahead = Snapshot { through: 3, rows: Vec::new() };
    assert_eq!(store.put_snapshot(log, term, ahead).await, Err(StoreError::VersionConflict));
    let first =
        Snapshot { through: 1, rows: rows(&[("k", Some("1")), ("gone", Some("1")), ("same", Some(""))]) };
    let second = Snapshot { through: 2, rows: rows(&[("k", Some("2")), ("gone", None)]) };
    let first = store.put_snapshot(log, term, first);
    assert_eq!(get(&["same", "k"]).await, [Some("".into()), Some("1".into())], "readable at once");
    let second = store.put_snapshot(log, term, second);
    let expected = [Some("2".into()), None, Some("".into()), None];
    assert_eq!(get(&["k", "gone", "same", "never"]).await, expected);
    first.await.unwrap();
    second.await.unwrap();
    assert_eq!(get(&["k", "gone", "same", "never"]).await, expected);
    let late = Snapshot { through: 1, rows: rows(&[("k", Some("late"))]) };
    store.put_snapshot(log, term, late).await.unwrap();
    assert_eq!(get(&["k"]).await, [Some("2".into())], "a later snapshot contains an earlier one");
    assert_eq!(store.open(&id("a")).await.unwrap().snapshot_through, Some(2));
}

pub(crate) async fn enforces_limits(store: impl Store) {
    let mut session = Session::open(&store, "a").await;
    let limits = store.capabilities();
    let long = "x".repeat(limits.batch_bytes_max);
    session.append(&store, &[&long]).await.unwrap();
    let error = session.append(&store, &[&long, "x"]).await.unwrap_err();
    assert!(matches!(error, StoreError::BatchTooLarge { what: "bytes", .. }));
    let many = vec![""; limits.batch_records_max];
    session.append(&store, &many).await.unwrap();
    let error = session.append(&store, &vec![""; limits.batch_records_max + 1]).await.unwrap_err();
    let limit = limits.batch_records_max;
    assert_eq!(error, StoreError::BatchTooLarge { what: "records", found: limit + 1, limit });
    assert_eq!(session.read(&store).await.len(), 1 + many.len());
    for bytes in [0, 1, limits.batch_bytes_max, 1 << 40] {
        assert!(store.reserve(session.opened.log, bytes).await.unwrap().bytes() >= bytes);
    }
}

pub(crate) async fn refuses_after_shutdown(store: impl Store) {
    let mut session = Session::open(&store, "a").await;
    session.append(&store, &["x"]).await.unwrap();
    store.shutdown().await.unwrap();
    assert!(matches!(session.append(&store, &["y"]).await, Err(StoreError::Unavailable(_))));
    assert_eq!(session.read(&store).await, ["x"]);
    store.shutdown().await.unwrap();
}

/// Runs every test over the store that the given async closure makes, beside what must outlive it.
macro_rules! suite {
    ($make:expr) => {
        crate::store::conformance::suite!(
            $make,
            appends_and_reads,
            fences_earlier_openings,
            detects_conflicts_and_repeats,
            deletes_and_recreates,
            lists_in_order,
            keeps_snapshots,
            trims,
            trims_what_a_snapshot_under_way_covers,
            begins_elsewhere,
            forks_share_and_outlive,
            renames,
            scans_rows,
            erases,
            erases_what_others_show,
            enforces_limits,
            refuses_after_shutdown,
            feed::takes_projections_without_records,
            feed::refuses_terms_beyond_the_limits,
            feed::finds_by_terms,
            feed::tells_changes_in_order,
            feed::tells_everyone_everything,
            feed::wakes_at_deadlines,
            feed::keeps_values,
            feed::lets_one_writer_win,
            feed::tells_of_commits
        );
    };
    ($make:expr, $($($module:ident)::+),*) => {$(
        crate::store::conformance::suite!(@one $make, $($module)::+);
    )*};
    (@one $make:expr, $test:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let make = $make;
            let (store, _outlives_it) = make().await;
            crate::store::conformance::$test(store).await;
        }
    };
    (@one $make:expr, $module:ident::$test:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let make = $make;
            let (store, _outlives_it) = make().await;
            crate::store::conformance::$module::$test(store).await;
        }
    };
}
pub(crate) use suite;
