//! An ask that is open: who may answer, and what.

use std::sync::Arc;

use longwire_proto::ask::{self, Answer};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::meaning::Question;
use longwire_proto::resolution::{AskOutcome, Resolution};

use crate::entity::agent::agent_of;
use crate::entity::at::At;
use crate::entity::standing::{BROKER, Writer, owner};
use crate::row::{RowReader, RowWriter};

/// One that is open.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// The offset of the record that asks.
    pub offset: u64,
    /// When that was, in Unix milliseconds.
    pub time_ms: u64,
    /// Who asks.
    pub principal: Arc<str>,
    /// The agent whose it is; empty when it was asked without a lease.
    pub agent: Arc<str>,
    /// Principals that may answer.
    pub to: Vec<String>,
    /// The run that it belongs to; may be empty.
    pub run: Arc<str>,
    /// What is asked.
    pub ask: ask::Ask,
}

impl Ask {
    /// The ask of a record.
    #[must_use]
    pub fn new(question: &Question, at: &At<'_>) -> Self {
        Self {
            offset: at.offset,
            time_ms: at.time_ms,
            principal: at.principal.into(),
            agent: at.agent.into(),
            to: question.to.clone(),
            run: question.run.as_str().into(),
            ask: question.ask.clone(),
        }
    }

    /// When it expires, in Unix milliseconds.
    #[must_use]
    pub fn expires_at_ms(&self) -> Option<u64> {
        self.ask.expires_at_ms()
    }

    /// Bytes that it takes in what a subscriber is told.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let to: usize = self.to.iter().map(String::len).sum();
        self.ask.bytes() + to + self.principal.len() + self.run.len()
    }

    /// Whether a writer may end it so.
    ///
    /// # Errors
    /// [`ErrorCode::NotAddressed`], [`ErrorCode::NotOwner`], [`ErrorCode::InvalidAnswer`], or [`ErrorCode::AlreadyResolved`] when its time
    /// is over: its end is written then, too, but not yet.
    pub fn judge(
        &self,
        outcome: AskOutcome,
        answer: &Answer,
        by: &Writer<'_>,
        now_ms: u64,
    ) -> Result<(), Error> {
        match outcome {
            AskOutcome::Expired => {
                let message = "an ask expires by itself; answer it, or end it with `denied` or `cancelled`";
                return Err(Error::new(ErrorCode::InvalidAnswer, message).field("outcome"));
            }
            AskOutcome::Cancelled if by.owns(&self.principal, &self.agent) || by.standing.manages => {
                return Ok(());
            }
            AskOutcome::Cancelled => {
                let owner = owner(&self.principal, &self.agent);
                let message = format!(
                    "only {owner} and who manages the session can cancel this ask; it can be `denied`"
                );
                return Err(Error::new(ErrorCode::NotOwner, message).field("outcome"));
            }
            AskOutcome::Answered | AskOutcome::Denied => {}
        }
        if let Some(time_ms) = self.expires_at_ms().filter(|at_ms| *at_ms <= now_ms) {
            let resolved = Resolution {
                outcome: AskOutcome::Expired,
                by: BROKER.to_owned(),
                offset: self.offset,
                time_ms,
                answer: None,
            };
            return Err(Error::new(ErrorCode::AlreadyResolved, "the time to answer this is over")
                .field("reply_to")
                .resolved(resolved));
        }
        let addressed =
            (self.to.is_empty() && self.ask.roles().is_empty()) || by.is_any_of(&self.to, self.ask.roles());
        if !addressed {
            let message =
                format!("this is asked of {}, and {} is not among them", self.addressees(), by.principal);
            return Err(Error::new(ErrorCode::NotAddressed, message).field("reply_to"));
        }
        if outcome == AskOutcome::Answered { self.ask.check_takes(answer) } else { Ok(()) }
    }

    fn addressees(&self) -> String {
        let roles = self.ask.roles().iter().map(|role| format!("every {role}"));
        self.to.iter().cloned().chain(roles).collect::<Vec<_>>().join(", ")
    }

    /// The ask as a part of a row.
    pub fn encode(&self, row: &mut RowWriter) {
        row.u64(self.offset).u64(self.time_ms).bytes(self.principal.as_bytes()).bytes(self.run.as_bytes());
        row.u64(self.to.len() as u64);
        for principal in &self.to {
            row.bytes(principal.as_bytes());
        }
        row.bytes(&self.ask.encode()).bytes(self.agent.as_bytes());
    }

    /// The ask of such a part, of a snapshot of this version.
    #[must_use]
    pub fn decode(row: &mut RowReader<'_>, version: u64) -> Option<Self> {
        let (offset, time_ms, principal, run) =
            (row.u64()?, row.u64()?, row.text()?.into(), row.text()?.into());
        let to = (0..row.u64()?).map(|_| Some(row.text()?.to_owned())).collect::<Option<_>>()?;
        let ask = ask::Ask::decode(row.bytes()?)?;
        Some(Self { offset, time_ms, principal, agent: agent_of(row, version)?, to, run, ask })
    }
}
