//! Random histories against a simple model. The seed is fixed; a failure prints the shortest history.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use crate::store::conformance::Session;
use crate::store::conformance::feed::projection;
use crate::store::local::LocalStore;
use crate::store::local::rebuild::{Rebuilt, rebuild_database};
use crate::store::local::shared::Tuning;
use crate::store::local::tests::faulty_disk::FaultyDisk;
use crate::store::local::tests::{Random, manual};
use crate::store::{Cas, ListQuery, LogId, Snapshot, Store, StoreError};

const NAMES: usize = 4;
const CASES: u32 = 90;
const TERMS: [&str; 3] = ["a", "b", "bb"];
const KEYS: usize = 4;
/// Fewer than there are names: opening one forgets another.
const LOGS_MAX: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Append { name: usize, records: usize, bytes: usize },
    Snapshot { name: usize, key: u8, row: Option<u8> },
    Project { name: usize, terms: u8, deadline: Option<u64> },
    Delete { name: usize },
    Cas { key: usize, other: usize, value: Option<u8>, right: bool },
    Follow { limit: usize },
    Settle,
    Crash { seed: u64 },
    Shutdown,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 0..NAMES;
    let step = prop_oneof![
        8 => (name.clone(), 0..6_usize, prop_oneof![0..40_usize, 20_000..70_000_usize])
            .prop_map(|(name, records, bytes)| Step::Append { name, records, bytes }),
        2 => (name.clone(), 0..4_u8, any::<Option<u8>>())
            .prop_map(|(name, key, row)| Step::Snapshot { name, key, row }),
        4 => (name.clone(), 0..8_u8, prop::option::of(0..5_u64))
            .prop_map(|(name, terms, deadline)| Step::Project { name, terms, deadline }),
        1 => name.prop_map(|name| Step::Delete { name }),
        3 => (0..KEYS, 0..KEYS, any::<Option<u8>>(), any::<bool>())
            .prop_map(|(key, other, value, right)| Step::Cas { key, other, value, right }),
        3 => (1..4_usize).prop_map(|limit| Step::Follow { limit }),
        2 => Just(Step::Settle),
        2 => (1..u64::MAX).prop_map(|seed| Step::Crash { seed }),
        1 => Just(Step::Shutdown),
    ];
    prop::collection::vec(step, 1..40)
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Log {
    epoch: u64,
    records: Vec<String>,
    rows: BTreeMap<Bytes, Option<Bytes>>,
    terms: u8,
    deadline: Option<u64>,
    /// When it was changed last: counts changes.
    changed: u64,
}

#[derive(Debug, Default)]
struct Model {
    logs: BTreeMap<String, Log>,
    epochs: BTreeMap<String, u64>,
    values: BTreeMap<Bytes, Bytes>,
    changes: u64,
}

impl Model {
    fn changed(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }
}

/// Who follows the change feed through crashes, and what it believes.
#[derive(Debug, Default)]
struct Consumer {
    after: u64,
    ends: BTreeMap<LogId, u64>,
}

impl Consumer {
    /// Follows to the end; then it knows the end of every log. Gives the logs in the order in which they were told.
    async fn follow(&mut self, store: &LocalStore, limit: usize) -> Vec<LogId> {
        let mut told = Vec::new();
        loop {
            let page = store.changes(self.after, limit).await.unwrap();
            for change in page.changes {
                assert!(change.commit > self.after && change.commit <= page.through);
                if change.deleted {
                    self.ends.remove(&change.log);
                } else {
                    self.ends.insert(change.log, change.end);
                    told.push(change.log);
                }
            }
            self.after = page.through;
            if self.after >= *store.commits().borrow() {
                return told;
            }
        }
    }
}

fn key(key: usize) -> Bytes {
    Bytes::from(format!("k{}", "k".repeat(key)))
}

fn terms(terms: u8) -> Vec<&'static str> {
    (0..TERMS.len()).filter(|term| terms & 1 << term != 0).map(|term| TERMS[term]).collect()
}

