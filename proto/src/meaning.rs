//! What a record means to the session, apart from being in its log.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use crate::ask::{Answer, Ask};
use crate::delta::referred_bytes;
use crate::error::{Error, ErrorCode};
use crate::field::{self, Fields, Value};
use crate::input::{Input, Receipt};
use crate::kind;
use crate::lease::LeaseChange;
use crate::limits::{
    CANCEL_DEADLINE_MS_DEFAULT, CANCEL_DEADLINE_MS_MAX, COUNTERS_MAX, HEADER_NAME_BYTES_MAX,
    RUN_CHANGE_BYTES_MAX, TITLE_BYTES_MAX,
};
use crate::resolution::AskOutcome;
use crate::run_state::RunState;
use crate::short_id::check_short_id;
use crate::state_set::StateSet;
use crate::wire;
use crate::wire::record::Body;

/// How a message that grows ended.
pub const CLOSES: [&str; 4] = ["complete", "cancelled", "abandoned", "superseded"];

/// What a record means.
#[derive(Clone, Debug, PartialEq)]
pub enum Meaning {
    /// It is in the log, and that is all.
    None,
    /// A message begins that grows.
    Opens {
        /// Its id.
        id: String,
        /// The run that it is a part of; may be empty.
        run: String,
        /// Bytes of its body so far.
        bytes: u64,
    },
    /// A message goes on.
    Delta {
        /// Its id.
        message: String,
        /// Bytes that it has more.
        bytes: u64,
        /// Whether it ends.
        closes: bool,
    },
    /// Something is asked.
    Ask(Box<Question>),
    /// An ask ends.
    Answer {
        /// Its id.
        ask: String,
        /// How.
        outcome: AskOutcome,
        /// The answer.
        answer: Box<Answer>,
    },
    /// A run begins.
    RunStart {
        /// Its id.
        id: String,
        /// What it is.
        change: Box<Progress>,
    },
    /// A run goes on, or ends.
    RunChange {
        /// Its id.
        run: String,
        /// What is new.
        change: Box<Progress>,
    },
    /// A run is to end.
    Cancel {
        /// Its id.
        run: String,
        /// How long it has to end by itself, in milliseconds.
        deadline_ms: u64,
    },
    /// Something is put to an agent.
    Input(Box<Input>),
    /// It became something.
    Receipt(Box<Receipt>),
    /// A lease begins or ends.
    Lease(Box<LeaseChange>),
    /// A key of the session's state is set, or goes.
    State(Box<StateSet>),
}

/// An ask, with what its record says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Its id.
    pub id: String,
    /// Principals that may answer.
    pub to: Vec<String>,
    /// The run that it belongs to; may be empty.
    pub run: String,
    /// What is asked.
    pub ask: Ask,
}

/// A change of a run. What is empty or absent does not change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// For humans.
    pub title: String,
    /// At the start: the run that this one is a part of.
    pub parent: String,
    /// What it does, or how it ended.
    pub state: Option<RunState>,
    /// Of all that is to be done.
    pub fraction: Option<f64>,
    /// For humans.
    pub note: String,
    /// Each replaces what it was.
    pub counters: BTreeMap<String, f64>,
}

/// What the bytes of a record say before anything of it is decoded: whether it means anything at all. Cheap, since nearly no
/// record does.
#[must_use]
pub fn has_meaning(record_kind: u32, grows: bool) -> bool {
    grows || (kind::DELTA..kind::SESSION).contains(&record_kind)
}

