//! The records of a delivery, each with its offset. A record is large, so they stay where they were decoded until they are
//! taken.

use std::vec::IntoIter;

use longwire_proto::wire;

/// See the top of this file.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    /// The offset of the next one, when they are dense.
    next: u64,
    /// Those of the others; empty when they are dense.
    offsets: IntoIter<u64>,
    records: IntoIter<wire::Record>,
}

impl Delivered {
    /// All that a delivery covers.
    pub(crate) fn dense(from: u64, records: Vec<wire::Record>) -> Self {
        Self { next: from, offsets: IntoIter::default(), records: records.into_iter() }
    }

    /// Some of what it covers; as many offsets as records.
    pub(crate) fn sparse(offsets: Vec<u64>, records: Vec<wire::Record>) -> Self {
        Self { next: 0, offsets: offsets.into_iter(), records: records.into_iter() }
    }

    /// Whether all were taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.len() == 0
    }
}

impl Iterator for Delivered {
    type Item = (u64, wire::Record);

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.records.next()?;
        let offset = self.offsets.next().unwrap_or(self.next);
        self.next = offset + 1;
        Some((offset, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(count: usize) -> Vec<wire::Record> {
        (0..count).map(|id| wire::Record { id: id.to_string(), ..wire::Record::default() }).collect()
    }

    #[test]
    fn every_record_has_its_own_offset() {
        let told = |delivered: Delivered| -> Vec<(u64, String)> {
            delivered.map(|(offset, record)| (offset, record.id)).collect()
        };
        let named = |pairs: &[(u64, &str)]| -> Vec<(u64, String)> {
            pairs.iter().map(|(offset, id)| (*offset, (*id).to_owned())).collect()
        };
        assert_eq!(told(Delivered::dense(7, records(3))), named(&[(7, "0"), (8, "1"), (9, "2")]));
        assert_eq!(told(Delivered::sparse(vec![2, 5], records(2))), named(&[(2, "0"), (5, "1")]));
        let mut delivered = Delivered::dense(0, records(1));
        assert!(!delivered.is_empty() && delivered.next().is_some() && delivered.is_empty());
        assert!(Delivered::default().is_empty());
    }
}
