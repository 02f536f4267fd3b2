//! The engine on the local disk: an append-only journal in front of redb. `docs/storage.md` has the bytes, the recovery
//! and the reasons.
//!
//! ```text
//! append ─▶ queue ─▶ writer: one write + one fdatasync a group ─▶ overlay ─▶ settler ─▶ redb
//!           state     └─▶ journal segments                          │  ▲ freed after the commit
//!                                                        reads ◀────┘  └── reads, once settled
//! ```

pub mod alone;
pub mod backup;
pub mod ballast;
pub mod compact;
pub mod database;
pub mod database_failure;
pub mod deleted;
pub mod delivered;
pub mod disk;
pub mod erasing;
pub mod error;
pub mod feed;
pub mod finder;
pub mod folder;
pub mod format;
pub mod group;
pub mod health;
pub mod index;
pub mod keyed;
pub mod known_names;
pub mod lifecycle;
pub mod listing;
pub mod log;
pub mod lookups;
pub mod opening;
pub mod partial;
pub mod place;
pub mod plan;
pub mod projected;
pub mod projections;
pub mod queued;
pub mod quota;
pub mod reader;
pub mod rebuild;
pub mod record;
pub mod recovery;
pub mod restore;
pub mod segment;
pub mod settler;
pub mod shared;
pub mod size;
pub mod state;
pub mod stats;
pub mod table;
pub mod unindexed;
pub mod values;
pub mod wipe;
pub mod writer;

#[cfg(test)]
mod tests;

use std::future::ready;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use longwire_proto::session_id::SessionId;
use tokio::sync::{oneshot, watch};

use crate::store::batch::NEW_LOG_BYTES;
use crate::store::local::alone::Alone;
use crate::store::local::disk::{Disk, RealDisk};
use crate::store::local::error::OpenStoreError;
use crate::store::local::folder::DataFolder;
use crate::store::local::group::{Append, BLOCK_BYTES};
use crate::store::local::health::Part;
use crate::store::local::log::Stage;
use crate::store::local::projected::Projected;
use crate::store::local::queued::{Queued, Stop};
use crate::store::local::record::{RECORD_OVERHEAD_BYTES, seal};
use crate::store::local::shared::{CACHE_BYTES, ERASE_WITHIN, Shared, Tuning};
use crate::store::local::size::{check_size, cost};
use crate::store::local::state::State;
use crate::store::{
    BackedUp, Batch, Capabilities, Cas, Changes, Chunk, Due, Framed, Health, ListPage, ListQuery, LogId,
    Opened, ReadLimit, Reservation, Snapshot, Store, StoreError, StoreFuture, Term, Version,
};

/// Bytes of one batch's records and projection: the largest publish (4 MiB) with what sealing adds to its records. Less
/// than half of a session's quota, so that one can settle while the next is written, and a third of a segment.
pub const BATCH_BYTES_MAX: usize = 5 << 20;
/// Records of one batch: what they cost in memory beside their bytes stays below a megabyte.
pub const BATCH_RECORDS_MAX: usize = 8192;
/// What a batch costs in memory beside its records.
pub const BATCH_OVERHEAD_BYTES: usize = 512;
/// What a row of a snapshot costs in memory beside key and value.
const ROW_OVERHEAD_BYTES: usize = 128;
/// What a reservation adds for overhead, as a part of the bytes asked for: right for records of 400 bytes; shorter ones
/// are charged the rest when they are appended.
const RESERVED_OVERHEAD_PART: usize = 4;

/// Resolves when what was queued is durable.
type Outcome = oneshot::Receiver<Result<(), StoreError>>;

/// How a [`LocalStore`] is set up.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// The data folder; created when it is absent.
    pub data_dir: PathBuf,
    /// Bytes of redb's cache.
    pub cache_bytes: usize,
}

impl LocalConfig {
    /// The defaults in this folder.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), cache_bytes: CACHE_BYTES }
    }
}

/// The store on the local disk. Methods must be called within a tokio runtime.
///
/// Dropping it without [`Store::shutdown`] stops it like a crash, losing nothing that was acknowledged, and waits for at
/// most one write of the disk.
#[derive(Debug)]
pub struct LocalStore {
    shared: Arc<Shared>,
    threads: Arc<Mutex<Option<Threads>>>,
}

