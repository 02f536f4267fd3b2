//! Positions: which record of which entry of a log's lineage is wanted next.

use std::fmt;
use std::str::FromStr;

/// The largest value of a counter on the wire: it must survive a JSON number in every language (2^53 − 1).
pub const COUNTER_MAX: u64 = (1 << 53) - 1;

/// Names the *next* record wanted: an epoch of the log's lineage and an offset.
///
/// As text it is `<epoch>_<offset>`, each of [`POSITION_DIGITS`] decimal digits, so that texts of one session sort as
/// the positions do. Clients should treat it as opaque.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Which entry of the log's lineage.
    pub epoch: u64,
    /// The offset of the next record wanted.
    pub offset: u64,
}

/// Digits of each half of a position's text: enough for [`COUNTER_MAX`].
pub const POSITION_DIGITS: usize = 16;

/// A text that is not a position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a position; it must be the text of one: 16 digits, `_`, 16 digits, such as 0000000000000000_0000000000000042"
)]
pub struct InvalidPosition(pub String);

impl FromStr for Position {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || InvalidPosition(text.chars().take(64).collect());
        let (epoch, offset) = text.split_once('_').ok_or_else(refuse)?;
        let parse = |half: &str| {
            let digits = half.len() == POSITION_DIGITS && half.bytes().all(|b| b.is_ascii_digit());
            half.parse::<u64>().ok().filter(|value| digits && *value <= COUNTER_MAX)
        };
        match (parse(epoch), parse(offset)) {
            (Some(epoch), Some(offset)) => Ok(Self { epoch, offset }),
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016}_{:016}", self.epoch, self.offset)
    }
}

/// One entry of a lineage: from `from_offset` on, records belong to `epoch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineageEntry {
    /// The epoch; a later one sorts later.
    pub epoch: u64,
    /// The first offset that belongs to it.
    pub from_offset: u64,
}

/// The history of a log's epochs, oldest first, never empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lineage(Vec<LineageEntry>);

/// Where a position leads in a lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The position is of this lineage: reading goes on at this offset.
    At(u64),
    /// The position is of another history: reading can go on at this offset of this one.
    EpochChanged(u64),
}

impl Lineage {
    /// The lineage of a log that begins at offset 0 with `epoch`.
    #[must_use]
    pub fn beginning(epoch: u64) -> Self {
        Self(vec![LineageEntry { epoch, from_offset: 0 }])
    }

    /// A lineage from its entries, oldest first; `None` when there is none, when epochs do not rise, or when offsets
    /// fall or do not begin at 0.
    #[must_use]
    pub fn from_entries(entries: Vec<LineageEntry>) -> Option<Self> {
        let begins = entries.first().is_some_and(|entry| entry.from_offset == 0);
        let rises = entries
            .windows(2)
            .all(|pair| pair[0].epoch < pair[1].epoch && pair[0].from_offset <= pair[1].from_offset);
        (begins && rises).then_some(Self(entries))
    }

    /// The entries, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[LineageEntry] {
        &self.0
    }

    /// The epoch that new records get.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.0.last().map_or(0, |entry| entry.epoch)
    }

    /// The offset at which the epoch of a record at `offset` ends; none when it is the last one.
    #[must_use]
    pub fn until(&self, offset: u64) -> Option<u64> {
        self.0.iter().map(|entry| entry.from_offset).find(|from_offset| *from_offset > offset)
    }

    /// The offset at which the epoch of the record before `offset` begins.
    #[must_use]
    pub fn since(&self, offset: u64) -> u64 {
        let after = self.0.partition_point(|entry| entry.from_offset < offset);
        self.0.get(after.saturating_sub(1)).map_or(0, |entry| entry.from_offset)
    }

    /// The epoch of a position at an offset: that of the record before it, so that it resumes across the end of an epoch.
    #[must_use]
    pub fn epoch_at(&self, offset: u64) -> u64 {
        let after = self.0.partition_point(|entry| entry.from_offset < offset);
        self.0.get(after.saturating_sub(1)).map_or(0, |entry| entry.epoch)
    }

    /// Where a reader with `position` goes on. A position names the next record, so at the very offset where an epoch
    /// ends the older epoch's position still resumes.
    #[must_use]
    pub fn resume(&self, position: Position) -> Resume {
        let after = self.0.partition_point(|entry| entry.epoch <= position.epoch);
        let next = self.0.get(after);
        let known = after.checked_sub(1).and_then(|index| self.0.get(index));
        match known {
            Some(entry) if entry.epoch == position.epoch && position.offset >= entry.from_offset => {
                match next {
                    Some(next) if position.offset > next.from_offset => {
                        Resume::EpochChanged(next.from_offset)
                    }
                    _ => Resume::At(position.offset),
                }
            }
            // Below its epoch's first offset, or an epoch that this log never had: nothing before the fork of the
            // nearest older entry is known to be shared, so reading starts where the position's history left ours.
            Some(entry) if entry.epoch == position.epoch => Resume::EpochChanged(entry.from_offset),
            _ => Resume::EpochChanged(next.map_or(0, |entry| entry.from_offset)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_sorts() {
        let earlier = Position { epoch: 0, offset: 42 };
        let later = Position { epoch: 3, offset: 7 };
        assert_eq!(earlier.to_string(), "0000000000000000_0000000000000042");
        assert_eq!(earlier.to_string().parse(), Ok(earlier));
        assert!(earlier.to_string() < later.to_string());
        let last = Position { epoch: COUNTER_MAX, offset: COUNTER_MAX };
        assert_eq!(last.to_string().parse(), Ok(last));
    }

    #[test]
    fn refuses_what_is_not_a_position() {
        for text in [
            "",
            "_",
            "42",
            "0_42",
            "0000000000000000-0000000000000042",
            "0000000000000000_000000000000004x",
            "+000000000000000_0000000000000042",
            "0000000000000000_9999999999999999",
            "0000000000000000_00000000000000042",
        ] {
            assert_eq!(text.parse::<Position>(), Err(InvalidPosition(text.into())));
        }
    }

    #[test]
    fn resumes_only_within_its_own_history() {
        let lineage = Lineage::from_entries(vec![
            LineageEntry { epoch: 2, from_offset: 0 },
            LineageEntry { epoch: 5, from_offset: 10 },
        ])
        .unwrap();
        let resume = |epoch, offset| lineage.resume(Position { epoch, offset });
        assert_eq!([0, 10, 11].map(|offset| lineage.epoch_at(offset)), [2, 2, 5]);
        assert_eq!([0, 10, 11].map(|offset| lineage.since(offset)), [0, 0, 10]);
        assert_eq!([0, 9, 10].map(|offset| lineage.until(offset)), [Some(10), Some(10), None]);
        assert_eq!(resume(2, 0), Resume::At(0));
        assert_eq!(resume(2, 10), Resume::At(10));
        assert_eq!(resume(2, 11), Resume::EpochChanged(10));
        assert_eq!(resume(5, 10), Resume::At(10));
        assert_eq!(resume(5, 99), Resume::At(99));
        assert_eq!(resume(5, 9), Resume::EpochChanged(10));
        assert_eq!(resume(0, 3), Resume::EpochChanged(0));
        assert_eq!(resume(3, 3), Resume::EpochChanged(10));
        assert_eq!(resume(9, 3), Resume::EpochChanged(0));
    }
}
