//! The engine in memory, for tests of the layers above. It keeps everything and forgets it when it is dropped.

mod erasing;

use std::collections::{BTreeMap, HashMap};
use std::future::ready;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use longwire_proto::position::Lineage;
use longwire_proto::session_id::SessionId;
use tokio::sync::watch;

use crate::store::ancestry::{ANCESTORS_MAX, Ancestry};
use crate::store::list::is_hidden;
use crate::store::table::check;
use crate::store::{
    Batch, BatchId, Capabilities, Cas, Change, Changes, Chunk, Due, Health, ListPage, ListQuery, Listed,
    LogId, Opened, Origin, Projection, ReadLimit, Reservation, Snapshot, Store, StoreError, StoreFuture,
    Term, Version,
};

/// What a batch may have, as in the engine on the local disk.
const CAPABILITIES: Capabilities =
    Capabilities { batch_bytes_max: 5 << 20, batch_records_max: 8192, erased_within_ms: 0 };

/// The store in memory. Cloning gives another handle of the same store.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    names: BTreeMap<SessionId, LogId>,
    logs: HashMap<LogId, Log>,
    last_log: u64,
    last_term: u64,
    stopped: bool,
    trouble: Option<String>,
    values: BTreeMap<Bytes, Bytes>,
    commits: watch::Sender<u64>,
}

#[derive(Debug)]
struct Log {
    name: SessionId,
    lineage: Lineage,
    term: Term,
    exists: bool,
    deleted: bool,
    /// The end that it was deleted at.
    deleted_end: u64,
    version: u64,
    batch: Option<BatchId>,
    start: u64,
    born: u64,
    // Of the own records from `start` on.
    bytes: u64,
    ancestry: Ancestry,
    // The offset of the first own record, and every one since: trimmed ones stay for those who show them.
    base: u64,
    records: Vec<Bytes>,
    last_time_ms: u64,
    projection: Projection,
    commit: u64,
    rows: BTreeMap<Bytes, Bytes>,
    snapshot_through: Option<u64>,
}

impl Log {
    fn check_owner(&self, term: Term) -> Result<(), StoreError> {
        if self.deleted {
            Err(StoreError::Deleted)
        } else if self.term != term {
            Err(StoreError::Fenced)
        } else {
            Ok(())
        }
    }

    fn end(&self) -> u64 {
        self.base + self.records.len() as u64
    }

    fn record(&self, offset: u64) -> Option<&Bytes> {
        self.records.get(usize::try_from(offset.checked_sub(self.base)?).ok()?)
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses reservations from now on, as a full disk does, or serves them again.
    pub fn set_trouble(&self, trouble: Option<String>) {
        self.inner().trouble = trouble;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Inner) -> Result<T, StoreError>,
    ) -> StoreFuture<T> {
        Box::pin(ready(work(&mut self.inner())))
    }
}

impl Inner {
    fn check_running(&self) -> Result<(), StoreError> {
        if self.stopped { Err(StoreError::Unavailable("the store has stopped".into())) } else { Ok(()) }
    }

    /// The number of a write, which everyone who waits for commits is told.
    fn commit(&self) -> u64 {
        self.commits.send_modify(|commit| *commit += 1);
        *self.commits.borrow()
    }

