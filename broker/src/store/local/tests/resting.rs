//! Logs that nobody has open, and names that are looked up together.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::store::conformance::lifecycle::{beginning, lineage};
use crate::store::conformance::{Session, id};
use crate::store::local::LocalStore;
use crate::store::local::log::Stage;
use crate::store::local::shared::Tuning;
use crate::store::local::tests::faulty_disk::FaultyDisk;
use crate::store::local::tests::manual;
use crate::store::{Batch, Store, StoreError};

const RESTING_MAX: usize = 3;

fn tuning() -> Tuning {
    Tuning { resting_max: RESTING_MAX, ..manual() }
}

fn release(store: &LocalStore, session: &Session) {
    store.release(session.opened.log, session.opened.term);
}

fn resident(store: &LocalStore, name: &str) -> bool {
    store.shared.state().names.contains_key(&id(name))
}

#[tokio::test]
async fn what_nobody_has_open_leaves_memory_once_it_is_settled_and_comes_back_as_it_was() {
    let store = FaultyDisk::new().store(tuning());
    let names: Vec<String> = (0..20).map(|count| format!("s{count:02}")).collect();
    let mut kept = Session::open(&store, "kept").await;
    kept.append(&store, &["kept"]).await.unwrap();
    for name in &names {
        let mut session = Session::open(&store, name).await;
        session.append(&store, &[name]).await.unwrap();
        release(&store, &session);
    }
    assert!(names.iter().all(|name| resident(&store, name)), "what is not settled is nowhere else");
    store.settle().await.unwrap();
    // It is told that it is settled before the settler goes on.
    while store.shared.state().logs.len() > RESTING_MAX + 1 {
        tokio::task::yield_now().await;
    }
    assert!(names[17..].iter().all(|name| resident(&store, name)), "the last to rest are still there");
    kept.append(&store, &["more"]).await.unwrap();
    for name in &names {
        let mut session = Session::open(&store, name).await;
        assert_eq!(session.read(&store).await, [name.as_str()]);
        session.append(&store, &["more"]).await.unwrap();
    }
}

#[tokio::test]
async fn sessions_of_an_earlier_life_are_found_while_their_names_are_read_and_after() {
    // More than are read at once.
    const COUNT: usize = 4200;
    let names: Vec<String> = (0..COUNT).map(|count| format!("s{count}")).collect();
    let disk = FaultyDisk::new();
    let store = disk.store(manual());
    for name in &names {
        Session::open(&store, name).await.append(&store, &["one"]).await.unwrap();
    }
    store.shutdown().await.unwrap();
    drop(store);
    let store = disk.store(manual());
    let some = [&names[0], &names[COUNT / 2], &names[COUNT - 1]];
    for name in some {
        assert_eq!(Session::open(&store, name).await.read(&store).await, ["one"]);
    }
    assert!(!Session::open(&store, "new").await.opened.exists);
    while store.shared.state().known.reads_after().is_some() {
        tokio::task::yield_now().await;
    }
    let vacant = |name: &str| store.shared.state().known.vacant(name);
    assert!(names.iter().all(|name| vacant(name).is_none()));
    let others = (0..COUNT).filter(|count| vacant(&format!("new/{count}")) == Some(0)).count();
    assert!(others > COUNT - COUNT / 100, "{others}");
    for name in &names[COUNT - 100..] {
        assert!(Session::open(&store, name).await.opened.exists);
    }
    assert!(!Session::open(&store, "other").await.opened.exists);
}

#[tokio::test]
async fn who_has_opened_a_log_again_is_not_fenced_by_who_left_it() {
    let store = FaultyDisk::new().store(tuning());
    let mut first = Session::open(&store, "a").await;
    first.append(&store, &["one"]).await.unwrap();
    release(&store, &first);
    let mut second = Session::open(&store, "a").await;
    // Late, and twice.
    release(&store, &first);
    store.settle().await.unwrap();
    for count in 0..10 {
        let mut other = Session::open(&store, &format!("b{count}")).await;
        other.append(&store, &["x"]).await.unwrap();
        release(&store, &other);
        store.settle().await.unwrap();
    }
    second.append(&store, &["two"]).await.unwrap();
    assert_eq!(first.append(&store, &["x"]).await, Err(StoreError::Fenced));
    assert_eq!(second.read(&store).await, ["one", "two"]);
}

#[tokio::test]
async fn a_name_that_was_only_asked_for_is_forgotten_and_can_be_created_afterwards() {
    let store = FaultyDisk::new().store(tuning());
    for count in 0..100 {
        release(&store, &Session::open(&store, &format!("absent{count}")).await);
    }
    let reserved =
        store.shared.state().logs.values().filter(|log| log.durable.stage == Stage::Reserved).count();
    assert_eq!(reserved, RESTING_MAX);
    for count in 0..100 {
        Session::open(&store, &format!("absent{count}")).await.append(&store, &["x"]).await.unwrap();
    }
}

/// A fork looks for its parent, and then begins: the parent must not be forgotten in between, as if it were not there.
#[tokio::test]
async fn a_log_that_another_one_is_about_to_share_stays() {
    let store = FaultyDisk::new().store(tuning());
    let mut parent = Session::open(&store, "parent").await;
    parent.append(&store, &["zero", "one"]).await.unwrap();
    release(&store, &parent);
    store.settle().await.unwrap();
    LocalStore::make_resident(&store.shared, vec![parent.opened.log]).await.unwrap();
    for count in 0..20 {
        release(&store, &Session::open(&store, &format!("other{count}")).await);
    }
    assert!(resident(&store, "parent"));
    let fork = Session::open(&store, "fork").await;
    let first: Batch = beginning(0, 1, Some(parent.opened.log), lineage(&[(0, 0), (1, 1)]), &[]);
    store.append(fork.opened.log, fork.opened.term, fork.version, first).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn names_that_are_asked_for_at_a_time_are_found_each_for_itself() {
    // As many as are looked up together, and more threads have something to do.
    const NAMES: usize = 2000;
    let disk = FaultyDisk::new();
    let store = disk.store(tuning());
    for count in (0..NAMES).step_by(2) {
        Session::open(&store, &format!("s{count}"))
            .await
            .append(&store, &[&format!("{count}")])
            .await
            .unwrap();
    }
    store.shutdown().await.unwrap();
    drop(store);
    let store = Arc::new(disk.store(tuning()));
    let mut opening = JoinSet::new();
    for count in 0..NAMES {
        let store = Arc::clone(&store);
        opening.spawn(async move { (count, Session::open(&*store, &format!("s{count}")).await) });
    }
    let mut opened = opening.join_all().await;
    opened.sort_by_key(|(count, _)| *count);
    for (count, session) in opened {
        assert_eq!(session.opened.exists, count % 2 == 0, "{count}");
        if session.opened.exists {
            assert_eq!(session.read(&*store).await, [count.to_string().as_str()]);
        }
    }
}
