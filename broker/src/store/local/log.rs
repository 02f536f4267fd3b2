//! A log in memory: what is queued, what is durable, and what is durable but not settled.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, Range};
use std::sync::Arc;

use bytes::Bytes;
use longwire_proto::position::Lineage;
use longwire_proto::session_id::SessionId;
use tokio::sync::oneshot;

use crate::store::ancestry::Ancestry;
use crate::store::local::erasing::{Erasing, without};
use crate::store::local::projected::Projected;
use crate::store::local::record::Records;
use crate::store::local::table::logs::LogRow;
use crate::store::{BatchId, Opened, ReadLimit, Reservation, Snapshot, StoreError, Term, Version};
use crate::store::{Chunk, LogId};

/// What a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// An id that the first append will create.
    Reserved,
    /// A log.
    Live,
    /// No more.
    Deleted,
}

/// Where a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What it is.
    pub stage: Stage,
    /// Counts batches.
    pub version: u64,
    /// The next offset.
    pub end: u64,
    /// The last batch.
    pub batch: Option<BatchId>,
    /// When its last record was made.
    pub last_time_ms: u64,
}

/// A durable batch that is not settled.
#[derive(Debug)]
pub struct Unsettled {
    /// The offset of its first record.
    pub base: u64,
    /// Its records.
    pub records: Records,
    /// What it costs of the quota.
    pub bytes: usize,
    /// Given back when it is dropped.
    pub reservation: Reservation,
}

impl Unsettled {
    fn end(&self) -> u64 {
        self.base + self.records.len() as u64
    }
}

/// Rows by key, to write or to remove.
pub type Rows = BTreeMap<Bytes, Option<Bytes>>;
/// Tells a caller that its snapshot is durable.
pub type SnapshotReply = oneshot::Sender<Result<(), StoreError>>;

/// A snapshot that is not settled.
#[derive(Debug)]
pub struct PendingSnapshot {
    /// What the rows reflect.
    pub through: u64,
    /// The rows.
    pub rows: Rows,
    /// Who waits for it.
    pub replies: Vec<SnapshotReply>,
    /// Given back when it is settled.
    pub reservations: Vec<Reservation>,
}

/// What the database has of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Its name.
    pub name: SessionId,
    /// Its first offset.
    pub start: u64,
    /// What the rows there reflect.
    pub snapshot_through: Option<u64>,
}

impl Settled {
    /// What the database has once it has this row.
    #[must_use]
    pub fn of(row: &LogRow) -> Self {
        Self { name: row.name.clone(), start: row.start, snapshot_through: row.snapshot_through }
    }
}

/// A log in memory.
#[derive(Debug)]
pub struct Log {
    /// The session.
    pub name: SessionId,
    /// Its epochs.
    pub lineage: Lineage,
    /// The last opening.
    pub term: Term,
    /// First retained offset.
    pub start: u64,
    /// That after everything that is queued.
    pub next_start: u64,
    /// The name that it is about to get.
    pub next_name: Option<SessionId>,
    /// The `start` that it was created with.
    pub born: u64,
    /// Bytes of its own records from `start` on.
    pub bytes: u64,
    /// Whose records it shows below its own.
    pub ancestry: Ancestry,
    /// Others show its records below this: they outlive it.
    pub shown_until: u64,
    /// After everything that is queued.
    pub next: Head,
    /// After everything that is durable.
    pub durable: Head,
    /// What the session is durably found by.
    pub projection: Projected,
    /// The last durable commit that changed it.
    pub commit: u64,
    /// What the database has records below.
    pub settled_end: u64,
    /// What the database has of it, beside records; none when it has no row.
    pub settled: Option<Settled>,
    /// Durable batches from `settled_end` on.
    pub unsettled: VecDeque<Unsettled>,
    /// What the rows reflect, those in memory included.
    pub snapshot_through: Option<u64>,
    /// Waits for the next settling. Boxed: most logs in memory have none.
    pub pending: Option<Box<PendingSnapshot>>,
    /// Is being settled.
    pub settling: Option<Arc<Rows>>,
    /// Nobody has it open, and nobody needs it to be in memory.
    pub resting: bool,
}

impl Log {
    /// An id for a session that does not exist yet.
    #[must_use]
    pub fn reserved(name: SessionId, epoch: u64, term: Term) -> Self {
        let head = Head { stage: Stage::Reserved, version: 0, end: 0, batch: None, last_time_ms: 0 };
        Self {
            name,
            lineage: Lineage::beginning(epoch),
            term,
            start: 0,
            next_start: 0,
            next_name: None,
            born: 0,
            bytes: 0,
            ancestry: Ancestry::default(),
            shown_until: 0,
            next: head,
            durable: head,
            projection: Projected::default(),
            commit: 0,
            settled_end: 0,
            settled: None,
            unsettled: VecDeque::new(),
            snapshot_through: None,
            pending: None,
            settling: None,
            resting: false,
        }
    }

    /// A log as the database has it.
    #[must_use]
    pub fn settled(row: LogRow, term: Term) -> Self {
        let LogRow { version, end, batch, last_time_ms, .. } = row;
        let head = Head { stage: Stage::Live, version, end, batch, last_time_ms };
        Self {
            settled: Some(Settled::of(&row)),
            name: row.name,
            lineage: row.lineage,
            term,
            start: row.start,
            next_start: row.start,
            next_name: None,
            born: row.born,
            bytes: row.bytes,
            ancestry: row.ancestry,
            shown_until: 0,
            next: head,
            durable: head,
            projection: row.projection,
            commit: row.commit,
            settled_end: row.end,
            unsettled: VecDeque::new(),
            snapshot_through: row.snapshot_through,
            pending: None,
            settling: None,
            resting: false,
        }
    }