    fn open(&mut self, session: &SessionId) -> Opened {
        self.last_term += 1;
        let term = Term(self.last_term);
        let known = self.names.get(session).copied();
        let epoch = match known.and_then(|id| self.logs.get(&id)) {
            Some(log) if !log.deleted => None,
            Some(log) => Some(log.lineage.epoch() + 1),
            None => Some(0),
        };
        let id = match (known, epoch) {
            (Some(id), None) => id,
            _ => {
                self.last_log += 1;
                self.names.insert(session.clone(), LogId(self.last_log));
                LogId(self.last_log)
            }
        };
        let log = self.logs.entry(id).or_insert_with(|| Log {
            name: session.clone(),
            lineage: Lineage::beginning(epoch.unwrap_or(0)),
            term,
            exists: false,
            deleted: false,
            deleted_end: 0,
            version: 0,
            batch: None,
            start: 0,
            born: 0,
            bytes: 0,
            ancestry: Ancestry::default(),
            base: 0,
            records: Vec::new(),
            last_time_ms: 0,
            projection: Projection::default(),
            commit: 0,
            rows: BTreeMap::new(),
            snapshot_through: None,
        });
        log.term = term;
        Opened {
            log: id,
            exists: log.exists,
            term,
            version: Version(log.version),
            lineage: log.lineage.clone(),
            start: log.start,
            end: log.end(),
            born: log.born,
            own_from: log.ancestry.end().unwrap_or(log.born),
            bytes: log.bytes,
            snapshot_through: log.snapshot_through,
        }
    }

    /// What a log with this origin shows of others.
    fn ancestry(&self, id: LogId, origin: &Origin, base: u64) -> Result<Ancestry, StoreError> {
        let start = origin.start;
        let log = self.logs.get(&id).ok_or(StoreError::Fenced)?;
        if origin.lineage.epoch() < log.lineage.epoch() {
            return Err(StoreError::VersionConflict);
        }
        let refuse = |what: String| Err(StoreError::OutOfRange(what));
        let ancestry = match origin.shares {
            _ if base < start => return refuse(format!("the base {base} is below the start {start}")),
            None if base > start => return refuse(format!("nothing holds the records {start} to {base}")),
            None => Ancestry::default(),
            Some(parent) => match self.logs.get(&parent).filter(|found| found.exists && !found.deleted) {
                Some(found) if found.start <= start && base <= found.end() => {
                    found.ancestry.of_fork(parent, start, base)
                }
                Some(_) => return refuse(format!("log {} does not have these records", parent.0)),
                None => return refuse(format!("there is no log {}", parent.0)),
            },
        };
        if ancestry.entries().len() > ANCESTORS_MAX {
            return refuse(format!(
                "its records would be spread over more than {ANCESTORS_MAX} logs; copy them"
            ));
        }
        Ok(ancestry)
    }

    fn read(&self, id: LogId, from: u64, limit: ReadLimit) -> Result<Chunk, StoreError> {
        let log = self.logs.get(&id).ok_or(StoreError::NotFound)?;
        if log.deleted {
            return Err(StoreError::Deleted);
        }
        let mut chunk = Chunk { from: from.max(log.start), records: Vec::new() };
        let mut bytes = 0;
        while chunk.next() < log.end() {
            let holder = log.ancestry.holder(chunk.next()).and_then(|(holder, _)| self.logs.get(&holder));
            let Some(record) = holder.unwrap_or(log).record(chunk.next()) else { break };
            bytes += record.len();
            let full = chunk.records.len() >= limit.records || bytes > limit.bytes;
            if full && !chunk.records.is_empty() {
                break;
            }
            chunk.records.push(record.clone());
        }
        Ok(chunk)
    }

    fn trim(&mut self, id: LogId, term: Term, start: u64, freed_bytes: u64) -> Result<(), StoreError> {
        let log = self.owned(id, term)?;
        if start <= log.start {
            return Ok(());
        }
        if start > log.end() || log.snapshot_through.is_none_or(|through| start > through) {
            let what = format!("{start} is beyond the end {} or the snapshot", log.end());
            return Err(StoreError::OutOfRange(what));
        }
        log.start = start;
        log.bytes = log.bytes.saturating_sub(freed_bytes);
        Ok(())
    }

    fn rename(&mut self, id: LogId, term: Term, to: SessionId) -> Result<(), StoreError> {
        let epoch = self.owned(id, term)?.lineage.epoch();
        let there = self.names.get(&to).and_then(|there| self.logs.get(there));
        let vacant = match there {
            Some(there) if there.exists && !there.deleted => return Err(StoreError::AlreadyExists),
            Some(there) => there.lineage.epoch() + u64::from(there.deleted),
            None => 0,
        };
        if vacant > epoch {
            return Err(StoreError::VersionConflict);
        }
        let log = self.owned(id, term)?;
        let from = std::mem::replace(&mut log.name, to.clone());
        self.names.remove(&from);
        if let Some(there) = self.names.insert(to, id)
            && self.logs.get(&there).is_some_and(|there| !there.exists)
        {
            self.logs.remove(&there);
        }
        Ok(())
    }

