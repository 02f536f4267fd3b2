//! The conformance suite over the hostile engine: without faults as it is, and with every fault of an engine through an
//! owner that reconciles.

use std::sync::Arc;

use super::*;
use crate::store::Projection;
use crate::store::conformance;
use crate::store::conformance::owner::Reconciled;
use crate::store::conformance::{Session, batch, id};
use crate::store::local::{LocalConfig, LocalStore};
use crate::store::memory::MemoryStore;

const SEED: u64 = 0x10_5e_ac;

fn local() -> (LocalStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (LocalStore::open(LocalConfig::new(folder.path())).unwrap(), folder)
}

fn hostile<S: Store>(inner: S) -> Reconciled<Hostile<S>> {
    println!("seed {SEED}");
    Reconciled::new(Hostile::new(inner, Faults::of_an_engine(), SEED))
}

mod memory {
    use super::*;
    conformance::suite!(async || (Hostile::new(MemoryStore::new(), Faults::none(), SEED), ()));
}

mod on_disk {
    use super::*;
    conformance::suite!(async || {
        let (inner, folder) = local();
        (Hostile::new(inner, Faults::none(), SEED), folder)
    });
}

mod memory_with_faults {
    use super::*;
    conformance::suite!(async || (hostile(MemoryStore::new()), ()));
}

mod on_disk_with_faults {
    use super::*;
    conformance::suite!(async || {
        let (inner, folder) = local();
        (hostile(inner), folder)
    });
}

#[tokio::test]
async fn a_batch_that_is_tried_again_is_reconciled_by_its_id() {
    let store = Hostile::new(MemoryStore::new(), Faults::none(), SEED);
    let Opened { log, term, version: before, .. } = store.open(&id("a")).await.unwrap();
    let append = |version, number, base| store.append(log, term, version, batch(number, base, &["x"]));
    let after = append(before, 1, 0).await.unwrap();
    let to = Target { log, term, version: before };
    assert!(store.shared.is_wrong_last_sequence(to), "the log itself does not know the batch again");
    assert_eq!(append(before, 1, 0).await, Ok(after));
    assert_eq!(append(before, 2, 0).await, Err(StoreError::VersionConflict), "another batch");
    append(after, 2, 1).await.unwrap();
    assert_eq!(
        append(before, 1, 0).await,
        Err(StoreError::VersionConflict),
        "it is not the last one any more"
    );
    assert_eq!(store.read(log, 0, conformance::ALL).await.unwrap().next(), 2);
}

#[tokio::test]
async fn one_batch_of_a_log_is_in_flight() {
    let faults = Faults { late_appends: 1, ..Faults::none() };
    let store = Hostile::new(MemoryStore::new(), faults, SEED);
    let opened = store.open(&id("a")).await.unwrap();
    let (log, term, version) = (opened.log, opened.term, opened.version);
    let append = |id| store.append(log, term, version, batch(id, 0, &["x"]));
    assert_eq!(append(1).await, Err(lost()));
    // It is on its way still.
    assert_eq!(append(2).await, Err(StoreError::VersionConflict));
    // Of another log another one may be.
    let other = store.open(&id("b")).await.unwrap();
    assert_eq!(store.append(other.log, other.term, other.version, batch(1, 0, &["x"])).await, Err(lost()));
    // The same batch waits for itself; so does who has opened the log since, whatever the first came to.
    assert_eq!(append(1).await, Err(lost()));
    let again = store.open(&id("a")).await.unwrap();
    let next = batch(3, again.end, &["y"]);
    assert_eq!(store.append(log, again.term, again.version, next).await, Err(lost()));
}

#[tokio::test]
async fn a_late_batch_is_durable_once_or_fenced() {
    let faults = Faults { late_appends: 1, ..Faults::none() };
    let store = Arc::new(Hostile::new(MemoryStore::new(), faults, SEED));
    for round in 0..50 {
        let name = format!("s/{round}");
        let opened = store.open(&id(&name)).await.unwrap();
        let late = batch(1, 0, &["late"]);
        assert_eq!(store.append(opened.log, opened.term, opened.version, late).await, Err(lost()));
        if round % 2 == 0 {
            tokio::time::sleep(store.shared.dice.delay()).await;
        }
        let next = store.open(&id(&name)).await.unwrap();
        let new = Batch { projection: Some(Projection::default()), ..batch(2, next.end, &["new"]) };
        assert_eq!(store.append(next.log, next.term, next.version, new).await, Err(lost()));
        let last = loop {
            let last = store.open(&id(&name)).await.unwrap();
            if last.end > next.end {
                break last;
            }
            // The one that came after it was fenced in turn: nothing else writes.
            assert_eq!(last.end, next.end);
            let new = batch(3, last.end, &["new"]);
            assert_eq!(store.append(last.log, last.term, last.version, new).await, Err(lost()));
            while store.shared.logs()[&last.log].in_flight.is_some() {
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(last.end, next.end + 1, "what the first opening sent did not come after the second one");
    }
}

#[tokio::test]
async fn a_takeover_fences() {
    let faults = Faults { takeovers: 1, ..Faults::none() };
    let store = Hostile::new(MemoryStore::new(), faults, SEED);
    let mut session = Session::open(&store, "a").await;
    assert_eq!(session.append(&store, &["x"]).await, Err(StoreError::Fenced));
    assert_eq!(session.read(&store).await, Vec::<String>::new());
    assert_eq!(store.injected(), 1);
}
