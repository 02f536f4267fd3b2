//! Finding answers in what a server sends, however it was cut into pieces: what is known to be of no interest is passed over, and
//! nothing is copied but a header that came in two parts.

/// Bytes that are looked at together when a header came in two parts: more than any of them has.
const PIECE_BYTES: usize = 512;

/// Knows what a server says.
pub(crate) trait Walk: Send {
    /// Looks at what is here and answers how many bytes it is done with. More than there are: the rest is passed over when it
    /// comes. 0: more must come before it can say.
    fn step(&mut self, bytes: &[u8]) -> usize;
}

/// Walks what comes in pieces.
pub(crate) struct Feed<W> {
    pub(crate) walk: W,
    tail: Vec<u8>,
    owed: usize,
}

impl<W: Walk> Feed<W> {
    pub(crate) fn new(walk: W) -> Self {
        Self { walk, tail: Vec::new(), owed: 0 }
    }

    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        let passed = self.owed.min(bytes.len());
        self.owed -= passed;
        bytes = &bytes[passed..];
        while !self.tail.is_empty() && !bytes.is_empty() {
            let before = self.tail.len();
            let more = bytes.len().min(PIECE_BYTES);
            self.tail.extend_from_slice(&bytes[..more]);
            let done = self.walk.step(&self.tail);
            if done == 0 {
                bytes = &bytes[more..];
                continue;
            }
            assert!(done >= before, "a part that said nothing was something");
            self.tail.clear();
            let done = done - before;
            self.owed = done.saturating_sub(bytes.len());
            bytes = &bytes[done.min(bytes.len())..];
        }
        while !bytes.is_empty() {
            let done = self.walk.step(bytes);
            if done == 0 {
                self.tail.extend_from_slice(bytes);
                return;
            }
            self.owed = done.saturating_sub(bytes.len());
            bytes = &bytes[done.min(bytes.len())..];
        }
    }
}

/// The line at the beginning, without its end, and the bytes it takes with it.
pub(crate) fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = memchr::memchr(b'\n', bytes)?;
    Some((bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]), end + 1))
}

/// A number in decimal digits.
pub(crate) fn number(digits: &[u8]) -> usize {
    digits.iter().fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}
