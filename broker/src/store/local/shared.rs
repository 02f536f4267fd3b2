//! What the callers and the two threads of the engine share.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::store::StoreError;
use crate::store::local::database::Database;
use crate::store::local::disk::Disk;
use crate::store::local::folder::DataFolder;
use crate::store::local::health::HealthBoard;
use crate::store::local::lookups::Lookups;
use crate::store::local::quota::{Quota, QuotaLimits};
use crate::store::local::segment::{SEGMENT_BYTES, SegmentPool};
use crate::store::local::state::{RESIDENT_LOGS_MAX, RESTING_LOGS_MAX, State};

/// Bytes of redb's cache, unless configured: enough for the inner pages of a large database.
pub const CACHE_BYTES: usize = 24 << 20;
/// Unsettled bytes at which settling begins: a quarter of the quota, so that writing goes on meanwhile.
pub const SETTLE_BYTES: usize = 16 << 20;
/// Full segments at which settling begins: small groups fill segments faster than the quota.
pub const SETTLE_SEGMENTS: usize = 3;
/// How long a durable record waits to be settled, at most, while the database keeps up.
pub const SETTLE_AGE: Duration = Duration::from_secs(1);
/// Reads of the database at a time: more would only queue at the disk, and each takes a thread.
pub const READERS_MAX: usize = 16;
/// Backups at a time: each keeps the database from reusing pages for as long as it takes.
pub const BACKUPS_MAX: usize = 1;
/// How long after its opening the store makes spare segments and the ballast: who opened it may wait for a first publish,
/// which should not wait for the disk to take tens of megabytes.
pub const SPARES_AFTER: Duration = Duration::from_millis(100);
/// The file that is given up when the disk is full, so that settling has room: what one settling usually writes.
pub const BALLAST_BYTES: u64 = 8 << 20;
/// The first wait after a failed write, doubled up to [`BACKOFF_MAX`].
pub const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// The longest wait between attempts: a disk that has room again is noticed within this time.
pub const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// How long erased and deleted content may stay in the files of the folder, while the broker runs. A wipe overwrites all
/// free room of the database, so it is done for many erasures at once.
pub const ERASE_WITHIN: Duration = Duration::from_secs(3600);

/// What the engine is tuned by. Tests make everything small.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// See [`SEGMENT_BYTES`].
    pub segment_bytes: u64,
    /// See [`SETTLE_BYTES`].
    pub settle_bytes: usize,
    /// See [`SETTLE_AGE`].
    pub settle_age: Duration,
    /// See [`SPARES_AFTER`].
    pub spares_after: Duration,
    /// See [`BALLAST_BYTES`].
    pub ballast_bytes: u64,
    /// See [`RESIDENT_LOGS_MAX`].
    pub logs_max: usize,
    /// See [`RESTING_LOGS_MAX`].
    pub resting_max: usize,
    /// See [`CACHE_BYTES`].
    pub cache_bytes: usize,
    /// See [`ERASE_WITHIN`].
    pub erase_within: Duration,
    /// The quota.
    pub quota: QuotaLimits,
    /// Reads of the database stay on the thread of who reads, whom they block, and an opening does one thing at a time: for
    /// the simulator, which must, and would spend a third of its time on changing threads.
    pub reads_block: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
            settle_bytes: SETTLE_BYTES,
            settle_age: SETTLE_AGE,
            spares_after: SPARES_AFTER,
            ballast_bytes: BALLAST_BYTES,
            logs_max: RESIDENT_LOGS_MAX,
            resting_max: RESTING_LOGS_MAX,
            cache_bytes: CACHE_BYTES,
            erase_within: ERASE_WITHIN,
            quota: QuotaLimits::default(),
            reads_block: false,
        }
    }
}

/// See the top of this file.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    /// Something is queued, or the store stops: for the writer.
    pub work: Condvar,
    /// Something is to be settled, or the store stops: for the settler.
    pub settle: Condvar,
    /// The last durable commit, for who waits for one in flight.
    pub durable: watch::Sender<u64>,
    /// The last settling.
    pub settled: watch::Sender<u64>,
    /// The commit up to which what was erased or deleted is in no file any more.
    pub wiped: watch::Sender<u64>,
    /// Unsettled bytes.
    pub quota: Quota,
    /// Troubles.
    pub health: HealthBoard,
    /// The database.
    pub database: Database,
    /// The journal's segments.
    pub pool: SegmentPool,
    /// Reads of the database at a time.
    pub readers: Arc<Semaphore>,
    /// Names that are looked up in the database.
    pub lookups: Lookups,
    /// Backups at a time.
    pub backups: Arc<Semaphore>,
    /// The folder's files.
    pub disk: Arc<dyn Disk>,
    /// The folder's random number.
    pub salt: u64,
    /// See [`Tuning`].
    pub tuning: Tuning,
    // Holds the lock of the folder; absent over a simulated disk. Last, so that everything else is closed before.
    _folder: Option<DataFolder>,
}

impl Shared {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        disk: Arc<dyn Disk>,
        folder: Option<DataFolder>,
        salt: u64,
        tuning: Tuning,
        database: Database,
        pool: SegmentPool,
        state: State,
    ) -> Self {
        Self {
            durable: watch::Sender::new(state.durable_commit()),
            settled: watch::Sender::new(state.settled.settle),
            wiped: watch::Sender::new(state.settled.wiped_commit),
            state: Mutex::new(state),
            work: Condvar::new(),
            settle: Condvar::new(),
            quota: Quota::new(tuning.quota),
            health: HealthBoard::default(),
            database,
            pool,
            readers: Arc::new(Semaphore::new(READERS_MAX)),
            lookups: Lookups::default(),
            backups: Arc::new(Semaphore::new(BACKUPS_MAX)),
            disk,
            salt,
            tuning,
            _folder: folder,
        }
    }

    /// The state. Held for moments, never across a wait.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for settling before it is time.
    pub fn settle_soon(&self) {
        self.state().settle_now = true;
        self.settle.notify_one();
    }

    /// Waits until `look` finds what it looks for, looking again after every commit.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the store is in trouble, since nothing may become durable for long.
    pub async fn when<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> Result<T, StoreError> {
        // Mostly there is nothing to wait for.
        if let Some(found) = look(&mut self.state()) {
            return Ok(found);
        }
        let mut commits = self.durable.subscribe();
        loop {
            commits.mark_unchanged();
            let found = look(&mut self.state());
            if let Some(found) = found {
                return Ok(found);
            }
            tokio::select! {
                biased;
                _ = commits.changed() => {}
                trouble = self.health.troubled() => return Err(trouble),
            }
        }
    }
}
