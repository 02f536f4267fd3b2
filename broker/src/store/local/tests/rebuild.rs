//! What follows from the rows of the logs is made anew from them, and the numbers of a folder.

use redb::{ReadableTable as _, WriteTransaction};

use crate::store::conformance::Session;
use crate::store::conformance::feed::projection;
use crate::store::local::LocalStore;
use crate::store::local::database_failure::DatabaseFailure;
use crate::store::local::rebuild::{Rebuilt, Repaired, rebuild, rebuild_database};
use crate::store::local::segment::SEGMENT_BYTES;
use crate::store::local::shared::Tuning;
use crate::store::local::stats::stats;
use crate::store::local::table::changes::{self, CHANGES};
use crate::store::local::table::deadlines::{self, DEADLINES};
use crate::store::local::table::logs::LOGS;
use crate::store::local::table::names::{NAMES, Name};
use crate::store::local::table::terms::{self, TERMS};
use crate::store::local::tests::faulty_disk::{Faults, FaultyDisk};
use crate::store::local::tests::manual;
use crate::store::{Cas, ListQuery, LogId, Store, StoreError};

const SESSIONS: u64 = 40;
const STEP: usize = 7;

/// Forty settled sessions; every second one has the term `even`, every third the deadline of its number.
async fn filled(disk: &FaultyDisk) -> LocalStore {
    let store = disk.store(manual());
    for number in 0..SESSIONS / 2 {
        let mut session = Session::open(&store, &format!("s{number:02}")).await;
        session.project(&store, &[], projection("", &["all", "old"], Some(7))).await.unwrap();
    }
    store.settle().await.unwrap();
    for number in 0..SESSIONS {
        let mut session = Session::open(&store, &format!("s{number:02}")).await;
        let terms: &[&str] = if number % 2 == 0 { &["all", "even"] } else { &["all"] };
        let deadline = (number % 3 == 0).then_some(number);
        session.project(&store, &["x"], projection("row", terms, deadline)).await.unwrap();
    }
    let gone = Session::open(&store, "s39").await;
    gone.delete(&store).await;
    store.settle().await.unwrap();
    store
}

/// Everything that is found by the tables.
async fn found(store: &LocalStore) -> Result<String, StoreError> {
    let mut text = String::new();
    for terms in [&[][..], &["all"], &["even"], &["all", "even"]] {
        let terms = terms.iter().map(|term| (*term).into()).collect();
        let page = store.list(ListQuery { terms, limit: 99, ..ListQuery::default() }).await?;
        assert_eq!(page.more_after, None);
        let names: Vec<_> =
            page.sessions.iter().map(|listed| (listed.session.to_string(), listed.log)).collect();
        text.push_str(&format!("{names:?}\n"));
    }
    let changes = store.changes(0, 99).await?;
    let live: Vec<_> = changes.changes.iter().filter(|change| !change.deleted).collect();
    let due = store.due(u64::MAX, None, 99).await?;
    text.push_str(&format!("{live:?} {}\n{due:?}", changes.through));
    Ok(text)
}

fn remove_some(transaction: &WriteTransaction) -> Result<(), DatabaseFailure> {
    let mut table = transaction.open_table(TERMS)?;
    for name in ["s00", "s02", "s20"] {
        assert!(table.remove((&b"even"[..], name))?.is_some());
    }
    let mut table = transaction.open_table(CHANGES)?;
    let keys: Vec<_> = table.iter()?.take(4).map(|entry| entry.unwrap().0.value()).collect();
    for key in keys {
        table.remove(key)?;
    }
    let mut table = transaction.open_table(DEADLINES)?;
    let keys: Vec<_> = table.iter()?.take(2).map(|entry| entry.unwrap().0.value()).collect();
    for key in keys {
        table.remove(key)?;
    }
    transaction.open_table(NAMES)?.remove("s05")?;
    Ok(())
}

fn add_some(transaction: &WriteTransaction) -> Result<(), DatabaseFailure> {
    let mut table = transaction.open_table(TERMS)?;
    // Sound entries that no row confirms, and damaged ones.
    for (term, name, log) in
        [(&b"even"[..], "s01", LogId(2)), (b"never", "s01", LogId(2)), (b"all", "t", LogId(99))]
    {
        table.insert((term, name), terms::encode(term, name, log).as_slice())?;
    }
    table.insert((&b"all"[..], "s03"), &b"damaged"[..])?;
    let mut table = transaction.open_table(CHANGES)?;
    for (commit, log) in [(1, LogId(2)), (1000, LogId(3)), (1, LogId(99))] {
        table.insert((commit, log.0), changes::encode(commit, log).as_slice())?;
    }
    let mut table = transaction.open_table(DEADLINES)?;
    for (when_ms, log) in [(1, LogId(1)), (1, LogId(99))] {
        table.insert((when_ms, log.0), deadlines::encode(when_ms, log).as_slice())?;
    }
    let mut table = transaction.open_table(NAMES)?;
    table.insert("t", Name::Log(LogId(99)).encode("t").as_slice())?;
    table.insert("s06", &b"damaged"[..])?;
    Ok(())
}

