//! A life of a store on a recording disk, and what must be there after each of its commits. Writer and settler are driven
//! step by step on one thread, the writer in the middle of settlings too, so that a seed gives the same operations.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead as _;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use longwire_proto::record::erased;
use tokio::runtime::Runtime;

use crate::store::conformance::id;
use crate::store::conformance::lifecycle::lineage;
use crate::store::local::keyed;
use crate::store::local::lifecycle::QueuedTrim;
use crate::store::local::opening;
use crate::store::local::plan::LogChange;
use crate::store::local::quota::QuotaLimits;
use crate::store::local::settler::Settler;
use crate::store::local::shared::{Shared, Tuning};
use crate::store::local::tests::manual;
use crate::store::local::tests::sim::disk::{Content, Does, Mark, Op, SimDisk};
use crate::store::local::tests::sim::rng::Rng;
use crate::store::local::writer::Writer;
use crate::store::local::{LocalStore, Outcome};
use crate::store::{
    Batch, BatchId, Cas, LogId, Opened, Origin, Projection, Reservation, Snapshot, Store, StoreError, Version,
};

pub(crate) const SALT: u64 = 0x5a17;
pub(crate) const NAMES: [&str; 5] = ["acme/a", "acme/b", "acme/c/d", "b", "c"];
/// Keys of rows of a session.
pub(crate) const ROW_KEYS: u8 = 6;
/// One of so many workloads wipes.
pub(crate) const WIPES: u64 = 4;
/// Terms of sessions, and keys of the table.
pub(crate) const TERMS: [&str; 3] = ["a", "b", "bb"];
const KEYS: [&str; 3] = ["k", "kk", "l"];
/// Groups of one workload.
const GROUPS: usize = 60;

/// Small files, and no threads that act on their own.
pub(crate) fn tuning() -> Tuning {
    Tuning {
        segment_bytes: 16 << 10,
        cache_bytes: 256 << 10,
        quota: QuotaLimits { all: 256 << 20, ..QuotaLimits::default() },
        reads_block: true,
        ..manual()
    }
}

/// A log as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) id: LogId,
    pub(crate) epoch: u64,
    pub(crate) version: u64,
    pub(crate) born: u64,
    pub(crate) start: u64,
    pub(crate) records: Vec<Bytes>,
    pub(crate) last_time_ms: u64,
    pub(crate) projection: Bytes,
    /// Of [`TERMS`], a bit each.
    pub(crate) terms: u8,
    pub(crate) deadline_ms: Option<u64>,
    /// The commit that changed it last.
    pub(crate) commit: u64,
}

impl Log {
    /// One that is being created.
    pub(crate) fn new(id: LogId, epoch: u64) -> Self {
        Self {
            id,
            epoch,
            version: 0,
            born: 0,
            start: 0,
            records: Vec::new(),
            last_time_ms: 0,
            projection: Bytes::new(),
            terms: 0,
            deadline_ms: None,
            commit: 0,
        }
    }

    fn end(&self) -> u64 {
        self.start + self.records.len() as u64
    }
}

/// Every session, after some commit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) logs: BTreeMap<String, Arc<Log>>,
    /// Names that were deleted, and the epoch of what is created next.
    pub(crate) epochs: BTreeMap<String, u64>,
    /// The table.
    pub(crate) values: BTreeMap<Bytes, Bytes>,
    /// Which log holds the records of each, from its first one on.
    holders: BTreeMap<LogId, Arc<Vec<LogId>>>,
    /// The numbers of records that must be nowhere once the files are wiped.
    dead: Arc<BTreeSet<u64>>,
}

impl Model {
    /// The holder of a record that a log shows or has shown.
    fn holder(&self, log: &Log, offset: u64) -> Option<LogId> {
        self.holders.get(&log.id)?.get(usize::try_from(offset.checked_sub(log.born)?).ok()?).copied()
    }

