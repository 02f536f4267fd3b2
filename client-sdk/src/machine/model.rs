//! The machine against a model of the broker, under every interleaving that proptest can think of: cuts at any frame,
//! lost answers, refusals, broken deliveries, restarts of the client, and tokens that expire, are revoked, come late, not
//! at all, or twice.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::position::Position;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use proptest::prelude::*;

use super::*;
use crate::backoff::Backoff;
use crate::error::PublishError;
use crate::from::From;
use crate::machine::outbox::{Recovered, RecoveredEntry};
use crate::machine::tokens::Known;

const SESSIONS: [&str; 3] = ["a/1", "a/2", "b"];
const WINDOW_BYTES: u64 = 64;
const RECORD_BYTES: u64 = 10;
/// What the broker's clock shows when the machine is made.
const BROKER_MS: u64 = 1_700_000_000_000;
/// How long a token is valid.
const TOKEN_MS: u64 = 3_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    Overloaded,
    UnknownApplied,
    UnknownNotApplied,
    Invalid,
}

/// What the application does when it is asked for a token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Callback {
    #[default]
    Gives,
    GivesLater,
    /// The one of before again, unless that was revoked.
    GivesOld,
    Fails,
}

#[derive(Clone, Debug)]
enum Step {
    Publish { session: usize, records: usize },
    ToBroker(usize),
    ToClient(usize),
    Deliver { session: usize, records: usize },
    Consume(usize),
    Trouble(Trouble),
    SkipDelivery,
    RepeatDelivery,
    Heartbeat,
    Cut,
    Drain,
    Advance(u64),
    Restart,
    Callback(Callback),
    Revoke,
    RefuseRefresh,
}

#[derive(Default)]
struct Log {
    records: Vec<String>,
    producers: BTreeMap<String, (u64, Vec<Made>)>,
}

/// A publish's payload and its first offset.
type Made = (Vec<String>, u64);

struct Reader {
    session: String,
    next: u64,
    consumed: u64,
    window: u64,
}

#[allow(clippy::large_enum_variant)] // a test: few are alive at a time
enum ToBroker {
    Frame(ClientFrame),
    Publish { request: u64, session: String, records: Vec<String>, slot: Slot },
}

#[derive(Default)]
struct Broker {
    logs: BTreeMap<String, Log>,
    readers: BTreeMap<u32, Reader>,
    troubles: VecDeque<Trouble>,
    /// Texts of publishes that were refused for good.
    refused: Vec<String>,
    answers: VecDeque<ServerFrame>,
    now_ms: u64,
    /// When each token expires; the index is its number.
    tokens: Vec<u64>,
    /// Lower ones are revoked.
    revoked_below: usize,
    refuse_refresh: bool,
    /// The token of the connection, from its hello on.
    token: Option<usize>,
    /// It said goodbye: nothing more is read.
    gone: bool,
    refreshed: usize,
    expired: usize,
}

impl Broker {
    fn refuse(&mut self, request: u64, code: ErrorCode, expected: u64) {
        let error = Some(Error::new(code, "no").expected(expected).to_wire());
        self.answers.push_back(ServerFrame::Refused(wire::Refused { request, subscription: 0, error }));
    }

