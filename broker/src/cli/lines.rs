//! A stream of bytes as lines, exactly: joining what comes out gives what went in.

use longwire_proto::limits::RECORD_BYTES_MAX;

/// Bytes of a line that one record carries; what is longer is split. The rest of a record (headers, keys) fits the
/// difference.
pub(crate) const LINE_BYTES_MAX: usize = RECORD_BYTES_MAX - 4096;

/// A line, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Without its newline.
    pub(crate) bytes: Vec<u8>,
    /// No newline follows: the line goes on in the next piece, or the stream ended within it.
    pub(crate) partial: bool,
}

/// Splits a stream into lines of at most a limit.
#[derive(Debug)]
pub(crate) struct LineSplitter {
    rest: Vec<u8>,
    limit: usize,
}

impl LineSplitter {
    pub(crate) fn new(limit: usize) -> Self {
        Self { rest: Vec::new(), limit: limit.max(4) }
    }

    /// Takes the next bytes and gives the lines that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8], mut line: impl FnMut(Line)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (content, whole) = match piece.split_last() {
                Some((b'\n', content)) => (content, true),
                _ => (piece, false),
            };
            self.rest.extend_from_slice(content);
            while self.rest.len() > self.limit {
                let after = self.rest.split_off(cut(&self.rest, self.limit));
                line(Line { bytes: std::mem::replace(&mut self.rest, after), partial: true });
            }
            if whole {
                line(Line { bytes: std::mem::take(&mut self.rest), partial: false });
            }
        }
    }

    /// The stream ended: gives what is left, if anything.
    pub(crate) fn finish(&mut self) -> Option<Line> {
        let bytes = std::mem::take(&mut self.rest);
        (!bytes.is_empty()).then_some(Line { bytes, partial: true })
    }
}

/// Where to cut so that UTF-8 stays UTF-8: at most three bytes before the limit.
fn cut(bytes: &[u8], limit: usize) -> usize {
    let continues = |at: usize| bytes.get(at).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000);
    (limit - 3..=limit).rev().find(|at| !continues(*at)).unwrap_or(limit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(chunks: &[&[u8]], limit: usize) -> Vec<Line> {
        let mut splitter = LineSplitter::new(limit);
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.push(chunk, |line| lines.push(line));
        }
        lines.extend(splitter.finish());
        lines
    }

    #[test]
    fn keeps_empty_lines_and_the_unfinished_one() {
        let lines = split(&[b"a\n\nb", b"c\nlast"], 99);
        let texts: Vec<(&[u8], bool)> = lines.iter().map(|line| (&line.bytes[..], line.partial)).collect();
        assert_eq!(texts, [(&b"a"[..], false), (b"", false), (b"bc", false), (b"last", true)]);
        assert_eq!(split(&[b""], 9), []);
    }

    proptest! {
        #[test]
        fn joining_gives_what_went_in(
            chunks in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..40), 0..8),
            limit in 4usize..12,
        ) {
            let lines = split(&chunks.iter().map(Vec::as_slice).collect::<Vec<_>>(), limit);
            let mut joined = Vec::new();
            for line in &lines {
                prop_assert!(line.bytes.len() <= limit && !line.bytes.contains(&b'\n'));
                prop_assert!(!line.bytes.is_empty() || !line.partial);
                joined.extend_from_slice(&line.bytes);
                if !line.partial {
                    joined.push(b'\n');
                }
            }
            prop_assert_eq!(joined, chunks.concat());
        }

        #[test]
        fn text_is_split_into_text(text in "[aé€😀]{0,40}", limit in 4usize..12) {
            for line in split(&[text.as_bytes()], limit) {
                prop_assert!(std::str::from_utf8(&line.bytes).is_ok());
            }
        }
    }
}