    fn erase(&mut self, holder: LogId, offset: u64) {
        let holders = &self.holders;
        let dead = Arc::make_mut(&mut self.dead);
        for log in self.logs.values_mut() {
            let index = offset.checked_sub(log.start).filter(|_| offset < log.end());
            let held = holders[&log.id].get((offset.saturating_sub(log.born)) as usize) == Some(&holder);
            let Some(index) = index.filter(|_| held).and_then(|index| usize::try_from(index).ok()) else {
                continue;
            };
            let log = Arc::make_mut(log);
            let Some(left) = erased(&log.records[index]) else { continue };
            dead.extend(serial(&log.records[index]));
            log.records[index] = left;
        }
    }

    /// A log is gone: what nobody shows of it is dead.
    fn bury(&mut self, log: &Log) {
        let lives = |id: LogId| self.logs.values().any(|other| other.id == id);
        let dead = (log.start..).zip(&log.records).filter(|(offset, record)| {
            // A log that lives keeps the chunk at its start as it is.
            let holder = self.holder(log, *offset).filter(|holder| lives(*holder));
            holder.is_none() && !self.logs.values().any(|other| other.records.contains(record))
        });
        let dead: Vec<u64> = dead.filter_map(|(_, record)| serial(record)).collect();
        Arc::make_mut(&mut self.dead).extend(dead);
    }
}

/// The number that a record begins with.
fn serial(record: &Bytes) -> Option<u64> {
    std::str::from_utf8(record.get(1..9)?).ok()?.parse().ok().filter(|_| record[0] == b'<')
}

/// A record that is dead and in a file.
pub(crate) fn still_there(content: &Content, dead: &BTreeSet<u64>) -> Option<u64> {
    content.files().iter().find_map(|bytes| {
        let mut rest = bytes.as_slice();
        // Of the standard library, because it is fast in an unoptimised build too.
        while rest.skip_until(b'<').unwrap() > 0 {
            let number = rest.get(..9).filter(|text| text[8] == b'>');
            let number = number.and_then(|text| std::str::from_utf8(&text[..8]).ok()?.parse().ok());
            if let Some(number) = number.filter(|number| dead.contains(number)) {
                return Some(number);
            }
        }
        None
    })
}

/// A step towards wiped files. True when they are.
pub(crate) fn wipe_step(settler: &mut Settler, writer: &mut Writer, shared: &Arc<Shared>) -> bool {
    let plan = {
        let mut state = shared.state();
        state.wipe_asked = state.erased_commit;
        if state.settled.wiped_commit >= state.erased_commit {
            return true;
        }
        state.settle_now.then(|| state.plan()).flatten()
    };
    assert!(plan.is_none_or(|plan| settler.settle(plan)));
    settler.rewrite_erased();
    settler.remove_doomed();
    settler.wipe();
    writer.give_up_condemned();
    false
}

/// The rows of every log, after some settling, and through where they reflect it.
pub(crate) type Rows = BTreeMap<LogId, (u64, BTreeMap<Bytes, Option<Bytes>>)>;

/// What happened.
pub(crate) struct Trace {
    pub(crate) before: Content,
    pub(crate) ops: Vec<Op>,
    /// By commit.
    pub(crate) models: Vec<Model>,
    /// By settling.
    pub(crate) rows: Vec<Rows>,
    /// By commit.
    pub(crate) dead: Vec<Arc<BTreeSet<u64>>>,
}

/// A store without threads.
pub(crate) fn open(disk: &SimDisk) -> Result<LocalStore, String> {
    let shared = opening::open(Arc::new(disk.clone()), None, SALT, tuning()).map_err(|e| e.to_string())?;
    Ok(LocalStore { shared: Arc::new(shared), threads: Arc::default() })
}

struct Handle {
    opened: Opened,
    version: Version,
    end: u64,
}

/// The side of the store that appends, which goes on during a settling.
struct Front {
    disk: SimDisk,
    shared: Arc<Shared>,
    writer: Writer,
    rng: Rng,
    sessions: BTreeMap<&'static str, Handle>,
    model: Model,
    models: Vec<Model>,
    serial: u64,
}