#[derive(Debug)]
struct Threads {
    writer: JoinHandle<()>,
    settler: JoinHandle<bool>,
}

impl Threads {
    /// Waits for the threads, which were told to stop. True when everything durable is settled.
    fn join(self) -> bool {
        let written = self.writer.join().is_ok();
        self.settler.join().unwrap_or(false) && written
    }
}

impl LocalStore {
    /// Opens the store, settling first what the journal of an earlier life holds. Blocks.
    ///
    /// # Errors
    /// See [`OpenStoreError`]. The folder is left as it was found.
    pub fn open(config: LocalConfig) -> Result<Self, OpenStoreError> {
        let tuning = Tuning { cache_bytes: config.cache_bytes, ..Tuning::default() };
        Self::open_tuned(config.data_dir, tuning)
    }

    fn open_tuned(data_dir: PathBuf, tuning: Tuning) -> Result<Self, OpenStoreError> {
        let folder = DataFolder::open(&data_dir)?;
        let salt = folder.salt;
        Self::open_on(Arc::new(RealDisk::new(data_dir)), Some(folder), salt, tuning)
    }

    fn open_on(
        disk: Arc<dyn Disk>,
        folder: Option<DataFolder>,
        salt: u64,
        tuning: Tuning,
    ) -> Result<Self, OpenStoreError> {
        let shared = Arc::new(opening::open(disk, folder, salt, tuning)?);
        let threads = opening::start(&shared)?;
        Ok(Self { shared, threads: Arc::new(Mutex::new(Some(threads))) })
    }

    /// Moves everything that is durable into the database, and resolves when that is done.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the store is in trouble.
    pub async fn settle(&self) -> Result<(), StoreError> {
        let mut settlings = self.shared.settled.subscribe();
        loop {
            settlings.mark_unchanged();
            if self.shared.state().is_settled() {
                return Ok(());
            }
            self.shared.settle_soon();
            tokio::select! {
                _ = settlings.changed() => {}
                trouble = self.shared.health.troubled() => return Err(trouble),
            }
        }
    }

    /// Resolves when everything that was erased or deleted before this call is in no file of the folder any more, and does
    /// not wait for the time that this is otherwise put off.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the store is in trouble.
    pub async fn erased(&self) -> Result<(), StoreError> {
        let mut wiped = self.shared.wiped.subscribe();
        let target = {
            let mut state = self.shared.state();
            state.wipe_asked = state.erased_commit;
            self.shared.settle.notify_one();
            state.erased_commit
        };
        loop {
            if *wiped.borrow_and_update() >= target {
                return Ok(());
            }
            tokio::select! {
                _ = wiped.changed() => {}
                trouble = self.shared.health.troubled() => return Err(trouble),
            }
        }
    }

    fn stop(shared: &Shared, how: Stop) {
        {
            let mut state = shared.state();
            if state.stop != Stop::Abandon {
                state.stop = how;
            }
            shared.work.notify_one();
            shared.settle.notify_one();
        }
    }

