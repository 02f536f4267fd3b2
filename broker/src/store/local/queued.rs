//! What callers hand to the writer.

use tokio::sync::oneshot;

use crate::store::local::group::{Append, BLOCK_BYTES, Create, Delete, Put, Rename, Trim};
use crate::store::{Reservation, StoreError};

/// Tells a caller that what it queued is durable.
pub type Reply = oneshot::Sender<Result<(), StoreError>>;

/// What waits for the writer.
#[derive(Debug)]
pub enum Queued {
    /// An append, and the creation of its log when it is the first.
    Append {
        /// The creation.
        create: Option<Box<Create>>,
        /// The append.
        append: Append,
        /// What it holds of the quota.
        reservation: Reservation,
        /// What it costs of the quota.
        bytes: usize,
        /// Who waits.
        reply: Reply,
    },
    /// Writes of values.
    Put {
        /// The writes.
        put: Put,
        /// What they hold of the quota.
        reservation: Reservation,
        /// What they cost of the quota.
        bytes: usize,
        /// Who waits.
        reply: Reply,
    },
    /// A deletion.
    Delete {
        /// The deletion.
        delete: Delete,
        /// Who waits.
        reply: Reply,
    },
    /// A trim.
    Trim {
        /// The trim.
        trim: Trim,
        /// Who waits.
        reply: Reply,
    },
    /// A renaming.
    Rename {
        /// The renaming.
        rename: Rename,
        /// Who waits.
        reply: Reply,
    },
}

impl Queued {
    /// What it costs of the quota: about what it takes in the journal.
    #[must_use]
    pub fn cost(&self) -> usize {
        match self {
            Self::Append { bytes, .. } | Self::Put { bytes, .. } => *bytes,
            Self::Delete { .. } | Self::Trim { .. } | Self::Rename { .. } => BLOCK_BYTES,
        }
    }
}

/// How the threads are to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Not at all.
    No,
    /// After everything that is queued is durable.
    Drain,
    /// At once, as if the process had died.
    Abandon,
}
