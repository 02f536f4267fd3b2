//! What a disk must hold after a power cut, checked by opening the store on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Runtime;

use crate::store::conformance::{ALL, id};
use crate::store::local::LocalStore;
use crate::store::local::keyed;
use crate::store::local::rebuild::{Rebuilt, rebuild_database};
use crate::store::local::settler::Settler;
use crate::store::local::tests::sim::disk::{Content, SimDisk, Tear};
use crate::store::local::tests::sim::rng::Rng;
use crate::store::local::tests::sim::workload::{
    Log, Model, NAMES, ROW_KEYS, Rows, TERMS, open, still_there, wipe_step,
};
use crate::store::local::writer::Writer;
use crate::store::{Batch, BatchId, Cas, Change, ListQuery, LogId, Reservation, Store, StoreError};

/// Steps of a wipe of so small a database are fewer by far.
const WIPE_STEPS_MAX: usize = 5_000;

/// What there may be: every acknowledged commit, and perhaps the one that was being written; the snapshots of every
/// settling that is done, and perhaps those of the one that was at work.
pub(crate) struct Allowed<'t> {
    pub(crate) models: &'t [Model],
    pub(crate) acknowledged: usize,
    pub(crate) at_most: usize,
    pub(crate) rows: &'t [Rows],
}

/// A session as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    log: Log,
    snapshot_through: Option<u64>,
    rows: Vec<Option<Bytes>>,
}

/// Everything in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    commit: u64,
    sessions: BTreeMap<String, Found>,
    /// The epoch that a session would begin with, by name.
    vacant: BTreeMap<String, u64>,
    /// The table.
    values: BTreeMap<Bytes, Bytes>,
}

fn row_keys() -> Vec<Bytes> {
    (0..ROW_KEYS).map(|key| Bytes::from(vec![b'k', key])).collect()
}

/// What the indexes say about the sessions.
struct Indexed {
    terms: BTreeMap<String, u8>,
    due: BTreeMap<LogId, u64>,
    changes: BTreeMap<LogId, Change>,
}

impl Indexed {
    async fn read(store: &LocalStore) -> Result<Self, StoreError> {
        let mut terms = BTreeMap::new();
        for (bit, term) in TERMS.into_iter().enumerate() {
            let query = ListQuery { terms: vec![term.into()], limit: usize::MAX, ..ListQuery::default() };
            for listed in store.list(query).await?.sessions {
                *terms.entry(listed.session.to_string()).or_default() |= 1 << bit;
            }
        }
        let due = store.due(u64::MAX, None, usize::MAX).await?;
        assert!(due.is_sorted_by(|a, b| (a.when_ms, a.log) < (b.when_ms, b.log)));
        let changes = store.changes(0, usize::MAX).await?;
        assert_eq!(changes.through, store.shared.state().durable_commit());
        let changes = changes.changes;
        assert!(changes.is_sorted_by(|a, b| (a.commit, a.log) < (b.commit, b.log) || a.commit == b.commit));
        let count = (due.len(), changes.len());
        let due: BTreeMap<_, _> = due.into_iter().map(|due| (due.log, due.when_ms)).collect();
        let changes: BTreeMap<_, _> = changes.into_iter().map(|change| (change.log, change)).collect();
        assert_eq!(count, (due.len(), changes.len()), "a log is there twice");
        Ok(Self { terms, due, changes })
    }

    /// What is left when every session has been looked for: nothing but logs that are being removed.
    fn check_rest(self) {
        assert!(self.terms.is_empty() && self.due.is_empty(), "{:?} {:?}", self.terms, self.due);
        assert!(self.changes.values().all(|change| change.deleted), "{:?}", self.changes);
    }
}

