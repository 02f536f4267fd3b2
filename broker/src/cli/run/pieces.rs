//! What a command says as pieces of a message, exactly: joining them gives what it said.

use crate::cli::lines::{LINE_BYTES_MAX, Line, LineSplitter};

/// Whole lines, or a part of a long one, all of them text or none: a reader of text is not kept from the lines beside one that is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) bytes: Vec<u8>,
    is_text: bool,
}

impl Piece {
    fn new(line: Line) -> Self {
        let Line { mut bytes, partial } = line;
        if !partial {
            bytes.push(b'\n');
        }
        Self { is_text: std::str::from_utf8(&bytes).is_ok(), bytes }
    }

    /// Puts what follows behind it, unless it is of another sort, or both are too long for one record.
    pub(crate) fn join(&mut self, next: &Self) -> bool {
        let fits = self.is_text == next.is_text && self.bytes.len() + next.bytes.len() <= LINE_BYTES_MAX;
        if fits {
            self.bytes.extend_from_slice(&next.bytes);
        }
        fits
    }
}

/// Cuts a stream into pieces.
#[derive(Debug)]
pub(crate) struct Pieces(LineSplitter);

impl Default for Pieces {
    fn default() -> Self {
        // And a newline.
        Self(LineSplitter::new(LINE_BYTES_MAX - 1))
    }
}

impl Pieces {
    /// Takes the next bytes and gives the pieces that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        self.0.push(bytes, |line| {
            let piece = Piece::new(line);
            if !pieces.last_mut().is_some_and(|last| last.join(&piece)) {
                pieces.push(piece);
            }
        });
        pieces
    }

    /// The stream ended: gives what is left, if anything.
    pub(crate) fn finish(&mut self) -> Option<Piece> {
        self.0.finish().map(Piece::new)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_that_came_together_stay_together() {
        let mut pieces = Pieces::default();
        let said = pieces.push(b"one\ntwo\nthr");
        assert_eq!(said, [Piece { bytes: b"one\ntwo\n".to_vec(), is_text: true }]);
        let said = pieces.push(b"ee\n\xff\n\xfe\nlast");
        let sorts: Vec<(&[u8], bool)> = said.iter().map(|piece| (&piece.bytes[..], piece.is_text)).collect();
        assert_eq!(sorts, [(&b"three\n"[..], true), (b"\xff\n\xfe\n", false)]);
        assert_eq!(pieces.finish().unwrap().bytes, b"last");
        let long = pieces.push(&vec![b'x'; 2 * LINE_BYTES_MAX]);
        assert!(!long.is_empty() && long.iter().all(|piece| piece.bytes.len() <= LINE_BYTES_MAX));
    }

    proptest! {
        #[test]
        fn joining_gives_what_was_said(
            chunks in prop::collection::vec(
                prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'a'), any::<u8>()], 0..40), 0..8,
            ),
        ) {
            let mut pieces = Pieces::default();
            let mut all: Vec<Piece> = chunks.iter().flat_map(|chunk| pieces.push(chunk)).collect();
            all.extend(pieces.finish());
            let mut joined: Vec<Piece> = Vec::new();
            for piece in all {
                prop_assert!(!piece.bytes.is_empty());
                if !joined.last_mut().is_some_and(|last| last.join(&piece)) {
                    joined.push(piece);
                }
            }
            prop_assert!(joined.iter().all(|piece| piece.is_text == std::str::from_utf8(&piece.bytes).is_ok()));
            let bytes: Vec<u8> = joined.into_iter().flat_map(|piece| piece.bytes).collect();
            prop_assert_eq!(bytes, chunks.concat());
        }
    }
}
