//! The one piece of state that callers, writer and settler share: the queue of what is to be written and the *overlay*,
//! which is what the database does not know yet. Everything here is in memory and quick; nobody waits for a disk while
//! holding it.
//!
//! A thing flows one way: a caller queues it, the writer makes it durable and publishes it here, the settler moves it
//! into the database and then removes it here. It leaves memory only after the commit that has it is visible, so a
//! reader that looks here first and into the database after that misses nothing.

mod naming;
mod resting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use longwire_proto::session_id::SessionId;

use crate::numbered::Numbered;
use crate::store::local::alone::Alone;
use crate::store::local::erasing::Erasing;
use crate::store::local::group::{Append, Create, Delete, Erase, Item, Put, Rename, Trim};
use crate::store::local::known_names::KnownNames;
use crate::store::local::log::{Head, Log, Settled, Stage, Unsettled};
use crate::store::local::plan::{LogChange, Plan};
use crate::store::local::projected::Projected;
use crate::store::local::queued::{Queued, Reply, Stop};
use crate::store::local::table::erasing::Rewritten;
use crate::store::local::table::logs::LogRow;
use crate::store::local::table::meta::Meta;
use crate::store::local::unindexed::Unindexed;
use crate::store::local::values::Values;
use crate::store::{LogId, Reservation, StoreError, Term};

pub use resting::{FORGET_STEP, RESTING_LOGS_MAX};

/// Logs in memory. A log that is idle for longest is forgotten, which fences who opened it: it opens it again. Each takes
/// some 500 bytes and its projection.
pub const RESIDENT_LOGS_MAX: usize = 131_072;
/// Idle logs looked for at a time, when there are too many.
const EVICTION_SCAN: usize = 256;
/// Items that may wait for the writer; the quota makes it unlikely that there are ever as many.
pub const QUEUE_ITEMS_MAX: usize = 65_536;

/// See the top of this file.
#[derive(Debug)]
pub struct State {
    /// The current log of every resident name.
    pub names: BTreeMap<SessionId, LogId>,
    /// Which names the database may have rows of, resident or not.
    pub known: KnownNames,
    /// Every resident log. Boxed: the table has room for as many as there ever were at a time.
    pub logs: Numbered<LogId, Box<Log>>,
    /// The values of the table.
    pub values: Values,
    /// What logs are found by that the database does not know.
    pub unindexed: Unindexed,
    /// What waits for the writer.
    pub queue: VecDeque<Queued>,
    /// The writer, while nobody writes.
    pub alone: Alone,
    /// How the threads are to end.
    pub stop: Stop,
    /// Set when everything that will be durable is.
    pub writer_done: bool,
    /// Somebody wants to settle before it is time.
    pub settle_now: bool,
    /// How far the database is.
    pub settled: Meta,
    /// Deletions up to this commit may have left the change feed.
    pub forgotten_commit: u64,
    /// Counts removals of names, for [`State::forgot`].
    pub evictions: u64,
    /// Cost of what is durable and not settled.
    pub unsettled_bytes: usize,
    /// Since when something has been waiting to be settled.
    pub unsettled_since: Option<Instant>,
    /// Names that lost their log to another name, which the database does not know yet, and the last commit that did it.
    pub vacated: BTreeMap<SessionId, u64>,
    // The last names that were removed, in order.
    forgotten: VecDeque<SessionId>,
    /// Erased records that may still be somewhere as they were.
    pub erasing: Erasing,
    /// The last durable commit that erased or deleted something.
    pub erased_commit: u64,
    /// Since when something that was erased or deleted is still in the files.
    pub erased_since: Option<Instant>,
    /// A wipe waits for a backup to end.
    pub wipe_waits: bool,
    /// Somebody waits until what this commit erased is in no file any more.
    pub wipe_asked: u64,
    // Erased since the last plan; and whether the commit at hand erases or deletes something.
    erased: Vec<Erase>,
    erases: bool,
    by_term: BTreeMap<Term, LogId>,
    // Nobody has them open since this opening, in the order in which they were left. Others may have opened them again.
    resting: VecDeque<(LogId, Term)>,
    dirty: BTreeSet<LogId>,
    // In the plan that is being settled: until that is done the database may still say otherwise about them.
    settling: BTreeSet<LogId>,
    next_log: u64,
    next_term: u64,
    durable_commit: u64,
    logs_max: usize,
    resting_max: usize,
}

