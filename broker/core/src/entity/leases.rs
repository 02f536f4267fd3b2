//! Leases among what is open: who may write as an agent, and what follows when a lease ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::input::not_consumed;
use longwire_proto::lease::{self, LeaseChange, LeaseRef, LeaseState};
use longwire_proto::limits::AGENTS_MAX;
use longwire_proto::meaning::{abandoned_message, changed_run};
use longwire_proto::run_state::RunState;

use crate::entity::Entities;
use crate::entity::agent::Agent;
use crate::entity::at::At;

impl Entities {
    /// Whether this is the live lease of its agent, and the principal's.
    ///
    /// # Errors
    /// [`ErrorCode::Fenced`].
    pub fn check_lease(&self, lease: &LeaseRef, principal: &str) -> Result<(), Error> {
        let LeaseRef { agent: name, generation } = lease;
        let live = self.view.agents.get(name.as_str()).filter(|agent| self.view.is_live(agent));
        let fenced = |message: String| Err(Error::new(ErrorCode::Fenced, message).field("lease"));
        match live {
            Some(agent) if agent.generation == *generation && *agent.principal == *principal => Ok(()),
            Some(agent) if agent.generation == *generation => fenced(format!(
                "this lease of the agent `{name}` is {}'s, and not {principal}'s",
                agent.principal
            )),
            Some(agent) => fenced(format!(
                "the lease {generation} of the agent `{name}` has ended: {} holds a later one",
                agent.principal
            )),
            None => fenced(format!(
                "the lease {generation} of the agent `{name}` has ended: claim the agent, and see what it was left with"
            )),
        }
    }

    /// When the first lease lapses whose holder was not heard since it was claimed, in Unix milliseconds.
    #[must_use]
    pub fn first_lapse_ms(&self) -> Option<u64> {
        let held = self.view.agents.values().filter(|agent| agent.held);
        held.map(|agent| agent.changed_ms.saturating_add(agent.terms.ttl_ms)).min()
    }

    /// Whether there is room for an agent of this name.
    ///
    /// # Errors
    /// [`ErrorCode::TooManyOpen`].
    pub fn check_agent_room(&self, name: &str) -> Result<(), Error> {
        let agents = &self.view.agents;
        if agents.contains_key(name) || agents.len() < AGENTS_MAX || self.idlest_agent().is_some() {
            return Ok(());
        }
        let message =
            format!("the session has {AGENTS_MAX} agents that have something to do; end some of it first");
        Err(Error::new(ErrorCode::TooManyOpen, message).limit(AGENTS_MAX))
    }

    /// The agent that has had nothing to do for longest: nobody is it, and nothing is its.
    fn idlest_agent(&self) -> Option<Arc<str>> {
        let view = &self.view;
        let runs = view.runs.values().map(|run| &*run.agent);
        let asks = view.asks.values().map(|ask| &*ask.agent);
        let inputs = view.inputs.values().map(|input| &*input.agent);
        let messages = self.messages.values().map(|message| &*message.agent);
        let busy: BTreeSet<&str> = runs.chain(asks).chain(inputs).chain(messages).collect();
        let idle =
            view.agents.iter().filter(|(name, agent)| !view.is_live(agent) && !busy.contains(&***name));
        idle.min_by_key(|(_, agent)| agent.changed_ms).map(|(name, _)| Arc::clone(name))
    }

    pub(super) fn change_lease(&mut self, change: &LeaseChange, at: &At<'_>) {
        let (name, known) = (change.agent.as_str(), self.view.agents.get(change.agent.as_str()));
        let ends = known.is_some_and(|agent| agent.held && agent.generation == change.generation);
        let has_room = known.is_some() || self.view.agents.len() < AGENTS_MAX;
        match change.state {
            LeaseState::Claimed => {
                let idlest = if has_room { None } else { self.idlest_agent() };
                // Nobody was let in so; what an import brings is bounded, too.
                if !has_room && idlest.is_none() {
                    return;
                }
                let agents = &mut Arc::make_mut(&mut self.view).agents;
                if let Some(idlest) = idlest {
                    agents.remove(&idlest);
                }
                agents.insert(name.into(), Arc::new(Agent::claimed(change.terms, at)));
            }
            LeaseState::Released | LeaseState::Lapsed if ends => {
                if let Some(agent) = Arc::make_mut(&mut self.view).agents.get_mut(name) {
                    let agent = Arc::make_mut(agent);
                    (agent.held, agent.changed_ms) = (false, at.time_ms);
                }
            }
            LeaseState::Released | LeaseState::Lapsed => {}
        }
    }

    /// What the broker writes when a lease ends.
    #[must_use]
    pub fn end_lease(&self, name: &str, state: LeaseState, reason: &str) -> Vec<Bytes> {
        self.end_lease_but(name, state, reason, &BTreeSet::new())
    }

    /// [`Entities::end_lease`], but for these runs, which end with it.
    pub(super) fn end_lease_but(
        &self,
        name: &str,
        state: LeaseState,
        reason: &str,
        ending: &BTreeSet<&str>,
    ) -> Vec<Bytes> {
        let Some(agent) = self.view.agents.get(name) else { return Vec::new() };
        let end = lease::ended(name, agent.generation, state, reason);
        let messages = self.messages.iter().filter(|(_, message)| *message.agent == *name);
        let messages = messages.map(|(id, _)| abandoned_message(id));
        let goes_on = |id: &str, run| {
            // Who gives the lease up on purpose has said which runs wait for an input.
            let rests = run == RunState::InputRequired && state == LeaseState::Released;
            run != RunState::Suspended && !rests && !ending.contains(id)
        };
        let runs = self.view.runs.iter().filter(|(id, run)| *run.agent == *name && goes_on(id, run.state));
        let runs = runs.map(|(id, _)| changed_run(id, RunState::Suspended, ""));
        let inputs = self.view.inputs.iter();
        let inputs = inputs.filter(|(_, input)| *input.agent == *name && input.is_worn_out());
        let inputs =
            inputs.map(|(id, _)| not_consumed(id, "it was delivered too often without being consumed"));
        std::iter::once(end).chain(messages).chain(runs).chain(inputs).collect()
    }
}
