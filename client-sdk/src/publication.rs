//! What an application publishes.

use bytes::Bytes;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, FRAME_BYTES_MAX, PRINCIPAL_BYTES_MAX};
use longwire_proto::{codec, kind, raw, record, wire};
use prost::Message;

use crate::lane::Lane;
use crate::message_end::MessageEnd;

/// Bytes that a publish frame has besides what a batch carries: request, producer and keys.
const PUBLISH_OVERHEAD_BYTES_MAX: usize = 512;

/// One record to publish.
///
/// Text converts into one; the methods set what else a record can carry. Limits (sizes, counts, characters) are those of
/// `longwire_proto::limits` and are checked when it is published, before anything is sent.
///
/// ```
/// use longwire::Publication;
/// let plain = Publication::from("step 3 of 7");
/// let rich = Publication::text("done").record_type("build.step").header("step", "3");
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Publication(wire::Record);

impl Publication {
    /// A record whose body is text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        let body = Some(wire::record::Body::Text(text.into()));
        Self(wire::Record { body, ..Default::default() })
    }

    /// A record whose body is bytes of a media type, such as `image/png`. Bytes that are UTF-8 travel as text, so that
    /// they stay readable in JSON.
    #[must_use]
    pub fn bytes(content_type: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let body = match std::str::from_utf8(&bytes) {
            Ok(text) => wire::record::Body::Text(text.to_owned()),
            Err(_) => wire::record::Body::Data(bytes),
        };
        Self(wire::Record { body: Some(body), content_type: content_type.into(), ..Default::default() })
    }

    /// Sets the record's id: at most 64 of `A-Z a-z 0-9 _ -`.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.0.id = id.into();
        self
    }

    /// Sets what the record means to the application.
    #[must_use]
    pub fn record_type(mut self, record_type: impl Into<String>) -> Self {
        self.0.r#type = record_type.into();
        self
    }

    /// Sets a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.headers.insert(name.into(), value.into());
        self
    }

    /// Sets the media type of the body.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.0.content_type = content_type.into();
        self
    }

    /// Adds a principal that the record is addressed to.
    #[must_use]
    pub fn to(mut self, principal: impl Into<String>) -> Self {
        self.0.to.push(principal.into());
        self
    }

    /// Sets how the record wants to be treated by its receiver.
    #[must_use]
    pub fn mode(mut self, mode: impl Into<String>) -> Self {
        self.0.mode = mode.into();
        self
    }

    /// Names the run that the record belongs to.
    #[must_use]
    pub fn run(mut self, run: impl Into<String>) -> Self {
        self.0.run = run.into();
        self
    }

    /// Names the record that this one answers.
    #[must_use]
    pub fn reply_to(mut self, id: impl Into<String>) -> Self {
        self.0.reply_to = id.into();
        self
    }

    /// Names the record that this one replaces.
    #[must_use]
    pub fn replaces(mut self, id: impl Into<String>) -> Self {
        self.0.replaces = id.into();
        self
    }

    /// Sets the kind: 0 (the default) is a message; 32 and above are free for applications.
    #[must_use]
    pub fn kind(mut self, kind: u32) -> Self {
        self.0.kind = kind;
        self
    }

    pub(crate) fn entity(kind: u32, body: wire::record::Body) -> Self {
        Self::default().with_body(kind, body)
    }

    pub(crate) fn with_body(mut self, kind: u32, body: wire::record::Body) -> Self {
        (self.0.kind, self.0.body) = (kind, Some(body));
        self
    }

    /// Begins a message that grows, with its body as the beginning; it has an [id](Self::id). For those who publish in batches, and while
    /// the broker is away; [`Session::open_message`](crate::Session::open_message) does the rest by itself.
    #[must_use]
    pub fn grows(mut self) -> Self {
        self.0.grows = true;
        self
    }

    /// Goes on with the message of this id, which grows, with its body as the next piece.
    #[must_use]
    pub fn piece_of(mut self, message: impl Into<String>) -> Self {
        (self.0.kind, self.0.message) = (kind::DELTA, message.into());
        self
    }

    /// The message ends with this piece of it.
    #[must_use]
    pub fn closing(mut self, end: MessageEnd) -> Self {
        self.0.close = end.as_str().to_owned();
        self
    }

    /// Bytes of the record on the wire. A record has at most `record_bytes_max` of them, a batch `batch_bytes_max`.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.0.encoded_len()
    }
}

impl From<&str> for Publication {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Publication {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<&String> for Publication {
    fn from(text: &String) -> Self {
        Self::text(text.as_str())
    }
}

/// A batch, checked and encoded once: a `Publish` without its request and its producer, which are put in front of it when
/// it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EncodedBatch(pub(crate) Bytes);

impl EncodedBatch {
    /// Checks a batch against the limits of the wire and encodes it.
    pub(crate) fn new(
        encoding: codec::Encoding,
        lane: &Lane,
        publications: impl IntoIterator<Item = Publication>,
        if_end: Option<u64>,
        lease: Option<wire::Lease>,
    ) -> Result<Self, Error> {
        if lane.act_as.len() > PRINCIPAL_BYTES_MAX {
            let message = format!("the name of a principal has at most {PRINCIPAL_BYTES_MAX} bytes");
            let error = Error::new(ErrorCode::InvalidArgument, message).field("act_as");
            return Err(error.limit(PRINCIPAL_BYTES_MAX));
        }
        let mut records = Vec::new();
        let mut bytes = 0;
        for Publication(publication) in publications {
            let encoded = Bytes::from(publication.encode_to_vec());
            record::check(&encoded)?;
            bytes += encoded.len();
            records.push(encoded);
            if records.len() > BATCH_RECORDS_MAX {
                let message = format!("a publish has at most {BATCH_RECORDS_MAX} records; split it");
                return Err(Error::new(ErrorCode::BatchTooLarge, message).limit(BATCH_RECORDS_MAX));
            }
        }
        if records.is_empty() {
            return Err(Error::new(ErrorCode::BatchEmpty, "a publish needs at least one record"));
        }
        if bytes > BATCH_BYTES_MAX {
            let message = format!("the records have {bytes} bytes; at most {BATCH_BYTES_MAX} are allowed");
            return Err(Error::new(ErrorCode::BatchTooLarge, message).limit(BATCH_BYTES_MAX));
        }
        let publish = raw::Publish {
            request: 0,
            session: lane.session.as_str().to_owned(),
            records,
            producer: None,
            if_end,
            act_as: lane.act_as.clone(),
            lease,
        };
        let batch = Self(Bytes::from(publish.encode_to_vec()));
        batch.check_frame(encoding)?;
        Ok(batch)
    }

