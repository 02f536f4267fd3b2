//! The sending half: the control stream, and a stream for each lane.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use longwire_proto::codec::FrameBytes;
use longwire_proto::error::Error;
use longwire_proto::framing::prefix;
use quinn::{Connection, SendStream, VarInt, WriteError};
use tokio_util::sync::CancellationToken;

use crate::transport::lanes::{Lane, LaneId, Lanes};
use crate::transport::quic::Farewell;
use crate::transport::{FrameSink, Gone};

/// The code of a stream that nobody wants any more.
const LEFT: VarInt = VarInt::from_u32(0);
/// Of the control stream; the others have 0. Answers are short, and go first.
const CONTROL_PRIORITY: i32 = 1;

/// What one lane holds, until the peer has all of it: only then is nothing left that could be taken back.
#[derive(Default)]
struct Held {
    /// Its stream, while nothing is being written.
    stream: Option<SendStream>,
    is_writing: bool,
    /// What goes out after that.
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    is_watched: bool,
    is_finished: bool,
    left: CancellationToken,
}

/// How a write ended.
enum Written {
    Done(SendStream),
    Stopped,
    Gone,
    Left,
}

/// The sending half.
pub(super) struct QuicSink {
    connection: Connection,
    control: SendStream,
    /// What the control stream has not taken of the frame that was fed last: the next one goes behind it.
    cut: Vec<Bytes>,
    lanes: Lanes,
    held: HashMap<LaneId, Held>,
    writing: FuturesUnordered<BoxFuture<'static, (LaneId, usize, Written)>>,
    /// Streams that the peer may stop, or have all of.
    watching: FuturesUnordered<BoxFuture<'static, LaneId>>,
    /// Lanes that are over.
    over: VecDeque<LaneId>,
    is_gone: bool,
    farewell: Arc<OnceLock<Farewell>>,
}

impl QuicSink {
    pub(super) fn new(
        connection: Connection,
        control: SendStream,
        farewell: Arc<OnceLock<Farewell>>,
    ) -> Self {
        // A stream that is gone by now says so when it is written to.
        drop(control.set_priority(CONTROL_PRIORITY));
        Self {
            connection,
            control,
            cut: Vec::new(),
            lanes: Lanes::default(),
            held: HashMap::new(),
            writing: FuturesUnordered::new(),
            watching: FuturesUnordered::new(),
            over: VecDeque::new(),
            is_gone: false,
            farewell,
        }
    }

    fn feed_lane(&mut self, lane: LaneId, mut frame: [Bytes; 2]) {
        // What it was for does not know yet; another stream would begin in the middle.
        if self.over.contains(&lane) {
            return;
        }
        let held = self.held.entry(lane).or_default();
        // Most frames find room; then the lane holds nothing, and nobody has to wait for it.
        if let (Some(stream), false) = (&mut held.stream, held.is_writing)
            && let Some(Ok(())) = stream.write_all_chunks(&mut frame).now_or_never()
        {
            return;
        }
        let bytes = frame.iter().map(Bytes::len).sum();
        self.lanes.hold(lane, bytes);
        held.queue.extend(frame);
        held.queued_bytes += bytes;
        if !held.is_writing {
            self.write(lane);
        }
    }

    /// Writes what is queued, at once as far as there is room.
    fn write(&mut self, lane: LaneId) {
        let Some(held) = self.held.get_mut(&lane) else { return };
        held.is_writing = true;
        let pieces = std::mem::take(&mut held.queue);
        let bytes = std::mem::take(&mut held.queued_bytes);
        let (connection, stream) = (self.connection.clone(), held.stream.take());
        let written = write(connection, stream, pieces.into(), held.left.clone());
        let mut writing = written.map(move |written| (lane, bytes, written)).boxed();
        match (&mut writing).now_or_never() {
            Some((lane, bytes, written)) => self.written(lane, bytes, written),
            None => self.writing.push(writing),
        }
    }

