//! What a subscription yields.

use std::collections::BTreeMap;

use bytes::Bytes;
use longwire_proto::position::Position;
use longwire_proto::wire;

/// One record of a session, as the broker stored it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The epoch of the log that the record belongs to.
    pub epoch: u64,
    /// Its offset: dense from 0 within the session.
    pub offset: u64,
    /// When the broker admitted it, in Unix milliseconds; never falls within a session.
    pub time_ms: u64,
    /// Who sent it, as the broker knows it. It cannot be forged.
    pub sender: Sender,
    /// Which publish of which producer it came with.
    pub producer: Option<wire::Producer>,
    /// The writer's id for it; empty when there is none.
    pub id: String,
    /// What it means to the broker: 0 is a message, 1 a delta, 2 a change of a run, 3 an ask, 4 the end of one, 5 an input or a
    /// receipt of one, 6 the order to end a run, 9 the beginning or the end of a lease, 10 a change of the session itself.
    pub kind: u32,
    /// What it means to the application.
    pub record_type: String,
    /// The principals that it is addressed to.
    pub to: Vec<String>,
    /// How it wants to be treated by its receiver.
    pub mode: String,
    /// The run that it belongs to.
    pub run: String,
    /// The id of the record that it answers.
    pub reply_to: String,
    /// The id of the record that it replaces.
    pub replaces: String,
    /// The writer's headers.
    pub headers: BTreeMap<String, String>,
    /// The media type of the body; empty when the writer did not say.
    pub content_type: String,
    /// The body.
    pub body: Body,
    /// Whether it is a message that grows: deltas go on with it.
    pub grows: bool,
    /// Of a delta: the id of the message that it goes on.
    pub message: String,
    /// Of a delta with which its message ends: `complete`, `cancelled`, `abandoned` or `superseded`.
    pub close: String,
    /// Of a delta: bytes of its message before it.
    pub at_byte: u64,
    /// Of a fold, which a [folded](crate::Subscribe::folded) subscription yields: the offset of the first delta that it stands for.
    /// Its own offset, time and producer are those of the last.
    pub folded_from: Option<u64>,
}

/// Who sent a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// The principal.
    pub principal: String,
    /// Which of its endpoints; empty when it did not say.
    pub device: String,
    /// The bridge that acted for it; empty when there was none.
    pub via: String,
    /// The agent that it acted as; empty when it was none.
    pub agent: String,
    /// The generation of the agent's lease.
    pub generation: u64,
}

impl Sender {
    fn new(sender: wire::Sender) -> Self {
        let wire::Sender { principal, device, via, agent, generation } = sender;
        Self { principal, device, via, agent, generation }
    }
}

/// The body of a record.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Body {
    /// UTF-8 text.
    Text(String),
    /// Other bytes.
    Data(Bytes),
    /// A question.
    Ask(Box<wire::Ask>),
    /// The end of one.
    Answer(Box<wire::Answer>),
    /// The start of a run, or a change of one.
    RunChange(Box<wire::RunChange>),
    /// Of a fold that is too long to be delivered: how many bytes of its message it stands for, from `at_byte` on.
    Reference(u64),
    /// The order to end a run.
    Cancel(wire::Cancel),
    /// What became of an input.
    Receipt(wire::Receipt),
    /// A lease begins or ends.
    LeaseChange(Box<wire::LeaseChange>),
    /// A key of the session's state is set, or goes.
    StateChange(Box<wire::StateChange>),
}

impl Record {
    /// The position of this record: subscribing from it yields this record first.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, offset: self.offset }
    }

    /// The body if it is text.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.body {
            Body::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The body's bytes, text or not; none of what means something to the broker, such as a question.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.body {
            Body::Text(text) => text.as_bytes(),
            Body::Data(data) => data,
            _ => &[],
        }
    }

    /// A record that says nothing.
    #[inline]
    pub(crate) fn empty(epoch: u64, offset: u64) -> Self {
        Self {
            epoch,
            offset,
            time_ms: 0,
            sender: Sender::default(),
            producer: None,
            id: String::new(),
            kind: 0,
            record_type: String::new(),
            to: Vec::new(),
            mode: String::new(),
            run: String::new(),
            reply_to: String::new(),
            replaces: String::new(),
            headers: BTreeMap::new(),
            content_type: String::new(),
            body: Body::Text(String::new()),
            grows: false,
            message: String::new(),
            close: String::new(),
            at_byte: 0,
            folded_from: None,
        }
    }

    #[inline]
    pub(crate) fn new(epoch: u64, offset: u64, record: wire::Record) -> Self {
        Self {
            epoch,
            offset,
            time_ms: record.time_ms,
            sender: Sender::new(record.sender.unwrap_or_default()),
            producer: record.producer,
            id: record.id,
            kind: record.kind,
            record_type: record.r#type,
            to: record.to,
            mode: record.mode,
            run: record.run,
            reply_to: record.reply_to,
            replaces: record.replaces,
            headers: record.headers,
            content_type: record.content_type,
            body: match record.body {
                Some(wire::record::Body::Text(text)) => Body::Text(text),
                Some(wire::record::Body::Data(data)) => Body::Data(data),
                Some(wire::record::Body::Ask(ask)) => Body::Ask(Box::new(ask)),
                Some(wire::record::Body::Answer(answer)) => Body::Answer(Box::new(answer)),
                Some(wire::record::Body::RunChange(change)) => Body::RunChange(Box::new(change)),
                Some(wire::record::Body::Reference(reference)) => Body::Reference(reference.bytes),
                Some(wire::record::Body::Cancel(cancel)) => Body::Cancel(cancel),
                Some(wire::record::Body::Receipt(receipt)) => Body::Receipt(receipt),
                Some(wire::record::Body::LeaseChange(change)) => Body::LeaseChange(Box::new(change)),
                Some(wire::record::Body::StateChange(change)) => Body::StateChange(Box::new(change)),
                None => Body::Text(String::new()),
            },
            grows: record.grows,
            message: record.message,
            close: record.close,
            at_byte: record.at_byte,
            folded_from: record.folded_from,
        }
    }
}
