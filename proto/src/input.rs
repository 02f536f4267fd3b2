//! Input to agents: how it is meant, and what became of it.

use bytes::Bytes;
use prost::Message;

use crate::error::{Error, ErrorCode};
use crate::kind;
use crate::short_id::check_short_id;
use crate::wire;
use crate::wire::record::Body;

/// How an input is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// For what the agent does now.
    Steer,
    /// For when it is done with that.
    #[default]
    Followup,
    /// Instead of that.
    Preempt,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Steer, Self::Followup, Self::Preempt];

    /// The mode as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Steer => "steer",
            Self::Followup => "followup",
            Self::Preempt => "preempt",
        }
    }

    /// The mode that a text names; an empty one is the usual one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let named = || Self::ALL.into_iter().find(|mode| mode.as_str() == text);
        if text.is_empty() { Some(Self::default()) } else { named() }
    }
}

/// An input, as its record has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its id.
    pub id: String,
    /// The agent that it is to.
    pub agent: String,
    /// How it is meant.
    pub mode: Mode,
}

impl Input {
    /// The input of such a record.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRecord`].
    pub(crate) fn from_wire(record: wire::Record) -> Result<Self, Error> {
        check_short_id(ErrorCode::InvalidRecord, "id", record.id.as_bytes())?;
        let [agent] = <[String; 1]>::try_from(record.to)
            .map_err(|to| invalid("to", format!("an input is to one agent, and not to {}", to.len())))?;
        check_short_id(ErrorCode::InvalidRecord, "to", agent.as_bytes())?;
        let mode = Mode::parse(&record.mode).ok_or_else(|| {
            let known = Mode::ALL.map(Mode::as_str).join(", ");
            invalid("mode", format!("the `mode` of an input is one of {known}"))
        })?;
        Ok(Self { id: record.id, agent, mode })
    }
}

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptState {
    /// The agent has it.
    Delivered,
    /// It is being done, or is done.
    Consumed,
    /// It is not going to be.
    NotConsumed,
}

impl ReceiptState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Delivered, Self::Consumed, Self::NotConsumed];

    /// The state as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Consumed => "consumed",
            Self::NotConsumed => "not_consumed",
        }
    }

    /// The state that a text names.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// What an agent says of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The id of the input.
    pub input: String,
    /// What became of it.
    pub state: ReceiptState,
    /// The run that it is done by; may be empty.
    pub run: String,
}

impl Receipt {
    /// The receipt of such a record.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRecord`].
    pub(crate) fn from_wire(input: String, receipt: wire::Receipt) -> Result<Self, Error> {
        check_short_id(ErrorCode::InvalidRecord, "reply_to", input.as_bytes())?;
        let state = ReceiptState::parse(&receipt.state).ok_or_else(|| {
            let known = ReceiptState::ALL.map(ReceiptState::as_str).join(", ");
            invalid("state", format!("the `state` of a receipt is one of {known}"))
        })?;
        if !receipt.run.is_empty() {
            check_short_id(ErrorCode::InvalidRecord, "run", receipt.run.as_bytes())?;
        }
        Ok(Self { input, state, run: receipt.run })
    }
}

/// A record that ends an input, as the broker writes it.
#[must_use]
pub fn not_consumed(input: &str, reason: &str) -> Bytes {
    let (state, reason) = (ReceiptState::NotConsumed.as_str().to_owned(), reason.to_owned());
    let body = Some(Body::Receipt(wire::Receipt { state, reason, ..Default::default() }));
    let (kind, reply_to) = (kind::INPUT, input.to_owned());
    wire::Record { kind, reply_to, body, ..Default::default() }.encode_to_vec().into()
}

fn invalid(field: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidRecord, message).field(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meaning::Meaning;

    fn of(record: &wire::Record) -> Result<Meaning, Error> {
        Meaning::of(&record.encode_to_vec())
    }

    fn input() -> wire::Record {
        let body = Some(Body::Text("secret".into()));
        wire::Record {
            kind: kind::INPUT,
            id: "i".into(),
            to: vec!["coder".into()],
            body,
            ..Default::default()
        }
    }

    fn receipt(receipt: wire::Receipt) -> wire::Record {
        let body = Some(Body::Receipt(receipt));
        wire::Record { kind: kind::INPUT, reply_to: "i".into(), body, ..Default::default() }
    }

    #[test]
    fn an_input_is_to_one_agent_and_has_a_mode() {
        let wanted = |mode| Input { id: "i".into(), agent: "coder".into(), mode };
        assert_eq!(of(&input()), Ok(Meaning::Input(Box::new(wanted(Mode::Followup)))));
        for mode in Mode::ALL {
            let found = of(&wire::Record { mode: mode.as_str().into(), reply_to: "m".into(), ..input() });
            assert_eq!(found, Ok(Meaning::Input(Box::new(wanted(mode)))));
        }
        let field = |record: wire::Record| {
            let error = of(&record).unwrap_err();
            (error.code, error.field)
        };
        let broken = |field| (ErrorCode::InvalidRecord, field);
        assert_eq!(field(wire::Record { id: String::new(), ..input() }), broken("id"));
        assert_eq!(field(wire::Record { to: Vec::new(), ..input() }), broken("to"));
        assert_eq!(field(wire::Record { to: vec!["a".into(), "b".into()], ..input() }), broken("to"));
        assert_eq!(field(wire::Record { to: vec!["no spaces".into()], ..input() }), broken("to"));
        assert_eq!(field(wire::Record { mode: "shout".into(), ..input() }), broken("mode"));
    }

    #[test]
    fn a_receipt_is_of_an_input_and_says_what_became_of_it() {
        for state in ReceiptState::ALL {
            let found = receipt(wire::Receipt {
                state: state.as_str().into(),
                run: "r".into(),
                reason: String::new(),
            });
            let wanted = Receipt { input: "i".into(), state, run: "r".into() };
            assert_eq!(of(&found), Ok(Meaning::Receipt(Box::new(wanted))));
        }
        let delivered = wire::Receipt { state: "delivered".into(), ..Default::default() };
        let field = |record: wire::Record| of(&record).unwrap_err().field;
        assert_eq!(field(wire::Record { reply_to: String::new(), ..receipt(delivered.clone()) }), "reply_to");
        assert_eq!(field(receipt(wire::Receipt { run: "no spaces".into(), ..delivered })), "run");
        assert_eq!(field(receipt(wire::Receipt { state: "lost".into(), ..Default::default() })), "state");
        let Ok(Meaning::Receipt(ended)) = Meaning::of(&not_consumed("i", "late")) else { panic!() };
        assert_eq!((ended.input.as_str(), ended.state), ("i", ReceiptState::NotConsumed));
    }

    #[test]
    fn what_is_erased_still_went_to_whom_it_went_to() {
        let steer = wire::Record { mode: "steer".into(), ..input() };
        let consumed = wire::Receipt { state: "consumed".into(), run: "r".into(), reason: "secret".into() };
        for record in [steer, receipt(consumed)] {
            let record = record.encode_to_vec();
            let erased = crate::record::erased(&record).unwrap();
            assert!(!erased.windows(6).any(|bytes| bytes == b"secret"));
            assert_eq!(Meaning::of(&erased), Meaning::of(&record));
        }
    }
}
