//! `terms`: which sessions have a term. An entry is a hint: what the log's row says decides.
//!
//! ```text
//! key    term · session id
//! value  crc u32 · log id u64
//! ```

use redb::TableDefinition;

use crate::store::LogId;
use crate::store::local::table::{Damage, seal, unseal};

/// The table.
pub const TERMS: TableDefinition<'_, (&[u8], &str), &[u8]> = TableDefinition::new("terms");
const TAG: &[u8] = b"terms";

/// The value of an entry.
#[must_use]
pub fn encode(term: &[u8], name: &str, log: LogId) -> Vec<u8> {
    seal(TAG, &[&(term.len() as u16).to_le_bytes(), term, name.as_bytes()], &log.0.to_le_bytes())
}

/// The log of an entry.
///
/// # Errors
/// [`Damage`].
pub fn decode(term: &[u8], name: &str, value: &[u8]) -> Result<LogId, Damage> {
    let payload = unseal(TAG, &[&(term.len() as u16).to_le_bytes(), term, name.as_bytes()], value)?;
    let log = payload.try_into().map_err(|_| Damage("the entry has another length"))?;
    Ok(LogId(u64::from_le_bytes(log)))
}
