//! Records as bytes: checked, sealed and looked into without ever being encoded again.
//!
//! A writer sends a record as an encoded [`Record`](crate::wire::Record) without the fields that only the broker sets.
//! The broker *seals* it by putting these in front: protobuf allows fields in any order, so the concatenation is a record
//! again, and what the broker does not know of it is kept, byte for byte, for ever.

mod erasure;
mod sealed;

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, ErrorCode};
use crate::field::{self, Field, Fields, Value, malformed, put_bytes, put_text, text};
use crate::kind;
use crate::limits::{
    CONTENT_TYPE_BYTES_MAX, HEADER_NAME_BYTES_MAX, HEADER_VALUE_BYTES_MAX, HEADERS_MAX, PRINCIPAL_BYTES_MAX,
    RECEIVERS_MAX, RECORD_BYTES_MAX, TYPE_BYTES_MAX,
};
use crate::meaning::{Meaning, has_meaning};
pub use crate::record::erasure::erased;
pub use crate::record::sealed::{ProducerRef, Sealed, SealedProducer, Sender, Stamp, seal, seal_at};
use crate::short_id::check_short_id;
use crate::wire;

/// What sealing and the mark of an import add to a record at most.
const IMPORT_OVERHEAD_BYTES: usize = 4096;

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
            ..=field::BROKER_MAX | field::REFERENCE => {
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
            field::STATE_CHANGE => embedded::<wire::StateChange>("state_change", &value)?,
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
            (..=field::BROKER_MAX, _) => return Err(malformed("a field of the broker is of another kind")),
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
            Ok(kind) if kind <= kind::STATE || kind >= kind::RESERVED_BELOW => Ok(kind),
            Ok(kind) => {
                let message = format!(
                    "kind {kind} is reserved for the broker; publish kinds 0 to {} as protocol.md has them, or {} and above for your own",
                    kind::STATE,
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
            if field.number > field::BROKER_MAX {
                sum = sum.wrapping_add(xxh3_64(field.encoded));
            }
        }
        Self(self.0.wrapping_add(xxh3_64(&[index.to_le_bytes(), sum.to_le_bytes()].concat())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::LeaseRef;

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
