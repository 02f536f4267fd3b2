//! The messages that a command's streams are: one for each, which grows while the command speaks.

use std::fmt;

use longwire::{MessageEnd, Publication};
use longwire_proto::limits::MESSAGE_BYTES_MAX;

use crate::cli::run::STREAM_HEADER;
use crate::cli::run::pieces::Piece;
use crate::cli::run::trace::Trace;

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

/// The id of a stream's message of this number, from 1.
pub(crate) fn message_id(run: &str, stream: Stream, number: u64) -> String {
    format!("{run}-{stream}-{number}")
}

/// The end of a message. It is published alone: it is refused when the message has ended by itself, and nothing else may be with it.
pub(crate) fn close(run: &str, message: &str, end: MessageEnd) -> Publication {
    Publication::text("").piece_of(message).run(run).closing(end)
}

/// A message that grows.
#[derive(Debug)]
struct Growing {
    id: String,
    bytes: usize,
    /// The broker may have it: something of it was said while there was a connection.
    may_be_there: bool,
    /// It may have been ended by somebody else.
    is_doubtful: bool,
}

/// The messages of one stream.
#[derive(Debug, Default)]
struct Messages {
    begun: u64,
    growing: Option<Growing>,
}

/// What becomes of what the command says.
#[derive(Debug)]
pub(crate) struct Streams {
    run: String,
    trace: Trace,
    bytes_max: usize,
    stdout: Messages,
    stderr: Messages,
}

/// What is published of a piece.
#[derive(Debug, PartialEq)]
pub(crate) struct Said {
    /// The end of the message before.
    pub(crate) close: Option<Publication>,
    pub(crate) piece: Publication,
}

impl Streams {
    pub(crate) fn new(run: &str, trace: Trace) -> Self {
        let (stdout, stderr) = Default::default();
        Self { run: run.to_owned(), trace, bytes_max: MESSAGE_BYTES_MAX, stdout, stderr }
    }

    /// Goes on with the stream's message, or begins another one.
    ///
    /// Who ends the run while the broker is away ends its messages, too, and nothing could be added to them. So what is said meanwhile
    /// is a message of its own.
    pub(crate) fn say(&mut self, stream: Stream, piece: Piece, is_away: bool) -> Said {
        let messages = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let length = piece.bytes.len();
        let over = messages.growing.take_if(|growing| {
            let is_full = growing.bytes + length > self.bytes_max;
            is_full || growing.is_doubtful || (is_away && growing.may_be_there)
        });
        if let Some(growing) = &mut messages.growing {
            growing.bytes += length;
            growing.may_be_there |= !is_away;
            let piece = Publication::bytes("", piece.bytes).piece_of(&growing.id).run(&self.run);
            return Said { close: None, piece };
        }
        messages.begun += 1;
        let id = message_id(&self.run, stream, messages.begun);
        let opens = Publication::bytes("text/plain", piece.bytes).grows().id(&id).run(&self.run);
        let piece = self.trace.mark(opens.header(STREAM_HEADER, stream.as_str()));
        let growing = Growing { id, bytes: length, may_be_there: !is_away, is_doubtful: false };
        messages.growing = Some(growing);
        Said { close: over.map(|over| close(&self.run, &over.id, MessageEnd::Complete)), piece }
    }

    /// Something was refused: what is said from now on begins other messages.
    pub(crate) fn doubt(&mut self) {
        for messages in [&mut self.stdout, &mut self.stderr] {
            messages.growing.iter_mut().for_each(|growing| growing.is_doubtful = true);
        }
    }

    /// The ends of the messages: the command says nothing any more.
    pub(crate) fn end(&mut self, end: MessageEnd) -> Vec<Publication> {
        let growing = [self.stdout.growing.take(), self.stderr.growing.take()];
        growing.iter().flatten().map(|growing| close(&self.run, &growing.id, end)).collect()
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
        Said { close: Some(close("r", id, MessageEnd::Complete)), ..said }
    }

    #[test]
    fn each_stream_is_a_message_until_it_is_full() {
        let mut streams = Streams { bytes_max: 6, ..Streams::new("r", Trace::default()) };
        assert_eq!(streams.say(Stream::Stdout, piece("a\n"), false), opens("r-stdout-1", "stdout", "a\n"));
        assert_eq!(streams.say(Stream::Stderr, piece("e\n"), false), opens("r-stderr-1", "stderr", "e\n"));
        assert_eq!(streams.say(Stream::Stdout, piece("bcd\n"), false), goes_on("r-stdout-1", "bcd\n"));
        let next = after("r-stdout-1", opens("r-stdout-2", "stdout", "f\n"));
        assert_eq!(streams.say(Stream::Stdout, piece("f\n"), false), next);
        let closed = |id| close("r", id, MessageEnd::Cancelled);
        assert_eq!(streams.end(MessageEnd::Cancelled), [closed("r-stdout-2"), closed("r-stderr-1")]);
        assert_eq!(streams.end(MessageEnd::Complete), []);
    }

    #[test]
    fn what_is_said_while_the_broker_is_away_is_another_message() {
        let mut streams = Streams::new("r", Trace::default());
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
