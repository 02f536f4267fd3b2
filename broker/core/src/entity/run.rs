//! A run: what its records have made of it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::COUNTERS_MAX;
use longwire_proto::meaning::Progress;
use longwire_proto::run_state::RunState;

use crate::entity::agent::agent_of;
use crate::entity::at::At;
use crate::entity::standing::{Writer, owner};
use crate::row::{RowReader, RowWriter};

/// That a run is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancel {
    /// Who wants that.
    pub by: Arc<str>,
    /// Since when, in Unix milliseconds.
    pub since_ms: u64,
    /// When it is ended, unless it has ended by then.
    pub at_ms: u64,
}

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The offset of the record that started it.
    pub offset: u64,
    /// When that was, in Unix milliseconds.
    pub started_ms: u64,
    /// The offset of its last record.
    pub changed: u64,
    /// When that was.
    pub changed_ms: u64,
    /// Whose it is.
    pub principal: Arc<str>,
    /// The agent whose it is; empty when it was started without a lease.
    pub agent: Arc<str>,
    /// For humans.
    pub title: String,
    /// The run that it is a part of; may be empty.
    pub parent: Arc<str>,
    /// What it does, or how it ended.
    pub state: RunState,
    /// Of all that is to be done.
    pub fraction: Option<f64>,
    /// For humans.
    pub note: String,
    /// Such as tokens and cost.
    pub counters: BTreeMap<String, f64>,
    /// Somebody wants it to end.
    pub cancel: Option<Cancel>,
}

impl Run {
    /// The run that a record starts.
    #[must_use]
    pub fn new(progress: &Progress, at: &At<'_>) -> Self {
        let mut run = Self {
            offset: at.offset,
            started_ms: at.time_ms,
            changed: at.offset,
            changed_ms: at.time_ms,
            principal: at.principal.into(),
            agent: at.agent.into(),
            title: String::new(),
            parent: progress.parent.as_str().into(),
            state: RunState::Working,
            fraction: None,
            note: String::new(),
            counters: BTreeMap::new(),
            cancel: None,
        };
        run.change(progress, at);
        run
    }

    /// Whether a writer may change it.
    ///
    /// # Errors
    /// [`ErrorCode::NotOwner`].
    pub fn judge(&self, id: &str, by: &Writer<'_>) -> Result<(), Error> {
        if by.owns(&self.principal, &self.agent) || by.standing.manages {
            return Ok(());
        }
        let owner = owner(&self.principal, &self.agent);
        let message = format!("only {owner} and who manages the session can change the run `{id}`");
        Err(Error::new(ErrorCode::NotOwner, message).field("run"))
    }

    /// Takes a change over.
    pub fn change(&mut self, progress: &Progress, at: &At<'_>) {
        (self.changed, self.changed_ms) = (at.offset, at.time_ms);
        if !progress.title.is_empty() {
            self.title.clone_from(&progress.title);
        }
        if !progress.note.is_empty() {
            self.note.clone_from(&progress.note);
        }
        self.state = progress.state.unwrap_or(self.state);
        self.fraction = progress.fraction.or(self.fraction);
        for (name, value) in &progress.counters {
            if self.counters.len() < COUNTERS_MAX || self.counters.contains_key(name) {
                self.counters.insert(name.clone(), *value);
            }
        }
    }

    /// Somebody wants it to end: it has until then, or until an earlier time that was named before.
    pub fn cancel(&mut self, deadline_ms: u64, at: &At<'_>) {
        let at_ms = at.time_ms.saturating_add(deadline_ms);
        match &mut self.cancel {
            Some(cancel) => cancel.at_ms = cancel.at_ms.min(at_ms),
            None => self.cancel = Some(Cancel { by: at.principal.into(), since_ms: at.time_ms, at_ms }),
        }
    }

    /// Whether one of its records may be at these offsets.
    #[must_use]
    pub fn is_touched(&self, ranges: &[Range<u64>]) -> bool {
        ranges.iter().any(|range| range.start <= self.changed && self.offset < range.end)
    }

    /// Forgets what records at offsets that are erased may have said: which of its records said what is not known.
    pub fn erase(&mut self, erased: &impl Fn(u64) -> bool) {
        if erased(self.offset) {
            self.title.clear();
        }
        self.note.clear();
        self.counters.clear();
    }

    /// Bytes that it takes in what a subscriber is told.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let counters: usize = self.counters.keys().map(|name| name.len() + size_of::<f64>()).sum();
        self.title.len() + self.note.len() + self.principal.len() + self.parent.len() + counters
    }

    /// The run as a part of a row.
    pub fn encode(&self, row: &mut RowWriter) {
        row.u64(self.offset).u64(self.started_ms).u64(self.changed).u64(self.changed_ms);
        row.bytes(self.principal.as_bytes()).bytes(self.title.as_bytes()).bytes(self.parent.as_bytes());
        row.bytes(self.state.as_str().as_bytes()).bytes(self.note.as_bytes());
        row.u64(u64::from(self.fraction.is_some())).u64(self.fraction.unwrap_or_default().to_bits());
        row.u64(self.counters.len() as u64);
        for (name, value) in &self.counters {
            row.bytes(name.as_bytes()).u64(value.to_bits());
        }
        row.bytes(self.agent.as_bytes()).u64(u64::from(self.cancel.is_some()));
        if let Some(cancel) = &self.cancel {
            row.bytes(cancel.by.as_bytes()).u64(cancel.since_ms).u64(cancel.at_ms);
        }
    }

    /// The run of such a part, of a snapshot of this version.
    #[must_use]
    pub fn decode(row: &mut RowReader<'_>, version: u64) -> Option<Self> {
        let (offset, started_ms, changed, changed_ms) = (row.u64()?, row.u64()?, row.u64()?, row.u64()?);
        let (principal, title, parent) = (row.text()?.into(), row.text()?.to_owned(), row.text()?.into());
        let (state, note) = (RunState::parse(row.text()?)?, row.text()?.to_owned());
        let (has_fraction, bits) = (row.u64()? != 0, row.u64()?);
        let counters = (0..row.u64()?)
            .map(|_| Some((row.text()?.to_owned(), f64::from_bits(row.u64()?))))
            .collect::<Option<_>>()?;
        let fraction = has_fraction.then(|| f64::from_bits(bits));
        let agent = agent_of(row, version)?;
        let is_cancelled = version > 2 && row.u64()? != 0;
        let cancel = if is_cancelled {
            Some(Cancel { by: row.text()?.into(), since_ms: row.u64()?, at_ms: row.u64()? })
        } else {
            None
        };
        Some(Self {
            offset,
            started_ms,
            changed,
            changed_ms,
            principal,
            agent,
            title,
            parent,
            state,
            fraction,
            note,
            counters,
            cancel,
        })
    }
}
