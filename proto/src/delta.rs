//! Deltas as bytes: what of one is folded, and the record that a fold is. Nothing is decoded or encoded again: a fold is put
//! together from the bytes of its deltas.

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::field::{self, Field, Fields, Value, put_bytes, put_varint};
use crate::kind;
use crate::limits::FOLD_BYTES_MAX;

/// What the keys, lengths and numbers of a fold take at most: nine fields.
const FRAMING_BYTES: usize = 64;
/// The number of `bytes` in a `Reference`.
const REFERENCE_BYTES: u32 = 1;
/// The number of `time_ms` in an `Original`.
const ORIGINAL_TIME_MS: u32 = 1;

/// Puts how long a body is in its place.
pub(crate) fn put_reference(record: &mut Vec<u8>, bytes: u64) {
    let mut reference = Vec::new();
    put_varint(&mut reference, REFERENCE_BYTES, bytes);
    put_bytes(record, field::REFERENCE, &reference);
}

/// How long the body is that a reference stands for.
pub(crate) fn referred_bytes(reference: &[u8]) -> u64 {
    let fields = Fields(reference).map_while(Result::ok);
    let bytes = { fields }.filter_map(|field| match field.value {
        Value::Varint(bytes) if field.number == REFERENCE_BYTES => Some(bytes),
        _ => None,
    });
    bytes.last().unwrap_or_default()
}

/// A delta, looked into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta<'a> {
    /// The message that it goes on.
    pub message: &'a str,
    /// Bytes of the message before it.
    pub at_byte: u64,
    /// The body, text or data.
    pub body: &'a [u8],
    /// Whether the body is text; so is one that is not there.
    pub is_text: bool,
    /// How the message ends with it; empty when it goes on.
    pub close: &'a str,
    /// Whether its content was erased.
    pub is_erased: bool,
    /// Bytes that its body had, when it was erased.
    pub erased_bytes: u64,
    /// Whether it has what a fold has, and nothing else: no id, no type, no headers.
    pub is_plain: bool,
    run: &'a [u8],
    /// The fields of the broker, as they are encoded.
    time: &'a [u8],
    sender: &'a [u8],
    producer: &'a [u8],
    original: &'a [u8],
}

impl<'a> Delta<'a> {
    /// Looks into a sealed record; `None` for what is no delta, and was none before it was erased.
    #[must_use]
    pub fn parse(record: &'a [u8]) -> Option<Self> {
        let mut delta = Self { is_text: true, is_plain: true, ..Self::default() };
        let (mut record_kind, mut was) = (u64::from(kind::MESSAGE), u64::from(kind::MESSAGE));
        for item in Fields(record) {
            let Field { number, value, encoded } = item.ok()?;
            match (number, value) {
                (field::TIME_MS, _) => delta.time = encoded,
                (field::SENDER, _) => delta.sender = encoded,
                (field::PRODUCER, _) => delta.producer = encoded,
                (field::ORIGINAL, Value::Bytes(original)) => delta.original = original,
                (field::AT_BYTE, Value::Varint(at_byte)) => delta.at_byte = at_byte,
                (field::KIND, Value::Varint(found)) => record_kind = found,
                (field::WAS, Value::Varint(found)) => was = found,
                (field::RUN, Value::Bytes(run)) => delta.run = run,
                (field::TEXT, Value::Bytes(body)) => (delta.body, delta.is_text) = (body, true),
                (field::DATA, Value::Bytes(body)) => (delta.body, delta.is_text) = (body, false),
                (field::MESSAGE, Value::Bytes(message)) => {
                    delta.message = std::str::from_utf8(message).ok()?
                }
                (field::REFERENCE, Value::Bytes(reference)) => delta.erased_bytes = referred_bytes(reference),
                (field::CLOSE, Value::Bytes(close)) => delta.close = std::str::from_utf8(close).ok()?,
                _ => delta.is_plain = false,
            }
        }
        delta.is_erased = record_kind == u64::from(kind::TOMBSTONE);
        let record_kind = if delta.is_erased { was } else { record_kind };
        (record_kind == u64::from(kind::DELTA)).then_some(delta)
    }

    /// The byte of the message after it.
    #[must_use]
    pub fn end_byte(&self) -> u64 {
        self.at_byte.saturating_add(self.body.len() as u64).saturating_add(self.erased_bytes)
    }
}

