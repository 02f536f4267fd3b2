//! Frames to bytes and back, in both encodings of the wire.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use serde::Serialize;

use crate::error::{Error, ErrorCode};
use crate::limits::FRAME_BYTES_MAX;
use crate::session_id::SessionId;
use crate::{raw, wire};

/// The number of `delivery` in a `ServerFrame`.
const DELIVERY_FIELD: u32 = 5;
/// The number of `subscription` in a `Delivery`.
const SUBSCRIPTION_FIELD: u32 = 1;
/// The numbers of `epoch`, `from` and `next` in a `Delivery`.
const PLACE_FIELDS: [u32; 3] = [2, 3, 4];
/// The number of `records` in a `Delivery`.
const RECORDS_FIELD: u32 = 5;
/// The number of `session` in a `Delivery`.
const SESSION_FIELD: u32 = 7;
/// What [`put_delivered`] puts in front of a record at most: a key of one byte and a length.
pub const FRAMING_BYTES_MAX: usize = 1 + 4;

/// How frames are written on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Protobuf, in binary messages.
    Proto,
    /// The proto3 JSON mapping, in text messages.
    Json,
}

impl Encoding {
    /// Every encoding, the preferred first.
    pub const ALL: [Self; 2] = [Self::Proto, Self::Json];

    /// The WebSocket subprotocol that stands for it.
    #[must_use]
    pub fn subprotocol(self) -> &'static str {
        match self {
            Self::Proto => "longwire.v1.proto",
            Self::Json => "longwire.v1.json",
        }
    }
}

/// Reads a frame of a client, leaving records encoded.
///
/// # Errors
/// [`ErrorCode::FrameTooLarge`], [`ErrorCode::InvalidFrame`], [`ErrorCode::UnknownField`] (JSON only: protobuf carries on
/// what it does not know) or [`ErrorCode::UnknownFrame`].
pub fn decode_client(encoding: Encoding, bytes: Bytes) -> Result<raw::client_frame::Frame, Error> {
    check_size(bytes.len())?;
    let bytes = match encoding {
        Encoding::Proto => bytes,
        Encoding::Json => {
            let typed: wire::ClientFrame = from_json(&bytes)?;
            Bytes::from(typed.encode_to_vec())
        }
    };
    let frame = raw::ClientFrame::decode(bytes).map_err(|error| {
        Error::new(ErrorCode::InvalidFrame, format!("the message is not a ClientFrame: {error}"))
    })?;
    frame.frame.ok_or_else(|| {
        Error::new(
            ErrorCode::UnknownFrame,
            "the frame has none of the contents that this broker knows; docs/protocol.md lists them",
        )
    })
}

/// Reads a frame of the broker, records included.
///
/// # Errors
/// As [`decode_client`].
pub fn decode_server(encoding: Encoding, bytes: Bytes) -> Result<wire::server_frame::Frame, Error> {
    let frame = match encoding {
        Encoding::Proto => wire::ServerFrame::decode(bytes)
            .map_err(|error| Error::new(ErrorCode::InvalidFrame, format!("not a ServerFrame: {error}")))?,
        Encoding::Json => from_json(&bytes)?,
    };
    frame.frame.ok_or_else(|| {
        Error::new(ErrorCode::UnknownFrame, "the frame has no contents that this client knows")
    })
}

fn check_size(size: usize) -> Result<(), Error> {
    if size <= FRAME_BYTES_MAX {
        return Ok(());
    }
    Err(Error::frame_too_large(size, FRAME_BYTES_MAX))
}

fn from_json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let text = error.inner().to_string();
        let code =
            if text.starts_with("unknown field") { ErrorCode::UnknownField } else { ErrorCode::InvalidFrame };
        // What the generated code says of a 64-bit integer that is neither a number nor a number in quotes.
        let text = match text.strip_prefix("data did not match any variant of untagged enum Content") {
            Some(place) => format!("not an integer of its range, plain or in quotes{place}"),
            None => text,
        };
        Error::new(code, format!("the JSON is not a frame: at `{}`: {text}", error.path()))
    })?;
    json.end().map_err(|error| {
        Error::new(ErrorCode::InvalidFrame, format!("the JSON is not one frame: {error}"))
    })?;
    Ok(value)
}

