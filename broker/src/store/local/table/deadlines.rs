//! `deadlines`: when the owners of sessions want to be woken. An entry is a hint: what the log's row says decides.
//!
//! ```text
//! key    deadline u64, Unix milliseconds · log id u64
//! value  crc u32
//! ```

use redb::TableDefinition;

use crate::store::LogId;
use crate::store::local::table::{Damage, seal, unseal};

/// The table.
pub const DEADLINES: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("deadlines");
const TAG: &[u8] = b"deadlines";

/// The value of an entry.
#[must_use]
pub fn encode(when_ms: u64, log: LogId) -> Vec<u8> {
    seal(TAG, &[&when_ms.to_le_bytes(), &log.0.to_le_bytes()], &[])
}

/// Whether an entry is sound.
///
/// # Errors
/// [`Damage`].
pub fn verify(when_ms: u64, log: LogId, value: &[u8]) -> Result<(), Damage> {
    unseal(TAG, &[&when_ms.to_le_bytes(), &log.0.to_le_bytes()], value).map(|_| ())
}
