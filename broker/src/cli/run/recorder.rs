//! Turns what the command says into records, in order, and hands them to the outbox in batches.

use std::time::Duration;

use longwire::{Publication, PublishError, Session};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cli::batch::Batch;
use crate::cli::lines::{LINE_BYTES_MAX, Line, LineSplitter};
use crate::cli::run::ending::Ending;
use crate::cli::run::{EXIT_STATUS_HEADER, EXIT_TYPE, PARTIAL_HEADER, STREAM_HEADER, TRUE};

/// What a line waits for others to join its batch: not noticed by a human, and long enough for a burst.
const LINGER: Duration = Duration::from_millis(5);
/// Chunks of lines that wait to be gathered. Each is what one read gave and at most one long line: 17 MiB in all.
const CHUNKS_MAX: usize = 16;
/// The outbox could not write (such as a full disk): how long until it is tried again. The command waits meanwhile.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A stream of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Records the streams of one command.
#[derive(Debug)]
pub(crate) struct Recorder {
    chunks: mpsc::Sender<Vec<Publication>>,
    task: JoinHandle<()>,
}

impl Recorder {
    pub(crate) fn start(session: Session) -> Self {
        let (chunks, chunks_in) = mpsc::channel(CHUNKS_MAX);
        Self { chunks, task: tokio::spawn(gather(session, chunks_in)) }
    }

    pub(crate) fn stream(&self, stream: Stream) -> StreamRecorder {
        StreamRecorder { stream, splitter: LineSplitter::new(LINE_BYTES_MAX), chunks: self.chunks.clone() }
    }

    /// Records the end, after everything else, and waits until the outbox has it all.
    pub(crate) async fn finish(self, ending: &Ending) {
        let status = ending.shell_status().to_string();
        let end = Publication::text(ending.to_string())
            .content_type("text/plain")
            .record_type(EXIT_TYPE)
            .header(EXIT_STATUS_HEADER, status);
        // When nothing is recorded any more, that was said already.
        drop(self.chunks.send(vec![end]).await);
        drop(self.chunks);
        drop(self.task.await);
    }
}

/// Records one stream.
#[derive(Debug)]
pub(crate) struct StreamRecorder {
    stream: Stream,
    splitter: LineSplitter,
    chunks: mpsc::Sender<Vec<Publication>>,
}

impl StreamRecorder {
    /// Takes bytes as they came. When nothing is recorded any more, which was said then, they are dropped: the command
    /// goes on.
    pub(crate) async fn push(&mut self, bytes: &[u8]) {
        let mut chunk = Vec::new();
        let stream = self.stream;
        self.splitter.push(bytes, |line| chunk.push(publication(stream, line)));
        self.send(chunk).await;
    }

    /// The stream ended.
    pub(crate) async fn finish(mut self) {
        let last = self.splitter.finish().map(|line| publication(self.stream, line));
        self.send(last.into_iter().collect()).await;
    }

    async fn send(&self, chunk: Vec<Publication>) {
        if !chunk.is_empty() {
            // Fails only when the recorder gave up.
            drop(self.chunks.send(chunk).await);
        }
    }
}

fn publication(stream: Stream, line: Line) -> Publication {
    let publication = Publication::bytes("text/plain", line.bytes).header(STREAM_HEADER, stream.as_str());
    if line.partial { publication.header(PARTIAL_HEADER, TRUE) } else { publication }
}

async fn gather(session: Session, mut chunks: mpsc::Receiver<Vec<Publication>>) {
    let mut batch = Batch::default();
    while let Some(chunk) = chunks.recv().await {
        if !take(&session, &mut batch, chunk).await {
            return;
        }
        let until = Instant::now() + LINGER;
        while !batch.is_empty() {
            match tokio::time::timeout_at(until, chunks.recv()).await {
                Ok(Some(chunk)) => {
                    if !take(&session, &mut batch, chunk).await {
                        return;
                    }
                }
                Ok(None) | Err(_) => {
                    if !publish(&session, &mut batch).await {
                        return;
                    }
                }
            }
        }
    }
}

async fn take(session: &Session, batch: &mut Batch, chunk: Vec<Publication>) -> bool {
    for publication in chunk {
        batch.push(publication);
        if batch.is_full() && !publish(session, batch).await {
            return false;
        }
    }
    true
}

/// Hands the batch to the outbox, however long that takes; false when that is of no use any more.
async fn publish(session: &Session, batch: &mut Batch) -> bool {
    let publications = batch.take();
    let mut told = false;
    loop {
        match session.enqueue_all(publications.iter().cloned()).await {
            // What becomes of it shows in the outbox's status.
            Ok(acknowledgement) => {
                drop(acknowledgement);
                return true;
            }
            Err(PublishError::Outbox(error)) => {
                if !told {
                    eprintln!("longwire: {error}; the command waits until it can");
                    told = true;
                }
                tokio::time::sleep(RETRY_AFTER).await;
            }
            Err(error) => {
                eprintln!("longwire: the output is not recorded any more: {error}");
                return false;
            }
        }
    }
}
