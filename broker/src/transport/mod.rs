//! Transports: what moves frames. Everything behind [`crate::connection`] exists once for all of them.

use std::future::{Future, poll_fn};
use std::task::{Context, Poll};

use bytes::Bytes;
use longwire_proto::codec::FrameBytes;
use longwire_proto::error::Error;

use crate::transport::lanes::{Lane, LaneId, Lanes};

mod door;
pub mod grpc;
pub mod lanes;
mod linger;
pub mod memory;
pub mod quic;
mod threshold;
pub mod websocket;

/// Why a link has no more frames.
#[derive(Debug)]
pub enum LinkEnd {
    /// The peer left, or the link broke: nobody can be told anything.
    Gone,
    /// The peer sent what is not a frame: it is told, and the link ends.
    Refused(Error),
}

/// The receiving half of a link.
pub trait FrameSource: Send {
    /// The next frame. Whoever was told that there is none yet is woken when there is, or when it is worth to look again.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, LinkEnd>>;

    /// The next frame. Dropping the future loses nothing.
    fn next(&mut self) -> impl Future<Output = Result<Bytes, LinkEnd>> + Send {
        poll_fn(|context| self.poll_next(context))
    }

    /// The peer's hello is accepted: from here on it may send large frames, and has the place of a connection.
    ///
    /// # Errors
    /// [`LinkEnd::Refused`] when there is no place.
    fn admit(&mut self) -> Result<(), LinkEnd>;
}

/// The sending half of a link. An error means that the peer is gone.
pub trait FrameSink: Send {
    /// The lanes beside that for control; `None` where all frames share that one. Then it does not matter what lane is named
    /// below.
    fn lanes(&self) -> Option<Lanes> {
        None
    }

    /// Adds a frame to what the next flush sends. For the control lane it waits when the link's buffer is full; for another
    /// one never: who feeds it has found room there ([`WithRoom`](lanes::WithRoom)). Dropping the future may lose the frame,
    /// and never a part of it.
    fn feed(&mut self, lane: Lane, frame: FrameBytes) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Sends what was fed.
    fn flush(&mut self) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Nothing more is fed to the lane; what was, goes out, and then [`Self::drive`] tells that it is over.
    fn finish(&mut self, _lane: LaneId) {}

    /// Nobody wants what is left of the lane.
    fn leave(&mut self, _lane: LaneId) {}

    /// Moves what lanes hold, for as long as it is polled. Answers with a lane that is over: the peer has all of it, or wants
    /// nothing more of it. Dropping the future loses nothing, not even who is to be woken.
    fn drive(&mut self) -> impl Future<Output = Result<LaneId, Gone>> + Send {
        std::future::pending()
    }

    /// Ends the link with a last frame and the close code of `error`. Nothing that a lane still holds goes out.
    fn close(&mut self, last: Bytes, error: &Error) -> impl Future<Output = Result<(), Gone>> + Send;
}

/// The peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;