impl Meaning {
    /// What a record means that was checked, or is in a log.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRecord`], [`ErrorCode::InvalidAsk`], [`ErrorCode::InvalidAnswer`] or [`ErrorCode::KindReserved`] name the
    /// field and the rule.
    pub fn of(record: &[u8]) -> Result<Self, Error> {
        let (mut record_kind, mut was, mut grows) = (kind::MESSAGE, kind::MESSAGE, false);
        let (mut message, mut close, mut bytes) = ("", "", 0);
        for item in Fields(record) {
            let found = item?;
            match (found.number, found.value) {
                (field::KIND, Value::Varint(found)) => record_kind = u32::try_from(found).unwrap_or(u32::MAX),
                (field::WAS, Value::Varint(found)) => was = u32::try_from(found).unwrap_or(u32::MAX),
                (field::GROWS, Value::Varint(found)) => grows = found != 0,
                (field::MESSAGE, Value::Bytes(found)) => message = utf8("message", found)?,
                (field::CLOSE, Value::Bytes(found)) => close = utf8("close", found)?,
                (field::TEXT | field::DATA, Value::Bytes(body)) => bytes = body.len() as u64,
                // Of one that was erased.
                (field::REFERENCE, Value::Bytes(reference)) => bytes = referred_bytes(reference),
                _ => {}
            }
        }
        let erased = record_kind == kind::TOMBSTONE;
        match if erased { was } else { record_kind } {
            kind::MESSAGE if !grows => Ok(Self::None),
            kind::MESSAGE => {
                let record = decode(record)?;
                check_short_id(ErrorCode::InvalidRecord, "id", record.id.as_bytes())?;
                Ok(Self::Opens { id: record.id, run: record.run, bytes })
            }
            kind::DELTA => {
                check_short_id(ErrorCode::InvalidRecord, "message", message.as_bytes())?;
                if !close.is_empty() && !CLOSES.contains(&close) {
                    return Err(invalid("close", format!("`close` is {}", CLOSES.join(", "))));
                }
                Ok(Self::Delta { message: message.to_owned(), bytes, closes: !close.is_empty() })
            }
            kind::ASK => Self::ask(decode(record)?, erased),
            kind::ANSWER => Self::answer(decode(record)?),
            kind::RUN => Self::run(decode(record)?),
            kind::INPUT => Self::input(decode(record)?),
            kind::CANCEL => Self::cancel(decode(record)?),
            kind::LEASE => Self::lease(decode(record)?),
            kind::STATE => Self::state(decode(record)?),
            _ => Ok(Self::None),
        }
    }

    /// The id that the record gives to something new.
    #[must_use]
    pub fn begins(&self) -> Option<&str> {
        match self {
            Self::Opens { id, .. } | Self::RunStart { id, .. } => Some(id),
            Self::Ask(question) => Some(&question.id),
            Self::Input(input) => Some(&input.id),
            Self::None | Self::Delta { .. } | Self::Answer { .. } | Self::RunChange { .. } => None,
            Self::Cancel { .. } | Self::Receipt(_) | Self::Lease(_) | Self::State(_) => None,
        }
    }

    fn ask(record: wire::Record, erased: bool) -> Result<Self, Error> {
        check_short_id(ErrorCode::InvalidRecord, "id", record.id.as_bytes())?;
        let ask = match record.body {
            // The record of its erasure comes later, and ends it.
            _ if erased => Ask::default(),
            Some(Body::Ask(ask)) => Ask::from_wire(ask)?,
            _ => return Err(invalid("ask", "a record of kind 3 has an `ask`")),
        };
        Ok(Self::Ask(Box::new(Question { id: record.id, to: record.to, run: record.run, ask })))
    }

    fn answer(record: wire::Record) -> Result<Self, Error> {
        check_short_id(ErrorCode::InvalidRecord, "reply_to", record.reply_to.as_bytes())?;
        let Some(Body::Answer(answer)) = record.body else {
            return Err(invalid("answer", "a record of kind 4 has an `answer`"));
        };
        let (answer, outcome) = Answer::from_wire(answer)?;
        Ok(Self::Answer { ask: record.reply_to, outcome, answer: Box::new(answer) })
    }

