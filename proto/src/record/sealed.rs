//! Sealed records: the broker's fields in front of what a writer sent.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::error::Error;
use crate::field::{self, Field, Fields, Value, malformed, put_bytes, put_text, put_varint, text};
use crate::kind;
use crate::lease::LeaseRef;
use crate::limits::{PRINCIPAL_BYTES_MAX, RECORD_BYTES_MAX, SHORT_ID_BYTES_MAX};
use crate::meaning::has_meaning;

/// What the place of a delta in its message takes: a key and a varint.
const AT_BYTE_BYTES_MAX: usize = 11;
/// What keys, lengths and numbers of three fields take at most.
const FIELDS_BYTES: usize = 3 * 11;

/// Numbers of the fields of a sender.
mod sender {
    pub(super) const PRINCIPAL: u32 = 1;
    pub(super) const DEVICE: u32 = 2;
    pub(super) const VIA: u32 = 3;
    pub(super) const AGENT: u32 = 4;
    pub(super) const GENERATION: u32 = 5;
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

/// Puts the stamp in front of each record, without encoding the records again.
#[must_use]
pub fn seal(stamp: &Stamp, records: &[Bytes]) -> Vec<Bytes> {
    seal_at(stamp, records, &[])
}

/// [`seal`] for records that deltas are among: `at_bytes` is, for each of the first records, how many bytes of its message are before
/// it, and 0 for what is no delta.
#[must_use]
pub fn seal_at(stamp: &Stamp, records: &[Bytes], at_bytes: &[u64]) -> Vec<Bytes> {
    let Sender { principal, device, via, lease } = &stamp.sender;
    let lease_bytes = lease.as_ref().map_or(0, |lease| lease.agent.len() + FIELDS_BYTES);
    let producer_bytes = stamp.producer.as_ref().map_or(0, |producer| producer.id.len() + FIELDS_BYTES);
    let sender_bytes = principal.len() + device.len() + via.len() + lease_bytes + FIELDS_BYTES;
    let mut prefix = Vec::with_capacity(sender_bytes + producer_bytes + FIELDS_BYTES);
    put_varint(&mut prefix, field::TIME_MS, stamp.time_ms);
    let mut inner = Vec::with_capacity(sender_bytes.max(producer_bytes));
    put_text(&mut inner, sender::PRINCIPAL, principal);
    put_text(&mut inner, sender::DEVICE, device);
    put_text(&mut inner, sender::VIA, via);
    if let Some(lease) = lease {
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
    /// Whether it means something to the session: see [`Meaning`](crate::meaning::Meaning).
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
    /// [`ErrorCode::InvalidRecord`](crate::error::ErrorCode::InvalidRecord) when the bytes are not a record.
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
