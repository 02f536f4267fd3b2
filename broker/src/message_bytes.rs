//! Bytes of a message that grows or has grown, at any place: found by binary search over the log, in which every delta says where in
//! its message it is. They are read from the store, and never by the session's task.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use longwire_core::command::{Command, Reply};
use longwire_proto::delta::Delta;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::kind;
use longwire_proto::limits::{DELIVERY_BYTES_MAX, MESSAGE_READ_BYTES_MAX};
use longwire_proto::record::Sealed;
use longwire_proto::session_id::SessionId;
use longwire_proto::short_id::check_short_id;
use longwire_proto::wire;

use crate::hub::Hub;
use crate::life::progress;
use crate::log_reader::LogReader;
use crate::request::Operation;
use crate::store::{Chunk, ReadLimit};
use crate::store_error::corrupt;

/// What one look of the search reads: deltas of a message are mostly near each other.
const LOOK: ReadLimit = ReadLimit { records: 256, bytes: 16 << 10 };
/// What is read at a time to gather bytes.
const PIECE: ReadLimit = ReadLimit { records: 4096, bytes: DELIVERY_BYTES_MAX };
/// Chunks that one request reads: a message whose deltas are scattered over a long log takes several requests.
const CHUNKS_MAX: usize = 512;
/// Records between which nothing is searched: they are read.
const NEAR: u64 = 64;

/// What a part of a message says.
struct Part {
    at_byte: u64,
    body: Bytes,
    is_erased: bool,
}

/// Reads bytes of a message.
///
/// # Errors
/// [`ErrorCode::MessageNotFound`]; [`ErrorCode::OutOfRange`] beyond its end, and when all of it was trimmed;
/// [`ErrorCode::InvalidArgument`] when too many other records are between its deltas; those of the session.
pub(crate) async fn read(
    hub: &Arc<Hub>,
    session: SessionId,
    wish: wire::ReadMessage,
) -> Result<wire::MessageBytes, Error> {
    let wire::ReadMessage { request, session: _, message, from_byte, bytes_max, hint } = wish;
    check_short_id(ErrorCode::InvalidArgument, "message", message.as_bytes())?;
    let command = Command::DescribeMessage { message: message.clone() };
    let Some(Reply::Message { offset, last, bytes }) = hub.ask(&session, Operation::Command(command)).await?
    else {
        return Err(Error::new(ErrorCode::Internal, "the session answered something else"));
    };
    let progress = progress(hub, &session).await?;
    let until = last.map_or(progress.end, |last| last + 1);
    if until <= progress.start {
        let error = format!("the message `{message}` was trimmed: its session begins at {}", progress.start);
        return Err(Error::new(ErrorCode::OutOfRange, error).field("message"));
    }
    let mut log = MessageLog {
        log: LogReader { store: Arc::clone(hub.store()), session, log: progress.log },
        message,
        opens: offset,
        from: offset.max(progress.start),
        until,
        chunks_left: CHUNKS_MAX,
    };
    let (total_bytes, close) = match last {
        Some(last) => log.end(last).await?,
        None => (bytes, String::new()),
    };
    if from_byte > total_bytes {
        let error = format!("the message has {total_bytes} bytes, and none at {from_byte}");
        return Err(Error::new(ErrorCode::OutOfRange, error).field("from_byte").expected(total_bytes));
    }
    let mut answer = wire::MessageBytes { request, from_byte, total_bytes, close, ..Default::default() };
    if from_byte < total_bytes {
        let at = log.find(from_byte, hint).await?;
        let bytes_max = match usize::try_from(bytes_max) {
            Ok(0) | Err(_) => MESSAGE_READ_BYTES_MAX,
            Ok(bytes_max) => bytes_max.min(MESSAGE_READ_BYTES_MAX),
        };
        log.gather(at, bytes_max, &mut answer).await?;
    }
    answer.message = log.message;
    Ok(answer)
}

/// The part of a log that has a message in it.
struct MessageLog {
    log: LogReader,
    message: String,
    /// The offset of the record that begins the message.
    opens: u64,
    /// The first record of it that may be retained.
    from: u64,
    until: u64,
    chunks_left: usize,
}

impl MessageLog {
    async fn chunk(&mut self, from: u64, limit: ReadLimit) -> Result<Chunk, Error> {
        if self.chunks_left == 0 {
            let message = "too many other records are between the deltas of the message: give the `hint` of an earlier part, or read the records";
            return Err(Error::new(ErrorCode::InvalidArgument, message).field("hint"));
        }
        self.chunks_left -= 1;
        let left = usize::try_from(self.until - from).unwrap_or(usize::MAX);
        let limit = ReadLimit { records: limit.records.min(left), ..limit };
        self.log.chunk(from, limit).await
    }

