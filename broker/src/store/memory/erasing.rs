//! Erasing in memory: which records, and what is left of them.

use std::ops::Range;

use longwire_proto::record;

use crate::store::memory::{Inner, Log};
use crate::store::{LogId, StoreError};

impl Inner {
    /// Where the records are that a batch erases.
    pub(super) fn erased(
        &self,
        id: LogId,
        ranges: &[Range<u64>],
        base: u64,
    ) -> Result<Vec<(LogId, u64)>, StoreError> {
        let Some(log) = self.logs.get(&id).filter(|log| log.exists) else {
            let what = "a log that does not exist yet has nothing to erase";
            return if ranges.is_empty() { Ok(Vec::new()) } else { Err(StoreError::OutOfRange(what.into())) };
        };
        let mut erased = Vec::new();
        for range in ranges {
            if range.end > base {
                let what = format!("{} to {} is not below {base}", range.start, range.end);
                return Err(StoreError::OutOfRange(what));
            }
            for offset in range.clone() {
                let holder = log.ancestry.holder(offset).map_or(id, |(holder, _)| holder);
                if holder != id && offset < log.start {
                    continue;
                }
                let shown = |other: &Log| !other.deleted && offset >= other.start;
                if holder != id && self.logs.get(&holder).is_some_and(shown) {
                    let what = format!("the record {offset} is one of log {}", holder.0);
                    return Err(StoreError::OutOfRange(what));
                }
                erased.push((holder, offset));
            }
        }
        Ok(erased)
    }

    pub(super) fn erase(&mut self, holder: LogId, offset: u64) {
        let Some(log) = self.logs.get_mut(&holder) else { return };
        let index = offset.checked_sub(log.base).and_then(|index| usize::try_from(index).ok());
        let Some(record) = index.and_then(|index| log.records.get_mut(index)) else { return };
        if let Some(left) = record::erased(record) {
            if offset >= log.start {
                log.bytes = log.bytes.saturating_sub((record.len() - left.len().min(record.len())) as u64);
            }
            *record = left;
        }
    }
}
