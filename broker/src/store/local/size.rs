//! What a batch may have, and what it costs.

use bytes::Bytes;

use crate::store::local::erasing::ERASE_RANGES_MAX;
use crate::store::local::record::RECORD_OVERHEAD_BYTES;
use crate::store::local::{BATCH_BYTES_MAX, BATCH_OVERHEAD_BYTES, BATCH_RECORDS_MAX};
use crate::store::{Batch, Projection, StoreError};

/// What a range to erase costs in the journal and in memory.
const ERASE_BYTES: usize = 64;

pub(super) fn check_size(batch: &Batch) -> Result<(), StoreError> {
    let refuse = |what, found, limit| Err(StoreError::BatchTooLarge { what, found, limit });
    let bytes = content_bytes(batch);
    if bytes > BATCH_BYTES_MAX {
        return refuse("bytes", bytes, BATCH_BYTES_MAX);
    }
    if batch.records.len() > BATCH_RECORDS_MAX {
        return refuse("records", batch.records.len(), BATCH_RECORDS_MAX);
    }
    if batch.erase.len() > ERASE_RANGES_MAX {
        return refuse("ranges to erase", batch.erase.len(), ERASE_RANGES_MAX);
    }
    batch.projection.as_ref().map_or(Ok(()), Projection::check)
}

pub(super) fn content_bytes(batch: &Batch) -> usize {
    let projection = batch.projection.as_ref().map_or(0, Projection::bytes);
    projection + batch.records.iter().map(Bytes::len).sum::<usize>()
}

pub(super) fn cost(batch: &Batch) -> usize {
    let records = content_bytes(batch) + batch.records.len() * RECORD_OVERHEAD_BYTES;
    records + batch.erase.len() * ERASE_BYTES + BATCH_OVERHEAD_BYTES
}
