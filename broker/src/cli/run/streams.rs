//! The messages that a command's streams are: one for each, which grows while the command speaks.

use std::fmt;

use longwire::{MessageEnd, Publication};
use longwire_proto::limits::MESSAGE_BYTES_MAX;

use crate::cli::run::STREAM_HEADER;
use crate::cli::run::pieces::Piece;

/// A stream of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub(crate) const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// The stream that a message of this id is: whoever reads a piece in the middle of it has not seen its header.
    pub(crate) fn of_message(id: &str) -> Option<Self> {
        let name = id.split('-').nth(1)?;
        Self::ALL.into_iter().find(|stream| stream.as_str() == name)
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A message that grows.
#[derive(Debug)]
struct Growing {
    stream: Stream,
    id: String,
    bytes: usize,
    /// The broker may have it: something of it was said while there was a connection.
    may_be_there: bool,
    /// It may have been ended by somebody else.
    is_doubtful: bool,
}

/// What becomes of what the command says.
#[derive(Debug)]
pub(crate) struct Streams {
    run: String,
    bytes_max: usize,
    /// Messages that were begun.
    begun: u64,
    growing: Vec<Growing>,
}

/// What is published of a piece.
#[derive(Debug, PartialEq)]
pub(crate) struct Said {
    /// The end of the message before. Alone: it is refused when that has ended by itself, and nothing else may be with it.
    pub(crate) close: Option<Publication>,
    pub(crate) piece: Publication,
}

impl Streams {
    pub(crate) fn new(run: &str) -> Self {
        Self { run: run.to_owned(), bytes_max: MESSAGE_BYTES_MAX, begun: 0, growing: Vec::new() }
    }

    /// Goes on with the stream's message, or begins another one.
    ///
    /// Who ends the run while the broker is away ends its messages, too, and nothing could be added to them. So what is said meanwhile
    /// is a message of its own.
    pub(crate) fn say(&mut self, stream: Stream, piece: Piece, is_away: bool) -> Said {
        let length = piece.bytes.len();
        let mut close = None;
        if let Some(place) = self.growing.iter().position(|growing| growing.stream == stream)
            && let Some(growing) = self.growing.get_mut(place)
        {
            let is_full = growing.bytes + length > self.bytes_max;
            let is_over = is_full || growing.is_doubtful || (is_away && growing.may_be_there);
            if !is_over {
                growing.bytes += length;
                growing.may_be_there |= !is_away;
                let piece = Publication::bytes("", piece.bytes).piece_of(&growing.id).run(&self.run);
                return Said { close, piece };
            }
            let over = self.growing.remove(place);
            close = Some(self.close(&over.id, MessageEnd::Complete));
        }
        self.begun += 1;
        let id = format!("{}-{stream}-{}", self.run, self.begun);
        let opens = Publication::bytes("text/plain", piece.bytes).grows().id(&id).run(&self.run);
        let growing = Growing { stream, id, bytes: length, may_be_there: !is_away, is_doubtful: false };
        self.growing.push(growing);
        Said { close, piece: opens.header(STREAM_HEADER, stream.as_str()) }
    }

    /// Something was refused: what is said from now on begins other messages.
    pub(crate) fn doubt(&mut self) {
        self.growing.iter_mut().for_each(|growing| growing.is_doubtful = true);
    }

    /// The ends of the messages, each to be published alone: the command says nothing any more.
    pub(crate) fn end(&mut self, end: MessageEnd) -> Vec<Publication> {
        let growing = std::mem::take(&mut self.growing);
        growing.iter().map(|growing| self.close(&growing.id, end)).collect()
    }

    fn close(&self, id: &str, end: MessageEnd) -> Publication {
        Publication::text("").piece_of(id).run(&self.run).closing(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::run::pieces::Pieces;

    fn piece(text: &str) -> Piece {
        Pieces::default().push(text.as_bytes()).remove(0)
    }

    fn opens(id: &str, stream: &str, text: &str) -> Said {
        let opens = Publication::bytes("text/plain", text.to_owned()).grows().id(id).run("r");
        Said { close: None, piece: opens.header(STREAM_HEADER, stream) }
    }

    fn delta(id: &str, text: &str) -> Publication {
        Publication::text(text).piece_of(id).run("r")
    }

    fn goes_on(id: &str, text: &str) -> Said {
        Said { close: None, piece: delta(id, text) }
    }

    fn after(id: &str, said: Said) -> Said {
        Said { close: Some(delta(id, "").closing(MessageEnd::Complete)), ..said }
    }

    #[test]
    fn each_stream_is_a_message_until_it_is_full() {
        let mut streams = Streams { bytes_max: 6, ..Streams::new("r") };
        assert_eq!(streams.say(Stream::Stdout, piece("a\n"), false), opens("r-stdout-1", "stdout", "a\n"));
        assert_eq!(streams.say(Stream::Stderr, piece("e\n"), false), opens("r-stderr-2", "stderr", "e\n"));
        assert_eq!(streams.say(Stream::Stdout, piece("bcd\n"), false), goes_on("r-stdout-1", "bcd\n"));
        let next = after("r-stdout-1", opens("r-stdout-3", "stdout", "f\n"));
        assert_eq!(streams.say(Stream::Stdout, piece("f\n"), false), next);
        let closed = |id| delta(id, "").closing(MessageEnd::Cancelled);
        assert_eq!(streams.end(MessageEnd::Cancelled), [closed("r-stderr-2"), closed("r-stdout-3")]);
        assert_eq!(streams.end(MessageEnd::Complete), []);
    }

    #[test]
    fn what_is_said_while_the_broker_is_away_is_another_message() {
        let mut streams = Streams::new("r");
        assert_eq!(streams.say(Stream::Stdout, piece("a\n"), true), opens("r-stdout-1", "stdout", "a\n"));
        // Nobody can have ended what nobody has seen.
        assert_eq!(streams.say(Stream::Stdout, piece("b\n"), true), goes_on("r-stdout-1", "b\n"));
        assert_eq!(streams.say(Stream::Stdout, piece("c\n"), false), goes_on("r-stdout-1", "c\n"));
        let next = after("r-stdout-1", opens("r-stdout-2", "stdout", "d\n"));
        assert_eq!(streams.say(Stream::Stdout, piece("d\n"), true), next);
        streams.doubt();
        let next = after("r-stdout-2", opens("r-stdout-3", "stdout", "e\n"));
        assert_eq!(streams.say(Stream::Stdout, piece("e\n"), false), next);
        assert_eq!(streams.say(Stream::Stdout, piece("f\n"), false), goes_on("r-stdout-3", "f\n"));
    }

    #[test]
    fn a_piece_tells_its_stream() {
        assert_eq!(Stream::of_message("5f-stdout-1"), Some(Stream::Stdout));
        assert_eq!(Stream::of_message("5f-stderr-12"), Some(Stream::Stderr));
        for other in ["", "stdout", "5f-out-1", "0123-4"] {
            assert_eq!(Stream::of_message(other), None, "{other}");
        }
    }
}