impl State {
    /// The state over a database that is as far as `settled`.
    #[must_use]
    pub fn new(settled: Meta, logs_max: usize, resting_max: usize) -> Self {
        Self {
            names: BTreeMap::new(),
            known: KnownNames::default(),
            logs: Numbered::default(),
            values: Values::default(),
            unindexed: Unindexed::default(),
            queue: VecDeque::new(),
            alone: Alone::default(),
            stop: Stop::No,
            writer_done: false,
            settle_now: false,
            settled,
            forgotten_commit: 0,
            evictions: 0,
            unsettled_bytes: 0,
            unsettled_since: None,
            vacated: BTreeMap::new(),
            forgotten: VecDeque::new(),
            erasing: Erasing::default(),
            erased_commit: settled.erased_commit,
            wipe_waits: false,
            erased_since: (settled.erased_commit > settled.wiped_commit).then(Instant::now),
            wipe_asked: settled.erased_commit,
            erased: Vec::new(),
            erases: false,
            by_term: BTreeMap::new(),
            resting: VecDeque::new(),
            dirty: BTreeSet::new(),
            settling: BTreeSet::new(),
            next_log: settled.next_log.max(1),
            next_term: 1,
            durable_commit: settled.settled_commit,
            logs_max,
            resting_max,
        }
    }

    /// The last durable commit.
    #[must_use]
    pub fn durable_commit(&self) -> u64 {
        self.durable_commit
    }

    /// Fences every earlier opening of a resident log.
    pub fn open(&mut self, id: LogId) -> Option<&mut Log> {
        let term = self.take_term();
        let log = self.logs.get_mut(&id)?;
        self.by_term.remove(&log.term);
        self.by_term.insert(term, id);
        log.term = term;
        log.resting = false;
        Some(log)
    }

    /// Makes a log of the database resident.
    pub fn load(&mut self, id: LogId, row: LogRow) {
        let term = self.take_term();
        self.insert(id, Box::new(Log::settled(row, term)));
    }

    /// Gives a name that has no log an id. The first append creates it.
    pub fn reserve(&mut self, name: SessionId, epoch: u64) -> LogId {
        let id = LogId(self.next_log);
        self.next_log += 1;
        let term = self.take_term();
        self.insert(id, Box::new(Log::reserved(name, epoch, term)));
        id
    }

    /// Puts something at the end of the queue.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the store stops, [`StoreError::Overloaded`] when too much waits.
    pub fn check_queue(&self) -> Result<(), StoreError> {
        if self.stop != Stop::No {
            return Err(StoreError::Unavailable("the broker is stopping".into()));
        }
        if self.queue.len() >= QUEUE_ITEMS_MAX {
            return Err(StoreError::Overloaded { scope: "the store", limit: QUEUE_ITEMS_MAX });
        }
        Ok(())
    }

    /// Makes what a group did visible, and gives the callers to tell. The commit is durable.
    pub fn publish(&mut self, commit: u64, group: impl IntoIterator<Item = Queued>) -> Vec<Reply> {
        // What an item changes is stamped with its commit.
        self.durable_commit = commit;
        let mut replies = Vec::new();
        for queued in group {
            match queued {
                Queued::Append { create, append, reservation, bytes, reply } => {
                    if let Some(create) = create {
                        self.apply_create(*create);
                    }
                    self.apply_append(append, reservation, bytes);
                    replies.push(reply);
                }
                Queued::Delete { delete, reply } => {
                    self.apply_delete(&delete);
                    replies.push(reply);
                }
                Queued::Put { put, reservation, bytes, reply } => {
                    self.apply_put(put, reservation, bytes);
                    replies.push(reply);
                }
                Queued::Trim { trim, reply } => {
                    self.apply_trim(&trim);
                    replies.push(reply);
                }
                Queued::Rename { rename, reply } => {
                    self.apply_rename(rename);
                    replies.push(reply);
                }
            }
        }
        self.committed(commit);
        replies
    }