/// What the indexes must say.
async fn check_indexes(store: &LocalStore, model: &Model, limit: usize) {
    for wanted in 1..8_u8 {
        let query = ListQuery {
            terms: terms(wanted).into_iter().map(Bytes::from).collect(),
            limit: 9,
            ..ListQuery::default()
        };
        let page = store.list(query).await.unwrap();
        let found: Vec<String> = page.sessions.iter().map(|listed| listed.session.to_string()).collect();
        let having = model.logs.iter().filter(|(_, log)| log.terms & wanted == wanted);
        assert_eq!(found, having.map(|(name, _)| name.clone()).collect::<Vec<_>>(), "terms {wanted:b}");
    }
    let due = store.due(3, None, 9).await.unwrap();
    let due: Vec<_> = due.into_iter().map(|due| (due.when_ms, due.log, due.session.to_string())).collect();
    assert!(due.is_sorted());
    let due: BTreeMap<String, u64> = due.into_iter().map(|(when_ms, _, name)| (name, when_ms)).collect();
    let expected = model.logs.iter().filter_map(|(name, log)| Some((name.clone(), log.deadline?)));
    assert_eq!(due, expected.filter(|(_, when_ms)| *when_ms <= 3).collect());
    let values = store.scan("k".into(), None, 99).await.unwrap();
    assert_eq!(values, model.values.clone().into_iter().collect::<Vec<_>>());
    for number in 0..KEYS {
        assert_eq!(store.get(key(number)).await.unwrap().as_ref(), model.values.get(&key(number)));
    }
    // Whoever begins now is told every log once, in the order of their last changes.
    let told = Consumer::default().follow(store, limit).await;
    let listed = store.list(ListQuery { limit: 99, ..ListQuery::default() }).await.unwrap().sessions;
    let mut expected: Vec<_> =
        listed.iter().map(|listed| (model.logs[listed.session.as_str()].changed, listed.log)).collect();
    expected.sort_unstable();
    assert_eq!(told, expected.into_iter().map(|(_, log)| log).collect::<Vec<_>>());
}

async fn check(store: &LocalStore, model: &Model) {
    let listed = store.list(ListQuery { limit: 99, ..ListQuery::default() }).await.unwrap().sessions;
    let found: Vec<_> = listed.iter().map(|l| (l.session.to_string(), l.epoch(), l.end)).collect();
    let expected: Vec<_> =
        model.logs.iter().map(|(name, log)| (name.clone(), log.epoch, log.records.len() as u64)).collect();
    assert_eq!(found, expected);
    for listed in listed {
        let log = &model.logs[listed.session.as_str()];
        let session = Session::open(store, listed.session.as_str()).await;
        assert_eq!(session.opened.log, listed.log);
        assert!(session.read(store).await == log.records, "{}", listed.session);
        let keys: Vec<Bytes> = log.rows.keys().cloned().collect();
        let rows: Vec<_> = log.rows.values().cloned().collect();
        assert_eq!(store.rows(listed.log, keys).await.unwrap(), rows);
    }
}

