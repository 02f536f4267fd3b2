//! `gone`: the last rows of deleted logs, for the change feed, until nothing is left of the log.
//!
//! ```text
//! key    log id u64
//! value  crc u32 · as in `logs`
//! ```

use redb::TableDefinition;

use crate::store::LogId;
use crate::store::local::table::Damage;
use crate::store::local::table::logs::LogRow;

/// The table.
pub const GONE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("gone");
const TAG: &[u8] = b"gone";

/// The value of a row.
#[must_use]
pub fn encode(log: LogId, row: &LogRow) -> Vec<u8> {
    row.encode_as(TAG, log)
}

/// The row of a value.
///
/// # Errors
/// [`Damage`].
pub fn decode(log: LogId, value: &[u8]) -> Result<LogRow, Damage> {
    LogRow::decode_as(TAG, log, value)
}