fn to_json<T: Serialize>(value: &T) -> Bytes {
    // The generated types have only fields that JSON can express, so this cannot fail; an empty object would be
    // answered by the receiver as an unknown frame.
    Bytes::from(serde_json::to_vec(value).unwrap_or_else(|_| b"{}".to_vec()))
}

/// Writes a frame of a client.
#[must_use]
pub fn encode_client(encoding: Encoding, frame: wire::client_frame::Frame) -> Bytes {
    let frame = wire::ClientFrame { frame: Some(frame) };
    match encoding {
        Encoding::Proto => Bytes::from(frame.encode_to_vec()),
        Encoding::Json => to_json(&frame),
    }
}

/// Writes a frame of the broker. Deliveries are written by [`DeliveryBody`].
#[must_use]
pub fn encode_server(encoding: Encoding, frame: wire::server_frame::Frame) -> Bytes {
    let frame = wire::ServerFrame { frame: Some(frame) };
    match encoding {
        Encoding::Proto => Bytes::from(frame.encode_to_vec()),
        Encoding::Json => to_json(&frame),
    }
}

/// Writes a page of records.
///
/// # Errors
/// [`ErrorCode::InvalidRecord`] when a record cannot be expressed in JSON because it is not a record.
pub fn encode_page(encoding: Encoding, page: raw::Page) -> Result<Bytes, Error> {
    let frame = raw::ServerFrame { frame: Some(raw::server_frame::Frame::Page(page)) };
    let proto = Bytes::from(frame.encode_to_vec());
    match encoding {
        Encoding::Proto => Ok(proto),
        Encoding::Json => {
            let typed = wire::ServerFrame::decode(proto)
                .map_err(|error| Error::new(ErrorCode::InvalidRecord, error.to_string()))?;
            Ok(to_json(&typed))
        }
    }
}

/// The bytes of a whole frame, in two parts that follow each other: what is one receiver's own, and what it may share with others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameBytes {
    /// Goes first. It may be empty.
    pub head: Bytes,
    /// The rest.
    pub body: Bytes,
}

impl FrameBytes {
    /// Bytes of both.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Both in one, which copies them unless one is empty.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        if self.head.is_empty() {
            return self.body;
        }
        if self.body.is_empty() {
            return self.head;
        }
        let mut whole = BytesMut::with_capacity(self.len());
        whole.put_slice(&self.head);
        whole.put_slice(&self.body);
        whole.freeze()
    }
}

impl From<Bytes> for FrameBytes {
    fn from(body: Bytes) -> Self {
        Self { head: Bytes::new(), body }
    }
}

/// Opens a delivery of so many bytes, of which so many more fit in what this gives.
fn delivery_head(length: usize, own: usize) -> BytesMut {
    let length = length as u64;
    let front = key_len(DELIVERY_FIELD) + encoded_len_varint(length);
    let mut head = BytesMut::with_capacity(front + own);
    encode_key(DELIVERY_FIELD, WireType::LengthDelimited, &mut head);
    encode_varint(length, &mut head);
    head
}

fn put_number(head: &mut BytesMut, field: u32, number: u64) {
    encode_key(field, WireType::Varint, head);
    encode_varint(number, head);
}

/// Adds a record to the `records` of a delivery, as protobuf has them.
pub fn put_delivered(fields: &mut Vec<u8>, record: &[u8]) {
    encode_key(RECORDS_FIELD, WireType::LengthDelimited, fields);
    encode_varint(record.len() as u64, fields);
    fields.extend_from_slice(record);
}

/// The whole frame of a delivery for one subscriber, in protobuf: all records of a range, from [`put_delivered`].
#[must_use]
pub fn frame_delivered(subscription: u32, epoch: u64, range: Range<u64>, fields: Bytes) -> FrameBytes {
    let numbers = [SUBSCRIPTION_FIELD, PLACE_FIELDS[0], PLACE_FIELDS[1], PLACE_FIELDS[2]]
        .into_iter()
        .zip([u64::from(subscription), epoch, range.start, range.end])
        // As the generated code does.
        .filter(|(_, number)| *number != 0);
    let own = numbers.clone().map(|(field, number)| key_len(field) + encoded_len_varint(number)).sum();
    let mut head = delivery_head(own + fields.len(), own);
    numbers.for_each(|(field, number)| put_number(&mut head, field, number));
    FrameBytes { head: head.freeze(), body: fields }
}

