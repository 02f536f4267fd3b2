//! A machine, the application that uses it, the broker, and what is under way between them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::position::Position;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use super::broker::Broker;
use super::step::{Callback, Step};
use super::{BROKER_MS, RECORD_BYTES, SESSIONS, TOKEN_MS, WINDOW_BYTES};
use crate::backoff::Backoff;
use crate::connection_state::ConnectionState;
use crate::error::PublishError;
use crate::from::From;
use crate::lane::Lane;
use crate::machine::Machine;
use crate::machine::event::{Delivery, Event};
use crate::machine::io::{Config, Input, Output};
use crate::machine::outbox::{Entry, Recovered, RecoveredEntry, Slot};
use crate::machine::subscriptions::{Wanted, Wish};
use crate::machine::tokens::Known;
use crate::token::Token;
use crate::transport::Transport;

#[allow(clippy::large_enum_variant)] // a test: few are alive at a time
pub(super) enum ToBroker {
    Frame(ClientFrame),
    Publish { request: u64, session: String, records: Vec<String>, slot: Slot },
}

pub(super) struct World {
    pub(super) now: Duration,
    pub(super) machine: Machine,
    pub(super) broker: Broker,
    pub(super) connected: bool,
    pub(super) to_broker: VecDeque<ToBroker>,
    pub(super) spool: BTreeMap<Entry, (Lane, Vec<String>, Slot)>,
    pub(super) next: BTreeMap<Lane, Slot>,
    pub(super) next_entry: Entry,
    pub(super) accepted: BTreeMap<String, Vec<String>>,
    pub(super) settled: BTreeMap<Entry, bool>,
    pub(super) seen: BTreeMap<u32, Vec<String>>,
    pub(super) place: BTreeMap<u32, Position>,
    pub(super) queue: VecDeque<(u32, Delivery)>,
    pub(super) lives: u64,
    pub(super) violations: usize,
    pub(super) callback: Callback,
    /// The application was asked for a token and has not answered.
    pub(super) asked: bool,
}

pub(super) fn config(lives: u64, recovered: Recovered) -> Config {
    Config {
        device: String::new(),
        client: "model".into(),
        backoff: Backoff::default(),
        producer_base: format!("life{lives}"),
        seed: lives,
        recovered,
        token: Known::Asked,
    }
}

impl World {
    pub(super) fn new() -> Self {
        let mut world = Self {
            now: Duration::ZERO,
            machine: Machine::new(config(0, Recovered::default())),
            broker: Broker::default(),
            connected: false,
            to_broker: VecDeque::new(),
            spool: BTreeMap::new(),
            next: BTreeMap::new(),
            next_entry: 0,
            accepted: BTreeMap::new(),
            settled: BTreeMap::new(),
            seen: BTreeMap::new(),
            place: BTreeMap::new(),
            queue: VecDeque::new(),
            lives: 0,
            violations: 0,
            callback: Callback::default(),
            asked: false,
        };
        world.run();
        world.subscribe_all();
        world
    }

    pub(super) fn subscribe_all(&mut self) {
        for (number, session) in (1..).zip(SESSIONS) {
            let from = self.place.get(&number).map_or(From::Start, |place| From::Position(*place));
            let session = SessionId::parse(session).unwrap();
            let wish = Wish { wait: true, ..Wish::new(session, from, WINDOW_BYTES) };
            self.input(Input::Subscribe { number, wanted: Wanted::Records(wish) });
        }
    }

    pub(super) fn input(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        self.run();
    }

    pub(super) fn run(&mut self) {
        loop {
            while let Some(output) = self.machine.poll_output() {
                self.output(output);
            }
            if !self.connected || self.to_broker.len() > 8 {
                return;
            }
            let Some((request, due)) = self.machine.poll_publish(self.now) else { return };
            let (session, records, slot) = self.spool[&due.entry].clone();
            assert_eq!(slot, due.slot, "the spool and the machine number differently");
            let session = session.session.as_str().to_owned();
            self.to_broker.push_back(ToBroker::Publish { request, session, records, slot });
        }
    }

    /// The application's answer to having been asked for a token.
    pub(super) fn callback(&mut self) {
        let token = match self.callback {
            Callback::GivesLater => return,
            Callback::Fails => Err("the issuer is away".to_owned()),
            Callback::GivesOld if self.broker.revoked_below < self.broker.tokens.len() => {
                Ok(self.broker.tokens.len() - 1)
            }
            Callback::Gives | Callback::GivesOld => {
                self.broker.tokens.push(self.now_ms() + TOKEN_MS);
                Ok(self.broker.tokens.len() - 1)
            }
        };
        self.asked = false;
        let token = token.map(|number| Token::new(&format!("token {number}")).unwrap());
        self.machine.handle(self.now, Input::Token(token));
    }

    pub(super) fn now_ms(&self) -> u64 {
        BROKER_MS + self.now.as_millis() as u64
    }

