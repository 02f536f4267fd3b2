//! A message that grows.

use std::sync::Arc;

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::MESSAGE_BYTES_MAX;

use crate::entity::agent::agent_of;
use crate::entity::at::At;
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
    /// The run that it names as the one that it is a part of, whether or not there is one; may be empty.
    pub run: Arc<str>,
    /// Bytes that it has so far.
    pub bytes: u64,
}

impl Message {
    /// One of a run that begins with so many bytes.
    #[must_use]
    pub fn new(run: &str, bytes: u64, at: &At<'_>) -> Self {
        let (principal, agent) = (at.principal.into(), at.agent.into());
        Self { offset: at.offset, principal, agent, run: run.into(), bytes }
    }

    /// Whether a writer may go on with it, by so many bytes.
    ///
    /// # Errors
    /// [`ErrorCode::NotOwner`] or [`ErrorCode::MessageTooLarge`].
    pub fn judge(&self, id: &str, bytes: u64, by: &Writer<'_>) -> Result<(), Error> {
        if by.owns(&self.principal, &self.agent) {
            return self.check_room(id, bytes);
        }
        let owner = owner(&self.principal, &self.agent);
        let message = format!("only who began the message `{id}` goes on with it: {owner}");
        Err(Error::new(ErrorCode::NotOwner, message).field("message"))
    }

    fn check_room(&self, id: &str, bytes: u64) -> Result<(), Error> {
        if self.bytes.saturating_add(bytes) <= MESSAGE_BYTES_MAX as u64 {
            return Ok(());
        }
        let message = format!(
            "the message `{id}` has {} bytes and would have {bytes} more; at most {MESSAGE_BYTES_MAX} are allowed: close it, and go on with another",
            self.bytes
        );
        Err(Error::new(ErrorCode::MessageTooLarge, message).field("message").limit(MESSAGE_BYTES_MAX))
    }

    /// The message as a part of a row.
    pub fn encode(&self, row: &mut RowWriter) {
        row.u64(self.offset).bytes(self.principal.as_bytes()).u64(self.bytes).bytes(self.agent.as_bytes());
        row.bytes(self.run.as_bytes());
    }

    /// The message of such a part, of a snapshot of this version.
    #[must_use]
    pub fn decode(row: &mut RowReader<'_>, version: u64) -> Option<Self> {
        let (offset, principal, bytes) = (row.u64()?, row.text()?.into(), row.u64()?);
        let agent = agent_of(row, version)?;
        // The third knew no runs of messages: those end as they did then.
        let run = if version > 3 { row.text()?.into() } else { Arc::default() };
        Some(Self { offset, principal, agent, run, bytes })
    }
}
