//! Where the records of a log are: in the memory of the log that holds them, or in the database.

use std::ops::Range;

use crate::store::ancestry::Ancestry;
use crate::store::local::log::Stage;
use crate::store::local::state::State;
use crate::store::local::table::logs::LogRow;
use crate::store::{Chunk, LogId, ReadLimit, StoreError};

/// Which records a log shows.
#[derive(Clone, Debug)]
pub struct Extent {
    /// The first offset.
    pub start: u64,
    /// The next offset.
    pub end: u64,
    /// Which other logs hold the first of them.
    pub ancestry: Ancestry,
}

impl From<LogRow> for Extent {
    fn from(row: LogRow) -> Self {
        Self { start: row.start, end: row.end, ancestry: row.ancestry }
    }
}

/// Where records are.
#[derive(Debug)]
pub enum Place {
    /// In memory: here they are. Everything that is durable, within the limit, when the log itself holds them.
    Memory {
        /// The records.
        chunk: Chunk,
        /// The log that holds them; more may follow elsewhere when it is another one.
        holder: LogId,
    },
    /// In the database.
    Database {
        /// The log that holds them.
        holder: LogId,
        /// Their offsets.
        offsets: Range<u64>,
    },
}

impl State {
    /// What a resident log shows; `None` for one that is not resident, of which the database knows everything.
    ///
    /// # Errors
    /// [`StoreError::Deleted`].
    pub fn extent(&self, log: LogId) -> Result<Option<Extent>, StoreError> {
        match self.logs.get(&log) {
            Some(found) if found.durable.stage == Stage::Deleted => Err(StoreError::Deleted),
            Some(found) => Ok(Some(Extent {
                start: found.start,
                end: found.durable.end,
                ancestry: found.ancestry.clone(),
            })),
            None => Ok(None),
        }
    }

    /// Where the records of a log are from `from` on, or from its start when that is later. What a log that is not
    /// resident holds is in the database.
    #[must_use]
    pub fn place(&self, log: LogId, extent: &Extent, from: u64, limit: ReadLimit) -> Place {
        let from = from.max(extent.start);
        if from >= extent.end {
            return Place::Memory { chunk: Chunk { from, records: Vec::new() }, holder: log };
        }
        let (holder, until) = extent.ancestry.holder(from).unwrap_or((log, extent.end));
        match self.logs.get(&holder) {
            Some(found) => match found.read(from..until, limit) {
                Some(chunk) => Place::Memory { chunk, holder },
                None => Place::Database { holder, offsets: from..until.min(found.settled_end) },
            },
            None => Place::Database { holder, offsets: from..until },
        }
    }

    /// Which offsets of a place are erased.
    #[must_use]
    pub fn erased(&self, place: &Place) -> Vec<Range<u64>> {
        match place {
            Place::Memory { chunk, holder } => self.erasing.within(*holder, &(chunk.from..chunk.next())),
            Place::Database { holder, offsets } => self.erasing.within(*holder, offsets),
        }
    }
}
