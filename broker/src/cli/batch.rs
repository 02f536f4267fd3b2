//! Gathering records into batches.

use longwire::Publication;
use longwire_proto::limits::BATCH_RECORDS_MAX;

/// Bytes at which a batch is full. One more record, at its limit, still fits a publish.
const BATCH_BYTES_FULL: usize = 1 << 20;

/// Records that are published together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    publications: Vec<Publication>,
    bytes: usize,
}

impl Batch {
    pub(crate) fn push(&mut self, publication: Publication) {
        self.bytes += publication.encoded_len();
        self.publications.push(publication);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.publications.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.publications.len() >= BATCH_RECORDS_MAX || self.bytes >= BATCH_BYTES_FULL
    }

    pub(crate) fn take(&mut self) -> Vec<Publication> {
        self.bytes = 0;
        std::mem::take(&mut self.publications)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_full_by_count_and_by_bytes() {
        let mut batch = Batch::default();
        (0..BATCH_RECORDS_MAX - 1).for_each(|_| batch.push("x".into()));
        assert!(!batch.is_full());
        batch.push("x".into());
        assert!(batch.is_full());
        assert_eq!(batch.take().len(), BATCH_RECORDS_MAX);
        assert!(batch.is_empty());
        batch.push("x".repeat(BATCH_BYTES_FULL).into());
        assert!(batch.is_full());
    }
}
