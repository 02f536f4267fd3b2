//! Names that change hands more often than they are settled, step by step and without threads.

use std::sync::Arc;

use crate::store::Store;
use crate::store::conformance::{Session, batch, id};
use crate::store::local::plan::{Plan, Removal};
use crate::store::local::settler::finish;
use crate::store::local::shared::Tuning;
use crate::store::local::tests::faulty_disk::{FaultyDisk, SALT};
use crate::store::local::tests::manual;
use crate::store::local::writer::Writer;
use crate::store::local::{LocalStore, Outcome, opening};

/// A store without threads.
struct Steps {
    disk: FaultyDisk,
    store: LocalStore,
    writer: Writer,
}

impl Steps {
    fn new() -> Self {
        let disk = FaultyDisk::new();
        let (store, writer) = Self::open(&disk);
        Self { disk, store, writer }
    }

    fn open(disk: &FaultyDisk) -> (LocalStore, Writer) {
        let tuning = Tuning { reads_block: true, ..manual() };
        let shared = Arc::new(opening::open(Arc::new(disk.clone()), None, SALT, tuning).unwrap());
        let writer = Writer::new(Arc::clone(&shared));
        (LocalStore { shared, threads: Arc::default() }, writer)
    }

    fn durable(&mut self, mut outcome: Outcome) {
        assert!(self.writer.step());
        assert_eq!(outcome.try_recv(), Ok(Ok(())));
    }

    async fn create(&mut self, name: &str) -> Session {
        let session = Session::open(&self.store, name).await;
        let first = batch(1, 0, &["x"]);
        let (log, term) = (session.opened.log, session.opened.term);
        let queued = LocalStore::queue_append(&self.store.shared, log, term, session.version, first).unwrap();
        self.durable(queued.1.unwrap());
        session
    }

    async fn rename(&mut self, from: &str, to: &str) {
        let opened = self.store.open(&id(from)).await.unwrap();
        assert!(opened.exists);
        self.store.open(&id(to)).await.unwrap();
        let queued = LocalStore::queue_rename(&self.store.shared, opened.log, opened.term, &id(to));
        self.durable(queued.unwrap().unwrap());
    }

    fn plan(&self) -> Plan {
        self.store.shared.state().plan().unwrap()
    }

    fn settle(&self, plan: Plan) {
        plan.apply(&self.store.shared.database, Removal::Now).unwrap();
        finish(&self.store.shared, plan);
    }

    /// Whether there is a session of each name, and the epoch of the name: now, and after another start.
    async fn expect(self, names: &[(&str, bool, u64)]) {
        let again = Self::open(&self.disk.copy()).0;
        let plan = self.store.shared.state().plan();
        plan.into_iter().for_each(|plan| self.settle(plan));
        for (name, exists, epoch) in names {
            for (store, when) in [(&self.store, "now"), (&again, "after another start")] {
                let opened =
                    store.open(&id(name)).await.unwrap_or_else(|error| panic!("{name} {when}: {error}"));
                assert_eq!((opened.exists, opened.lineage.epoch()), (*exists, *epoch), "{name} {when}");
            }
        }
    }
}

#[tokio::test]
async fn a_name_that_is_given_up_again_during_a_settling_is_free() {
    let mut steps = Steps::new();
    steps.create("a").await;
    steps.settle(steps.plan());
    steps.rename("a", "b").await;
    steps.rename("b", "a").await;
    let plan = steps.plan();
    steps.rename("a", "b").await;
    steps.settle(plan);
    steps.settle(steps.plan());
    steps.expect(&[("a", false, 0), ("b", true, 0)]).await;
}

#[tokio::test]
async fn another_log_that_gives_up_the_name_frees_it_too() {
    let mut steps = Steps::new();
    steps.create("a").await;
    steps.settle(steps.plan());
    steps.rename("a", "b").await;
    steps.create("a").await;
    let plan = steps.plan();
    steps.rename("a", "c").await;
    steps.settle(plan);
    steps.settle(steps.plan());
    steps.expect(&[("a", false, 0), ("b", true, 0), ("c", true, 0)]).await;
}

/// The epoch of a name that was given up is the same whether what happened to it before was settled or not.
#[tokio::test]
async fn a_name_that_was_deleted_and_given_up_later_is_as_if_it_never_had_a_log() {
    for settle_between in [true, false] {
        let mut steps = Steps::new();
        let session = steps.create("a").await;
        let (log, term) = (session.opened.log, session.opened.term);
        let deleted = LocalStore::queue_delete(&steps.store.shared, log, term).unwrap();
        steps.durable(deleted);
        // A log whose epoch is high enough for the name.
        let session = steps.create("b").await;
        let (log, term) = (session.opened.log, session.opened.term);
        let deleted = LocalStore::queue_delete(&steps.store.shared, log, term).unwrap();
        steps.durable(deleted);
        steps.create("b").await;
        if settle_between {
            steps.settle(steps.plan());
        }
        steps.rename("b", "a").await;
        steps.rename("a", "c").await;
        steps.expect(&[("a", false, 0), ("b", false, 0), ("c", true, 1)]).await;
    }
}
