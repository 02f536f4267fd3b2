//! The hostile engine: any engine, with the manners of a distributed log, for tests.
//!
//! It is two things in one: a log somewhere else, and the client of that log here.
//! - The log has one batch in flight. Another one of the same opening is refused with [`StoreError::VersionConflict`]: its
//!   version cannot be the one that follows. The same batch again, and those of other openings, wait for it.
//! - The log knows versions and no repetitions: whoever tries a batch again that is durable is told "wrong last sequence".
//! - The client reconciles that by batch id: it looks whether the last batch of the log is the one that is tried again, and
//!   answers its version. So the promise of [`Store::append`] holds.
//! - Everything else that goes wrong is chance, from a seed ([`Faults`]), and nothing that the documentation of [`Store`]
//!   rules out. A batch that was given up for lost can become durable later, until the log is opened again.
//! - [`Store::commits`] has the last commit, and does not always tell.
//!
//! What is durable is so in the engine beneath.

pub mod faults;

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use longwire_proto::session_id::SessionId;
use tokio::sync::{oneshot, watch};

use crate::store::backed_up::BackedUp;
use crate::store::hostile::faults::{Dice, Faults};
use crate::store::{
    Batch, BatchId, Capabilities, Cas, Changes, Chunk, Due, Health, ListPage, ListQuery, LogId, Opened,
    ReadLimit, Reservation, Snapshot, Store, StoreError, StoreFuture, Term, Version,
};

/// Logs that the client remembers the last batch of. Of those that it forgets, the engine beneath knows it.
const LOGS_MAX: usize = 10_000;
/// Records of a read that returns less than it could, at most.
const SHORT_READ_RECORDS: u64 = 7;

/// See the top of this file.
pub struct Hostile<S> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    inner: S,
    faults: Faults,
    dice: Dice,
    logs: Mutex<HashMap<LogId, Remote>>,
    /// Changes when a batch is not in flight any more.
    landed: watch::Sender<()>,
    hints: watch::Sender<u64>,
    injected: AtomicU64,
    damaged: Option<SessionId>,
}

/// What is known of a log.
#[derive(Default)]
struct Remote {
    session: Option<SessionId>,
    in_flight: Option<(Term, BatchId)>,
    last: Option<Last>,
}

/// The last batch of a log.
#[derive(Clone, Copy)]
struct Last {
    id: BatchId,
    term: Term,
    version: Version,
}

/// What becomes of a write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    RequestLost,
    AnswerLost,
}

/// Whether the log takes a batch now.
enum Admission {
    Taken,
    Wait,
    Refused,
}

impl<S: Store> Hostile<S> {
    /// An engine over another one.
    #[must_use]
    pub fn new(inner: S, faults: Faults, seed: u64) -> Self {
        Self::with_damage(inner, faults, seed, None)
    }

    /// The same; of one session the log is damaged, and is refused at its first offset.
    #[must_use]
    pub fn with_damage(inner: S, faults: Faults, seed: u64, damaged: Option<SessionId>) -> Self {
        let hints = watch::Sender::new(*inner.commits().borrow());
        Self {
            shared: Arc::new(Shared {
                inner,
                faults,
                dice: Dice::new(seed),
                logs: Mutex::default(),
                landed: watch::Sender::new(()),
                hints,
                injected: AtomicU64::new(0),
                damaged,
            }),
        }
    }

    /// How many faults there were.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.shared.injected.load(Ordering::Relaxed)
    }

    /// The answer to a read.
    fn answer<T: Send + 'static>(&self, read: impl FnOnce(&S) -> StoreFuture<T>) -> StoreFuture<T> {
        if self.shared.happens(self.shared.faults.failed_reads) {
            return Box::pin(async { Err(StoreError::Read("no answer came".into())) });
        }
        read(&self.shared.inner)
    }

    /// A write other than an append: it is under way when this returns, unless it was lost.
    fn write<T: Send + 'static>(
        &self,
        fate: Fate,
        write: impl FnOnce(&S) -> StoreFuture<T>,
    ) -> StoreFuture<T> {
        if fate == Fate::RequestLost {
            return Box::pin(async { Err(lost()) });
        }
        let (written, shared) = (write(&self.shared.inner), Arc::clone(&self.shared));
        Box::pin(async move {
            let outcome = written.await;
            shared.tell();
            shared.delay().await;
            if fate == Fate::AnswerLost { Err(lost()) } else { outcome }
        })
    }
}

impl<S: Store> Shared<S> {
    fn happens(&self, one_in: u64) -> bool {
        let happens = self.dice.happens(one_in);
        self.injected.fetch_add(u64::from(happens), Ordering::Relaxed);
        happens
    }

    fn fate(&self) -> Fate {
        if self.happens(self.faults.lost_requests) {
            Fate::RequestLost
        } else if self.happens(self.faults.lost_answers) {
            Fate::AnswerLost
        } else {
            Fate::Answered
        }
    }

