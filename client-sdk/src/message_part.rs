//! Reading bytes of a message that grows or has grown, such as an attachment.

use std::ops::{Bound, RangeBounds};

use bytes::{Bytes, BytesMut};
use longwire_proto::wire;

use crate::error::{ReadMessageError, RequestError};
use crate::machine::calls::{Answer, Call};
use crate::record::{Body, Record};
use crate::session::Session;

/// What a message has from a byte on, as far as one answer goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessagePart {
    /// Where it begins.
    pub from_byte: u64,
    /// What is there; nothing at the end of the message, and where bytes are missing.
    pub data: Bytes,
    /// Bytes from `from_byte` on that nobody can read any more.
    pub missing_bytes: u64,
    /// Why they are missing: `trimmed` or `erased`.
    pub missing: String,
    /// Bytes that the message has, so far.
    pub total_bytes: u64,
    /// How the message ended; empty while it grows.
    pub close: String,
    /// Where the broker finds what comes next.
    hint: u64,
}

impl MessagePart {
    /// The byte after it.
    #[must_use]
    pub fn next_byte(&self) -> u64 {
        self.from_byte + self.data.len() as u64 + self.missing_bytes
    }
}

impl Session {
    /// Bytes of a message, which may still grow: `session.read_message(id, ..).await?` has all that it has now. Large ones are better
    /// read in parts, see [`Self::read_message_part`].
    ///
    /// # Errors
    /// [`ReadMessageError`]
    pub async fn read_message(
        &self,
        id: &str,
        bytes: impl RangeBounds<u64>,
    ) -> Result<Bytes, ReadMessageError> {
        let from = match bytes.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let until = match bytes.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(until) => *until,
            Bound::Unbounded => u64::MAX,
        };
        self.read_range(id, from, until, None).await
    }

    /// The body of a record. That of a fold which is too long to be delivered is read.
    ///
    /// # Errors
    /// [`ReadMessageError`]
    pub async fn read_body(&self, record: &Record) -> Result<Bytes, ReadMessageError> {
        match &record.body {
            Body::Reference(bytes) => {
                let until = record.at_byte.saturating_add(*bytes);
                self.read_range(&record.message, record.at_byte, until, record.folded_from).await
            }
            Body::Data(data) => Ok(data.clone()),
            _ => Ok(Bytes::copy_from_slice(record.bytes())),
        }
    }

    /// What a message has from a byte on, at most 1 MiB of it. `before` is the part before, which is where the broker looks first.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn read_message_part(
        &self,
        id: &str,
        from_byte: u64,
        before: Option<&MessagePart>,
    ) -> Result<MessagePart, RequestError> {
        self.read_part(id, from_byte, 0, before.map(|part| part.hint)).await
    }

    async fn read_range(
        &self,
        id: &str,
        from: u64,
        until: u64,
        mut hint: Option<u64>,
    ) -> Result<Bytes, ReadMessageError> {
        let (mut next, mut data) = (from, BytesMut::new());
        while next < until {
            let bytes_max = u32::try_from(until - next).unwrap_or(0);
            let part = self.read_part(id, next, bytes_max, hint).await?;
            if part.missing_bytes > 0 {
                let until = part.next_byte();
                return Err(ReadMessageError::Missing { from: next, until, why: part.missing });
            }
            if part.data.is_empty() {
                break;
            }
            data.extend_from_slice(&part.data);
            (next, hint) = (part.next_byte(), Some(part.hint));
        }
        Ok(data.freeze())
    }

    async fn read_part(
        &self,
        id: &str,
        from_byte: u64,
        bytes_max: u32,
        hint: Option<u64>,
    ) -> Result<MessagePart, RequestError> {
        let (session, message) = (self.id().to_string(), id.to_owned());
        let call = wire::ReadMessage { request: 0, session, message, from_byte, bytes_max, hint };
        match self.client().handle().call(Call::ReadMessage(call)).await? {
            Answer::Message(found) if found.message == id && found.from_byte == from_byte => {
                let wire::MessageBytes { data, missing_bytes, missing, total_bytes, close, hint, .. } =
                    *found;
                Ok(MessagePart { from_byte, data, missing_bytes, missing, total_bytes, close, hint })
            }
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }
}
