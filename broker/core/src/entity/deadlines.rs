//! What ends because its time has come.

use std::collections::BTreeSet;

use bytes::Bytes;
use longwire_proto::lease::LeaseState;
use longwire_proto::meaning::{changed_run, ended_ask};
use longwire_proto::resolution::AskOutcome;
use longwire_proto::run_state::RunState;

use crate::entity::Entities;
use crate::entity::run::Run;

impl Entities {
    /// When the next thing is due that follows from records alone, in Unix milliseconds: an ask expires, a cancelled run is ended, or
    /// suspended ones are.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u64> {
        self.deadline_ms
    }

    /// [`Entities::deadline_ms`], found anew.
    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        let asks = self.view.asks.values().filter_map(|ask| ask.expires_at_ms());
        let cancels =
            self.view.runs.values().filter_map(|run| run.cancel.as_ref().map(|cancel| cancel.at_ms));
        let adoptions = self.view.runs.values().filter_map(|run| self.adopt_by_ms(run));
        asks.chain(cancels).chain(adoptions).min()
    }

    /// Until when a run waits for the next holder of its agent's lease.
    fn adopt_by_ms(&self, run: &Run) -> Option<u64> {
        self.view.agents.get(&run.agent)?.adopt_by_ms()
    }

    /// Records that the broker writes because their time has come. What follows from them is to be asked for then.
    #[must_use]
    pub fn due(&self, now_ms: u64) -> Vec<Bytes> {
        let asks =
            self.view.asks.iter().filter(|(_, ask)| ask.expires_at_ms().is_some_and(|at| at <= now_ms));
        let asks = asks.map(|(id, _)| ended_ask(id, AskOutcome::Expired, "nobody answered in time"));
        let runs = self.view.runs.iter();
        let cancelled =
            runs.filter(|(_, run)| run.cancel.as_ref().is_some_and(|cancel| cancel.at_ms <= now_ms));
        let cancelled: Vec<_> = cancelled.collect();
        let ending: BTreeSet<&str> = cancelled.iter().map(|(id, _)| &***id).collect();
        let agents: BTreeSet<&str> = cancelled.iter().map(|(_, run)| &*run.agent).collect();
        let held =
            agents.into_iter().filter(|name| self.view.agents.get(*name).is_some_and(|agent| agent.held));
        let leases = held.flat_map(|name| {
            let reason = "a run that was cancelled had not ended by its deadline";
            self.end_lease_but(name, LeaseState::Lapsed, reason, &ending)
        });
        let ends =
            ending.iter().map(|id| changed_run(id, RunState::Cancelled, "it had not ended by its deadline"));
        let waiting = self.view.runs.iter().filter(|(id, run)| {
            !ending.contains(&***id) && self.adopt_by_ms(run).is_some_and(|at| at <= now_ms)
        });
        let waiting =
            waiting.map(|(id, _)| changed_run(id, RunState::Abandoned, "nobody went on with it in time"));
        asks.chain(leases).chain(ends).chain(waiting).collect()
    }
}
