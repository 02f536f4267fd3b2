//! Records as bytes: checked, sealed and looked into without ever being encoded again.
//!
//! A writer sends a record as an encoded [`Record`](crate::wire::Record) without the fields that only the broker sets.
//! The broker *seals* it by putting these in front: protobuf allows fields in any order, so the concatenation is a record
//! again, and what the broker does not know of it is kept, byte for byte, for ever.

mod erasure;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, ErrorCode};
use crate::lease::LeaseRef;
use crate::limits::{
    CONTENT_TYPE_BYTES_MAX, HEADER_NAME_BYTES_MAX, HEADER_VALUE_BYTES_MAX, HEADERS_MAX, PRINCIPAL_BYTES_MAX,
    RECEIVERS_MAX, RECORD_BYTES_MAX, SHORT_ID_BYTES_MAX, TYPE_BYTES_MAX,
};
use crate::meaning::{Meaning, has_meaning};
pub use crate::record::erasure::erased;
use crate::short_id::check_short_id;
use crate::wire;

/// What sealing and the mark of an import add to a record at most.
const IMPORT_OVERHEAD_BYTES: usize = 4096;
/// What the place of a delta in its message takes: a key and a varint.
const AT_BYTE_BYTES_MAX: usize = 11;
/// Fields up to this number are the broker's; a writer's record has none of them.
const BROKER_FIELDS_MAX: u32 = 7;

/// Numbers of the fields of a record, as in `longwire.proto`.
pub(crate) mod field {
    pub(crate) const TIME_MS: u32 = 1;
    pub(crate) const SENDER: u32 = 2;
    pub(crate) const PRODUCER: u32 = 3;
    pub(crate) const ORIGINAL: u32 = 4;
    pub(crate) const AT_BYTE: u32 = 5;
    pub(crate) const WAS: u32 = 6;
    pub(crate) const FOLDED_FROM: u32 = 7;
    pub(crate) const ID: u32 = 8;
    pub(crate) const KIND: u32 = 9;
    pub(crate) const TYPE: u32 = 10;
    pub(crate) const TO: u32 = 11;
    pub(crate) const MODE: u32 = 12;
    pub(crate) const RUN: u32 = 13;
    pub(crate) const REPLY_TO: u32 = 14;
    pub(crate) const REPLACES: u32 = 15;
    pub(crate) const HEADERS: u32 = 16;
    pub(crate) const CONTENT_TYPE: u32 = 17;
    pub(crate) const TEXT: u32 = 18;
    pub(crate) const DATA: u32 = 19;
    pub(crate) const ASK: u32 = 20;
    pub(crate) const ANSWER: u32 = 21;
    pub(crate) const RUN_CHANGE: u32 = 22;
    pub(crate) const REFERENCE: u32 = 23;
    pub(crate) const GROWS: u32 = 25;
    pub(crate) const MESSAGE: u32 = 26;
    pub(crate) const CLOSE: u32 = 27;
    pub(crate) const CANCEL: u32 = 28;
    pub(crate) const RECEIPT: u32 = 29;
    pub(crate) const LEASE_CHANGE: u32 = 30;
}

/// Numbers of the fields of a sender.
mod sender {
    pub(super) const PRINCIPAL: u32 = 1;
    pub(super) const DEVICE: u32 = 2;
    pub(super) const VIA: u32 = 3;
    pub(super) const AGENT: u32 = 4;
    pub(super) const GENERATION: u32 = 5;
}

/// What a record means to the broker. An open set: a number that is not named here is carried on.
pub mod kind {
    /// A whole message.
    pub const MESSAGE: u32 = 0;
    /// A piece of a message that grows.
    pub const DELTA: u32 = 1;
    /// The start of a run, or a change of one.
    pub const RUN: u32 = 2;
    /// A question.
    pub const ASK: u32 = 3;
    /// The end of an ask.
    pub const ANSWER: u32 = 4;
    /// Something that is put to an agent, or what became of it.
    pub const INPUT: u32 = 5;
    /// The order to end a run.
    pub const CANCEL: u32 = 6;
    /// A lease begins or ends. Only the broker writes it.
    pub const LEASE: u32 = 9;
    /// A change of the session itself; the body is a `SessionChange`. Only the broker writes it.
    pub const SESSION: u32 = 10;
    /// What is left of a record whose content was erased: when, who, and which publish. Only the broker writes it.
    pub const TOMBSTONE: u32 = 11;
    /// Kinds below this are the broker's; those that it does not know how to check yet are refused.
    pub const RESERVED_BELOW: u32 = 32;
}

