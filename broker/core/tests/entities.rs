//! Asks, runs and messages that grow against a simple reference model, over random commands, snapshots, restarts and erasures.
#![allow(clippy::unwrap_used)] // a test: a panic is its failure

use std::collections::BTreeMap;

use bytes::Bytes;
use longwire_core::command::{Command, Meant, Reply};
use longwire_core::entity::standing::Standing;
use longwire_core::entity::view::View;
use longwire_core::machine::{BROKER, Machine, Output, Persisted, Ticket};
use longwire_core::state::State;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::meaning::Meaning;
use longwire_proto::position::Lineage;
use longwire_proto::record::{Sealed, Sender, check, erased, kind};
use longwire_proto::resolution::AskOutcome;
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

/// One record, small enough to collide often.
#[derive(Clone, Copy, Debug)]
enum Act {
    Ask { id: u8, to: Option<u8>, run: Option<u8>, lives_for: Option<u64> },
    Answer { id: u8, option: u8 },
    Deny { id: u8 },
    Cancel { id: u8 },
    Start { id: u8, parent: Option<u8> },
    Change { id: u8, state: u8 },
    Open { id: u8 },
    Delta { id: u8, length: u8, closes: bool },
    Plain,
}

fn id(number: u8) -> String {
    format!("i{number}")
}

fn named(number: Option<u8>) -> String {
    number.map(id).unwrap_or_default()
}

impl Act {
    fn record(self, now_ms: u64) -> Bytes {
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
            Self::Open { id: number } => wire::Record { id: id(number), grows: true, ..Default::default() },
            Self::Delta { id: number, length, closes } => wire::Record {
                kind: kind::DELTA,
                message: id(number),
                close: if closes { "complete".into() } else { String::new() },
                body: Some(Body::Text("x".repeat(length.into()))),
                ..Default::default()
            },
            Self::Plain => wire::Record::default(),
        };
        record.encode_to_vec().into()
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Thing {
    Ask {
        by: String,
        to: Option<String>,
        run: String,
        expires: Option<u64>,
        offset: u64,
        end: Option<(AskOutcome, String)>,
    },
    Run {
        by: String,
        parent: String,
        offset: u64,
        end: Option<String>,
    },
    Message {
        by: String,
        bytes: u64,
        closed: bool,
    },
}

/// The reference.
#[derive(Clone, Default)]
struct Reference {
    things: BTreeMap<String, Thing>,
    /// Where each delta was told to begin in its message.
    places: Vec<(u64, u64)>,
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