/// Who an imported record says to be of, wherever that was: all but the time.
fn origin(original: &[u8]) -> impl Iterator<Item = &[u8]> {
    let fields = Fields(original).map_while(Result::ok);
    fields.filter(|field| field.number != ORIGINAL_TIME_MS).map(|field| field.encoded)
}

/// Plain deltas of one message that follow each other, as one.
#[derive(Clone, Debug)]
pub struct Fold {
    /// The record, while there is one only: that stays what it is.
    alone: Option<Bytes>,
    from: u64,
    last: u64,
    message: String,
    run: Vec<u8>,
    at_byte: u64,
    /// What all have together.
    bytes: u64,
    /// Empty when it is too long.
    body: Vec<u8>,
    is_text: bool,
    close: String,
    sender: Vec<u8>,
    time: Vec<u8>,
    producer: Vec<u8>,
    original: Vec<u8>,
}

impl Fold {
    /// Begins with one delta, which is plain.
    #[must_use]
    pub fn new(offset: u64, record: &[u8], delta: &Delta<'_>) -> Self {
        Self {
            // A copy: a record of the store would keep all that was read with it.
            alone: Some(Bytes::copy_from_slice(record)),
            from: offset,
            last: offset,
            message: delta.message.to_owned(),
            run: delta.run.to_vec(),
            at_byte: delta.at_byte,
            bytes: delta.body.len() as u64,
            body: Vec::new(),
            is_text: delta.is_text,
            close: delta.close.to_owned(),
            sender: delta.sender.to_vec(),
            time: delta.time.to_vec(),
            producer: delta.producer.to_vec(),
            original: delta.original.to_vec(),
        }
    }

    /// Whether a delta of the same message goes on where this ends, of the same run and from the same sender.
    #[must_use]
    pub fn takes(&self, delta: &Delta<'_>) -> bool {
        delta.is_plain
            && self.close.is_empty()
            && delta.at_byte == self.at_byte.saturating_add(self.bytes)
            && self.run == delta.run
            && self.sender == delta.sender
            && origin(&self.original).eq(origin(delta.original))
    }

    /// Goes on with a delta that it [takes](Self::takes).
    pub fn push(&mut self, offset: u64, delta: &Delta<'_>) {
        if let Some(first) = self.alone.take()
            && let Some(first) = Delta::parse(&first)
            && self.bytes <= FOLD_BYTES_MAX as u64
        {
            self.body = first.body.to_vec();
        }
        self.last = offset;
        self.bytes = self.bytes.saturating_add(delta.body.len() as u64);
        if self.bytes > FOLD_BYTES_MAX as u64 {
            self.body = Vec::new();
        } else {
            self.body.extend_from_slice(delta.body);
        }
        self.is_text &= delta.is_text;
        delta.close.clone_into(&mut self.close);
        for (kept, found) in [
            (&mut self.time, delta.time),
            (&mut self.producer, delta.producer),
            (&mut self.original, delta.original),
        ] {
            kept.clear();
            kept.extend_from_slice(found);
        }
    }

    /// The offset of the last delta in it.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Bytes that it has as a record, at most.
    #[must_use]
    pub fn weight(&self) -> usize {
        match &self.alone {
            Some(record) => record.len(),
            None => self.head() + self.body.len(),
        }
    }

    /// [`Self::weight`] with one more delta, which it takes.
    #[must_use]
    pub fn weight_with(&self, delta: &Delta<'_>) -> usize {
        let bytes = self.bytes.saturating_add(delta.body.len() as u64);
        let body = usize::try_from(bytes).unwrap_or(usize::MAX);
        // The stamp that it will have is the delta's.
        let head =
            self.head() + delta.time.len() + delta.producer.len() + delta.original.len() + delta.close.len();
        if body > FOLD_BYTES_MAX { head } else { head + body }
    }

    fn head(&self) -> usize {
        let stamp = self.time.len() + self.sender.len() + self.producer.len() + self.original.len();
        FRAMING_BYTES + stamp + self.message.len() + self.run.len() + self.close.len()
    }