/// What the broker puts in front of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Unix milliseconds; never falls within a session.
    pub time_ms: u64,
    /// Who sent it.
    pub sender: Sender,
    /// Which publish of which producer it belongs to.
    pub producer: Option<ProducerRef>,
}

/// Who sent a record, as the broker knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sender {
    /// The principal.
    pub principal: String,
    /// Which of its endpoints; empty when it did not say.
    pub device: String,
    /// Who acts in the name of the principal; empty when that is who acts.
    pub via: String,
    /// The lease with which it acts as an agent. Few have one.
    pub lease: Option<Box<LeaseRef>>,
}

/// One publish of a producer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProducerRef {
    /// The producer's id, unique among those of its principal in the session.
    pub id: String,
    /// The producer's epoch.
    pub epoch: u64,
    /// Which publish of this epoch, from 0.
    pub sequence: u64,
}

/// One field of an encoded message.
pub(crate) struct Field<'a> {
    pub(crate) number: u32,
    pub(crate) value: Value<'a>,
    /// Key and value as they are encoded.
    pub(crate) encoded: &'a [u8],
}

pub(crate) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Other,
}

pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = next_field(&mut self.0);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn malformed(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorCode::InvalidRecord, format!("the record is not well-formed protobuf: {what}"))
        .field("records")
}

fn next_field<'a>(rest: &mut &'a [u8]) -> Result<Field<'a>, Error> {
    let whole = *rest;
    let (number, wire_type) = decode_key(rest).map_err(malformed)?;
    let value = match wire_type {
        WireType::Varint => Value::Varint(decode_varint(rest).map_err(malformed)?),
        WireType::LengthDelimited => {
            let length = decode_varint(rest).map_err(malformed)?;
            let length = usize::try_from(length).ok().filter(|length| *length <= rest.len());
            let (value, after) = rest.split_at(length.ok_or_else(|| malformed("a field passes the end"))?);
            *rest = after;
            Value::Bytes(value)
        }
        WireType::ThirtyTwoBit | WireType::SixtyFourBit => {
            let width = if wire_type == WireType::ThirtyTwoBit { 4 } else { 8 };
            *rest = rest.get(width..).ok_or_else(|| malformed("a field passes the end"))?;
            Value::Other
        }
        WireType::StartGroup | WireType::EndGroup => return Err(malformed("groups are not part of proto3")),
    };
    let encoded = &whole[..whole.len() - rest.len()];
    Ok(Field { number, value, encoded })
}

fn text<'a>(name: &'static str, value: &Value<'a>, limit: usize) -> Result<&'a str, Error> {
    let Value::Bytes(bytes) = *value else {
        return Err(malformed(format!("`{name}` must be a string")).field(name));
    };
    if bytes.len() > limit {
        let message = format!("`{name}` has {} bytes; at most {limit} are allowed", bytes.len());
        return Err(Error::new(ErrorCode::InvalidRecord, message).field(name).limit(limit));
    }
    std::str::from_utf8(bytes).map_err(|_| malformed(format!("`{name}` must be UTF-8")).field(name))
}

fn short_id(name: &'static str, value: &Value<'_>) -> Result<(), Error> {
    match text(name, value, RECORD_BYTES_MAX)? {
        "" => Ok(()),
        text => check_short_id(ErrorCode::InvalidRecord, name, text.as_bytes()),
    }
}

/// Whatever a record means, who reads it decodes all of it.
fn embedded<M: Message + Default>(name: &'static str, value: &Value<'_>) -> Result<(), Error> {
    let Value::Bytes(bytes) = *value else {
        return Err(malformed(format!("`{name}` must be a message")).field(name));
    };
    M::decode(bytes).map(drop).map_err(|error| malformed(error).field(name))
}

fn header(value: &Value<'_>) -> Result<(), Error> {
    let Value::Bytes(entry) = value else {
        return Err(malformed("`headers` must be a map").field("headers"));
    };
    for part in Fields(entry) {
        let part = part?;
        match part.number {
            1 => drop(text("headers", &part.value, HEADER_NAME_BYTES_MAX)?),
            2 => drop(text("headers", &part.value, HEADER_VALUE_BYTES_MAX)?),
            _ => {}
        }
    }
    Ok(())
}

