//! `meta`: one row that says how far the database is.
//!
//! ```text
//! key    "store"
//! value  crc u32 · format u32 · shard u32 · settled_commit u64 · settle u64 · next_log u64
//!        · erased_commit u64 · wiped_commit u64
//! ```

use bytes::Buf;
use redb::TableDefinition;

use crate::store::local::table::{Damage, seal, unseal};

/// The table.
pub const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// The key of its one row.
pub const KEY: &str = "store";
const TAG: &[u8] = b"meta";

/// How far the database is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The format of the folder.
    pub format: u32,
    /// The last commit whose items are in the database.
    pub settled_commit: u64,
    /// Counts settlings, so that one whose outcome is unknown is recognised.
    pub settle: u64,
    /// The next log id to give.
    pub next_log: u64,
    /// The last settled commit that erased or deleted something.
    pub erased_commit: u64,
    /// What was erased or deleted up to this commit is in no file of the folder.
    pub wiped_commit: u64,
}

impl Meta {
    /// The value of the row.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(48);
        payload.extend(self.format.to_le_bytes());
        payload.extend(0_u32.to_le_bytes());
        payload.extend(self.settled_commit.to_le_bytes());
        payload.extend(self.settle.to_le_bytes());
        payload.extend(self.next_log.to_le_bytes());
        payload.extend(self.erased_commit.to_le_bytes());
        payload.extend(self.wiped_commit.to_le_bytes());
        seal(TAG, &[KEY.as_bytes()], &payload)
    }

    /// The row of a value.
    ///
    /// # Errors
    /// [`Damage`].
    pub fn decode(value: &[u8]) -> Result<Self, Damage> {
        let mut payload = unseal(TAG, &[KEY.as_bytes()], value)?;
        if payload.len() != 48 {
            return Err(Damage("the row has another length"));
        }
        let format = payload.get_u32_le();
        let _shard = payload.get_u32_le();
        Ok(Self {
            format,
            settled_commit: payload.get_u64_le(),
            settle: payload.get_u64_le(),
            next_log: payload.get_u64_le(),
            erased_commit: payload.get_u64_le(),
            wiped_commit: payload.get_u64_le(),
        })
    }
}
