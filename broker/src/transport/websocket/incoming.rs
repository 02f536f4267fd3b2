//! What a client sends, taken apart (RFC 6455, section 5): bytes go in, messages come out. An idle connection keeps no buffer for
//! it, and a frame's bytes are where they were received to.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use longwire_proto::limits::FRAME_BYTES_MAX;

/// What is received at a time. The rest of a longer frame is received to where the frame is.
pub(super) const PIECE_BYTES: usize = 16 << 10;
/// Bytes of what a control frame carries (RFC 6455, section 5.5).
pub(super) const CONTROL_BYTES_MAX: usize = 125;
/// Of the first byte of a header.
const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
/// Of the second: every frame of a client is masked (section 5.1).
const MASKED: u8 = 0x80;
const MASK_BYTES: usize = 4;

/// What a frame is (section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xa,
}

impl Opcode {
    fn from_header(first: u8) -> Option<Self> {
        let all = [Self::Continuation, Self::Text, Self::Binary, Self::Close, Self::Ping, Self::Pong];
        all.into_iter().find(|opcode| *opcode as u8 == first & 0x0f)
    }

    fn is_control(self) -> bool {
        self as u8 >= Self::Close as u8
    }
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Is UTF-8.
    Text(Bytes),
    Binary(Bytes),
    Ping(Bytes),
    Pong,
    /// With its code, when it has one.
    Close(Option<u16>),
}

/// What no client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// Bytes of a frame, or of all fragments of a message.
    TooLong(u64),
    NotUtf8,
    Protocol(&'static str),
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(bytes) => write!(formatter, "a message of {bytes} bytes"),
            Self::NotUtf8 => formatter.write_str("a text message must be UTF-8"),
            Self::Protocol(what) => formatter.write_str(what),
        }
    }
}

#[derive(Debug)]
struct Header {
    is_final: bool,
    opcode: Opcode,
    length: usize,
    mask: [u8; MASK_BYTES],
}

/// The message whose fragments are being received.
#[derive(Debug)]
struct Fragments {
    opcode: Opcode,
    gathered: BytesMut,
    /// Bytes that are known to be UTF-8.
    checked: usize,
}

/// See the top of this file.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// What has come and is not taken apart yet.
    buffer: BytesMut,
    /// Of the frame that is being received.
    header: Option<Header>,
    fragments: Option<Fragments>,
}