    fn run(record: wire::Record) -> Result<Self, Error> {
        let Some(Body::RunChange(change)) = record.body else {
            return Err(invalid("run_change", "a record of kind 2 has a `run_change`"));
        };
        let state = run_state(&change)?;
        let wire::RunChange { title, parent, state: _, fraction, note, counters } = change;
        let change = Box::new(Progress { title, parent, state, fraction, note, counters });
        match (record.id.as_str(), record.run.as_str()) {
            ("", run) => {
                check_short_id(ErrorCode::InvalidRecord, "run", run.as_bytes())?;
                if !change.parent.is_empty() {
                    return Err(invalid(
                        "parent",
                        "a run has the parent that it was started with; it has no other later",
                    ));
                }
                Ok(Self::RunChange { run: record.run, change })
            }
            (_, "") => {
                if !change.parent.is_empty() {
                    check_short_id(ErrorCode::InvalidRecord, "parent", change.parent.as_bytes())?;
                }
                if change.parent == record.id {
                    return Err(invalid("parent", "a run cannot be a part of itself"));
                }
                Ok(Self::RunStart { id: record.id, change })
            }
            _ => Err(invalid(
                "run",
                "a record of kind 2 has an `id`, which starts a run, or a `run`, which changes one; not both",
            )),
        }
    }
}

impl Meaning {
    fn input(mut record: wire::Record) -> Result<Self, Error> {
        match record.body.take() {
            Some(Body::Receipt(receipt)) => {
                Ok(Self::Receipt(Box::new(Receipt::from_wire(record.reply_to, receipt)?)))
            }
            _ => Ok(Self::Input(Box::new(Input::from_wire(record)?))),
        }
    }

    fn cancel(record: wire::Record) -> Result<Self, Error> {
        check_short_id(ErrorCode::InvalidRecord, "run", record.run.as_bytes())?;
        let Some(Body::Cancel(wire::Cancel { deadline_ms, reason })) = record.body else {
            return Err(invalid("cancel", "a record of kind 6 has a `cancel`"));
        };
        if deadline_ms > CANCEL_DEADLINE_MS_MAX as u64 {
            let message = format!(
                "`deadline_ms` is {deadline_ms}; at most {CANCEL_DEADLINE_MS_MAX} are allowed: cancel the run later"
            );
            return Err(invalid("deadline_ms", message).limit(CANCEL_DEADLINE_MS_MAX));
        }
        if reason.len() > TITLE_BYTES_MAX {
            let message =
                format!("`reason` has {} bytes; at most {TITLE_BYTES_MAX} are allowed", reason.len());
            return Err(invalid("reason", message).limit(TITLE_BYTES_MAX));
        }
        let usual = CANCEL_DEADLINE_MS_DEFAULT as u64;
        let deadline_ms = if deadline_ms == 0 { usual } else { deadline_ms };
        Ok(Self::Cancel { run: record.run, deadline_ms })
    }

    fn state(record: wire::Record) -> Result<Self, Error> {
        match record.body {
            Some(Body::StateChange(change)) => Ok(Self::State(Box::new(StateSet::from_wire(change)?))),
            _ => Err(invalid("state_change", "a record of kind 7 has a `state_change`")),
        }
    }

    fn lease(record: wire::Record) -> Result<Self, Error> {
        match record.body {
            Some(Body::LeaseChange(change)) => Ok(Self::Lease(Box::new(LeaseChange::from_wire(change)?))),
            _ => Err(invalid("lease_change", "a record of kind 9 has a `lease_change`")),
        }
    }
}

