//! The store: where the logs of sessions are kept. This file is the seam; an engine stands behind it.
//!
//! What an engine promises to everyone who uses it:
//! - [`Store::append`] resolves with a version only when every record of the batch is durable, and batches of a log are
//!   durable in the order in which they were appended: nothing later is durable first.
//! - [`Store::read`] returns durable records only.
//! - A log that was opened again fences every earlier term: its appends fail with [`StoreError::Fenced`].
//! - A failed append other than `Fenced`, `VersionConflict`, `Deleted` and `BatchTooLarge` means *unknown*: the batch
//!   may be durable, or become so until the log is opened again.
//! - A batch is recognised by its id: while it is the last one of its log, appending it again in the same opening, after the
//!   version that it was appended after, answers the version that it led to. So an owner that does not know what became of
//!   a batch finds out by appending it again ([`reconcile`]).
//! - One batch of a log is in flight: an engine may refuse another one of the same opening with `VersionConflict` until the
//!   first is answered. Tried again, a batch waits for itself.
//! - [`StoreError::Read`], and `Unknown` for a write other than an append, come from engines that are somewhere else: the
//!   same call can succeed at once. What an `Unknown` write was to do is done as a whole or not at all.

pub mod ancestry;
pub mod backed_up;
pub mod batch;
pub mod change;
#[cfg(test)]
pub(crate) mod conformance;
pub mod framed;
#[cfg(any(test, feature = "hostile"))]
pub mod hostile;
pub mod list;
pub mod local;
pub mod memory;
pub mod reconcile;
pub mod table;

use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::pin::Pin;

use bytes::Bytes;
use longwire_proto::position::Lineage;
use longwire_proto::session_id::SessionId;
use tokio::sync::watch;

pub use crate::store::backed_up::BackedUp;
pub use crate::store::batch::{Batch, Origin, Projection, Reservation, Reserved};
pub use crate::store::change::{Change, Changes, Due};
pub use crate::store::framed::Framed;
pub use crate::store::list::{ListPage, ListQuery, Listed};
pub use crate::store::table::Cas;

/// A boxed future of the store.
pub type StoreFuture<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'static>>;

/// The identity of a log. Never reused, unlike the name of the session that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub u64);

/// Which opening of a log: a later one fences every earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// The state of a log after a batch. Opaque: only the engine that made it knows its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub u64);

/// Names a batch, so that an append whose answer was lost can be recognised when it is tried again. Unique in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchId(pub u128);

/// What [`Store::open`] found.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The identity of the log. For a name that has no log yet it is the one that the first append will create.
    pub log: LogId,
    /// False when the session does not exist: the first append creates it.
    pub exists: bool,
    /// The term of this opening.
    pub term: Term,
    /// The version to append after.
    pub version: Version,
    /// The epochs of the log.
    pub lineage: Lineage,
    /// First retained offset.
    pub start: u64,
    /// The next offset to be assigned.
    pub end: u64,
    /// The `start` that the log was created with. A log whose start is later was trimmed and has a snapshot.
    pub born: u64,
    /// Where the log's own records begin: what is below is shared with the log that it was forked off.
    pub own_from: u64,
    /// Bytes of the log's own records from `start` on; those that it shares are not counted. What was erased is counted
    /// until it is rewritten in the background; when it is trimmed before that, by its caller's figures alone.
    pub bytes: u64,
    /// The offset through which the last snapshot's rows reflect the log; `None` when there is no snapshot.
    pub snapshot_through: Option<u64>,
}

/// State of a session as rows, reflecting the log before `through`.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The rows reflect every record below this offset.
    pub through: u64,
    /// Rows to write (`Some`) or remove (`None`), by key; rows that are not named stay as they are.
    pub rows: Vec<(Bytes, Option<Bytes>)>,
}

/// Bounds of one [`Store::read`].
#[derive(Clone, Copy, Debug)]
pub struct ReadLimit {
    /// At most this many records.
    pub records: usize,
    /// At most this many bytes of records, except that one record is always returned.
    pub bytes: usize,
}

/// Consecutive durable records of a log.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    /// The offset of the first record: the one asked for, or the log's start when that is later.
    pub from: u64,
    /// The records, each as it was appended. Empty at the end of the log.
    pub records: Vec<Bytes>,
}

impl Chunk {
    /// The offset after the last record.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.from + self.records.len() as u64
    }
}

/// What an engine can take.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    /// Bytes of records in one batch, at most.
    pub batch_bytes_max: usize,
    /// Records in one batch, at most.
    pub batch_records_max: usize,
    /// Bytes of erased records are on no disk any more after so many milliseconds.
    pub erased_within_ms: u64,
}

