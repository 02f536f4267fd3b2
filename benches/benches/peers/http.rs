//! Answers of HTTP/1.1.

use super::feed::{Walk, line, number};
use super::link::Listen;

/// The head at the beginning, if all of it is here: its bytes.
pub(crate) fn head(bytes: &[u8]) -> Option<&[u8]> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")?;
    let head = &bytes[..end + 4];
    assert!(head.starts_with(b"HTTP/1.1 2"), "{} came", String::from_utf8_lossy(bytes));
    Some(head)
}

/// The bytes of the body that follows.
fn content_length(head: &[u8]) -> usize {
    const NAME: &[u8] = b"content-length:";
    head.split(|byte| *byte == b'\n')
        .find(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)))
        .map_or(0, |line| number(line[NAME.len()..].trim_ascii()))
}

/// Counts answers.
#[derive(Default)]
pub(crate) struct Answers(u64);

impl Walk for Answers {
    fn step(&mut self, bytes: &[u8]) -> usize {
        let Some(head) = head(bytes) else { return 0 };
        self.0 += 1;
        head.len() + content_length(head)
    }
}

impl Listen for Answers {
    fn count(&self) -> u64 {
        self.0
    }
}

/// An answer that comes in chunks and does not end; what is in them goes on.
pub(crate) struct Chunks<W> {
    feed: super::feed::Feed<W>,
    is_begun: bool,
    left: usize,
}

impl<W: Walk> Chunks<W> {
    pub(crate) fn new(walk: W) -> Self {
        Self { feed: super::feed::Feed::new(walk), is_begun: false, left: 0 }
    }
}

impl<W: Walk> Walk for Chunks<W> {
    fn step(&mut self, bytes: &[u8]) -> usize {
        if !self.is_begun {
            let head = head(bytes);
            self.is_begun = head.is_some();
            return head.map_or(0, <[u8]>::len);
        }
        if self.left > 0 {
            let here = self.left.min(bytes.len());
            self.feed.push(&bytes[..here]);
            self.left -= here;
            return here;
        }
        match line(bytes) {
            None => 0,
            // The end of the chunk before.
            Some((b"", taken)) => taken,
            Some((digits, taken)) => {
                self.left = usize::from_str_radix(&String::from_utf8_lossy(digits), 16).unwrap();
                assert!(self.left > 0, "the answer ended");
                taken
            }
        }
    }
}

impl<L: Listen> Listen for Chunks<L> {
    fn count(&self) -> u64 {
        self.feed.walk.count()
    }
}