impl Front {
    /// One group of a few batches and what else happens to logs, durable when this returns.
    fn group(&mut self) {
        let mut outcomes: Vec<Outcome> = Vec::new();
        let mut does = Does::default();
        for _ in 0..=self.rng.below(4) {
            if self.rng.below(8) == 0 {
                outcomes.push(self.put());
                continue;
            }
            let name = NAMES[self.rng.below(NAMES.len())];
            if !self.sessions.contains_key(name) {
                continue;
            }
            let exists = self.model.logs.contains_key(name);
            match self.rng.below(24) {
                0 | 1 if exists => {
                    outcomes.push(self.delete(name));
                    does.deletes = true;
                }
                2..=5 if exists => {
                    let trimmed = self.trim(name);
                    does.trims |= trimmed.is_some();
                    outcomes.extend(trimmed);
                }
                6..=10 if exists => {
                    let renamed = self.rename(name);
                    does.renames |= renamed.is_some();
                    outcomes.extend(renamed);
                }
                6..=17 if !exists => {
                    let forked = self.fork(name);
                    does.forks |= forked.is_some();
                    outcomes.extend(forked);
                }
                _ => outcomes.push(self.append(name, &mut does)),
            }
        }
        if outcomes.is_empty() {
            return;
        }
        self.disk.mark(Mark::Group(does));
        if self.rng.below(30) == 0 {
            self.disk.fail_sync();
        }
        assert!(self.writer.step());
        for mut outcome in outcomes {
            assert_eq!(outcome.try_recv(), Ok(Ok(())));
        }
        self.models.push(self.model.clone());
        self.disk.mark(Mark::Acknowledged);
    }

    fn record(&mut self) -> Bytes {
        self.serial += 1;
        let length = match self.rng.below(20) {
            0 => 0,
            1..=12 => self.rng.below(100),
            13..=18 => self.rng.below(1500),
            _ => self.rng.below(12_000),
        };
        // No two are alike, and none compresses into another's place.
        let mut text = format!("<{:08}>", self.serial).into_bytes();
        text.extend((0..length).map(|_| b'a' + self.rng.below(26) as u8));
        text.into()
    }

    /// A value or two are written or removed, whatever is there.
    fn put(&mut self) -> Outcome {
        self.serial += 1;
        let first = self.rng.below(KEYS.len());
        let count = 1 + self.rng.below(2);
        let writes: Vec<Cas> = (first..first + count)
            .map(|key| {
                let length = [0, 10, 500, 9000][self.rng.below(4)];
                let value = format!("value {} {}", self.serial, "v".repeat(length));
                let value = (self.rng.below(4) > 0).then(|| Bytes::from(value));
                Cas { key: Bytes::from(KEYS[key % KEYS.len()]), expected: None, value }
            })
            .collect();
        for Cas { key, value, .. } in writes.clone() {
            match value {
                Some(value) => self.model.values.insert(key, value),
                None => self.model.values.remove(&key),
            };
        }
        keyed::queue(&self.shared, &mut self.shared.state(), &writes).unwrap()
    }

    fn append(&mut self, name: &'static str, does: &mut Does) -> Outcome {
        let (base, start) = (self.sessions[name].end, self.model.logs.get(name).map_or(0, |log| log.start));
        if base > start && self.rng.below(4) == 0 {
            let from = start + self.rng.below((base - start) as usize) as u64;
            let erase = from..(from + 1 + self.rng.below(6) as u64).min(base);
            if let Ok(outcome) = self.begin(name, base, None, Some(erase)) {
                does.erases = true;
                return outcome;
            }
            // What another log holds that exists.
        }
        self.begin(name, base, None, None).unwrap()
    }

    fn fork(&mut self, name: &'static str) -> Option<Outcome> {
        let parents: Vec<String> = self.models.last()?.logs.keys().cloned().collect();
        let parent = parents.get(self.rng.below(parents.len().max(1)))?.clone();
        // Only what is durable can be shared, and of what lives.
        let durable = Arc::clone(&self.models.last()?.logs[&parent]);
        let parent = Arc::clone(self.model.logs.values().find(|log| log.id == durable.id)?);
        let room = durable.end().saturating_sub(parent.start) as usize;
        let base = parent.start + self.rng.below(room + 1) as u64;
        let start = parent.start + self.rng.below((base - parent.start) as usize + 1) as u64;
        let epoch = 1 + parent.epoch.max(self.sessions[name].opened.lineage.epoch());
        let shares = (start < base || self.rng.below(2) == 0).then_some(parent.id);
        let lineage = lineage(&[(0, 0), (epoch, base)]);
        let origin = Origin { lineage, start, shares };
        self.begin(name, base, Some((origin, parent)), None).ok()
    }