    pub(super) fn output(&mut self, output: Output) {
        match output {
            Output::AskToken => {
                self.asked = true;
                self.callback();
            }
            Output::Connect(greeting) => {
                assert!(!self.connected);
                self.connected = true;
                self.to_broker.extend(greeting.into_iter().map(ToBroker::Frame));
                self.machine.handle(self.now, Input::Connected(Transport::WebSocket));
            }
            Output::Disconnect => self.drop_link(),
            Output::Send(frame) => self.to_broker.push_back(ToBroker::Frame(frame)),
            Output::Settled { entry, result } => {
                let (session, records, _) = self.spool.remove(&entry).unwrap();
                match &result {
                    Ok(published) => {
                        let log = &self.broker.logs[session.session.as_str()].records;
                        let range = published.from.offset as usize..published.next.offset as usize;
                        assert_eq!(log[range], records[..]);
                    }
                    Err(PublishError::Refused(refusal)) => {
                        assert_eq!(refusal.code, Some(ErrorCode::InvalidRecord))
                    }
                    Err(other) => panic!("{other:?}"),
                }
                assert!(self.settled.insert(entry, result.is_ok()).is_none(), "settled twice");
            }
            Output::Renumbered { lane: session, epoch } => {
                let left = self.spool.values_mut().filter(|(of, _, _)| *of == session);
                let next = self.next.get_mut(&session).unwrap();
                (next.epoch, next.sequence) = (epoch, 0);
                for (_, _, slot) in left {
                    *slot = next.clone();
                    next.sequence += 1;
                }
            }
            Output::Event { number, event } => match event {
                Event::Delivery(delivery) => self.queue.push_back((number, delivery)),
                Event::Began(_) => {}
                other => panic!("{other:?}"),
            },
            Output::State(ConnectionState::Reconnecting { error, .. }) => {
                self.violations += usize::from(error.contains("broke the protocol"));
            }
            Output::State(_) => {}
            Output::Answer { .. } => unreachable!(),
        }
    }

    pub(super) fn drop_link(&mut self) {
        self.connected = false;
        self.to_broker.clear();
        self.broker.answers.clear();
        self.broker.readers.clear();
        (self.broker.token, self.broker.gone) = (None, false);
    }

    pub(super) fn step(&mut self, step: Step) {
        self.broker.now_ms = self.now_ms();
        match step {
            Step::Publish { session, records } => {
                let session = Lane::from(SessionId::parse(SESSIONS[session]).unwrap());
                let entry = self.next_entry;
                self.next_entry += 1;
                let texts: Vec<String> = (0..records).map(|index| format!("{entry}.{index}")).collect();
                self.accepted.entry(session.session.as_str().to_owned()).or_default().extend(texts.clone());
                let slot = self.machine.reserve(&session);
                self.next.insert(session.clone(), Slot { sequence: slot.sequence + 1, ..slot.clone() });
                self.spool.insert(entry, (session.clone(), texts, slot));
                self.input(Input::Accepted { entry, lane: session, bytes: 1 });
            }
            Step::ToBroker(count) => {
                for _ in 0..count {
                    if !self.broker.check() {
                        break;
                    }
                    match self.to_broker.pop_front() {
                        Some(ToBroker::Frame(frame)) => self.broker.frame(frame),
                        Some(ToBroker::Publish { request, session, records, slot }) => {
                            self.broker.publish(request, &session, records, &slot);
                        }
                        None => break,
                    }
                }
                self.run();
            }
            Step::ToClient(count) => {
                for _ in 0..count {
                    let Some(frame) = self.broker.answers.pop_front() else { break };
                    let bytes = match &frame {
                        ServerFrame::Delivery(delivery) => delivery.records.len() as u64 * RECORD_BYTES,
                        _ => 0,
                    };
                    self.input(Input::Frame(Box::new(frame.into()), bytes));
                }
            }
            Step::Deliver { session, records } => {
                if self.broker.check() {
                    self.broker.deliver(session as u32 + 1, records);
                }
            }
            Step::Callback(callback) => {
                self.callback = callback;
                if self.asked {
                    self.callback();
                    self.run();
                }
            }
            // Two in a row that were never let in would rightly close the client.
            Step::Revoke => {
                let seen = self.broker.token.map_or(0, |number| number + 1);
                self.broker.revoked_below = self.broker.revoked_below.max(seen);
            }
            Step::RefuseRefresh => self.broker.refuse_refresh = true,
            Step::Consume(count) => self.consume(count),
            Step::Trouble(trouble) => self.broker.troubles.push_back(trouble),
            Step::SkipDelivery => {
                let is_delivery = |frame: &ServerFrame| matches!(frame, ServerFrame::Delivery(_));
                if let Some(index) = self.broker.answers.iter().position(is_delivery) {
                    self.broker.answers.remove(index);
                }
            }
            Step::RepeatDelivery => {
                let is_delivery = |frame: &&ServerFrame| matches!(frame, ServerFrame::Delivery(_));
                if let Some(frame) = self.broker.answers.iter().find(is_delivery).cloned() {
                    self.broker.answers.push_back(frame);
                }
            }
            Step::Heartbeat => self.heartbeat(),
            Step::Cut => {
                if self.connected {
                    self.drop_link();
                    self.input(Input::Disconnected { error: "cut".into() });
                }
            }
            Step::Drain => {
                if self.connected {
                    let error = Some(Error::new(ErrorCode::Draining, "bye").to_wire());
                    let goodbye = wire::Goodbye { error, reconnect_after_ms: 50 };
                    self.input(Input::Frame(Box::new(ServerFrame::Goodbye(goodbye).into()), 0));
                }
            }
            Step::Advance(ms) => {
                self.now += Duration::from_millis(ms);
                self.input(Input::Time);
            }
            Step::Restart => self.restart(),
        }
    }

