//! What a session is apart from its records: the row of the session list, and the head of a snapshot.

use bytes::Bytes;
use longwire_proto::meta::{Change, Meta};

use crate::entity::view::Status;
use crate::row::{RowReader, RowWriter};
use crate::term;

/// What the list of sessions keeps of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Projection {
    /// The summary as a row.
    pub row: Bytes,
    /// What it can be found by, see [`term`]; sorted, without repetitions.
    pub terms: Vec<Bytes>,
    /// When its owner must look at it, in Unix milliseconds.
    pub deadline_ms: Option<u64>,
}

/// Metadata, creation and close of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Time of the first record, in Unix milliseconds.
    pub created_ms: u64,
    /// Whether the session takes no more publishes. Never becomes false again.
    pub closed: bool,
    /// Title, labels and parent.
    pub meta: Meta,
    /// What it is doing, unless it is closed.
    pub status: Status,
}

impl Summary {
    /// Takes a change over. Closing is monotonic.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Meta(meta) => self.meta = meta,
            Change::Close { .. } => self.closed = true,
            Change::Origin { meta, .. } => (self.meta, self.closed) = (meta, false),
            Change::Erase { .. } => {}
        }
    }

    /// What a session with this summary is found by in the list of sessions. `wake_ms` is when its owner must look
    /// at it apart from its expiry.
    #[must_use]
    pub fn projection(&self, last_time_ms: u64, wake_ms: Option<u64>) -> Projection {
        let expires_ms = self.meta.expiry.deadline_ms(last_time_ms);
        Projection {
            row: self.encode(),
            terms: term::of(&self.meta, self.closed, self.status),
            deadline_ms: [expires_ms, wake_ms].into_iter().flatten().min(),
        }
    }

    /// The summary as a row.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut row = RowWriter::default();
        row.u64(self.created_ms).u64(u64::from(self.closed)).bytes(&self.meta.encode());
        // As most are idle, most rows do without.
        if self.status != Status::Idle {
            row.u64(self.status.number());
        }
        row.finish()
    }

    /// The summary of a row; `None` when the row is not one.
    #[must_use]
    pub fn decode(row: &[u8]) -> Option<Self> {
        let mut row = RowReader(row);
        let (created_ms, closed, meta) = (row.u64()?, row.u64()? != 0, Meta::decode(row.bytes()?)?);
        Some(Self { created_ms, closed, meta, status: Status::from_number(row.u64().unwrap_or_default()) })
    }
}
