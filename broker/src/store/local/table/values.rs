//! `values`: the store's own table, see [`crate::store::table`].
//!
//! ```text
//! key    the key
//! value  crc u32 · the value
//! ```

use redb::TableDefinition;

use crate::store::local::table::{Damage, seal, unseal};

/// The table.
pub const VALUES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("values");
const TAG: &[u8] = b"values";

/// The value of a value.
#[must_use]
pub fn encode(key: &[u8], value: &[u8]) -> Vec<u8> {
    seal(TAG, &[key], value)
}

/// The value of what is stored.
///
/// # Errors
/// [`Damage`].
pub fn decode<'v>(key: &[u8], value: &'v [u8]) -> Result<&'v [u8], Damage> {
    unseal(TAG, &[key], value)
}