impl Incoming {
    /// Takes bytes over, behind those that came before.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::from(bytes);
        } else {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// Where the rest of a long frame is received to. Its memory at most doubles what has come of it: who only announces a large
    /// frame gets none.
    pub(super) fn long(&mut self) -> Option<&mut BytesMut> {
        let come = self.buffer.len();
        let missing = self.header.as_ref()?.length - come;
        if missing <= PIECE_BYTES {
            return None;
        }
        if self.buffer.capacity() == come {
            self.buffer.reserve(missing.min(come.max(PIECE_BYTES)));
        }
        Some(&mut self.buffer)
    }

    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// The next message, when all of it is there. After a violation nothing that comes has a meaning.
    ///
    /// # Errors
    /// [`Violation`].
    pub(super) fn next(&mut self) -> Result<Option<Message>, Violation> {
        loop {
            let header = match self.header.take() {
                Some(header) => header,
                None => match self.parse_header()? {
                    Some(header) => header,
                    None => return Ok(None),
                },
            };
            if self.buffer.len() < header.length {
                self.header = Some(header);
                return Ok(None);
            }
            let mut payload = self.buffer.split_to(header.length);
            if self.buffer.is_empty() {
                // What was taken out of it is kept by whoever has it, and not by this.
                self.buffer = BytesMut::new();
            }
            unmask(&mut payload, header.mask);
            if let Some(message) = self.message(&header, payload)? {
                return Ok(Some(message));
            }
        }
    }

    fn parse_header(&mut self) -> Result<Option<Header>, Violation> {
        let Some((&[first, second], rest)) = self.buffer.split_first_chunk() else { return Ok(None) };
        if first & RESERVED != 0 {
            return Err(Violation::Protocol("reserved bits are set, and no extension was agreed on"));
        }
        let opcode = Opcode::from_header(first).ok_or(Violation::Protocol("its opcode is reserved"))?;
        if second & MASKED == 0 {
            return Err(Violation::Protocol("a frame of a client must be masked"));
        }
        let (length, rest) = match second & !MASKED {
            126 => match rest.split_first_chunk() {
                Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk() {
                Some((length, rest)) => (u64::from_be_bytes(*length), rest),
                None => return Ok(None),
            },
            length => (u64::from(length), rest),
        };
        let is_final = first & FIN != 0;
        if opcode.is_control() && !is_final {
            return Err(Violation::Protocol("a control frame must not be fragmented"));
        }
        if opcode.is_control() && length > CONTROL_BYTES_MAX as u64 {
            return Err(Violation::Protocol("a control frame carries at most 125 bytes"));
        }
        let gathered = self.fragments.as_ref().map_or(0, |fragments| fragments.gathered.len());
        let gathered = if opcode.is_control() { 0 } else { gathered };
        let room = FRAME_BYTES_MAX - gathered;
        let Some(length) = usize::try_from(length).ok().filter(|length| *length <= room) else {
            return Err(Violation::TooLong(length.saturating_add(gathered as u64)));
        };
        let Some((&mask, rest)) = rest.split_first_chunk::<MASK_BYTES>() else { return Ok(None) };
        let header_bytes = self.buffer.len() - rest.len();
        self.buffer.advance(header_bytes);
        Ok(Some(Header { is_final, opcode, length, mask }))
    }

    fn message(&mut self, header: &Header, payload: BytesMut) -> Result<Option<Message>, Violation> {
        let mut message = match (header.opcode, self.fragments.take()) {
            (Opcode::Ping, fragments) => {
                self.fragments = fragments;
                return Ok(Some(Message::Ping(payload.freeze())));
            }
            (Opcode::Pong, fragments) => {
                self.fragments = fragments;
                return Ok(Some(Message::Pong));
            }
            (Opcode::Close, _) => return close(&payload).map(Some),
            (Opcode::Continuation, None) => {
                return Err(Violation::Protocol("a continuation of nothing"));
            }
            (Opcode::Continuation, Some(mut fragments)) => {
                fragments.gathered.extend_from_slice(&payload);
                fragments
            }
            (Opcode::Text | Opcode::Binary, Some(_)) => {
                return Err(Violation::Protocol("another message within the fragments of one"));
            }
            (opcode @ (Opcode::Text | Opcode::Binary), None) => {
                Fragments { opcode, gathered: payload, checked: 0 }
            }
        };
        if message.opcode == Opcode::Text {
            message.check(header.is_final)?;
        }
        if !header.is_final {
            self.fragments = Some(message);
            return Ok(None);
        }
        let whole = message.gathered.freeze();
        Ok(Some(if message.opcode == Opcode::Text { Message::Text(whole) } else { Message::Binary(whole) }))
    }
}

impl Fragments {
    /// What is not UTF-8 is refused as soon as that is known; a letter may be cut where more comes.
    fn check(&mut self, is_final: bool) -> Result<(), Violation> {
        match std::str::from_utf8(&self.gathered[self.checked..]) {
            Ok(_) => self.checked = self.gathered.len(),
            Err(error) if error.error_len().is_none() && !is_final => self.checked += error.valid_up_to(),
            Err(_) => return Err(Violation::NotUtf8),
        }
        Ok(())
    }
}

/// Section 5.5.1.
fn close(payload: &[u8]) -> Result<Message, Violation> {
    if payload.is_empty() {
        return Ok(Message::Close(None));
    }
    let Some((code, reason)) = payload.split_first_chunk() else {
        return Err(Violation::Protocol("half a close code"));
    };
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Message::Close(Some(u16::from_be_bytes(*code)))),
        Err(_) => Err(Violation::NotUtf8),
    }
}

/// Section 5.3, eight bytes at a time.
fn unmask(payload: &mut [u8], mask: [u8; MASK_BYTES]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}
