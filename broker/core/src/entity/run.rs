//! A run: what its records have made of it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::COUNTERS_MAX;
use longwire_proto::meaning::Progress;
use longwire_proto::run_state::RunState;

use crate::entity::At;
use crate::entity::standing::Writer;
use crate::row::{RowReader, RowWriter};

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
            title: String::new(),
            parent: progress.parent.as_str().into(),
            state: RunState::Working,
            fraction: None,
            note: String::new(),
            counters: BTreeMap::new(),
        };
        run.change(progress, at);
        run
    }

    /// Whether a writer may change it.
    ///
    /// # Errors
    /// [`ErrorCode::NotOwner`].
    pub fn judge(&self, id: &str, by: &Writer<'_>) -> Result<(), Error> {
        if *self.principal == *by.principal || by.standing.manages {
            return Ok(());
        }
        let message = format!(
            "the run `{id}` is {}'s: only who started a run changes it, and who manages the session",
            self.principal
        );
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
    }

    /// The run of such a part.
    #[must_use]
    pub fn decode(row: &mut RowReader<'_>) -> Option<Self> {
        let (offset, started_ms, changed, changed_ms) = (row.u64()?, row.u64()?, row.u64()?, row.u64()?);
        let (principal, title, parent) = (row.text()?.into(), row.text()?.to_owned(), row.text()?.into());
        let (state, note) = (RunState::parse(row.text()?)?, row.text()?.to_owned());
        let (has_fraction, bits) = (row.u64()? != 0, row.u64()?);
        let counters = (0..row.u64()?)
            .map(|_| Some((row.text()?.to_owned(), f64::from_bits(row.u64()?))))
            .collect::<Option<_>>()?;
        let fraction = has_fraction.then(|| f64::from_bits(bits));
        Some(Self {
            offset,
            started_ms,
            changed,
            changed_ms,
            principal,
            title,
            parent,
            state,
            fraction,
            note,
            counters,
        })
    }
}