    /// Queues an append. Gives the version after it, and what resolves when it is durable; `None` for a batch that was
    /// queued before.
    fn queue_append(
        shared: &Shared,
        id: LogId,
        term: Term,
        version: Version,
        mut batch: Batch,
    ) -> Result<(Version, Option<Outcome>), StoreError> {
        check_size(&batch)?;
        let mut bytes = cost(&batch);
        // Outside the lock: this is the part of an append that takes time.
        let projection = batch.projection.as_ref().map(Projected::encode);
        let records = seal(id, batch.base, std::mem::take(&mut batch.records));

        let mut state = shared.state();
        state.check_queue()?;
        let log = state.logs.get(&id).ok_or(StoreError::Fenced)?;
        log.check_owner(term)?;
        let repeats = batch.base + records.len() as u64 == log.next.end;
        if log.next.batch == Some(batch.id) && repeats {
            return Ok((Version(log.next.version), None));
        }
        let begins = log.next.stage == Stage::Reserved;
        if version.0 != log.next.version || !begins && (batch.base != log.next.end || batch.origin.is_some())
        {
            return Err(StoreError::VersionConflict);
        }
        let erase = lifecycle::erase(&state, id, log, &batch.erase, batch.base)?;
        let create = begins.then(|| lifecycle::create(&state, id, log, &batch)).transpose()?.map(Box::new);
        if begins {
            bytes += NEW_LOG_BYTES;
        }
        let mut reservation = batch.reservation;
        reservation.absorb(shared.quota.charge(bytes.saturating_sub(reservation.bytes()))?);
        let log = state.logs.get_mut(&id).ok_or(StoreError::Fenced)?;
        if let Some(create) = &create {
            log.next_start = create.start;
            // At once: the batches that follow may be queued before it is durable.
            log.ancestry = create.ancestry.clone();
        }
        log.next.stage = Stage::Live;
        log.next.version += 1;
        log.next.end = batch.base + records.len() as u64;
        log.next.batch = Some(batch.id);
        log.next.last_time_ms = batch.last_time_ms;
        let version = Version(log.next.version);
        let append = Append {
            log: id,
            term,
            version,
            batch: batch.id,
            base: batch.base,
            last_time_ms: batch.last_time_ms,
            records,
            projection,
            erase,
        };
        let (reply, durable) = oneshot::channel();
        state.queue.push_back(Queued::Append { create, append, reservation, bytes, reply });
        match Alone::take(&mut state, bytes) {
            Some(writer) => {
                drop(state);
                writer.write_alone();
            }
            None => state.alone.call(&shared.work),
        }
        Ok((version, Some(durable)))
    }

    /// Waits for an append to be durable.
    async fn appended(
        shared: Arc<Shared>,
        log: LogId,
        (version, outcome): (Version, Option<Outcome>),
    ) -> Result<Version, StoreError> {
        match outcome {
            Some(outcome) => durable(outcome).await?,
            None => {
                let reached = |state: &mut State| {
                    let durable = state.logs.get(&log).map(|log| log.durable.version);
                    durable.is_none_or(|durable| durable >= version.0).then_some(())
                };
                shared.when(reached).await.map_err(|error| StoreError::Unknown(error.to_string()))?;
            }
        }
        Ok(version)
    }

    fn queue_snapshot(
        shared: &Shared,
        id: LogId,
        term: Term,
        snapshot: Snapshot,
    ) -> Result<Outcome, StoreError> {
        let rows = snapshot.rows.iter();
        let bytes =
            rows.map(|(key, row)| ROW_OVERHEAD_BYTES + key.len() + row.as_ref().map_or(0, Bytes::len)).sum();
        let mut state = shared.state();
        if state.stop != Stop::No {
            return Err(StoreError::Unavailable("the broker is stopping".into()));
        }
        let log = state.logs.get_mut(&id).ok_or(StoreError::Fenced)?;
        log.check_owner(term)?;
        if log.durable.stage != Stage::Live || snapshot.through > log.durable.end {
            return Err(StoreError::VersionConflict);
        }
        let reservation = shared.quota.charge(bytes)?;
        let (reply, durable) = oneshot::channel();
        log.put_snapshot(snapshot, reply, reservation);
        state.unsettled_bytes += bytes;
        state.touch_rows(id);
        shared.settle.notify_one();
        Ok(durable)
    }

    async fn open_session(shared: Arc<Shared>, session: SessionId) -> Result<Opened, StoreError> {
        loop {
            let id = Self::resident(&shared, &session).await?;
            let mut opening = None;
            // A batch of an earlier opening may be on its way; it is part of the log or never will be.
            let opened = shared.when(|state| Self::look_open(state, &session, id, &mut opening)).await?;
            // None when the log was forgotten meanwhile, to make room for others.
            if let Some(opened) = opened {
                return Ok(opened);
            }
        }
    }

