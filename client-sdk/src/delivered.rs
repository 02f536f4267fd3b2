//! The records of a delivery, each with its offset. A record is large, so they stay where they came until they are taken.

use std::ops::Range;
use std::vec::IntoIter;

use bytes::Bytes;
use longwire_proto::delta::folded_from;
use longwire_proto::error::ErrorCode;
use longwire_proto::wire;
use prost::Message as _;

use crate::error::{Refusal, SubscriptionError};
use crate::fields::{Fields, Value, varint};
use crate::plain_record::plain_record;
use crate::record::Record;

/// The number of the field of a delivery that has a record.
const RECORDS: u32 = 5;

/// A delivery as it came.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) subscription: u32,
    /// Of a pattern's: which one.
    pub(crate) session: String,
    pub(crate) epoch: u64,
    pub(crate) from: u64,
    pub(crate) next: u64,
    /// Empty when the records are dense.
    pub(crate) offsets: Vec<u64>,
    pub(crate) records: Records,
}

impl From<wire::Delivery> for Arrived {
    fn from(delivery: wire::Delivery) -> Self {
        let wire::Delivery { subscription, session, epoch, from, next, records, offsets } = delivery;
        Self {
            subscription,
            session,
            epoch,
            from,
            next,
            offsets,
            records: Records::Decoded(records.into_iter()),
        }
    }
}

impl Arrived {
    /// A delivery as it is encoded; `None` when there is anything about it that is not usual, or wrong.
    pub(crate) fn parse(delivery: Bytes) -> Option<Self> {
        let (mut subscription, mut session) = (0, String::new());
        let (mut epoch, mut from, mut next, mut count) = (0, 0, 0, 0);
        let mut offsets = Vec::new();
        let mut fields = Fields(&delivery);
        while !fields.is_empty() {
            match fields.next_field()? {
                (1, Value::Number(number)) => subscription = u32::try_from(number).ok()?,
                (2, Value::Number(number)) => epoch = number,
                (3, Value::Number(number)) => from = number,
                (4, Value::Number(number)) => next = number,
                (RECORDS, Value::Bytes(_)) => count += 1,
                (6, Value::Number(offset)) => offsets.push(offset),
                (6, Value::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        offsets.push(varint(&mut packed)?);
                    }
                }
                (7, Value::Bytes(name)) => session = std::str::from_utf8(name).ok()?.to_owned(),
                (..=7, _) => return None,
                // A newer broker may say more.
                _ => {}
            }
        }
        let records = Records::Encoded(Encoded { delivery, at: 0, left: count });
        Some(Self { subscription, session, epoch, from, next, offsets, records })
    }
}

/// Records, as they came.
#[derive(Debug)]
pub(crate) enum Records {
    Decoded(IntoIter<wire::Record>),
    Encoded(Encoded),
}

/// Records in the delivery that they came in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Encoded {
    delivery: Bytes,
    /// The byte behind the last one that was taken.
    at: usize,
    /// How many were not taken.
    left: usize,
}

impl Iterator for Encoded {
    /// Where it is.
    type Item = Range<usize>;

    #[inline]
    fn next(&mut self) -> Option<Range<usize>> {
        while self.left > 0 {
            let mut fields = Fields(&self.delivery[self.at..]);
            let field = fields.next_field();
            self.at = self.delivery.len() - fields.0.len();
            // What is looked at again here was found sound when it came.
            if let (RECORDS, Value::Bytes(record)) = field? {
                self.left -= 1;
                return Some(self.at - record.len()..self.at);
            }
        }
        None
    }
}

impl Default for Records {
    fn default() -> Self {
        Self::Encoded(Encoded::default())
    }
}

impl Records {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Decoded(records) => records.len(),
            Self::Encoded(records) => records.left,
        }
    }
}

/// A record that is none of those that most are. Apart from these, so that the value of its own that it is decoded to has no place
/// among theirs.
#[cold]
#[inline(never)]
fn unusual(epoch: u64, offset: u64, encoded: Bytes) -> Result<Record, SubscriptionError> {
    match wire::Record::decode(encoded) {
        Ok(record) => Ok(Record::new(epoch, offset, record)),
        Err(error) => Err(no_record(offset, &error)),
    }
}

