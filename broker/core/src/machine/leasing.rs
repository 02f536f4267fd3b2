//! Leases: who claims them, who is heard, and what happens when nobody is.

use std::collections::BTreeMap;
use std::sync::Arc;

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::lease::{self, LeaseRef, LeaseState, Terms};
use longwire_proto::record::Sender;

use crate::command::{Claimed, Reply};
use crate::machine::Machine;

/// When the holder of a lease was heard. Not in the log: after a load every lease has all of its time again.
#[derive(Clone, Copy, Debug)]
struct Heard {
    generation: u64,
    ttl_ms: u64,
    at_ms: u64,
}

impl Heard {
    fn lapses_ms(self) -> u64 {
        self.at_ms.saturating_add(self.ttl_ms)
    }
}

/// The leases that have not ended, by their agents.
#[derive(Debug, Default)]
pub(super) struct Leases(BTreeMap<Arc<str>, Heard>);

impl Leases {
    pub(super) fn lapses_ms(&self) -> Option<u64> {
        self.0.values().map(|heard| heard.lapses_ms()).min()
    }

    fn hear(&mut self, agent: &str, generation: u64, at_ms: u64) {
        if let Some(heard) = self.0.get_mut(agent).filter(|heard| heard.generation == generation) {
            heard.at_ms = heard.at_ms.max(at_ms);
        }
    }
}

impl Machine {
    /// The session was loaded: from now on every lease has all of its time. Those of another history of the log, from before a fork or
    /// a restore, are over.
    pub fn begin_leases(&mut self, now_ms: u64) {
        let view = self.state.entities().view();
        let held = view.agents.iter().filter(|(_, agent)| agent.held);
        let heard = held.map(|(name, agent)| {
            let ttl_ms = if view.is_live(agent) { agent.terms.ttl_ms } else { 0 };
            (Arc::clone(name), Heard { generation: agent.generation, ttl_ms, at_ms: now_ms })
        });
        self.leases = Leases(heard.collect());
    }

    /// Whether a lease has not ended: the session stays in memory, where its holder is heard.
    #[must_use]
    pub fn has_leases(&self) -> bool {
        !self.leases.0.is_empty()
    }

    /// The holder of a lease was heard. Nothing when it is another lease by now.
    pub fn hear(&mut self, agent: &str, generation: u64, at_ms: u64) {
        self.leases.hear(agent, generation, at_ms);
    }

    /// When the next lease lapses unless its holder is heard.
    #[must_use]
    pub fn poll_lapse(&self) -> Option<u64> {
        self.leases.lapses_ms().filter(|_| !self.expired && !self.failed)
    }

    /// Looks whether leases have lapsed, and decides what follows. Whoever was heard is said before.
    pub fn handle_lapse(&mut self, now_ms: u64) {
        if self.expired || self.failed {
            return;
        }
        let lapsed = self.leases.0.iter().filter(|(_, heard)| heard.lapses_ms() <= now_ms);
        let lapsed: Vec<Arc<str>> = lapsed.map(|(agent, _)| Arc::clone(agent)).collect();
        for agent in &lapsed {
            self.end_lease(agent, LeaseState::Lapsed, "its holder was not heard in time", now_ms);
        }
        // Also when nothing has lapsed: the list of sessions is told when to look again.
        self.projection_changed = true;
    }

    fn end_lease(&mut self, agent: &str, state: LeaseState, reason: &str, now_ms: u64) {
        self.leases.0.remove(agent);
        let records = self.state.entities().end_lease(agent, state, reason);
        self.append_own(&records, now_ms);
        self.projection_changed = true;
    }

    /// Leases that records have ended otherwise are not waited for.
    pub(super) fn drop_ended_leases(&mut self) {
        let view = Arc::clone(self.state.entities().view());
        self.leases.0.retain(|agent, _| view.agents.get(agent).is_some_and(|agent| agent.held));
    }

    /// Whether a publish may be made with a lease; that it is made is a word of its holder.
    pub(super) fn check_lease(
        &mut self,
        lease: &LeaseRef,
        principal: &str,
        now_ms: u64,
    ) -> Result<(), Error> {
        self.check_exists()?;
        self.check_open()?;
        self.state.entities().check_lease(lease, principal)?;
        self.leases.hear(&lease.agent, lease.generation, now_ms);
        Ok(())
    }

    pub(super) fn claim(
        &mut self,
        sender: Sender,
        name: &str,
        terms: Terms,
        take_over: bool,
        going_on: Option<u64>,
        now_ms: u64,
    ) -> Result<Reply, Error> {
        self.check_exists()?;
        self.check_open()?;
        if let Some(generation) = going_on {
            let lease = LeaseRef { agent: name.to_owned(), generation };
            self.check_lease(&lease, &sender.principal, now_ms)?;
            return Ok(self.claimed(name));
        }
        let view = Arc::clone(self.state.entities().view());
        if let Some(agent) = view.agents.get(name).filter(|agent| agent.held) {
            let is_live = view.is_live(agent);
            if is_live && !take_over {
                let lapses_ms = self.leases.0.get(name).map_or(now_ms, |heard| heard.lapses_ms());
                return Err(held(name, &agent.principal, lapses_ms.saturating_sub(now_ms).max(1)));
            }
            let reason = if is_live { format!("{} took it over", sender.principal) } else { String::new() };
            self.end_lease(name, LeaseState::Lapsed, &reason, now_ms);
        }
        self.state.entities().check_agent_room(name)?;
        let generation = self.state.end();
        self.append_by(sender, &[lease::claimed(name, terms)], now_ms);
        let heard = Heard { generation, ttl_ms: terms.ttl_ms, at_ms: now_ms };
        self.leases.0.insert(name.into(), heard);
        self.projection_changed = true;
        Ok(self.claimed(name))
    }

    pub(super) fn release(&mut self, lease: &LeaseRef, principal: &str, now_ms: u64) -> Result<Reply, Error> {
        self.check_lease(lease, principal, now_ms)?;
        self.end_lease(&lease.agent, LeaseState::Released, "", now_ms);
        Ok(Reply::Released)
    }

    fn claimed(&self, name: &str) -> Reply {
        let (epoch, view) = (self.state.lineage().epoch(), Arc::clone(self.state.entities().view()));
        Reply::Claimed(Box::new(Claimed { agent: name.into(), epoch, view }))
    }
}

fn held(name: &str, by: &str, lapses_after_ms: u64) -> Error {
    let message = format!(
        "{by} holds the lease of the agent `{name}`: try again when it has ended, or take it over if you manage the session"
    );
    Error::new(ErrorCode::LeaseHeld, message).field("agent").retry_after_ms(lapses_after_ms)
}
