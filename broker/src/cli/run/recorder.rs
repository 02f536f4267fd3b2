//! Turns what the command says into records, in order, and hands them to the outbox in batches.

use std::time::Duration;

use longwire::{
    Acknowledgement, Client, ConnectionState, ErrorCode, MessageEnd, Publication, PublishError, Published,
    Session,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::cli::batch::Batch;
use crate::cli::run::ending::Outcome;
use crate::cli::run::pieces::{Piece, Pieces};
use crate::cli::run::streams::{Said, Stream, Streams};
use crate::cli::run::trace::Trace;
use crate::cli::run::{EXIT_STATUS_HEADER, EXIT_TYPE};

/// What a line waits for others to join it: not noticed by a human, and long enough for a burst.
const LINGER: Duration = Duration::from_millis(5);
/// Chunks that wait to be gathered. Each is what one read gave and at most one long line: 17 MiB in all.
const CHUNKS_MAX: usize = 16;
/// The outbox could not write (such as a full disk): how long until it is tried again. The command waits meanwhile.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What one read of a stream gave.
type Chunk = (Stream, Vec<Piece>);

/// Records the streams of one command.
#[derive(Debug)]
pub(crate) struct Recorder {
    chunks: mpsc::Sender<Chunk>,
    task: JoinHandle<Option<Writer>>,
}

impl Recorder {
    /// Records to a session as a part of a run, and of a trace.
    pub(crate) fn start(client: &Client, session: Session, run: &str, trace: Trace) -> Self {
        let (chunks, chunks_in) = mpsc::channel(CHUNKS_MAX);
        let writer = Writer {
            client: client.clone(),
            session,
            run: run.to_owned(),
            streams: Streams::new(run, trace.clone()),
            trace,
            last: None,
            batch: Batch::default(),
            refused: 0,
            closes: Closes::default(),
        };
        Self { chunks, task: tokio::spawn(gather(writer, chunks_in)) }
    }

    pub(crate) fn stream(&self, stream: Stream) -> StreamRecorder {
        StreamRecorder { stream, pieces: Pieces::default(), chunks: self.chunks.clone() }
    }

    /// Records the end, after everything else, and waits until the outbox has it all.
    pub(crate) async fn finish(self, outcome: Outcome) -> Closes {
        drop(self.chunks);
        // When nothing is recorded any more, that was said already.
        let Ok(Some(mut writer)) = self.task.await else { return Closes::default() };
        let _ = writer.end(outcome).await;
        writer.closes
    }
}

/// Ends of messages that were published.
#[derive(Debug, Default)]
pub(crate) struct Closes {
    /// Those that are not answered yet.
    open: Vec<Acknowledgement>,
    needless: u64,
}

impl Closes {
    async fn push(&mut self, acknowledgement: Acknowledgement) {
        self.settle().await;
        self.open.push(acknowledgement);
    }

    async fn settle(&mut self) {
        for mut acknowledgement in std::mem::take(&mut self.open) {
            // One look.
            match timeout(Duration::ZERO, &mut acknowledgement).await {
                Ok(answer) => self.note(&answer),
                Err(_) => self.open.push(acknowledgement),
            }
        }
    }

    /// How many were refused because the message had ended, with its run: nothing is lost with these. Waits for the answers if all of
    /// them have come, or are about to.
    pub(crate) async fn needless(mut self, are_all_answered: bool) -> u64 {
        if are_all_answered {
            for acknowledgement in std::mem::take(&mut self.open) {
                self.note(&acknowledgement.await);
            }
        }
        self.settle().await;
        self.needless
    }

    fn note(&mut self, answer: &Result<Published, PublishError>) {
        let is_needless = matches!(answer, Err(PublishError::Refused(refusal)) if refusal.code == Some(ErrorCode::MessageClosed));
        self.needless += u64::from(is_needless);
    }
}

/// Records one stream.
#[derive(Debug)]
pub(crate) struct StreamRecorder {
    stream: Stream,
    pieces: Pieces,
    chunks: mpsc::Sender<Chunk>,
}

impl StreamRecorder {
    /// Takes bytes as they came. When nothing is recorded any more, which was said then, they are dropped: the command
    /// goes on.
    pub(crate) async fn push(&mut self, bytes: &[u8]) {
        let pieces = self.pieces.push(bytes);
        self.send(pieces).await;
    }

    /// The stream ended.
    pub(crate) async fn finish(mut self) {
        let last = self.pieces.finish();
        self.send(last.into_iter().collect()).await;
    }

    async fn send(&self, pieces: Vec<Piece>) {
        if !pieces.is_empty() {
            // Fails only when the recorder gave up.
            drop(self.chunks.send((self.stream, pieces)).await);
        }
    }
}

/// Gathers what comes within a moment; gives the writer back when nothing comes any more, and nothing when it gave up.
async fn gather(mut writer: Writer, mut chunks: mpsc::Receiver<Chunk>) -> Option<Writer> {
    while let Some(chunk) = chunks.recv().await {
        writer.take(chunk).await?;
        let until = Instant::now() + LINGER;
        while !writer.is_empty() {
            match tokio::time::timeout_at(until, chunks.recv()).await {
                Ok(Some(chunk)) => writer.take(chunk).await?,
                Ok(None) | Err(_) => writer.flush().await?,
            }
        }
    }
    Some(writer)
}

/// Writes to the outbox. What it does is `None` when that is of no use any more.
#[derive(Debug)]
struct Writer {
    client: Client,
    session: Session,
    run: String,
    streams: Streams,
    trace: Trace,
    /// May still be joined by what follows.
    last: Option<(Stream, Piece)>,
    batch: Batch,
    /// Publishes that were refused, as far as is known here.
    refused: u64,
    closes: Closes,
}

impl Writer {
    fn is_empty(&self) -> bool {
        self.last.is_none() && self.batch.is_empty()
    }

    async fn take(&mut self, (stream, pieces): Chunk) -> Option<()> {
        for piece in pieces {
            let joins =
                |(last_stream, last): &mut (Stream, Piece)| *last_stream == stream && last.join(&piece);
            if !self.last.as_mut().is_some_and(joins) {
                self.seal().await?;
                self.last = Some((stream, piece));
            }
        }
        Some(())
    }

    /// Nothing joins the last piece any more.
    async fn seal(&mut self) -> Option<()> {
        let Some((stream, piece)) = self.last.take() else { return Some(()) };
        let refused = self.client.outbox().borrow().refused;
        if std::mem::replace(&mut self.refused, refused) < refused {
            self.streams.doubt();
        }
        let is_away = !matches!(*self.client.state().borrow(), ConnectionState::Connected { .. });
        let Said { close, piece } = self.streams.say(stream, piece, is_away);
        if let Some(close) = close {
            self.close(close).await?;
        }
        self.batch.push(piece);
        if self.batch.is_full() { self.publish().await } else { Some(()) }
    }

    async fn close(&mut self, close: Publication) -> Option<()> {
        self.publish().await?;
        let acknowledgement = self.enqueue(vec![close]).await?;
        self.closes.push(acknowledgement).await;
        Some(())
    }

    async fn flush(&mut self) -> Option<()> {
        self.seal().await?;
        self.publish().await
    }

    async fn end(&mut self, outcome: Outcome) -> Option<()> {
        self.flush().await?;
        let end = if outcome.is_cancelled { MessageEnd::Cancelled } else { MessageEnd::Complete };
        for close in self.streams.end(end) {
            self.close(close).await?;
        }
        let exit = Publication::text(outcome.ending.to_string())
            .content_type("text/plain")
            .record_type(EXIT_TYPE)
            .run(&self.run)
            .header(EXIT_STATUS_HEADER, outcome.ending.shell_status().to_string());
        self.batch.push(self.trace.mark(exit));
        self.publish().await
    }

    async fn publish(&mut self) -> Option<()> {
        if !self.batch.is_empty() {
            let batch = self.batch.take();
            // What becomes of it shows in the outbox's status.
            drop(self.enqueue(batch).await?);
        }
        Some(())
    }

    /// Hands publications to the outbox, however long that takes.
    async fn enqueue(&mut self, publications: Vec<Publication>) -> Option<Acknowledgement> {
        let mut told = false;
        loop {
            match self.session.enqueue_all(publications.iter().cloned()).await {
                Ok(acknowledgement) => return Some(acknowledgement),
                Err(PublishError::Outbox(error)) => {
                    if !told {
                        eprintln!("longwire: {error}; the command waits until it can");
                        told = true;
                    }
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                Err(error) => {
                    eprintln!("longwire: the output is not recorded any more: {error}");
                    return None;
                }
            }
        }
    }
}
