//! What happens to a log beside appends: it is brought into memory, begins as a fork, loses its first records, gets another
//! name, is deleted.

use std::ops::Range;
use std::sync::Arc;

use longwire_proto::session_id::SessionId;
use tokio::sync::oneshot;

use crate::store::ancestry::{ANCESTORS_MAX, Ancestry};
use crate::store::local::erasing::ERASING_RANGES_MAX;
use crate::store::local::finder;
use crate::store::local::group::{Create, Delete, Erase, Rename, Trim};
use crate::store::local::log::{Log, Stage};
use crate::store::local::lookups::Lookup;
use crate::store::local::queued::Queued;
use crate::store::local::reader::{self, failure, log_row};
use crate::store::local::shared::Shared;
use crate::store::local::state::State;
use crate::store::local::{LocalStore, Outcome};
use crate::store::{Batch, LogId, Origin, StoreError, Term};

/// What became of the wish to trim a log.
pub(super) enum QueuedTrim {
    /// There is nothing to do.
    Nothing,
    /// It will be durable.
    Queued(Outcome),
    /// A snapshot that covers it is being settled.
    NotCoveredYet,
}

/// The creation of a log with its first batch.
///
/// # Errors
/// [`StoreError::VersionConflict`] when the batch cannot be the first, [`StoreError::OutOfRange`] when what it is to
/// share is not there.
pub fn create(state: &State, id: LogId, log: &Log, batch: &Batch) -> Result<Create, StoreError> {
    let begin =
        |lineage, start, ancestry| Create { log: id, name: log.name.clone(), lineage, start, ancestry };
    let Some(Origin { lineage, start, shares }) = &batch.origin else {
        return match batch.base {
            0 => Ok(begin(log.lineage.clone(), 0, Ancestry::default())),
            _ => Err(StoreError::VersionConflict),
        };
    };
    let (start, base) = (*start, batch.base);
    if lineage.epoch() < log.lineage.epoch() {
        return Err(StoreError::VersionConflict);
    }
    let refuse = |what| Err(StoreError::OutOfRange(what));
    let ancestry = match shares {
        _ if base < start => return refuse(format!("the base {base} is below the start {start}")),
        None if base > start => return refuse(format!("nothing holds the records {start} to {base}")),
        None => Ancestry::default(),
        Some(parent) => {
            let found = state.logs.get(parent);
            let found = found.filter(|found| {
                found.next.stage == Stage::Live && found.durable.stage == Stage::Live && *parent != id
            });
            let Some(found) = found else { return refuse(format!("there is no log {}", parent.0)) };
            // What a trim on its way drops is gone by the time that the fork is there.
            let (first, end) = (found.next_start, found.durable.end);
            if start < first || base > end {
                return refuse(format!("log {} has the records {first} to {end}", parent.0));
            }
            found.ancestry.of_fork(*parent, start, base)
        }
    };
    if ancestry.entries().len() > ANCESTORS_MAX {
        return refuse(format!("its records would be spread over more than {ANCESTORS_MAX} logs; copy them"));
    }
    Ok(begin(lineage.clone(), start, ancestry))
}

/// What a batch erases, in the logs that hold it.
///
/// # Errors
/// [`StoreError::OutOfRange`] when it is not there, or is held by another log that exists; [`StoreError::Overloaded`]
/// when too much is being erased.
pub fn erase(
    state: &State,
    id: LogId,
    log: &Log,
    ranges: &[Range<u64>],
    base: u64,
) -> Result<Vec<Erase>, StoreError> {
    if ranges.is_empty() {
        return Ok(Vec::new());
    }
    let refuse = |what| Err(StoreError::OutOfRange(what));
    if log.next.stage != Stage::Live {
        return refuse("a log that does not exist yet has nothing to erase".into());
    }
    let mut found = Vec::new();
    for range in ranges {
        if range.end > base {
            return refuse(format!("{} to {} is not below {base}", range.start, range.end));
        }
        // What it never showed of others is not its business. Its own that it trimmed may still be shown by others.
        let inherited = log.ancestry.end().unwrap_or(0);
        let mut from = if range.start < inherited { range.start.max(log.next_start) } else { range.start };
        while from < range.end {
            let (holder, until) = log.ancestry.holder(from).unwrap_or((id, u64::MAX));
            let mut until = until.min(range.end);
            // One that is not resident was looked for, and is not in the database: it was deleted.
            let other = state.logs.get(&holder).filter(|_| holder != id);
            if let Some(other) = other.filter(|other| other.next.stage != Stage::Deleted) {
                // What the other has trimmed nobody could erase there.
                if from >= other.next_start {
                    return refuse(format!("the records {from} to {until} are those of log {}", holder.0));
                }
                until = until.min(other.next_start);
            }
            found.push(Erase { log: holder, offsets: from..until });
            from = until;
        }
    }
    if state.erasing.len() + found.len() > ERASING_RANGES_MAX {
        return Err(StoreError::Overloaded { scope: "the store", limit: ERASING_RANGES_MAX });
    }
    Ok(found)
}

