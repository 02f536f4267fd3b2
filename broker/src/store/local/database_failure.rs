//! What can go wrong with the database.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::store::local::table::Damage;

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseFailure {
    /// redb or the disk failed. The outcome of a commit is unknown.
    #[error("{0}")]
    Redb(#[from] redb::Error),
    /// A stored value is damaged.
    #[error("{0}")]
    Damage(Damage),
    /// redb panicked, as it may on damaged pages.
    #[error("redb could not follow its pages")]
    Panic,
}

impl From<Damage> for DatabaseFailure {
    fn from(damage: Damage) -> Self {
        Self::Damage(damage)
    }
}

macro_rules! from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for DatabaseFailure {
            fn from(error: redb::$error) -> Self {
                Self::Redb(error.into())
            }
        }
    )*};
}
from_redb!(
    StorageError,
    TableError,
    TransactionError,
    CommitError,
    DatabaseError,
    SetDurabilityError,
    CompactionError
);

impl DatabaseFailure {
    /// Whether the disk is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Redb(redb::Error::Io(error)) if error.kind() == std::io::ErrorKind::StorageFull)
    }

    /// Whether what is in the file is damaged, and not the disk at fault.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damage(_) | Self::Redb(redb::Error::Corrupted(_)) | Self::Panic)
    }

    /// Whether the handle is to be opened again: damage is there after that too, anything else may be its state.
    pub(super) fn poisons(&self) -> bool {
        !self.is_damage()
    }
}

/// redb follows damaged page pointers into panics; they must not take a thread of the store with them.
pub(super) fn guard<T>(work: impl FnOnce() -> Result<T, DatabaseFailure>) -> Result<T, DatabaseFailure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(DatabaseFailure::Panic))
}