/// Checks a record as a writer sent it, and tells what it means.
///
/// # Errors
/// Names the first thing that is not allowed: [`ErrorCode::RecordTooLarge`], [`ErrorCode::InvalidRecord`],
/// [`ErrorCode::FieldReserved`] or [`ErrorCode::KindReserved`], and those of [`Meaning::of`].
pub fn check(record: &[u8]) -> Result<Meaning, Error> {
    if record.len() > RECORD_BYTES_MAX {
        let message =
            format!("the record has {} bytes; at most {RECORD_BYTES_MAX} are allowed", record.len());
        return Err(Error::new(ErrorCode::RecordTooLarge, message).field("records").limit(RECORD_BYTES_MAX));
    }
    let (mut receivers, mut headers) = (0, 0);
    let (mut record_kind, mut grows) = (kind::MESSAGE, false);
    for item in Fields(record) {
        let Field { number, value, .. } = item?;
        match number {
            ..=BROKER_FIELDS_MAX | field::REFERENCE => {
                let name = broker_field(number);
                let message = format!("`{name}` is set by the broker; leave it out");
                return Err(Error::new(ErrorCode::FieldReserved, message).field(name));
            }
            field::ID => short_id("id", &value)?,
            field::KIND => record_kind = check_kind(&value)?,
            field::TYPE => drop(text("type", &value, TYPE_BYTES_MAX)?),
            field::TO => {
                receivers += 1;
                text("to", &value, PRINCIPAL_BYTES_MAX)?;
            }
            field::MODE => drop(text("mode", &value, TYPE_BYTES_MAX)?),
            field::RUN => short_id("run", &value)?,
            field::REPLY_TO => short_id("reply_to", &value)?,
            field::REPLACES => short_id("replaces", &value)?,
            field::HEADERS => {
                headers += 1;
                header(&value)?;
            }
            field::CONTENT_TYPE => drop(text("content_type", &value, CONTENT_TYPE_BYTES_MAX)?),
            field::TEXT => drop(text("text", &value, RECORD_BYTES_MAX)?),
            field::DATA if !matches!(value, Value::Bytes(_)) => {
                return Err(malformed("`data` must be bytes").field("data"));
            }
            field::GROWS => match value {
                Value::Varint(found) => grows = found != 0,
                _ => return Err(malformed("`grows` must be a boolean").field("grows")),
            },
            field::MESSAGE => short_id("message", &value)?,
            field::CLOSE => drop(text("close", &value, TYPE_BYTES_MAX)?),
            field::ASK => embedded::<wire::Ask>("ask", &value)?,
            field::ANSWER => embedded::<wire::Answer>("answer", &value)?,
            field::RUN_CHANGE => embedded::<wire::RunChange>("run_change", &value)?,
            field::CANCEL => embedded::<wire::Cancel>("cancel", &value)?,
            field::RECEIPT => embedded::<wire::Receipt>("receipt", &value)?,
            field::LEASE_CHANGE => {
                let message = "`lease_change` is written by the broker; claim the agent instead";
                return Err(Error::new(ErrorCode::FieldReserved, message).field("lease_change"));
            }
            _ => {}
        }
    }
    check_count("to", receivers, RECEIVERS_MAX)?;
    check_count("headers", headers, HEADERS_MAX)?;
    if has_meaning(record_kind, grows) { Meaning::of(record) } else { Ok(Meaning::None) }
}

fn broker_field(number: u32) -> &'static str {
    match number {
        field::TIME_MS => "time_ms",
        field::SENDER => "sender",
        field::PRODUCER => "producer",
        field::ORIGINAL => "original",
        field::AT_BYTE => "at_byte",
        field::WAS => "was",
        field::REFERENCE => "reference",
        _ => "folded_from",
    }
}

