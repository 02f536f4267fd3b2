//! `changes`: the logs in the order of the commits that changed them last. A deleted log is here as long as `gone` has it.
//! An entry is a hint: what the log's row says decides.
//!
//! ```text
//! key    commit u64 · log id u64
//! value  crc u32
//! ```

use redb::TableDefinition;

use crate::store::LogId;
use crate::store::local::table::{Damage, seal, unseal};

/// The table.
pub const CHANGES: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("changes");
const TAG: &[u8] = b"changes";

/// The value of an entry.
#[must_use]
pub fn encode(commit: u64, log: LogId) -> Vec<u8> {
    seal(TAG, &[&commit.to_le_bytes(), &log.0.to_le_bytes()], &[])
}

/// Whether an entry is sound.
///
/// # Errors
/// [`Damage`].
pub fn verify(commit: u64, log: LogId, value: &[u8]) -> Result<(), Damage> {
    unseal(TAG, &[&commit.to_le_bytes(), &log.0.to_le_bytes()], value).map(|_| ())
}
