//! Asks, runs, messages that grow, leases and input against a simple reference model, over random commands, snapshots, restarts and
//! erasures.
#![allow(clippy::unwrap_used)] // a test: a panic is its failure

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use longwire_core::command::{Command, Meant, Reply};
use longwire_core::entity::standing::{BROKER, Standing};
use longwire_core::entity::view::View;
use longwire_core::machine::{Machine, Output, Persisted, Ticket};
use longwire_core::state::State;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::kind;
use longwire_proto::lease::{LeaseRef, LeaseState, Terms};
use longwire_proto::limits::{
    INPUT_ATTEMPTS_MAX, MESSAGE_BYTES_MAX, STATE_BYTES_MAX, STATE_KEYS_MAX, STATE_VALUE_BYTES_MAX,
};
use longwire_proto::meaning::Meaning;
use longwire_proto::position::Lineage;
use longwire_proto::record::{Sealed, Sender, check, erased};
use longwire_proto::resolution::AskOutcome;
use longwire_proto::state_set::Value;
use longwire_proto::wire;
use longwire_proto::wire::record::Body;
use proptest::prelude::*;
use prost::Message;

/// What is durable.
#[derive(Default)]
struct Disk {
    log: Vec<Bytes>,
    rows: BTreeMap<Bytes, Bytes>,
}

impl Disk {
    fn load(&self) -> Machine {
        let lineage = Lineage::beginning(0);
        let head = self.rows.get(&State::head_key());
        let mut state = head.map_or_else(
            || State::new(lineage.clone()),
            |head| State::from_head(lineage.clone(), 0, head).unwrap(),
        );
        let through = state.end();
        self.log[usize::try_from(through).unwrap()..].iter().for_each(|record| state.fold(record));
        Machine::new(state, through)
    }

    /// The state of the whole log, without any snapshot.
    fn replayed(&self) -> State {
        let mut state = State::new(Lineage::beginning(0));
        self.log.iter().for_each(|record| state.fold(record));
        state
    }

    fn settle(&mut self, machine: &mut Machine) -> Option<Result<Reply, Error>> {
        let mut result = None;
        loop {
            while let Some(output) = machine.poll_output() {
                match output {
                    Output::Reply { result: reply, .. } => result = Some(reply),
                    Output::Snapshot { through, rows } => {
                        for (key, row) in rows {
                            self.rows.insert(key, row.unwrap());
                        }
                        machine.snapshot_durable(through);
                    }
                    Output::Extended { .. } => {}
                    Output::Expired => panic!("the session does not expire"),
                }
            }
            let Some(write) = machine.poll_write() else { return result };
            assert_eq!(write.base, self.log.len() as u64);
            for offset in write.erase.iter().cloned().flatten() {
                let record = &mut self.log[usize::try_from(offset).unwrap()];
                if let Some(left) = erased(record) {
                    *record = left;
                }
            }
            self.log.extend(write.records);
            machine.handle_persisted(Persisted::Durable);
        }
    }

    fn run(&mut self, machine: &mut Machine, command: Command, now_ms: u64) -> Result<Reply, Error> {
        for name in machine.keys(&command) {
            let row = self.rows.get(&name.row_key()).cloned();
            machine.load(name, row.as_deref());
        }
        machine.handle(Ticket(0), command, now_ms);
        self.settle(machine).unwrap()
    }
}

const PRINCIPALS: [&str; 3] = ["ada", "bob", "eve"];
const OPTIONS: [&str; 2] = ["yes", "no"];
const STATES: [&str; 4] = ["working", "suspended", "completed", "cancelled"];
const AGENTS: [&str; 2] = ["coder", "tester"];
const RECEIPTS: [&str; 3] = ["delivered", "consumed", "not_consumed"];

/// One record, small enough to collide often.
#[derive(Clone, Copy, Debug)]
enum Act {
    Ask {
        id: u8,
        to: Option<u8>,
        run: Option<u8>,
        lives_for: Option<u64>,
    },
    Answer {
        id: u8,
        option: u8,
    },
    Deny {
        id: u8,
    },
    Cancel {
        id: u8,
    },
    Start {
        id: u8,
        parent: Option<u8>,
    },
    Change {
        id: u8,
        state: u8,
    },
    Open {
        id: u8,
        run: Option<u8>,
    },
    Delta {
        id: u8,
        length: u8,
        closes: bool,
    },
    Input {
        id: u8,
        agent: u8,
    },
    Receipt {
        id: u8,
        state: u8,
        run: Option<u8>,
    },
    CancelRun {
        id: u8,
        within: u64,
    },
    /// Of a key, to a number or away, perhaps only if it has this revision, or one that it may have.
    Set {
        key: u8,
        value: Option<u8>,
        if_revision: Option<Revision>,
    },
    Plain,
}

#[derive(Clone, Copy, Debug)]
enum Revision {
    Absent,
    /// The end of the log, minus so much.
    Recent(u64),
}

impl Revision {
    fn at(self, end: u64) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Recent(back) => end.saturating_sub(back),
        }
    }
}

fn id(number: u8) -> String {
    format!("i{number}")
}

fn named(number: Option<u8>) -> String {
    number.map(id).unwrap_or_default()
}