    /// Fences earlier openings at the first look, and finds the log when nothing is in flight any more.
    fn look_open(
        state: &mut State,
        session: &SessionId,
        id: LogId,
        opening: &mut Option<(LogId, Term)>,
    ) -> Option<Option<Opened>> {
        let (id, term) = match *opening {
            Some(opening) => opening,
            None => {
                let id = Self::current(state, session, id);
                if state.logs.get(&id).is_some_and(|log| log.next_name.is_some()) {
                    // Whose name this is will be known when the renaming is durable.
                    return None;
                }
                if state.logs.get(&id).is_some_and(|log| log.name != *session) {
                    return Some(None);
                }
                let Some(log) = state.open(id) else { return Some(None) };
                *opening.insert((id, log.term))
            }
        };
        let Some(log) = state.logs.get(&id) else { return Some(None) };
        if log.in_flight() {
            return None;
        }
        if log.durable.stage == Stage::Deleted {
            // It was being deleted: the name is free now.
            let id = Self::current(state, session, id);
            return Some(state.open(id).map(|log| log.opened(id)));
        }
        Some(Some(Opened { term, ..log.opened(id) }))
    }

    /// The log that a name has by now, reserving one when it has none.
    fn current(state: &mut State, session: &SessionId, known: LogId) -> LogId {
        let id = state.names.get(session).copied().unwrap_or(known);
        match state.logs.get(&id) {
            Some(log) if log.durable.stage == Stage::Deleted => {
                let epoch = log.lineage.epoch() + 1;
                state.reserve(session.clone(), epoch)
            }
            _ => id,
        }
    }
}

async fn durable(outcome: Outcome) -> Result<(), StoreError> {
    outcome
        .await
        .unwrap_or_else(|_| Err(StoreError::Unknown("the store stopped before the write was durable".into())))
}

/// Bytes of records, with what their batch adds to them.
fn with_overhead(bytes: usize) -> usize {
    bytes + bytes / RESERVED_OVERHEAD_PART + BATCH_OVERHEAD_BYTES
}

impl Store for LocalStore {
    fn open(&self, session: &SessionId) -> StoreFuture<Opened> {
        Box::pin(Self::open_session(Arc::clone(&self.shared), session.clone()))
    }

    fn release(&self, log: LogId, term: Term) {
        let forgotten = self.shared.state().release(log, term);
        drop(forgotten);
    }

