//! The machine against a simple reference model, over random commands, writes that fail, snapshots and restarts.
#![allow(clippy::unwrap_used)] // a test: a panic is its failure

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use longwire_core::command::{Command, Reply};
use longwire_core::machine::{
    Machine, Output, Persisted, SNAPSHOT_EVERY_RECORDS, SNAPSHOT_RETRY_RECORDS, Ticket, Write,
};
use longwire_core::state::State;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::kind;
use longwire_proto::limits::PRODUCER_WINDOW;
use longwire_proto::meta::Meta;
use longwire_proto::position::Lineage;
use longwire_proto::record::{ProducerRef, Sealed, Sender, erased};
use longwire_proto::wire;
use proptest::prelude::*;
use prost::Message;

const EPOCH: u64 = 3;

/// What is durable: the log and the rows of the last snapshot.
#[derive(Default)]
struct Disk {
    log: Vec<Bytes>,
    rows: BTreeMap<Bytes, Bytes>,
    snapshot_through: u64,
}

impl Disk {
    fn load(&self) -> Machine {
        let lineage = Lineage::beginning(EPOCH);
        let head = self.rows.get(&State::head_key());
        let mut state = head.map_or_else(
            || State::new(lineage.clone()),
            |head| State::from_head(lineage.clone(), 0, head).unwrap(),
        );
        assert_eq!(state.end(), self.snapshot_through);
        for record in &self.log[usize::try_from(state.end()).unwrap()..] {
            if let Some(key) = State::producer_of(record).filter(|key| state.is_cold(key)) {
                let row = self.rows.get(&key.row_key());
                state.load(key, row.map(Bytes::as_ref));
            }
            state.fold(record);
        }
        Machine::new(state, self.snapshot_through)
    }

    fn write(&mut self, write: Write) {
        assert_eq!(write.base, self.log.len() as u64);
        for offset in write.erase.iter().cloned().flatten() {
            assert!(offset < write.base, "only what is written can be erased by the store");
            let record = &mut self.log[usize::try_from(offset).unwrap()];
            if let Some(left) = erased(record) {
                *record = left;
            }
        }
        self.log.extend(write.records);
    }

