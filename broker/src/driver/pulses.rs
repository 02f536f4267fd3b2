//! By which the holders of a session's leases are heard.

use std::collections::HashMap;
use std::sync::Arc;

use crate::pulse::Pulse;

/// Agent, generation, and pulse of the connection that claimed. There is at most one an agent.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulses(HashMap<Arc<str>, (u64, Arc<Pulse>)>);

impl Pulses {
    /// This lease was claimed by who is heard by this pulse.
    pub(super) fn insert(&mut self, agent: Arc<str>, generation: u64, pulse: Arc<Pulse>) {
        self.0.insert(agent, (generation, pulse));
    }

    /// Each lease, and when its holder was heard, in Unix milliseconds.
    pub(super) fn heard(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.0.iter().map(|(agent, (generation, pulse))| (&**agent, *generation, pulse.last_ms()))
    }
}
