//! What is appended to a log.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use longwire_proto::position::Lineage;

use crate::store::{BatchId, LogId, StoreError};

/// Records to be made durable together.
#[derive(Debug)]
pub struct Batch {
    /// Recognises the batch when its answer was lost.
    pub id: BatchId,
    /// The offset of the first record. It must be the end of the log; with an origin it is the end of what is taken over.
    pub base: u64,
    /// Encoded records, in order. May be empty when only the projection changes.
    pub records: Vec<Bytes>,
    /// When the last record was made, in Unix milliseconds, for the list of sessions.
    pub last_time_ms: u64,
    /// What the session is found by, when that changes.
    pub projection: Option<Projection>,
    /// Where the log comes from, with the batch that creates it; none for a log that begins at offset 0.
    pub origin: Option<Origin>,
    /// Earlier offsets whose records are erased with this batch: from then on every read gives what
    /// `longwire_proto::record::erased` makes of them, and their bytes leave the disk in the background.
    pub erase: Vec<Range<u64>>,
    /// The quota that the batch was admitted under; released when the batch is settled.
    pub reservation: Reservation,
}

impl Batch {
    /// The same batch, to be appended again when its answer was lost. The quota was released with the first attempt.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            id: self.id,
            base: self.base,
            records: self.records.clone(),
            last_time_ms: self.last_time_ms,
            projection: self.projection.clone(),
            origin: self.origin.clone(),
            erase: self.erase.clone(),
            reservation: Reservation::none(),
        }
    }
}

/// A session's row in the list of sessions, and what it can be found by: derived from its records, and kept so that a
/// session need not be loaded to be found. The store does not look into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Projection {
    /// The row.
    pub row: Bytes,
    /// Terms that the list can be asked for, such as one label with its value; sorted, without repetitions, at most
    /// [`TERMS_MAX`] of at most [`TERM_BYTES_MAX`] bytes.
    pub terms: Vec<Bytes>,
    /// When the session's owner wants to be woken, in Unix milliseconds.
    pub deadline_ms: Option<u64>,
}

impl Projection {
    /// Checks its terms against what engines take.
    ///
    /// # Errors
    /// [`StoreError::BatchTooLarge`] when there are too many, one is too long, or they are not sorted or repeat.
    pub fn check(&self) -> Result<(), StoreError> {
        let refuse = |what, found, limit| Err(StoreError::BatchTooLarge { what, found, limit });
        if self.terms.len() > TERMS_MAX {
            return refuse("terms", self.terms.len(), TERMS_MAX);
        }
        let longest = self.terms.iter().map(Bytes::len).max().unwrap_or(0);
        if longest > TERM_BYTES_MAX {
            return refuse("bytes in a term", longest, TERM_BYTES_MAX);
        }
        let misplaced = self.terms.windows(2).filter(|pair| pair[0] >= pair[1]).count();
        if misplaced > 0 {
            return refuse("terms out of order", misplaced, 0);
        }
        Ok(())
    }

    /// Bytes of the row and the terms.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.row.len() + self.terms.iter().map(Bytes::len).sum::<usize>()
    }
}

/// Terms of one session: its labels, its parent, its status and some to spare.
pub const TERMS_MAX: usize = 80;
/// Bytes of one term: the longest label with its value, or a session id.
pub const TERM_BYTES_MAX: usize = 5 << 10;

/// Where a log comes from that does not begin with its own offset 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its epochs. The last one is at least the epoch that [`crate::store::Store::open`] answered.
    pub lineage: Lineage,
    /// Its first offset.
    pub start: u64,
    /// The log whose records from `start` up to the batch's base it shares, without copying them; none when `start` is
    /// the base.
    pub shares: Option<LogId>,
}

/// Bytes that a new log takes beside its first batch until both are settled: what is known of it in memory, once for serving it and once
/// more while it is being settled. Who reserves for the first batch reserves these too.
pub const NEW_LOG_BYTES: usize = 2048;

/// Unsettled bytes that a batch may occupy. Gives them back when dropped.
pub struct Reservation(Vec<Box<dyn Reserved>>, usize);

/// What gives reserved bytes back when it is dropped.
pub trait Reserved: Send + Sync {}

impl Reservation {
    /// A reservation of `bytes` that `reserved` gives back when dropped.
    #[must_use]
    pub fn new(reserved: Box<dyn Reserved>, bytes: usize) -> Self {
        Self(vec![reserved], bytes)
    }

    /// A reservation of nothing.
    #[must_use]
    pub fn none() -> Self {
        Self(Vec::new(), 0)
    }

    /// How many bytes it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.1
    }

    /// Takes another reservation in.
    pub fn absorb(&mut self, other: Self) {
        if self.0.is_empty() {
            // With its memory: most batches hold one alone.
            self.0 = other.0;
        } else {
            self.0.extend(other.0);
        }
        self.1 += other.1;
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reservation({} bytes)", self.1)
    }
}
