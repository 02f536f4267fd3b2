//! Records as a delivery has them: each is copied once, from where it is stored to where it is sent from.

use bytes::Bytes;
use longwire_proto::codec::{FRAMING_BYTES_MAX, put_delivered};
use longwire_proto::limits::DELIVERY_BYTES_MAX;

use crate::store::{Chunk, ReadLimit};

/// Consecutive durable records of a log, as the field `records` of a delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Framed {
    /// The offset of the first record: the one asked for, or the log's start when that is later.
    pub from: u64,
    /// How many they are. None at the end of the log.
    pub count: u64,
    /// Bytes of the records alone.
    pub record_bytes: usize,
    /// The fields.
    pub fields: Bytes,
}

impl Framed {
    /// The offset after the last record.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.from + self.count
    }
}

impl From<Chunk> for Framed {
    fn from(chunk: Chunk) -> Self {
        let bytes = chunk.records.iter().map(Bytes::len).sum();
        let mut framer = Framer::new(ReadLimit { records: chunk.records.len(), bytes });
        framer.reserve(usize::MAX);
        chunk.records.iter().for_each(|record| framer.push(record));
        framer.finish(chunk.from)
    }
}

/// Room that is made at once: twice a delivery. Who sets a limit beyond that may read far less.
const RESERVED_BYTES_MAX: usize = 2 * DELIVERY_BYTES_MAX;

/// Frames records one by one.
#[derive(Debug)]
pub struct Framer {
    limit: ReadLimit,
    count: usize,
    record_bytes: usize,
    fields: Vec<u8>,
}

impl Framer {
    /// One that has room for so much.
    #[must_use]
    pub fn new(limit: ReadLimit) -> Self {
        Self { limit, count: 0, record_bytes: 0, fields: Vec::new() }
    }

    /// Makes room at once for what the limit allows, but for no more than so many bytes.
    pub fn reserve(&mut self, bytes_max: usize) {
        let framing = self.limit.records.saturating_mul(FRAMING_BYTES_MAX);
        let bytes = self.limit.bytes.saturating_add(framing).min(bytes_max);
        self.fields.reserve(bytes.min(RESERVED_BYTES_MAX));
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count as u64
    }

    /// Whether a record of so many bytes is within the limit; the first one always is.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        let within = self.count < self.limit.records && self.record_bytes + bytes <= self.limit.bytes;
        within || self.count == 0
    }

    /// Adds a record.
    pub fn push(&mut self, record: &[u8]) {
        put_delivered(&mut self.fields, record);
        self.count += 1;
        self.record_bytes += record.len();
    }

    /// All of them, of which the first has this offset.
    #[must_use]
    pub fn finish(self, from: u64) -> Framed {
        let Self { count, record_bytes, fields, .. } = self;
        Framed { from, count: count as u64, record_bytes, fields: fields.into() }
    }
}
