//! What a session can be asked, and what it answers.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use longwire_proto::lease::{LeaseRef, Terms};
use longwire_proto::meaning::Meaning;
use longwire_proto::meta::Meta;
use longwire_proto::position::Lineage;
use longwire_proto::record::{ProducerRef, Sender};
use longwire_proto::resolution::Resolution;

use crate::entity::standing::Standing;
use crate::entity::view::View;
use crate::summary::Summary;

/// Bytes of one range in the record of an erasure: two offsets and their framing.
const RANGE_BYTES_MAX: usize = 24;

/// What the records of a publish mean, and what that is judged by.
#[derive(Clone, Debug, PartialEq)]
pub struct Meant {
    /// As many as there are records.
    pub meanings: Vec<Meaning>,
    /// Who publishes, besides its name.
    pub standing: Standing,
}

/// A request to a session.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Append records atomically. Each was checked with `longwire_proto::record::check`.
    Publish {
        /// Who publishes.
        sender: Sender,
        /// Makes the publish idempotent.
        producer: Option<ProducerRef>,
        /// Publish only if this is the end.
        if_end: Option<u64>,
        /// Whether a session that does not exist is created.
        may_create: bool,
        /// Records as their writer sent them; at least one.
        records: Vec<Bytes>,
        /// What they mean, when one of them means anything.
        meant: Option<Box<Meant>>,
    },
    /// Create the session with metadata, or replace that of an existing one.
    Create {
        /// Who asks.
        sender: Sender,
        /// The metadata.
        meta: Box<Meta>,
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
    /// Make records tombstones.
    Erase {
        /// Who asks.
        sender: Sender,
        /// Offsets of records; at least one, sorted, none twice.
        ranges: Vec<Range<u64>>,
        /// The principal whose records they are, when they are erased for that; else empty.
        of: String,
        /// For humans.
        reason: String,
    },
    /// Go on with an import. Records that are there already are skipped.
    Import {
        /// Who asks.
        sender: Sender,
        /// The offset of the first record.
        from: u64,
        /// Records as `longwire_proto::record::import` made them.
        records: Vec<Bytes>,
    },
    /// End an import: everything below is from there.
    Adopt {
        /// Who asks.
        sender: Sender,
        /// The end that the log must have.
        end: u64,
        /// The session that was exported.
        session: String,
        /// The metadata of this one.
        meta: Box<Meta>,
    },
    /// Claim the lease of an agent.
    Claim {
        /// Who asks.
        sender: Sender,
        /// The agent.
        agent: String,
        /// How long things wait.
        terms: Terms,
        /// Whether it is taken from whoever holds it.
        take_over: bool,
        /// Go on with the lease of this generation.
        going_on: Option<u64>,
    },
    /// Give a lease up.
    Release {
        /// Who asks.
        sender: Sender,
        /// The lease.
        lease: LeaseRef,
    },
    /// Tell the state.
    Describe,
    /// Tell what became of an ask.
    DescribeAsk {
        /// Its id.
        ask: String,
    },
    /// Tell where the records of a message are that grows or has grown.
    DescribeMessage {
        /// Its id.
        message: String,
    },
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
            Self::Erase { ranges, reason, .. } => ranges.len() * RANGE_BYTES_MAX + reason.len(),
            Self::Import { records, .. } => records.iter().map(Bytes::len).sum(),
            Self::Adopt { meta, session, .. } => meta.encode().len() + session.len(),
            Self::Claim { agent, .. } => agent.len(),
            Self::Release { lease, .. } => lease.agent.len(),
            Self::Describe | Self::DescribeAsk { .. } | Self::DescribeMessage { .. } | Self::Flush => 0,
        }
    }

    /// Records that the command can add to the log.
    #[must_use]
    pub fn records(&self) -> usize {
        match self {
            Self::Publish { records, .. } | Self::Import { records, .. } => records.len(),
            Self::Create { .. } | Self::Close { .. } | Self::Erase { .. } | Self::Adopt { .. } => 1,
            Self::Claim { .. } | Self::Release { .. } => 1,
            Self::Describe | Self::DescribeAsk { .. } | Self::DescribeMessage { .. } | Self::Flush => 0,
        }
    }
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq)]
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
    Described(Box<Description>),
    /// So many records are tombstones.
    Erased {
        /// Offsets that the erasure covers and that are still retained.
        records: u64,
    },
    /// The import has every record below this offset.
    Imported {
        /// The offset.
        next: u64,
    },
    /// What became of an ask.
    Ask {
        /// The offset of the record that asks.
        offset: u64,
        /// How it ended, unless it is open.
        resolved: Option<Box<Resolution>>,
    },
    /// The lease is claimed.
    Claimed(Box<Claimed>),
    /// It is given up.
    Released,
    /// Where the records of a message are.
    Message {
        /// The offset of the record that began it.
        offset: u64,
        /// That of the record that ended it, unless it grows.
        last: Option<u64>,
        /// Bytes that it has while it grows.
        bytes: u64,
    },
    /// Everything before the flush is durable.
    Flushed,
}

/// A lease that somebody holds, and what its agent finds.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    /// The agent.
    pub agent: Arc<str>,
    /// The epoch of the offsets.
    pub epoch: u64,
    /// What is open, and the agent's lease.
    pub view: Arc<View>,
}

/// The state of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// The epoch of new records.
    pub epoch: u64,
    /// First retained offset.
    pub start: u64,
    /// Next offset to be assigned.
    pub end: u64,
    /// Time of the last record, in Unix milliseconds.
    pub last_time_ms: u64,
    /// The epochs of the log.
    pub lineage: Lineage,
    /// Metadata, creation and close.
    pub summary: Summary,
    /// What is open.
    pub view: Arc<View>,
}