    /// The record that it is, of its last offset.
    #[must_use]
    pub fn finish(self) -> Bytes {
        if let Some(record) = self.alone {
            return record;
        }
        let mut record = Vec::with_capacity(self.head() + self.body.len());
        for stamp in [&self.time, &self.sender, &self.producer] {
            record.extend_from_slice(stamp);
        }
        if !self.original.is_empty() {
            put_bytes(&mut record, field::ORIGINAL, &self.original);
        }
        put_varint(&mut record, field::AT_BYTE, self.at_byte);
        // Also when it is 0.
        encode_key(field::FOLDED_FROM, WireType::Varint, &mut record);
        encode_varint(self.from, &mut record);
        put_varint(&mut record, field::KIND, kind::DELTA.into());
        if !self.run.is_empty() {
            put_bytes(&mut record, field::RUN, &self.run);
        }
        if self.bytes > FOLD_BYTES_MAX as u64 {
            put_reference(&mut record, self.bytes);
        } else {
            put_bytes(&mut record, if self.is_text { field::TEXT } else { field::DATA }, &self.body);
        }
        put_bytes(&mut record, field::MESSAGE, self.message.as_bytes());
        if !self.close.is_empty() {
            put_bytes(&mut record, field::CLOSE, self.close.as_bytes());
        }
        record.into()
    }
}

