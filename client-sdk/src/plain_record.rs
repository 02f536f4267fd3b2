//! Records that have nothing but what most have, read where they lie: a general decoder passes every byte of them through more hands,
//! and makes a value of its own first. What it has not seen before it leaves to that one.

use std::collections::BTreeMap;

use bytes::Bytes;
use longwire_proto::wire;

use crate::fields::{Fields, Value};
use crate::record::{Body, Record, Sender};

fn text(bytes: &[u8]) -> Option<String> {
    Some(std::str::from_utf8(bytes).ok()?.to_owned())
}

fn sender(encoded: &[u8]) -> Option<Sender> {
    let (mut sender, mut rest) = (Sender::default(), Fields(encoded));
    while !rest.is_empty() {
        match rest.next_field()? {
            (1, Value::Bytes(bytes)) => sender.principal = text(bytes)?,
            (2, Value::Bytes(bytes)) => sender.device = text(bytes)?,
            (3, Value::Bytes(bytes)) => sender.via = text(bytes)?,
            (4, Value::Bytes(bytes)) => sender.agent = text(bytes)?,
            (5, Value::Number(number)) => sender.generation = number,
            _ => return None,
        }
    }
    Some(sender)
}

fn producer(encoded: &[u8]) -> Option<wire::Producer> {
    let (mut producer, mut rest) = (wire::Producer::default(), Fields(encoded));
    while !rest.is_empty() {
        match rest.next_field()? {
            (1, Value::Bytes(bytes)) => producer.id = text(bytes)?,
            (2, Value::Number(number)) => producer.epoch = number,
            (3, Value::Number(number)) => producer.sequence = number,
            _ => return None,
        }
    }
    Some(producer)
}

fn header(encoded: &[u8], headers: &mut BTreeMap<String, String>) -> Option<()> {
    let (mut name, mut value, mut rest) = (String::new(), String::new(), Fields(encoded));
    while !rest.is_empty() {
        match rest.next_field()? {
            (1, Value::Bytes(bytes)) => name = text(bytes)?,
            (2, Value::Bytes(bytes)) => value = text(bytes)?,
            _ => return None,
        }
    }
    headers.insert(name, value);
    Some(())
}

/// The record that these bytes of a delivery are; `None` when there is anything about them that is not usual, or wrong.
#[inline]
pub(crate) fn plain_record(epoch: u64, offset: u64, encoded: &[u8], delivery: &Bytes) -> Option<Record> {
    let mut record = Record::empty(epoch, offset);
    let (mut has_sender, mut rest) = (false, Fields(encoded));
    while !rest.is_empty() {
        match rest.next_field()? {
            (1, Value::Number(number)) => record.time_ms = number,
            // A second one would add to the first.
            (2, Value::Bytes(bytes)) if !has_sender => {
                record.sender = sender(bytes)?;
                has_sender = true;
            }
            (3, Value::Bytes(bytes)) if record.producer.is_none() => record.producer = Some(producer(bytes)?),
            (5, Value::Number(number)) => record.at_byte = number,
            (7, Value::Number(number)) => record.folded_from = Some(number),
            (8, Value::Bytes(bytes)) => record.id = text(bytes)?,
            (9, Value::Number(number)) => record.kind = u32::try_from(number).ok()?,
            (10, Value::Bytes(bytes)) => record.record_type = text(bytes)?,
            (11, Value::Bytes(bytes)) => record.to.push(text(bytes)?),
            (12, Value::Bytes(bytes)) => record.mode = text(bytes)?,
            (13, Value::Bytes(bytes)) => record.run = text(bytes)?,
            (14, Value::Bytes(bytes)) => record.reply_to = text(bytes)?,
            (15, Value::Bytes(bytes)) => record.replaces = text(bytes)?,
            (16, Value::Bytes(bytes)) => header(bytes, &mut record.headers)?,
            (17, Value::Bytes(bytes)) => record.content_type = text(bytes)?,
            (18, Value::Bytes(bytes)) => record.body = Body::Text(text(bytes)?),
            (19, Value::Bytes(bytes)) => record.body = Body::Data(delivery.slice_ref(bytes)),
            (25, Value::Number(number)) => record.grows = number != 0,
            (26, Value::Bytes(bytes)) => record.message = text(bytes)?,
            (27, Value::Bytes(bytes)) => record.close = text(bytes)?,
            _ => return None,
        }
    }
    Some(record)
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn body() -> impl Strategy<Value = Option<wire::record::Body>> {
        use wire::record::Body;
        option::of(prop_oneof![
            ".{0,300}".prop_map(Body::Text),
            vec(any::<u8>(), 0..300).prop_map(|data| Body::Data(data.into())),
            ".{0,9}".prop_map(|reason| Body::Cancel(wire::Cancel { reason, ..Default::default() })),
            any::<u64>().prop_map(|bytes| Body::Reference(wire::Reference { bytes })),
        ])
    }

    prop_compose! {
        fn record()(
            numbers in any::<[u64; 6]>(),
            (folded_from, kind, grows) in (option::of(any::<u64>()), any::<u32>(), any::<bool>()),
            texts in vec(prop_oneof![Just(String::new()), ".{0,200}"], 14),
            (has_sender, has_producer, has_original) in any::<(bool, bool, bool)>(),
            to in vec(".{0,9}", 0..3),
            headers in btree_map(".{0,9}", ".{0,9}", 0..3),
            body in body(),
        ) -> wire::Record {
            let [time_ms, at_byte, epoch, sequence, generation, original] = numbers;
            let mut texts = texts.into_iter();
            let mut text = || texts.next().unwrap();
            let sender = wire::Sender { principal: text(), device: text(), via: text(), agent: text(), generation };
            wire::Record {
                time_ms,
                sender: has_sender.then_some(sender),
                producer: has_producer.then(|| wire::Producer { id: text(), epoch, sequence }),
                original: has_original.then(|| wire::Original { time_ms: original, ..Default::default() }),
                at_byte,
                folded_from,
                id: text(),
                kind,
                r#type: text(),
                to,
                mode: text(),
                run: text(),
                reply_to: text(),
                replaces: text(),
                headers,
                content_type: text(),
                body,
                grows,
                message: text(),
                close: text(),
                ..Default::default()
            }
        }
    }

    fn of_library(encoded: &Bytes) -> Option<Record> {
        wire::Record::decode(encoded.clone()).ok().map(|record| Record::new(7, 9, record))
    }

    proptest! {
        #[test]
        fn what_is_usual_is_read_as_the_library_reads_it(record in record()) {
            use wire::record::Body;
            let encoded = Bytes::from(record.encode_to_vec());
            let read = plain_record(7, 9, &encoded, &encoded);
            let is_rare = matches!(record.body, Some(Body::Cancel(_) | Body::Reference(_)));
            prop_assert_eq!(read.is_none(), is_rare || record.original.is_some());
            prop_assert!(read.is_none() || read == of_library(&encoded));
        }

        #[test]
        fn what_is_wrong_or_comes_twice_is_left_to_the_library(
            records in vec(record(), 1..3),
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut encoded: Vec<u8> = records.iter().flat_map(|record| record.encode_to_vec()).collect();
            for (at, byte) in changes {
                if !encoded.is_empty() {
                    let at = at.index(encoded.len());
                    encoded[at] = byte;
                }
            }
            encoded.truncate(cut.index(encoded.len() + 1).max(encoded.len() / 2));
            let encoded = Bytes::from(encoded);
            let read = plain_record(7, 9, &encoded, &encoded);
            prop_assert!(read.is_none() || read == of_library(&encoded));
        }
    }
}