async fn observe(store: &LocalStore) -> Result<Observed, StoreError> {
    let mut indexed = Indexed::read(store).await?;
    let mut sessions = BTreeMap::new();
    for listed in store.list(ListQuery { limit: usize::MAX, ..ListQuery::default() }).await?.sessions {
        let opened = store.open(&listed.session).await?;
        let mut records = Vec::new();
        loop {
            let next = opened.start + records.len() as u64;
            let chunk = store.read(listed.log, next, ALL).await?;
            if chunk.records.is_empty() {
                break;
            }
            assert_eq!(chunk.from, next);
            records.extend(chunk.records);
        }
        assert!(opened.exists, "{} is listed and does not exist", listed.session);
        assert_eq!((opened.log, opened.start), (listed.log, listed.start), "{}", listed.session);
        let end = opened.start + records.len() as u64;
        assert_eq!((opened.end, listed.end), (end, end), "{}", listed.session);
        assert_eq!(opened.lineage.epoch(), listed.epoch(), "{}", listed.session);
        let log = Log {
            id: listed.log,
            epoch: listed.epoch(),
            version: opened.version.0,
            born: opened.born,
            start: opened.start,
            records,
            last_time_ms: listed.last_time_ms,
            projection: listed.projection,
            terms: indexed.terms.remove(listed.session.as_str()).unwrap_or(0),
            deadline_ms: indexed.due.remove(&listed.log),
            commit: match indexed.changes.remove(&listed.log) {
                Some(change) => {
                    let told = (&change.session, &change.lineage, change.start, change.end, change.deleted);
                    let is = (&listed.session, &listed.lineage, listed.start, listed.end, false);
                    assert_eq!(told, is);
                    change.commit
                }
                None => panic!("{} is not in the change feed", listed.session),
            },
        };
        let rows = store.rows(listed.log, row_keys()).await?;
        let found = Found { log, snapshot_through: opened.snapshot_through, rows };
        sessions.insert(listed.session.to_string(), found);
    }
    indexed.check_rest();
    let values = store.scan(Bytes::new(), None, usize::MAX).await?.into_iter().collect();
    let mut vacant = BTreeMap::new();
    for name in NAMES.into_iter().filter(|name| !sessions.contains_key(*name)) {
        let opened = store.open(&id(name)).await?;
        assert!(!opened.exists, "{name} exists and is not listed");
        vacant.insert(name.to_owned(), opened.lineage.epoch());
    }
    let commit = store.shared.state().durable_commit();
    Ok(Observed { commit, sessions, vacant, values })
}

impl Observed {
    /// The last commit that is there.
    pub(crate) fn commit(&self) -> u64 {
        self.commit
    }
}

impl Allowed<'_> {
    fn expected(&self, commit: usize, rows: &Rows) -> Observed {
        let model = &self.models[commit];
        let found = model.logs.iter().map(|(name, log)| {
            let rows = rows.get(&log.id);
            let row = |key: &Bytes| rows.and_then(|(_, rows)| rows.get(key).cloned().flatten());
            let found = Found {
                log: Log::clone(log),
                snapshot_through: rows.map(|(through, _)| *through),
                rows: row_keys().iter().map(row).collect(),
            };
            (name.clone(), found)
        });
        let vacant = NAMES.into_iter().filter(|name| !model.logs.contains_key(*name));
        let vacant = vacant.map(|name| (name.to_owned(), model.epochs.get(name).copied().unwrap_or(0)));
        let values = model.values.clone();
        Observed { commit: commit as u64, sessions: found.collect(), vacant: vacant.collect(), values }
    }

    fn verdict(&self, found: &Observed) -> Result<(), String> {
        let commit = usize::try_from(found.commit).unwrap();
        if commit < self.acknowledged {
            return Err(format!("commit {commit} is the last, and {} was acknowledged", self.acknowledged));
        }
        if commit > self.at_most {
            return Err(format!("commit {commit} was never written: {} is the last", self.at_most));
        }
        if self.rows.iter().any(|rows| self.expected(commit, rows) == *found) {
            return Ok(());
        }
        let expected: Vec<_> = self.rows.iter().map(|rows| self.expected(commit, rows)).collect();
        Err(format!("commit {commit}: found {}\nexpected one of {}", short(found), {
            expected.iter().map(short).collect::<Vec<_>>().join("\n or ")
        }))
    }
}

fn short(observed: &Observed) -> String {
    let sessions = observed.sessions.iter().map(|(name, found)| {
        let records: Vec<String> = found
            .log
            .records
            .iter()
            .map(|record| String::from_utf8_lossy(&record[..record.len().min(8)]).into_owned())
            .collect();
        let (log, through) = (&found.log, found.snapshot_through);
        let rows = found.rows.iter().map(|row| row.as_ref().map(Bytes::len)).collect::<Vec<_>>();
        format!(
            "{name}: log {} epoch {} version {} commit {} born {} start {} projection {:?} terms {:b} deadline {:?} \
             snapshot {through:?} rows {rows:?} records {records:?}",
            log.id.0,
            log.epoch,
            log.version,
            log.commit,
            log.born,
            log.start,
            log.projection,
            log.terms,
            log.deadline_ms
        )
    });
    let sessions = sessions.collect::<Vec<_>>().join("; ");
    let values = observed.values.iter().map(|(key, value)| (key, value.slice(..value.len().min(12))));
    format!("{sessions}; vacant {:?}; values {:?}", observed.vacant, values.collect::<Vec<_>>())
}