    fn put_snapshot(&mut self, through: u64, rows: Vec<(Bytes, Option<Bytes>)>) {
        assert!(through <= self.log.len() as u64, "a snapshot was released before its records were durable");
        for (key, row) in rows {
            match row {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
        self.snapshot_through = through;
    }
}

fn record(text: &str) -> Bytes {
    let record = wire::Record { body: Some(wire::record::Body::Text(text.into())), ..Default::default() };
    Bytes::from(record.encode_to_vec())
}

fn sender() -> Sender {
    Sender { principal: "ada".into(), ..Sender::default() }
}

/// A command as the generator makes it, small enough to collide often.
#[derive(Clone, Debug)]
enum Op {
    Publish { producer: Option<(u8, u64, u64)>, texts: Vec<u8>, if_end: Option<u64> },
    Create { title: u8, update: bool },
    Erase { from: u64, count: u64 },
    Close,
    Describe,
}

impl Op {
    fn command(&self) -> Command {
        match self {
            Self::Publish { producer, texts, if_end } => Command::Publish {
                sender: sender(),
                producer: producer.map(|(id, epoch, sequence)| ProducerRef {
                    id: format!("p{id}"),
                    epoch,
                    sequence,
                }),
                if_end: *if_end,
                may_create: true,
                records: texts.iter().map(|text| record(&format!("t{text}"))).collect(),
                meant: None,
            },
            Self::Create { title, update } => Command::Create {
                sender: sender(),
                meta: Box::new(Meta { title: format!("title {title}"), ..Meta::default() }),
                update: *update,
            },
            Self::Erase { from, count } => Command::Erase {
                sender: sender(),
                ranges: std::iter::once(*from..from + count).collect(),
                of: String::new(),
                reason: String::new(),
            },
            Self::Close => Command::Close { sender: sender(), reason: String::new() },
            Self::Describe => Command::Describe,
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let producer = prop::option::weighted(0.8, (0..100u8, 0..2u64, 0..6u64));
    let producer =
        producer.prop_map(|producer| producer.map(|(id, epoch, sequence)| (id % 3, epoch, sequence)));
    let texts = prop::collection::vec(0..2u8, 1..3);
    prop_oneof![
        20 => (producer, texts, prop::option::weighted(0.1, 0..20u64))
            .prop_map(|(producer, texts, if_end)| Op::Publish { producer, texts, if_end }),
        1 => (0..3u8, any::<bool>()).prop_map(|(title, update)| Op::Create { title, update }),
        1 => (0..40u64, 1..4u64).prop_map(|(from, count)| Op::Erase { from, count }),
        1 => Just(Op::Describe),
    ]
}

/// The answers in plain words: a list of every publish ever made.
#[derive(Default)]
struct Reference {
    end: u64,
    closed: bool,
    title: String,
    publishes: Vec<(u8, u64, u64, Vec<u8>, u64)>,
    erased: BTreeSet<u64>,
    /// What is asked repeats an erased publish with another payload, which the row of its producer may still know.
    forgotten: bool,
}

impl Reference {
    fn apply(&mut self, op: &Op) -> Result<Reply, ErrorCode> {
        match op {
            Op::Publish { producer, texts, if_end } => {
                if let Some((id, epoch, sequence)) = producer {
                    let of_producer = self.publishes.iter().filter(|publish| publish.0 == *id);
                    let highest = of_producer.clone().map(|publish| publish.1).max();
                    if highest.is_some_and(|highest| *epoch < highest) {
                        return Err(ErrorCode::ProducerFenced);
                    }
                    let of_epoch: Vec<_> = of_producer.filter(|publish| publish.1 == *epoch).collect();
                    let next = of_epoch.len() as u64;
                    if *sequence > next {
                        let code = if highest.is_none() {
                            ErrorCode::ProducerUnknown
                        } else {
                            ErrorCode::SequenceGap
                        };
                        return Err(code);
                    }
                    if let Some(publish) = of_epoch.iter().find(|publish| publish.2 == *sequence) {
                        let next = publish.4 + publish.3.len() as u64;
                        let known = self.erased.range(publish.4..next).next().is_none();
                        self.forgotten = !known && publish.3 != *texts;
                        if known && publish.3 != *texts {
                            return Err(ErrorCode::SequenceConflict);
                        }
                        return Ok(Reply::Published { epoch: EPOCH, from: publish.4, next, duplicate: true });
                    }
                }
                if self.closed {
                    return Err(ErrorCode::SessionClosed);
                }
                if if_end.is_some_and(|if_end| if_end != self.end) {
                    return Err(ErrorCode::EndMismatch);
                }
                let from = self.end;
                self.end += texts.len() as u64;
                if let Some((id, epoch, sequence)) = producer {
                    self.publishes.push((*id, *epoch, *sequence, texts.clone(), from));
                }
                Ok(Reply::Published { epoch: EPOCH, from, next: self.end, duplicate: false })
            }
            Op::Create { title, update } => {
                if self.end > 0 && !update {
                    return Err(ErrorCode::SessionExists);
                }
                if self.closed {
                    return Err(ErrorCode::SessionClosed);
                }
                let title = format!("title {title}");
                if self.end == 0 || self.title != title {
                    self.end += 1;
                    self.title = title;
                }
                Err(ErrorCode::Internal)
            }
            Op::Erase { .. } if self.end == 0 => Err(ErrorCode::SessionNotFound),
            Op::Erase { from, count } if from + count > self.end => Err(ErrorCode::OutOfRange),
            Op::Erase { from, count } => {
                self.erased.extend(*from..from + count);
                self.end += 1;
                Ok(Reply::Erased { records: *count })
            }
            Op::Close => {
                if self.end == 0 {
                    return Err(ErrorCode::SessionNotFound);
                }
                self.end += u64::from(!self.closed);
                self.closed = true;
                Err(ErrorCode::Internal)
            }
            Op::Describe if self.end == 0 => Err(ErrorCode::SessionNotFound),
            Op::Describe => Err(ErrorCode::Internal),
        }
    }

    fn check(&mut self, op: &Op, result: &Result<Reply, Error>) {
        self.forgotten = false;
        let expected = self.apply(op);
        match (result, expected) {
            (Err(error), Ok(_)) if self.forgotten && error.code == ErrorCode::SequenceConflict => {}
            (Ok(Reply::Described(description)), Err(ErrorCode::Internal)) => {
                assert_eq!(description.end, self.end);
                assert_eq!(description.summary.closed, self.closed);
                assert_eq!(description.summary.meta.title, self.title);
            }
            (result, expected) => {
                let result = result.clone().map_err(|error| error.code);
                assert_eq!(result, expected, "{op:?}");
            }
        }
    }
}

/// Handles one command to its end, and answers what was released.
fn run(machine: &mut Machine, disk: &mut Disk, op: &Op, now_ms: u64) -> Result<Reply, Error> {
    let command = op.command();
    if let Some(key) = machine.keys(&command).pop() {
        let row = disk.rows.get(&key.row_key()).cloned();
        machine.load(key, row.as_deref());
    }
    machine.handle(Ticket(0), command, now_ms);
    let mut result = None;
    loop {
        while let Some(output) = machine.poll_output() {
            match output {
                Output::Reply { result: reply, .. } => result = Some(reply),
                Output::Snapshot { through, rows } => {
                    disk.put_snapshot(through, rows);
                    machine.snapshot_durable(through);
                }
                Output::Extended { from, records, .. } => {
                    assert_eq!(disk.log[usize::try_from(from).unwrap()..], records);
                }
                Output::Expired => panic!("nothing here expires"),
            }
        }
        let Some(write) = machine.poll_write() else { break };
        disk.write(write);
        machine.handle_persisted(Persisted::Durable);
    }
    result.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Every answer is the reference's, whatever snapshots and restarts come between.
    #[test]
    fn answers_are_those_of_the_reference(
        ops in prop::collection::vec((op(), 0..12u8), 1..120),
        close_at in prop::option::of(0..120usize),
    ) {
        let (mut disk, mut reference) = (Disk::default(), Reference::default());
        let mut machine = disk.load();
        let ops = ops.iter().enumerate();
        for (index, (op, event)) in ops {
            let op = if close_at == Some(index) { &Op::Close } else { op };
            // A clock that goes back and forth.
            let result = run(&mut machine, &mut disk, op, index as u64 * 7919 % 100);
            reference.check(op, &result);
            match event {
                0 => machine = disk.load(),
                1 => {
                    machine.request_snapshot();
                    while let Some(output) = machine.poll_output() {
                        if let Output::Snapshot { through, rows } = output {
                            disk.put_snapshot(through, rows);
                            machine.snapshot_durable(through);
                        }
                    }
                }
                _ => {}
            }
        }
        let times: Vec<u64> = disk.log.iter().map(|record| Sealed::parse(record).unwrap().time_ms).collect();
        prop_assert!(times.is_sorted());
    }

    /// With writes that fail, applied or not: nothing is released that is not durable, every publish is applied at most
    /// once, and what was acknowledged stays where it was acknowledged.
    #[test]
    fn releases_only_what_is_durable(steps in prop::collection::vec((op(), 0..10u8), 1..150)) {
        let mut disk = Disk::default();
        let mut machine = disk.load();
        let mut commands: BTreeMap<Ticket, Command> = BTreeMap::new();
        let mut answered = 0;
        for (index, (op, event)) in steps.iter().enumerate() {
            let ticket = Ticket(index as u64);
            let command = op.command();
            if let Some(key) = machine.keys(&command).pop() {
                let row = disk.rows.get(&key.row_key()).cloned();
                machine.load(key, row.as_deref());
            }
            commands.insert(ticket, command.clone());
            machine.handle(ticket, command, 0);
            let outcome = match event {
                0 => Some(false),
                1 => Some(true),
                2..=5 => None,
                _ => { release(&mut machine, &mut disk, &commands, &mut answered); continue }
            };
            if let Some(write) = machine.poll_write() {
                match outcome {
                    Some(applied) => {
                        if applied { disk.write(write) }
                        let unknown = Error::new(ErrorCode::OutcomeUnknown, "cut");
                        machine.handle_persisted(Persisted::Failed(unknown));
                        prop_assert!(machine.failed() && machine.poll_write().is_none());
                        release(&mut machine, &mut disk, &commands, &mut answered);
                        machine = disk.load();
                    }
                    None => {
                        disk.write(write);
                        machine.handle_persisted(Persisted::Durable);
                    }
                }
            }
            release(&mut machine, &mut disk, &commands, &mut answered);
        }
        while let Some(write) = machine.poll_write() {
            disk.write(write);
            machine.handle_persisted(Persisted::Durable);
        }
        release(&mut machine, &mut disk, &commands, &mut answered);
        prop_assert!(machine.is_idle());
        prop_assert_eq!(answered, steps.len(), "every command is answered exactly once");
        check_log(&disk.log);
    }

    /// A snapshot with what came after it makes the same state as all records alone.
    #[test]
    fn snapshot_and_replay_agree(ops in prop::collection::vec(op(), 1..100), cut in 0..100usize) {
        // Whether the payload of an erased publish is still known differs.
        let ops: Vec<Op> = ops.into_iter().filter(|op| !matches!(op, Op::Erase { .. })).collect();
        let mut disk = Disk::default();
        let mut machine = disk.load();
        for (index, op) in ops.iter().enumerate() {
            drop(run(&mut machine, &mut disk, op, index as u64));
            if index == cut {
                machine.request_snapshot();
                while let Some(output) = machine.poll_output() {
                    if let Output::Snapshot { through, rows } = output { disk.put_snapshot(through, rows); }
                }
                machine.snapshot_durable(disk.snapshot_through);
            }
        }
        let whole = Disk { log: disk.log.clone(), ..Disk::default() };
        let (mut replayed, mut from_snapshot) = (whole.load(), disk.load());
        for op in &ops {
            let one = run(&mut replayed, &mut Disk { log: whole.log.clone(), ..Disk::default() }, op, 1000);
            let log = disk.log.clone();
            let rows = disk.rows.clone();
            let snapshot_through = disk.snapshot_through;
            let other = run(&mut from_snapshot, &mut Disk { log, rows, snapshot_through }, op, 1000);
            prop_assert_eq!(one, other);
            (replayed, from_snapshot) = (whole.load(), disk.load());
        }
    }
}

fn release(
    machine: &mut Machine,
    disk: &mut Disk,
    commands: &BTreeMap<Ticket, Command>,
    answered: &mut usize,
) {
    while let Some(output) = machine.poll_output() {
        match output {
            Output::Expired => panic!("nothing here expires"),
            Output::Extended { from, records, .. } => {
                let from = usize::try_from(from).unwrap();
                assert_eq!(disk.log[from..from + records.len()], records);
            }
            Output::Reply { ticket, result } => {
                *answered += 1;
                let (Ok(Reply::Published { from, next, .. }), Command::Publish { records, .. }) =
                    (&result, &commands[&ticket])
                else {
                    continue;
                };
                let durable = &disk.log[usize::try_from(*from).unwrap()..usize::try_from(*next).unwrap()];
                // Of an erased publish the payload may be forgotten: any repetition is taken for one.
                let is_erased = |record: &Bytes| Sealed::parse(record).unwrap().kind == kind::TOMBSTONE;
                let same = durable.iter().zip(records).all(|(durable, record)| durable.ends_with(record));
                assert!(same || durable.iter().any(is_erased));
            }
            Output::Snapshot { through, rows } => {
                disk.put_snapshot(through, rows);
                machine.snapshot_durable(through);
            }
        }
    }
}

fn check_log(log: &[Bytes]) {
    let mut last: Option<(String, u64, u64)> = None;
    let mut seen = BTreeSet::new();
    for record in log {
        let sealed = Sealed::parse(record).unwrap();
        let publish =
            sealed.producer.map(|producer| (producer.id.to_owned(), producer.epoch, producer.sequence));
        if let Some(publish) = &publish
            && last.as_ref() != Some(publish)
        {
            assert!(seen.insert(publish.clone()), "{publish:?} was applied twice");
        }
        last = publish;
    }
}

#[test]
fn a_snapshot_that_failed_is_tried_again_and_not_at_every_command() {
    let mut machine = Disk::default().load();
    let publish = || Command::Publish {
        sender: sender(),
        producer: None,
        if_end: None,
        may_create: true,
        records: vec![record("x")],
        meant: None,
    };
    let mut tried = Vec::new();
    for ticket in 0..SNAPSHOT_EVERY_RECORDS + 2 * SNAPSHOT_RETRY_RECORDS + 10 {
        machine.handle(Ticket(ticket), publish(), 0);
        drop(machine.poll_write());
        machine.handle_persisted(Persisted::Durable);
        while let Some(output) = machine.poll_output() {
            if let Output::Snapshot { through, .. } = output {
                tried.push(through);
                machine.snapshot_failed();
            }
        }
    }
    let first = SNAPSHOT_EVERY_RECORDS;
    assert_eq!(tried, [first, first + SNAPSHOT_RETRY_RECORDS, first + 2 * SNAPSHOT_RETRY_RECORDS]);
}

#[test]
fn the_window_answers_with_original_offsets_and_then_with_the_highest() {
    let mut disk = Disk::default();
    let mut machine = disk.load();
    let publish = |sequence: usize| Op::Publish {
        producer: Some((0, 0, sequence as u64)),
        texts: vec![0],
        if_end: None,
    };
    for sequence in 0..PRODUCER_WINDOW + 10 {
        run(&mut machine, &mut disk, &publish(sequence), 0).unwrap();
    }
    let newest_forgotten = run(&mut machine, &mut disk, &publish(9), 0).unwrap_err();
    assert_eq!(newest_forgotten.code, ErrorCode::Duplicate);
    assert_eq!(newest_forgotten.expected, (PRODUCER_WINDOW + 9) as u64);
    let oldest_known = run(&mut machine, &mut disk, &publish(10), 0).unwrap();
    assert_eq!(oldest_known, Reply::Published { epoch: EPOCH, from: 10, next: 11, duplicate: true });
}

#[test]
fn cold_producers_are_evicted_and_still_known() {
    let mut disk = Disk::default();
    let mut machine = disk.load();
    let publish = |id: usize| Command::Publish {
        sender: sender(),
        producer: Some(ProducerRef { id: format!("p{id}"), epoch: 0, sequence: 0 }),
        if_end: None,
        may_create: true,
        records: vec![record("x")],
        meant: None,
    };
    let mut cold = 0;
    for round in 0..2 {
        for id in 0..2000 {
            let command = publish(id);
            if let Some(key) = machine.keys(&command).pop() {
                cold += 1;
                machine.load(key.clone(), disk.rows.get(&key.row_key()).map(Bytes::as_ref));
            }
            machine.handle(Ticket(id as u64), command, 0);
            if let Some(write) = machine.poll_write() {
                disk.write(write);
                machine.handle_persisted(Persisted::Durable);
            }
            while let Some(output) = machine.poll_output() {
                match output {
                    Output::Reply { result, .. } => {
                        let from = id as u64;
                        let expected =
                            Reply::Published { epoch: EPOCH, from, next: from + 1, duplicate: round == 1 };
                        assert_eq!(result, Ok(expected));
                    }
                    Output::Snapshot { through, rows } => {
                        disk.put_snapshot(through, rows);
                        machine.snapshot_durable(through);
                    }
                    Output::Extended { .. } | Output::Expired => {}
                }
            }
        }
    }
    assert!(cold > 1500, "the second round meets producers that left memory: {cold}");
}