    /// JSON can need several times the bytes (escapes, base64), so there the frame itself is measured.
    fn check_frame(&self, encoding: codec::Encoding) -> Result<(), Error> {
        if encoding == codec::Encoding::Proto {
            return Ok(());
        }
        let size = self.frame(encoding, 0, wire::Producer::default())?.len() + PUBLISH_OVERHEAD_BYTES_MAX;
        if size <= FRAME_BYTES_MAX {
            return Ok(());
        }
        let message = format!("the publish has {size} bytes as JSON; at most {FRAME_BYTES_MAX} are allowed");
        Err(Error::new(ErrorCode::BatchTooLarge, message).limit(FRAME_BYTES_MAX))
    }

    /// The frame that publishes the batch.
    pub(crate) fn frame(
        &self,
        encoding: codec::Encoding,
        request: u64,
        producer: wire::Producer,
    ) -> Result<Bytes, Error> {
        match encoding {
            codec::Encoding::Proto => {
                // Fields may come in any order, so the batch follows its head as it is.
                let head = raw::Publish { request, producer: Some(producer), ..Default::default() };
                let head = head.encode_to_vec();
                let length = head.len() + self.0.len();
                let mut frame = Vec::with_capacity(length + 16);
                let key = prost::encoding::WireType::LengthDelimited;
                prost::encoding::encode_key(PUBLISH_FIELD, key, &mut frame);
                prost::encoding::encode_varint(length as u64, &mut frame);
                frame.extend_from_slice(&head);
                frame.extend_from_slice(&self.0);
                Ok(Bytes::from(frame))
            }
            codec::Encoding::Json => {
                let mut publish = wire::Publish::decode(self.0.clone()).map_err(|error| {
                    Error::new(ErrorCode::InvalidFrame, format!("the spooled batch is not one: {error}"))
                })?;
                publish.request = request;
                publish.producer = Some(producer);
                Ok(codec::encode_client(encoding, wire::client_frame::Frame::Publish(publish)))
            }
        }
    }
}

/// The number of `publish` in a `ClientFrame`.
const PUBLISH_FIELD: u32 = 3;

#[cfg(test)]
mod tests {
    use longwire_proto::codec::Encoding;
    use longwire_proto::session_id::SessionId;

    use super::*;

    fn id() -> Lane {
        SessionId::parse("a/b").unwrap().into()
    }

    #[test]
    fn both_encodings_carry_the_same_publish() {
        let records = [Publication::from("hi"), Publication::bytes("image/png", vec![0xff, 0x00]).id("x-1")];
        let batch = EncodedBatch::new(Encoding::Proto, &id(), records, Some(4), None).unwrap();
        let producer = wire::Producer { id: "p".into(), epoch: 2, sequence: 9 };
        let frames = Encoding::ALL.map(|encoding| {
            let frame = batch.frame(encoding, 77, producer.clone()).unwrap();
            codec::decode_client(encoding, frame).unwrap()
        });
        assert_eq!(frames[0], frames[1]);
        let raw::client_frame::Frame::Publish(publish) = &frames[0] else { panic!("{frames:?}") };
        assert_eq!((publish.request, publish.session.as_str(), publish.if_end), (77, "a/b", Some(4)));
        assert_eq!(publish.producer, Some(producer));
        assert_eq!(publish.records.len(), 2);
    }

    #[test]
    fn refuses_what_the_broker_would() {
        let refused = |records: Vec<Publication>| {
            EncodedBatch::new(Encoding::Proto, &id(), records, None, None).unwrap_err().code
        };
        assert_eq!(refused(vec![]), ErrorCode::BatchEmpty);
        assert_eq!(refused(vec!["x".into(); BATCH_RECORDS_MAX + 1]), ErrorCode::BatchTooLarge);
        assert_eq!(refused(vec!["x".repeat(1 << 20).into()]), ErrorCode::RecordTooLarge);
        assert_eq!(refused(vec!["x".repeat(1_000_000).into(); 5]), ErrorCode::BatchTooLarge);
        assert_eq!(refused(vec![Publication::text("x").id("no spaces")]), ErrorCode::InvalidRecord);
        let nobody = Lane { act_as: "x".repeat(PRINCIPAL_BYTES_MAX + 1), ..id() };
        let error =
            EncodedBatch::new(Encoding::Proto, &nobody, [Publication::from("x")], None, None).unwrap_err();
        assert_eq!((error.code, error.field), (ErrorCode::InvalidArgument, "act_as"));
        let escapes = vec![Publication::from("\u{1}".repeat(1_000_000)); 2];
        let json = EncodedBatch::new(Encoding::Json, &id(), escapes, None, None).unwrap_err();
        assert_eq!(json.code, ErrorCode::BatchTooLarge);
    }
}
