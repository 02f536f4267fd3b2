//! What goes to a client (RFC 6455, section 5): whole frames in their order. A body that all subscribers share is written to the
//! socket from where it is; what is small is gathered, so that one write carries many frames.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use longwire_proto::codec::FrameBytes;

use crate::transport::websocket::incoming::{CONTROL_BYTES_MAX, Opcode};

/// Bodies from this length on are not copied: below it, another piece costs a write more than the copy.
const SHARED_BYTES_MIN: usize = 2 << 10;
/// Pieces of one write.
pub(super) const SLICES_MAX: usize = 64;
/// What is gathered at least has room for a few answers.
const GATHERED_BYTES: usize = 256;
/// Of the first byte of a header: every message is one frame.
const FIN: u8 = 0x80;

/// See the top of this file.
#[derive(Debug)]
pub(super) struct Outgoing {
    pieces: VecDeque<Bytes>,
    /// Behind the pieces.
    gathered: BytesMut,
    bytes: usize,
    shared_bytes_min: usize,
}

impl Outgoing {
    /// With `is_vectored` a write takes many pieces; otherwise everything is gathered.
    pub(super) fn new(is_vectored: bool) -> Self {
        let shared_bytes_min = if is_vectored { SHARED_BYTES_MIN } else { usize::MAX };
        Self { pieces: VecDeque::new(), gathered: BytesMut::new(), bytes: 0, shared_bytes_min }
    }

    /// Bytes that were not written yet.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.gathered.capacity() + self.pieces.capacity()
    }

    /// Adds a frame.
    pub(super) fn push(&mut self, opcode: Opcode, frame: FrameBytes) {
        let FrameBytes { head, body } = frame;
        if self.gathered.capacity() == 0 {
            self.gathered.reserve(GATHERED_BYTES);
        }
        let before = self.gathered.len();
        self.gathered.put_u8(FIN | opcode as u8);
        match head.len() + body.len() {
            length @ ..126 => self.gathered.put_u8(length as u8),
            length @ ..0x1_0000 => {
                self.gathered.put_u8(126);
                self.gathered.put_u16(length as u16);
            }
            length => {
                self.gathered.put_u8(127);
                self.gathered.put_u64(length as u64);
            }
        }
        self.gathered.put_slice(&head);
        if body.len() < self.shared_bytes_min {
            self.gathered.put_slice(&body);
            self.bytes += self.gathered.len() - before;
        } else {
            self.bytes += self.gathered.len() - before + body.len();
            self.pieces.push_back(self.gathered.split().freeze());
            self.pieces.push_back(body);
        }
    }

    /// Adds the end, with a reason that is cut to what a control frame carries.
    pub(super) fn push_close(&mut self, code: Option<u16>, reason: &str) {
        let mut body = BytesMut::new();
        if let Some(code) = code {
            body.put_u16(code);
            let mut length = (CONTROL_BYTES_MAX - body.len()).min(reason.len());
            while !reason.is_char_boundary(length) {
                length -= 1;
            }
            body.put_slice(&reason.as_bytes()[..length]);
        }
        self.push(Opcode::Close, body.freeze().into());
    }

    /// What is to be written first.
    pub(super) fn slices<'a>(&'a self, into: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let gathered = (!self.gathered.is_empty()).then_some(&self.gathered[..]);
        let pieces = self.pieces.iter().map(|piece| &piece[..]).chain(gathered);
        let mut count = 0;
        for (slot, piece) in into.iter_mut().zip(pieces) {
            *slot = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    /// So many bytes were written.
    pub(super) fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(piece) = self.pieces.front_mut() {
            if written < piece.len() {
                piece.advance(written);
                return;
            }
            written -= piece.len();
            self.pieces.pop_front();
        }
        self.gathered.advance(written);
        if self.bytes == 0 {
            // Idle connections are many, and keep nothing.
            self.pieces = VecDeque::new();
            self.gathered = BytesMut::new();
        }
    }
}