/// The other logs that a batch depends on.
#[must_use]
pub fn others(shared: &Shared, id: LogId, origin: Option<&Origin>, ranges: &[Range<u64>]) -> Vec<LogId> {
    let mut others: Vec<LogId> = origin.iter().filter_map(|origin| origin.shares).collect();
    if !ranges.is_empty()
        && let Some(log) = shared.state().logs.get(&id)
    {
        others.extend(log.ancestry.entries().iter().map(|(holder, _)| *holder));
    }
    others
}

impl LocalStore {
    /// Makes logs resident that are asked for by id. Those that do not exist stay away.
    pub(super) async fn make_resident(shared: &Arc<Shared>, logs: Vec<LogId>) -> Result<(), StoreError> {
        for id in logs {
            loop {
                let evictions = {
                    let mut state = shared.state();
                    if let Some(log) = state.logs.get_mut(&id) {
                        // Somebody needs it to be there for a moment.
                        log.resting = false;
                        break;
                    }
                    state.evictions
                };
                let row = reader::blocking(shared, move |shared| {
                    log_row(&shared.database, id).map_err(|error| failure(id, 0, error))
                })
                .await?;
                let Some(row) = row else { break };
                let mut state = shared.state();
                if state.evictions != evictions {
                    // Something was forgotten meanwhile, perhaps what the database did not know yet.
                    continue;
                }
                if !state.logs.contains_key(&id) {
                    state.load(id, row);
                }
                break;
            }
        }
        Ok(())
    }

    /// Makes the log of a session resident.
    pub(super) async fn resident(shared: &Arc<Shared>, session: &SessionId) -> Result<LogId, StoreError> {
        loop {
            if let Some(id) = shared.state().resident_or_vacant(session) {
                return Ok(id);
            }
            let (lookup, evictions) = finder::find(shared, session).await?;
            let mut state = shared.state();
            if let Some(id) = state.names.get(session) {
                return Ok(*id);
            }
            if state.forgot(session, evictions) {
                // Perhaps with what the database did not know yet.
                continue;
            }
            if state.vacated.contains_key(session) {
                return Ok(state.reserve(session.clone(), 0));
            }
            return Ok(match lookup {
                Lookup::Found(id, row) => {
                    match state.logs.get(&id) {
                        // It got another name meanwhile.
                        Some(log) if log.name != *session => continue,
                        Some(_) => {}
                        None => state.load(id, *row),
                    }
                    id
                }
                Lookup::Vacant(epoch) => state.reserve(session.clone(), epoch),
            });
        }
    }

    pub(super) fn queue_delete(shared: &Shared, id: LogId, term: Term) -> Result<Outcome, StoreError> {
        let mut state = shared.state();
        state.check_queue()?;
        let log = owned(&mut state, id, term)?;
        log.next.stage = Stage::Deleted;
        let name = log.next_name.as_ref().unwrap_or(&log.name).clone();
        let delete = Delete { log: id, name, next_epoch: log.lineage.epoch() + 1 };
        let (reply, durable) = oneshot::channel();
        state.queue.push_back(Queued::Delete { delete, reply });
        shared.work.notify_one();
        Ok(durable)
    }