    /// What a record has of the message.
    fn part(&self, offset: u64, record: &Bytes) -> Option<Part> {
        if offset == self.opens {
            let opens = Sealed::parse(record).ok()?;
            let (body, is_erased) = (record.slice_ref(opens.body), opens.kind == kind::TOMBSTONE);
            return Some(Part { at_byte: 0, body, is_erased });
        }
        let delta = Delta::parse(record).filter(|delta| delta.message == self.message)?;
        Some(Part { at_byte: delta.at_byte, body: record.slice_ref(delta.body), is_erased: delta.is_erased })
    }

    /// How long a message is that has ended, and how it did.
    async fn end(&mut self, last: u64) -> Result<(u64, String), Error> {
        let chunk = self.chunk(last, ReadLimit { records: 1, ..LOOK }).await?;
        match chunk.records.first().and_then(|record| Delta::parse(record)) {
            Some(delta) => Ok((delta.end_byte(), delta.close.to_owned())),
            None => Err(corrupt(&self.log.session, format!("at offset {last}: no message ends there"))),
        }
    }

    /// The first record from an offset on that has a part of the message, and where that is.
    async fn next_part(&mut self, mut from: u64, until: u64) -> Result<Option<(u64, u64)>, Error> {
        while from < until {
            let chunk = self.chunk(from, LOOK).await?;
            let parts = (from..until).zip(&chunk.records);
            let mut parts =
                parts.filter_map(|(offset, record)| Some((offset, self.part(offset, record)?.at_byte)));
            if let Some(found) = parts.next() {
                return Ok(Some(found));
            }
            from = chunk.next();
        }
        Ok(None)
    }

    /// An offset from which on the byte is found soon: no part before has it.
    async fn find(&mut self, byte: u64, hint: Option<u64>) -> Result<u64, Error> {
        if let Some(hint) = hint.filter(|hint| (self.from..self.until).contains(hint)) {
            let until = (hint + NEAR).min(self.until);
            if let Some((offset, at_byte)) = self.next_part(hint, until).await?
                && at_byte <= byte
            {
                return Ok(offset);
            }
        }
        let (mut low, mut high) = (self.from, self.until);
        while high - low > NEAR {
            let middle = low + (high - low) / 2;
            match self.next_part(middle, high).await? {
                Some((offset, at_byte)) if at_byte <= byte => low = offset,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// What there is from `answer.from_byte` on, from an offset on that [`Self::find`] gave.
    async fn gather(
        &mut self,
        mut at: u64,
        bytes_max: usize,
        answer: &mut wire::MessageBytes,
    ) -> Result<(), Error> {
        let mut data = BytesMut::new();
        let (mut seen, mut hint) = (false, at);
        let missing_until = 'gathered: loop {
            if at >= self.until {
                break if data.is_empty() { Some(answer.total_bytes) } else { None };
            }
            let chunk = match self.chunk(at, PIECE).await {
                Ok(chunk) => chunk,
                Err(_) if !data.is_empty() => break None,
                Err(error) => return Err(error),
            };
            for (offset, record) in (at..).zip(&chunk.records) {
                let Some(part) = self.part(offset, record) else { continue };
                let wanted = answer.from_byte + data.len() as u64;
                if part.at_byte > wanted {
                    break 'gathered if data.is_empty() { Some(part.at_byte) } else { None };
                }
                (seen, hint) = (true, offset);
                if part.is_erased {
                    continue;
                }
                let skip = usize::try_from(wanted - part.at_byte).unwrap_or(usize::MAX);
                let rest = part.body.get(skip..).unwrap_or_default();
                let room = bytes_max - data.len();
                data.extend_from_slice(&rest[..rest.len().min(room)]);
                if data.len() == bytes_max {
                    break 'gathered None;
                }
            }
            at = chunk.next();
        };
        if let Some(missing_until) = missing_until {
            answer.missing_bytes = missing_until - answer.from_byte;
            let is_trimmed = !seen && self.opens < self.from;
            answer.missing = if is_trimmed { "trimmed" } else { "erased" }.to_owned();
        }
        (answer.data, answer.hint) = (data.freeze(), hint);
        Ok(())
    }
}
