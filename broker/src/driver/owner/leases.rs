//! What an owner does about leases: it hears their holders, and has the machine look when one was silent for too long.

use std::sync::Arc;

use longwire_core::command::Claimed;

use crate::driver::owner::Owner;
use crate::driver::pulses::Pulses;
use crate::pulse::Pulse;
use crate::store::list::is_unfinished;

impl Owner {
    /// The session was loaded: its leases have all of their time again.
    pub(in crate::driver) fn begin_leases(&mut self) {
        // Of what is being imported nothing is anybody's yet, and what comes next is in the export.
        if is_unfinished(&self.session) {
            self.loaded.machine.hold();
        } else {
            self.loaded.machine.begin_leases(self.clock.now_ms());
        }
    }

    /// A lease was claimed by who is heard by this pulse.
    pub(in crate::driver) fn claimed(&mut self, claimed: &Claimed, pulse: Option<Arc<Pulse>>) {
        let lease = claimed.view.agents.get(&claimed.agent);
        if let (Some(lease), Some(pulse)) = (lease, pulse) {
            self.pulses.insert(Arc::clone(&claimed.agent), lease.generation, pulse);
        }
    }

    /// Looks whether the holder of a lease was silent for too long.
    pub(in crate::driver) fn look_after_leases(&mut self) {
        let now_ms = self.clock.now_ms();
        let machine = &mut self.loaded.machine;
        if machine.poll_lapse().is_none_or(|lapses_ms| lapses_ms > now_ms) {
            return;
        }
        for (agent, generation, at_ms) in self.pulses.heard() {
            machine.hear(agent, generation, at_ms);
        }
        machine.handle_lapse(now_ms);
        if !machine.has_leases() {
            self.pulses = Pulses::default();
        }
    }

    /// Those of the next turn.
    pub(in crate::driver) fn take_pulses(&mut self) -> Pulses {
        std::mem::take(&mut self.pulses)
    }
}
