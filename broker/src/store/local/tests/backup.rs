//! Backups: a prefix of everything, as a folder that opens like any other.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use longwire_proto::session_id::SessionId;
use redb::{ReadableTable as _, TableDefinition};

use crate::store::backed_up::BackedUp;
use crate::store::conformance::feed::projection;
use crate::store::conformance::{ALL, Session, texts};
use crate::store::local::table::chunks::CHUNKS;
use crate::store::local::tests::manual;
use crate::store::local::{LocalConfig, LocalStore};
use crate::store::{Batch, Cas, ListQuery, Origin, Snapshot, Store, StoreError};

/// Values that a writer goes on for, at least, after each backup.
const AFTERWARDS: u64 = 50;

fn opened(folder: &Path) -> LocalStore {
    LocalStore::open(LocalConfig::new(folder)).unwrap()
}

fn salt(folder: &Path) -> String {
    fs::read_to_string(folder.join("FORMAT")).unwrap().lines().nth(1).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_backup_under_load_is_a_prefix_of_everything() {
    const PAIRS: usize = 3;
    let parent = tempfile::tempdir().unwrap();
    let store = opened(&parent.path().join("data"));
    let stop = AtomicBool::new(false);
    let acknowledged: Vec<AtomicU64> = (0..PAIRS).map(|_| AtomicU64::new(0)).collect();
    // Each value goes to one session and, when it is durable, to another: so no prefix has the second without the first.
    let write = async |pair: usize| {
        let mut first = Session::open(&store, &format!("first/{pair}")).await;
        let mut second = Session::open(&store, &format!("second/{pair}")).await;
        for value in 0.. {
            let text = format!("{value} {}", "x".repeat(2000));
            first.append(&store, &[&text]).await.unwrap();
            second.append(&store, &[&text]).await.unwrap();
            acknowledged[pair].store(value + 1, Ordering::SeqCst);
            if stop.load(Ordering::SeqCst) {
                break;
            }
        }
    };
    let known = || acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).collect::<Vec<_>>();
    let reached = async |counts: Vec<u64>| {
        while known().iter().zip(&counts).any(|(known, count)| known < count) {
            tokio::task::yield_now().await;
        }
    };
    let back_up = async {
        let mut backups = Vec::new();
        for name in ["one", "two"] {
            let before = known();
            reached(before.iter().map(|count| count + AFTERWARDS).collect()).await;
            let before = known();
            let backup = store.back_up(parent.path().join("backups").join(name)).await.unwrap();
            backups.push((before, backup));
        }
        // Appends go on while backups are made, and after them.
        reached(known().iter().map(|count| count + AFTERWARDS).collect()).await;
        stop.store(true, Ordering::SeqCst);
        backups
    };
    let (backups, _, _, _) = tokio::join!(back_up, write(0), write(1), write(2));
    for (before, backup) in backups {
        let (copy, mut records) = (opened(&backup.folder), 0);
        for (pair, before) in before.into_iter().enumerate() {
            let mut ends = Vec::new();
            for half in ["first", "second"] {
                let all = Session::open(&store, &format!("{half}/{pair}")).await.read(&store).await;
                let some = Session::open(&copy, &format!("{half}/{pair}")).await.read(&copy).await;
                assert_eq!(some, all[..some.len()], "a prefix");
                assert!(some.len() as u64 >= before, "what was acknowledged before is there");
                records += some.len() as u64;
                ends.push(some.len());
            }
            assert!((ends[1]..=ends[1] + 1).contains(&ends[0]), "of one moment: {ends:?}");
        }
        assert_eq!((backup.sessions, backup.records), (2 * PAIRS as u64, records));
    }
}

fn reserved(name: &str) -> SessionId {
    SessionId::stored(name).unwrap()
}

/// Something in every table, and most of it settled.
async fn fill(store: &LocalStore) {
    for name in ["a", "b", "c", "gone", "hidden"] {
        let mut session = Session::open(store, name).await;
        let projection = projection(name, &["all", &format!("is {name}")], Some(7));
        session.project(store, &["x", "y", "z"], projection).await.unwrap();
        let rows = vec![("row".into(), Some("value".into()))];
        let (log, term) = (session.opened.log, session.opened.term);
        let stored = store.put_snapshot(log, term, Snapshot { through: 2, rows });
        store.settle().await.unwrap();
        stored.await.unwrap();
    }
    let a = Session::open(store, "a").await;
    let fork = Session::open(store, "fork").await;
    let origin = Origin { lineage: a.opened.lineage.clone(), start: 0, shares: Some(a.opened.log) };
    let batch = Batch { origin: Some(origin), ..crate::store::conformance::batch(99, 3, &["own"]) };
    store.append(fork.opened.log, fork.opened.term, fork.version, batch).await.unwrap();
    Session::open(store, "gone").await.delete(store).await;
    let hidden = Session::open(store, "hidden").await.opened;
    store.rename(hidden.log, hidden.term, reserved("~hidden")).await.unwrap();
    let cas = Cas { key: "key".into(), expected: None, value: Some("value".into()) };
    store.cas(vec![cas]).await.unwrap();
}

