//! Records that are erased and may still be somewhere as they were: reads look at this until their chunks are rewritten.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use longwire_proto::record::erased;

use crate::store::LogId;
use crate::store::local::record::{Record, Records};
use crate::store::local::table::erasing::tombstone;

/// Ranges that may be waiting to be rewritten: some 3 MiB of memory. Rewriting keeps up with far more than that; an
/// erasure above it is refused as overloaded.
pub const ERASING_RANGES_MAX: usize = 65_536;
/// Ranges of one batch: as many as it can have records.
pub const ERASE_RANGES_MAX: usize = 8192;

/// Offsets of erased records by the log that holds them. Ranges of a log neither overlap nor touch.
#[derive(Debug, Default)]
pub struct Erasing {
    logs: BTreeMap<LogId, BTreeMap<u64, u64>>,
    ranges: usize,
}

impl Erasing {
    /// Whether nothing is being erased, as most of the time.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges == 0
    }

    /// How many ranges there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges
    }

    /// Adds offsets.
    pub fn add(&mut self, log: LogId, mut range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let ranges = self.logs.entry(log).or_default();
        while let Some((&from, &until)) = ranges.range(..=range.end).next_back()
            && until >= range.start
        {
            ranges.remove(&from);
            self.ranges -= 1;
            range = range.start.min(from)..range.end.max(until);
        }
        ranges.insert(range.start, range.end);
        self.ranges += 1;
    }

    /// Removes offsets, which have nothing left to rewrite.
    pub fn remove(&mut self, log: LogId, range: &Range<u64>) {
        let Some(ranges) = self.logs.get_mut(&log).filter(|_| !range.is_empty()) else { return };
        while let Some((&from, &until)) = ranges.range(..range.end).next_back()
            && until > range.start
        {
            ranges.remove(&from);
            self.ranges -= 1;
            for left in [from..range.start, range.end..until] {
                if !left.is_empty() {
                    ranges.insert(left.start, left.end);
                    self.ranges += 1;
                }
            }
            if from < range.start {
                break;
            }
        }
        if ranges.is_empty() {
            self.logs.remove(&log);
        }
    }

    /// The offsets of a range that are erased.
    #[must_use]
    pub fn within(&self, log: LogId, range: &Range<u64>) -> Vec<Range<u64>> {
        let Some(ranges) = self.logs.get(&log) else { return Vec::new() };
        let before = ranges.range(..range.start).next_back();
        let within = before.into_iter().chain(ranges.range(range.start..range.end));
        let within = within.map(|(from, until)| (*from).max(range.start)..(*until).min(range.end));
        within.filter(|range| !range.is_empty()).collect()
    }
}

/// Replaces the erased ones of consecutive records.
pub fn mask(ranges: &[Range<u64>], from: u64, records: &mut [Bytes]) {
    for range in ranges {
        for offset in range.clone() {
            let record =
                offset.checked_sub(from).and_then(|index| records.get_mut(usize::try_from(index).ok()?));
            let Some(record) = record else { continue };
            if let Some(left) = erased(record) {
                *record = left;
            }
        }
    }
}

/// A batch whose erased records are tombstones, and by how many bytes it is shorter.
#[must_use]
pub fn without(ranges: &[Range<u64>], log: LogId, base: u64, records: &Records) -> (Records, u64) {
    let mut freed = 0;
    let records = (base..).zip(records.iter()).map(|(offset, record)| {
        let erased = ranges.iter().any(|range| range.contains(&offset));
        match erased.then(|| tombstone(log, offset, &record.bytes)).flatten() {
            Some(left) => {
                freed += (record.bytes.len() as u64).saturating_sub(left.bytes.len() as u64);
                left
            }
            None => Record { bytes: record.bytes.clone(), crc: record.crc },
        }
    });
    (records.collect(), freed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "a set can be of one range")]

    use super::*;

    #[test]
    fn ranges_merge_and_split() {
        let log = LogId(1);
        let mut erasing = Erasing::default();
        let all = |erasing: &Erasing| erasing.within(log, &(0..u64::MAX));
        for range in [5..7, 9..10, 7..8, 20..30, 4..4] {
            erasing.add(log, range);
        }
        assert_eq!(all(&erasing), [5..8, 9..10, 20..30]);
        erasing.add(log, 6..25);
        assert_eq!((all(&erasing), erasing.len()), (vec![5..30], 1));
        erasing.add(LogId(2), 0..9);
        erasing.remove(log, &(10..12));
        erasing.remove(log, &(0..6));
        assert_eq!((all(&erasing), erasing.len()), (vec![6..10, 12..30], 3));
        assert_eq!(erasing.within(log, &(8..13)), [8..10, 12..13]);
        assert_eq!(erasing.within(log, &(10..12)), []);
        erasing.remove(log, &(0..u64::MAX));
        erasing.remove(LogId(2), &(0..9));
        assert!(erasing.is_empty() && erasing.logs.is_empty());
    }

    /// Against a set of offsets, with a fixed seed.
    #[test]
    fn ranges_are_sets() {
        let mut random = crate::store::local::tests::Random(0x5eed);
        let mut erasing = Erasing::default();
        let mut offsets = std::collections::BTreeSet::new();
        for _ in 0..5_000 {
            let from = random.below(60) as u64;
            let range = from..from + random.below(12) as u64;
            if random.below(2) == 0 {
                erasing.add(LogId(1), range.clone());
                offsets.extend(range);
            } else {
                erasing.remove(LogId(1), &range);
                offsets.retain(|offset| !range.contains(offset));
            }
            let found = erasing.within(LogId(1), &(0..100));
            assert!(found.windows(2).all(|pair| pair[0].end < pair[1].start));
            assert_eq!(erasing.len(), found.len());
            assert!(found.into_iter().flatten().eq(offsets.iter().copied()));
        }
    }
}