/// The stream ends: what a broker delivers as a record, and this client does not know as one, would be no other over a new
/// connection.
fn no_record(offset: u64, error: &prost::DecodeError) -> SubscriptionError {
    let code = ErrorCode::InvalidRecord;
    SubscriptionError::Refused(Refusal {
        code: Some(code),
        code_text: code.as_str().to_owned(),
        message: format!("what was delivered at offset {offset} is no record: {error}"),
        field: String::new(),
        limit: 0,
        expected: 0,
        retryable: false,
        retry_after_ms: 0,
        resolved: None,
    })
}

/// See the top of this file.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    /// The offset of the next one, when they are dense.
    next: u64,
    /// Those of the others; empty when they are dense.
    offsets: IntoIter<u64>,
    /// Where reading would go on after each; empty when that is after its offset.
    places: IntoIter<u64>,
    records: Records,
}

impl Delivered {
    /// All that a delivery covers.
    pub(crate) fn dense(from: u64, records: Records) -> Self {
        Self { next: from, offsets: IntoIter::default(), places: IntoIter::default(), records }
    }

    /// Some of what it covers; as many offsets as records.
    pub(crate) fn sparse(offsets: Vec<u64>, records: Records) -> Self {
        Self { next: 0, offsets: offsets.into_iter(), places: IntoIter::default(), records }
    }

    /// [`Self::sparse`], of which some are folds. Folds of different messages overlap: everything below a place was taken only when
    /// none of those behind begins before it.
    pub(crate) fn folded(offsets: Vec<u64>, records: Records) -> Self {
        let begin = |(offset, from): (&u64, Option<u64>)| from.unwrap_or(*offset);
        let begins: Vec<u64> = match &records {
            Records::Decoded(records) => offsets
                .iter()
                .zip(records.as_slice().iter().map(|record| record.folded_from))
                .map(begin)
                .collect(),
            Records::Encoded(records) => offsets
                .iter()
                .zip(records.clone().map(|record| folded_from(&records.delivery[record])))
                .map(begin)
                .collect(),
        };
        let mut behind = u64::MAX;
        let mut places: Vec<u64> = Vec::with_capacity(offsets.len());
        for (offset, begin) in offsets.iter().zip(begins).rev() {
            places.push(behind.min(offset + 1));
            behind = behind.min(begin);
        }
        places.reverse();
        Self { places: places.into_iter(), ..Self::sparse(offsets, records) }
    }

    /// Where reading would go on, after the record of this offset was taken. To be asked once for each.
    pub(crate) fn place_after(&mut self, offset: u64) -> u64 {
        self.places.next().unwrap_or(offset + 1)
    }

    /// Whether all were taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.len() == 0
    }
}