    fn publish(&mut self, request: u64, session: &str, records: Vec<String>, slot: &Slot) {
        let trouble = self.troubles.pop_front();
        match trouble {
            Some(Trouble::Overloaded) => return self.refuse(request, ErrorCode::Overloaded, 0),
            Some(Trouble::UnknownNotApplied) => return self.refuse(request, ErrorCode::OutcomeUnknown, 0),
            _ => {}
        }
        let log = self.logs.entry(session.to_owned()).or_default();
        let known = log.producers.get(&slot.producer);
        let (epoch, taken) =
            known.map_or((slot.epoch, 0), |(epoch, publishes)| (*epoch, publishes.len() as u64));
        if slot.epoch < epoch {
            return self.refuse(request, ErrorCode::ProducerFenced, epoch);
        }
        let taken = if slot.epoch > epoch { 0 } else { taken };
        if slot.sequence > taken {
            let code = if known.is_none() { ErrorCode::ProducerUnknown } else { ErrorCode::SequenceGap };
            return self.refuse(request, code, taken);
        }
        if slot.sequence < taken {
            let (payload, from) = log.producers[&slot.producer].1[slot.sequence as usize].clone();
            assert_eq!(payload, records, "a sequence was given to another publish");
            let next = from + records.len() as u64;
            let answer = wire::Published { request, epoch: 0, from, next, duplicate: true };
            return self.answers.push_back(ServerFrame::Published(answer));
        }
        // What is invalid once is invalid for ever.
        if trouble == Some(Trouble::Invalid) || self.refused.contains(&records[0]) {
            self.refused.extend(records);
            return self.refuse(request, ErrorCode::InvalidRecord, 0);
        }
        let from = log.records.len() as u64;
        log.records.extend(records.clone());
        let producer = log.producers.entry(slot.producer.clone()).or_default();
        if producer.0 != slot.epoch {
            *producer = (slot.epoch, Vec::new());
        }
        producer.1.push((records, from));
        if trouble == Some(Trouble::UnknownApplied) {
            return self.refuse(request, ErrorCode::OutcomeUnknown, 0);
        }
        let next = log.records.len() as u64;
        self.answers.push_back(ServerFrame::Published(wire::Published {
            request,
            epoch: 0,
            from,
            next,
            duplicate: false,
        }));
    }

    /// Whether the token is good: its number, or why not.
    fn admit(&self, token: &str) -> Result<usize, ErrorCode> {
        let number: usize = token.strip_prefix("token ").expect("a hello without a token").parse().unwrap();
        match self.tokens[number] {
            _ if number < self.revoked_below => Err(ErrorCode::TokenRevoked),
            expires_ms if expires_ms <= self.now_ms => Err(ErrorCode::TokenExpired),
            _ => Ok(number),
        }
    }

    fn goodbye(&mut self, code: ErrorCode) {
        self.gone = true;
        self.expired += usize::from(code == ErrorCode::TokenExpired);
        let goodbye = wire::Goodbye { error: Some(Error::new(code, "bye").to_wire()), reconnect_after_ms: 0 };
        self.answers.push_back(ServerFrame::Goodbye(goodbye));
    }

    /// Ends the connection when its token is good no more; says whether it goes on.
    fn check(&mut self) -> bool {
        if let Some(number) = self.token.filter(|_| !self.gone)
            && let Err(code) = self.admit(&format!("token {number}"))
        {
            self.goodbye(code);
        }
        !self.gone
    }