/// What an import makes of a record as it was exported from `session`: its own fields, byte for byte, and behind them what the
/// other broker had assigned, marked as such. A record that had been imported there keeps the mark that it has.
///
/// # Errors
/// [`ErrorCode::RecordTooLarge`] or [`ErrorCode::InvalidRecord`].
pub fn import(record: &[u8], session: &str) -> Result<Bytes, Error> {
    if record.len() > RECORD_BYTES_MAX + IMPORT_OVERHEAD_BYTES {
        let message = format!("the record has {} bytes; no broker has let that in", record.len());
        return Err(Error::new(ErrorCode::RecordTooLarge, message).field("records").limit(RECORD_BYTES_MAX));
    }
    let (mut own, mut original, mut marked) = (Vec::with_capacity(record.len() + 64), Vec::new(), None);
    let (mut is_erased, mut is_reference) = (false, false);
    for item in Fields(record) {
        let Field { number, value, encoded } = item?;
        let is_tombstone = |found| found == u64::from(kind::TOMBSTONE);
        is_erased |= number == field::KIND && matches!(value, Value::Varint(found) if is_tombstone(found));
        match (number, value) {
            (field::TIME_MS | field::SENDER, Value::Varint(_) | Value::Bytes(_)) => {
                original.extend_from_slice(encoded);
            }
            (field::PRODUCER, _) => {}
            // As the writer sent it, it follows from the deltas before.
            (field::AT_BYTE, Value::Varint(_)) => own.extend_from_slice(encoded),
            (field::ORIGINAL, Value::Bytes(_)) => marked = Some(encoded),
            (field::FOLDED_FROM, _) => return Err(fold()),
            (..=BROKER_FIELDS_MAX, _) => return Err(malformed("a field of the broker is of another kind")),
            _ => {
                is_reference |= number == field::REFERENCE;
                own.extend_from_slice(encoded);
            }
        }
    }
    if is_reference && !is_erased {
        return Err(fold());
    }
    wire::Record::decode(own.as_slice()).map_err(|error| malformed(error).field("records"))?;
    match marked {
        Some(marked) => own.extend_from_slice(marked),
        None => {
            put_text(&mut original, 3, session);
            put_bytes(&mut own, field::ORIGINAL, &original);
        }
    }
    wire::Record::decode(own.as_slice()).map_err(|error| malformed(error).field("records"))?;
    Ok(Bytes::from(own))
}

fn fold() -> Error {
    malformed("it is a fold, which stands for others: export the records themselves")
}

fn check_kind(value: &Value<'_>) -> Result<u32, Error> {
    match value {
        Value::Varint(u64_kind) => match u32::try_from(*u64_kind) {
            Ok(kind) if kind <= kind::CANCEL || kind >= kind::RESERVED_BELOW => Ok(kind),
            Ok(kind) => {
                let message = format!(
                    "kind {kind} is reserved for the broker; publish kinds 0 to {} as protocol.md has them, or {} and above for your own",
                    kind::CANCEL,
                    kind::RESERVED_BELOW
                );
                Err(Error::new(ErrorCode::KindReserved, message).field("kind"))
            }
            Err(_) => Err(malformed("`kind` must fit in 32 bits").field("kind")),
        },
        _ => Err(malformed("`kind` must be an integer").field("kind")),
    }
}

fn check_count(name: &'static str, count: usize, limit: usize) -> Result<(), Error> {
    if count <= limit {
        return Ok(());
    }
    let message = format!("the record has {count} of `{name}`; at most {limit} are allowed");
    Err(Error::new(ErrorCode::InvalidRecord, message).field(name).limit(limit))
}

/// A hash of the payload of a publish: of what its writer sent, whatever the order of fields and of headers. Part of the
/// log's semantics, so it never changes: the wrapping sum, over records, of a record's hash rotated by its index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PayloadHash(pub u64);

impl PayloadHash {
    /// The hash with one more record, the `index`-th of the publish. Fields of the broker do not count.
    #[must_use]
    pub fn with(self, index: u64, record: &[u8]) -> Self {
        let mut sum = 0u64;
        for field in Fields(record).map_while(Result::ok) {
            if field.number > BROKER_FIELDS_MAX {
                sum = sum.wrapping_add(xxh3_64(field.encoded));
            }
        }
        Self(self.0.wrapping_add(xxh3_64(&[index.to_le_bytes(), sum.to_le_bytes()].concat())))
    }
}

/// Puts the stamp in front of each record, without encoding the records again.
#[must_use]
pub fn seal(stamp: &Stamp, records: &[Bytes]) -> Vec<Bytes> {
    seal_at(stamp, records, &[])
}

