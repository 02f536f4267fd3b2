//! Who is alone writes to the journal.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::store::conformance::Session;
use crate::store::local::LocalStore;
use crate::store::local::shared::Tuning;
use crate::store::local::tests::faulty_disk::{Faults, FaultyDisk};
use crate::store::local::tests::manual;
use crate::store::{Health, Store};

/// What an answer leads to does not come at once.
const PACE: Duration = Duration::from_millis(1);

fn alone(store: &LocalStore) -> u64 {
    store.shared.state().alone.writes()
}

/// Appends until an append was written by its caller.
async fn append_alone(store: &LocalStore, session: &mut Session, expected: &mut Vec<String>) {
    let before = alone(store);
    while alone(store) == before {
        sleep(PACE).await;
        let record = format!("record {}", expected.len());
        session.append(store, &[&record]).await.unwrap();
        expected.push(record);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_alone_is_durable_and_what_could_not_be_is_left_to_the_thread() {
    let disk = FaultyDisk::new();
    let store = disk.store(manual());
    let (mut session, mut expected) = (Session::open(&store, "a").await, Vec::new());
    for failures in 0..3 {
        append_alone(&store, &mut session, &mut expected).await;
        let recovered = disk.after_power_cut(|| false).store(manual());
        assert_eq!(Session::open(&recovered, "a").await.read(&recovered).await, expected);
        let (failed, wrote) = (disk.failures(), alone(&store));
        disk.set_faults(Faults { fail_sync: Some(("journal/", 0, failures)), room: None });
        sleep(PACE).await;
        session.append(&store, &["fails"]).await.unwrap();
        expected.push("fails".to_owned());
        assert_eq!(disk.failures() - failed, failures);
        assert!(alone(&store) <= wrote + 1, "the thread goes on with it");
        assert_eq!(disk.misuses(), 0, "a segment that failed is never written to again");
        assert_eq!(store.health(), Health::Ready);
    }
    assert_eq!(session.read(&store).await, expected);
    store.settle().await.unwrap();
    assert_eq!(session.read(&store).await, expected);
}

#[tokio::test]
async fn where_nobody_else_serves_it_is_the_thread_that_writes() {
    let store = FaultyDisk::new().store(manual());
    let mut session = Session::open(&store, "a").await;
    for _ in 0..50 {
        sleep(PACE).await;
        session.append(&store, &["record"]).await.unwrap();
    }
    assert_eq!(alone(&store), 0);
}

/// The thread that waits for the disk may be the one that times and sockets were waited for by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_write_takes_long_others_serve() {
    let disk = FaultyDisk::new();
    // Nothing else touches the disk.
    let tuning = Tuning { spares_after: Duration::from_secs(3600), ..manual() };
    let store = Arc::new(disk.store(tuning));
    let (mut session, mut expected) = (Session::open(&*store, "a").await, Vec::new());
    for _ in 0..20 {
        append_alone(&store, &mut session, &mut expected).await;
        sleep(PACE).await;
        let (served, serves) = oneshot::channel();
        let timer = tokio::spawn(async move {
            sleep(20 * PACE).await;
            served.send(()).unwrap();
        });
        let held = disk.hold();
        let appending = tokio::spawn({
            let store = Arc::clone(&store);
            async move {
                session.append(&*store, &["slow"]).await.unwrap();
                session
            }
        });
        // Would hang if nobody waited for the time.
        serves.await.unwrap();
        drop(held);
        timer.await.unwrap();
        session = appending.await.unwrap();
        expected.push("slow".to_owned());
    }
    assert_eq!(session.read(&*store).await, expected);
}
