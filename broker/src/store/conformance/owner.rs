//! An engine that loses answers, seen through an owner that finds out what became of its writes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use longwire_proto::session_id::SessionId;
use tokio::sync::watch;

use crate::store::backed_up::BackedUp;
use crate::store::reconcile::{self, retry_read};
use crate::store::{
    Batch, Capabilities, Cas, Changes, Chunk, Due, Health, ListPage, ListQuery, LogId, Opened, ReadLimit,
    Reservation, Snapshot, Store, StoreError, StoreFuture, Term, Version,
};

/// The engine. Answers are what the engine would have said if none was ever lost.
pub(crate) struct Reconciled<S> {
    inner: Arc<S>,
    /// What owners know of their logs: the name, and whether they exist.
    logs: Arc<Mutex<HashMap<LogId, (SessionId, bool)>>>,
}

impl<S: Store> Reconciled<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner: Arc::new(inner), logs: Arc::default() }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.inner) as Arc<dyn Store>
    }

    /// A read, until it succeeds.
    fn again<T: Send + 'static>(
        &self,
        mut read: impl FnMut(&S) -> StoreFuture<T> + Send + 'static,
    ) -> StoreFuture<T> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { retry_read(|| read(&inner)).await })
    }

    fn known(&self, log: LogId) -> Option<(SessionId, bool)> {
        self.logs.lock().unwrap().get(&log).cloned()
    }
}

impl<S: Store> Store for Reconciled<S> {
    fn open(&self, session: &SessionId) -> StoreFuture<Opened> {
        let (opened, logs, session) = (
            {
                let session = session.clone();
                self.again(move |inner| inner.open(&session))
            },
            Arc::clone(&self.logs),
            session.clone(),
        );
        Box::pin(async move {
            let opened = opened.await?;
            logs.lock().unwrap().insert(opened.log, (session, opened.exists));
            Ok(opened)
        })
    }

    fn reserve(&self, log: LogId, bytes: usize) -> StoreFuture<Reservation> {
        self.inner.reserve(log, bytes)
    }

    fn append(&self, log: LogId, term: Term, version: Version, batch: Batch) -> StoreFuture<Version> {
        let (appended, logs) =
            (reconcile::append(&self.store(), log, term, version, batch), Arc::clone(&self.logs));
        Box::pin(async move {
            let version = appended.await?;
            if let Some((_, exists)) = logs.lock().unwrap().get_mut(&log) {
                *exists = true;
            }
            Ok(version)
        })
    }

    /// Joins pieces until the limit is reached or there is nothing more.
    fn read(&self, log: LogId, from: u64, limit: ReadLimit) -> StoreFuture<Chunk> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move {
            let mut whole = retry_read(|| inner.read(log, from, limit)).await?;
            loop {
                let bytes: usize = whole.records.iter().map(Bytes::len).sum();
                let left = ReadLimit {
                    records: limit.records.saturating_sub(whole.records.len()),
                    bytes: limit.bytes.saturating_sub(bytes),
                };
                if whole.records.is_empty() || left.records == 0 {
                    return Ok(whole);
                }
                let more = retry_read(|| inner.read(log, whole.next(), left)).await?;
                let added: usize = more.records.iter().map(Bytes::len).sum();
                // One record is always returned, also when there is no room for it.
                if more.from != whole.next() || more.records.is_empty() || added > left.bytes {
                    return Ok(whole);
                }
                whole.records.extend(more.records);
            }
        })
    }

    fn rows(&self, log: LogId, keys: Vec<Bytes>) -> StoreFuture<Vec<Option<Bytes>>> {
        self.again(move |inner| inner.rows(log, keys.clone()))
    }

    fn put_snapshot(&self, log: LogId, term: Term, snapshot: Snapshot) -> StoreFuture<()> {
        let (first, inner) = (self.inner.put_snapshot(log, term, snapshot.clone()), Arc::clone(&self.inner));
        Box::pin(async move {
            let mut outcome = first.await;
            while matches!(outcome, Err(StoreError::Unknown(_))) {
                outcome = inner.put_snapshot(log, term, snapshot.clone()).await;
            }
            outcome
        })
    }

    fn delete(&self, log: LogId, term: Term) -> StoreFuture<()> {
        let logs = Arc::clone(&self.logs);
        let exists = self.known(log).is_some_and(|(_, exists)| exists);
        let (deleted, inner) = (self.store(), Arc::clone(&self.inner));
        Box::pin(async move {
            let outcome = match exists {
                true => reconcile::delete(&deleted, log, term).await,
                false => loop {
                    match inner.delete(log, term).await {
                        Err(StoreError::Unknown(_)) => {}
                        outcome => break outcome,
                    }
                },
            };
            if let (Ok(()), Some((_, exists))) = (&outcome, logs.lock().unwrap().get_mut(&log)) {
                *exists = false;
            }
            outcome
        })
    }

    fn check_erase(&self, log: LogId, ranges: Vec<std::ops::Range<u64>>) -> StoreFuture<()> {
        self.inner.check_erase(log, ranges)
    }

    fn trim(&self, log: LogId, term: Term, start: u64, freed_bytes: u64) -> StoreFuture<()> {
        reconcile::trim(&self.store(), log, term, start, freed_bytes)
    }

    fn rename(&self, log: LogId, term: Term, to: SessionId) -> StoreFuture<()> {
        let (from, _) = self.known(log).unwrap();
        let (renamed, logs) =
            (reconcile::rename(&self.store(), log, term, from, to.clone()), Arc::clone(&self.logs));
        Box::pin(async move {
            renamed.await?;
            logs.lock().unwrap().insert(log, (to, true));
            Ok(())
        })
    }

    fn scan_rows(
        &self,
        log: LogId,
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    ) -> StoreFuture<Vec<(Bytes, Bytes)>> {
        self.again(move |inner| inner.scan_rows(log, prefix.clone(), after.clone(), limit))
    }

    fn list(&self, query: ListQuery) -> StoreFuture<ListPage> {
        self.again(move |inner| inner.list(query.clone()))
    }

    fn changes(&self, after: u64, limit: usize) -> StoreFuture<Changes> {
        self.again(move |inner| inner.changes(after, limit))
    }

    fn commits(&self) -> watch::Receiver<u64> {
        self.inner.commits()
    }

    fn due(&self, until_ms: u64, after: Option<(u64, LogId)>, limit: usize) -> StoreFuture<Vec<Due>> {
        self.again(move |inner| inner.due(until_ms, after, limit))
    }

    fn get(&self, key: Bytes) -> StoreFuture<Option<Bytes>> {
        self.again(move |inner| inner.get(key.clone()))
    }

    fn scan(&self, prefix: Bytes, after: Option<Bytes>, limit: usize) -> StoreFuture<Vec<(Bytes, Bytes)>> {
        self.again(move |inner| inner.scan(prefix.clone(), after.clone(), limit))
    }

    fn cas(&self, writes: Vec<Cas>) -> StoreFuture<()> {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { reconcile::cas(&*inner, writes).await })
    }

    fn back_up(&self, folder: PathBuf) -> StoreFuture<BackedUp> {
        self.inner.back_up(folder)
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn health(&self) -> Health {
        self.inner.health()
    }

    fn shutdown(&self) -> StoreFuture<()> {
        self.inner.shutdown()
    }
}
