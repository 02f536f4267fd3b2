//! The fields of an encoded message, read where they lie: of the kinds that there are, those that records and deliveries have.

use prost::encoding::decode_varint;

/// What of a message was not read yet.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

/// What a field says.
pub(crate) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// What the kinds of fields are encoded as, in the lowest three bits of a key.
const NUMBER: u64 = 0;
const BYTES: u64 = 2;
/// The bits of a key below the number of the field.
const KIND_BITS: u32 = 3;

impl<'a> Fields<'a> {
    /// The number of the next field, and what it says; `None` when it is of another kind, or none at all.
    #[inline]
    pub(crate) fn next_field(&mut self) -> Option<(u32, Value<'a>)> {
        let key = varint(&mut self.0)?;
        let number = u32::try_from(key >> KIND_BITS).ok().filter(|number| *number > 0)?;
        let value = varint(&mut self.0)?;
        match key & ((1 << KIND_BITS) - 1) {
            NUMBER => Some((number, Value::Number(value))),
            BYTES => {
                let (bytes, rest) = self.0.split_at_checked(usize::try_from(value).ok()?)?;
                self.0 = rest;
                Some((number, Value::Bytes(bytes)))
            }
            _ => None,
        }
    }

    /// Whether all of it was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A number, most of which have one byte or two.
#[inline]
pub(crate) fn varint(rest: &mut &[u8]) -> Option<u64> {
    match *rest {
        [one @ ..0x80, after @ ..] => {
            *rest = after;
            Some(u64::from(*one))
        }
        [low, high @ ..0x80, after @ ..] => {
            *rest = after;
            Some(u64::from(low & 0x7f) | u64::from(*high) << 7)
        }
        _ => decode_varint(rest).ok(),
    }
}
