//! The fields of a record as bytes: their numbers, as in `longwire.proto`, and reading and putting them one by one.

use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

use crate::error::{Error, ErrorCode};

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
pub(crate) const STATE_CHANGE: u32 = 31;

/// Fields up to this number are the broker's; a writer's record has none of them.
pub(crate) const BROKER_MAX: u32 = 7;

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

pub(crate) fn malformed(what: impl std::fmt::Display) -> Error {
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

pub(crate) fn put_text(buffer: &mut Vec<u8>, number: u32, value: &str) {
    if !value.is_empty() {
        put_bytes(buffer, number, value.as_bytes());
    }
}

/// A string of at most so many bytes.
pub(crate) fn text<'a>(name: &'static str, value: &Value<'a>, limit: usize) -> Result<&'a str, Error> {
    let Value::Bytes(bytes) = *value else {
        return Err(malformed(format!("`{name}` must be a string")).field(name));
    };
    if bytes.len() > limit {
        let message = format!("`{name}` has {} bytes; at most {limit} are allowed", bytes.len());
        return Err(Error::new(ErrorCode::InvalidRecord, message).field(name).limit(limit));
    }
    std::str::from_utf8(bytes).map_err(|_| malformed(format!("`{name}` must be UTF-8")).field(name))
}