    pub(super) fn consume(&mut self, count: usize) {
        for _ in 0..count {
            let Some((number, delivery)) = self.queue.pop_front() else { break };
            let (mut records, epoch) = (delivery.records, delivery.epoch);
            while let Some(record) = records.take(epoch) {
                let record = record.unwrap();
                let seen = self.seen.entry(number).or_default();
                assert_eq!(record.offset, seen.len() as u64);
                seen.push(record.text().unwrap().to_owned());
            }
            let through = Position { epoch: delivery.epoch, offset: delivery.next };
            self.place.insert(number, through);
            self.input(Input::Consumed { number, through, bytes: delivery.bytes });
        }
    }

    pub(super) fn heartbeat(&mut self) {
        if !self.connected || self.broker.gone {
            return;
        }
        let ends = self.broker.readers.iter().filter_map(|(number, reader)| {
            let end = self.broker.logs.get(&reader.session)?.records.len() as u64;
            Some(wire::SubscriptionProgress { subscription: *number, epoch: 0, end })
        });
        let heartbeat = wire::Heartbeat { time_ms: 0, ends: ends.collect() };
        self.broker.answers.push_back(ServerFrame::Heartbeat(heartbeat));
    }

    /// The client's process dies and starts again with its spool and its committed positions.
    pub(super) fn restart(&mut self) {
        self.drop_link();
        self.queue.clear();
        self.lives += 1;
        let entries = self.spool.iter().map(|(entry, (session, _, slot))| RecoveredEntry {
            entry: *entry,
            lane: session.clone(),
            slot: slot.clone(),
            bytes: 1,
        });
        let recovered = Recovered { entries: entries.collect(), next: self.next.clone() };
        self.machine = Machine::new(config(self.lives, recovered));
        self.asked = false;
        self.run();
        self.subscribe_all();
    }

    pub(super) fn heal(&mut self) {
        self.broker.troubles.clear();
        self.broker.refuse_refresh = false;
        self.step(Step::Callback(Callback::Gives));
        for _ in 0..20_000 {
            let seen: usize = self.seen.values().map(Vec::len).sum();
            let made: usize = self.broker.logs.values().map(|log| log.records.len()).sum();
            if self.machine.unacknowledged() == 0 && seen == made {
                return;
            }
            self.step(Step::ToBroker(usize::MAX));
            for session in 0..SESSIONS.len() {
                self.step(Step::Deliver { session, records: 3 });
            }
            let quiet = self.broker.answers.is_empty();
            self.step(Step::ToClient(usize::MAX));
            self.step(Step::Consume(usize::MAX));
            if quiet && self.to_broker.is_empty() {
                self.now = self.now.max(self.machine.poll_timeout().unwrap_or(self.now));
                self.heartbeat();
                self.input(Input::Time);
            }
        }
        panic!("it does not heal: {:?}", self.machine);
    }

    /// Lets everything travel but deliveries.
    pub(super) fn exchange(&mut self) {
        for _ in 0..10 {
            self.step(Step::ToBroker(99));
            self.step(Step::ToClient(99));
        }
    }

    pub(super) fn check(&self) {
        for (session, accepted) in &self.accepted {
            let wanted: Vec<&String> =
                accepted.iter().filter(|text| !self.broker.refused.contains(text)).collect();
            let log = self.broker.logs.get(session);
            let made: Vec<&String> = log.map(|log| log.records.iter().collect()).unwrap_or_default();
            assert_eq!(made, wanted, "each publish once and in order, in {session}");
        }
        for (number, session) in (1..).zip(SESSIONS) {
            let made = self.broker.logs.get(session).map(|log| log.records.clone()).unwrap_or_default();
            assert_eq!(self.seen.get(&number).cloned().unwrap_or_default(), made);
        }
        assert_eq!(self.settled.len() as u64, self.next_entry);
        assert!(self.spool.is_empty());
    }
}

/// A world in which these publishes were made.
pub(super) fn world_with(publishes: usize) -> World {
    let mut world = World::new();
    for _ in 0..publishes {
        world.step(Step::Publish { session: 0, records: 1 });
    }
    world
}
