//! An input that was not consumed yet.

use std::sync::Arc;

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::input::{self, Mode};
use longwire_proto::limits::INPUT_ATTEMPTS_MAX;

use crate::entity::at::At;
use crate::entity::standing::Writer;
use crate::row::{RowReader, RowWriter};

/// One that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The offset of its record.
    pub offset: u64,
    /// When that was, in Unix milliseconds.
    pub time_ms: u64,
    /// Who sent it.
    pub principal: Arc<str>,
    /// The agent that it is to.
    pub agent: Arc<str>,
    /// How it is meant.
    pub mode: Mode,
    /// To how many leases of the agent it was delivered.
    pub attempts: u64,
    /// The generation of the last of them.
    delivered_to: u64,
}

impl Input {
    /// The input of a record.
    #[must_use]
    pub fn new(input: &input::Input, at: &At<'_>) -> Self {
        Self {
            offset: at.offset,
            time_ms: at.time_ms,
            principal: at.principal.into(),
            agent: input.agent.as_str().into(),
            mode: input.mode,
            attempts: 0,
            delivered_to: 0,
        }
    }

    /// Whether a writer may say what becomes of it.
    ///
    /// # Errors
    /// [`ErrorCode::NotOwner`].
    pub fn judge(&self, id: &str, by: &Writer<'_>) -> Result<(), Error> {
        if *self.agent == *by.agent {
            return Ok(());
        }
        let message = format!(
            "the input `{id}` is to the agent `{}`: only who holds its lease, and publishes with it, says what became of it",
            self.agent
        );
        Err(Error::new(ErrorCode::NotOwner, message).field("reply_to"))
    }

    /// It was delivered to a lease, perhaps not for the first time.
    pub fn deliver(&mut self, generation: u64) {
        if self.attempts == 0 || self.delivered_to != generation {
            self.attempts += 1;
            self.delivered_to = generation;
        }
    }

    /// Whether it is not given to another lease any more.
    #[must_use]
    pub fn is_worn_out(&self) -> bool {
        self.attempts >= INPUT_ATTEMPTS_MAX as u64
    }

    /// The input as a part of a row.
    pub fn encode(&self, row: &mut RowWriter) {
        row.u64(self.offset).u64(self.time_ms).bytes(self.principal.as_bytes()).bytes(self.agent.as_bytes());
        row.bytes(self.mode.as_str().as_bytes()).u64(self.attempts).u64(self.delivered_to);
    }

    /// The input of such a part.
    #[must_use]
    pub fn decode(row: &mut RowReader<'_>) -> Option<Self> {
        let (offset, time_ms, principal, agent) =
            (row.u64()?, row.u64()?, row.text()?.into(), row.text()?.into());
        let (mode, attempts, delivered_to) = (Mode::parse(row.text()?)?, row.u64()?, row.u64()?);
        Some(Self { offset, time_ms, principal, agent, mode, attempts, delivered_to })
    }
}