#[tokio::test]
async fn what_is_missing_or_superfluous_is_put_right_and_counted() {
    let disk = FaultyDisk::new();
    let store = filled(&disk).await;
    let expected = found(&store).await.unwrap();
    drop(store);
    // Opened again, so that the database alone has the word.
    let store = disk.store(manual());
    assert_eq!(found(&store).await.unwrap(), expected);
    let database = &store.shared.database;
    assert_eq!(
        rebuild_database(database, STEP).unwrap(),
        Rebuilt { logs: SESSIONS - 1, ..Rebuilt::default() },
        "nothing is wrong"
    );
    database.write(remove_some).unwrap();
    assert_ne!(found(&store).await.unwrap(), expected);
    database.write(add_some).unwrap();
    let rebuilt = rebuild_database(database, STEP).unwrap();
    let wrong = |missing, superfluous| Repaired { missing, superfluous };
    assert_eq!(
        rebuilt,
        Rebuilt {
            logs: SESSIONS - 1,
            // A damaged entry is both: it is taken away and put there anew.
            terms: wrong(3 + 1, 3 + 1),
            changes: wrong(4, 3),
            deadlines: wrong(2, 2),
            names: wrong(1 + 1, 1 + 1),
            ..Rebuilt::default()
        }
    );
    assert_eq!(found(&store).await.unwrap(), expected);
    assert_eq!(
        rebuild_database(database, STEP).unwrap(),
        Rebuilt { logs: SESSIONS - 1, ..Rebuilt::default() }
    );
    drop(store);
    // What was known of this name is lost: whatever comes next is above it.
    let store = disk.store(manual());
    let opened = store.open(&"t".parse().unwrap()).await.unwrap();
    assert!(!opened.exists && opened.lineage.epoch() >= 1 << 32);
}

#[tokio::test]
async fn superfluous_entries_are_never_served() {
    let disk = FaultyDisk::new();
    let store = filled(&disk).await;
    let expected = found(&store).await.unwrap();
    drop(store);
    let store = disk.store(manual());
    let add = |transaction: &WriteTransaction| {
        add_some(transaction)?;
        // These are not hints: a session of a name is served, or damaged.
        let mut names = transaction.open_table(NAMES)?;
        names.remove("t")?;
        names.insert("s06", Name::Log(LogId(7)).encode("s06").as_slice())?;
        Ok(())
    };
    store.shared.database.write(add).unwrap();
    assert_eq!(found(&store).await.unwrap(), expected, "a damaged entry is one that its row confirms");
    // Damage that no row confirms may hide something.
    let damage = |transaction: &WriteTransaction| {
        transaction.open_table(TERMS)?.insert((&b"even"[..], "s07"), &b"damaged"[..])?;
        transaction.open_table(DEADLINES)?.insert((5, 5), &b"damaged"[..])?;
        transaction.open_table(CHANGES)?.insert((5, 55), &b"damaged"[..])?;
        Ok(())
    };
    store.shared.database.write(damage).unwrap();
    let query = ListQuery { terms: vec!["even".into()], limit: 99, ..ListQuery::default() };
    assert!(matches!(store.list(query).await, Err(StoreError::Corrupt { .. })));
    assert!(matches!(store.due(u64::MAX, None, 99).await, Err(StoreError::Corrupt { .. })));
    assert!(matches!(store.changes(0, 99).await, Err(StoreError::Corrupt { .. })));
    rebuild_database(&store.shared.database, STEP).unwrap();
    assert_eq!(found(&store).await.unwrap(), expected);
}

#[tokio::test]
async fn a_damaged_row_is_reported_and_the_others_go_on() {
    let disk = FaultyDisk::new();
    drop(filled(&disk).await);
    let store = disk.store(manual());
    let damage = |transaction: &WriteTransaction| {
        transaction.open_table(LOGS)?.insert(4, &b"damaged"[..])?;
        Ok(())
    };
    store.shared.database.write(damage).unwrap();
    // The feed and the deadlines of the others are told.
    assert_eq!(store.changes(0, 99).await.unwrap().changes.iter().filter(|one| !one.deleted).count(), 38);
    assert_eq!(store.due(u64::MAX, None, 99).await.unwrap().len(), 12);
    let rebuilt = rebuild_database(&store.shared.database, STEP).unwrap();
    assert_eq!((rebuilt.logs, rebuilt.damaged, &rebuilt.damaged_logs[..]), (39, 1, &[LogId(4)][..]));
    // One term, the change, and the deadline 3; its name stays, since the session is damaged and not gone.
    let superfluous = |superfluous| Repaired { missing: 0, superfluous };
    assert_eq!(rebuilt.terms, superfluous(1));
    assert_eq!(rebuilt.changes, superfluous(1));
    assert_eq!(rebuilt.deadlines, superfluous(1));
    assert_eq!(rebuilt.names, Repaired::default());
    assert!(matches!(store.open(&"s03".parse().unwrap()).await, Err(StoreError::Corrupt { .. })));
}

