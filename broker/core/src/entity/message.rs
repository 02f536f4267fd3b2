//! A message that grows.

use std::sync::Arc;

use longwire_proto::error::{Error, ErrorCode};

use crate::entity::At;
use crate::entity::snapshot::agent_of;
use crate::entity::standing::{Writer, owner};
use crate::row::{RowReader, RowWriter};

/// One that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The offset of the record that began it.
    pub offset: u64,
    /// Whose it is.
    pub principal: Arc<str>,
    /// The agent whose it is; empty when it was begun without a lease.
    pub agent: Arc<str>,
    /// Bytes that it has so far.
    pub bytes: u64,
}

impl Message {
    /// One that begins with so many bytes.
    #[must_use]
    pub fn new(at: &At<'_>, bytes: u64) -> Self {
        Self { offset: at.offset, principal: at.principal.into(), agent: at.agent.into(), bytes }
    }

    /// Whether a writer may go on with it.
    ///
    /// # Errors
    /// [`ErrorCode::NotOwner`].
    pub fn judge(&self, id: &str, by: &Writer<'_>) -> Result<(), Error> {
        if by.owns(&self.principal, &self.agent) {
            return Ok(());
        }
        let owner = owner(&self.principal, &self.agent);
        let message = format!("only who began the message `{id}` goes on with it: {owner}");
        Err(Error::new(ErrorCode::NotOwner, message).field("message"))
    }

    /// The message as a part of a row.
    pub fn encode(&self, row: &mut RowWriter) {
        row.u64(self.offset).bytes(self.principal.as_bytes()).u64(self.bytes).bytes(self.agent.as_bytes());
    }

    /// The message of such a part, of a snapshot of this version.
    #[must_use]
    pub fn decode(row: &mut RowReader<'_>, version: u64) -> Option<Self> {
        let (offset, principal, bytes) = (row.u64()?, row.text()?.into(), row.u64()?);
        Some(Self { offset, principal, agent: agent_of(row, version)?, bytes })
    }
}