    fn written(&mut self, lane: LaneId, bytes: usize, written: Written) {
        let Some(held) = self.held.get_mut(&lane) else {
            // It was left just when it had been written.
            if let Written::Done(mut stream) = written {
                drop(stream.reset(LEFT));
            }
            return;
        };
        match written {
            Written::Done(mut stream) => {
                self.lanes.release(lane, bytes);
                held.is_writing = false;
                if !std::mem::replace(&mut held.is_watched, true) {
                    let (stopped, left) = (stream.stopped(), held.left.clone());
                    self.watching.push(Box::pin(async move {
                        tokio::select! {
                            _ = stopped => {}
                            () = left.cancelled() => {}
                        }
                        lane
                    }));
                }
                if held.is_finished && held.queue.is_empty() {
                    // What the peer has stopped needs no end.
                    drop(stream.finish());
                }
                held.stream = Some(stream);
                if !held.queue.is_empty() {
                    self.write(lane);
                }
            }
            Written::Stopped | Written::Left => self.is_over(lane),
            Written::Gone => self.is_gone = true,
        }
    }

    fn is_over(&mut self, lane: LaneId) {
        if self.remove(lane).is_some() {
            self.over.push_back(lane);
        }
    }

    fn remove(&mut self, lane: LaneId) -> Option<Held> {
        self.lanes.remove(lane);
        let held = self.held.remove(&lane)?;
        held.left.cancel();
        Some(held)
    }
}

async fn write(
    connection: Connection,
    mut stream: Option<SendStream>,
    mut pieces: Vec<Bytes>,
    left: CancellationToken,
) -> Written {
    let writing = async {
        let stream = match &mut stream {
            Some(stream) => stream,
            // It waits while the client allows no further stream.
            None => stream.insert(connection.open_uni().await.map_err(WriteError::from)?),
        };
        stream.write_all_chunks(&mut pieces).await
    };
    let written = tokio::select! {
        biased;
        () = left.cancelled() => None,
        written = writing => Some(written),
    };
    match (written, stream) {
        (Some(Ok(())), Some(stream)) => Written::Done(stream),
        (Some(Err(WriteError::Stopped(_))), _) => Written::Stopped,
        (None, stream) => {
            // Dropping it would end it in the middle of a frame.
            if let Some(mut stream) = stream {
                drop(stream.reset(LEFT));
            }
            Written::Left
        }
        _ => Written::Gone,
    }
}

impl FrameSink for QuicSink {
    fn lanes(&self) -> Option<Lanes> {
        Some(self.lanes.clone())
    }

    async fn feed(&mut self, lane: Lane, frame: FrameBytes) -> Result<(), Gone> {
        let front = FrameBytes { head: prefix(frame.len()).ok_or(Gone)?, body: frame.head }.into_bytes();
        let frame = [front, frame.body];
        match lane {
            Lane::Subscription(lane) => self.feed_lane(lane, frame),
            Lane::Control => {
                self.cut.extend(frame);
                while !self.cut.is_empty() {
                    tokio::select! {
                        biased;
                        written = self.control.write_all_chunks(&mut self.cut) => {
                            written.map_err(|_| Gone)?;
                            self.cut.clear();
                        }
                        // Who takes no answers goes on taking what it subscribed to.
                        Some((lane, bytes, written)) = self.writing.next() => self.written(lane, bytes, written),
                    }
                }
            }
        }
        if self.is_gone { Err(Gone) } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        // The stack sends by itself what it was given.
        Ok(())
    }

    fn finish(&mut self, lane: LaneId) {
        let Some(held) = self.held.get_mut(&lane) else { return };
        held.is_finished = true;
        if let Some(stream) = &mut held.stream {
            drop(stream.finish());
        }
    }

    fn leave(&mut self, lane: LaneId) {
        let Some(held) = self.remove(lane) else { return };
        if let Some(mut stream) = held.stream {
            drop(stream.reset(LEFT));
        }
    }

    async fn drive(&mut self) -> Result<LaneId, Gone> {
        loop {
            if self.is_gone {
                return Err(Gone);
            }
            if let Some(over) = self.over.pop_front() {
                return Ok(over);
            }
            tokio::select! {
                Some((lane, bytes, written)) = self.writing.next() => self.written(lane, bytes, written),
                Some(lane) = self.watching.next() => self.is_over(lane),
                else => std::future::pending().await,
            }
        }
    }

    async fn close(&mut self, last: Bytes, error: &Error) -> Result<(), Gone> {
        // First, so that who does not take the last frame is told by the close at least.
        drop(self.farewell.set(Farewell::of(error)));
        for lane in self.held.keys().copied().collect::<Vec<_>>() {
            self.leave(lane);
        }
        // Each of them ends at once, now that it was left.
        while self.writing.next().await.is_some() {}
        self.feed(Lane::Control, last.into()).await?;
        self.control.finish().map_err(|_| Gone)
    }
}
