//! Leases where the random commands of `entities.rs` do not lead: other histories of a log, time, room, closing, and older snapshots.
#![allow(clippy::unwrap_used)] // a test: a panic is its failure

use bytes::Bytes;
use longwire_core::command::{Command, Meant, Reply};
use longwire_core::entity::standing::Standing;
use longwire_core::machine::{Machine, Output, Persisted, Ticket};
use longwire_core::row::RowWriter;
use longwire_core::state::State;
use longwire_core::summary::Summary;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::kind;
use longwire_proto::lease::{LeaseRef, LeaseState, Terms};
use longwire_proto::limits::AGENTS_MAX;
use longwire_proto::meaning::Meaning;
use longwire_proto::position::{Lineage, LineageEntry};
use longwire_proto::record::{ProducerRef, Sealed, Sender, check};
use longwire_proto::run_state::RunState;
use longwire_proto::wire;
use longwire_proto::wire::record::Body;
use prost::Message;

const TERMS: Terms = Terms { ttl_ms: 100, adopt_timeout_ms: 1000 };

struct Session {
    machine: Machine,
    log: Vec<Bytes>,
}

fn sender(principal: &str) -> Sender {
    Sender { principal: principal.to_owned(), ..Sender::default() }
}

fn lease(agent: &str, generation: u64) -> LeaseRef {
    LeaseRef { agent: agent.to_owned(), generation }
}

fn publish(by: &str, lease: Option<LeaseRef>, records: Vec<wire::Record>) -> Command {
    let records: Vec<Bytes> = records.iter().map(|record| record.encode_to_vec().into()).collect();
    let meanings: Vec<Meaning> = records.iter().map(|record| check(record).unwrap()).collect();
    let sender = Sender { lease: lease.map(Box::new), ..sender(by) };
    let meant = Some(Box::new(Meant { meanings, standing: Standing::default() }));
    Command::Publish { sender, producer: None, if_end: None, may_create: true, records, meant }
}

fn run(id: &str) -> wire::Record {
    let body = Some(Body::RunChange(wire::RunChange::default()));
    wire::Record { kind: kind::RUN, id: id.into(), body, ..Default::default() }
}

fn grows(id: &str) -> wire::Record {
    wire::Record { id: id.into(), grows: true, ..Default::default() }
}

fn input(id: &str, agent: &str) -> wire::Record {
    wire::Record { kind: kind::INPUT, id: id.into(), to: vec![agent.into()], ..Default::default() }
}

impl Session {
    fn new() -> Self {
        let mut new = Self { machine: Machine::new(State::new(Lineage::beginning(0)), 0), log: Vec::new() };
        new.run(publish("ada", None, vec![wire::Record::default()]), 0).unwrap();
        new
    }

    /// The same log with this lineage, loaded at a time.
    fn loaded(log: Vec<Bytes>, lineage: Lineage, now_ms: u64) -> Self {
        let mut state = State::new(lineage);
        log.iter().for_each(|record| state.fold(record));
        let mut machine = Machine::new(state, 0);
        machine.begin_leases(now_ms);
        Self { machine, log }
    }

    fn settle(&mut self) -> Option<Result<Reply, Error>> {
        let mut result = None;
        loop {
            while let Some(output) = self.machine.poll_output() {
                if let Output::Reply { result: reply, .. } = output {
                    result = Some(reply);
                }
            }
            let Some(write) = self.machine.poll_write() else { return result };
            self.log.extend(write.records);
            self.machine.handle_persisted(Persisted::Durable);
        }
    }

    fn run(&mut self, command: Command, now_ms: u64) -> Result<Reply, Error> {
        self.machine.handle(Ticket(0), command, now_ms);
        self.settle().unwrap()
    }

    fn claim(&mut self, by: &str, agent: &str, now_ms: u64) -> Result<u64, Error> {
        let (sender, agent, terms) = (sender(by), agent.to_owned(), TERMS);
        let claim = Command::Claim { sender, agent, terms, take_over: false, going_on: None };
        self.run(claim, now_ms).map(|reply| match reply {
            Reply::Claimed(claimed) => claimed.view.agents[&claimed.agent].generation,
            other => panic!("{other:?}"),
        })
    }

    fn code(&mut self, command: Command, now_ms: u64) -> ErrorCode {
        self.run(command, now_ms).unwrap_err().code
    }

    fn look(&mut self, now_ms: u64) {
        self.machine.handle_lapse(now_ms);
        self.settle();
    }

    /// The kinds of the records from an offset on.
    fn kinds(&self, from: usize) -> Vec<u32> {
        self.log[from..].iter().map(|record| Sealed::parse(record).unwrap().kind).collect()
    }
}

