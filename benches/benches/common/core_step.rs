//! One publish through the machine of a session, as its driver takes it.

use bytes::Bytes;
use longwire_core::command::Command;
use longwire_core::machine::{Machine, Output, Persisted, Ticket};
use longwire_core::state::State;
use longwire_proto::position::Lineage;
use longwire_proto::record::Sender;
use prost::Message;

use crate::common::record;

/// Bytes of the body of the record.
const BODY_BYTES: usize = 256;

/// A session and what is published to it.
pub(crate) struct CoreStep {
    machine: Machine,
    sender: Sender,
    record: Bytes,
    now_ms: u64,
}

impl CoreStep {
    pub(crate) fn new() -> Self {
        Self {
            machine: Machine::new(State::new(Lineage::beginning(1)), 0),
            sender: Sender { principal: "anonymous".into(), ..Sender::default() },
            record: Bytes::from(record(BODY_BYTES).encode_to_vec()),
            now_ms: 1_700_000_000_000,
        }
    }

    /// Decides a publish, takes over that it is durable, and takes what is released. Tells how much that was.
    pub(crate) fn publish(&mut self) -> usize {
        self.now_ms += 1;
        let command = Command::Publish {
            sender: self.sender.clone(),
            producer: None,
            if_end: None,
            may_create: true,
            records: vec![self.record.clone()],
            meant: None,
        };
        self.machine.handle(Ticket(self.now_ms), command, self.now_ms);
        let write = self.machine.poll_write().unwrap();
        self.machine.handle_persisted(Persisted::Durable);
        let mut released = write.records.len();
        while let Some(output) = self.machine.poll_output() {
            released += 1;
            if let Output::Snapshot { through, .. } = output {
                self.machine.snapshot_durable(through);
            }
        }
        released
    }
}
