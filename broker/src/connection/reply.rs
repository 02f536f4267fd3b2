//! Answers, as frames.

use longwire_core::command::{Claimed, Description, Reply};
use longwire_core::entity::agent::Agent;
use longwire_core::entity::ask::Ask;
use longwire_core::entity::entry::Entry;
use longwire_core::entity::input::Input;
use longwire_core::entity::run::Run;
use longwire_core::entity::view::View;
use longwire_core::summary::Summary;
use longwire_proto::error::Error;
use longwire_proto::position::LineageEntry;
use longwire_proto::run_state::RunState;
use longwire_proto::session_id::SessionId;
use longwire_proto::state_set::Value;
use longwire_proto::wire;
use longwire_proto::wire::server_frame::Frame;

use crate::connection::access::Creation;
use crate::connection::witness::Management;
use crate::listing::Page;
use crate::quota::RequestPermit;
use crate::store::Listed;

/// What a connection keeps of an open request.
pub(super) struct Asked {
    /// The client's number.
    pub(super) request: u64,
    /// The session that was asked.
    pub(super) session: SessionId,
    /// Whether it may create the session.
    pub(super) creation: Creation,
    /// What the audit log is told of it.
    pub(super) management: Management,
    /// Its place among the open requests.
    pub(super) _permit: RequestPermit,
}

/// The refusal of a request.
pub(super) fn refused(request: u64, subscription: u32, error: &Error) -> Frame {
    Frame::Refused(wire::Refused { request, subscription, error: Some(error.to_wire()) })
}

/// The answer to a request that a session answered.
pub(super) fn answer(asked: &Asked, result: Result<Option<Reply>, Error>) -> Frame {
    let request = asked.request;
    match result {
        Ok(Some(Reply::Published { epoch, from, next, duplicate })) => {
            Frame::Published(wire::Published { request, epoch, from, next, duplicate })
        }
        Ok(Some(Reply::Described(description))) => Frame::SessionDescription(wire::SessionDescription {
            request,
            session: Some(described(&asked.session, *description)),
        }),
        Ok(Some(Reply::Claimed(found))) => Frame::Claimed(claimed(request, &asked.session, &found)),
        // Erasures, imports, asks and messages are asked by lookups, which answer themselves.
        Ok(
            Some(
                Reply::Flushed
                | Reply::Released
                | Reply::Erased { .. }
                | Reply::Imported { .. }
                | Reply::Ask { .. }
                | Reply::Message { .. },
            )
            | None,
        ) => Frame::Done(wire::Done { request }),
        Err(error) => refused(request, 0, &error),
    }
}

pub(super) fn described(session: &SessionId, description: Description) -> wire::Session {
    let Description { epoch, start, end, last_time_ms, lineage, summary, view } = description;
    let entry =
        |entry: &LineageEntry| wire::LineageEntry { epoch: entry.epoch, from_offset: entry.from_offset };
    wire::Session {
        session: session.to_string(),
        epoch,
        start,
        end,
        meta: Some(summary.meta.to_wire()),
        created_ms: summary.created_ms,
        last_time_ms,
        closed: summary.closed,
        lineage: lineage.entries().iter().map(entry).collect(),
        status: status(&summary),
        state: state(&view, summary.closed),
    }
}

fn status(summary: &Summary) -> String {
    if summary.closed { "closed" } else { summary.status.as_str() }.to_owned()
}

/// What is open in a session, as a subscriber is told it; `None` when nothing is.
pub(super) fn state(view: &View, closed: bool) -> Option<Box<wire::SessionState>> {
    if view.is_empty() {
        return None;
    }
    let asks = view.asks.iter().map(|(id, ask)| open_ask(id, ask)).collect();
    let ended = view.ended_runs.iter().map(|(id, run)| (id, run));
    let runs = ended.chain(&view.runs).map(|(id, run)| described_run(id, run, view.waits(id))).collect();
    let status = if closed { "closed" } else { view.status().as_str() }.to_owned();
    let agents = view.agents.iter().map(|(name, agent)| described_agent(name, agent, view)).collect();
    let inputs = view.inputs.iter().map(|(id, input)| open_input(id, input)).collect();
    let entries = view.state.iter().map(|(key, entry)| state_entry(key, entry)).collect();
    Some(Box::new(wire::SessionState { status, asks, runs, agents, inputs, entries }))
}