#[test]
fn a_lease_lapses_when_its_time_is_over_and_never_before() {
    let mut session = Session::new();
    let generation = session.claim("ada", "a", 1000).unwrap();
    assert_eq!(session.machine.poll_lapse(), Some(1100));
    // What it publishes is a word of it, and what comes on its connection is told.
    session.run(publish("ada", Some(lease("a", generation)), vec![run("r")]), 1050).unwrap();
    assert_eq!(session.machine.poll_lapse(), Some(1150));
    session.machine.hear("a", generation, 1090);
    session.machine.hear("a", generation, 1070);
    session.machine.hear("a", generation + 1, 9000);
    session.machine.hear("b", generation, 9000);
    assert_eq!(session.machine.poll_lapse(), Some(1190));
    session.look(1189);
    assert!(session.machine.has_leases());
    let held = session.claim("bob", "a", 1189).unwrap_err();
    assert_eq!((held.code, held.retry_after_ms), (ErrorCode::LeaseHeld, 1));
    assert!(held.message.contains("ada"));
    session.look(1190);
    assert!(!session.machine.has_leases());
    assert_eq!(session.machine.poll_lapse(), None);
    assert_eq!(session.kinds(3), [kind::LEASE, kind::RUN]);
    // Its run waits for the next holder, for as long as was said.
    assert_eq!(session.machine.poll_timeout(), Some(2190));
    let next = session.claim("bob", "a", 1200).unwrap();
    assert_eq!(session.machine.poll_timeout(), None);
    session.look(1300);
    session.machine.handle_timeout(2299, None);
    assert_eq!(session.settle(), None);
    assert_eq!(session.kinds(5), [kind::LEASE, kind::LEASE], "it is suspended already");
    session.machine.handle_timeout(2300, None);
    session.settle();
    assert!(session.machine.state().entities().view().runs.is_empty());
    assert!(next > generation);
}

#[test]
fn a_run_that_waits_for_an_input_goes_on_waiting_when_its_lease_is_given_up_and_not_when_it_lapses() {
    let states = |session: &Session| -> Vec<RunState> {
        session.machine.state().entities().view().runs.values().map(|run| run.state).collect()
    };
    let waiting = || {
        let body = wire::RunChange { state: "input_required".into(), ..Default::default() };
        wire::Record {
            kind: kind::RUN,
            run: "b".into(),
            body: Some(Body::RunChange(body)),
            ..Default::default()
        }
    };
    for (gives_up, expected) in
        [(true, [RunState::Suspended, RunState::InputRequired]), (false, [RunState::Suspended; 2])]
    {
        let mut session = Session::new();
        let held = lease("coder", session.claim("ada", "coder", 0).unwrap());
        let records = vec![run("a"), run("b"), waiting()];
        session.run(publish("ada", Some(held.clone()), records), 1).unwrap();
        match gives_up {
            true => drop(session.run(Command::Release { sender: sender("ada"), lease: held }, 2).unwrap()),
            false => session.look(1 + TERMS.ttl_ms),
        }
        assert_eq!(states(&session), expected);
        // Nobody went on with either.
        session.machine.handle_timeout(2 + TERMS.ttl_ms + TERMS.adopt_timeout_ms, None);
        session.settle();
        assert_eq!(states(&session), []);
    }
}

#[test]
fn after_a_load_a_lease_has_all_of_its_time_again() {
    let mut session = Session::new();
    let generation = session.claim("ada", "a", 1000).unwrap();
    let mut session = Session::loaded(session.log, Lineage::beginning(0), 5000);
    assert_eq!(session.machine.poll_lapse(), Some(5100));
    session.run(publish("ada", Some(lease("a", generation)), vec![run("r")]), 5099).unwrap();
}

#[test]
fn what_was_claimed_in_another_history_is_over() {
    let mut origin = Session::new();
    let generation = origin.claim("ada", "a", 1000).unwrap();
    origin.run(publish("ada", Some(lease("a", generation)), vec![run("r"), grows("m")]), 1000).unwrap();
    let entries = [(0, 0), (1, origin.log.len() as u64)];
    let entries = entries.map(|(epoch, from_offset)| LineageEntry { epoch, from_offset });
    let lineage = Lineage::from_entries(entries.into()).unwrap();
    let mut restored = Session::loaded(origin.log, lineage, 1001);
    let view = restored.machine.state().entities().view();
    assert!(!view.is_live(&view.agents["a"]));
    let late = publish("ada", Some(lease("a", generation)), vec![run("s")]);
    assert_eq!(restored.code(late.clone(), 1001), ErrorCode::Fenced);
    // What it left is told as when it lapses, at once.
    assert!(restored.machine.poll_lapse().unwrap() <= 1001);
    let end = restored.log.len();
    restored.look(1001);
    assert_eq!(restored.kinds(end), [kind::LEASE, kind::DELTA, kind::RUN]);
    let next = restored.claim("bob", "a", 1001).unwrap();
    let view = restored.machine.state().entities().view();
    assert!(view.is_live(&view.agents["a"]) && next > generation);
    assert_eq!(restored.code(late, 1001), ErrorCode::Fenced);
}

