//! What a machine knows before it is durable stays inside until it is, whatever form the answer has.
#![allow(clippy::unwrap_used)] // a test: a panic is its failure

use bytes::Bytes;
use longwire_core::command::{Command, Reply};
use longwire_core::machine::{Machine, Output, Persisted, Ticket};
use longwire_core::state::State;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::position::Lineage;
use longwire_proto::record::{ProducerRef, Sender};
use longwire_proto::wire;
use prost::Message;

const PUBLISH: Ticket = Ticket(0);
const ASKED: Ticket = Ticket(1);

fn publish(text: &str, sequence: Option<u64>, if_end: Option<u64>) -> Command {
    let body = Some(wire::record::Body::Text(text.into()));
    let record = wire::Record { body, ..Default::default() };
    Command::Publish {
        sender: Sender::default(),
        producer: sequence.map(|sequence| ProducerRef { id: "p".into(), epoch: 0, sequence }),
        if_end,
        may_create: true,
        records: vec![Bytes::from(record.encode_to_vec())],
        meant: None,
    }
}

/// Everything whose answer depends on the publish before it.
fn dependent() -> Vec<(&'static str, Command)> {
    vec![
        ("an end that a refusal names", publish("x", None, Some(0))),
        ("a conflict", publish("other", Some(0), None)),
        ("a gap of sequences", publish("x", Some(2), None)),
        ("a duplicate", publish("first", Some(0), None)),
        ("the next publish", publish("x", Some(1), None)),
        ("a description", Command::Describe),
        (
            "that the session exists",
            Command::Create { sender: Sender::default(), meta: Default::default(), update: false },
        ),
        ("a flush", Command::Flush),
    ]
}

fn outputs(machine: &mut Machine) -> Vec<Output> {
    std::iter::from_fn(|| machine.poll_output()).collect()
}

fn machine() -> Machine {
    let mut machine = Machine::new(State::new(Lineage::beginning(0)), 0);
    machine.handle(PUBLISH, publish("first", Some(0), None), 1);
    machine
}

/// Persists what there is to write, batch by batch; every output of it in order.
fn persist(machine: &mut Machine) -> Vec<Output> {
    let mut released = Vec::new();
    while machine.poll_write().is_some() {
        machine.handle_persisted(Persisted::Durable);
        released.extend(outputs(machine));
    }
    released
}

fn place(released: &[Output], wanted: Ticket) -> usize {
    let is_it = |output: &Output| matches!(output, Output::Reply { ticket, .. } if *ticket == wanted);
    released.iter().position(is_it).unwrap()
}

#[test]
fn an_answer_waits_for_what_it_reveals() {
    for being_written in [false, true] {
        for (what, command) in dependent() {
            let mut machine = machine();
            // Gathered, or at the store already: in both cases nobody may know of it.
            let written = being_written.then(|| machine.poll_write().unwrap());
            machine.handle(ASKED, command, 2);
            assert_eq!(outputs(&mut machine), [], "{what} was released before what it saw was durable");
            let mut released = Vec::new();
            if written.is_some() {
                machine.handle_persisted(Persisted::Durable);
                released.extend(outputs(&mut machine));
            }
            released.extend(persist(&mut machine));
            assert!(matches!(released[0], Output::Extended { from: 0, .. }), "{what}: {released:?}");
            assert!(place(&released, PUBLISH) < place(&released, ASKED), "{what}: {released:?}");
            assert!(machine.is_idle());
        }
    }
}

#[test]
fn an_answer_that_saw_a_failed_write_is_that_error() {
    for (what, command) in dependent() {
        let mut machine = machine();
        machine.poll_write().unwrap();
        machine.handle(ASKED, command, 2);
        machine.handle_persisted(Persisted::Failed(Error::new(ErrorCode::OutcomeUnknown, "cut")));
        assert!(machine.failed() && machine.poll_write().is_none(), "{what}");
        for output in outputs(&mut machine) {
            match output {
                Output::Reply { result: Err(error), .. } => {
                    assert_eq!(error.code, ErrorCode::OutcomeUnknown, "{what}");
                }
                other => panic!("{what}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_snapshot_waits_for_what_it_reflects() {
    let mut machine = machine();
    machine.request_snapshot();
    assert_eq!(outputs(&mut machine), [], "a snapshot of what is only gathered");
    machine.poll_write().unwrap();
    assert_eq!(outputs(&mut machine), [], "a snapshot of what is being written");
    machine.handle_persisted(Persisted::Durable);
    let released = outputs(&mut machine);
    assert!(matches!(released.last(), Some(Output::Snapshot { through: 1, .. })), "{released:?}");
}

#[test]
fn an_answer_that_saw_nothing_new_does_not_wait() {
    let mut machine = machine();
    persist(&mut machine);
    machine.handle(ASKED, Command::Describe, 2);
    let released = outputs(&mut machine);
    assert!(
        matches!(&released[..], [Output::Reply { result: Ok(Reply::Described(found)), .. }] if found.end == 1),
        "{released:?}"
    );
}

#[test]
fn a_publish_that_may_not_create_is_refused_until_somebody_else_did() {
    let mut machine = Machine::new(State::new(Lineage::beginning(0)), 0);
    let careful = || match publish("second", None, None) {
        Command::Publish { sender, producer, if_end, records, .. } => {
            Command::Publish { sender, producer, if_end, may_create: false, records, meant: None }
        }
        other => other,
    };
    machine.handle(PUBLISH, careful(), 1);
    let refused = outputs(&mut machine);
    assert!(matches!(
        &refused[..],
        [Output::Reply { result: Err(Error { code: ErrorCode::SessionNotFound, .. }), .. }]
    ));
    // What is not durable yet counts: the second of two that come together need not create.
    machine.handle(PUBLISH, publish("first", None, None), 2);
    machine.handle(ASKED, careful(), 2);
    let released = persist(&mut machine);
    let published = |output: &Output| {
        matches!(output, Output::Reply { result: Ok(Reply::Published { from: 1, .. }), .. })
    };
    assert!(released.iter().any(published), "{released:?}");
}