/// A lease, and what its agent finds.
pub(super) fn claimed(request: u64, session: &SessionId, claimed: &Claimed) -> wire::Claimed {
    let Claimed { agent: name, epoch, view } = claimed;
    let lease = view.agents.get(name);
    let runs = view.runs.iter().filter(|(_, run)| run.agent == *name);
    let asks = view.asks.iter().filter(|(_, ask)| ask.agent == *name);
    let inputs = view.inputs.iter().filter(|(_, input)| input.agent == *name);
    wire::Claimed {
        request,
        agent: name.to_string(),
        generation: lease.map_or(0, |agent| agent.generation),
        epoch: *epoch,
        ttl_ms: lease.map_or(0, |agent| agent.terms.ttl_ms),
        runs: runs.map(|(id, run)| described_run(id, run, false)).collect(),
        asks: asks.map(|(id, ask)| open_ask(id, ask)).collect(),
        inputs: inputs.map(|(id, input)| open_input(id, input)).collect(),
        session: session.to_string(),
    }
}

fn described_agent(name: &str, agent: &Agent, view: &View) -> wire::Agent {
    wire::Agent {
        agent: name.to_owned(),
        generation: agent.generation,
        principal: agent.principal.to_string(),
        live: view.is_live(agent),
        ttl_ms: agent.terms.ttl_ms,
        changed_ms: agent.changed_ms,
    }
}

fn state_entry(key: &str, entry: &Entry) -> wire::StateEntry {
    wire::StateEntry {
        key: key.to_owned(),
        revision: entry.revision,
        time_ms: entry.time_ms,
        principal: entry.principal.to_string(),
        agent: entry.agent.to_string(),
        value: Some(match &entry.value {
            Value::Text(text) => wire::state_entry::Value::Text(text.to_string()),
            Value::Data(data) => wire::state_entry::Value::Data(data.clone()),
        }),
    }
}

fn open_input(id: &str, input: &Input) -> wire::OpenInput {
    wire::OpenInput {
        id: id.to_owned(),
        offset: input.offset,
        time_ms: input.time_ms,
        principal: input.principal.to_string(),
        agent: input.agent.to_string(),
        mode: input.mode.as_str().to_owned(),
        state: if input.attempts == 0 { "accepted" } else { "delivered" }.to_owned(),
        attempts: u32::try_from(input.attempts).unwrap_or(u32::MAX),
    }
}

fn open_ask(id: &str, ask: &Ask) -> wire::OpenAsk {
    wire::OpenAsk {
        id: id.to_owned(),
        offset: ask.offset,
        time_ms: ask.time_ms,
        principal: ask.principal.to_string(),
        to: ask.to.clone(),
        run: ask.run.to_string(),
        ask: Some(ask.ask.to_wire()),
        agent: ask.agent.to_string(),
    }
}

fn described_run(id: &str, run: &Run, waits: bool) -> wire::Run {
    let state = if waits && !run.state.has_ended() { RunState::InputRequired } else { run.state };
    let cancel = run.cancel.as_ref();
    wire::Run {
        id: id.to_owned(),
        offset: run.offset,
        started_ms: run.started_ms,
        principal: run.principal.to_string(),
        title: run.title.clone(),
        parent: run.parent.to_string(),
        state: state.as_str().to_owned(),
        fraction: run.fraction,
        note: run.note.clone(),
        counters: run.counters.clone(),
        changed_ms: run.changed_ms,
        agent: run.agent.to_string(),
        cancelled_by: cancel.map(|cancel| cancel.by.to_string()).unwrap_or_default(),
        cancel_at_ms: cancel.map_or(0, |cancel| cancel.at_ms),
        cancelled_ms: cancel.map_or(0, |cancel| cancel.since_ms),
    }
}

/// A page of the list of sessions.
pub(super) fn session_list(request: u64, page: &Page) -> Frame {
    let sessions = page.found.sessions.iter().map(from_listed).collect();
    Frame::SessionList(wire::SessionList { request, sessions, next_page: page.next_page.clone() })
}

fn from_listed(listed: &Listed) -> wire::Session {
    let summary = Summary::decode(&listed.projection).unwrap_or_default();
    wire::Session {
        session: listed.session.to_string(),
        epoch: listed.epoch(),
        start: listed.start,
        end: listed.end,
        meta: Some(summary.meta.to_wire()),
        created_ms: summary.created_ms,
        last_time_ms: listed.last_time_ms,
        closed: summary.closed,
        lineage: Vec::new(),
        status: status(&summary),
        state: None,
    }
}