    /// The snapshot that it relies on may have been put a moment ago: its rows are readable, and so it counts for whoever
    /// opens the log, before it is durable.
    pub(super) async fn trim_log(
        shared: Arc<Shared>,
        id: LogId,
        term: Term,
        start: u64,
        freed_bytes: u64,
    ) -> Result<(), StoreError> {
        let mut settlings = shared.settled.subscribe();
        loop {
            settlings.mark_unchanged();
            match Self::queue_trim(&shared, id, term, start, freed_bytes)? {
                QueuedTrim::Nothing => return Ok(()),
                QueuedTrim::Queued(outcome) => return crate::store::local::durable(outcome).await,
                QueuedTrim::NotCoveredYet => {}
            }
            tokio::select! {
                _ = settlings.changed() => {}
                trouble = shared.health.troubled() => return Err(trouble),
            }
        }
    }

    pub(super) fn queue_trim(
        shared: &Shared,
        id: LogId,
        term: Term,
        start: u64,
        freed_bytes: u64,
    ) -> Result<QueuedTrim, StoreError> {
        let mut state = shared.state();
        state.check_queue()?;
        let log = owned(&mut state, id, term)?;
        if start <= log.start {
            return Ok(QueuedTrim::Nothing);
        }
        let (end, settled) = (log.durable.end, log.settled.as_ref());
        let through = settled.and_then(|settled| settled.snapshot_through);
        if start > end {
            return Err(StoreError::OutOfRange(format!("{start} is beyond the durable end {end}")));
        }
        if through.is_none_or(|through| start > through) {
            if log.snapshot_through.is_some_and(|through| start <= through) {
                return Ok(QueuedTrim::NotCoveredYet);
            }
            let through = through.map_or("there is none".into(), |through| format!("it ends at {through}"));
            let what = format!("{start} is not covered by a durable snapshot: {through}");
            return Err(StoreError::OutOfRange(what));
        }
        log.next_start = log.next_start.max(start);
        let (reply, durable) = oneshot::channel();
        state.queue.push_back(Queued::Trim { trim: Trim { log: id, start, freed_bytes }, reply });
        shared.work.notify_one();
        Ok(QueuedTrim::Queued(durable))
    }

    pub(super) async fn rename_session(
        shared: Arc<Shared>,
        id: LogId,
        term: Term,
        to: SessionId,
    ) -> Result<(), StoreError> {
        loop {
            Self::resident(&shared, &to).await?;
            // None when the name was forgotten meanwhile, to make room for others.
            if let Some(outcome) = Self::queue_rename(&shared, id, term, &to)? {
                return crate::store::local::durable(outcome).await;
            }
        }
    }

    pub(super) fn queue_rename(
        shared: &Shared,
        id: LogId,
        term: Term,
        to: &SessionId,
    ) -> Result<Option<Outcome>, StoreError> {
        let mut state = shared.state();
        state.check_queue()?;
        let Some(there) = state.names.get(to).copied() else { return Ok(None) };
        let log = owned(&mut state, id, term)?;
        if log.next_name.is_some() {
            // The one before is not durable: its name is not free yet.
            return Err(StoreError::VersionConflict);
        }
        let (from, epoch) = (log.name.clone(), log.lineage.epoch());
        let vacant = match state.logs.get(&there) {
            Some(found) if found.next.stage == Stage::Live => return Err(StoreError::AlreadyExists),
            Some(found) if found.next.stage == Stage::Reserved => found.lineage.epoch(),
            Some(found) => found.lineage.epoch() + 1,
            None => return Ok(None),
        };
        if vacant > epoch {
            return Err(StoreError::VersionConflict);
        }
        if state.logs.get(&there).is_some_and(|found| found.next.stage == Stage::Reserved) {
            state.forget_reserved(there);
        }
        state.names.insert(to.clone(), id);
        if let Some(log) = state.logs.get_mut(&id) {
            log.next_name = Some(to.clone());
        }
        let (reply, durable) = oneshot::channel();
        let rename = Rename { log: id, from, to: to.clone() };
        state.queue.push_back(Queued::Rename { rename, reply });
        shared.work.notify_one();
        Ok(Some(durable))
    }
}

/// A log that exists, for its owner.
fn owned(state: &mut State, id: LogId, term: Term) -> Result<&mut Log, StoreError> {
    let log = state.logs.get_mut(&id).ok_or(StoreError::Fenced)?;
    match log.check_owner(term) {
        Ok(()) if log.next.stage == Stage::Live => Ok(log),
        Ok(()) | Err(StoreError::Deleted) => Err(StoreError::NotFound),
        Err(error) => Err(error),
    }
}
