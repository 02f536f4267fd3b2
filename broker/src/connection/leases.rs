//! Claims of one connection: what comes on it renews the leases that were claimed here.

use std::sync::Arc;

use longwire_core::command::Command;
use longwire_proto::error::Error;
use longwire_proto::wire;

use crate::auth::operation::Operation as Asks;
use crate::connection::access::{Access, Creation};
use crate::connection::{Connection, request};
use crate::pulse::Pulse;
use crate::request::Operation;
use crate::transport::{FrameSink, FrameSource};

impl<R: FrameSource, W: FrameSink> Connection<R, W> {
    pub(super) fn claim(&mut self, claim: wire::Claim) {
        if !claim.pattern.is_empty() {
            return self.claim_next(claim);
        }
        let asks = if claim.take_over { Asks::TakeOver } else { Asks::Lease };
        let (number, session) = (claim.request, self.access.session(asks, &claim.session));
        let command = request::claim(self.access.sender(), claim);
        self.ask_with(number, session, command.map(Operation::Command), count);
    }

    pub(super) fn release_lease(&mut self, release: wire::ReleaseLease) {
        let (number, session) = (release.request, self.access.session(Asks::Lease, &release.session));
        let command = request::release(self.access.sender(), release);
        self.ask_with(number, session, command.map(Operation::Command), count);
    }

    /// What somebody who claims a lease is heard by.
    pub(super) fn pulse_of(&mut self, operation: &Operation) -> Option<Arc<Pulse>> {
        matches!(operation, Operation::Command(Command::Claim { .. })).then(|| self.own_pulse())
    }

    /// What sessions go by whose leases are claimed here.
    pub(super) fn own_pulse(&mut self) -> Arc<Pulse> {
        let now_ms = self.context.clock.now_ms();
        Arc::clone(self.pulse.get_or_insert_with(|| Arc::new(Pulse::new(now_ms))))
    }
}

/// Each is a record, and counts as one.
fn count(access: &mut Access) -> Result<Creation, Error> {
    access.count_publish(1, 0).map(|()| Creation::None)
}
