//! `names`: which log a session has.
//!
//! ```text
//! key    the session id
//! value  crc u32 · kind u8 (1 a log, 2 deleted) · u64 (the log's id, or the first epoch of a session created next)
//! ```
//! The empty key, which is no session id, is there after a restore: it is of every name that has no row of its own.

use redb::{ReadableTable, TableDefinition};

use crate::store::LogId;
use crate::store::local::database_failure::DatabaseFailure;
use crate::store::local::table::{Damage, seal, unseal};

/// The table.
pub const NAMES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("names");
/// The key of the row that is of every name without one: names that had sessions which the backup does not have.
pub const OTHERS: &str = "";
const TAG: &[u8] = b"names";

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// A session with this log.
    Log(LogId),
    /// A deleted session; one created later begins with this epoch.
    Deleted {
        /// The epoch.
        next_epoch: u64,
    },
}

impl Name {
    /// The value of the row.
    #[must_use]
    pub fn encode(self, name: &str) -> Vec<u8> {
        let (kind, number) = match self {
            Self::Log(log) => (1_u8, log.0),
            Self::Deleted { next_epoch } => (2, next_epoch),
        };
        let mut payload = [kind, 0, 0, 0, 0, 0, 0, 0, 0];
        payload[1..].copy_from_slice(&number.to_le_bytes());
        seal(TAG, &[name.as_bytes()], &payload)
    }

    /// The row of a value.
    ///
    /// # Errors
    /// [`Damage`].
    pub fn decode(name: &str, value: &[u8]) -> Result<Self, Damage> {
        let payload = unseal(TAG, &[name.as_bytes()], value)?;
        match payload.split_first_chunk::<1>() {
            Some(([kind], number)) => {
                let number = number.try_into().map_err(|_| Damage("the row has another length"))?;
                match kind {
                    1 => Ok(Self::Log(LogId(u64::from_le_bytes(number)))),
                    2 => Ok(Self::Deleted { next_epoch: u64::from_le_bytes(number) }),
                    _ => Err(Damage("the row is of an unknown kind")),
                }
            }
            None => Err(Damage("the row is empty")),
        }
    }
}

/// What a name stands for that has no row of its own.
///
/// # Errors
/// Those of redb, or that the row is damaged.
pub fn others(names: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Name, DatabaseFailure> {
    Ok(match names.get(OTHERS)? {
        Some(value) => Name::decode(OTHERS, value.value())?,
        None => Name::Deleted { next_epoch: 0 },
    })
}

/// What a name stands for; when there is nothing about it, it is like all [`others`].
///
/// # Errors
/// Those of redb, or that the row is damaged.
pub fn of(
    names: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<Name>, DatabaseFailure> {
    Ok(names.get(name)?.map(|value| Name::decode(name, value.value())).transpose()?)
}