#[test]
fn a_claim_of_what_another_history_left_ends_that_first() {
    let mut origin = Session::new();
    let generation = origin.claim("ada", "a", 1000).unwrap();
    origin.run(publish("ada", Some(lease("a", generation)), vec![run("r")]), 1000).unwrap();
    let end = origin.log.len();
    let entries = [(0, 0), (1, end as u64)];
    let entries = entries.map(|(epoch, from_offset)| LineageEntry { epoch, from_offset });
    let mut restored = Session::loaded(origin.log, Lineage::from_entries(entries.into()).unwrap(), 1001);
    restored.claim("bob", "a", 1001).unwrap();
    assert_eq!(restored.kinds(end), [kind::LEASE, kind::RUN, kind::LEASE]);
    assert_eq!(restored.machine.poll_lapse(), Some(1101));
}

#[test]
fn what_was_published_with_a_lease_is_still_known_when_that_has_ended() {
    let mut session = Session::new();
    let generation = session.claim("ada", "a", 1000).unwrap();
    let repeated = |sequence| {
        let Command::Publish { sender, if_end, records, meant, .. } =
            publish("ada", Some(lease("a", generation)), vec![grows("m")])
        else {
            panic!()
        };
        let producer = Some(ProducerRef { id: "p".into(), epoch: 0, sequence });
        Command::Publish { sender, producer, if_end, may_create: false, records, meant }
    };
    let first = session.run(repeated(0), 1000).unwrap();
    let Reply::Published { from, duplicate: false, .. } = first else { panic!("{first:?}") };
    session.look(2000);
    let again = session.run(repeated(0), 2000).unwrap();
    assert!(matches!(again, Reply::Published { from: at, duplicate: true, .. } if at == from));
    // Anything else is fenced, before its sequence is looked at.
    assert_eq!(session.code(repeated(1), 2000), ErrorCode::Fenced);
    assert_eq!(session.code(repeated(7), 2000), ErrorCode::Fenced);
}