/// Opens the store on a disk and compares.
pub(crate) fn check(
    runtime: &Runtime,
    disk: &SimDisk,
    allowed: &Allowed<'_>,
) -> Result<(LocalStore, Observed), String> {
    let store = open(disk)?;
    let observed = runtime.block_on(observe(&store)).map_err(|error| error.to_string())?;
    allowed.verdict(&observed)?;
    Ok((store, observed))
}

/// What was seen once is there for good, whatever the disk loses now.
pub(crate) fn check_again(runtime: &Runtime, disk: &Content, seen: &Observed) -> Result<(), String> {
    let disk = SimDisk::new(disk.clone());
    let store = open(&disk)?;
    let observed = runtime.block_on(observe(&store)).map_err(|error| error.to_string())?;
    disk.next_life();
    drop(store);
    if observed == *seen {
        return Ok(());
    }
    Err(format!(
        "seen and gone: {} {}\nnow {} {}",
        seen.commit,
        short(seen),
        observed.commit,
        short(&observed)
    ))
}

/// Wipes, and finds nothing of what is dead in any file, nor after another power cut.
pub(crate) fn wipe(
    runtime: &Runtime,
    disk: &SimDisk,
    store: &LocalStore,
    dead: &BTreeSet<u64>,
) -> Result<(), String> {
    let before = runtime.block_on(observe(store)).map_err(|error| error.to_string())?;
    let mut writer = Writer::new(Arc::clone(&store.shared));
    let mut settler = Settler::new(Arc::clone(&store.shared));
    let done = (0..WIPE_STEPS_MAX).any(|_| wipe_step(&mut settler, &mut writer, &store.shared));
    assert!(done, "a wipe does not end: {:?}", settler.wiping());
    if let Some(left) = still_there(&disk.content(), dead) {
        return Err(format!("record {left} is still there"));
    }
    let after = runtime.block_on(observe(store)).map_err(|error| error.to_string())?;
    assert!(before == after, "a wipe changed what is there");
    let cut = disk.content().after_power_cut(Tear::Nothing, &mut Rng::new(1, 1), &mut |_| {});
    check_again(runtime, &cut, &before)
}

/// The store works on: sessions old and new take an append each, some are settled, and all of it survives a power cut.
pub(crate) fn work_on(
    runtime: &Runtime,
    disk: &SimDisk,
    store: &LocalStore,
    mut expected: Observed,
    rng: &mut Rng,
) -> Result<(), String> {
    let mut writer = Writer::new(Arc::clone(&store.shared));
    for name in NAMES {
        let opened = runtime.block_on(store.open(&id(name))).map_err(|error| error.to_string())?;
        let record = Bytes::from(format!("after {name}"));
        let (log, epoch) = (opened.log, opened.lineage.epoch());
        let batch = Batch {
            id: BatchId(u128::MAX),
            base: opened.end,
            records: vec![record.clone()],
            last_time_ms: u64::MAX,
            projection: None,
            origin: None,
            erase: Vec::new(),
            reservation: Reservation::none(),
        };
        let (version, outcome) =
            LocalStore::queue_append(&store.shared, log, opened.term, opened.version, batch)
                .map_err(|error| error.to_string())?;
        assert!(writer.step() && outcome.unwrap().try_recv() == Ok(Ok(())));
        expected.commit += 1;
        expected.vacant.remove(name);
        let found = expected.sessions.entry(name.into()).or_insert_with(|| Found {
            log: Log::new(log, epoch),
            snapshot_through: None,
            rows: vec![None; row_keys().len()],
        });
        found.log.records.push(record);
        found.log.version = version.0;
        found.log.last_time_ms = u64::MAX;
        found.log.commit = expected.commit;
        if rng.below(4) == 0 {
            let plan = store.shared.state().plan();
            assert!(plan.is_none_or(|plan| Settler::new(Arc::clone(&store.shared)).settle(plan)));
        }
    }
    let rebuilt = rebuild_database(&store.shared.database, 64).map_err(|error| error.to_string())?;
    let logs = rebuilt.logs;
    assert_eq!(rebuilt, Rebuilt { logs, ..Rebuilt::default() }, "the tables follow from the rows");
    let write = Cas { key: "after".into(), expected: None, value: Some("written".into()) };
    let outcome = keyed::queue(&store.shared, &mut store.shared.state(), std::slice::from_ref(&write));
    assert!(writer.step() && outcome.unwrap().try_recv() == Ok(Ok(())));
    expected.commit += 1;
    expected.values.extend(write.value.map(|value| (write.key, value)));
    let cut = disk.content().after_power_cut(Tear::Nothing, rng, &mut |_| {});
    check_again(runtime, &cut, &expected)
}