/// [`seal`] for records that deltas are among: `at_bytes` is, for each of the first records, how many bytes of its message are before
/// it, and 0 for what is no delta.
#[must_use]
pub fn seal_at(stamp: &Stamp, records: &[Bytes], at_bytes: &[u64]) -> Vec<Bytes> {
    let mut prefix = Vec::new();
    put_varint(&mut prefix, field::TIME_MS, stamp.time_ms);
    let mut inner = Vec::new();
    put_text(&mut inner, sender::PRINCIPAL, &stamp.sender.principal);
    put_text(&mut inner, sender::DEVICE, &stamp.sender.device);
    put_text(&mut inner, sender::VIA, &stamp.sender.via);
    if let Some(lease) = &stamp.sender.lease {
        put_text(&mut inner, sender::AGENT, &lease.agent);
        put_varint(&mut inner, sender::GENERATION, lease.generation);
    }
    put_bytes(&mut prefix, field::SENDER, &inner);
    if let Some(producer) = &stamp.producer {
        inner.clear();
        put_text(&mut inner, 1, &producer.id);
        put_varint(&mut inner, 2, producer.epoch);
        put_varint(&mut inner, 3, producer.sequence);
        put_bytes(&mut prefix, field::PRODUCER, &inner);
    }
    let total = records.iter().map(|record| prefix.len() + record.len()).sum::<usize>();
    let mut buffer = BytesMut::with_capacity(total + at_bytes.len() * AT_BYTE_BYTES_MAX);
    let mut seal_one = |(record, at_byte): (&Bytes, u64)| {
        buffer.put_slice(&prefix);
        if at_byte != 0 {
            encode_key(field::AT_BYTE, WireType::Varint, &mut buffer);
            encode_varint(at_byte, &mut buffer);
        }
        buffer.put_slice(record);
        buffer.split().freeze()
    };
    let at_bytes = at_bytes.iter().copied().chain(std::iter::repeat(0));
    records.iter().zip(at_bytes).map(&mut seal_one).collect()
}

pub(crate) fn put_varint(buffer: &mut Vec<u8>, number: u32, value: u64) {
    if value != 0 {
        encode_key(number, WireType::Varint, buffer);
        encode_varint(value, buffer);
    }
}

pub(crate) fn put_bytes(buffer: &mut Vec<u8>, number: u32, value: &[u8]) {
    encode_key(number, WireType::LengthDelimited, buffer);
    encode_varint(value.len() as u64, buffer);
    buffer.extend_from_slice(value);
}

fn put_text(buffer: &mut Vec<u8>, number: u32, value: &str) {
    if !value.is_empty() {
        put_bytes(buffer, number, value.as_bytes());
    }
}

/// A sealed record, looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed<'a> {
    /// Unix milliseconds.
    pub time_ms: u64,
    /// The sender's principal.
    pub principal: &'a str,
    /// The agent that it acted as; empty when it was none.
    pub agent: &'a str,
    /// The generation of the agent's lease.
    pub generation: u64,
    /// Of an imported record: the principal that sent it where it came from, says whoever imported it. Else empty.
    pub original: &'a str,
    /// Which publish of which producer it belongs to.
    pub producer: Option<SealedProducer<'a>>,
    /// What it means to the broker.
    pub kind: u32,
    /// Whether it means something to the session: see [`Meaning`].
    pub has_meaning: bool,
    /// What it means to the application.
    pub record_type: &'a str,
    /// The body, text or data.
    pub body: &'a [u8],
}

/// [`ProducerRef`], borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedProducer<'a> {
    /// The producer's id.
    pub id: &'a str,
    /// The producer's epoch.
    pub epoch: u64,
    /// Which publish of this epoch.
    pub sequence: u64,
}

