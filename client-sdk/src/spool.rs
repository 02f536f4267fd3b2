//! Where the batches of unacknowledged publishes are: in memory, or in a file.

use std::collections::BTreeMap;

use crate::error::OutboxError;
use crate::lane::Lane;
use crate::machine::outbox::{Entry, Slot};
use crate::outbox_file::OutboxFile;
use crate::publication::EncodedBatch;

#[derive(Debug)]
pub(crate) enum Spool {
    Memory { batches: BTreeMap<Entry, EncodedBatch>, next: Entry },
    File(Box<OutboxFile>),
}

impl Spool {
    pub(crate) fn memory() -> Self {
        Self::Memory { batches: BTreeMap::new(), next: 0 }
    }

    pub(crate) fn append(
        &mut self,
        lane: &Lane,
        slot: &Slot,
        batch: EncodedBatch,
    ) -> Result<Entry, OutboxError> {
        match self {
            Self::Memory { batches, next } => {
                let entry = *next;
                *next += 1;
                batches.insert(entry, batch);
                Ok(entry)
            }
            Self::File(file) => file.append(lane, slot, batch),
        }
    }

    /// The batch of an entry; `None` in memory means that it was settled.
    pub(crate) fn read(&mut self, entry: Entry) -> Result<Option<EncodedBatch>, OutboxError> {
        match self {
            Self::Memory { batches, .. } => Ok(batches.get(&entry).cloned()),
            Self::File(file) => file.read(entry).map(Some),
        }
    }

    pub(crate) fn remove(&mut self, entry: Entry) {
        match self {
            Self::Memory { batches, .. } => drop(batches.remove(&entry)),
            Self::File(file) => file.remove(entry),
        }
    }

    pub(crate) fn renumber(&mut self, lane: &Lane, epoch: u64) -> Result<(), OutboxError> {
        match self {
            Self::Memory { .. } => Ok(()),
            Self::File(file) => file.renumber(lane, epoch),
        }
    }

    pub(crate) fn flush(&mut self) -> Result<(), OutboxError> {
        match self {
            Self::Memory { .. } => Ok(()),
            Self::File(file) => file.flush(),
        }
    }

    pub(crate) fn sync(&mut self) -> Result<(), OutboxError> {
        match self {
            Self::Memory { .. } => Ok(()),
            Self::File(file) => file.sync(),
        }
    }
}
