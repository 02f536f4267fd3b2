//! What somebody wants of an agent.

use std::sync::Arc;

use longwire_proto::input::Mode;
use tokio_util::sync::CancellationToken;

use crate::error::PublishError;
use crate::record::Record;
use crate::worker::context::Active;

/// An input that the agent has taken. End it: one that is dropped is given again, to this worker or to another one.
#[derive(Debug)]
pub struct Input {
    record: Record,
    active: Arc<Active>,
    stop: CancellationToken,
}

impl Input {
    pub(crate) fn new(record: Record, active: Arc<Active>, stop: CancellationToken) -> Self {
        Self { record, active, stop }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// What was said; empty when it is no text.
    #[must_use]
    pub fn text(&self) -> &str {
        self.record.text().unwrap_or_default()
    }

    /// How it is meant.
    #[must_use]
    pub fn mode(&self) -> Mode {
        Mode::parse(&self.record.mode).unwrap_or_default()
    }

    /// The whole record: who sent it, its headers and its body.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Cancelled when what the agent does for this input is to stop: the run was cancelled, or another input preempts it.
    #[must_use]
    pub fn stopped(&self) -> &CancellationToken {
        &self.stop
    }

    /// It was done, by the run of this handler: durably, and nobody else does it.
    ///
    /// # Errors
    /// [`PublishError`]; with [`longwire_proto::error::ErrorCode::Fenced`] the lease has ended, and whoever has it now does the input again.
    pub async fn done(self) -> Result<(), PublishError> {
        self.active.lease.consumed(self.id(), self.active.run.id()).await
    }

    /// It is not going to be done, for this reason: whoever sent it is told.
    ///
    /// # Errors
    /// As [`Self::done`].
    pub async fn refuse(self, reason: impl Into<String>) -> Result<(), PublishError> {
        self.active.lease.not_consumed(self.id(), &reason.into()).await
    }
}