    /// An append, the first one of a fork too.
    fn begin(
        &mut self,
        name: &'static str,
        base: u64,
        origin: Option<(Origin, Arc<Log>)>,
        erase: Option<Range<u64>>,
    ) -> Result<Outcome, StoreError> {
        let count = [0, 1, 1, 1, 2, 3, 9][self.rng.below(7)];
        let records: Vec<Bytes> = (0..count).map(|_| self.record()).collect();
        self.serial += 1;
        let projection = (self.rng.below(3) == 0).then(|| {
            let deadline_ms = (self.rng.below(2) == 0).then(|| self.rng.below(4) as u64);
            (Bytes::from(format!("row {}", self.serial)), self.rng.below(8) as u8, deadline_ms)
        });
        let handle = self.sessions.get_mut(name).unwrap();
        let batch = Batch {
            id: BatchId(u128::from(self.serial)),
            base,
            records: records.clone(),
            last_time_ms: 1000 + self.serial,
            projection: projection.clone().map(|(row, terms, deadline_ms)| {
                let terms = (0..TERMS.len()).filter(|term| terms & 1 << term != 0);
                Projection { row, terms: terms.map(|term| TERMS[term].into()).collect(), deadline_ms }
            }),
            origin: origin.as_ref().map(|(origin, _)| origin.clone()),
            erase: erase.clone().into_iter().collect(),
            reservation: Reservation::none(),
        };
        let (log, term) = (handle.opened.log, handle.opened.term);
        let (version, outcome) = LocalStore::queue_append(&self.shared, log, term, handle.version, batch)?;
        handle.version = version;
        handle.end = base + count as u64;
        let epoch = handle.opened.lineage.epoch();
        let model = &mut self.model;
        if let Some(shown) = model.logs.get(name).map(Arc::clone) {
            for offset in erase.into_iter().flatten() {
                if let Some(holder) = model.holder(&shown, offset) {
                    model.erase(holder, offset);
                }
            }
        }
        if let Some((origin, parent)) = origin {
            let start = origin.start;
            let shown = (start - parent.start) as usize..(base - parent.start) as usize;
            let holders = (start..base).filter_map(|offset| model.holder(&parent, offset)).collect();
            model.holders.insert(log, Arc::new(holders));
            let records = parent.records[shown].to_vec();
            let created = Log { born: start, start, records, ..Log::new(log, origin.lineage.epoch()) };
            model.logs.insert(name.into(), Arc::new(created));
        }
        Arc::make_mut(model.holders.entry(log).or_default()).extend(records.iter().map(|_| log));
        let commit = self.models.len() as u64;
        let model = model.logs.entry(name.into()).or_insert_with(|| Arc::new(Log::new(log, epoch)));
        let model = Arc::make_mut(model);
        model.version = version.0;
        model.records.extend(records);
        model.last_time_ms = 1000 + self.serial;
        model.commit = commit;
        if let Some(projection) = projection {
            (model.projection, model.terms, model.deadline_ms) = projection;
        }
        Ok(outcome.unwrap())
    }

    fn trim(&mut self, name: &'static str) -> Option<Outcome> {
        let handle = &self.sessions[name];
        let log = Arc::clone(&self.model.logs[name]);
        let (id, term) = (handle.opened.log, handle.opened.term);
        let covered = self.shared.state().logs.get(&id)?.settled.as_ref()?.snapshot_through;
        // Mostly what a snapshot that is settled covers; beyond that it is refused.
        let most = match covered {
            Some(through) if through > log.start && self.rng.below(4) > 0 => through - log.start,
            _ => log.records.len() as u64 + 1,
        };
        let start = log.start + 1 + self.rng.below(most as usize) as u64;
        let gone = (start.min(log.end()) - log.start) as usize;
        let own = (log.start..).zip(&log.records[..gone]);
        let own = own.filter(|(offset, _)| self.model.holder(&log, *offset) == Some(log.id));
        let freed = own.map(|(_, record)| record.len() as u64).sum();
        let queued = LocalStore::queue_trim(&self.shared, id, term, start, freed);
        let Ok(QueuedTrim::Queued(outcome)) = queued else { return None };
        let log = Arc::make_mut(self.model.logs.get_mut(name)?);
        log.start = start;
        log.commit = self.models.len() as u64;
        log.records.drain(..gone);
        Some(outcome)
    }