/// Of a fold, the offset of the first delta that it stands for.
#[must_use]
pub fn folded_from(record: &[u8]) -> Option<u64> {
    // The broker's fields come first.
    let fields = Fields(record).map_while(Result::ok).take_while(|field| field.number <= field::FOLDED_FROM);
    fields.fold(None, |found, field| match (field.number, field.value) {
        (field::FOLDED_FROM, Value::Varint(from)) => Some(from),
        _ => found,
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::record::{ProducerRef, Sender, Stamp, seal_at};
    use crate::wire;
    use crate::wire::record::Body;

    fn stamp(time_ms: u64) -> Stamp {
        let sender = Sender { principal: "ada".into(), device: "phone".into(), ..Sender::default() };
        Stamp { time_ms, sender, producer: Some(ProducerRef { id: "p".into(), epoch: 1, sequence: time_ms }) }
    }

    fn piece(body: Body) -> wire::Record {
        let body = Some(body);
        wire::Record { kind: kind::DELTA, message: "m".into(), run: "r".into(), body, ..Default::default() }
    }

    fn text(text: &str) -> wire::Record {
        piece(Body::Text(text.into()))
    }

    fn sealed(time_ms: u64, at_byte: u64, record: &wire::Record) -> Bytes {
        seal_at(&stamp(time_ms), &[record.encode_to_vec().into()], &[at_byte]).remove(0)
    }

    /// The fold of records of the offsets from 7 on.
    fn folded(records: &[Bytes]) -> wire::Record {
        let mut fold: Option<Fold> = None;
        for (offset, record) in (7..).zip(records) {
            let delta = Delta::parse(record).unwrap();
            match &mut fold {
                None => fold = Some(Fold::new(offset, record, &delta)),
                Some(fold) => {
                    assert!(fold.takes(&delta));
                    let weight = fold.weight_with(&delta);
                    fold.push(offset, &delta);
                    assert!(fold.weight() <= weight);
                }
            }
        }
        let fold = fold.unwrap();
        assert_eq!(fold.last(), 6 + records.len() as u64);
        let (weight, record) = (fold.weight(), fold.finish());
        assert!(record.len() <= weight, "{} of {weight}", record.len());
        assert_eq!(folded_from(&record), (records.len() > 1).then_some(7));
        wire::Record::decode(record).unwrap()
    }

    #[test]
    fn a_fold_is_a_delta_of_the_range() {
        let last = wire::Record { close: "complete".into(), ..text("c") };
        let records = [sealed(1, 3, &text("a")), sealed(2, 4, &text("bb")), sealed(3, 6, &last)];
        let wanted = wire::Record {
            body: Some(Body::Text("abbc".into())),
            at_byte: 3,
            folded_from: Some(7),
            ..wire::Record::decode(records[2].clone()).unwrap()
        };
        assert_eq!(folded(&records), wanted);
        let alone = sealed(1, 3, &text("a"));
        let fold = Fold::new(7, &alone, &Delta::parse(&alone).unwrap());
        assert_eq!(fold.finish(), alone, "one that is alone stays what it is");
    }

    #[test]
    fn what_is_not_all_text_is_data() {
        let data = piece(Body::Data(Bytes::from_static(b"\xff")));
        let nothing = wire::Record { body: None, ..text("") };
        let body = |records: &[Bytes]| folded(records).body.unwrap();
        assert_eq!(body(&[sealed(1, 0, &text("a")), sealed(2, 1, &nothing)]), Body::Text("a".into()));
        let mixed = [sealed(1, 0, &text("a")), sealed(2, 1, &data), sealed(3, 2, &text("b"))];
        assert_eq!(body(&mixed), Body::Data(Bytes::from_static(b"a\xffb")));
    }

    #[test]
    fn what_is_too_long_is_told_by_its_length() {
        let half = text(&"x".repeat(FOLD_BYTES_MAX / 2));
        let at = |index: u64| index * FOLD_BYTES_MAX as u64 / 2;
        let halves = [0, 1, 2, 3].map(|index| sealed(index, at(index), &half));
        assert!(matches!(folded(&halves[..2]).body, Some(Body::Text(body)) if body.len() == FOLD_BYTES_MAX));
        let reference = |bytes| Some(Body::Reference(wire::Reference { bytes }));
        assert_eq!(folded(&halves[..3]).body, reference(at(3)));
        assert_eq!(folded(&halves).body, reference(at(4)));
        let long = text(&"x".repeat(FOLD_BYTES_MAX + 1));
        let long = [sealed(1, 0, &long), sealed(2, FOLD_BYTES_MAX as u64 + 1, &text("y"))];
        assert_eq!(folded(&long).body, reference(FOLD_BYTES_MAX as u64 + 2));
    }

    #[test]
    fn what_has_more_than_a_piece_stays_by_itself() {
        let first = sealed(1, 0, &text("a"));
        let fold = Fold::new(7, &first, &Delta::parse(&first).unwrap());
        let takes = |record: &Bytes| fold.takes(&Delta::parse(record).unwrap());
        assert!(takes(&sealed(2, 1, &text("b"))));
        assert!(!takes(&sealed(2, 2, &text("b"))), "a piece is missing");
        let others = [
            wire::Record { id: "x".into(), ..text("b") },
            wire::Record { r#type: "x".into(), ..text("b") },
            wire::Record { run: "other".into(), ..text("b") },
            wire::Record { headers: [("a".into(), "b".into())].into(), ..text("b") },
            piece(Body::Ask(wire::Ask::default())),
        ];
        assert!(others.iter().all(|other| !takes(&sealed(2, 1, other))));
        let stranger = Stamp { sender: Sender { principal: "bob".into(), ..Sender::default() }, ..stamp(2) };
        let of_another = seal_at(&stranger, &[text("b").encode_to_vec().into()], &[1]).remove(0);
        assert!(!takes(&of_another), "such as the broker's, when a session is closed");
        let closed = sealed(1, 0, &wire::Record { close: "complete".into(), ..text("a") });
        let closed = Fold::new(7, &closed, &Delta::parse(&closed).unwrap());
        assert!(!closed.takes(&Delta::parse(&sealed(2, 1, &text("b"))).unwrap()));
    }

    #[test]
    fn imported_deltas_are_folded_when_they_are_of_the_same_origin() {
        let imported = |time_ms, at_byte, record: &wire::Record, session: &str| {
            let own = crate::record::import(&sealed(time_ms, at_byte, record), session).unwrap();
            crate::record::seal(&stamp(9), &[own]).remove(0)
        };
        let [first, second] = [(1, 0), (2, 1)].map(|(time, at)| imported(time, at, &text("a"), "old"));
        let fold = folded(&[first.clone(), second]);
        assert_eq!((fold.time_ms, fold.original.unwrap().time_ms), (9, 2));
        let fold = Fold::new(7, &first, &Delta::parse(&first).unwrap());
        assert!(!fold.takes(&Delta::parse(&imported(2, 1, &text("a"), "other")).unwrap()));
    }

    #[test]
    fn an_erased_delta_is_known_as_such_and_others_are_none() {
        let erased = crate::record::erased(&sealed(1, 5, &text("secret"))).unwrap();
        let delta = Delta::parse(&erased).unwrap();
        assert!(delta.is_erased && delta.message == "m" && delta.at_byte == 5 && delta.body.is_empty());
        assert_eq!(delta.end_byte(), 5 + "secret".len() as u64);
        let message = wire::Record { id: "m".into(), grows: true, ..Default::default() };
        assert_eq!(Delta::parse(&sealed(1, 0, &message)), None);
        assert_eq!(Delta::parse(b"\xff"), None);
        let folded = wire::Record { folded_from: Some(1), ..text("a") };
        assert!(crate::record::check(&folded.encode_to_vec()).is_err(), "nobody publishes a fold");
        assert!(crate::record::import(&folded.encode_to_vec(), "old").is_err());
        let reference = piece(Body::Reference(wire::Reference { bytes: 1 }));
        assert!(crate::record::check(&reference.encode_to_vec()).is_err());
    }
}