    /// One record of a publish of `by`.
    fn act(&mut self, act: Act, by: &str, manages: bool) -> Result<Said, ErrorCode> {
        let (offset, now) = (self.end, self.time_ms);
        let by = by.to_owned();
        match act {
            Act::Plain => {}
            Act::Ask { id: number, to, run, lives_for } => {
                match self.things.get(&id(number)) {
                    Some(Thing::Ask { by: first, offset, .. }) if *first == by => {
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
                    Act::Cancel { .. } if *asker == by || manages => AskOutcome::Cancelled,
                    Act::Cancel { .. } => return Err(ErrorCode::NotOwner),
                    _ if expires.is_some_and(|at| at <= now) => return Err(ErrorCode::AlreadyResolved),
                    _ if to.as_ref().is_some_and(|to| *to != by) => return Err(ErrorCode::NotAddressed),
                    Act::Answer { option, .. } if usize::from(option) >= OPTIONS.len() => {
                        return Err(ErrorCode::InvalidAnswer);
                    }
                    Act::Answer { .. } => AskOutcome::Answered,
                    _ => AskOutcome::Denied,
                };
                *end = Some((outcome, by));
            }
            Act::Start { id: number, parent } => {
                match self.things.get(&id(number)) {
                    Some(Thing::Run { by: first, offset, .. }) if *first == by => {
                        return Ok(Said::Known(*offset));
                    }
                    Some(_) => return Err(ErrorCode::IdInUse),
                    None => {}
                }
                if parent.is_some() {
                    self.run_is_open(&named(parent))?;
                }
                self.things.insert(id(number), Thing::Run { by, parent: named(parent), offset, end: None });
            }
            Act::Change { id: number, state } => {
                self.run_is_open(&id(number))?;
                let Some(Thing::Run { by: owner, end, .. }) = self.things.get_mut(&id(number)) else {
                    panic!()
                };
                if *owner != by && !manages {
                    return Err(ErrorCode::NotOwner);
                }
                *end = Some(STATES[usize::from(state)].to_owned()).filter(|_| state >= 2);
            }
            Act::Open { id: number } => {
                if self.things.contains_key(&id(number)) {
                    return Err(ErrorCode::IdInUse);
                }
                self.things.insert(id(number), Thing::Message { by, bytes: 0, closed: false });
            }
            Act::Delta { id: number, length, closes } => match self.things.get_mut(&id(number)) {
                Some(Thing::Message { closed: true, .. }) => return Err(ErrorCode::MessageClosed),
                Some(Thing::Message { by: owner, .. }) if *owner != by => return Err(ErrorCode::NotOwner),
                Some(Thing::Message { bytes, closed, .. }) => {
                    self.places.push((offset, *bytes));
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
        2 => id().prop_map(|id| Act::Open { id }),
        4 => (id(), 0..4u8, prop::bool::weighted(0.2))
            .prop_map(|(id, length, closes)| Act::Delta { id, length, closes }),
        1 => Just(Act::Plain),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Publish { by: u8, acts: Vec<Act> },
    Pass(u64),
    Snapshot,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..3u8, prop::collection::vec(act(), 1..4)).prop_map(|(by, acts)| Step::Publish { by, acts }),
        2 => (1..20u64).prop_map(Step::Pass),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Restart),
    ]
}

fn publish(by: u8, records: Vec<Bytes>) -> Command {
    let meanings: Vec<Meaning> = records.iter().map(|record| check(record).unwrap()).collect();
    // Eve manages the session.
    let standing = Standing { manages: by == 2, ..Standing::default() };
    Command::Publish {
        sender: Sender { principal: PRINCIPALS[usize::from(by)].to_owned(), ..Sender::default() },
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
        for step in steps {
            match &step {
                Step::Publish { by, acts } => {
                    let now = reference.time_ms;
                    let records: Vec<Bytes> = acts.iter().map(|act| act.record(now)).collect();
                    let result = disk.run(&mut machine, publish(*by, records), now);
                    let (mut trial, from) = (reference.clone(), reference.end);
                    let mut expected = Ok(None);
                    for act in acts {
                        match trial.act(*act, PRINCIPALS[usize::from(*by)], *by == 2) {
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
                    machine.handle_timeout(reference.time_ms, None);
                    let due = machine.poll_timeout();
                    prop_assert!(due.is_none_or(|due| due > reference.time_ms), "{:?} is over", due);
                    disk.settle(&mut machine);
                    reference.expire();
                }
                Step::Snapshot => {
                    machine.request_snapshot();
                    disk.settle(&mut machine);
                }
                Step::Restart => machine = disk.load(),
            }
            prop_assert_eq!(disk.log.len() as u64, reference.end, "{:?}", step);
            reference.check(machine.state().entities().view());
        }
        let replayed = disk.replayed();
        prop_assert_eq!(replayed.entities().view(), machine.state().entities().view());
        for (offset, at) in reference.places {
            let record = wire::Record::decode(disk.log[usize::try_from(offset).unwrap()].clone()).unwrap();
            prop_assert_eq!(record.at_byte, at);
        }
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
                Step::Publish { by, acts } => {
                    let records = acts.iter().map(|act| act.record(now)).collect();
                    drop(disk.run(&mut machine, publish(by, records), now));
                }
                Step::Pass(ms) => now += ms,
                Step::Snapshot | Step::Restart => {}
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
        let replayed = disk.replayed();
        let again = replayed.entities().view();
        prop_assert!(again.asks.keys().eq(left.asks.keys()));
        prop_assert!(again.runs.keys().eq(left.runs.keys()));
        prop_assert_eq!(again.messages, left.messages);
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
            publish(1, vec![Act::Answer { id: 0, option: 0 }.record(1)])
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
