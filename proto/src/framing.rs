//! Frames on a stream of bytes: each behind its length, in 4 bytes, big-endian. gRPC puts one byte more in front of that, which says
//! whether what follows is compressed.

use bytes::{Buf, Bytes, BytesMut};

use crate::error::{Error, ErrorCode};

/// Bytes of the length in front of a frame.
pub const PREFIX_BYTES: usize = size_of::<u32>();

/// Bytes in front of the length in gRPC.
const FLAG_BYTES: usize = 1;
/// What goes in front of a frame that is not compressed.
const AS_IT_IS: u8 = 0;

/// What goes in front of a frame of so many bytes. `None` for one that is longer than any frame can be.
#[must_use]
pub fn prefix(frame_bytes: usize) -> Option<Bytes> {
    let length = u32::try_from(frame_bytes).ok()?;
    Some(Bytes::copy_from_slice(&length.to_be_bytes()))
}

/// What goes in front of a message of gRPC. `None` for one that is longer than any can be.
#[must_use]
pub fn grpc_prefix(message: &[u8]) -> Option<[u8; FLAG_BYTES + PREFIX_BYTES]> {
    let [a, b, c, d] = u32::try_from(message.len()).ok()?.to_be_bytes();
    Some([AS_IT_IS, a, b, c, d])
}

/// Finds the frames in the pieces of a stream.
#[derive(Debug)]
pub struct Deframer {
    flag_bytes: usize,
    frame_bytes_max: usize,
    /// Bytes that came, of which no frame has begun to be copied.
    piece: Bytes,
    /// The beginning of a frame that has not come whole. Copied: a piece can be small and keep a whole packet alive.
    begun: BytesMut,
}

impl Deframer {
    /// Finds frames of at most `frame_bytes_max` bytes.
    #[must_use]
    pub fn new(frame_bytes_max: usize) -> Self {
        Self { flag_bytes: 0, frame_bytes_max, piece: Bytes::new(), begun: BytesMut::new() }
    }

    /// Finds messages of gRPC.
    #[must_use]
    pub fn grpc(message_bytes_max: usize) -> Self {
        Self { flag_bytes: FLAG_BYTES, ..Self::new(message_bytes_max) }
    }

    /// Frames may be larger, or must be smaller, from here on.
    pub fn set_frame_bytes_max(&mut self, frame_bytes_max: usize) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// Takes the next piece of the stream.
    pub fn push(&mut self, piece: Bytes) {
        if self.piece.is_empty() {
            self.piece = piece;
        } else {
            self.begun.extend_from_slice(&std::mem::replace(&mut self.piece, piece));
        }
    }

    /// The next frame that has come whole.
    ///
    /// # Errors
    /// [`ErrorCode::FrameTooLarge`], as soon as the length has come, and [`ErrorCode::InvalidFrame`] for one that is compressed.
    pub fn pop(&mut self) -> Result<Option<Bytes>, Error> {
        let prefix = self.flag_bytes + PREFIX_BYTES;
        if self.begun.is_empty() {
            let Some(length) = self.length(&self.piece)? else { return Ok(self.keep()) };
            if self.piece.len() - prefix < length {
                return Ok(self.keep());
            }
            self.piece.advance(prefix);
            return Ok(Some(self.piece.split_to(length)));
        }
        self.fill(prefix);
        let Some(length) = self.length(&self.begun)? else { return Ok(None) };
        self.fill(prefix + length);
        if self.begun.len() - prefix < length {
            return Ok(None);
        }
        let mut frame = self.begun.split_to(prefix + length).freeze();
        frame.advance(prefix);
        Ok(Some(frame))
    }

    /// Whether the stream may end here: between two frames.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.piece.is_empty() && self.begun.is_empty()
    }

    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, Error> {
        let Some((flag, bytes)) = bytes.split_at_checked(self.flag_bytes) else { return Ok(None) };
        if flag.iter().any(|flag| *flag != AS_IT_IS) {
            let message = "the message is compressed, which this broker reads none of: send it as it is";
            return Err(Error::new(ErrorCode::InvalidFrame, message));
        }
        let Some(prefix) = bytes.first_chunk() else { return Ok(None) };
        let (length, limit) = (u32::from_be_bytes(*prefix) as usize, self.frame_bytes_max);
        if length <= limit {
            return Ok(Some(length));
        }
        Err(Error::frame_too_large(length, limit))
    }

    fn keep(&mut self) -> Option<Bytes> {
        self.begun.extend_from_slice(&std::mem::take(&mut self.piece));
        None
    }

    fn fill(&mut self, bytes: usize) {
        let missing = bytes.saturating_sub(self.begun.len()).min(self.piece.len());
        self.begun.extend_from_slice(&self.piece.split_to(missing));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_length_above_the_limit_is_refused_before_the_frame_comes() {
        let mut deframer = Deframer::new(3);
        deframer.push(Bytes::from_static(&[0, 0, 0]));
        assert_eq!(deframer.pop(), Ok(None));
        deframer.push(Bytes::from_static(&[4]));
        assert_eq!(deframer.pop().unwrap_err().code, ErrorCode::FrameTooLarge);
        deframer.set_frame_bytes_max(4);
        deframer.push(Bytes::from_static(b"four"));
        assert_eq!(deframer.pop(), Ok(Some(Bytes::from_static(b"four"))));
        assert!(deframer.is_between_frames());
    }

    #[test]
    fn a_message_of_grpc_has_a_flag_in_front() {
        let mut deframer = Deframer::grpc(3);
        deframer.push(Bytes::from_static(&[0, 0, 0, 0, 3]));
        assert_eq!(deframer.pop(), Ok(None));
        deframer.push(Bytes::from_static(b"two\x00\x00\x00\x00\x00\x01"));
        assert_eq!(deframer.pop(), Ok(Some(Bytes::from_static(b"two"))));
        assert_eq!(deframer.pop(), Ok(Some(Bytes::new())));
        assert_eq!(deframer.pop().unwrap_err().code, ErrorCode::InvalidFrame);
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..10),
            cuts in prop::collection::vec(1usize..40, 1..100),
            is_grpc in any::<bool>(),
        ) {
            let new = if is_grpc { Deframer::grpc } else { Deframer::new };
            let mut stream = Vec::new();
            for frame in &frames {
                if is_grpc {
                    stream.extend_from_slice(&grpc_prefix(frame).unwrap());
                } else {
                    stream.extend_from_slice(&prefix(frame.len()).unwrap());
                }
                stream.extend_from_slice(frame);
            }
            let (mut deframer, mut found, mut rest) = (new(50), Vec::new(), stream.as_slice());
            for (turn, cut) in cuts.iter().cycle().enumerate() {
                if rest.is_empty() {
                    break;
                }
                let (piece, later) = rest.split_at(rest.len().min(*cut));
                rest = later;
                deframer.push(Bytes::copy_from_slice(piece));
                // Whoever pushes twice before they look loses nothing either.
                while turn % 3 > 0 && let Some(frame) = deframer.pop().unwrap() {
                    found.push(frame.to_vec());
                }
            }
            while let Some(frame) = deframer.pop().unwrap() {
                found.push(frame.to_vec());
            }
            prop_assert_eq!(found, frames);
            prop_assert!(deframer.is_between_frames());
        }
    }
}
