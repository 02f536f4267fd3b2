//! Frames within the process: what a call of gRPC that is no stream of frames reaches its connection by, and what tests can
//! reach a broker by.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use longwire_proto::codec::{Encoding, FrameBytes};
use longwire_proto::error::Error;
use longwire_proto::limits::HELLO_BYTES_MAX;
use tokio_util::task::TaskTracker;

use crate::connection::{self, ConnectionContext};
use crate::transport::door::hello_too_large;
use crate::transport::lanes::Lane;
use crate::transport::{FrameSink, FrameSource, Gone, LinkEnd};

/// Bytes that one direction holds before whoever feeds it waits, as a WebSocket gathers: a frame more is there at most.
pub const PIPE_BYTES_MAX: usize = 64 << 10;
/// Frames of these: the smallest ones cost more than their bytes.
const PIPE_FRAMES_MAX: usize = 1024;

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// Nothing more is fed; with the error that it was ended with.
    ended: Option<Option<Error>>,
    /// Nothing more is taken.
    left: bool,
}

impl State {
    fn has_room(&self) -> bool {
        self.bytes < PIPE_BYTES_MAX && self.frames.len() < PIPE_FRAMES_MAX
    }
}

#[derive(Debug, Default)]
struct Pipe {
    state: Mutex<State>,
    fed: AtomicWaker,
    taken: AtomicWaker,
}

impl Pipe {
    // Nothing panics while it holds the lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One direction, where it is fed.
#[derive(Debug)]
pub(super) struct Feeder(Arc<Pipe>);

impl Feeder {
    /// Resolves when there is room.
    fn poll_room(&self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        self.0.taken.register(context.waker());
        let state = self.0.state();
        match (state.left, state.has_room()) {
            (true, _) => Poll::Ready(Err(Gone)),
            (false, true) => Poll::Ready(Ok(())),
            (false, false) => {
                drop(state);
                // What was fed may not have been flushed, and only who takes it makes room.
                self.0.fed.wake();
                Poll::Pending
            }
        }
    }

    async fn feed(&self, frame: Bytes) -> Result<(), Gone> {
        poll_fn(|context| self.poll_room(context)).await?;
        let mut state = self.0.state();
        state.bytes += frame.len();
        state.frames.push_back(frame);
        Ok(())
    }

    fn flush(&self) -> Result<(), Gone> {
        self.0.fed.wake();
        if self.0.state().left { Err(Gone) } else { Ok(()) }
    }

    fn end(&self, error: Option<Error>) {
        self.0.state().ended.get_or_insert(error);
        self.0.fed.wake();
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.end(None);
    }
}

/// One direction, where it is taken from.
#[derive(Debug)]
struct Taker(Arc<Pipe>);

impl Taker {
    fn poll_next(&self, context: &mut Context<'_>) -> Poll<Result<Bytes, LinkEnd>> {
        self.0.fed.register(context.waker());
        let mut state = self.0.state();
        let had_room = state.has_room();
        if let Some(frame) = state.frames.pop_front() {
            state.bytes -= frame.len();
            let has_room = state.has_room();
            drop(state);
            if !had_room && has_room {
                self.0.taken.wake();
            }
            return Poll::Ready(Ok(frame));
        }
        match &state.ended {
            None => Poll::Pending,
            Some(None) => Poll::Ready(Err(LinkEnd::Gone)),
            Some(Some(error)) => Poll::Ready(Err(LinkEnd::Refused(error.clone()))),
        }
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.left = true;
        state.frames.clear();
        state.bytes = 0;
        drop(state);
        self.0.taken.wake();
    }
}

fn pipe() -> (Feeder, Taker) {
    let pipe = Arc::new(Pipe::default());
    (Feeder(Arc::clone(&pipe)), Taker(pipe))
}

/// A link: the client's end, and the two halves that a connection is served by.
#[must_use]
pub fn link() -> (MemoryClient, MemorySource, MemorySink) {
    let ((to_broker, from_client), (to_client, from_broker)) = (pipe(), pipe());
    let client = MemoryClient { feeder: to_broker, outlet: Outlet(from_broker) };
    (client, MemorySource { taker: from_client, is_admitted: false }, MemorySink(to_client))
}

/// The sending half alone, and where what it sends comes out.
pub(super) fn outlet() -> (MemorySink, Outlet) {
    let (feeder, taker) = pipe();
    (MemorySink(feeder), Outlet(taker))
}

/// Where the frames of a connection come out. Dropped, it is as if the client had left.
#[derive(Debug)]
pub(super) struct Outlet(Taker);

impl Outlet {
    /// The next frame; [`LinkEnd::Refused`] has the error that the connection ended with.
    pub(super) fn poll_next(&self, context: &mut Context<'_>) -> Poll<Result<Bytes, LinkEnd>> {
        self.0.poll_next(context)
    }
}

/// The client's end. Dropped, the client has left.
#[derive(Debug)]
pub struct MemoryClient {
    feeder: Feeder,
    outlet: Outlet,
}

impl MemoryClient {
    /// Sends an encoded frame, as soon as there is room.
    ///
    /// # Errors
    /// [`Gone`] when the connection has ended.
    pub async fn send(&self, frame: Bytes) -> Result<(), Gone> {
        self.feeder.feed(frame).await?;
        self.feeder.flush()
    }

