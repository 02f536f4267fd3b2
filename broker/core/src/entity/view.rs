//! What subscribers are told of what is open.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use crate::entity::agent::Agent;
use crate::entity::ask::Ask;
use crate::entity::entry::Entry;
use crate::entity::input::Input;
use crate::entity::run::Run;

/// What a session is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Nothing is open.
    #[default]
    Idle,
    /// A run, a message or an input is.
    Working,
    /// An ask is.
    InputRequired,
}

impl Status {
    /// The status as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Working => "working",
            Self::InputRequired => "input_required",
        }
    }

    /// The status as a number of a row.
    #[must_use]
    pub fn number(self) -> u64 {
        match self {
            Self::Idle => 0,
            Self::Working => 1,
            Self::InputRequired => 2,
        }
    }

    /// The status of a row.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        match number {
            1 => Self::Working,
            2 => Self::InputRequired,
            _ => Self::Idle,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Open asks and runs, by their ids, and the runs that ended last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Asks without an answer.
    pub asks: BTreeMap<Arc<str>, Arc<Ask>>,
    /// Runs that have not ended.
    pub runs: BTreeMap<Arc<str>, Arc<Run>>,
    /// Those that have, the last one last.
    pub ended_runs: VecDeque<(Arc<str>, Arc<Run>)>,
    /// How many messages grow.
    pub messages: usize,
    /// Agents that somebody is, or was.
    pub agents: BTreeMap<Arc<str>, Arc<Agent>>,
    /// Inputs that were not consumed yet.
    pub inputs: BTreeMap<Arc<str>, Arc<Input>>,
    /// The session's keyed state.
    pub state: BTreeMap<Arc<str>, Arc<Entry>>,
    /// The offset at which the log's last epoch begins: leases from before are of another history, and of nobody here.
    pub own_from: u64,
}

impl View {
    /// Whether somebody holds the lease of an agent.
    #[must_use]
    pub fn is_live(&self, agent: &Agent) -> bool {
        agent.held && agent.generation >= self.own_from
    }

    /// What the session is doing, unless it is closed.
    #[must_use]
    pub fn status(&self) -> Status {
        let is_at_rest = self.runs.is_empty() && self.messages == 0 && self.inputs.is_empty();
        match (self.asks.is_empty(), is_at_rest) {
            (false, _) => Status::InputRequired,
            (true, false) => Status::Working,
            (true, true) => Status::Idle,
        }
    }

    /// Bytes that it takes to tell all of it, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let asks: usize = self.asks.iter().map(|(id, ask)| id.len() + ask.bytes()).sum();
        let runs: usize = self.runs.iter().map(|(id, run)| id.len() + run.bytes()).sum();
        asks + runs
    }

    /// Whether nothing is there to be told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let works = !(self.runs.is_empty() && self.ended_runs.is_empty() && self.messages == 0);
        let waits = !(self.asks.is_empty() && self.inputs.is_empty());
        !works && !waits && self.agents.is_empty() && self.state.is_empty()
    }

    /// Whether one of a run's asks is open.
    #[must_use]
    pub fn waits(&self, run: &str) -> bool {
        self.asks.values().any(|ask| &*ask.run == run)
    }
}
