//! Transports: what moves frames. Everything behind [`crate::connection`] exists once for all of them.

use std::future::Future;

use bytes::Bytes;
use longwire_proto::error::Error;

pub mod linger;
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
    /// The next frame. Dropping the future loses nothing.
    fn next(&mut self) -> impl Future<Output = Result<Bytes, LinkEnd>> + Send;

    /// The peer's hello is accepted: from here on it may send large frames, and has the place of a connection.
    ///
    /// # Errors
    /// [`LinkEnd::Refused`] when there is no place.
    fn admit(&mut self) -> Result<(), LinkEnd>;
}

/// The sending half of a link. An error means that the peer is gone.
pub trait FrameSink: Send {
    /// Adds a frame to what the next flush sends. Waits when the link's buffer is full.
    fn feed(&mut self, frame: Bytes) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Sends what was fed.
    fn flush(&mut self) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Ends the link with the close code of `error`.
    fn close(&mut self, error: &Error) -> impl Future<Output = Result<(), Gone>> + Send;
}

/// The peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;
