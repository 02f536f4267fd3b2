//! Random histories against a simple model. The seed is fixed; a failure prints the shortest history.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use crate::store::conformance::Session;
use crate::store::local::LocalStore;
use crate::store::local::tests::faulty_disk::FaultyDisk;
use crate::store::local::tests::{Random, manual};
use crate::store::{ListQuery, Snapshot, Store};

const NAMES: usize = 4;
const CASES: u32 = 60;

#[derive(Clone, Debug)]
enum Step {
    Append { name: usize, records: usize, bytes: usize },
    Snapshot { name: usize, key: u8, row: Option<u8> },
    Delete { name: usize },
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
        1 => name.prop_map(|name| Step::Delete { name }),
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
}

#[derive(Debug, Default)]
struct Model {
    logs: BTreeMap<String, Log>,
    epochs: BTreeMap<String, u64>,
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
    let mut disk = FaultyDisk::new();
    let mut store = disk.store(manual());
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
                let log = model.logs.entry(name).or_default();
                log.epoch = epoch;
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
                store = disk.store(manual());
            }
            Step::Shutdown => {
                store.shutdown().await.unwrap();
                drop(store);
                store = disk.store(manual());
            }
        }
        check(&store, &model).await;
    }
}

#[test]
fn random_histories_follow_the_model() {
    let config = Config {
        cases: CASES,
        rng_seed: RngSeed::Fixed(0x10_4e_17),
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