impl Delivered {
    /// The next record, which is of this epoch. Made where it is wanted, because it is large.
    #[inline]
    pub(crate) fn take(&mut self, epoch: u64) -> Option<Result<Record, SubscriptionError>> {
        let Self { next, offsets, records, .. } = self;
        let mut next_offset = || {
            let offset = offsets.next().unwrap_or(*next);
            *next = offset + 1;
            offset
        };
        match records {
            Records::Decoded(records) => {
                let record = records.next()?;
                Some(Ok(Record::new(epoch, next_offset(), record)))
            }
            Records::Encoded(records) => {
                let place = records.next()?;
                let (offset, delivery) = (next_offset(), &records.delivery);
                if let Some(record) = plain_record(epoch, offset, &delivery[place.clone()], delivery) {
                    return Some(Ok(record));
                }
                Some(unusual(epoch, offset, delivery.slice(place)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use longwire_proto::raw;

    use super::*;

    fn encoded(records: &[Bytes]) -> Records {
        let delivery = raw::Delivery { records: records.to_vec(), ..raw::Delivery::default() };
        Arrived::parse(delivery.encode_to_vec().into()).unwrap().records
    }

    fn records(count: usize) -> [Records; 2] {
        let record = |id: usize| wire::Record { id: id.to_string(), ..wire::Record::default() };
        let decoded: Vec<wire::Record> = (0..count).map(record).collect();
        let encoded: Vec<Bytes> = decoded.iter().map(|record| record.encode_to_vec().into()).collect();
        [Records::Decoded(decoded.into_iter()), self::encoded(&encoded)]
    }

    #[test]
    fn every_record_has_its_own_offset() {
        let told = |mut delivered: Delivered| -> Vec<(u64, String)> {
            let taken = std::iter::from_fn(|| delivered.take(1)).map(Result::unwrap);
            taken.map(|record| (record.offset, record.id)).collect()
        };
        let named = |pairs: &[(u64, &str)]| -> Vec<(u64, String)> {
            pairs.iter().map(|(offset, id)| (*offset, (*id).to_owned())).collect()
        };
        for records in records(3) {
            assert_eq!(told(Delivered::dense(7, records)), named(&[(7, "0"), (8, "1"), (9, "2")]));
        }
        for records in records(2) {
            assert_eq!(told(Delivered::sparse(vec![2, 5], records)), named(&[(2, "0"), (5, "1")]));
        }
        let told = |mut delivered: Delivered| -> Vec<(u64, u64)> {
            let mut told = Vec::new();
            while let Some(record) = delivered.take(1) {
                let offset = record.unwrap().offset;
                told.push((offset, delivered.place_after(offset)));
            }
            told
        };
        let of = |folded_from| wire::Record { folded_from, ..wire::Record::default() };
        // Folds of 3, 5 and of 4, 6; then one record alone, and a fold behind it.
        let folds = [of(Some(3)), of(Some(4)), of(None), of(Some(8))];
        let encoded: Vec<Bytes> = folds.iter().map(|record| record.encode_to_vec().into()).collect();
        for records in [Records::Decoded(Vec::from(folds).into_iter()), self::encoded(&encoded)] {
            let delivered = Delivered::folded(vec![5, 6, 7, 9], records);
            assert_eq!(told(delivered), [(5, 4), (6, 7), (7, 8), (9, 10)]);
        }
        for records in records(1) {
            let mut delivered = Delivered::dense(0, records);
            assert!(!delivered.is_empty() && delivered.take(1).is_some() && delivered.is_empty());
        }
        assert!(Delivered::default().is_empty());
    }

    #[test]
    fn a_delivery_is_walked_as_the_library_decodes_it() {
        let record =
            |id: &str| Bytes::from(wire::Record { id: id.into(), ..Default::default() }.encode_to_vec());
        let delivery = raw::Delivery {
            subscription: 3,
            session: "acme/a".into(),
            epoch: 1 << 40,
            from: 200,
            next: 70_000,
            records: vec![record("a"), Bytes::new(), record("b")],
            offsets: vec![200, 300, 69_999],
        };
        let mut encoded = delivery.encode_to_vec();
        // What a newer broker may say beside it, and an offset by itself.
        encoded.extend([8 << 3 | 2, 2, 0xff, 0xff, 9 << 3, 1]);
        let arrived = Arrived::parse(encoded.clone().into()).unwrap();
        let Arrived { subscription, session, epoch, from, next, offsets, records } = arrived;
        assert_eq!((subscription, epoch, from, next), (3, 1 << 40, 200, 70_000));
        assert_eq!((session, &offsets, records.len()), (delivery.session, &delivery.offsets, 3));
        let Records::Encoded(records) = records else { panic!("{records:?}") };
        let found: Vec<&[u8]> = records.clone().map(|place| &records.delivery[place]).collect();
        assert_eq!(found, delivery.records);
        for wrong in
            [vec![1 << 3 | 2, 1, 1], vec![5 << 3, 1], vec![5 << 3 | 2, 9, 1], vec![6 << 3 | 5, 0, 0, 0, 0]]
        {
            assert!(Arrived::parse([encoded.clone(), wrong].concat().into()).is_none());
        }
    }

    #[test]
    fn what_is_no_record_harms_none_before_it() {
        let records = vec![Bytes::from_static(b"\x42\x01a"), Bytes::from_static(b"\xff")];
        let mut delivered = Delivered::dense(4, encoded(&records));
        assert!(matches!(delivered.take(1), Some(Ok(record)) if record.id == "a" && record.offset == 4));
        assert!(matches!(delivered.take(1), Some(Err(error)) if error.to_string().contains("offset 5")));
        assert!(delivered.take(1).is_none());
    }
}