/// Whether the store takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Reads and writes are served.
    Ready,
    /// Reads are served; writes are refused until the cause is gone. The text is for humans.
    Degraded(String),
}

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The log was opened again since: this opening may not write any more.
    #[error("the log was opened by another owner")]
    Fenced,
    /// The version, or the base offset, is not the one of the log.
    #[error("the log has changed since it was read")]
    VersionConflict,
    /// The session was deleted.
    #[error("the session was deleted")]
    Deleted,
    /// There is no such session.
    #[error("there is no such session")]
    NotFound,
    /// There is a session of this name already.
    #[error("there is a session of this name already")]
    AlreadyExists,
    /// The log has no such range: it is beyond the end, below the start, or not covered by a snapshot.
    #[error("the log does not have this range: {0}")]
    OutOfRange(String),
    /// The engine cannot do this.
    #[error("this store cannot do this: {0}")]
    Unsupported(&'static str),
    /// The batch is above [`Capabilities`].
    #[error("the batch has {found} {what}; at most {limit} are taken")]
    BatchTooLarge {
        /// `bytes`, `records`, or what else there is too much of.
        what: &'static str,
        /// How many it has.
        found: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// Too much is waiting to be settled; try again later.
    #[error("{scope} has {limit} bytes waiting to be settled; try again later")]
    Overloaded {
        /// `this session` or `the store`.
        scope: &'static str,
        /// The quota in bytes.
        limit: usize,
    },
    /// The store takes no writes for now, such as when the disk is full.
    #[error("the store takes no writes for now: {0}")]
    Unavailable(String),
    /// The outcome of a write is not known.
    #[error("the outcome of the write is not known: {0}")]
    Unknown(String),
    /// Stored bytes fail their checksum. They are never served.
    #[error("log {} is damaged at offset {offset}: {what}", log.0)]
    Corrupt {
        /// The damaged log.
        log: LogId,
        /// The first damaged offset.
        offset: u64,
        /// What does not fit.
        what: String,
    },
    /// Reading failed.
    #[error("reading the store failed: {0}")]
    Read(String),
}

/// The seam between sessions and the engine that keeps them. Every method may be called from any task; a returned future
/// does not borrow the store, and dropping it does not cancel a write.
pub trait Store: Send + Sync + 'static {
    /// Opens the log of a session for writing, fencing every earlier opening. A session that does not exist is not
    /// created before the first append.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] or [`StoreError::Read`].
    fn open(&self, session: &SessionId) -> StoreFuture<Opened>;

    /// Who opened a log uses it no more: it need not be kept ready for this opening. Only a hint, which takes nothing away from whoever
    /// opens it later.
    fn release(&self, _log: LogId, _term: Term) {}

    /// Reserves room for `bytes` of records of a log before a command is decided. Waits for settling to make room, for
    /// at most a named time.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] when there is no room in time, [`StoreError::Unavailable`] at once while the store
    /// takes no writes.
    fn reserve(&self, log: LogId, bytes: usize) -> StoreFuture<Reservation>;

    /// [`reserve`](Self::reserve), when there is room now and nothing speaks against it. An engine that cannot tell at once has
    /// none.
    fn try_reserve(&self, _log: LogId, _bytes: usize) -> Option<Reservation> {
        None
    }

    /// Makes a batch durable after `version`, and resolves when it is. A batch that creates a log may say where that
    /// comes from ([`Origin`]); one that depends on other logs is queued when the future is first polled.
    ///
    /// # Errors
    /// See the promises at the top of this module. [`StoreError::OutOfRange`] when an origin names records that its log
    /// does not have, durable, or when the batch erases records that are not below its base or belong to another log that
    /// exists; [`StoreError::VersionConflict`] when its lineage does not rise above the epoch that
    /// [`Store::open`] answered.
    fn append(&self, log: LogId, term: Term, version: Version, batch: Batch) -> StoreFuture<Version>;

    /// Reads durable records from `from` on, or from the log's start when that is later. May return fewer than the limit
    /// allows; none only at the end of the log. A record that a durable batch has erased is what
    /// `longwire_proto::record::erased` makes of it, for whoever shows it, wherever it is.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] names the first damaged offset when not even one record before it can be returned.
    fn read(&self, log: LogId, from: u64, limit: ReadLimit) -> StoreFuture<Chunk>;

    /// The same as a delivery has it, for who looks at no record.
    ///
    /// # Errors
    /// As [`Store::read`].
    fn read_framed(&self, log: LogId, from: u64, limit: ReadLimit) -> StoreFuture<Framed> {
        let read = self.read(log, from, limit);
        Box::pin(async move { Ok(read.await?.into()) })
    }

    /// Reads rows of the log's snapshot, in the order of `keys`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] or [`StoreError::Read`].
    fn rows(&self, log: LogId, keys: Vec<Bytes>) -> StoreFuture<Vec<Option<Bytes>>>;

    /// Queues a snapshot whose `through` is at most the durable end. Resolves when it is durable. A later snapshot of
    /// the log contains an earlier one. Its rows are readable as soon as this is called.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] or [`StoreError::Deleted`]. [`StoreError::Unavailable`] when nothing of it was taken;
    /// [`StoreError::Unknown`] when it may be durable: whoever puts the next one names its rows again.
    fn put_snapshot(&self, log: LogId, term: Term, snapshot: Snapshot) -> StoreFuture<()>;

    /// Deletes a session durably. A session created later under its name gets a new log whose epoch is above every
    /// epoch of this one.
    ///
    /// # Errors
    /// [`StoreError::Fenced`], [`StoreError::NotFound`] or [`StoreError::Unknown`].
    fn delete(&self, log: LogId, term: Term) -> StoreFuture<()>;

    /// Whether these offsets of a log may be erased with an append.
    ///
    /// # Errors
    /// [`StoreError::OutOfRange`] when some are shared with a log that exists: they are erased there.
    fn check_erase(&self, log: LogId, ranges: Vec<Range<u64>>) -> StoreFuture<()>;

    /// Durably drops the records below `start`, of which `freed_bytes` bytes are the log's own. Readers no longer see them
    /// when this resolves; their bytes leave the disk in the background. A `start` at or below the log's is no error and
    /// does nothing. A snapshot that was put before and covers `start` is durable first, also one of an earlier opening.
    ///
    /// # Errors
    /// [`StoreError::OutOfRange`] when `start` is beyond the durable end or no snapshot covers it, and those of
    /// [`Store::delete`].
    fn trim(&self, log: LogId, term: Term, start: u64, freed_bytes: u64) -> StoreFuture<()>;

    /// Durably gives the log another name, which must be free. The old name is as if it had never had a log. An id that
    /// begins with `~` is not listed and not in the feed. Who has opened the vacant name is fenced.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`]; [`StoreError::VersionConflict`] when a session created under the name would begin
    /// above the log's epoch, because one of it was deleted; and those of [`Store::delete`]. After an `Unknown` one,
    /// `AlreadyExists` can mean the log itself.
    fn rename(&self, log: LogId, term: Term, to: SessionId) -> StoreFuture<()>;

    /// Rows of the log's snapshot whose keys begin with `prefix` and sort after `after`, in order, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] or [`StoreError::Read`].
    fn scan_rows(
        &self,
        log: LogId,
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    ) -> StoreFuture<Vec<(Bytes, Bytes)>>;

    /// Sessions, in order of their ids. What was acknowledged before the call is in the answer.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] or [`StoreError::Read`].
    fn list(&self, query: ListQuery) -> StoreFuture<ListPage>;

    /// Logs that changed after a commit: at most `limit` of them, and then the others of the last one's commit, so that
    /// nothing is missed by going on after it. One call looks at a bounded number; there is more for as long as
    /// [`Changes::through`] is before the last commit. Who starts at 0 and goes on from there sees the latest end of every
    /// log, whatever is settled meanwhile. A log may be told twice, at different commits, when it changes meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] or [`StoreError::Read`].
    fn changes(&self, after: u64, limit: usize) -> StoreFuture<Changes>;

    /// The last durable commit. Only a hint that [`Store::changes`] has more: its change may be told late, or to nobody.
    fn commits(&self) -> watch::Receiver<u64>;

    /// Logs whose deadline is at or before `until_ms`, in order of deadline and log, after the given place, at most
    /// `limit`. A deadline that changed within the last second or so may be told as it was, or not yet.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] or [`StoreError::Read`].
    fn due(&self, until_ms: u64, after: Option<(u64, LogId)>, limit: usize) -> StoreFuture<Vec<Due>>;

    /// A value of the table.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] or [`StoreError::Read`].
    fn get(&self, key: Bytes) -> StoreFuture<Option<Bytes>>;

    /// Values of the table whose keys begin with `prefix` and sort after `after`, in order, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] or [`StoreError::Read`].
    fn scan(&self, prefix: Bytes, after: Option<Bytes>, limit: usize) -> StoreFuture<Vec<(Bytes, Bytes)>>;

    /// Writes values of the table durably, all of them or none.
    ///
    /// # Errors
    /// [`StoreError::VersionConflict`] when a value is not the expected one: nothing was written. [`StoreError::OutOfRange`]
    /// when a key or a value is too long or a key is there twice, [`StoreError::BatchTooLarge`] when there are more than
    /// [`table::WRITES_MAX`]; [`StoreError::Unknown`], [`StoreError::Unavailable`] or [`StoreError::Overloaded`].
    fn cas(&self, writes: Vec<Cas>) -> StoreFuture<()>;

    /// Writes everything that is durable now into a new folder, which then is a data folder of its own. Serving goes on.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] when there is such a folder, [`StoreError::Unsupported`], [`StoreError::Read`] when it
    /// cannot be written.
    fn back_up(&self, _folder: PathBuf) -> StoreFuture<BackedUp> {
        unsupported("backups")
    }

    /// What the engine can take.
    fn capabilities(&self) -> Capabilities;

    /// Whether the store takes writes.
    fn health(&self) -> Health;

    /// Settles everything and stops. Appends after this fail with [`StoreError::Unavailable`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when what is durable in the journal could not be settled; it is settled at the next
    /// start.
    fn shutdown(&self) -> StoreFuture<()>;
}

fn unsupported<T: Send + 'static>(what: &'static str) -> StoreFuture<T> {
    Box::pin(std::future::ready(Err(StoreError::Unsupported(what))))
}