    fn logs(&self) -> MutexGuard<'_, HashMap<LogId, Remote>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn delay(&self) {
        if self.dice.happens(self.faults.delays) {
            tokio::time::sleep(self.dice.delay()).await;
        }
    }

    /// Passes on how far the engine beneath is; whether somebody is told is chance.
    fn tell(&self) {
        let commit = *self.inner.commits().borrow();
        let lost = self.happens(self.faults.lost_hints);
        self.hints.send_if_modified(|told| {
            let more = commit > *told;
            *told = commit.max(*told);
            more && !lost
        });
    }

    fn opened(&self, log: LogId, session: &SessionId) {
        let mut logs = self.logs();
        if logs.len() >= LOGS_MAX {
            logs.retain(|_, remote| remote.in_flight.is_some());
        }
        let remote = logs.entry(log).or_default();
        remote.session = Some(session.clone());
        // What earlier openings appended is for the engine beneath to know.
        remote.last = None;
    }

    /// The name of a log may be another one's soon: nobody takes it over before it is opened again.
    fn leave(&self, log: LogId) {
        if let Some(remote) = self.logs().get_mut(&log) {
            remote.session = None;
        }
    }

    /// Carries an append out. A task of its own, because what has been sent arrives, whether its answer is waited for or not.
    async fn append(self: Arc<Self>, to: Target, batch: Batch, answer: oneshot::Sender<Answer>) {
        let outcome = match self.admit(to, batch.id).await {
            Err(error) => Err(error),
            Ok(()) if self.happens(self.faults.late_appends) => {
                // Whoever waited has gone by then.
                drop(answer.send(Err(lost())));
                tokio::time::sleep(self.dice.delay()).await;
                drop(self.carry_out(to, batch).await);
                return self.land(to.log);
            }
            Ok(()) => {
                self.delay().await;
                let outcome = match self.fate() {
                    Fate::RequestLost => Err(lost()),
                    Fate::AnswerLost => self.carry_out(to, batch).await.and(Err(lost())),
                    Fate::Answered => self.carry_out(to, batch).await,
                };
                self.land(to.log);
                outcome
            }
        };
        self.delay().await;
        drop(answer.send(outcome));
    }

    /// One batch of a log is in flight.
    async fn admit(&self, to: Target, id: BatchId) -> Result<(), StoreError> {
        let mut landed = self.landed.subscribe();
        loop {
            landed.mark_unchanged();
            match self.try_admit(to, id) {
                Admission::Taken => return Ok(()),
                Admission::Refused => return Err(StoreError::VersionConflict),
                // The sender lives in `self`, so there always is a next change or a test that hangs and says so.
                Admission::Wait => drop(landed.changed().await),
            }
        }
    }

    fn try_admit(&self, to: Target, id: BatchId) -> Admission {
        let mut logs = self.logs();
        let remote = logs.entry(to.log).or_default();
        match remote.in_flight {
            Some((term, other)) if term == to.term && other != id => Admission::Refused,
            Some(_) => Admission::Wait,
            None => {
                remote.in_flight = Some((to.term, id));
                Admission::Taken
            }
        }
    }

    fn land(&self, log: LogId) {
        if let Some(remote) = self.logs().get_mut(&log) {
            remote.in_flight = None;
        }
        self.tell();
        self.landed.send_replace(());
    }

    async fn carry_out(&self, to: Target, batch: Batch) -> Answer {
        if self.happens(self.faults.takeovers) {
            self.take_over(to.log).await?;
        }
        let id = batch.id;
        if self.is_wrong_last_sequence(to) {
            return self.reconcile(to, id);
        }
        let appended = self.inner.append(to.log, to.term, to.version, batch).await;
        if let Ok(version) = appended {
            let last = Last { id, term: to.term, version };
            self.logs().entry(to.log).or_default().last = Some(last);
        }
        appended
    }

    /// Whether a log that knows nothing but versions refuses what comes after this one. Those of earlier openings are for
    /// the engine beneath: it fences.
    fn is_wrong_last_sequence(&self, to: Target) -> bool {
        let last = self.logs().get(&to.log).and_then(|remote| remote.last);
        last.is_some_and(|last| last.term == to.term && last.version != to.version)
    }

    /// The log has another version: because of this very batch?
    fn reconcile(&self, to: Target, id: BatchId) -> Answer {
        let last = self.logs().get(&to.log).and_then(|remote| remote.last);
        let ours = last.filter(|last| last.id == id);
        ours.map(|last| last.version).ok_or(StoreError::VersionConflict)
    }

    /// What another owner does first.
    async fn take_over(&self, log: LogId) -> Result<(), StoreError> {
        let session = self.logs().get(&log).and_then(|remote| remote.session.clone());
        if let Some(session) = session {
            self.inner.open(&session).await?;
            self.logs().entry(log).or_default().last = None;
        }
        Ok(())
    }
}

/// Where a batch goes.
#[derive(Clone, Copy)]
struct Target {
    log: LogId,
    term: Term,
    version: Version,
}

type Answer = Result<Version, StoreError>;

fn lost() -> StoreError {
    StoreError::Unknown("no answer came".into())
}

