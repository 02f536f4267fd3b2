//! What moves frames for a client: one file a transport.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

pub(super) mod quic;
pub(super) mod websocket;

/// How a link ended, as it says itself, beside what the goodbye said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Close {
    /// The code of the close; 0 when it just ended.
    pub(super) code: u16,
    pub(super) reason: String,
}

/// A link, as a client has it. Frames of one subscription come in their order, and so do all others; streams that nothing
/// more is wanted of are its own affair.
pub(super) trait Link: Send {
    /// Sends an encoded frame. The broker may have ended the link; [`Link::closed`] says how.
    fn send(&mut self, frame: Bytes) -> BoxFuture<'_, ()>;

    /// Sends a part of a frame, where frames have parts: the rest will never come.
    fn begin(&mut self) -> BoxFuture<'_, ()>;

    /// The next frame; `None` when there are no more. Dropping the future loses nothing.
    fn receive(&mut self) -> BoxFuture<'_, Option<ServerFrame>>;

    /// Waits until the broker has ended the link, once there are no more frames.
    fn closed(&mut self) -> BoxFuture<'_, Close>;

    /// Leaves as a client should.
    fn leave(self: Box<Self>) -> BoxFuture<'static, ()>;

    /// Is gone, without the words that belong to leaving.
    fn abort(self: Box<Self>);
}