async fn run(steps: Vec<Step>) {
    let tuning = Tuning { logs_max: LOGS_MAX, ..manual() };
    let mut consumer = Consumer::default();
    let mut disk = FaultyDisk::new();
    let mut store = disk.store(tuning);
    let mut model = Model::default();
    let mut written = 0;
    for step in steps {
        match step {
            Step::Append { name, records, bytes } => {
                let name = format!("n{name}");
                let mut session = Session::open(&store, &name).await;
                let epoch = model.epochs.get(&name).copied().unwrap_or(0);
                assert_eq!(session.opened.lineage.epoch(), epoch);
                let records: Vec<String> = (0..records)
                    .map(|_| {
                        written += 1;
                        format!("{written} {}", "y".repeat(bytes))
                    })
                    .collect();
                let texts: Vec<&str> = records.iter().map(String::as_str).collect();
                session.append(&store, &texts).await.unwrap();
                let changed = model.changed();
                let log = model.logs.entry(name).or_default();
                log.epoch = epoch;
                log.changed = changed;
                log.records.extend(records);
            }
            Step::Snapshot { name, key, row } => {
                let name = format!("n{name}");
                let Some(log) = model.logs.get_mut(&name) else { continue };
                let session = Session::open(&store, &name).await;
                let key = Bytes::from(vec![key]);
                let row = row.map(|row| Bytes::from(vec![row; usize::from(row)]));
                let snapshot = Snapshot { through: session.end, rows: vec![(key.clone(), row.clone())] };
                let durable = store.put_snapshot(session.opened.log, session.opened.term, snapshot);
                store.settle().await.unwrap();
                durable.await.unwrap();
                log.rows.insert(key, row);
            }
            Step::Project { name, terms: found, deadline } => {
                let name = format!("n{name}");
                let mut session = Session::open(&store, &name).await;
                let row = projection("row", &terms(found), deadline);
                session.project(&store, &[], row).await.unwrap();
                let epoch = model.epochs.get(&name).copied().unwrap_or(0);
                let changed = model.changed();
                let log = model.logs.entry(name).or_default();
                (log.epoch, log.terms, log.deadline, log.changed) = (epoch, found, deadline, changed);
            }
            Step::Cas { key: first, other, value, right } => {
                let mut keys = vec![key(first), key(other)];
                keys.dedup();
                let value = value.map(|value| Bytes::from(vec![value]));
                let writes = keys.iter().map(|key| Cas {
                    key: key.clone(),
                    expected: model.values.get(key).cloned(),
                    value: value.clone(),
                });
                let mut writes: Vec<Cas> = writes.collect();
                if !right && let Some(last) = writes.last_mut() {
                    last.expected = Some("wrong".into());
                }
                let written = store.cas(writes).await;
                assert_eq!(written, if right { Ok(()) } else { Err(StoreError::VersionConflict) });
                for key in keys.into_iter().filter(|_| right) {
                    match &value {
                        Some(value) => model.values.insert(key, value.clone()),
                        None => model.values.remove(&key),
                    };
                }
            }
            Step::Follow { limit } => {
                consumer.follow(&store, limit).await;
                check_indexes(&store, &model, limit).await;
                for listed in
                    store.list(ListQuery { limit: 99, ..ListQuery::default() }).await.unwrap().sessions
                {
                    assert_eq!(consumer.ends.get(&listed.log), Some(&listed.end), "{}", listed.session);
                }
            }
            Step::Delete { name } => {
                let name = format!("n{name}");
                let Some(log) = model.logs.remove(&name) else { continue };
                let session = Session::open(&store, &name).await;
                store.delete(session.opened.log, session.opened.term).await.unwrap();
                model.epochs.insert(name, log.epoch + 1);
            }
            Step::Settle => store.settle().await.unwrap(),
            Step::Crash { seed } => {
                let mut random = Random(seed);
                disk = disk.after_power_cut(|| random.below(2) == 0);
                store = disk.store(tuning);
            }
            Step::Shutdown => {
                store.shutdown().await.unwrap();
                drop(store);
                store = disk.store(tuning);
            }
        }
        check(&store, &model).await;
    }
    check_indexes(&store, &model, 2).await;
    // And the tables have that, and nothing else. Nobody may be removing a deleted log meanwhile.
    store.shutdown().await.unwrap();
    let rebuilt = rebuild_database(&store.shared.database, 2).unwrap();
    assert_eq!(rebuilt, Rebuilt { logs: model.logs.len() as u64, ..Rebuilt::default() });
}

#[test]
fn random_histories_follow_the_model() {
    let config = Config {
        cases: CASES,
        rng_seed: RngSeed::Fixed(0x10_4e_18),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    TestRunner::new(config)
        .run(&steps(), |steps| {
            runtime.block_on(run(steps));
            Ok(())
        })
        .unwrap();
}