    fn rename(&mut self, name: &'static str) -> Option<Outcome> {
        let handle = &self.sessions[name];
        let (log, term, epoch) = (handle.opened.log, handle.opened.term, handle.opened.lineage.epoch());
        let free = |name: &&str| {
            !self.model.logs.contains_key(*name)
                && self.model.epochs.get(*name).is_none_or(|next| *next <= epoch)
        };
        let free: Vec<&str> = NAMES.into_iter().filter(free).collect();
        // Mostly to a name that it can have.
        let to = match free.len() {
            0 => NAMES[self.rng.below(NAMES.len())],
            _ if self.rng.below(8) == 0 => NAMES[self.rng.below(NAMES.len())],
            count => free[self.rng.below(count)],
        };
        // Refused when there is a session, or was one with a later epoch.
        let outcome = LocalStore::queue_rename(&self.shared, log, term, &id(to)).ok()??;
        let handle = self.sessions.remove(name)?;
        self.sessions.insert(to, handle);
        let mut log = self.model.logs.remove(name)?;
        Arc::make_mut(&mut log).commit = self.models.len() as u64;
        self.model.logs.insert(to.into(), log);
        self.model.epochs.remove(name);
        self.model.epochs.remove(to);
        Some(outcome)
    }

    fn delete(&mut self, name: &'static str) -> Outcome {
        let handle = self.sessions.remove(name).unwrap();
        let outcome = LocalStore::queue_delete(&self.shared, handle.opened.log, handle.opened.term).unwrap();
        let log = self.model.logs.remove(name).unwrap();
        self.model.bury(&log);
        self.model.epochs.insert(name.into(), log.epoch + 1);
        outcome
    }
}

/// One process.
struct Life {
    store: LocalStore,
    settler: Settler,
    front: Arc<Mutex<Front>>,
}

impl Life {
    fn begin(disk: &SimDisk, mut rng: Rng, model: Model, models: Vec<Model>, serial: u64) -> Self {
        let store = open(disk).unwrap();
        let mut settler = Settler::new(Arc::clone(&store.shared));
        // Without it the first groups are in a makeshift.
        if rng.below(2) == 0 {
            settler.look_after_disk();
        }
        let front = Front {
            disk: disk.clone(),
            shared: Arc::clone(&store.shared),
            writer: Writer::new(Arc::clone(&store.shared)),
            rng,
            sessions: BTreeMap::new(),
            model,
            models,
            serial,
        };
        Self { store, settler, front: Arc::new(Mutex::new(front)) }
    }

    /// Opens what was deleted or never there: the database cannot be asked in the middle of a settling.
    fn open_sessions(&self, runtime: &Runtime) {
        let mut front = self.front.lock().unwrap();
        for name in NAMES {
            if front.sessions.contains_key(name) {
                continue;
            }
            let opened = runtime.block_on(self.store.open(&id(name))).unwrap();
            let epoch = front.model.epochs.get(name).copied().unwrap_or(0);
            assert!(opened.lineage.epoch() >= epoch);
            let handle = Handle { version: opened.version, end: opened.end, opened };
            front.sessions.insert(name, handle);
        }
    }

