//! The folded view: within a run of deltas, those of one message are one record. It is made of what is read, and never stored.
//!
//! Any other record ends a run, a tombstone included. A fold is placed where its last delta is. A delta that has more than a piece
//! (an id, a type, headers), or comes of another sender or run, begins a fold of its own, so that nothing of it is lost.

use std::collections::BTreeMap;
use std::mem;

use bytes::Bytes;
use longwire_proto::delta::{Delta, Fold};

use crate::filter::{Filter, Passed};

/// Records that are being folded, in the order of their offsets. What it holds has at most the bytes that it may come to, and one
/// record.
#[derive(Debug, Default)]
pub struct Folding {
    /// What is before the run.
    done: Vec<(u64, Bytes)>,
    /// What of the run is not gone on with, in no order.
    run: Vec<(u64, Bytes)>,
    /// What of the run may be gone on with, by message.
    open: BTreeMap<String, Fold>,
    bytes: usize,
    joined: bool,
}

impl Folding {
    /// Whether nothing was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.done.is_empty() && self.run.is_empty() && self.open.is_empty()
    }

    /// Whether it is what was taken, record by record.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        !self.joined
    }

    /// Takes those of the records from `from` on that pass, for as long as they come to at most `bytes_max`; the first is always
    /// taken. Returns the offset after the last one that was looked at and either taken or left out by the filter.
    #[must_use]
    pub fn take(&mut self, from: u64, records: &[Bytes], filter: Option<&Filter>, bytes_max: usize) -> u64 {
        for (offset, record) in (from..).zip(records) {
            let passes = filter.is_none_or(|filter| filter.passes(record));
            if passes && !self.take_one(offset, record, bytes_max) {
                return offset;
            }
        }
        from + records.len() as u64
    }

    fn take_one(&mut self, offset: u64, record: &Bytes, bytes_max: usize) -> bool {
        let delta = Delta::parse(record).filter(|delta| !delta.is_erased);
        let taken_by = delta.and_then(|delta| {
            let fold = self.open.get_mut(delta.message).filter(|fold| fold.takes(&delta))?;
            Some((fold, delta))
        });
        if let Some((fold, delta)) = taken_by {
            let others = self.bytes - fold.weight();
            if others + fold.weight_with(&delta) > bytes_max {
                return false;
            }
            fold.push(offset, &delta);
            self.bytes = others + fold.weight();
            self.joined = true;
            return true;
        }
        if !self.is_empty() && self.bytes + record.len() > bytes_max {
            return false;
        }
        self.bytes += record.len();
        match delta {
            Some(delta) => {
                if let Some(before) = self.open.remove(delta.message) {
                    self.run.push((before.last(), before.finish()));
                }
                if delta.is_plain {
                    self.open.insert(delta.message.to_owned(), Fold::new(offset, record, &delta));
                } else {
                    self.run.push((offset, Bytes::copy_from_slice(record)));
                }
            }
            None => {
                self.end_run();
                self.done.push((offset, Bytes::copy_from_slice(record)));
            }
        }
        true
    }

    fn end_run(&mut self) {
        let open = mem::take(&mut self.open).into_values();
        self.run.extend(open.map(|fold| (fold.last(), fold.finish())));
        self.run.sort_unstable_by_key(|(offset, _)| *offset);
        self.done.append(&mut self.run);
    }

    /// What it came to.
    #[must_use]
    pub fn finish(mut self) -> Passed {
        self.end_run();
        let (offsets, records) = self.done.into_iter().unzip();
        Passed { records, offsets }
    }
}

/// Those of some consecutive records that pass, folded.
#[must_use]
pub fn folded(from: u64, records: &[Bytes], filter: Option<&Filter>) -> Passed {
    let mut folding = Folding::default();
    // Nothing is too much: what is folded has been read already.
    let _all = folding.take(from, records, filter, usize::MAX);
    folding.finish()
}
