//! Entities as rows of a snapshot.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::entity::Entities;
use crate::entity::agent::Agent;
use crate::entity::ask::Ask;
use crate::entity::ended::Ended;
use crate::entity::entry::Entry;
use crate::entity::input::Input;
use crate::entity::message::Message;
use crate::entity::run::Run;
use crate::entity::view::View;
use crate::row::{RowReader, RowWriter};

impl Entities {
    /// Rows of what has ended at `since` or later.
    pub fn rows(&self, since: u64) -> impl Iterator<Item = (Bytes, Option<Bytes>)> {
        let changed = self.ended.iter().filter(move |(_, ended)| ended.changed >= since);
        changed.map(|(id, ended)| (Ended::row_key(id), Some(ended.encode())))
    }

    /// What is open, as a part of the head of a snapshot.
    pub fn encode_open(&self, row: &mut RowWriter) {
        row.u64(u64::from(self.cold || !self.ended.is_empty()));
        row.u64(self.messages.len() as u64);
        for (id, message) in &self.messages {
            row.bytes(id.as_bytes());
            message.encode(row);
        }
        row.u64(self.view.asks.len() as u64);
        for (id, ask) in &self.view.asks {
            row.bytes(id.as_bytes());
            ask.encode(row);
        }
        let runs = self.view.runs.iter().chain(self.view.ended_runs.iter().map(|(id, run)| (id, run)));
        row.u64((self.view.runs.len() + self.view.ended_runs.len()) as u64);
        for (id, run) in runs {
            row.bytes(id.as_bytes());
            run.encode(row);
        }
        row.u64(self.view.agents.len() as u64);
        for (name, agent) in &self.view.agents {
            row.bytes(name.as_bytes());
            agent.encode(row);
        }
        row.u64(self.view.inputs.len() as u64);
        for (id, input) in &self.view.inputs {
            row.bytes(id.as_bytes());
            input.encode(row);
        }
        row.u64(self.view.state.len() as u64);
        for (key, entry) in &self.view.state {
            row.bytes(key.as_bytes());
            entry.encode(row);
        }
    }

    /// What such a head of a snapshot of this version has; `None` when it is none. The log's last epoch begins at `own_from`.
    #[must_use]
    pub fn decode_open(row: &mut RowReader<'_>, version: u64, own_from: u64) -> Option<Self> {
        let mut entities = Self { cold: row.u64()? != 0, ..Self::default() };
        for _ in 0..row.u64()? {
            let id = row.text()?.into();
            entities.messages.insert(id, Message::decode(row, version)?);
        }
        let mut view = View { own_from, ..View::default() };
        for _ in 0..row.u64()? {
            let id = row.text()?.into();
            view.asks.insert(id, Arc::new(Ask::decode(row, version)?));
        }
        let mut ended = VecDeque::new();
        for _ in 0..row.u64()? {
            let (id, run): (Arc<str>, _) = (row.text()?.into(), Arc::new(Run::decode(row, version)?));
            if run.state.has_ended() {
                ended.push_back((id, run));
            } else {
                view.runs.insert(id, run);
            }
        }
        view.ended_runs = ended;
        view.messages = entities.messages.len();
        let has_agents = version > 2;
        for _ in 0..if has_agents { row.u64()? } else { 0 } {
            let name = row.text()?.into();
            view.agents.insert(name, Arc::new(Agent::decode(row)?));
        }
        for _ in 0..if has_agents { row.u64()? } else { 0 } {
            let id = row.text()?.into();
            view.inputs.insert(id, Arc::new(Input::decode(row)?));
        }
        for _ in 0..if version > 4 { row.u64()? } else { 0 } {
            let key = row.text()?.into();
            view.state.insert(key, Arc::new(Entry::decode(row)?));
        }
        entities.view = Arc::new(view);
        entities.deadline_ms = entities.next_deadline_ms();
        Some(entities)
    }
}