    /// Repeats an item that was found in the journal. `load` brings a log from the database.
    ///
    /// # Errors
    /// What `load` answers, or `None` when the item does not fit the state: it cannot have been written after it.
    pub fn replay<E>(
        &mut self,
        item: Item,
        load: impl FnOnce(LogId) -> Result<Option<LogRow>, E>,
    ) -> Result<Option<()>, E> {
        let log = match &item {
            // It is about no log.
            Item::Put(_) => {
                if let Item::Put(put) = item {
                    self.apply_put(put, Reservation::none(), 0);
                }
                return Ok(Some(()));
            }
            Item::Create(create) => {
                self.next_log = self.next_log.max(create.log.0 + 1);
                let term = self.take_term();
                self.insert(create.log, Box::new(Log::reserved(create.name.clone(), 0, term)));
                create.log
            }
            Item::Append(Append { log, .. })
            | Item::Delete(Delete { log, .. })
            | Item::Trim(Trim { log, .. })
            | Item::Rename(Rename { log, .. }) => *log,
        };
        if !self.logs.contains_key(&log) {
            let Some(row) = load(log)? else { return Ok(None) };
            self.load(log, row);
        }
        match item {
            Item::Create(create) => self.apply_create(create),
            Item::Append(append) => {
                let Some(log) = self.logs.get_mut(&append.log) else { return Ok(None) };
                let follows = log.durable.end == append.base && log.durable.version + 1 == append.version.0;
                if !follows {
                    return Ok(None);
                }
                self.apply_append(append, Reservation::none(), 0);
            }
            Item::Delete(delete) => self.apply_delete(&delete),
            Item::Trim(trim) => self.apply_trim(&trim),
            Item::Rename(rename) => {
                self.names.insert(rename.to.clone(), rename.log);
                self.apply_rename(rename);
            }
            Item::Put(_) => {}
        }
        Ok(Some(()))
    }

    /// The items of a commit that was found in the journal are replayed next.
    pub fn replays(&mut self, commit: u64) {
        self.durable_commit = commit;
    }

    /// The items of a durable commit are applied.
    pub fn committed(&mut self, commit: u64) {
        self.durable_commit = commit;
        if std::mem::take(&mut self.erases) {
            self.erased_commit = commit;
            self.erased_since.get_or_insert_with(Instant::now);
        }
    }

    /// What was erased or deleted up to this commit is in no file any more.
    pub fn wiped(&mut self, commit: u64) {
        self.settled.wiped_commit = commit;
        self.erased_since = (self.erased_commit > commit).then(Instant::now);
    }

