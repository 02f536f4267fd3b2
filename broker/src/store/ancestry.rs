//! Whose records a log shows below its own. A fork copies nothing: what it took over stays in the logs that hold it.
//!
//! ```text
//! count u16 · (log id u64 · until u64)*
//! ```

use std::ops::Range;

use bytes::{Buf, BufMut};

use crate::store::LogId;

/// Logs that one log shows records of. A fork of a fork adds one; each entry is 16 bytes of the log's row, which every
/// settling of the log writes again.
pub const ANCESTORS_MAX: usize = 256;

/// The logs that hold what a log shows below its own records, oldest records first: each holds those from where the one
/// before it ends, or the log's start, up to its `until`. Flat: an entry is a log that holds the records, never one that
/// shares them itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ancestry(Vec<(LogId, u64)>);

impl Ancestry {
    /// Of a log that has `self` and is called `parent`: what a fork of it shows from `start` up to `base`.
    #[must_use]
    pub fn of_fork(&self, parent: LogId, start: u64, base: u64) -> Self {
        let mut entries = Vec::new();
        let mut from = start;
        for (log, until) in self.0.iter().copied().chain([(parent, u64::MAX)]) {
            let until = until.min(base);
            if from < until {
                entries.push((log, until));
                from = until;
            }
        }
        Self(entries)
    }

    /// The entries.
    #[must_use]
    pub fn entries(&self) -> &[(LogId, u64)] {
        &self.0
    }

    /// Where the log's own records begin, when it shows others before them.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.0.last().map(|(_, until)| *until)
    }

    /// Which log holds the record at an offset, and up to where; `None` for the log itself.
    #[must_use]
    pub fn holder(&self, offset: u64) -> Option<(LogId, u64)> {
        self.0.get(self.0.partition_point(|(_, until)| *until <= offset)).copied()
    }

    /// What a log that starts at `start` shows of each.
    pub fn shown(&self, start: u64) -> impl Iterator<Item = (LogId, Range<u64>)> + '_ {
        let from = std::iter::once(0).chain(self.0.iter().map(|(_, until)| *until));
        let ranges = from.zip(&self.0).map(move |(from, (log, until))| (*log, from.max(start)..*until));
        ranges.filter(|(_, range)| !range.is_empty())
    }

    /// What is left of it for a log that starts at `start`.
    #[must_use]
    pub fn from_start(&self, start: u64) -> Self {
        Self(self.0.iter().copied().filter(|(_, until)| *until > start).collect())
    }

    /// Adds its bytes.
    pub fn encode(&self, to: &mut Vec<u8>) {
        to.put_u16_le(self.0.len() as u16);
        for (log, until) in &self.0 {
            to.put_u64_le(log.0);
            to.put_u64_le(*until);
        }
    }

    /// Takes it from the front of `bytes`; `None` when it is not there.
    #[must_use]
    pub fn decode(bytes: &mut impl Buf) -> Option<Self> {
        let count = bytes.try_get_u16_le().ok()?;
        let entry = |_| Some((LogId(bytes.try_get_u64_le().ok()?), bytes.try_get_u64_le().ok()?));
        let entries = (0..count).map(entry).collect::<Option<Vec<_>>>()?;
        entries.is_sorted_by(|a, b| a.1 < b.1).then_some(Self(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(list: &[(u64, u64)]) -> Vec<(LogId, u64)> {
        list.iter().map(|(log, until)| (LogId(*log), *until)).collect()
    }

    #[test]
    fn forks_of_forks_are_flat_and_clipped() {
        let root = Ancestry::default();
        let child = root.of_fork(LogId(1), 2, 10);
        assert_eq!(child.entries(), entries(&[(1, 10)]));
        assert_eq!(root.of_fork(LogId(1), 10, 10), Ancestry::default(), "nothing is shared");
        let grandchild = child.of_fork(LogId(2), 4, 15);
        assert_eq!(grandchild.entries(), entries(&[(1, 10), (2, 15)]));
        assert_eq!(grandchild.of_fork(LogId(3), 4, 7).entries(), entries(&[(1, 7)]));
        assert_eq!(grandchild.of_fork(LogId(3), 4, 10).entries(), entries(&[(1, 10)]));
        assert_eq!(grandchild.of_fork(LogId(3), 10, 20).entries(), entries(&[(2, 15), (3, 20)]));
        assert_eq!(grandchild.of_fork(LogId(3), 12, 13).entries(), entries(&[(2, 13)]));
    }

    #[test]
    fn holders_are_found() {
        let ancestry = Ancestry(entries(&[(1, 10), (2, 15)]));
        assert_eq!(ancestry.holder(0), Some((LogId(1), 10)));
        assert_eq!(ancestry.holder(10), Some((LogId(2), 15)));
        assert_eq!((ancestry.holder(15), ancestry.end()), (None, Some(15)));
        let shown = |start| ancestry.shown(start).collect::<Vec<_>>();
        assert_eq!(shown(4), [(LogId(1), 4..10), (LogId(2), 10..15)]);
        assert_eq!(shown(12), [(LogId(2), 12..15)]);
        assert_eq!(shown(15), []);
        assert_eq!(ancestry.from_start(10).entries(), entries(&[(2, 15)]));
    }

    #[test]
    fn bytes_round_trip() {
        let ancestry = Ancestry(entries(&[(1, 10), (2, 15)]));
        let mut bytes = Vec::new();
        ancestry.encode(&mut bytes);
        assert_eq!(Ancestry::decode(&mut bytes.as_slice()), Some(ancestry));
        for length in 0..bytes.len() {
            assert_eq!(Ancestry::decode(&mut &bytes[..length]), None);
        }
        let mut falling = Vec::new();
        Ancestry(entries(&[(1, 10), (2, 10)])).encode(&mut falling);
        assert_eq!(Ancestry::decode(&mut falling.as_slice()), None);
    }
}