fn run_state(change: &wire::RunChange) -> Result<Option<RunState>, Error> {
    let bytes = change.encoded_len();
    if bytes > RUN_CHANGE_BYTES_MAX {
        let message = format!(
            "the change has {bytes} bytes; at most {RUN_CHANGE_BYTES_MAX} are allowed: put what is long into a message"
        );
        return Err(invalid("run_change", message).limit(RUN_CHANGE_BYTES_MAX));
    }
    if change.title.len() > TITLE_BYTES_MAX {
        let message =
            format!("`title` has {} bytes; at most {TITLE_BYTES_MAX} are allowed", change.title.len());
        return Err(invalid("title", message).limit(TITLE_BYTES_MAX));
    }
    if change.fraction.is_some_and(|fraction| !(0.0..=1.0).contains(&fraction)) {
        return Err(invalid("fraction", "`fraction` is from 0 to 1"));
    }
    if change.counters.len() > COUNTERS_MAX {
        let message =
            format!("there are {} counters; at most {COUNTERS_MAX} are allowed", change.counters.len());
        return Err(invalid("counters", message).limit(COUNTERS_MAX));
    }
    if let Some((name, _)) = change
        .counters
        .iter()
        .find(|(name, value)| name.is_empty() || name.len() > HEADER_NAME_BYTES_MAX || !value.is_finite())
    {
        let message = format!(
            "a counter has a name of 1 to {HEADER_NAME_BYTES_MAX} bytes and a number as its value; that with a name of {} bytes has not",
            name.len()
        );
        return Err(invalid("counters", message));
    }
    if change.state.is_empty() {
        return Ok(None);
    }
    RunState::parse(&change.state).map(Some).ok_or_else(|| {
        let known: Vec<_> = RunState::ALL.iter().map(|state| state.as_str()).collect();
        invalid("state", format!("`state` is one of {}", known.join(", ")))
    })
}

/// A record that ends an ask, as the broker writes it.
#[must_use]
pub fn ended_ask(ask: &str, outcome: AskOutcome, note: &str) -> Bytes {
    let answer =
        wire::Answer { outcome: outcome.as_str().to_owned(), note: note.to_owned(), ..Default::default() };
    let (kind, reply_to, body) = (kind::ANSWER, ask.to_owned(), Some(Body::Answer(answer)));
    wire::Record { kind, reply_to, body, ..Default::default() }.encode_to_vec().into()
}

/// A record that changes the state of a run, as the broker writes it.
#[must_use]
pub fn changed_run(run: &str, state: RunState, note: &str) -> Bytes {
    let change =
        wire::RunChange { state: state.as_str().to_owned(), note: note.to_owned(), ..Default::default() };
    let (kind, run, body) = (kind::RUN, run.to_owned(), Some(Body::RunChange(change)));
    wire::Record { kind, run, body, ..Default::default() }.encode_to_vec().into()
}

/// A record that ends a message that grows, as the broker writes it.
#[must_use]
pub fn abandoned_message(message: &str) -> Bytes {
    let (kind, message, close) = (kind::DELTA, message.to_owned(), "abandoned".to_owned());
    wire::Record { kind, message, close, ..Default::default() }.encode_to_vec().into()
}

fn invalid(field: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidRecord, message).field(field)
}

fn utf8<'a>(name: &'static str, bytes: &'a [u8]) -> Result<&'a str, Error> {
    std::str::from_utf8(bytes).map_err(|_| invalid(name, format!("`{name}` must be UTF-8")))
}