    /// The next encoded frame of the broker. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`LinkEnd::Refused`] with the error that the connection was closed with, and [`LinkEnd::Gone`] without one.
    pub async fn next(&self) -> Result<Bytes, LinkEnd> {
        poll_fn(|context| self.outlet.poll_next(context)).await
    }

    /// Both directions: the client has left as soon as either is dropped.
    pub(super) fn split(self) -> (Feeder, Outlet) {
        (self.feeder, self.outlet)
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct MemorySource {
    taker: Taker,
    is_admitted: bool,
}

impl FrameSource for MemorySource {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, LinkEnd>> {
        let frame = ready!(self.taker.poll_next(context))?;
        if !self.is_admitted && frame.len() > HELLO_BYTES_MAX {
            return Poll::Ready(Err(LinkEnd::Refused(hello_too_large())));
        }
        Poll::Ready(Ok(frame))
    }

    fn admit(&mut self) -> Result<(), LinkEnd> {
        self.is_admitted = true;
        Ok(())
    }
}

/// The sending half.
#[derive(Debug)]
pub struct MemorySink(Feeder);

impl FrameSink for MemorySink {
    async fn feed(&mut self, _lane: Lane, frame: FrameBytes) -> Result<(), Gone> {
        self.0.feed(frame.into_bytes()).await
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        self.0.flush()
    }

    async fn close(&mut self, last: Bytes, error: &Error) -> Result<(), Gone> {
        self.0.feed(last).await?;
        self.0.end(Some(error.clone()));
        Ok(())
    }
}

/// Where clients within the process come in: as no socket has to be let in for them, none is counted, and the rest is as for
/// everybody.
#[derive(Clone)]
pub struct MemoryPort {
    pub(crate) connections: Arc<ConnectionContext>,
    pub(crate) served: TaskTracker,
}

impl MemoryPort {
    /// A new connection, which waits for its hello.
    #[must_use]
    pub fn connect(&self, encoding: Encoding) -> MemoryClient {
        let (client, source, sink) = link();
        let context = Arc::clone(&self.connections);
        self.served.spawn(async move {
            connection::serve(context, encoding, source, sink, None).await;
        });
        client
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use longwire_proto::error::ErrorCode;

    use super::*;

    #[tokio::test]
    async fn who_feeds_waits_for_who_takes() {
        let (client, mut source, _sink) = link();
        source.admit().unwrap();
        let large = Bytes::from(vec![1; PIPE_BYTES_MAX]);
        client.send(large.clone()).await.unwrap();
        let mut waiting = Box::pin(client.send(Bytes::from_static(b"next")));
        assert!((&mut waiting).now_or_never().is_none());
        assert_eq!(source.next().await.unwrap(), large);
        waiting.await.unwrap();
        assert_eq!(source.next().await.unwrap(), "next");
        for _ in 0..PIPE_FRAMES_MAX {
            client.send(Bytes::new()).await.unwrap();
        }
        let mut waiting = tokio::spawn(async move { client.send(Bytes::new()).await });
        assert!((&mut waiting).now_or_never().is_none(), "frames without bytes are bounded too");
        tokio::task::yield_now().await;
        source.next().await.unwrap();
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_was_fed_comes_out_before_the_end_does() {
        let (client, source, mut sink) = link();
        sink.close(Bytes::from_static(b"goodbye"), &Error::new(ErrorCode::Draining, "")).await.unwrap();
        drop((source, sink));
        assert_eq!(client.next().await.unwrap(), "goodbye");
        for _ in 0..2 {
            assert!(matches!(client.next().await, Err(LinkEnd::Refused(e)) if e.code == ErrorCode::Draining));
        }
        assert_eq!(client.send(Bytes::new()).await, Err(Gone));
    }

    #[tokio::test]
    async fn who_waits_is_told_that_the_other_left() {
        let (client, mut source, mut sink) = link();
        let waiting = tokio::spawn(async move { source.next().await });
        sink.feed(Lane::Control, Bytes::from(vec![0; PIPE_BYTES_MAX]).into()).await.unwrap();
        let mut feeding = Box::pin(sink.feed(Lane::Control, FrameBytes::default()));
        assert!((&mut feeding).now_or_never().is_none());
        drop(client);
        assert!(matches!(waiting.await.unwrap(), Err(LinkEnd::Gone)));
        assert_eq!(feeding.await, Err(Gone));
        assert_eq!(sink.flush().await, Err(Gone));
    }

    #[tokio::test]
    async fn what_is_not_flushed_is_taken_when_there_is_no_room_left() {
        let (client, _source, mut sink) = link();
        let taking = tokio::spawn(async move {
            let mut bytes = 0;
            while bytes < 3 * PIPE_BYTES_MAX {
                bytes += client.next().await.unwrap().len();
            }
        });
        tokio::task::yield_now().await;
        for _ in 0..3 {
            sink.feed(Lane::Control, Bytes::from(vec![0; PIPE_BYTES_MAX]).into()).await.unwrap();
        }
        sink.flush().await.unwrap();
        taking.await.unwrap();
    }
}