    fn frame(&mut self, frame: ClientFrame) {
        match frame {
            ClientFrame::Hello(hello) => match self.admit(&hello.token) {
                Ok(number) => {
                    assert_eq!(self.token.replace(number), None, "a second hello");
                    let expires_ms = self.tokens[number];
                    let welcome = wire::Welcome {
                        heartbeat_ms: 1000,
                        idle_timeout_ms: 4000,
                        expires_ms,
                        ..Default::default()
                    };
                    self.answers.push_back(ServerFrame::Welcome(welcome));
                }
                Err(code) => self.goodbye(code),
            },
            ClientFrame::Authenticate(wire::Authenticate { request, token }) => match self.admit(&token) {
                _ if std::mem::take(&mut self.refuse_refresh) => {
                    self.refuse(request, ErrorCode::Forbidden, 0)
                }
                Ok(number) => {
                    assert!(self.token < Some(number), "no newer one");
                    self.token = Some(number);
                    self.refreshed += 1;
                    let expires_ms = self.tokens[number];
                    let answer = wire::Authenticated { request, expires_ms, ..Default::default() };
                    self.answers.push_back(ServerFrame::Authenticated(answer));
                }
                Err(code) => self.refuse(request, code, 0),
            },
            ClientFrame::Ping(_) => {
                self.answers.push_back(ServerFrame::Pong(wire::Pong { token: 0, time_ms: self.now_ms }));
            }
            ClientFrame::Subscribe(subscribe) => {
                for subscription in subscribe.subscriptions {
                    self.subscribe(subscribe.request, subscription);
                }
            }
            ClientFrame::Credit(credit) => {
                let reader = self.readers.get_mut(&credit.subscription).unwrap();
                assert!(credit.consumed_through <= reader.next);
                reader.consumed = reader.consumed.max(credit.consumed_through);
            }
            ClientFrame::Unsubscribe(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn subscribe(&mut self, request: u64, wanted: wire::Subscription) {
        let log = self.logs.get(&wanted.session);
        let end = log.map_or(0, |log| log.records.len() as u64);
        let from = match wanted.from.unwrap().from.unwrap() {
            wire::from::From::Start(_) => 0,
            wire::from::From::Position(position) => position.parse::<Position>().unwrap().offset,
            other => panic!("{other:?}"),
        };
        assert!(from <= end, "a position from the future");
        let reader = Reader {
            session: wanted.session.clone(),
            next: from,
            consumed: from,
            window: wanted.window_bytes.unwrap(),
        };
        self.readers.insert(wanted.subscription, reader);
        self.answers.push_back(ServerFrame::Subscribed(wire::Subscribed {
            request,
            subscription: wanted.subscription,
            session: wanted.session.clone(),
            exists: log.is_some(),
            end,
            outcome: "resumed".into(),
            from,
            ..Default::default()
        }));
    }

    fn deliver(&mut self, number: u32, records: usize) -> bool {
        let Some(reader) = self.readers.get_mut(&number) else { return false };
        let Some(log) = self.logs.get(&reader.session) else { return false };
        let free =
            reader.window.saturating_sub((reader.next - reader.consumed) * RECORD_BYTES) / RECORD_BYTES;
        let left = log.records.len() - reader.next as usize;
        let count = records.min(left).min(free as usize);
        if count == 0 {
            return false;
        }
        let from = reader.next as usize;
        let records = log.records[from..from + count].iter().map(|text| wire::Record {
            body: Some(wire::record::Body::Text(text.clone())),
            ..Default::default()
        });
        reader.next += count as u64;
        self.answers.push_back(ServerFrame::Delivery(wire::Delivery {
            subscription: number,
            epoch: 0,
            from: from as u64,
            next: reader.next,
            records: records.collect(),
            offsets: Vec::new(),
            session: String::new(),
        }));
        true
    }
}

struct World {
    now: Duration,
    machine: Machine,
    broker: Broker,
    connected: bool,
    to_broker: VecDeque<ToBroker>,
    spool: BTreeMap<Entry, (Lane, Vec<String>, Slot)>,
    next: BTreeMap<Lane, Slot>,
    next_entry: Entry,
    accepted: BTreeMap<String, Vec<String>>,
    settled: BTreeMap<Entry, bool>,
    seen: BTreeMap<u32, Vec<String>>,
    place: BTreeMap<u32, Position>,
    queue: VecDeque<(u32, crate::machine::subscriptions::Delivery)>,
    lives: u64,
    violations: usize,
    callback: Callback,
    /// The application was asked for a token and has not answered.
    asked: bool,
}

fn config(lives: u64, recovered: Recovered) -> Config {
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
    fn new() -> Self {
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

    fn subscribe_all(&mut self) {
        for (number, session) in (1..).zip(SESSIONS) {
            let from = self.place.get(&number).map_or(From::Start, |place| From::Position(*place));
            let session = SessionId::parse(session).unwrap();
            let wish =
                Wish { session, from, cursor: None, wait: true, window_bytes: WINDOW_BYTES, filter: None };
            self.input(Input::Subscribe { number, wish });
        }
    }

    fn input(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        self.run();
    }

    fn run(&mut self) {
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
    fn callback(&mut self) {
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

    fn now_ms(&self) -> u64 {
        BROKER_MS + self.now.as_millis() as u64
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::AskToken => {
                self.asked = true;
                self.callback();
            }
            Output::Connect => {
                assert!(!self.connected);
                self.connected = true;
                self.machine.handle(self.now, Input::Connected);
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

    fn drop_link(&mut self) {
        self.connected = false;
        self.to_broker.clear();
        self.broker.answers.clear();
        self.broker.readers.clear();
        (self.broker.token, self.broker.gone) = (None, false);
    }

    fn step(&mut self, step: Step) {
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
                    self.input(Input::Frame(Box::new(frame), bytes));
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
                    self.input(Input::Frame(Box::new(ServerFrame::Goodbye(goodbye)), 0));
                }
            }
            Step::Advance(ms) => {
                self.now += Duration::from_millis(ms);
                self.input(Input::Time);
            }
            Step::Restart => self.restart(),
        }
    }

    fn consume(&mut self, count: usize) {
        for _ in 0..count {
            let Some((number, delivery)) = self.queue.pop_front() else { break };
            for (offset, record) in delivery.records {
                let seen = self.seen.entry(number).or_default();
                assert_eq!(offset, seen.len() as u64);
                let Some(wire::record::Body::Text(text)) = record.body else { panic!() };
                seen.push(text);
            }
            let through = Position { epoch: delivery.epoch, offset: delivery.next };
            self.place.insert(number, through);
            self.input(Input::Consumed { number, through, bytes: delivery.bytes });
        }
    }

    fn heartbeat(&mut self) {
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
    fn restart(&mut self) {
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

    fn heal(&mut self) {
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
    fn exchange(&mut self) {
        for _ in 0..10 {
            self.step(Step::ToBroker(99));
            self.step(Step::ToClient(99));
        }
    }

    fn check(&self) {
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

fn step() -> impl Strategy<Value = Step> {
    let trouble = prop_oneof![
        Just(Trouble::Overloaded),
        Just(Trouble::UnknownApplied),
        Just(Trouble::UnknownNotApplied),
        Just(Trouble::Invalid),
    ];
    let callback = prop_oneof![
        4 => Just(Callback::Gives),
        1 => Just(Callback::GivesLater),
        1 => Just(Callback::GivesOld),
        1 => Just(Callback::Fails),
    ];
    prop_oneof![
        8 => (0..3usize, 1..4usize).prop_map(|(session, records)| Step::Publish { session, records }),
        8 => (1..6usize).prop_map(Step::ToBroker),
        8 => (1..6usize).prop_map(Step::ToClient),
        6 => (0..3usize, 1..5usize).prop_map(|(session, records)| Step::Deliver { session, records }),
        4 => (1..5usize).prop_map(Step::Consume),
        2 => trouble.prop_map(Step::Trouble),
        1 => Just(Step::SkipDelivery),
        1 => Just(Step::RepeatDelivery),
        1 => Just(Step::Heartbeat),
        2 => Just(Step::Cut),
        1 => Just(Step::Drain),
        3 => (1..2000u64).prop_map(Step::Advance),
        1 => Just(Step::Restart),
        2 => callback.prop_map(Step::Callback),
        1 => Just(Step::Revoke),
        1 => Just(Step::RefuseRefresh),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn every_publish_once_in_order_and_every_record_seen_once_in_order(
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.heal();
        world.check();
    }
}

fn world_with(publishes: usize) -> World {
    let mut world = World::new();
    for _ in 0..publishes {
        world.step(Step::Publish { session: 0, records: 1 });
    }
    world
}

#[test]
fn a_skipped_delivery_is_a_violation_and_is_read_again() {
    let mut world = world_with(4);
    world.exchange();
    world.step(Step::Deliver { session: 0, records: 1 });
    world.step(Step::Deliver { session: 0, records: 1 });
    world.step(Step::SkipDelivery);
    world.step(Step::ToClient(99));
    assert_eq!(world.violations, 1);
    world.heal();
    world.check();
}

#[test]
fn a_known_end_that_never_comes_is_a_violation() {
    let mut world = world_with(2);
    world.exchange();
    for _ in 0..=4 {
        world.step(Step::Heartbeat);
        world.step(Step::ToClient(9));
    }
    assert_eq!(world.violations, 1);
    world.heal();
    world.check();
}

#[test]
fn silence_ends_the_connection_and_pings_keep_it() {
    let mut world = world_with(0);
    world.step(Step::ToBroker(9));
    world.step(Step::ToClient(9));
    world.step(Step::Advance(1000));
    assert!(matches!(world.to_broker.back(), Some(ToBroker::Frame(ClientFrame::Ping(_)))));
    world.step(Step::Advance(1499));
    assert!(world.connected);
    world.step(Step::Advance(1));
    assert!(!world.connected);
}

#[test]
fn a_callback_that_gives_keeps_one_connection_over_any_number_of_tokens() {
    let mut world = world_with(3);
    for _ in 0..100 {
        world.step(Step::Publish { session: 0, records: 1 });
        world.exchange();
        world.step(Step::Deliver { session: 0, records: 9 });
        world.step(Step::Heartbeat);
        world.exchange();
        world.step(Step::Consume(9));
        world.step(Step::Advance(100));
    }
    assert!(world.broker.refreshed >= 3, "{}", world.broker.refreshed);
    assert_eq!((world.broker.expired, world.violations), (0, 0));
    world.heal();
    world.check();
}

#[test]
fn a_refresh_that_is_refused_ends_in_a_connection_with_another_token() {
    let mut world = world_with(0);
    world.exchange();
    world.step(Step::RefuseRefresh);
    world.step(Step::Advance(2_000));
    world.exchange();
    world.step(Step::Advance(600));
    assert!(matches!(world.to_broker.back(), Some(ToBroker::Frame(ClientFrame::Authenticate(_)))));
    world.exchange();
    assert!(!world.connected);
    world.step(Step::Publish { session: 0, records: 1 });
    world.heal();
    world.check();
    assert_eq!((world.broker.refreshed, world.broker.tokens.len()), (0, 3));
}

#[test]
fn who_is_given_no_other_token_is_closed_and_told_why() {
    let mut world = world_with(1);
    world.exchange();
    world.step(Step::Revoke);
    world.exchange();
    assert!(!world.connected && !world.machine.is_closed());
    world.step(Step::Callback(Callback::GivesLater));
    world.step(Step::Advance(60_000));
    let revoked = Token::new("token 0").unwrap();
    world.machine.handle(world.now, Input::Token(Ok(revoked)));
    let told = std::iter::from_fn(|| world.machine.poll_output());
    let states: Vec<Output> = told.filter(|output| matches!(output, Output::State(_))).collect();
    assert!(
        matches!(&states[..], [Output::State(ConnectionState::Closed(Closed::TokenRevoked))]),
        "{states:?}"
    );
}

#[test]
fn a_callback_that_never_answers_is_asked_again() {
    let mut world = world_with(0);
    world.step(Step::Callback(Callback::GivesLater));
    world.step(Step::Cut);
    world.step(Step::Advance(60_000));
    assert!(world.asked && !world.connected);
    world.asked = false;
    world.step(Step::Advance(TOKEN_TIMEOUT.as_millis() as u64));
    assert!(!world.asked);
    world.step(Step::Advance(60_000));
    assert!(world.asked);
    world.heal();
    world.check();
}

#[test]
fn nothing_of_the_machine_shows_a_token() {
    let mut world = world_with(1);
    assert!(!format!("{:?}", world.machine).contains("token 0"));
    world.heal();
    assert!(!format!("{:?}", world.machine).contains("token 0"));
}

#[test]
fn a_consumer_that_sleeps_holds_a_bounded_backlog_over_any_number_of_cuts() {
    let mut world = world_with(100);
    for _ in 0..20 {
        for _ in 0..50 {
            world.step(Step::ToBroker(9));
            world.step(Step::Deliver { session: 0, records: 2 });
            world.step(Step::ToClient(9));
        }
        world.step(Step::Cut);
        world.step(Step::Advance(60_000));
    }
    let backlog: u64 = world.queue.iter().map(|(_, delivery)| delivery.bytes).sum();
    assert!(backlog <= WINDOW_BYTES * 3 / 2, "{backlog}");
    world.heal();
    world.check();
}

#[test]
fn every_subscription_resumes_in_one_frame() {
    let mut world = world_with(1);
    world.step(Step::ToBroker(99));
    world.step(Step::ToClient(99));
    world.step(Step::Cut);
    world.step(Step::Advance(60_000));
    let subscribes = world.to_broker.iter().filter_map(|frame| match frame {
        ToBroker::Frame(ClientFrame::Subscribe(subscribe)) => Some(subscribe.subscriptions.len()),
        _ => None,
    });
    assert_eq!(subscribes.collect::<Vec<_>>(), [3]);
}

/// Gives the machine one frame as if the broker had sent it, and returns what it told the subscription.
fn told(world: &mut World, frame: ServerFrame) -> Vec<Event> {
    world.machine.handle(world.now, Input::Frame(Box::new(frame), 1));
    std::iter::from_fn(|| world.machine.poll_output())
        .filter_map(|output| match output {
            Output::Event { event, .. } => Some(event),
            _ => None,
        })
        .collect()
}

fn subscribed(outcome: &str) -> ServerFrame {
    ServerFrame::Subscribed(wire::Subscribed {
        request: 1,
        subscription: 1,
        exists: true,
        epoch: 2,
        start: 5,
        end: 9,
        outcome: outcome.into(),
        from: 5,
        gap_from: 3,
        ..Default::default()
    })
}

#[test]
fn outcomes_are_told_once_and_typed() {
    let told_for = |outcome| told(&mut world_with(0), subscribed(outcome));
    let resume = Position { epoch: 2, offset: 5 };
    let end = Position { epoch: 2, offset: 9 };
    assert!(matches!(
        told_for("gap")[..],
        [Event::Began(_), Event::Failed(SubscriptionError::Gap { from: 3, next: 5 })]
    ));
    let changed = told_for("epoch_changed");
    assert!(
        matches!(&changed[1], Event::Failed(error) if *error == SubscriptionError::EpochChanged { resume })
    );
    let future = told_for("future_position");
    assert!(
        matches!(&future[1], Event::Failed(error) if *error == SubscriptionError::FuturePosition { end })
    );
    assert!(matches!(future[2], Event::Ended));
    assert!(matches!(told_for("closed")[..], [Event::Began(_), Event::Ended]));
}

#[test]
fn ends_are_told_apart() {
    let ended = |code: ErrorCode, next| {
        let mut world = world_with(0);
        told(&mut world, subscribed("resumed"));
        let error = Some(Error::new(code, "over").to_wire());
        let ended =
            wire::SubscriptionEnded { subscription: 1, epoch: 2, next, error, session: String::new() };
        let events = told(&mut world, ServerFrame::SubscriptionEnded(ended));
        (events, matches!(world.machine.link, Link::Open(_)))
    };
    assert!(
        matches!(ended(ErrorCode::SessionClosed, 5), (events, true) if matches!(events[..], [Event::Ended]))
    );
    assert!(matches!(ended(ErrorCode::SessionClosed, 6), (events, false) if events.is_empty()));
    let (events, _) = ended(ErrorCode::SessionDeleted, 5);
    assert!(matches!(events[..], [Event::Failed(SubscriptionError::Deleted), Event::Ended]));
    let (events, _) = ended(ErrorCode::Draining, 5);
    assert!(events.is_empty());
    let (events, _) = ended(ErrorCode::DataCorrupt, 5);
    assert!(matches!(events[..], [Event::Failed(SubscriptionError::Refused(_)), Event::Ended]));
}

/// Refuses what is in flight with these codes, in order, and says what became of the entries.
fn settled_after(codes: &[(ErrorCode, u64)]) -> (Vec<(Entry, String)>, World) {
    let mut world = world_with(codes.len());
    let requests: Vec<u64> = world
        .to_broker
        .drain(..)
        .filter_map(|frame| match frame {
            ToBroker::Publish { request, .. } => Some(request),
            ToBroker::Frame(_) => None,
        })
        .collect();
    let mut settled = Vec::new();
    for (request, (code, expected)) in requests.iter().zip(codes) {
        let error = Some(Error::new(*code, "no").expected(*expected).to_wire());
        let refused = wire::Refused { request: *request, subscription: 0, error };
        world.machine.handle(world.now, Input::Frame(Box::new(ServerFrame::Refused(refused)), 0));
        while let Some(output) = world.machine.poll_output() {
            if let Output::Settled { entry, result } = output {
                world.spool.remove(&entry);
                settled.push((entry, format!("{:?}", result.unwrap_err())));
            }
        }
    }
    (settled, world)
}

#[test]
fn a_closed_session_fails_what_is_queued_and_a_fenced_producer_too() {
    let (settled, _) = settled_after(&[(ErrorCode::SessionClosed, 0); 3]);
    let wanted: Vec<(Entry, String)> = (0..3).map(|entry| (entry, "SessionClosed".to_owned())).collect();
    assert_eq!(settled, wanted);
    let (settled, mut world) = settled_after(&[(ErrorCode::ProducerFenced, 7); 2]);
    assert_eq!(settled.len(), 2);
    assert!(settled[0].1.starts_with("Fenced"));
    let slot = world.machine.reserve(&SessionId::parse(SESSIONS[0]).unwrap().into());
    assert_eq!((slot.producer.as_str(), slot.epoch, slot.sequence), ("life0-1", 0, 0));
}

#[test]
fn what_follows_a_mismatch_goes_on_under_the_next_epoch() {
    let codes = [(ErrorCode::EndMismatch, 12), (ErrorCode::SequenceGap, 0), (ErrorCode::SequenceGap, 0)];
    let (settled, mut world) = settled_after(&codes);
    assert_eq!(settled, [(0, "EndMismatch { end: 12 }".to_owned())]);
    let (_, first) = world.machine.poll_publish(world.now).unwrap();
    let (_, second) = world.machine.poll_publish(world.now).unwrap();
    assert_eq!((first.entry, first.slot.epoch, first.slot.sequence), (1, 1, 0));
    assert_eq!((second.entry, second.slot.epoch, second.slot.sequence), (2, 1, 1));
}

#[test]
fn a_producer_that_the_broker_forgot_begins_again() {
    let mut world = world_with(2);
    world.heal();
    world.broker.logs.clear();
    world.step(Step::Publish { session: 0, records: 1 });
    world.step(Step::ToBroker(9));
    world.step(Step::ToClient(9));
    world.step(Step::ToBroker(9));
    world.step(Step::ToClient(9));
    assert_eq!(world.broker.logs[SESSIONS[0]].records, ["2.0"]);
    assert_eq!(world.machine.unacknowledged(), 0);
}

#[test]
fn an_end_that_overtakes_the_answer_is_one() {
    let mut world = world_with(0);
    world.step(Step::ToBroker(99));
    let error = Error::new(ErrorCode::SessionNotFound, "there is no such session").to_wire();
    let ended = wire::SubscriptionEnded { subscription: 1, error: Some(error), ..Default::default() };
    let events = told(&mut world, ServerFrame::SubscriptionEnded(ended));
    assert!(
        matches!(events[..], [Event::Failed(SubscriptionError::NotAllowed(_)), Event::Ended]),
        "{events:?}"
    );
    let waits = |awaited: &Awaited| matches!(awaited, Awaited::Subscribe(all) if all.contains(&1));
    assert!(!world.machine.awaited.values().any(waits));
    assert!(told(&mut world, subscribed("resumed")).is_empty(), "what comes late is of no interest");
}

#[test]
fn a_subscription_that_ended_for_now_is_asked_for_again_on_the_same_connection() {
    let mut world = world_with(0);
    world.step(Step::ToBroker(99));
    told(&mut world, subscribed("resumed"));
    let mut error = Error::new(ErrorCode::StorageUnavailable, "reading failed").to_wire();
    error.retry_after_ms = 700;
    let ended = wire::SubscriptionEnded {
        subscription: 1,
        epoch: 2,
        next: 5,
        error: Some(error),
        session: String::new(),
    };
    assert!(told(&mut world, ServerFrame::SubscriptionEnded(ended)).is_empty());
    let asked = |world: &World| {
        world.to_broker.iter().any(|frame| match frame {
            ToBroker::Frame(ClientFrame::Subscribe(subscribe)) => {
                let again =
                    subscribe.subscriptions.iter().find(|subscription| subscription.subscription == 1);
                let position = Position { epoch: 2, offset: 5 }.to_string();
                again.and_then(|again| again.from.clone()?.from) == Some(wire::from::From::Position(position))
            }
            _ => false,
        })
    };
    world.step(Step::Advance(699));
    assert!(!asked(&world));
    world.step(Step::Advance(1));
    assert!(asked(&world), "it resumes where it was");
}
