//! What somebody wants of an agent.

use std::sync::Arc;

use longwire_proto::record::kind;
use longwire_proto::wire;
use longwire_proto::wire::record::Body as WireBody;
use tokio_util::sync::CancellationToken;

use crate::error::PublishError;
use crate::publication::Publication;
use crate::record::Record;
use crate::worker::context::Active;

/// What an input is to what the agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It changes how the agent goes on.
    Steer,
    /// It is for afterwards.
    Followup,
    /// What the agent does is to stop for it.
    Preempt,
}

impl Mode {
    pub(crate) fn of(mode: &str) -> Self {
        match mode {
            "steer" => Self::Steer,
            "preempt" => Self::Preempt,
            _ => Self::Followup,
        }
    }

    /// The mode as a record has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Steer => "steer",
            Self::Followup => "followup",
            Self::Preempt => "preempt",
        }
    }
}

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

    /// What it is to what the agent does.
    #[must_use]
    pub fn mode(&self) -> Mode {
        Mode::of(&self.record.mode)
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
        let run = self.active.run.id().to_owned();
        self.end(wire::Receipt { state: "consumed".to_owned(), run, ..Default::default() }).await
    }

    /// It is not going to be done, for this reason: whoever sent it is told.
    ///
    /// # Errors
    /// As [`Self::done`].
    pub async fn refuse(self, reason: impl Into<String>) -> Result<(), PublishError> {
        let (state, reason) = ("not_consumed".to_owned(), reason.into());
        self.end(wire::Receipt { state, reason, ..Default::default() }).await
    }

    async fn end(self, receipt: wire::Receipt) -> Result<(), PublishError> {
        let publication = self::receipt(self.id(), receipt);
        self.active.session.publish(publication).await.map(drop)
    }
}

/// What became of an input.
pub(crate) fn receipt(input: &str, receipt: wire::Receipt) -> Publication {
    Publication::entity(kind::INPUT, WireBody::Receipt(receipt)).reply_to(input)
}