/// A key that is damaged hides itself from every search.
#[tokio::test]
async fn damaged_keys_are_thrown_away_with_their_tables() {
    let disk = FaultyDisk::new();
    let store = filled(&disk).await;
    let expected = found(&store).await.unwrap();
    store.shutdown().await.unwrap();
    drop(store);
    // The key of an entry of `terms` is the term and the name: `evens20` can only be there.
    disk.change("sessions.redb", |bytes| {
        let places: Vec<usize> =
            (0..bytes.len() - 7).filter(|at| bytes[*at..].starts_with(b"evens20")).collect();
        assert!(!places.is_empty());
        for at in places {
            bytes[at] = b'z';
        }
    });
    let store = disk.store(manual());
    let query = ListQuery { terms: vec!["even".into()], limit: 99, ..ListQuery::default() };
    let page = store.list(query).await;
    assert!(page.is_err() || page.unwrap().sessions.len() < 20);
    let rebuilt = rebuild_database(&store.shared.database, STEP).unwrap();
    assert!(rebuilt.remade || rebuilt.terms.superfluous + rebuilt.terms.missing > 0, "{rebuilt:?}");
    assert_eq!(found(&store).await.unwrap(), expected);
}

/// The disk fails at every sync of a rebuilding: what was done so far stays, and the next time does the rest.
#[tokio::test]
async fn a_crash_in_the_middle_leaves_less_to_do() {
    let disk = FaultyDisk::new();
    let store = filled(&disk).await;
    let expected = found(&store).await.unwrap();
    store.shared.database.write(remove_some).unwrap();
    store.shared.database.write(add_some).unwrap();
    store.shutdown().await.unwrap();
    drop(store);
    let mut failures = 0;
    for after in 0.. {
        let crashing = disk.copy();
        let store = crashing.store(manual());
        crashing.set_faults(Faults { fail_sync: Some(("sessions.redb", after, usize::MAX)), room: None });
        let failed = rebuild_database(&store.shared.database, STEP).is_err();
        let left = crashing.after_power_cut(|| after % 2 == 0);
        drop(store);
        let store = left.store(manual());
        rebuild_database(&store.shared.database, STEP).unwrap();
        assert_eq!(found(&store).await.unwrap(), expected, "after {after} syncs");
        failures += usize::from(failed);
        if !failed {
            break;
        }
    }
    assert!(failures > 4, "{failures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_of_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    // The segments of a broker, because what is asked here expects them.
    let tuning = Tuning { segment_bytes: SEGMENT_BYTES, ..manual() };
    let store = LocalStore::open_tuned(folder.path().into(), tuning).unwrap();
    for name in ["a", "b", "c"] {
        let mut session = Session::open(&store, name).await;
        session.project(&store, &["four", "five5"], projection("", &["t"], Some(1))).await.unwrap();
    }
    Session::open(&store, "c").await.delete(&store).await;
    store.cas(vec![Cas { key: "k".into(), expected: None, value: Some("v".into()) }]).await.unwrap();
    store.settle().await.unwrap();
    let mut session = Session::open(&store, "b").await;
    session.append(&store, &["not settled"]).await.unwrap();
    assert!(stats(folder.path()).is_err(), "a broker runs on it");
    drop(store);
    let found = stats(folder.path()).unwrap();
    assert_eq!((found.sessions, found.deleted_names, found.damaged), (2, 1, 0));
    assert_eq!((found.records, found.record_bytes, found.chunks), (4, 18, 2));
    assert_eq!((found.settled_commit, found.unsettled_commits), (5, 1));
    assert!(found.segments > 0 && found.journal_bytes >= found.segments * SEGMENT_BYTES);
    assert!(found.database_bytes > found.free_bytes && found.ballast_bytes == 4096);
    let entries = |name: &str| found.tables.iter().find(|table| table.name == name).unwrap().entries;
    assert_eq!((entries("logs"), entries("terms"), entries("deadlines"), entries("values")), (2, 2, 2, 1));
    assert_eq!(entries("names"), 3);
    assert!(found.tables.iter().all(|table| table.page_bytes >= table.stored_bytes));
    // redb gives back what it has too much of when it is closed: from then on nothing changes.
    let found = stats(folder.path()).unwrap();
    assert_eq!(stats(folder.path()).unwrap(), found, "looking changes nothing");
    let rebuilt = rebuild(folder.path()).unwrap();
    assert_eq!(rebuilt, Rebuilt { logs: 2, ..Rebuilt::default() });
    let found = stats(folder.path()).unwrap();
    assert_eq!((found.records, found.unsettled_commits), (5, 0), "rebuilding settles first");
}