impl Act {
    fn record(self, now_ms: u64, end: u64) -> Bytes {
        let answer = |number, outcome: &str, option: &str| wire::Record {
            kind: kind::ANSWER,
            reply_to: id(number),
            body: Some(Body::Answer(wire::Answer {
                outcome: outcome.into(),
                option: option.into(),
                ..Default::default()
            })),
            ..Default::default()
        };
        let record = match self {
            Self::Ask { id: number, to, run, lives_for } => wire::Record {
                kind: kind::ASK,
                id: id(number),
                run: named(run),
                to: to.iter().map(|to| PRINCIPALS[usize::from(*to)].to_owned()).collect(),
                body: Some(Body::Ask(wire::Ask {
                    title: "?".into(),
                    options: OPTIONS.map(|id| wire::AskOption { id: id.into(), label: String::new() }).into(),
                    expires_at_ms: lives_for.map_or(0, |ms| now_ms + ms),
                    ..Default::default()
                })),
                ..Default::default()
            },
            Self::Answer { id, option } => {
                answer(id, "", OPTIONS.get(usize::from(option)).unwrap_or(&"maybe"))
            }
            Self::Deny { id } => answer(id, "denied", ""),
            Self::Cancel { id } => answer(id, "cancelled", ""),
            Self::Start { id: number, parent } => wire::Record {
                kind: kind::RUN,
                id: id(number),
                body: Some(Body::RunChange(wire::RunChange { parent: named(parent), ..Default::default() })),
                ..Default::default()
            },
            Self::Change { id: number, state } => wire::Record {
                kind: kind::RUN,
                run: id(number),
                body: Some(Body::RunChange(wire::RunChange {
                    state: STATES[usize::from(state)].into(),
                    ..Default::default()
                })),
                ..Default::default()
            },
            Self::Open { id: number, run } => {
                wire::Record { id: id(number), run: named(run), grows: true, ..Default::default() }
            }
            Self::Delta { id: number, length, closes } => wire::Record {
                kind: kind::DELTA,
                message: id(number),
                close: if closes { "complete".into() } else { String::new() },
                body: Some(Body::Text("x".repeat(length.into()))),
                ..Default::default()
            },
            Self::Input { id: number, agent } => wire::Record {
                kind: kind::INPUT,
                id: id(number),
                to: vec![AGENTS[usize::from(agent)].to_owned()],
                body: Some(Body::Text("go on".into())),
                ..Default::default()
            },
            Self::Receipt { id: number, state, run } => wire::Record {
                kind: kind::INPUT,
                reply_to: id(number),
                body: Some(Body::Receipt(wire::Receipt {
                    state: RECEIPTS[usize::from(state)].into(),
                    run: named(run),
                    reason: String::new(),
                })),
                ..Default::default()
            },
            Self::CancelRun { id: number, within } => wire::Record {
                kind: kind::CANCEL,
                run: id(number),
                body: Some(Body::Cancel(wire::Cancel { deadline_ms: within, reason: String::new() })),
                ..Default::default()
            },
            Self::Set { key, value, if_revision } => {
                let value = value.map(|value| match value {
                    0..3 => wire::state_change::Value::Text(value.to_string()),
                    _ => wire::state_change::Value::Data(vec![value].into()),
                });
                let if_revision = if_revision.map(|revision| revision.at(end));
                let body = Some(Body::StateChange(wire::StateChange { key: id(key), value, if_revision }));
                wire::Record { kind: kind::STATE, body, ..Default::default() }
            }
            Self::Plain => wire::Record::default(),
        };
        record.encode_to_vec().into()
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Thing {
    Ask {
        by: Owner,
        to: Option<String>,
        run: String,
        expires: Option<u64>,
        offset: u64,
        end: Option<(AskOutcome, String)>,
    },
    Run {
        by: Owner,
        parent: String,
        offset: u64,
        suspended: bool,
        /// When it is ended, and who wanted that.
        cancel: Option<(u64, String)>,
        end: Option<String>,
    },
    Message {
        by: Owner,
        run: String,
        /// Begun when its run had ended: that does not end it again.
        late: bool,
        bytes: u64,
        closed: bool,
    },
    Input {
        by: Owner,
        to: String,
        offset: u64,
        given_to: BTreeSet<u64>,
        over: bool,
    },
}

/// A principal, and the agent that it acted as; empty when it was none.
#[derive(Clone, Debug, Default, PartialEq)]
struct Owner {
    principal: String,
    agent: String,
}

impl Owner {
    fn owns(&self, other: &Owner) -> bool {
        if other.agent.is_empty() { self.principal == other.principal } else { self.agent == other.agent }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Held {
    by: String,
    generation: u64,
    live: bool,
    terms: Terms,
    /// When it was heard, or ended.
    at: u64,
}

/// The reference.
#[derive(Clone, Default)]
struct Reference {
    things: BTreeMap<String, Thing>,
    agents: BTreeMap<String, Held>,
    /// By their keys: revision, value, who set it.
    state: BTreeMap<String, (u64, u8, Owner)>,
    end: u64,
    time_ms: u64,
}

enum Said {
    Appended,
    Known(u64),
}

impl Reference {
    fn run_is_open(&self, run: &str) -> Result<(), ErrorCode> {
        match self.things.get(run) {
            Some(Thing::Run { end: None, .. }) => Ok(()),
            Some(Thing::Run { .. }) => Err(ErrorCode::RunEnded),
            _ => Err(ErrorCode::RunNotFound),
        }
    }

    /// Whether a publish may be made with this lease; that renews it.
    fn hold(&mut self, by: &str, agent: &str, generation: u64) -> Result<(), ErrorCode> {
        if self.end == 0 {
            return Err(ErrorCode::SessionNotFound);
        }
        let held = self.agents.get_mut(agent).ok_or(ErrorCode::Fenced)?;
        if !held.live || held.generation != generation || held.by != by {
            return Err(ErrorCode::Fenced);
        }
        held.at = self.time_ms;
        Ok(())
    }

    fn claim(&mut self, by: &str, agent: &str, terms: Terms, take_over: bool) -> Result<u64, ErrorCode> {
        if self.end == 0 {
            return Err(ErrorCode::SessionNotFound);
        }
        if self.agents.get(agent).is_some_and(|held| held.live) {
            if !take_over {
                return Err(ErrorCode::LeaseHeld);
            }
            self.end_lease(agent, &BTreeSet::new());
        }
        let (generation, at) = (self.end, self.time_ms);
        self.agents.insert(agent.to_owned(), Held { by: by.to_owned(), generation, live: true, terms, at });
        self.end += 1;
        Ok(generation)
    }

    /// A lease ends, with some runs that end themselves.
    fn end_lease(&mut self, agent: &str, ending: &BTreeSet<String>) {
        let held = self.agents.get_mut(agent).unwrap();
        (held.live, held.at) = (false, self.time_ms);
        self.end += 1;
        for (id, thing) in &mut self.things {
            match thing {
                Thing::Message { by, closed: closed @ false, .. } if by.agent == agent => *closed = true,
                Thing::Run { by, suspended: suspended @ false, end: None, .. }
                    if by.agent == agent && !ending.contains(id) =>
                {
                    *suspended = true;
                }
                Thing::Input { to, given_to, over: over @ false, .. }
                    if to == agent && given_to.len() >= INPUT_ATTEMPTS_MAX =>
                {
                    *over = true;
                }
                _ => continue,
            }
            self.end += 1;
        }
    }

    fn lapse(&mut self) {
        let now = self.time_ms;
        let silent = self.agents.iter().filter(|(_, held)| held.live && held.at + held.terms.ttl_ms <= now);
        for agent in silent.map(|(agent, _)| agent.clone()).collect::<Vec<_>>() {
            self.end_lease(&agent, &BTreeSet::new());
        }
    }

    /// One record of a publish of `by`, with the lease of this generation.
    fn act(
        &mut self,
        act: Act,
        by: &Owner,
        generation: u64,
        manages: bool,
        began: u64,
    ) -> Result<Said, ErrorCode> {
        let (offset, now) = (self.end, self.time_ms);
        let by = by.clone();
        match act {
            Act::Plain => {}
            Act::Set { key, value, if_revision } => {
                let revision = self.state.get(&id(key)).map_or(0, |(revision, ..)| *revision);
                if if_revision.is_some_and(|wanted| wanted.at(began) != revision) {
                    return Err(ErrorCode::RevisionMismatch);
                }
                match value {
                    Some(value) => drop(self.state.insert(id(key), (offset, value, by))),
                    None => drop(self.state.remove(&id(key))),
                }
            }
            Act::Ask { id: number, to, run, lives_for } => {
                match self.things.get(&id(number)) {
                    Some(Thing::Ask { by: first, offset, .. }) if by.owns(first) => {
                        return Ok(Said::Known(*offset));
                    }
                    Some(_) => return Err(ErrorCode::IdInUse),
                    None => {}
                }
                if run.is_some() {
                    self.run_is_open(&named(run))?;
                }
                let to = to.map(|to| PRINCIPALS[usize::from(to)].to_owned());
                let expires = lives_for.map(|ms| now + ms);
                let thing = Thing::Ask { by, to, run: named(run), expires, offset, end: None };
                self.things.insert(id(number), thing);
            }
            Act::Answer { id: number, .. } | Act::Deny { id: number } | Act::Cancel { id: number } => {
                let Some(Thing::Ask { by: asker, to, expires, end, .. }) = self.things.get_mut(&id(number))
                else {
                    return Err(ErrorCode::AskNotFound);
                };
                if end.is_some() {
                    return Err(ErrorCode::AlreadyResolved);
                }
                let outcome = match act {
                    Act::Cancel { .. } if by.owns(asker) || manages => AskOutcome::Cancelled,
                    Act::Cancel { .. } => return Err(ErrorCode::NotOwner),
                    _ if expires.is_some_and(|at| at <= now) => return Err(ErrorCode::AlreadyResolved),
                    _ if to.as_ref().is_some_and(|to| *to != by.principal) => {
                        return Err(ErrorCode::NotAddressed);
                    }
                    Act::Answer { option, .. } if usize::from(option) >= OPTIONS.len() => {
                        return Err(ErrorCode::InvalidAnswer);
                    }
                    Act::Answer { .. } => AskOutcome::Answered,
                    _ => AskOutcome::Denied,
                };
                *end = Some((outcome, by.principal));
            }
            Act::Start { id: number, parent } => {
                match self.things.get(&id(number)) {
                    Some(Thing::Run { by: first, offset, .. }) if by.owns(first) => {
                        return Ok(Said::Known(*offset));
                    }
                    Some(_) => return Err(ErrorCode::IdInUse),
                    None => {}
                }
                if parent.is_some() {
                    self.run_is_open(&named(parent))?;
                }
                let (parent, suspended, cancel, end) = (named(parent), false, None, None);
                self.things.insert(id(number), Thing::Run { by, parent, offset, suspended, cancel, end });
            }
            Act::Change { id: number, state } => {
                self.run_is_open(&id(number))?;
                let Some(Thing::Run { by: owner, suspended, end, .. }) = self.things.get_mut(&id(number))
                else {
                    panic!()
                };
                if !by.owns(owner) && !manages {
                    return Err(ErrorCode::NotOwner);
                }
                *suspended = state == 1;
                *end = Some(STATES[usize::from(state)].to_owned()).filter(|_| state >= 2);
            }
            Act::CancelRun { id: number, within } => {
                self.run_is_open(&id(number))?;
                let Some(Thing::Run { cancel, .. }) = self.things.get_mut(&id(number)) else { panic!() };
                let (at, first) = cancel.take().unwrap_or((u64::MAX, by.principal));
                *cancel = Some((at.min(now + within), first));
            }
            Act::Input { id: number, agent } => {
                match self.things.get(&id(number)) {
                    Some(Thing::Input { by: first, offset, .. }) if first.principal == by.principal => {
                        return Ok(Said::Known(*offset));
                    }
                    Some(_) => return Err(ErrorCode::IdInUse),
                    None => {}
                }
                let to = AGENTS[usize::from(agent)].to_owned();
                if !self.agents.contains_key(&to) {
                    return Err(ErrorCode::AgentUnknown);
                }
                let (given_to, over) = (BTreeSet::new(), false);
                self.things.insert(id(number), Thing::Input { by, to, offset, given_to, over });
            }
            Act::Receipt { id: number, state, run } => {
                let is_run = run.is_none() || matches!(self.things.get(&named(run)), Some(Thing::Run { .. }));
                match self.things.get_mut(&id(number)) {
                    Some(Thing::Input { over: true, .. }) => return Err(ErrorCode::InputEnded),
                    Some(Thing::Input { to, .. }) if *to != by.agent => return Err(ErrorCode::NotOwner),
                    Some(Thing::Input { .. }) if !is_run => return Err(ErrorCode::RunNotFound),
                    Some(Thing::Input { given_to, over, .. }) => match state {
                        0 => drop(given_to.insert(generation)),
                        _ => *over = true,
                    },
                    _ => return Err(ErrorCode::InputNotFound),
                }
            }
            Act::Open { id: number, run } => {
                if self.things.contains_key(&id(number)) {
                    return Err(ErrorCode::IdInUse);
                }
                let run = named(run);
                let late = matches!(self.things.get(&run), Some(Thing::Run { end: Some(_), .. }));
                self.things.insert(id(number), Thing::Message { by, run, late, bytes: 0, closed: false });
            }
            Act::Delta { id: number, length, closes } => match self.things.get_mut(&id(number)) {
                Some(Thing::Message { closed: true, .. }) => return Err(ErrorCode::MessageClosed),
                Some(Thing::Message { by: owner, .. }) if !by.owns(owner) => return Err(ErrorCode::NotOwner),
                Some(Thing::Message { bytes, closed, .. }) => {
                    *bytes += u64::from(length);
                    *closed = closes;
                }
                _ => return Err(ErrorCode::MessageNotFound),
            },
        }
        self.end += 1;
        Ok(Said::Appended)
    }

    /// What ends with runs that have, and how many records that takes.
    fn tie_up(&mut self) {
        loop {
            let ended: BTreeMap<String, String> = self
                .things
                .iter()
                .filter_map(|(id, thing)| match thing {
                    Thing::Run { end: Some(end), .. } => Some((id.clone(), end.clone())),
                    _ => None,
                })
                .collect();
            let mut count = 0;
            for thing in self.things.values_mut() {
                match thing {
                    Thing::Ask { run, end: end @ None, .. } if ended.contains_key(run) => {
                        *end = Some((AskOutcome::Cancelled, BROKER.to_owned()));
                        count += 1;
                    }
                    Thing::Run { parent, end: end @ None, .. } if ended.contains_key(parent) => {
                        let cancelled = ended[parent] == "cancelled";
                        *end = Some(if cancelled { "cancelled" } else { "abandoned" }.to_owned());
                        count += 1;
                    }
                    Thing::Message { run, late: false, closed: closed @ false, .. }
                        if ended.contains_key(run) =>
                    {
                        *closed = true;
                        count += 1;
                    }
                    _ => {}
                }
            }
            self.end += count;
            if count == 0 {
                return;
            }
        }
    }

    fn expire(&mut self) {
        for thing in self.things.values_mut() {
            if let Thing::Ask { expires: Some(at), end: end @ None, .. } = thing
                && *at <= self.time_ms
            {
                *end = Some((AskOutcome::Expired, BROKER.to_owned()));
                self.end += 1;
            }
        }
        let (now, agents) = (self.time_ms, self.agents.clone());
        let open_runs = |due: &dyn Fn(&Owner, Option<u64>) -> bool| -> BTreeSet<String> {
            let due = self.things.iter().filter(|(_, thing)| match thing {
                Thing::Run { by, cancel, end: None, .. } => due(by, cancel.as_ref().map(|(at, _)| *at)),
                _ => false,
            });
            due.map(|(id, _)| id.clone()).collect()
        };
        let cancelled = open_runs(&|_, cancel| cancel.is_some_and(|at| at <= now));
        let waited = |by: &Owner| {
            agents
                .get(&by.agent)
                .is_some_and(|held| !held.live && held.at + held.terms.adopt_timeout_ms <= now)
        };
        let abandoned = &open_runs(&|by, _| waited(by)) - &cancelled;
        for agent in AGENTS {
            let is_its = |id: &String| matches!(&self.things[id], Thing::Run { by, .. } if by.agent == agent);
            if agents.get(agent).is_some_and(|held| held.live) && cancelled.iter().any(is_its) {
                self.end_lease(agent, &cancelled);
            }
        }
        for (ids, how) in [(cancelled, "cancelled"), (abandoned, "abandoned")] {
            for id in ids {
                let Some(Thing::Run { end, .. }) = self.things.get_mut(&id) else { panic!() };
                *end = Some(how.to_owned());
                self.end += 1;
            }
        }
        self.tie_up();
    }

    fn check(&self, view: &View) {
        let open = |wanted: fn(&Thing) -> bool| {
            let found = self.things.iter().filter(|(_, thing)| wanted(thing));
            found.map(|(id, _)| id.as_str()).collect::<Vec<_>>()
        };
        let asks: Vec<&str> = view.asks.keys().map(|id| &**id).collect();
        assert_eq!(asks, open(|thing| matches!(thing, Thing::Ask { end: None, .. })));
        let runs: Vec<&str> = view.runs.keys().map(|id| &**id).collect();
        assert_eq!(runs, open(|thing| matches!(thing, Thing::Run { end: None, .. })));
        let messages = open(|thing| matches!(thing, Thing::Message { closed: false, .. })).len();
        assert_eq!(view.messages, messages);
        for (id, run) in &view.ended_runs {
            let Some(Thing::Run { end: Some(end), .. }) = self.things.get(&**id) else { panic!("{id}") };
            assert_eq!(run.state.as_str(), end);
        }
        for (id, run) in &view.runs {
            let Some(Thing::Run { by, suspended, cancel, .. }) = self.things.get(&**id) else {
                panic!("{id}")
            };
            assert_eq!(
                (&*run.agent, run.state.as_str() == "suspended"),
                (by.agent.as_str(), *suspended),
                "{id}"
            );
            let found = run.cancel.as_ref().map(|cancel| (cancel.at_ms, cancel.by.to_string()));
            assert_eq!(found, *cancel, "{id}");
        }
        let inputs: Vec<&str> = view.inputs.keys().map(|id| &**id).collect();
        assert_eq!(inputs, open(|thing| matches!(thing, Thing::Input { over: false, .. })));
        for (id, input) in &view.inputs {
            let Some(Thing::Input { given_to, to, .. }) = self.things.get(&**id) else { panic!("{id}") };
            assert_eq!((input.attempts, &*input.agent), (given_to.len() as u64, to.as_str()));
        }
        let state = view.state.iter().map(|(key, entry)| {
            let value = match &entry.value {
                Value::Text(text) => text.parse().unwrap(),
                Value::Data(data) => data[0],
            };
            let owner = Owner { principal: entry.principal.to_string(), agent: entry.agent.to_string() };
            (key.to_string(), (entry.revision, value, owner))
        });
        assert_eq!(state.collect::<BTreeMap<_, _>>(), self.state);
        let agents = view.agents.iter().map(|(name, agent)| {
            assert_eq!(view.is_live(agent), agent.held);
            (&**name, &*agent.principal, agent.generation, agent.held)
        });
        let wanted = self.agents.iter();
        assert!(agents.eq(wanted.map(|(name, held)| (
            name.as_str(),
            held.by.as_str(),
            held.generation,
            held.live
        ))));
    }
}

/// Says of a log alone that every record that was written with a lease was written while it was live, by its holder.
fn check_leases(log: &[Bytes]) {
    let mut live: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for (offset, record) in (0..).zip(log) {
        let sealed = Sealed::parse(record).unwrap();
        if !sealed.agent.is_empty() {
            let holder = (sealed.generation, sealed.principal.to_owned());
            assert_eq!(live.get(sealed.agent), Some(&holder), "record {offset}");
        }
        if let Ok(Meaning::Lease(change)) = Meaning::of(record) {
            let ended = live.remove(&change.agent).map(|(generation, _)| generation);
            match change.state {
                LeaseState::Claimed => {
                    assert_eq!(ended, None, "{offset}: somebody holds it");
                    live.insert(change.agent, (offset, sealed.principal.to_owned()));
                }
                LeaseState::Released | LeaseState::Lapsed => {
                    assert_eq!((ended, sealed.principal), (Some(change.generation), BROKER), "{offset}");
                }
            }
        }
    }
}

/// Says of a log alone that every delta, the broker's own too, says where in its message it is.
fn check_places(log: &[Bytes]) {
    let mut grown: BTreeMap<String, u64> = BTreeMap::new();
    for (offset, record) in log.iter().enumerate() {
        match Meaning::of(record).unwrap() {
            Meaning::Opens { id, bytes, .. } => assert_eq!(grown.insert(id, bytes), None, "{offset}"),
            Meaning::Delta { message, bytes, .. } => {
                let so_far = grown.get_mut(&message).unwrap();
                assert_eq!(wire::Record::decode(record.clone()).unwrap().at_byte, *so_far, "{offset}");
                *so_far += bytes;
            }
            _ => {}
        }
    }
}

fn act() -> impl Strategy<Value = Act> {
    let id = || 0..6u8;
    let maybe = || prop::option::weighted(0.4, 0..6u8);
    prop_oneof![
        3 => (id(), prop::option::weighted(0.3, 0..3u8), maybe(), prop::option::weighted(0.4, 1..30u64))
            .prop_map(|(id, to, run, lives_for)| Act::Ask { id, to, run, lives_for }),
        4 => (id(), 0..3u8).prop_map(|(id, option)| Act::Answer { id, option }),
        1 => id().prop_map(|id| Act::Deny { id }),
        1 => id().prop_map(|id| Act::Cancel { id }),
        3 => (id(), maybe()).prop_map(|(id, parent)| Act::Start { id, parent: parent.filter(|parent| *parent != id) }),
        3 => (id(), 0..4u8).prop_map(|(id, state)| Act::Change { id, state }),
        3 => (id(), maybe()).prop_map(|(id, run)| Act::Open { id, run }),
        4 => (id(), 0..4u8, prop::bool::weighted(0.2))
            .prop_map(|(id, length, closes)| Act::Delta { id, length, closes }),
        2 => input(),
        2 => receipt(),
        2 => (id(), 1..25u64).prop_map(|(id, within)| Act::CancelRun { id, within }),
        3 => set(),
        1 => Just(Act::Plain),
    ]
}

fn set() -> impl Strategy<Value = Act> {
    let revision = prop_oneof![Just(Revision::Absent), (1..8u64).prop_map(Revision::Recent)];
    let value = prop::option::weighted(0.7, 0..6u8);
    (0..3u8, value, prop::option::weighted(0.5, revision)).prop_map(|(key, value, if_revision)| Act::Set {
        key,
        value,
        if_revision,
    })
}

/// Of ids that are mostly its own, so that it has room beside the rest.
fn input() -> impl Strategy<Value = Act> {
    (4..12u8, 0..2u8).prop_map(|(id, agent)| Act::Input { id, agent })
}

fn receipt() -> impl Strategy<Value = Act> {
    let state = prop_oneof![3 => Just(0u8), 2 => 1..3u8];
    (4..12u8, state, prop::option::weighted(0.1, 0..6u8)).prop_map(|(id, state, run)| Act::Receipt {
        id,
        state,
        run,
    })
}

/// What an agent does all day: alone, and by whoever holds its lease.
fn work() -> impl Strategy<Value = Step> {
    let maybe = || prop::option::weighted(0.4, 0..6u8);
    let act = prop_oneof![
        6 => receipt(),
        2 => (0..6u8).prop_map(|id| Act::Start { id, parent: None }),
        1 => (0..6u8, maybe()).prop_map(|(id, run)| Act::Open { id, run }),
        1 => act(),
    ];
    let publish =
        |(agent, act)| Step::Publish { by: 0, lease: Some((agent, 0)), as_holder: true, acts: vec![act] };
    (0..2u8, act).prop_map(publish)
}

/// Runs with messages, of ids that are their own: begun together, and ended then or later.
fn recording() -> impl Strategy<Value = Step> {
    let begin = (12..16u8, 16..20u8, prop::bool::weighted(0.3)).prop_map(|(run, id, ends)| {
        let acts = [Act::Start { id: run, parent: None }, Act::Open { id, run: Some(run) }];
        let end = ends.then_some(Act::Change { id: run, state: 2 });
        acts.into_iter().chain(end).collect()
    });
    let end = (12..16u8, 2..4u8).prop_map(|(id, state)| vec![Act::Change { id, state }]);
    let acts = prop_oneof![2 => begin, 1 => end];
    (0..3u8, acts).prop_map(|(by, acts)| Step::Publish { by, lease: None, as_holder: false, acts })
}

#[derive(Clone, Debug)]
enum Step {
    /// With the lease of an agent, and of one so many generations ago.
    Publish {
        by: u8,
        lease: Option<(u8, u8)>,
        /// By whoever holds it, if anybody does.
        as_holder: bool,
        acts: Vec<Act>,
    },
    Claim {
        by: u8,
        agent: u8,
        ttl: u64,
        adopt: u64,
        take_over: bool,
    },
    /// Go on with a lease, or give it up.
    GoOn {
        by: u8,
        lease: (u8, u8),
        release: bool,
    },
    Pass(u64),
    Snapshot,
    Restart,
}

/// Who holds the lease of an agent, and its generation.
fn holder(view: &View, agent: u8) -> Option<(u8, u64)> {
    let agent = view.agents.get(AGENTS[usize::from(agent)]).filter(|agent| view.is_live(agent))?;
    let by = (0..).zip(PRINCIPALS).find(|(_, name)| *name == &*agent.principal)?.0;
    Some((by, agent.generation))
}

/// Nearly always the last one.
fn old() -> impl Strategy<Value = u8> {
    prop_oneof![6 => Just(0u8), 1 => Just(1u8)]
}

fn lease() -> impl Strategy<Value = Option<(u8, u8)>> {
    prop::option::weighted(0.6, (0..2u8, old()))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..3u8, lease(), prop::bool::weighted(0.85), prop::collection::vec(act(), 1..3))
            .prop_map(|(by, lease, as_holder, acts)| Step::Publish { by, lease, as_holder, acts }),
        8 => work(),
        2 => recording(),
        3 => (0..3u8, input())
            .prop_map(|(by, act)| Step::Publish { by, lease: None, as_holder: false, acts: vec![act] }),
        3 => (0..3u8, 0..2u8, 5..80u64, 10..60u64, prop::bool::weighted(0.2)).prop_map(
            |(by, agent, ttl, adopt, take_over)| Step::Claim { by, agent, ttl, adopt, take_over }
        ),
        2 => (0..3u8, (0..2u8, old()), prop::bool::weighted(0.3))
            .prop_map(|(by, lease, release)| Step::GoOn { by, lease, release }),
        2 => (1..20u64).prop_map(Step::Pass),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Restart),
    ]
}

fn publish(by: u8, records: Vec<Bytes>) -> Command {
    publish_as(by, None, records)
}

fn sender(by: u8) -> Sender {
    Sender { principal: PRINCIPALS[usize::from(by)].to_owned(), ..Sender::default() }
}

fn publish_as(by: u8, lease: Option<LeaseRef>, records: Vec<Bytes>) -> Command {
    let meanings: Vec<Meaning> = records.iter().map(|record| check(record).unwrap()).collect();
    // Eve manages the session.
    let standing = Standing { manages: by == 2, ..Standing::default() };
    Command::Publish {
        sender: Sender { lease: lease.map(Box::new), ..sender(by) },
        producer: None,
        if_end: None,
        may_create: true,
        records,
        meant: Some(Box::new(Meant { meanings, standing })),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Every answer and everything that is open is the reference's: one winner for each ask, nothing half done, ends that follow from
    /// ends, expiry in its time, whatever snapshots and restarts come between. The same log, folded from its beginning, says the same.
    #[test]
    fn asks_runs_and_messages_are_those_of_the_reference(steps in prop::collection::vec(step(), 1..80)) {
        let (mut disk, mut reference) = (Disk::default(), Reference { time_ms: 1, ..Reference::default() });
        let mut machine = disk.load();
        // Every lease that there was, by its agent; the last one last.
        let mut generations: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
        let named_lease = |generations: &BTreeMap<u8, Vec<u64>>, (agent, old): (u8, u8)| {
            let found = generations.get(&agent).and_then(|all| all.iter().rev().nth(usize::from(old)));
            LeaseRef { agent: AGENTS[usize::from(agent)].to_owned(), generation: found.copied().unwrap_or(999) }
        };
        for step in steps {
            match &step {
                Step::Claim { by, agent, ttl, adopt, take_over } => {
                    let terms = Terms { ttl_ms: *ttl, adopt_timeout_ms: *adopt };
                    let (name, take_over) = (AGENTS[usize::from(*agent)].to_owned(), *take_over && *by == 2);
                    let expected = reference.claim(PRINCIPALS[usize::from(*by)], &name, terms, take_over);
                    let claim = Command::Claim { sender: sender(*by), agent: name, terms, take_over, going_on: None };
                    match (disk.run(&mut machine, claim, reference.time_ms), expected) {
                        (Ok(Reply::Claimed(claimed)), Ok(generation)) => {
                            prop_assert_eq!(claimed.view.agents[&claimed.agent].generation, generation);
                            generations.entry(*agent).or_default().push(generation);
                        }
                        (Err(error), Err(code)) => {
                            prop_assert_eq!(error.code, code, "{}", error);
                            prop_assert!(code != ErrorCode::LeaseHeld || error.retry_after_ms > 0);
                        }
                        (result, expected) => prop_assert!(false, "{:?} instead of {:?}", result, expected),
                    }
                }
                Step::GoOn { by, lease, release } => {
                    let lease = named_lease(&generations, *lease);
                    let LeaseRef { agent, generation } = lease.clone();
                    let held = reference.hold(PRINCIPALS[usize::from(*by)], &agent, generation);
                    let command = if *release {
                        Command::Release { sender: sender(*by), lease: lease.clone() }
                    } else {
                        // What it says of terms is of no interest then.
                        let (going_on, terms) = (Some(generation), Terms::default());
                        Command::Claim { sender: sender(*by), agent, terms, take_over: false, going_on }
                    };
                    match (disk.run(&mut machine, command, reference.time_ms), held) {
                        (Ok(Reply::Released), Ok(())) => reference.end_lease(&lease.agent, &BTreeSet::new()),
                        (Ok(Reply::Claimed(claimed)), Ok(())) => {
                            prop_assert_eq!(claimed.view.agents[&claimed.agent].generation, generation);
                        }
                        (Err(error), Err(code)) => prop_assert_eq!(error.code, code, "{}", error),
                        (result, expected) => prop_assert!(false, "{:?} instead of {:?}", result, expected),
                    }
                }
                Step::Publish { by, lease, as_holder, acts } => {
                    let now = reference.time_ms;
                    let holder = lease.filter(|_| *as_holder).and_then(|(agent, _)| {
                        holder(machine.state().entities().view(), agent)
                    });
                    let by = &holder.map_or(*by, |(by, _)| by);
                    let lease = lease.map(|lease| named_lease(&generations, lease));
                    let began = disk.log.len() as u64;
                    let records: Vec<Bytes> = acts.iter().map(|act| act.record(now, began)).collect();
                    let result = disk.run(&mut machine, publish_as(*by, lease.clone(), records), now);
                    let principal = PRINCIPALS[usize::from(*by)];
                    let held = lease.as_ref().map_or(Ok(()), |lease| {
                        reference.hold(principal, &lease.agent, lease.generation)
                    });
                    let (agent, generation) = lease.map_or((String::new(), 0), |lease| (lease.agent, lease.generation));
                    let owner = Owner { principal: principal.to_owned(), agent };
                    let (mut trial, from) = (reference.clone(), reference.end);
                    let mut expected = held.map(|()| None);
                    for act in acts.iter().take(if expected.is_ok() { acts.len() } else { 0 }) {
                        match trial.act(*act, &owner, generation, *by == 2, began) {
                            Ok(Said::Appended) => {}
                            Ok(Said::Known(at)) if acts.len() == 1 => expected = Ok(Some(at)),
                            Ok(Said::Known(_)) => { expected = Err(ErrorCode::IdInUse); break }
                            Err(code) => { expected = Err(code); break }
                        }
                    }
                    match (result, expected) {
                        (Ok(Reply::Published { from: at, duplicate: true, .. }), Ok(Some(expected))) => {
                            prop_assert_eq!(at, expected);
                        }
                        (Ok(Reply::Published { from: at, next, duplicate: false, .. }), Ok(None)) => {
                            prop_assert_eq!((at, next), (from, from + acts.len() as u64));
                            trial.tie_up();
                            reference = trial;
                        }
                        (Err(error), Err(code)) => prop_assert_eq!(error.code, code, "{}", error),
                        (result, expected) => prop_assert!(false, "{:?} instead of {:?}", result, expected.is_ok()),
                    }
                }
                Step::Pass(ms) => {
                    reference.time_ms += ms;
                    machine.handle_lapse(reference.time_ms);
                    reference.lapse();
                    machine.handle_timeout(reference.time_ms, None);
                    for due in [machine.poll_timeout(), machine.poll_lapse()] {
                        prop_assert!(due.is_none_or(|due| due > reference.time_ms), "{:?} is over", due);
                    }
                    disk.settle(&mut machine);
                    reference.expire();
                }
                Step::Snapshot => {
                    machine.request_snapshot();
                    disk.settle(&mut machine);
                }
                Step::Restart => {
                    machine = disk.load();
                    machine.begin_leases(reference.time_ms);
                    // Whoever held one has all of its time again.
                    reference.agents.values_mut().filter(|held| held.live).for_each(|held| held.at = reference.time_ms);
                }
            }
            prop_assert_eq!(machine.has_leases(), reference.agents.values().any(|held| held.live));
            prop_assert_eq!(disk.log.len() as u64, reference.end, "{:?}", step);
            reference.check(machine.state().entities().view());
        }
        check_leases(&disk.log);
        check_places(&disk.log);
        let replayed = disk.replayed();
        prop_assert_eq!(replayed.entities().view(), machine.state().entities().view());
        for (id, thing) in reference.things {
            let Thing::Ask { end, offset, .. } = thing else { continue };
            let described = disk.run(&mut machine, Command::DescribeAsk { ask: id }, reference.time_ms).unwrap();
            let Reply::Ask { offset: at, resolved } = described else { panic!("{described:?}") };
            prop_assert_eq!(at, offset);
            prop_assert_eq!(resolved.map(|found| (found.outcome, found.by)), end);
        }
    }

    /// An erasure ends asks whose question goes, takes no id back and opens nothing that had ended; a log that is folded again says so,
    /// too.
    #[test]
    fn what_is_erased_stays_as_it_was_left(
        steps in prop::collection::vec(step(), 1..40),
        erasures in prop::collection::vec((0..60u64, 1..4u64), 1..4),
    ) {
        let mut disk = Disk::default();
        let mut machine = disk.load();
        let mut now = 1;
        for step in steps {
            match step {
                Step::Publish { by, lease, as_holder, acts } => {
                    let holder = lease.filter(|_| as_holder).and_then(|(agent, _)| {
                        holder(machine.state().entities().view(), agent)
                    });
                    let (by, generation) = holder.unwrap_or((by, 0));
                    let end = disk.log.len() as u64;
                    let records = acts.iter().map(|act| act.record(now, end)).collect();
                    let lease = lease.map(|(agent, _)| LeaseRef { agent: AGENTS[usize::from(agent)].into(), generation });
                    drop(disk.run(&mut machine, publish_as(by, lease, records), now));
                }
                Step::Claim { by, agent, ttl, adopt, take_over } => {
                    let terms = Terms { ttl_ms: ttl, adopt_timeout_ms: adopt };
                    let (agent, going_on) = (AGENTS[usize::from(agent)].to_owned(), None);
                    drop(disk.run(&mut machine, Command::Claim { sender: sender(by), agent, terms, take_over, going_on }, now));
                }
                Step::Pass(ms) => {
                    now += ms;
                    machine.handle_lapse(now);
                    disk.settle(&mut machine);
                }
                Step::GoOn { .. } | Step::Snapshot | Step::Restart => {}
            }
        }
        let open = machine.state().entities().view().clone();
        for (from, count) in erasures {
            let end = disk.log.len() as u64;
            let (from, to) = (from.min(end), (from + count).min(end));
            if from == to {
                continue;
            }
            let ranges = std::iter::once(from..to).collect();
            let erase = Command::Erase { sender: Sender::default(), ranges, of: String::new(), reason: String::new() };
            disk.run(&mut machine, erase, now).unwrap();
        }
        let left = machine.state().entities().view();
        let is_gone = |offset: u64| {
            let record = &disk.log[usize::try_from(offset).unwrap()];
            Sealed::parse(record).unwrap().kind == kind::TOMBSTONE
        };
        for (id, ask) in &open.asks {
            prop_assert_eq!(left.asks.contains_key(id), !is_gone(ask.offset));
        }
        prop_assert!(left.asks.keys().all(|id| open.asks.contains_key(id)));
        prop_assert!(left.runs.keys().eq(open.runs.keys()));
        prop_assert_eq!(left.messages, open.messages);
        prop_assert_eq!(&left.agents, &open.agents);
        for (id, input) in &open.inputs {
            prop_assert_eq!(left.inputs.get(id), (!is_gone(input.offset)).then_some(input));
        }
        for (key, entry) in &open.state {
            prop_assert_eq!(left.state.get(key), (!is_gone(entry.revision)).then_some(entry));
        }
        prop_assert!(left.state.keys().all(|key| open.state.contains_key(key)));
        let replayed = disk.replayed();
        let again = replayed.entities().view();
        prop_assert!(again.asks.keys().eq(left.asks.keys()));
        prop_assert!(again.runs.keys().eq(left.runs.keys()));
        prop_assert_eq!(again.messages, left.messages);
        prop_assert_eq!(&again.agents, &left.agents);
        prop_assert_eq!(&again.state, &left.state);
        prop_assert!(again.inputs.keys().eq(left.inputs.keys()));
        for number in 0..=u8::MAX {
            let bytes = |state: &State| state.entities().message_bytes(&id(number));
            prop_assert_eq!(bytes(&replayed), bytes(machine.state()), "{}", number);
        }
        let cancels = |view: &View| -> Vec<_> { view.runs.values().map(|run| run.cancel.clone()).collect() };
        prop_assert_eq!(cancels(again), cancels(left));
    }
}

#[test]
fn roles_are_addressed_as_principals_are() {
    let mut disk = Disk::default();
    let mut machine = disk.load();
    let ask = wire::Ask {
        title: "?".into(),
        roles: vec!["approver".into()],
        options: vec![wire::AskOption { id: "yes".into(), label: String::new() }],
        ..Default::default()
    };
    let ask =
        wire::Record { kind: kind::ASK, id: "a".into(), body: Some(Body::Ask(ask)), ..Default::default() };
    disk.run(&mut machine, publish(0, vec![ask.encode_to_vec().into()]), 1).unwrap();
    let answer = |standing: Standing| {
        let Command::Publish { sender, records, meant, .. } =
            publish(1, vec![Act::Answer { id: 0, option: 0 }.record(1, 0)])
        else {
            panic!()
        };
        let record = wire::Record::decode(records[0].clone()).unwrap();
        let record = wire::Record { reply_to: "a".into(), ..record };
        let records: Vec<Bytes> = vec![record.encode_to_vec().into()];
        let meanings = vec![check(&records[0]).unwrap()];
        let meant = meant.map(|_| Box::new(Meant { meanings, standing }));
        Command::Publish { sender, producer: None, if_end: None, may_create: false, records, meant }
    };
    let none = disk.run(&mut machine, answer(Standing::default()), 2).unwrap_err();
    assert_eq!(none.code, ErrorCode::NotAddressed);
    let other = Standing { roles: vec!["reader".into()], ..Standing::default() };
    assert_eq!(disk.run(&mut machine, answer(other), 2).unwrap_err().code, ErrorCode::NotAddressed);
    let approver = Standing { roles: vec!["reader".into(), "approver".into()], ..Standing::default() };
    disk.run(&mut machine, answer(approver.clone()), 2).unwrap();
    let late = disk.run(&mut machine, answer(approver), 3).unwrap_err();
    let resolved = late.resolved.unwrap();
    assert_eq!((late.code, resolved.by.as_str(), resolved.offset), (ErrorCode::AlreadyResolved, "bob", 1));
    let value = wire::Answer::decode(resolved.answer.unwrap()).unwrap();
    assert_eq!(value.option, "yes");
}

#[test]
fn a_message_has_so_many_bytes_and_is_found_when_it_has_ended() {
    const PIECE: usize = (1 << 20) - 1024;
    let mut disk = Disk::default();
    let mut machine = disk.load();
    let opens = wire::Record { id: "m".into(), grows: true, ..Default::default() };
    disk.run(&mut machine, publish(0, vec![opens.encode_to_vec().into()]), 1).unwrap();
    let piece = |bytes: usize, close: &str| -> Bytes {
        let (message, close, body) =
            ("m".to_owned(), close.to_owned(), Some(Body::Data(vec![7; bytes].into())));
        wire::Record { kind: kind::DELTA, message, close, body, ..Default::default() }.encode_to_vec().into()
    };
    let grow = |disk: &mut Disk, machine: &mut Machine, pieces: &[usize]| {
        let pieces = pieces.iter().map(|bytes| piece(*bytes, "")).collect();
        disk.run(machine, publish(0, pieces), 1).map_err(|error| error.code)
    };
    let left = MESSAGE_BYTES_MAX % PIECE;
    for _ in 0..MESSAGE_BYTES_MAX / PIECE {
        grow(&mut disk, &mut machine, &[PIECE]).unwrap();
    }
    let too_large = Err(ErrorCode::MessageTooLarge);
    assert_eq!(grow(&mut disk, &mut machine, &[left + 1]), too_large);
    assert_eq!(grow(&mut disk, &mut machine, &[left - 5, 6]), too_large, "a batch counts as a whole");
    grow(&mut disk, &mut machine, &[left - 5, 5]).unwrap();
    assert_eq!(grow(&mut disk, &mut machine, &[1]), too_large);
    let describe = |message: &str| Command::DescribeMessage { message: message.to_owned() };
    let bytes = MESSAGE_BYTES_MAX as u64;
    let open = disk.run(&mut machine, describe("m"), 1).unwrap();
    assert_eq!(open, Reply::Message { offset: 0, last: None, bytes });
    disk.run(&mut machine, publish(0, vec![piece(0, "complete")]), 1).unwrap();
    machine.request_snapshot();
    disk.settle(&mut machine);
    let mut again = disk.load();
    let ended = Reply::Message { offset: 0, last: Some(disk.log.len() as u64 - 1), bytes: 0 };
    assert_eq!(disk.run(&mut again, describe("m"), 1).unwrap(), ended);
    let unknown = disk.run(&mut machine, describe("x"), 1).unwrap_err();
    assert_eq!((unknown.code, unknown.field), (ErrorCode::MessageNotFound, "message"));
}

fn record(record: &wire::Record) -> Bytes {
    record.encode_to_vec().into()
}

/// The deltas of a log by which messages end: which, how, and whose the record is.
fn closes(log: &[Bytes]) -> Vec<(String, String, String)> {
    let decoded = log.iter().map(|record| wire::Record::decode(record.clone()).unwrap());
    let closing = decoded.filter(|record| !record.close.is_empty());
    closing.map(|record| (record.message, record.close, record.sender.unwrap().principal)).collect()
}

#[test]
fn a_message_ends_with_the_run_that_it_is_a_part_of() {
    let mut disk = Disk::default();
    let mut machine = disk.load();
    let open = |id: &str, run: &str| {
        record(&wire::Record { id: id.into(), run: run.into(), grows: true, ..Default::default() })
    };
    // Before its run is started, and without a run.
    disk.run(&mut machine, publish(0, vec![open("early", "i1"), open("free", "")]), 1).unwrap();
    let start = |id, parent| Act::Start { id, parent }.record(1, 0);
    disk.run(&mut machine, publish(0, vec![start(1, None), start(2, Some(1)), start(3, None)]), 1).unwrap();
    disk.run(&mut machine, publish(0, vec![open("part", "i2"), open("other", "i3")]), 1).unwrap();
    // What is open outlives a restart, from a snapshot, with the run that it names.
    machine.request_snapshot();
    disk.settle(&mut machine);
    machine = disk.load();
    let delta = |message: &str, close: &str| {
        let (message, close, body) = (message.to_owned(), close.to_owned(), Some(Body::Text("x".into())));
        record(&wire::Record { kind: kind::DELTA, message, close, body, ..Default::default() })
    };
    // The last piece comes with the end of the run, and one message closes by itself.
    let end = Act::Change { id: 1, state: 2 }.record(1, 0);
    disk.run(&mut machine, publish(0, vec![delta("early", ""), end]), 1).unwrap();
    let by_broker = |id: &str| (id.to_owned(), "abandoned".to_owned(), BROKER.to_owned());
    assert_eq!(closes(&disk.log), [by_broker("early"), by_broker("part")]);
    let late = disk.run(&mut machine, publish(0, vec![delta("early", "")]), 1).unwrap_err();
    assert_eq!(late.code, ErrorCode::MessageClosed);
    // What somebody says of a run that has ended is taken, and goes on until they close it, whatever else ends.
    disk.run(&mut machine, publish(0, vec![open("late", "i1")]), 1).unwrap();
    disk.run(&mut machine, publish(0, vec![Act::Change { id: 3, state: 3 }.record(1, 0)]), 1).unwrap();
    assert_eq!(closes(&disk.log)[2..], [by_broker("other")]);
    disk.run(&mut machine, publish(0, vec![delta("late", ""), delta("late", "complete")]), 1).unwrap();
    assert_eq!(machine.state().entities().view().messages, 1, "only that of no run");
}

#[test]
fn the_state_has_so_many_keys_and_bytes() {
    let set = |key: &str, value: Option<&str>| -> Bytes {
        let value = value.map(|value| wire::state_change::Value::Text(value.to_owned()));
        let change = wire::StateChange { key: key.into(), value, if_revision: None };
        record(&wire::Record {
            kind: kind::STATE,
            body: Some(Body::StateChange(change)),
            ..Default::default()
        })
    };
    let mut disk = Disk::default();
    let mut machine = disk.load();
    disk.run(&mut machine, publish(0, vec![record(&wire::Record::default())]), 1).unwrap();
    let mut change = |records: Vec<Bytes>| {
        let result = disk.run(&mut machine, publish(0, records), 1);
        result.map_err(|error| (error.code, error.limit)).map(drop)
    };
    for key in 0..STATE_KEYS_MAX {
        change(vec![set(&format!("k{key}"), Some(""))]).unwrap();
    }
    let full = Err((ErrorCode::TooManyOpen, STATE_KEYS_MAX as u64));
    assert_eq!(change(vec![set("more", Some(""))]), full);
    assert_eq!(change(vec![set("k0", None), set("more", Some("")), set("k0", Some(""))]), full, "as a whole");
    change(vec![set("k0", Some("again")), set("k0", None), set("more", Some("")), set("more", None)])
        .unwrap();
    // Each has its key and its value; what is there of a key makes room for what comes instead.
    let long = "x".repeat(STATE_VALUE_BYTES_MAX);
    let keys: usize = (1..STATE_KEYS_MAX).map(|key| format!("k{key}").len()).sum();
    let mut left = STATE_BYTES_MAX - keys;
    for key in 1.. {
        let fits = left.min(STATE_VALUE_BYTES_MAX);
        change(vec![set(&format!("k{key}"), Some(&long[..fits]))]).unwrap();
        left -= fits;
        if left == 0 {
            let full = Err((ErrorCode::TooManyOpen, STATE_BYTES_MAX as u64));
            assert_eq!(change(vec![set(&format!("k{}", key + 1), Some("x"))]), full);
            change(vec![set("k1", None), set("k2", Some(&long))]).unwrap();
            break;
        }
    }
}