impl<S: Store> Store for Hostile<S> {
    fn open(&self, session: &SessionId) -> StoreFuture<Opened> {
        if self.shared.damaged.as_ref() == Some(session) {
            let what = "its checksum is wrong".to_owned();
            return Box::pin(async { Err(StoreError::Corrupt { log: LogId(0), offset: 0, what }) });
        }
        let opening = self.answer(|inner| inner.open(session));
        let (shared, session) = (Arc::clone(&self.shared), session.clone());
        Box::pin(async move {
            let opened = opening.await?;
            shared.opened(opened.log, &session);
            shared.delay().await;
            Ok(opened)
        })
    }

    fn release(&self, log: LogId, term: Term) {
        self.shared.inner.release(log, term);
    }

    fn reserve(&self, log: LogId, bytes: usize) -> StoreFuture<Reservation> {
        if self.shared.happens(self.shared.faults.refusals) {
            return Box::pin(async { Err(StoreError::Overloaded { scope: "the store", limit: 0 }) });
        }
        self.shared.inner.reserve(log, bytes)
    }

    fn append(&self, log: LogId, term: Term, version: Version, batch: Batch) -> StoreFuture<Version> {
        let (answer, answered) = oneshot::channel();
        tokio::spawn(Arc::clone(&self.shared).append(Target { log, term, version }, batch, answer));
        Box::pin(async move { answered.await.unwrap_or_else(|_| Err(lost())) })
    }

    fn read(&self, log: LogId, from: u64, mut limit: ReadLimit) -> StoreFuture<Chunk> {
        if self.shared.happens(self.shared.faults.short_reads) {
            let records = 1 + self.shared.dice.below(SHORT_READ_RECORDS);
            limit.records = limit.records.min(usize::try_from(records).unwrap_or(1));
        }
        self.answer(|inner| inner.read(log, from, limit))
    }

    fn rows(&self, log: LogId, keys: Vec<Bytes>) -> StoreFuture<Vec<Option<Bytes>>> {
        self.answer(|inner| inner.rows(log, keys))
    }

    fn put_snapshot(&self, log: LogId, term: Term, snapshot: Snapshot) -> StoreFuture<()> {
        if self.shared.happens(self.shared.faults.refusals) {
            return Box::pin(async { Err(StoreError::Unavailable("a refusal by chance".into())) });
        }
        // Its rows are readable at once, so it never is lost on its way.
        let lost = self.shared.happens(self.shared.faults.lost_answers);
        let fate = if lost { Fate::AnswerLost } else { Fate::Answered };
        self.write(fate, |inner| inner.put_snapshot(log, term, snapshot))
    }

    fn delete(&self, log: LogId, term: Term) -> StoreFuture<()> {
        self.shared.leave(log);
        self.write(self.shared.fate(), |inner| inner.delete(log, term))
    }

    fn check_erase(&self, log: LogId, ranges: Vec<Range<u64>>) -> StoreFuture<()> {
        self.shared.inner.check_erase(log, ranges)
    }

    fn trim(&self, log: LogId, term: Term, start: u64, freed_bytes: u64) -> StoreFuture<()> {
        self.write(self.shared.fate(), |inner| inner.trim(log, term, start, freed_bytes))
    }

    fn rename(&self, log: LogId, term: Term, to: SessionId) -> StoreFuture<()> {
        self.shared.leave(log);
        self.write(self.shared.fate(), |inner| inner.rename(log, term, to))
    }

    fn scan_rows(
        &self,
        log: LogId,
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    ) -> StoreFuture<Vec<(Bytes, Bytes)>> {
        self.answer(|inner| inner.scan_rows(log, prefix, after, limit))
    }

    fn list(&self, query: ListQuery) -> StoreFuture<ListPage> {
        self.answer(|inner| inner.list(query))
    }

    fn changes(&self, after: u64, limit: usize) -> StoreFuture<Changes> {
        self.answer(|inner| inner.changes(after, limit))
    }

    fn commits(&self) -> watch::Receiver<u64> {
        self.shared.tell();
        self.shared.hints.subscribe()
    }

    fn due(&self, until_ms: u64, after: Option<(u64, LogId)>, limit: usize) -> StoreFuture<Vec<Due>> {
        self.answer(|inner| inner.due(until_ms, after, limit))
    }

    fn get(&self, key: Bytes) -> StoreFuture<Option<Bytes>> {
        self.answer(|inner| inner.get(key))
    }

    fn scan(&self, prefix: Bytes, after: Option<Bytes>, limit: usize) -> StoreFuture<Vec<(Bytes, Bytes)>> {
        self.answer(|inner| inner.scan(prefix, after, limit))
    }

    fn cas(&self, writes: Vec<Cas>) -> StoreFuture<()> {
        self.write(self.shared.fate(), |inner| inner.cas(writes))
    }

    fn back_up(&self, folder: PathBuf) -> StoreFuture<BackedUp> {
        self.shared.inner.back_up(folder)
    }

    fn capabilities(&self) -> Capabilities {
        self.shared.inner.capabilities()
    }

    fn health(&self) -> Health {
        self.shared.inner.health()
    }

    fn shutdown(&self) -> StoreFuture<()> {
        self.shared.inner.shutdown()
    }
}

#[cfg(test)]
mod tests;