/// The part of a delivery that is the same for every subscriber, encoded once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryBody {
    encoding: Encoding,
    body: Bytes,
}

impl DeliveryBody {
    /// Encodes the delivery of `records`, which begin at `from`.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRecord`] when a record cannot be expressed in JSON because it is not a record.
    pub fn new(encoding: Encoding, epoch: u64, from: u64, records: &[Bytes]) -> Result<Self, Error> {
        Self::sparse(encoding, epoch, from..from + records.len() as u64, records, Vec::new())
    }

    /// Encodes the delivery of those `records` of a range that have these `offsets`; with no offsets they are all of the
    /// range, or none of it. The range must not be empty.
    ///
    /// # Errors
    /// As [`DeliveryBody::new`].
    pub fn sparse(
        encoding: Encoding,
        epoch: u64,
        range: Range<u64>,
        records: &[Bytes],
        offsets: Vec<u64>,
    ) -> Result<Self, Error> {
        let Range { start: from, end: next } = range;
        let body = match encoding {
            Encoding::Proto => {
                let records = records.to_vec();
                let delivery = raw::Delivery { epoch, from, next, records, offsets, ..Default::default() };
                Bytes::from(delivery.encode_to_vec())
            }
            Encoding::Json => {
                let decode = |record: &Bytes| {
                    wire::Record::decode(record.clone())
                        .map_err(|error| Error::new(ErrorCode::InvalidRecord, error.to_string()))
                };
                let records = records.iter().map(decode).collect::<Result<_, _>>()?;
                let delivery = wire::Delivery { epoch, from, next, records, offsets, ..Default::default() };
                // What is in front of it opens both objects that this ends.
                let mut body = BytesMut::from(to_json(&delivery));
                body.put_u8(b'}');
                body.freeze().slice(1..)
            }
        };
        Ok(Self { encoding, body })
    }

    /// The whole frame for one subscriber: a few bytes in front of the shared body. With a session it is one of a
    /// subscription of a pattern.
    #[must_use]
    pub fn frame(&self, subscription: u32, session: Option<&SessionId>) -> FrameBytes {
        let head = match self.encoding {
            Encoding::Proto => {
                let (number, name) = (u64::from(subscription), session.map_or("", SessionId::as_str));
                let mut own = key_len(SUBSCRIPTION_FIELD) + encoded_len_varint(number);
                if !name.is_empty() {
                    own += key_len(SESSION_FIELD) + encoded_len_varint(name.len() as u64) + name.len();
                }
                let mut head = delivery_head(own + self.body.len(), own);
                put_number(&mut head, SUBSCRIPTION_FIELD, number);
                if !name.is_empty() {
                    encode_key(SESSION_FIELD, WireType::LengthDelimited, &mut head);
                    encode_varint(name.len() as u64, &mut head);
                    head.put_slice(name.as_bytes());
                }
                head.freeze()
            }
            Encoding::Json => {
                // A session id has no character that JSON would escape.
                let session =
                    session.map(|session| format!("\"session\":\"{session}\",")).unwrap_or_default();
                format!("{{\"delivery\":{{\"subscription\":{subscription},{session}").into()
            }
        };
        FrameBytes { head, body: self.body.clone() }
    }