#[test]
fn the_agent_that_had_nothing_to_do_for_longest_is_forgotten() {
    let mut session = Session::new();
    for number in 0..AGENTS_MAX {
        let agent = format!("a{number}");
        let generation = session.claim("ada", &agent, 1000).unwrap();
        if number == 0 {
            session.run(publish("ada", Some(lease(&agent, generation)), vec![run("r")]), 1000).unwrap();
        }
    }
    assert_eq!(session.claim("ada", "late", 1000).unwrap_err().code, ErrorCode::TooManyOpen);
    session.look(2000);
    // The first one has a run that waits, and the second one an input.
    session.run(publish("ada", None, vec![input("i", "a1")]), 2000).unwrap();
    session.claim("ada", "late", 2000).unwrap();
    let names = |session: &Session| -> Vec<String> {
        let view = session.machine.state().entities().view();
        ["a0", "a1", "a10", "late"]
            .iter()
            .filter(|name| view.agents.contains_key(**name))
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(names(&session), ["a0", "a1", "late"]);
    assert_eq!(session.machine.state().entities().view().agents.len(), AGENTS_MAX);
    assert_eq!(session.code(publish("ada", None, vec![input("j", "a10")]), 2000), ErrorCode::AgentUnknown);
    let mut replayed = State::new(Lineage::beginning(0));
    session.log.iter().for_each(|record| replayed.fold(record));
    assert_eq!(replayed.entities().view(), session.machine.state().entities().view());
}

#[test]
fn a_message_that_is_abandoned_ends_where_it_is() {
    let mut session = Session::new();
    let generation = session.claim("ada", "a", 1000).unwrap();
    let said = |record: wire::Record| wire::Record { body: Some(Body::Text("four".into())), ..record };
    let piece = wire::Record { kind: kind::DELTA, message: "m".into(), ..Default::default() };
    let records = vec![said(grows("m")), said(piece)];
    session.run(publish("ada", Some(lease("a", generation)), records), 1000).unwrap();
    session.look(1100);
    let last = wire::Record::decode(session.log.last().unwrap().clone()).unwrap();
    assert_eq!((last.message.as_str(), last.close.as_str(), last.at_byte), ("m", "abandoned", 8));
}

#[test]
fn closing_ends_every_lease_and_input() {
    let mut session = Session::new();
    let generation = session.claim("ada", "a", 1000).unwrap();
    session.run(publish("ada", Some(lease("a", generation)), vec![run("r")]), 1000).unwrap();
    session.run(publish("eve", None, vec![input("i", "a")]), 1000).unwrap();
    let end = session.log.len();
    session.run(Command::Close { sender: sender("ada"), reason: String::new() }, 1000).unwrap();
    assert_eq!(session.kinds(end), [kind::LEASE, kind::RUN, kind::INPUT, kind::SESSION]);
    let Ok(Meaning::Lease(change)) = Meaning::of(&session.log[end]) else { panic!() };
    assert_eq!(change.state, LeaseState::Lapsed);
    assert!(!session.machine.has_leases());
    assert!(session.machine.state().entities().view().inputs.is_empty());
    let late = publish("ada", Some(lease("a", generation)), vec![run("s")]);
    assert_eq!(session.code(late, 1000), ErrorCode::SessionClosed);
    assert_eq!(session.claim("ada", "a", 1000).unwrap_err().code, ErrorCode::SessionClosed);
}

#[test]
fn a_snapshot_of_before_there_were_agents_is_read() {
    let mut head = RowWriter::default();
    head.u64(2).u64(7).u64(1000).u64(0).bytes(&Summary::default().encode());
    // No row of what has ended, one message, no ask, one run.
    head.u64(0).u64(1).bytes(b"m").u64(3).bytes(b"ada").u64(5).u64(0);
    head.u64(1).bytes(b"r").u64(4).u64(900).u64(4).u64(900).bytes(b"ada").bytes(b"Build").bytes(b"");
    head.bytes(b"working").bytes(b"").u64(0).u64(0).u64(0);
    let state = State::from_head(Lineage::beginning(0), 0, &head.finish()).unwrap();
    let view = state.entities().view();
    assert_eq!((view.messages, &*view.runs["r"].agent, view.runs["r"].cancel.as_ref()), (1, "", None));
    assert_eq!(view.runs["r"].title, "Build");
    assert!(view.agents.is_empty() && view.inputs.is_empty());
    let (_, written) = state.rows(0).into_iter().find(|(key, _)| *key == State::head_key()).unwrap();
    let again = State::from_head(Lineage::beginning(0), 0, &written.unwrap()).unwrap();
    assert_eq!(again.entities(), state.entities());
}

#[test]
fn a_message_of_a_snapshot_that_knew_no_run_of_it_ends_without_one() {
    let mut head = RowWriter::default();
    head.u64(3).u64(7).u64(1000).u64(0).bytes(&Summary::default().encode());
    // No row of what has ended, one message of an agent, nothing else.
    head.u64(0).u64(1).bytes(b"m").u64(3).bytes(b"ada").u64(5).bytes(b"coder");
    head.u64(0).u64(0).u64(0).u64(0);
    let state = State::from_head(Lineage::beginning(0), 0, &head.finish()).unwrap();
    assert_eq!((state.entities().message_bytes("m"), state.entities().loose_ends(0).len()), (Some(5), 0));
    let (_, written) = state.rows(0).into_iter().find(|(key, _)| *key == State::head_key()).unwrap();
    let again = State::from_head(Lineage::beginning(0), 0, &written.unwrap()).unwrap();
    assert_eq!(again.entities(), state.entities());
}

#[test]
fn what_is_being_imported_ends_by_no_time() {
    let mut session = Session::new();
    session.run(publish("ada", None, vec![run("r")]), 1000).unwrap();
    let body = Some(Body::Cancel(wire::Cancel { deadline_ms: 5, reason: String::new() }));
    let cancel = wire::Record { kind: kind::CANCEL, run: "r".into(), body, ..Default::default() };
    session.run(publish("ada", None, vec![cancel]), 1000).unwrap();
    let (mut importing, end) =
        (Session::loaded(session.log.clone(), Lineage::beginning(0), 1001), session.log.len());
    importing.machine.hold();
    assert_eq!(importing.machine.poll_timeout(), None);
    importing.machine.handle_timeout(9000, None);
    assert_eq!((importing.settle(), importing.log.len()), (None, end));
    assert_eq!(session.machine.poll_timeout(), Some(1005));
    session.machine.handle_timeout(1005, None);
    session.settle();
    assert_eq!(session.kinds(end), [kind::RUN]);
}