fn decode(record: &[u8]) -> Result<wire::Record, Error> {
    wire::Record::decode(record)
        .map_err(|error| invalid("records", format!("the record is not well-formed protobuf: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(record: wire::Record) -> Result<Meaning, Error> {
        Meaning::of(&record.encode_to_vec())
    }

    fn run(id: &str, run: &str, change: wire::RunChange) -> wire::Record {
        let body = Some(Body::RunChange(change));
        wire::Record { kind: kind::RUN, id: id.into(), run: run.into(), body, ..Default::default() }
    }

    #[test]
    fn what_a_record_means_follows_from_its_kind() {
        let text = |text: &str| Some(Body::Text(text.into()));
        let plain = wire::Record { id: "m".into(), body: text("hi"), ..Default::default() };
        assert_eq!(of(plain.clone()).unwrap(), Meaning::None);
        assert_eq!(
            of(wire::Record { kind: 32, ..plain.clone() }).unwrap(),
            Meaning::None,
            "the application's own"
        );
        let opens = of(wire::Record { grows: true, run: "r".into(), ..plain.clone() }).unwrap();
        assert_eq!(opens, Meaning::Opens { id: "m".into(), run: "r".into(), bytes: 2 });
        let delta =
            wire::Record { kind: kind::DELTA, message: "m".into(), body: text("ho!"), ..Default::default() };
        assert_eq!(
            of(delta.clone()).unwrap(),
            Meaning::Delta { message: "m".into(), bytes: 3, closes: false }
        );
        let last = wire::Record { close: "complete".into(), ..delta.clone() };
        assert_eq!(of(last).unwrap(), Meaning::Delta { message: "m".into(), bytes: 3, closes: true });
        assert_eq!(of(wire::Record { close: "done".into(), ..delta.clone() }).unwrap_err().field, "close");
        assert_eq!(of(wire::Record { message: String::new(), ..delta }).unwrap_err().field, "message");
        assert_eq!(of(wire::Record { id: String::new(), grows: true, ..plain }).unwrap_err().field, "id");
    }

    #[test]
    fn a_run_is_started_or_changed() {
        let change = wire::RunChange { title: "Build".into(), ..Default::default() };
        assert!(matches!(of(run("r", "", change.clone())), Ok(Meaning::RunStart { id, .. }) if id == "r"));
        let ended = wire::RunChange { state: "failed".into(), ..Default::default() };
        let Ok(Meaning::RunChange { run: id, change: found }) = of(run("", "r", ended)) else { panic!() };
        assert_eq!((id.as_str(), found.state), ("r", Some(RunState::Failed)));
        let with = |change: wire::RunChange| of(run("", "r", change)).unwrap_err().field;
        assert_eq!(of(run("r", "r", change.clone())).unwrap_err().field, "run");
        assert_eq!(of(run("", "", change.clone())).unwrap_err().field, "run");
        let parent = wire::RunChange { parent: "r".into(), ..change };
        assert_eq!(of(run("r", "", parent.clone())).unwrap_err().field, "parent");
        assert_eq!(with(parent), "parent");
        assert_eq!(with(wire::RunChange { state: "busy".into(), ..Default::default() }), "state");
        assert_eq!(with(wire::RunChange { fraction: Some(1.1), ..Default::default() }), "fraction");
        assert_eq!(with(wire::RunChange { fraction: Some(f64::NAN), ..Default::default() }), "fraction");
        let counters = |name: &str, value| wire::RunChange {
            counters: [(name.into(), value)].into(),
            ..Default::default()
        };
        assert_eq!(with(counters("", 1.0)), "counters");
        assert_eq!(with(counters("cost", f64::INFINITY)), "counters");
        assert_eq!(with(wire::RunChange { note: "x".repeat(9 << 10), ..Default::default() }), "run_change");
    }

    #[test]
    fn a_cancel_is_of_a_run_and_has_a_deadline() {
        let cancel = |run: &str, cancel: wire::Cancel| wire::Record {
            kind: kind::CANCEL,
            run: run.into(),
            body: Some(Body::Cancel(cancel)),
            ..Default::default()
        };
        let within = |deadline_ms| wire::Cancel { deadline_ms, reason: "secret".into() };
        for (deadline_ms, meant) in [(0, 30_000), (1, 1), (3_600_000, 3_600_000)] {
            let record = cancel("r", within(deadline_ms)).encode_to_vec();
            let wanted = Meaning::Cancel { run: "r".into(), deadline_ms: meant };
            assert_eq!(Meaning::of(&record), Ok(wanted.clone()));
            let erased = crate::record::erased(&record).unwrap();
            assert!(!erased.windows(6).any(|bytes| bytes == b"secret"));
            assert_eq!(Meaning::of(&erased), Ok(wanted));
        }
        let field = |record| of(record).unwrap_err().field;
        assert_eq!(field(cancel("", within(1))), "run");
        assert_eq!(field(cancel("r", within(3_600_001))), "deadline_ms");
        assert_eq!(field(cancel("r", wire::Cancel { reason: "x".repeat(513), ..within(1) })), "reason");
        assert_eq!(
            field(wire::Record { kind: kind::CANCEL, run: "r".into(), ..Default::default() }),
            "cancel"
        );
    }

    #[test]
    fn what_is_erased_still_did_what_it_did() {
        let erase = |record: &wire::Record| {
            let erased = crate::record::erased(&record.encode_to_vec()).unwrap();
            assert!(!erased.windows(6).any(|found| found == b"secret"));
            assert!(crate::record::Sealed::parse(&erased).unwrap().has_meaning);
            assert_eq!(crate::record::erased(&erased), None);
            Meaning::of(&erased).unwrap()
        };
        let options = vec![wire::AskOption { id: "secret".into(), label: String::new() }];
        let ask = wire::Ask { title: "secret".into(), options, ..Default::default() };
        let ask = wire::Record {
            kind: kind::ASK,
            id: "a".into(),
            run: "r".into(),
            body: Some(Body::Ask(ask)),
            ..Default::default()
        };
        assert!(matches!(erase(&ask), Meaning::Ask(question) if question.id == "a" && question.run == "r"));
        let answer = |answer| wire::Record {
            kind: kind::ANSWER,
            reply_to: "a".into(),
            body: Some(Body::Answer(answer)),
            ..Default::default()
        };
        let found = erase(&answer(wire::Answer {
            outcome: "denied".into(),
            note: "secret".into(),
            ..Default::default()
        }));
        assert!(matches!(found, Meaning::Answer { ask, outcome: AskOutcome::Denied, .. } if ask == "a"));
        let found = erase(&answer(wire::Answer { option: "secret".into(), ..Default::default() }));
        assert!(matches!(found, Meaning::Answer { outcome: AskOutcome::Answered, .. }));
        let change = wire::RunChange { note: "secret".into(), state: "failed".into(), ..Default::default() };
        let Meaning::RunChange { run: id, change } = erase(&run("", "r", change)) else { panic!() };
        assert_eq!((id.as_str(), change.state), ("r", Some(RunState::Failed)));
        let start = wire::RunChange { title: "secret".into(), parent: "p".into(), ..Default::default() };
        assert!(
            matches!(erase(&run("r", "", start)), Meaning::RunStart { change, .. } if change.parent == "p")
        );
        let text = Some(Body::Text("secret".into()));
        let opens = wire::Record {
            id: "m".into(),
            run: "r".into(),
            grows: true,
            body: text.clone(),
            ..Default::default()
        };
        assert_eq!(erase(&opens), Meaning::Opens { id: "m".into(), run: "r".into(), bytes: 6 });
        let last = wire::Record {
            kind: kind::DELTA,
            message: "m".into(),
            close: "complete".into(),
            body: text,
            ..Default::default()
        };
        assert_eq!(erase(&last), Meaning::Delta { message: "m".into(), bytes: 6, closes: true });
        let plain =
            wire::Record { id: "m".into(), body: Some(Body::Text("secret".into())), ..Default::default() };
        let erased = crate::record::erased(&plain.encode_to_vec()).unwrap();
        assert_eq!(Meaning::of(&erased).unwrap(), Meaning::None);
        assert!(wire::Record::decode(erased).unwrap().id.is_empty());
    }

    #[test]
    fn what_the_broker_writes_means_what_it_says() {
        let Ok(Meaning::Answer { ask, outcome, .. }) =
            Meaning::of(&ended_ask("a", AskOutcome::Expired, "late"))
        else {
            panic!()
        };
        assert_eq!((ask.as_str(), outcome), ("a", AskOutcome::Expired));
        let Ok(Meaning::RunChange { run, change }) = Meaning::of(&changed_run("r", RunState::Cancelled, ""))
        else {
            panic!()
        };
        assert_eq!((run.as_str(), change.state), ("r", Some(RunState::Cancelled)));
    }
}
