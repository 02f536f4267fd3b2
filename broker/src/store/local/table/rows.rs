//! `rows`: the rows of snapshots.
//!
//! ```text
//! key    log id u64 · the row's key
//! value  crc u32 · the row
//! ```

use redb::TableDefinition;

use crate::store::LogId;
use crate::store::local::table::{Damage, seal, unseal};

/// The table.
pub const ROWS: TableDefinition<'_, (u64, &[u8]), &[u8]> = TableDefinition::new("rows");
const TAG: &[u8] = b"rows";

/// The value of a row.
#[must_use]
pub fn encode(log: LogId, key: &[u8], row: &[u8]) -> Vec<u8> {
    seal(TAG, &[&log.0.to_le_bytes(), key], row)
}

/// The row of a value.
///
/// # Errors
/// [`Damage`].
pub fn decode<'v>(log: LogId, key: &[u8], value: &'v [u8]) -> Result<&'v [u8], Damage> {
    unseal(TAG, &[&log.0.to_le_bytes(), key], value)
}
