//! A record with its checksum, which is computed once, at admission, and travels with it into journal and chunk.

use std::sync::Arc;

use bytes::Bytes;

use crate::store::LogId;

/// What a record costs in memory beside its bytes: its handle, its checksum and the allocation behind it. Quotas count
/// it, so that many tiny records cannot take more memory than the quota says.
pub const RECORD_OVERHEAD_BYTES: usize = 96;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The bytes as they were appended.
    pub bytes: Bytes,
    /// [`checksum`] of them.
    pub crc: u32,
}

/// The records of one batch; cloning is cheap.
pub type Records = Arc<[Record]>;

/// CRC32C over log id, offset, length (little-endian u64, u64, u32) and the bytes: a record that is found under another
/// log or offset fails like a damaged one.
#[must_use]
pub fn checksum(log: LogId, offset: u64, bytes: &[u8]) -> u32 {
    let mut place = [0; 20];
    place[..8].copy_from_slice(&log.0.to_le_bytes());
    place[8..16].copy_from_slice(&offset.to_le_bytes());
    place[16..].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), bytes)
}

/// Records with their checksums.
#[must_use]
pub fn seal(log: LogId, base: u64, records: Vec<Bytes>) -> Records {
    (base..)
        .zip(records)
        .map(|(offset, bytes)| Record { crc: checksum(log, offset, &bytes), bytes })
        .collect()
}