    /// The row that the database should have.
    #[must_use]
    pub fn row(&self) -> LogRow {
        LogRow {
            name: self.name.clone(),
            lineage: self.lineage.clone(),
            start: self.start,
            end: self.durable.end,
            version: self.durable.version,
            batch: self.durable.batch,
            last_time_ms: self.durable.last_time_ms,
            snapshot_through: self.snapshot_through,
            born: self.born,
            bytes: self.bytes,
            ancestry: self.ancestry.from_start(self.start),
            projection: self.projection.clone(),
            commit: self.commit,
        }
    }

    /// What an opening finds, when nothing is in flight.
    #[must_use]
    pub fn opened(&self, log: LogId) -> Opened {
        Opened {
            log,
            exists: self.durable.stage == Stage::Live,
            term: self.term,
            version: Version(self.durable.version),
            lineage: self.lineage.clone(),
            start: self.start,
            end: self.durable.end,
            born: self.born,
            own_from: self.ancestry.end().unwrap_or(self.born),
            bytes: self.bytes,
            snapshot_through: self.snapshot_through,
        }
    }

    /// Whether something is queued that is not durable.
    #[must_use]
    pub fn in_flight(&self) -> bool {
        self.next != self.durable || self.next_start != self.start || self.next_name.is_some()
    }

    /// Whether an opening may write.
    ///
    /// # Errors
    /// [`StoreError::Deleted`] or [`StoreError::Fenced`].
    pub fn check_owner(&self, term: Term) -> Result<(), StoreError> {
        if self.next.stage == Stage::Deleted {
            Err(StoreError::Deleted)
        } else if self.term == term {
            Ok(())
        } else {
            Err(StoreError::Fenced)
        }
    }

    /// Its own durable records of `range`, as far as it has some, when memory has them; `None` when the database does. Its
    /// start, and whether it was deleted, are the caller's business: others may show them still.
    #[must_use]
    pub fn read(&self, range: Range<u64>, limit: ReadLimit) -> Option<Chunk> {
        let mut chunk = Chunk { from: range.start, records: Vec::new() };
        let until = range.end.min(self.durable.end);
        if range.start >= until {
            return Some(chunk);
        }
        if range.start < self.settled_end {
            return None;
        }
        let first = self.unsettled.partition_point(|batch| batch.end() <= range.start);
        let mut bytes = 0;
        for batch in self.unsettled.iter().skip(first) {
            let skip = range.start.saturating_sub(batch.base) as usize;
            for record in batch.records.iter().skip(skip) {
                bytes += record.bytes.len();
                let full = chunk.records.len() >= limit.records || bytes > limit.bytes;
                if (full && !chunk.records.is_empty()) || chunk.next() >= until {
                    return Some(chunk);
                }
                chunk.records.push(record.bytes.clone());
            }
        }
        Some(chunk)
    }

    /// Puts tombstones in the place of erased records that are not settled, before they are.
    pub fn forget_erased(&mut self, id: LogId, erasing: &Erasing) {
        for batch in &mut self.unsettled {
            let erased = erasing.within(id, &(batch.base..batch.end()));
            if !erased.is_empty() {
                let (records, freed) = without(&erased, id, batch.base, &batch.records);
                batch.records = records;
                self.bytes = self.bytes.saturating_sub(freed);
            }
        }
    }

    /// A row of the snapshots in memory; `None` when the database has the word.
    #[must_use]
    pub fn row_in_memory(&self, key: &Bytes) -> Option<Option<Bytes>> {
        let pending = self.pending.as_ref().and_then(|pending| pending.rows.get(key));
        pending.or_else(|| self.settling.as_ref().and_then(|rows| rows.get(key))).cloned()
    }

    /// Rows of the snapshots in memory whose keys begin with `prefix` and sort after `after`.
    #[must_use]
    pub fn rows_in_memory(&self, prefix: &Bytes, after: Option<&Bytes>) -> Rows {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.clone()),
            _ => Bound::Included(prefix.clone()),
        };
        let rows =
            self.settling.as_deref().into_iter().chain(self.pending.as_ref().map(|pending| &pending.rows));
        rows.flat_map(|rows| rows.range((from.clone(), Bound::Unbounded)))
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(key, row)| (key.clone(), row.clone()))
            .collect()
    }

    /// Merges a snapshot into the one that waits.
    pub fn put_snapshot(&mut self, snapshot: Snapshot, reply: SnapshotReply, reservation: Reservation) {
        let pending = self.pending.get_or_insert_with(|| {
            Box::new(PendingSnapshot {
                through: snapshot.through,
                rows: Rows::new(),
                replies: Vec::new(),
                reservations: Vec::new(),
            })
        });
        pending.replies.push(reply);
        // A late one is contained in the one that is there already.
        if self.snapshot_through.is_none_or(|through| through <= snapshot.through) {
            pending.through = snapshot.through;
            pending.rows.extend(snapshot.rows);
            pending.reservations.push(reservation);
            self.snapshot_through = Some(snapshot.through);
        }
    }

    /// Whether it can be forgotten: the database knows everything about it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.in_flight() && self.unsettled.is_empty() && self.pending.is_none() && self.settling.is_none()
    }
}