    /// A log that exists, for its owner.
    fn owned(&mut self, id: LogId, term: Term) -> Result<&mut Log, StoreError> {
        self.check_running()?;
        let log = self.logs.get_mut(&id).ok_or(StoreError::Fenced)?;
        match log.check_owner(term) {
            Ok(()) if log.exists => Ok(log),
            Ok(()) | Err(StoreError::Deleted) => Err(StoreError::NotFound),
            Err(error) => Err(error),
        }
    }

    fn append(
        &mut self,
        id: LogId,
        term: Term,
        version: Version,
        batch: Batch,
    ) -> Result<Version, StoreError> {
        self.check_running()?;
        let log = self.logs.get(&id).ok_or(StoreError::Fenced)?;
        log.check_owner(term)?;
        let repeats = batch.base + batch.records.len() as u64 == log.end();
        if log.batch == Some(batch.id) && repeats {
            return Ok(Version(log.version));
        }
        if log.version != version.0
            || log.exists && batch.origin.is_some()
            || batch.origin.is_none() && log.end() != batch.base
        {
            return Err(StoreError::VersionConflict);
        }
        let ancestry = match &batch.origin {
            Some(origin) => self.ancestry(id, origin, batch.base)?,
            None => Ancestry::default(),
        };
        for (holder, offset) in self.erased(id, &batch.erase, batch.base)? {
            self.erase(holder, offset);
        }
        let commit = self.commit();
        let log = self.logs.get_mut(&id).ok_or(StoreError::Fenced)?;
        log.commit = commit;
        if let Some(origin) = batch.origin {
            log.lineage = origin.lineage;
            (log.start, log.born, log.base) = (origin.start, origin.start, batch.base);
            log.ancestry = ancestry;
        }
        log.bytes += batch.records.iter().map(|record| record.len() as u64).sum::<u64>();
        log.exists = true;
        log.version += 1;
        log.batch = Some(batch.id);
        log.last_time_ms = batch.last_time_ms;
        log.records.extend(batch.records);
        if let Some(projection) = batch.projection {
            log.projection = projection;
        }
        Ok(Version(log.version))
    }
}

impl Store for MemoryStore {
    fn open(&self, session: &SessionId) -> StoreFuture<Opened> {
        self.answer(|inner| Ok(inner.open(session)))
    }

    fn reserve(&self, _log: LogId, bytes: usize) -> StoreFuture<Reservation> {
        struct Nothing;
        impl crate::store::Reserved for Nothing {}
        self.answer(|inner| match &inner.trouble {
            Some(trouble) => Err(StoreError::Unavailable(trouble.clone())),
            None => Ok(Reservation::new(Box::new(Nothing), bytes)),
        })
    }

    fn append(&self, log: LogId, term: Term, version: Version, batch: Batch) -> StoreFuture<Version> {
        let projection = batch.projection.as_ref().map_or(0, Projection::bytes);
        let bytes = projection + batch.records.iter().map(Bytes::len).sum::<usize>();
        let refuse = |what, found, limit| StoreError::BatchTooLarge { what, found, limit };
        if bytes > CAPABILITIES.batch_bytes_max {
            let error = refuse("bytes", bytes, CAPABILITIES.batch_bytes_max);
            return Box::pin(ready(Err(error)));
        }
        if batch.records.len() > CAPABILITIES.batch_records_max {
            let error = refuse("records", batch.records.len(), CAPABILITIES.batch_records_max);
            return Box::pin(ready(Err(error)));
        }
        if let Err(error) = batch.projection.as_ref().map_or(Ok(()), Projection::check) {
            return Box::pin(ready(Err(error)));
        }
        self.answer(|inner| inner.append(log, term, version, batch))
    }