    fn reserve(&self, log: LogId, bytes: usize) -> StoreFuture<Reservation> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            shared.health.check()?;
            let bytes = with_overhead(bytes);
            if let Some(reservation) = shared.quota.try_reserve(log, bytes) {
                return Ok(reservation);
            }
            shared.settle_soon();
            tokio::select! {
                trouble = shared.health.troubled() => Err(trouble),
                reservation = shared.quota.reserve(log, bytes) => reservation,
            }
        })
    }

    fn try_reserve(&self, log: LogId, bytes: usize) -> Option<Reservation> {
        self.shared.health.check().ok()?;
        self.shared.quota.try_reserve(log, with_overhead(bytes))
    }

    fn append(&self, log: LogId, term: Term, version: Version, batch: Batch) -> StoreFuture<Version> {
        let shared = Arc::clone(&self.shared);
        let others = lifecycle::others(&shared, log, batch.origin.as_ref(), &batch.erase);
        if !others.is_empty() {
            return Box::pin(async move {
                Self::make_resident(&shared, others).await?;
                let queued = Self::queue_append(&shared, log, term, version, batch)?;
                Self::appended(shared, log, queued).await
            });
        }
        match Self::queue_append(&shared, log, term, version, batch) {
            Ok(queued) => Box::pin(Self::appended(shared, log, queued)),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }

    fn check_erase(&self, log: LogId, ranges: Vec<Range<u64>>) -> StoreFuture<()> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let others = lifecycle::others(&shared, log, None, &ranges);
            Self::make_resident(&shared, others).await?;
            let state = shared.state();
            let found = state.logs.get(&log).ok_or(StoreError::Fenced)?;
            let end = found.next.end;
            let kept: Vec<_> = ranges.iter().map(|range| range.start..range.end.min(end)).collect();
            lifecycle::erase(&state, log, found, &kept, end).map(drop)
        })
    }

    fn read(&self, log: LogId, from: u64, limit: ReadLimit) -> StoreFuture<Chunk> {
        Box::pin(reader::read(Arc::clone(&self.shared), log, from, limit))
    }

    fn read_framed(&self, log: LogId, from: u64, limit: ReadLimit) -> StoreFuture<Framed> {
        Box::pin(delivered::read_framed(Arc::clone(&self.shared), log, from, limit))
    }

    fn rows(&self, log: LogId, keys: Vec<Bytes>) -> StoreFuture<Vec<Option<Bytes>>> {
        Box::pin(reader::rows(Arc::clone(&self.shared), log, keys))
    }

    fn put_snapshot(&self, log: LogId, term: Term, snapshot: Snapshot) -> StoreFuture<()> {
        match Self::queue_snapshot(&self.shared, log, term, snapshot) {
            Ok(outcome) => Box::pin(durable(outcome)),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }

    fn delete(&self, log: LogId, term: Term) -> StoreFuture<()> {
        match Self::queue_delete(&self.shared, log, term) {
            Ok(outcome) => Box::pin(durable(outcome)),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }

    fn trim(&self, log: LogId, term: Term, start: u64, freed_bytes: u64) -> StoreFuture<()> {
        Box::pin(Self::trim_log(Arc::clone(&self.shared), log, term, start, freed_bytes))
    }

    fn rename(&self, log: LogId, term: Term, to: SessionId) -> StoreFuture<()> {
        Box::pin(Self::rename_session(Arc::clone(&self.shared), log, term, to))
    }

    fn scan_rows(
        &self,
        log: LogId,
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    ) -> StoreFuture<Vec<(Bytes, Bytes)>> {
        Box::pin(reader::scan_rows(Arc::clone(&self.shared), log, prefix, after, limit))
    }

    fn list(&self, query: ListQuery) -> StoreFuture<ListPage> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { reader::blocking(&shared, move |shared| listing::page(shared, &query)).await })
    }

    fn changes(&self, after: u64, limit: usize) -> StoreFuture<Changes> {
        Box::pin(feed::changes(Arc::clone(&self.shared), after, limit))
    }

    fn due(&self, until_ms: u64, after: Option<(u64, LogId)>, limit: usize) -> StoreFuture<Vec<Due>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            reader::blocking(&shared, move |shared| feed::due(shared, until_ms, after, limit)).await
        })
    }

    fn get(&self, key: Bytes) -> StoreFuture<Option<Bytes>> {
        Box::pin(keyed::get(Arc::clone(&self.shared), key))
    }

    fn scan(&self, prefix: Bytes, after: Option<Bytes>, limit: usize) -> StoreFuture<Vec<(Bytes, Bytes)>> {
        Box::pin(keyed::scan(Arc::clone(&self.shared), prefix, after, limit))
    }

    fn cas(&self, writes: Vec<Cas>) -> StoreFuture<()> {
        Box::pin(keyed::cas(Arc::clone(&self.shared), writes))
    }

    fn back_up(&self, folder: PathBuf) -> StoreFuture<BackedUp> {
        Box::pin(backup::back_up(Arc::clone(&self.shared), folder))
    }

    fn commits(&self) -> watch::Receiver<u64> {
        self.shared.durable.subscribe()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            batch_bytes_max: BATCH_BYTES_MAX,
            batch_records_max: BATCH_RECORDS_MAX,
            erased_within_ms: ERASE_WITHIN.as_millis() as u64,
        }
    }

    fn health(&self) -> Health {
        self.shared.health.now()
    }

    fn shutdown(&self) -> StoreFuture<()> {
        Self::stop(&self.shared, Stop::Drain);
        let shared = Arc::clone(&self.shared);
        let threads = Arc::clone(&self.threads);
        Box::pin(async move {
            let threads = threads.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(threads) = threads else { return Ok(()) };
            let settled = tokio::task::spawn_blocking(move || threads.join()).await.unwrap_or(false);
            shared.health.trouble(Part::Stopped, "the store has stopped".into());
            if settled {
                Ok(())
            } else {
                let what = "the journal could not be settled; it is at the next start";
                Err(StoreError::Unavailable(what.into()))
            }
        })
    }
}

impl Drop for LocalStore {
    fn drop(&mut self) {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(threads) = threads {
            Self::stop(&self.shared, Stop::Abandon);
            threads.join();
            self.shared.health.trouble(Part::Stopped, "the store has stopped".into());
        }
    }
}

// A deletion costs what it takes in the journal.
const _: () = assert!(BATCH_BYTES_MAX + BATCH_RECORDS_MAX * RECORD_OVERHEAD_BYTES < (16 << 20) - BLOCK_BYTES);
