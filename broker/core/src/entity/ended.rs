//! What is remembered of an entity that has ended: that its id is taken, and, of an ask, how it ended. A row of a snapshot.

use std::sync::Arc;

use bytes::Bytes;
use longwire_proto::ask::Answer;
use longwire_proto::resolution::{AskOutcome, Resolution};

use crate::entity::ask::Ask;
use crate::entity::at::At;
use crate::row::{RowReader, RowWriter};

/// What the keys of these rows begin with.
const KEY_TAG: &[u8] = b"ended";

/// What it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A message that grew.
    Message,
    /// A run.
    Run,
    /// An ask.
    Ask,
    /// An input.
    Input,
}

/// One that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// What it was.
    pub what: What,
    /// The offset of the record that began it.
    pub offset: u64,
    /// The offset of the record that ended it.
    pub changed: u64,
    /// Whose it was.
    pub principal: Arc<str>,
    /// The agent whose it was; empty when it was nobody's as an agent.
    pub agent: Arc<str>,
    /// Of an ask: how it ended.
    outcome: Option<AskOutcome>,
    by: Arc<str>,
    time_ms: u64,
    /// The answer, while it is resident: rows have no content, so there is none in them to erase.
    answer: Option<Bytes>,
}

impl Ended {
    /// A message, a run or an input.
    #[must_use]
    pub fn plain(what: What, offset: u64, principal: &Arc<str>, agent: &Arc<str>, at: &At<'_>) -> Self {
        Self {
            what,
            offset,
            changed: at.offset,
            principal: Arc::clone(principal),
            agent: Arc::clone(agent),
            outcome: None,
            by: at.principal.into(),
            time_ms: at.time_ms,
            answer: None,
        }
    }

    /// An ask.
    #[must_use]
    pub fn ask(ask: &Ask, outcome: AskOutcome, answer: Option<&Answer>, at: &At<'_>) -> Self {
        Self {
            outcome: Some(outcome),
            answer: answer.map(|answer| answer.encode().into()),
            ..Self::plain(What::Ask, ask.offset, &ask.principal, &ask.agent, at)
        }
    }

    /// How the ask ended.
    #[must_use]
    pub fn resolution(&self) -> Option<Resolution> {
        let (offset, time_ms, answer) = (self.changed, self.time_ms, self.answer.clone());
        self.outcome.map(|outcome| Resolution { outcome, by: self.by.to_string(), offset, time_ms, answer })
    }

    /// Forgets the answer when it was erased.
    pub fn erase(&mut self, erased: &impl Fn(u64) -> bool) {
        if erased(self.changed) {
            self.answer = None;
        }
    }

    /// The key of the row.
    #[must_use]
    pub fn row_key(id: &str) -> Bytes {
        let mut key = RowWriter::default();
        key.bytes(KEY_TAG).bytes(id.as_bytes());
        key.finish()
    }

    /// The id of such a key; `None` when it is another row's.
    #[must_use]
    pub fn of_row(key: &[u8]) -> Option<&str> {
        let mut key = RowReader(key);
        (key.bytes()? == KEY_TAG).then_some(())?;
        key.text()
    }

    /// The row.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let what = match self.what {
            What::Message => 0,
            What::Run => 1,
            What::Ask => 2,
            What::Input => 3,
        };
        let mut row = RowWriter::default();
        row.u64(what).u64(self.offset).u64(self.changed).bytes(self.principal.as_bytes());
        row.bytes(self.outcome.map_or("", AskOutcome::as_str).as_bytes());
        row.bytes(self.by.as_bytes()).u64(self.time_ms).bytes(self.agent.as_bytes());
        row.finish()
    }

    /// What such a row has; `None` when it is none.
    #[must_use]
    pub fn decode(row: &[u8]) -> Option<Self> {
        let mut row = RowReader(row);
        let what = match row.u64()? {
            0 => What::Message,
            1 => What::Run,
            2 => What::Ask,
            3 => What::Input,
            _ => return None,
        };
        let (offset, changed, principal) = (row.u64()?, row.u64()?, row.text()?.into());
        let outcome = AskOutcome::parse(row.text()?);
        let (by, time_ms) = (row.text()?.into(), row.u64()?);
        // Rows of the second version end here.
        let agent = row.text().unwrap_or_default().into();
        Some(Self { what, offset, changed, principal, agent, outcome, by, time_ms, answer: None })
    }
}