    fn read(&self, log: LogId, from: u64, limit: ReadLimit) -> StoreFuture<Chunk> {
        self.answer(|inner| inner.read(log, from, limit))
    }

    fn rows(&self, log: LogId, keys: Vec<Bytes>) -> StoreFuture<Vec<Option<Bytes>>> {
        self.answer(|inner| match inner.logs.get(&log) {
            Some(log) if log.deleted => Err(StoreError::Deleted),
            Some(log) => Ok(keys.iter().map(|key| log.rows.get(key).cloned()).collect()),
            None => Ok(vec![None; keys.len()]),
        })
    }

    fn put_snapshot(&self, log: LogId, term: Term, snapshot: Snapshot) -> StoreFuture<()> {
        self.answer(|inner| {
            inner.check_running()?;
            let log = inner.logs.get_mut(&log).ok_or(StoreError::Fenced)?;
            log.check_owner(term)?;
            if !log.exists || snapshot.through > log.end() {
                return Err(StoreError::VersionConflict);
            }
            if log.snapshot_through.is_none_or(|through| through <= snapshot.through) {
                log.snapshot_through = Some(snapshot.through);
                for (key, row) in snapshot.rows {
                    match row {
                        Some(row) => log.rows.insert(key, row),
                        None => log.rows.remove(&key),
                    };
                }
            }
            Ok(())
        })
    }

    fn delete(&self, log: LogId, term: Term) -> StoreFuture<()> {
        self.answer(|inner| {
            inner.owned(log, term)?;
            let commit = inner.commit();
            let deleted = inner.owned(log, term)?;
            deleted.commit = commit;
            deleted.deleted_end = deleted.end();
            deleted.deleted = true;
            deleted.rows.clear();
            Ok(())
        })
    }

    fn check_erase(&self, log: LogId, ranges: Vec<Range<u64>>) -> StoreFuture<()> {
        self.answer(|inner| {
            let end = inner.logs.get(&log).map_or(0, Log::end);
            let kept: Vec<_> = ranges.iter().map(|range| range.start..range.end.min(end)).collect();
            inner.erased(log, &kept, end).map(drop)
        })
    }

    fn trim(&self, log: LogId, term: Term, start: u64, freed_bytes: u64) -> StoreFuture<()> {
        self.answer(|inner| inner.trim(log, term, start, freed_bytes))
    }

    fn rename(&self, log: LogId, term: Term, to: SessionId) -> StoreFuture<()> {
        self.answer(|inner| inner.rename(log, term, to))
    }