impl<'a> Sealed<'a> {
    /// Looks into a sealed record.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRecord`] when the bytes are not a record.
    pub fn parse(record: &'a [u8]) -> Result<Self, Error> {
        let mut sealed = Self {
            time_ms: 0,
            principal: "",
            agent: "",
            generation: 0,
            original: "",
            producer: None,
            kind: kind::MESSAGE,
            has_meaning: false,
            record_type: "",
            body: &[],
        };
        for item in Fields(record) {
            let Field { number, value, .. } = item?;
            match (number, value) {
                (field::TIME_MS, Value::Varint(time_ms)) => sealed.time_ms = time_ms,
                (field::SENDER, Value::Bytes(sender)) => {
                    (sealed.principal, sealed.agent, sealed.generation) = sealed_sender(sender)?;
                }
                (field::ORIGINAL, Value::Bytes(original)) => sealed.original = original_principal(original)?,
                (field::PRODUCER, Value::Bytes(producer)) => {
                    sealed.producer = Some(sealed_producer(producer)?)
                }
                (field::KIND, Value::Varint(kind)) => sealed.kind = u32::try_from(kind).map_err(malformed)?,
                (field::TYPE, value @ Value::Bytes(_)) => {
                    sealed.record_type = text("type", &value, RECORD_BYTES_MAX)?;
                }
                (field::TEXT | field::DATA, Value::Bytes(body)) => sealed.body = body,
                (field::GROWS | field::WAS, Value::Varint(1..)) => sealed.has_meaning = true,
                _ => {}
            }
        }
        sealed.has_meaning |= has_meaning(sealed.kind, false);
        Ok(sealed)
    }
}

/// The principal, and the agent that it acted as, with the generation.
fn sealed_sender(sender: &[u8]) -> Result<(&str, &str, u64), Error> {
    let (mut principal, mut agent, mut generation) = ("", "", 0);
    for part in Fields(sender) {
        let part = part?;
        match (part.number, part.value) {
            (sender::PRINCIPAL, value) => principal = text("sender", &value, PRINCIPAL_BYTES_MAX)?,
            (sender::AGENT, value) => agent = text("sender", &value, SHORT_ID_BYTES_MAX)?,
            (sender::GENERATION, Value::Varint(found)) => generation = found,
            _ => {}
        }
    }
    Ok((principal, agent, generation))
}

fn original_principal(original: &[u8]) -> Result<&str, Error> {
    let mut principal = "";
    for part in Fields(original) {
        let part = part?;
        if let (field::SENDER, Value::Bytes(sender)) = (part.number, part.value) {
            (principal, ..) = sealed_sender(sender)?;
        }
    }
    Ok(principal)
}