    /// Whether the database knows everything.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.dirty.is_empty()
            && self.settling.is_empty()
            && self.settled.settled_commit == self.durable_commit
    }

    /// The last durable commit changed a log: that waits to be settled.
    pub fn touch(&mut self, id: LogId) {
        if let Some(log) = self.logs.get_mut(&id) {
            log.commit = self.durable_commit;
            self.unindexed.changed(self.durable_commit, id);
        }
        self.touch_rows(id);
    }

    /// A log's snapshot waits to be settled, which is no commit.
    pub fn touch_rows(&mut self, id: LogId) {
        self.dirty.insert(id);
        self.unsettled_since.get_or_insert_with(Instant::now);
    }

    /// Everything that is durable and not settled; `None` when the database knows it all.
    pub fn plan(&mut self) -> Option<Plan> {
        self.settle_now = false;
        if self.dirty.is_empty() && self.settled.settled_commit == self.durable_commit {
            return None;
        }
        let meta = Meta {
            settled_commit: self.durable_commit,
            settle: self.settled.settle + 1,
            next_log: self.next_log,
            erased_commit: self.erased_commit,
            ..self.settled
        };
        let (values, reservations) = self.values.plan();
        let mut plan = Plan {
            meta,
            logs: Vec::new(),
            values,
            replies: Vec::new(),
            reservations,
            bytes: std::mem::take(&mut self.unsettled_bytes),
            vacated: self.vacated.clone(),
            erase: std::mem::take(&mut self.erased),
        };
        self.unsettled_since = None;
        self.settling = std::mem::take(&mut self.dirty);
        self.unindexed.plan();
        for &id in &self.settling {
            let Some(log) = self.logs.get_mut(&id) else { continue };
            self.known.add(log.name.as_str());
            if !self.erasing.is_empty() {
                log.forget_erased(id, &self.erasing);
            }
            if log.durable.stage == Stage::Deleted {
                let change = LogChange::Deleted {
                    name: log.name.clone(),
                    next_epoch: log.lineage.epoch() + 1,
                    row: Box::new(log.row()),
                    settled: log.settled.clone(),
                    ancestry: log.ancestry.clone(),
                    base: log.settled_end,
                    batches: log.unsettled.iter().map(|batch| Arc::clone(&batch.records)).collect(),
                };
                plan.logs.push((id, change));
                continue;
            }
            if let Some(pending) = log.pending.take().map(|pending| *pending) {
                log.settling = Some(Arc::new(pending.rows));
                plan.replies.extend(pending.replies);
                plan.reservations.extend(pending.reservations);
            }
            let change = LogChange::Live {
                row: Box::new(log.row()),
                settled: log.settled.clone(),
                ancestry: log.ancestry.clone(),
                base: log.settled_end,
                batches: log.unsettled.iter().map(|batch| Arc::clone(&batch.records)).collect(),
                rows: log.settling.clone(),
            };
            plan.logs.push((id, change));
        }
        Some(plan)
    }

    /// Removes what a plan moved into the database: its commit is visible. What is given back is for dropping without
    /// holding the state.
    pub fn settled(&mut self, plan: &Plan) -> Vec<Unsettled> {
        let mut garbage = Vec::new();
        for (id, change) in &plan.logs {
            let Some(log) = self.logs.get_mut(id) else { continue };
            match change {
                LogChange::Live { row, batches, .. } => {
                    // A log that was deleted meanwhile has dropped its batches already.
                    let done = batches.len().min(log.unsettled.len());
                    if done == log.unsettled.len() {
                        // With its memory: most logs have nothing more for a while.
                        garbage.extend(std::mem::take(&mut log.unsettled));
                    } else {
                        garbage.extend(log.unsettled.drain(..done));
                    }
                    log.settled_end = row.end;
                    log.settled = Some(Settled::of(row));
                    log.ancestry = row.ancestry.clone();
                    log.settling = None;
                }
                LogChange::Deleted { base, batches, .. } => {
                    garbage.extend(log.unsettled.drain(..));
                    let records: usize = batches.iter().map(|records| records.len()).sum();
                    log.settled_end = base + records as u64;
                    log.settled = None;
                }
            }
        }
        self.values.settled();
        self.unindexed.settled(plan.meta.settled_commit);
        // One that was given up again during the settling still has an entry.
        self.vacated.retain(|_, commit| *commit > plan.meta.settled_commit);
        self.settled = plan.meta;
        self.settling.clear();
        garbage
    }

    /// Chunks were rewritten: their records need not be looked at any more.
    pub fn rewritten(&mut self, step: &Rewritten) {
        self.erasing.remove(step.log, &step.offsets);
        if let Some(log) = self.logs.get_mut(&step.log) {
            log.bytes = log.bytes.saturating_sub(step.freed_from(log.start));
        }
    }

    fn apply_create(&mut self, create: Create) {
        let base = create.base();
        for (holder, until) in create.ancestry.entries() {
            if let Some(holder) = self.logs.get_mut(holder) {
                holder.shown_until = holder.shown_until.max(*until);
            }
        }
        self.unindexed.renamed(create.name.clone());
        let Some(log) = self.logs.get_mut(&create.log) else { return };
        if log.next == log.durable {
            log.next = Head { stage: Stage::Live, end: base, ..log.next };
            log.next_start = create.start;
        }
        log.durable = Head { stage: Stage::Live, end: base, ..log.durable };
        log.lineage = create.lineage;
        log.start = create.start;
        log.born = create.start;
        log.ancestry = create.ancestry;
        log.settled_end = base;
        self.touch(create.log);
    }

    fn apply_append(&mut self, append: Append, reservation: Reservation, bytes: usize) {
        for erase in &append.erase {
            self.erasing.add(erase.log, erase.offsets.clone());
        }
        self.erases |= !append.erase.is_empty();
        self.erased.extend(append.erase);
        let Some(log) = self.logs.get_mut(&append.log) else { return };
        let head = Head {
            stage: Stage::Live,
            version: append.version.0,
            end: append.base + append.records.len() as u64,
            batch: Some(append.batch),
            last_time_ms: append.last_time_ms,
        };
        // Replaying goes without a queue.
        if log.next == log.durable {
            log.next = head;
        }
        // A new log has a name that the database does not know.
        let mut renamed = log.settled.is_none();
        log.durable = head;
        if let Some(projection) = append.projection {
            renamed |= !projection.has_terms_of(&log.projection);
            self.unindexed.postponed(append.log, log.projection.deadline_ms(), projection.deadline_ms());
            log.projection = projection;
        }
        if renamed {
            self.unindexed.renamed(log.name.clone());
        }
        log.bytes += append.records.iter().map(|record| record.bytes.len() as u64).sum::<u64>();
        if log.unsettled.capacity() == 0 {
            // Room for one: most logs have no second batch before the first is settled.
            log.unsettled.reserve_exact(1);
        }
        log.unsettled.push_back(Unsettled { base: append.base, records: append.records, bytes, reservation });
        self.unsettled_bytes += bytes;
        self.touch(append.log);
    }

    fn apply_put(&mut self, put: Put, reservation: Reservation, bytes: usize) {
        self.values.apply(put.writes, reservation);
        self.unsettled_bytes += bytes;
        self.unsettled_since.get_or_insert_with(Instant::now);
    }

    fn apply_delete(&mut self, delete: &Delete) {
        let Some(log) = self.logs.get_mut(&delete.log) else { return };
        self.erases = true;
        log.durable.stage = Stage::Deleted;
        log.next.stage = Stage::Deleted;
        self.unindexed.renamed(log.name.clone());
        self.unindexed.postponed(delete.log, log.projection.deadline_ms(), None);
        // What others show of it must still get into the database.
        let shown = log.unsettled.partition_point(|batch| batch.base < log.shown_until);
        log.unsettled.truncate(shown);
        log.projection = Projected::default();
        log.settling = None;
        for reply in log.pending.take().into_iter().flat_map(|pending| pending.replies) {
            let _ = reply.send(Err(StoreError::Deleted));
        }
        self.touch(delete.log);
    }

    fn apply_trim(&mut self, trim: &Trim) {
        let Some(log) = self.logs.get_mut(&trim.log) else { return };
        if trim.start > log.start {
            log.start = trim.start;
            log.next_start = log.next_start.max(trim.start);
            log.bytes = log.bytes.saturating_sub(trim.freed_bytes);
        }
        self.touch(trim.log);
    }

    fn apply_rename(&mut self, rename: Rename) {
        let Some(log) = self.logs.get_mut(&rename.log) else { return };
        self.unindexed.renamed(rename.from.clone());
        self.unindexed.renamed(rename.to.clone());
        log.name = rename.to;
        log.next_name = None;
        self.forget_name(rename.from.clone(), rename.log);
        self.vacated.insert(rename.from, self.durable_commit);
        self.touch(rename.log);
    }

    /// Forgets an id that was given to a name and is not used: who opened it is fenced.
    pub fn forget_reserved(&mut self, id: LogId) {
        if let Some(log) = self.logs.remove(&id) {
            self.by_term.remove(&log.term);
            self.names.remove(&log.name);
        }
    }

    fn insert(&mut self, id: LogId, log: Box<Log>) {
        self.evict();
        self.by_term.insert(log.term, id);
        self.names.insert(log.name.clone(), id);
        self.logs.insert(id, log);
    }

    fn evict(&mut self) {
        if self.logs.len() < self.logs_max {
            return;
        }
        let idle = self.by_term.iter().take(EVICTION_SCAN).find(|(_, id)| self.may_forget(**id));
        let Some((&term, &id)) = idle else { return };
        self.by_term.remove(&term);
        drop(self.forget(id));
    }

    /// Whether the database has all there is of a log.
    fn may_forget(&self, id: LogId) -> bool {
        let known = !self.dirty.contains(&id) && !self.settling.contains(&id);
        known && self.logs.get(&id).is_none_or(|log| log.is_idle())
    }

    fn forget(&mut self, id: LogId) -> Option<Box<Log>> {
        let log = self.logs.remove(&id)?;
        self.by_term.remove(&log.term);
        self.forget_name(log.name.clone(), id);
        Some(log)
    }

    fn take_term(&mut self) -> Term {
        let term = Term(self.next_term);
        self.next_term += 1;
        term
    }
}