    fn scan_rows(
        &self,
        log: LogId,
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    ) -> StoreFuture<Vec<(Bytes, Bytes)>> {
        self.answer(|inner| match inner.logs.get(&log) {
            Some(log) if log.deleted => Err(StoreError::Deleted),
            Some(log) => {
                let rows = log.rows.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
                let rows = rows.filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after));
                Ok(rows.take(limit).map(|(key, row)| (key.clone(), row.clone())).collect())
            }
            None => Ok(Vec::new()),
        })
    }

    fn list(&self, query: ListQuery) -> StoreFuture<ListPage> {
        self.answer(|inner| {
            let ListQuery { prefix, after, terms, limit } = query;
            let sessions = inner.names.values().filter_map(|id| Some((*id, inner.logs.get(id)?)));
            let listed = sessions
                .filter(|(_, log)| !log.name.is_reserved())
                .filter(|(_, log)| log.exists && !log.deleted && log.name.as_str().starts_with(&prefix))
                .filter(|(_, log)| after.as_ref().is_none_or(|after| log.name > *after))
                .filter(|(_, log)| !is_hidden(&log.name))
                .filter(|(_, log)| terms.iter().all(|term| log.projection.terms.contains(term)))
                .take(limit.saturating_add(1))
                .map(|(id, log)| Listed {
                    session: log.name.clone(),
                    log: id,
                    lineage: log.lineage.clone(),
                    start: log.start,
                    end: log.end(),
                    last_time_ms: log.last_time_ms,
                    projection: log.projection.row.clone(),
                });
            let mut sessions: Vec<Listed> = listed.collect();
            let more = sessions.len() > limit;
            sessions.truncate(limit);
            let more_after = sessions.last().filter(|_| more).map(|last| last.session.clone());
            Ok(ListPage { sessions, more_after })
        })
    }

    fn changes(&self, after: u64, limit: usize) -> StoreFuture<Changes> {
        self.answer(|inner| {
            let told = inner.logs.iter().filter(|(_, log)| log.exists && !is_hidden(&log.name));
            let mut changes: Vec<Change> = told
                .filter(|(_, log)| log.commit > after)
                .map(|(id, log)| Change {
                    commit: log.commit,
                    log: *id,
                    session: log.name.clone(),
                    lineage: log.lineage.clone(),
                    start: 0,
                    end: if log.deleted { log.deleted_end } else { log.end() },
                    deleted: log.deleted,
                })
                .collect();
            changes.sort_unstable_by_key(|change| change.commit);
            let more = changes.len() > limit;
            changes.truncate(limit);
            let through = match changes.last() {
                Some(last) if more => last.commit,
                _ => after.max(*inner.commits.borrow()),
            };
            Ok(Changes { changes, through, forgotten: 0 })
        })
    }

    fn commits(&self) -> watch::Receiver<u64> {
        self.inner().commits.subscribe()
    }

    fn due(&self, until_ms: u64, after: Option<(u64, LogId)>, limit: usize) -> StoreFuture<Vec<Due>> {
        self.answer(|inner| {
            let live = inner.logs.iter().filter(|(_, log)| !log.deleted);
            let mut due: Vec<Due> = live
                .filter_map(|(id, log)| {
                    let when_ms = log.projection.deadline_ms?;
                    Some(Due { when_ms, log: *id, session: log.name.clone() })
                })
                .filter(|due| {
                    due.when_ms <= until_ms && after.is_none_or(|after| (due.when_ms, due.log) > after)
                })
                .collect();
            due.sort_unstable_by_key(|due| (due.when_ms, due.log));
            due.truncate(limit);
            Ok(due)
        })
    }

    fn get(&self, key: Bytes) -> StoreFuture<Option<Bytes>> {
        self.answer(|inner| Ok(inner.values.get(&key).cloned()))
    }

    fn scan(&self, prefix: Bytes, after: Option<Bytes>, limit: usize) -> StoreFuture<Vec<(Bytes, Bytes)>> {
        self.answer(|inner| {
            let values = inner.values.iter().filter(|(key, _)| key.starts_with(&prefix));
            let values = values.filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after));
            Ok(values.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
        })
    }

    fn cas(&self, writes: Vec<Cas>) -> StoreFuture<()> {
        self.answer(|inner| {
            check(&writes)?;
            inner.check_running()?;
            if let Some(trouble) = &inner.trouble {
                return Err(StoreError::Unavailable(trouble.clone()));
            }
            if writes.iter().any(|write| inner.values.get(&write.key) != write.expected.as_ref()) {
                return Err(StoreError::VersionConflict);
            }
            if !writes.is_empty() {
                inner.commit();
            }
            for Cas { key, value, .. } in writes {
                match value {
                    Some(value) => inner.values.insert(key, value),
                    None => inner.values.remove(&key),
                };
            }
            Ok(())
        })
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn health(&self) -> Health {
        let inner = self.inner();
        match &inner.trouble {
            Some(trouble) => Health::Degraded(trouble.clone()),
            None => Health::Ready,
        }
    }

    fn shutdown(&self) -> StoreFuture<()> {
        self.answer(|inner| {
            inner.stopped = true;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    conformance::suite!(async || (MemoryStore::new(), ()));
}