    fn settle(&mut self, disk: &SimDisk, rng: &mut Rng, rows: &mut Vec<Rows>) {
        let mut next = rows.last().unwrap().clone();
        let front = self.front.lock().unwrap();
        let live: Vec<(LogId, u64)> =
            front.sessions.values().map(|handle| (handle.opened.log, handle.end)).collect();
        for handle in front.sessions.values() {
            let log = handle.opened.log;
            if handle.version.0 == 0 || rng.below(2) > 0 {
                continue;
            }
            let through = next.get(&log).map_or(0, |(through, _)| *through).max(handle.end);
            let changes: Vec<(Bytes, Option<Bytes>)> = (0..1 + rng.below(3))
                .map(|_| {
                    let key = Bytes::from(vec![b'k', rng.below(usize::from(ROW_KEYS)) as u8]);
                    let row = (rng.below(4) > 0)
                        .then(|| Bytes::from(format!("{through} {}", "r".repeat(rng.below(400)))));
                    (key, row)
                })
                .collect();
            let entry = next.entry(log).or_default();
            entry.0 = through;
            entry.1.extend(changes.iter().cloned());
            let snapshot = Snapshot { through, rows: changes };
            let shared = &self.store.shared;
            drop(LocalStore::queue_snapshot(shared, log, handle.opened.term, snapshot).unwrap());
        }
        drop(front);
        next.retain(|log, _| live.iter().any(|(live, _)| live == log));
        let Some(plan) = self.store.shared.state().plan() else { return };
        let deletes = plan.logs.iter().any(|(_, change)| matches!(change, LogChange::Deleted { .. }));
        disk.mark(Mark::Settling { deletes });
        if rng.below(2) == 0 {
            let front = Arc::clone(&self.front);
            let hook = move || {
                let mut front = front.lock().unwrap();
                for _ in 0..=front.rng.below(3) {
                    front.group();
                }
            };
            disk.interrupt(rng.below(12), Box::new(hook));
        }
        assert!(self.settler.settle(plan));
        disk.drop_interrupt();
        rows.push(next);
        disk.mark(Mark::Settled);
        self.settler.look_after_disk();
    }
}

/// Runs a workload on an empty disk.
pub(crate) fn run(runtime: &Runtime, seed: u64, index: u64) -> Trace {
    let mut rng = Rng::new(seed, index);
    let mut disk = SimDisk::new(Content::default());
    let mut rows = vec![Rows::new()];
    let (mut wipes, mut began_to_wipe) = (index.is_multiple_of(WIPES), false);
    let mut life = Life::begin(&disk, Rng::new(rng.next(), 0), Model::default(), vec![Model::default()], 0);
    disk.mark(Mark::Ready);
    loop {
        let groups = life.front.lock().unwrap().models.len();
        if groups >= GROUPS {
            break;
        }
        // By now there is something to wipe.
        let late = groups >= GROUPS / 2;
        life.open_sessions(runtime);
        match rng.below(20) {
            0..=13 => life.front.lock().unwrap().group(),
            14..=16 => life.settle(&disk, &mut rng, &mut rows),
            // In few workloads, and once: it writes every free page, and the larger file makes every image slower.
            roll if wipes && (roll == 18 || late && !began_to_wipe) => {
                began_to_wipe = true;
                disk.mark(Mark::Wiping { begins: true });
                let steps = 1 + rng.below(24);
                let mut front = life.front.lock().unwrap();
                let shared = Arc::clone(&front.shared);
                for _ in 0..steps {
                    if wipe_step(&mut life.settler, &mut front.writer, &shared) {
                        let left = still_there(&disk.content(), &front.model.dead);
                        assert!(left.is_none(), "seed {seed}, workload {index}: {left:?} is still there");
                        wipes = shared.state().settled.wiped_commit == 0;
                        break;
                    }
                }
                drop(front);
                disk.mark(Mark::Wiping { begins: false });
            }
            17 | 18 => {
                disk.mark(Mark::Removing { begins: true });
                life.settler.remove_doomed();
                disk.mark(Mark::Removing { begins: false });
            }
            _ => {
                // The process dies and the machine does not: what was written is seen, synced or not.
                let next = disk.next_life();
                let Life { store, settler, front } = life;
                drop((store, settler));
                let front = Arc::into_inner(front).unwrap().into_inner().unwrap();
                let Front { model, models, serial, writer, shared, .. } = front;
                drop((writer, shared));
                disk = next;
                // Its recovery settles what was acknowledged.
                disk.mark(Mark::Settling { deletes: false });
                life = Life::begin(&disk, Rng::new(rng.next(), 0), model, models, serial);
                rows.push(rows.last().unwrap().clone());
                disk.mark(Mark::Settled);
            }
        }
    }
    let ops = disk.ops();
    drop(disk.next_life());
    let models = std::mem::take(&mut life.front.lock().unwrap().models);
    let dead = models.iter().map(|model| Arc::clone(&model.dead)).collect();
    Trace { before: Content::default(), ops, models, rows, dead }
}