    /// The shared body, as all subscribers get it.
    #[must_use]
    pub fn shared(&self) -> &Bytes {
        &self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client_frame::Frame as ClientFrame;
    use crate::wire::server_frame::Frame as ServerFrame;

    fn record(text: &str) -> wire::Record {
        wire::Record { body: Some(wire::record::Body::Text(text.into())), ..Default::default() }
    }

    #[test]
    fn golden_bytes_of_a_publish() {
        let publish = wire::Publish {
            request: 1,
            session: "a/b".into(),
            records: vec![record("hi")],
            producer: Some(wire::Producer { id: "p".into(), epoch: 0, sequence: 3 }),
            if_end: Some(0),
            act_as: String::new(),
            lease: None,
        };
        let proto = encode_client(Encoding::Proto, ClientFrame::Publish(publish.clone()));
        assert_eq!(
            proto.as_ref(),
            b"\x1a\x17\x08\x01\x12\x03a/b\x1a\x05\x92\x01\x02hi\x22\x05\x0a\x01p\x18\x03\x28\x00"
        );
        let json = encode_client(Encoding::Json, ClientFrame::Publish(publish));
        assert_eq!(
            std::str::from_utf8(&json).unwrap(),
            r#"{"publish":{"request":"1","session":"a/b","records":[{"text":"hi"}],"producer":{"id":"p","sequence":"3"},"ifEnd":"0"}}"#
        );
        let snake = r#"{"publish":{"request":1,"session":"a/b","records":[{"text":"hi"}],"producer":{"id":"p","sequence":3},"if_end":0}}"#;
        let from_proto = decode_client(Encoding::Proto, proto).unwrap();
        let from_json = decode_client(Encoding::Json, json).unwrap();
        let from_snake = decode_client(Encoding::Json, Bytes::from_static(snake.as_bytes())).unwrap();
        assert_eq!(from_proto, from_json);
        assert_eq!(from_proto, from_snake);
    }

    #[test]
    fn a_delivery_is_spliced_as_the_generated_code_would_encode_it() {
        let records: Vec<Bytes> = ["a", "b"].map(|text| Bytes::from(record(text).encode_to_vec())).into();
        for encoding in Encoding::ALL {
            let body = DeliveryBody::new(encoding, 1, 40, &records).unwrap();
            for subscription in [1, 127, 128, u32::MAX] {
                let delivery = wire::Delivery {
                    subscription,
                    epoch: 1,
                    from: 40,
                    next: 42,
                    records: vec![record("a"), record("b")],
                    offsets: Vec::new(),
                    session: String::new(),
                };
                let frame = body.frame(subscription, None).into_bytes();
                assert_eq!(frame, encode_server(encoding, ServerFrame::Delivery(delivery.clone())));
                assert_eq!(decode_server(encoding, frame).unwrap(), ServerFrame::Delivery(delivery.clone()));
                let session = SessionId::parse("acme/build/42").unwrap();
                let delivery = wire::Delivery { session: session.to_string(), ..delivery };
                let frame = body.frame(subscription, Some(&session)).into_bytes();
                assert_eq!(decode_server(encoding, frame).unwrap(), ServerFrame::Delivery(delivery));
            }
        }
    }

    #[test]
    fn records_that_are_framed_one_by_one_make_the_same_delivery() {
        for count in [1, 2, 300] {
            let record = |index: usize| Bytes::from(record(&"a".repeat(index)).encode_to_vec());
            let records: Vec<Bytes> = (0..count).map(record).collect();
            for (epoch, from) in [(0, 0), (1, 40), (300, u64::from(u32::MAX))] {
                let next = from + count as u64;
                let mut fields = Vec::new();
                records.iter().for_each(|record| put_delivered(&mut fields, record));
                let bytes: usize = records.iter().map(Bytes::len).sum();
                assert!(fields.len() <= bytes + count * FRAMING_BYTES_MAX);
                let body = DeliveryBody::new(Encoding::Proto, epoch, from, &records).unwrap();
                let frame = frame_delivered(7, epoch, from..next, fields.into());
                assert_eq!(frame.into_bytes(), body.frame(7, None).into_bytes());
            }
        }
    }

    #[test]
    fn refusals_name_what_was_wrong() {
        let refused =
            |encoding, bytes: &'static [u8]| decode_client(encoding, Bytes::from_static(bytes)).unwrap_err();
        let error = refused(Encoding::Json, br#"{"publish":{"session":"a","colour":"red"}}"#);
        assert_eq!(error.code, ErrorCode::UnknownField);
        assert!(error.message.contains("`colour`"), "{}", error.message);
        assert_eq!(refused(Encoding::Json, br#"{"publish":"#).code, ErrorCode::InvalidFrame);
        assert_eq!(refused(Encoding::Json, b"{}").code, ErrorCode::UnknownFrame);
        assert_eq!(refused(Encoding::Json, b"[1]").code, ErrorCode::InvalidFrame);
        assert_eq!(refused(Encoding::Proto, b"\xff\xff").code, ErrorCode::InvalidFrame);
        assert_eq!(refused(Encoding::Proto, b"").code, ErrorCode::UnknownFrame);
        assert_eq!(refused(Encoding::Proto, &[0xfa, 0x3e, 0x00]).code, ErrorCode::UnknownFrame);
        let large = Bytes::from(vec![0; FRAME_BYTES_MAX + 1]);
        assert_eq!(decode_client(Encoding::Proto, large).unwrap_err().code, ErrorCode::FrameTooLarge);
    }
}
