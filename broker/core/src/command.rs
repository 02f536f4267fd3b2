//! What a session can be asked, and what it answers.

use bytes::Bytes;
use longwire_proto::meta::Meta;
use longwire_proto::record::{ProducerRef, Sender};

use crate::summary::Summary;

/// A request to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Append records atomically. Each was checked with `longwire_proto::record::check`.
    Publish {
        /// Who publishes.
        sender: Sender,
        /// Makes the publish idempotent.
        producer: Option<ProducerRef>,
        /// Publish only if this is the end.
        if_end: Option<u64>,
        /// Records as their writer sent them; at least one.
        records: Vec<Bytes>,
    },
    /// Create the session with metadata, or replace that of an existing one.
    Create {
        /// Who asks.
        sender: Sender,
        /// The metadata.
        meta: Meta,
        /// Whether an existing session's metadata is replaced instead of refusing.
        update: bool,
    },
    /// Take no more publishes.
    Close {
        /// Who asks.
        sender: Sender,
        /// For humans.
        reason: String,
    },
    /// Tell the state.
    Describe,
    /// Tell when everything before this is durable; used before a delete, and before a reading that reflects it.
    Flush,
}

impl Command {
    /// Bytes of records that the command can add to the log, before sealing.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Publish { records, .. } => records.iter().map(Bytes::len).sum(),
            Self::Create { meta, .. } => meta.encode().len(),
            Self::Close { reason, .. } => reason.len(),
            Self::Describe | Self::Flush => 0,
        }
    }

    /// Records that the command can add to the log.
    #[must_use]
    pub fn records(&self) -> usize {
        match self {
            Self::Publish { records, .. } => records.len(),
            Self::Create { .. } | Self::Close { .. } => 1,
            Self::Describe | Self::Flush => 0,
        }
    }
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The records are durable at `[from, next)` of `epoch`.
    Published {
        /// The epoch of the offsets.
        epoch: u64,
        /// Offset of the first record.
        from: u64,
        /// Offset after the last record.
        next: u64,
        /// They were published before; these are the original offsets.
        duplicate: bool,
    },
    /// The state of the session, every effect of earlier commands included.
    Described(Description),
    /// Everything before the flush is durable.
    Flushed,
}

/// The state of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The epoch of new records.
    pub epoch: u64,
    /// First retained offset.
    pub start: u64,
    /// Next offset to be assigned.
    pub end: u64,
    /// Time of the last record, in Unix milliseconds.
    pub last_time_ms: u64,
    /// Metadata, creation and close.
    pub summary: Summary,
}