/// What is found in a store, in every way in which it can be.
async fn found(store: &LocalStore) -> String {
    let mut text = String::new();
    for terms in [vec![], vec!["all".into()], vec!["is b".into()]] {
        text += &format!("{:?}\n", store.list(ListQuery { terms, limit: 9, ..ListQuery::default() }).await);
    }
    let changes = store.changes(0, 99).await.unwrap();
    let live: Vec<_> = changes.changes.iter().filter(|change| !change.deleted).collect();
    text += &format!("{live:?}\n{:?}\n", store.due(u64::MAX, None, 99).await);
    text += &format!("{:?}\n", store.scan("".into(), None, 99).await);
    for name in ["a", "b", "c", "fork", "gone", "~hidden"] {
        let opened = store.open(&reserved(name)).await;
        let opened = opened.map(|opened| (opened.log, opened.exists, opened.lineage, opened.end)).unwrap();
        let records = store.read(opened.0, 0, ALL).await.map(|chunk| texts(&chunk));
        text += &format!("{opened:?} {records:?} {:?}\n", store.rows(opened.0, vec!["row".into()]).await);
    }
    text
}

#[tokio::test]
async fn a_backup_has_everything_and_a_salt_of_its_own() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let store = opened(&data);
    fill(&store).await;
    let folder = parent.path().join("backups/one");
    // A crash in the middle of an earlier one.
    fs::create_dir_all(parent.path().join("backups/one.partial/journal")).unwrap();
    fs::write(parent.path().join("backups/one.partial/sessions.redb"), "half").unwrap();
    let backup = store.back_up(folder.clone()).await.unwrap();
    let bytes = fs::metadata(folder.join("sessions.redb")).unwrap().len();
    assert!(backup.bytes > bytes && backup.bytes < bytes + 1000, "{backup:?}");
    assert_eq!(backup, BackedUp { folder: folder.clone(), sessions: 4, records: 13, bytes: backup.bytes });
    assert_eq!(fs::read_dir(parent.path().join("backups")).unwrap().count(), 1);
    assert_ne!(salt(&folder), salt(&data));
    assert_eq!(store.back_up(folder.clone()).await, Err(StoreError::AlreadyExists));
    let copy = opened(&folder);
    assert_eq!(found(&copy).await, found(&store).await);
    // It goes on by itself.
    let mut session = Session::open(&copy, "a").await;
    session.append(&copy, &["only there"]).await.unwrap();
    drop(copy);
    let copy = opened(&folder);
    assert_eq!(Session::open(&copy, "a").await.read(&copy).await, ["x", "y", "z", "only there"]);
    assert_eq!(Session::open(&store, "a").await.read(&store).await, ["x", "y", "z"]);
}

#[tokio::test]
async fn damage_is_backed_up_as_it_is_and_found_there() {
    let parent = tempfile::tempdir().unwrap();
    let store = opened(&parent.path().join("data"));
    fill(&store).await;
    store.settle().await.unwrap();
    let log = Session::open(&store, "b").await.opened.log;
    let damaged = store.shared.database.write(|transaction| {
        let mut chunks = transaction.open_table(CHUNKS)?;
        let mut value = chunks.get((log.0, 0))?.unwrap().value().to_vec();
        let last = value.len() - 1;
        value[last] ^= 1;
        chunks.insert((log.0, 0), value.as_slice())?;
        Ok(())
    });
    damaged.unwrap();
    let backup = store.back_up(parent.path().join("one")).await.unwrap();
    let copy = opened(&backup.folder);
    for store in [&store, &copy] {
        assert_eq!(texts(&store.read(log, 0, ALL).await.unwrap()), ["x", "y"]);
        let damaged = store.read(log, 2, ALL).await;
        assert!(matches!(damaged, Err(StoreError::Corrupt { offset: 2, .. })), "{damaged:?}");
        assert_eq!(Session::open(store, "c").await.read(store).await, ["x", "y", "z"]);
    }
}

#[tokio::test]
async fn what_cannot_be_backed_up_whole_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let store = LocalStore::open_tuned(parent.path().join("data"), manual()).unwrap();
    fill(&store).await;
    let folder = parent.path().join("one");
    let odd: TableDefinition<'_, u64, u64> = TableDefinition::new("of another version");
    store.shared.database.write(|transaction| Ok(transaction.open_table(odd).map(drop)?)).unwrap();
    let refused = store.back_up(folder.clone()).await;
    assert!(matches!(refused, Err(StoreError::Unsupported(_))), "{refused:?}");
    assert!(store.shared.database.write(|transaction| Ok(transaction.delete_table(odd)?)).unwrap());
    store.shutdown().await.unwrap();
    let refused = store.back_up(folder).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "the data folder alone");
}
