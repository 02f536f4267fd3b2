//! What an owner does about leases: it hears their holders, and has the machine look when one was silent for too long.

use std::collections::HashMap;
use std::sync::Arc;

use longwire_core::command::Claimed;

use crate::driver::owner::Owner;
use crate::pulse::Pulse;
use crate::store::list::is_hidden;

/// By which the holders of leases are heard: agent, generation, pulse of the connection that claimed. There is at most one an agent.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulses(HashMap<Arc<str>, (u64, Arc<Pulse>)>);

impl Owner {
    /// The session was loaded: its leases have all of their time again.
    pub(super) fn begin_leases(&mut self) {
        // Of what is being imported nothing is anybody's yet, and what comes next is in the export.
        if is_hidden(&self.session) {
            self.loaded.machine.hold();
        } else {
            self.loaded.machine.begin_leases(self.clock.now_ms());
        }
    }

    /// A lease was claimed by who is heard by this pulse.
    pub(super) fn claimed(&mut self, claimed: &Claimed, pulse: Option<Arc<Pulse>>) {
        let lease = claimed.view.agents.get(&claimed.agent);
        if let (Some(lease), Some(pulse)) = (lease, pulse) {
            self.pulses.0.insert(Arc::clone(&claimed.agent), (lease.generation, pulse));
        }
    }

    /// Looks whether the holder of a lease was silent for too long.
    pub(super) fn look_after_leases(&mut self) {
        let now_ms = self.clock.now_ms();
        let machine = &mut self.loaded.machine;
        if machine.poll_lapse().is_none_or(|lapses_ms| lapses_ms > now_ms) {
            return;
        }
        for (agent, (generation, pulse)) in &self.pulses.0 {
            machine.hear(agent, *generation, pulse.last_ms());
        }
        machine.handle_lapse(now_ms);
        if !machine.has_leases() {
            self.pulses = Pulses::default();
        }
    }

    /// Those of the next turn.
    pub(super) fn take_pulses(&mut self) -> Pulses {
        std::mem::take(&mut self.pulses)
    }
}