fn sealed_producer(producer: &[u8]) -> Result<SealedProducer<'_>, Error> {
    let mut sealed = SealedProducer { id: "", epoch: 0, sequence: 0 };
    for part in Fields(producer) {
        let part = part?;
        match (part.number, part.value) {
            (1, value @ Value::Bytes(_)) => sealed.id = text("producer", &value, RECORD_BYTES_MAX)?,
            (2, Value::Varint(epoch)) => sealed.epoch = epoch,
            (3, Value::Varint(sequence)) => sealed.sequence = sequence,
            _ => {}
        }
    }
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        Stamp {
            time_ms: 1_700_000_000_123,
            sender: Sender { principal: "ada".into(), device: "phone".into(), ..Sender::default() },
            producer: Some(ProducerRef { id: "p1".into(), epoch: 2, sequence: 7 }),
        }
    }

    fn message(text: &str) -> wire::Record {
        wire::Record {
            id: "m-1".into(),
            headers: [("stream".to_owned(), "stdout".to_owned())].into(),
            body: Some(wire::record::Body::Text(text.into())),
            ..Default::default()
        }
    }

    #[test]
    fn sealing_adds_only_the_brokers_fields_and_keeps_unknown_ones() {
        let mut client = message("hi").encode_to_vec();
        client.extend_from_slice(&[0xa2, 0x06, 0x03, b'n', b'e', b'w']); // field 100, unknown today
        check(&client).unwrap();
        let sealed = seal(&stamp(), &[Bytes::from(client.clone())]).remove(0);
        assert!(sealed.ends_with(&client));
        let decoded = wire::Record::decode(sealed.clone()).unwrap();
        assert_eq!(decoded.time_ms, 1_700_000_000_123);
        assert_eq!(decoded.sender.unwrap().principal, "ada");
        assert_eq!(decoded.headers["stream"], "stdout");
        let view = Sealed::parse(&sealed).unwrap();
        assert_eq!(view.producer, Some(SealedProducer { id: "p1", epoch: 2, sequence: 7 }));
        assert_eq!((view.principal, view.kind, view.body), ("ada", kind::MESSAGE, b"hi".as_slice()));
    }

    #[test]
    fn who_acts_for_somebody_is_stamped_beside_them() {
        let sender = Sender { principal: "ada".into(), via: "bridge".into(), ..Sender::default() };
        let sealed = seal(&Stamp { sender, ..stamp() }, &[message("hi").encode_to_vec().into()]).remove(0);
        let decoded = wire::Record::decode(sealed.clone()).unwrap().sender.unwrap();
        assert_eq!((decoded.principal.as_str(), decoded.via.as_str()), ("ada", "bridge"));
        assert_eq!(Sealed::parse(&sealed).unwrap().principal, "ada");
    }

    #[test]
    fn the_lease_is_stamped_with_its_holder_and_stays_when_the_rest_is_erased() {
        let lease = Some(Box::new(LeaseRef { agent: "coder".into(), generation: 7 }));
        let sender = Sender { principal: "ada".into(), lease, ..Sender::default() };
        let sealed = seal(&Stamp { sender, ..stamp() }, &[message("hi").encode_to_vec().into()]).remove(0);
        let decoded = wire::Record::decode(sealed.clone()).unwrap().sender.unwrap();
        assert_eq!((decoded.agent.as_str(), decoded.generation), ("coder", 7));
        for record in [&sealed, &erased(&sealed).unwrap()] {
            let view = Sealed::parse(record).unwrap();
            assert_eq!((view.principal, view.agent, view.generation), ("ada", "coder", 7));
        }
        // Who imports it holds no lease.
        let taken = seal(&stamp(), &[import(&sealed, "acme/old").unwrap()]).remove(0);
        assert_eq!(Sealed::parse(&taken).unwrap().agent, "");
        let original = wire::Record::decode(taken).unwrap().original.unwrap();
        assert_eq!(original.sender.unwrap().agent, "coder");
    }

    #[test]
    fn an_import_keeps_what_the_writer_sent_and_marks_the_rest() {
        let mut client = message("hi").encode_to_vec();
        client.extend_from_slice(&[0xa2, 0x06, 0x03, b'n', b'e', b'w']); // field 100, unknown today
        let exported = seal(&stamp(), &[Bytes::from(client.clone())]).remove(0);
        let taken = import(&exported, "acme/old").unwrap();
        assert!(taken.starts_with(&client));
        let importer = Stamp {
            time_ms: 9,
            sender: Sender { principal: "eve".into(), ..Sender::default() },
            producer: None,
        };
        let sealed = seal(&importer, &[taken]).remove(0);
        let decoded = wire::Record::decode(sealed.clone()).unwrap();
        assert_eq!(
            (decoded.time_ms, decoded.sender.unwrap().principal.as_str(), decoded.producer),
            (9, "eve", None)
        );
        let view = Sealed::parse(&sealed).unwrap();
        assert_eq!((view.principal, view.original, view.body), ("eve", "ada", b"hi".as_slice()));
        let original = decoded.original.unwrap();
        assert_eq!((original.time_ms, original.session.as_str()), (1_700_000_000_123, "acme/old"));
        assert_eq!(original.sender.as_ref().unwrap().principal, "ada");
        let again = seal(&importer, &[import(&sealed, "acme/newer").unwrap()]).remove(0);
        assert_eq!(
            wire::Record::decode(again).unwrap().original.unwrap(),
            original,
            "the first origin counts"
        );
        for broken in [&[0x92, 0x01, 0x05, b'x'][..], &[0x92, 0x01, 0x01, 0xff], &[0x2a, 0x00], &[0x0b]] {
            assert_eq!(import(broken, "a").unwrap_err().code, ErrorCode::InvalidRecord, "{broken:?}");
        }
    }

    #[test]
    fn of_an_erased_record_only_its_stamp_is_left() {
        let mut client = message("secret").encode_to_vec();
        client.extend_from_slice(&[0xa2, 0x06, 0x03, b'n', b'e', b'w']); // field 100, unknown today
        let sealed = seal(&stamp(), &[Bytes::from(client)]).remove(0);
        let tombstone = erased(&sealed).unwrap();
        let view = Sealed::parse(&tombstone).unwrap();
        assert_eq!((view.time_ms, view.principal, view.kind), (1_700_000_000_123, "ada", kind::TOMBSTONE));
        assert_eq!(view.producer, Some(SealedProducer { id: "p1", epoch: 2, sequence: 7 }));
        assert_eq!(view.body, b"");
        let hex: String = tombstone.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "08fbd095ffbc31120c0a03616461120570686f6e651a080a02703110021807480b");
        assert_eq!(erased(&tombstone), None);
        let session = wire::Record { kind: kind::SESSION, ..message("x") }.encode_to_vec();
        assert_eq!(erased(&session), None);
        // A kind that a later broker knows is content like any other.
        assert!(erased(&wire::Record { kind: 31, ..message("x") }.encode_to_vec()).is_some());
    }

    #[test]
    fn erasing_is_total() {
        assert_eq!(erased(b"").unwrap(), [0x48, 11].as_slice());
        assert_eq!(erased(b"no protobuf at all").unwrap(), [0x48, 11].as_slice());
        let sealed = seal(&stamp(), &[Bytes::from(message("secret").encode_to_vec())]).remove(0);
        for cut in 0..sealed.len() {
            let tombstone = erased(&sealed[..cut]).unwrap();
            assert!(!tombstone.windows(6).any(|bytes| bytes == b"secret"));
            assert_eq!(erased(&tombstone), None);
        }
    }

    #[test]
    fn golden_bytes_of_a_sealed_record() {
        let sealed = seal(&stamp(), &[Bytes::from(message("hi").encode_to_vec())]).remove(0);
        let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "08fbd095ffbc31120c0a03616461120570686f6e651a080a02703110021807\
             42036d2d318201100a0673747265616d12067374646f75749201026869"
        );
    }

    #[test]
    fn refuses_what_writers_may_not_send() {
        let refused = |record: wire::Record| check(&record.encode_to_vec()).unwrap_err();
        let error = refused(wire::Record { time_ms: 1, ..message("x") });
        assert_eq!((error.code, error.field), (ErrorCode::FieldReserved, "time_ms"));
        let error = refused(wire::Record { sender: Some(wire::Sender::default()), ..message("x") });
        assert_eq!((error.code, error.field), (ErrorCode::FieldReserved, "sender"));
        let error = refused(wire::Record { kind: kind::SESSION, ..message("x") });
        assert_eq!((error.code, error.field), (ErrorCode::KindReserved, "kind"));
        let error = refused(wire::Record { kind: kind::LEASE, ..message("x") });
        assert_eq!((error.code, error.field), (ErrorCode::KindReserved, "kind"));
        let change = Some(wire::record::Body::LeaseChange(wire::LeaseChange::default()));
        let error = refused(wire::Record { body: change, ..message("x") });
        assert_eq!((error.code, error.field), (ErrorCode::FieldReserved, "lease_change"));
        let error = refused(wire::Record { id: "no spaces".into(), ..message("x") });
        assert_eq!((error.code, error.field), (ErrorCode::InvalidRecord, "id"));
        let error = refused(wire::Record { r#type: "t".repeat(129), ..message("x") });
        assert_eq!((error.code, error.limit), (ErrorCode::InvalidRecord, 128));
        let error = refused(wire::Record { to: vec!["x".into(); 65], ..message("x") });
        assert_eq!((error.code, error.field), (ErrorCode::InvalidRecord, "to"));
        let error = refused(message(&"x".repeat(RECORD_BYTES_MAX)));
        assert_eq!(error.code, ErrorCode::RecordTooLarge);
        assert!(check(&wire::Record { kind: 32, ..message("x") }.encode_to_vec()).is_ok());
        for broken in
            [&[0x92, 0x01, 0x05, b'x'][..], &[0x92, 0x01, 0x01, 0xff], &[0x0b], &[0x00], &[0xff; 11]]
        {
            assert_eq!(check(broken).unwrap_err().code, ErrorCode::InvalidRecord, "{broken:?}");
        }
    }

    #[test]
    fn hash_ignores_order_and_the_brokers_fields_and_nothing_else() {
        let hash = |record: &[u8]| PayloadHash::default().with(0, record);
        let one = message("hi").encode_to_vec();
        let mut swapped = Vec::new();
        put_bytes(&mut swapped, field::TEXT, b"hi");
        swapped.extend_from_slice(&one[..one.len() - 5]);
        assert_ne!(one, swapped);
        assert_eq!(hash(&one), hash(&swapped));
        let sealed = seal(&stamp(), &[Bytes::from(one.clone())]).remove(0);
        assert_eq!(hash(&one), hash(&sealed));
        assert_ne!(hash(&one), hash(&message("ho").encode_to_vec()));
        assert_ne!(hash(&one), PayloadHash::default().with(1, &one));
    }
}
