//! What moves frames for a client: one file a transport.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use longwire_proto::error::Error;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

pub(super) mod grpc;
pub(super) mod memory;
pub(super) mod quic;
mod stream;
pub(super) mod websocket;

/// Bytes of a reason that every link has room for, but for a character that is cut (RFC 6455, section 5.5).
const REASON_BYTES_LEAST: usize = 120;

/// How a link ended, as it says itself, beside what the goodbye said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Close {
    /// The code of the close, or the number of the status; 0 when it just ended.
    pub(super) code: u16,
    pub(super) reason: String,
    /// It is a status of gRPC.
    pub(super) is_status: bool,
}

impl Close {
    /// It says that this was the reason, as far as it has room.
    #[track_caller]
    pub(super) fn assert_is(&self, error: &Error) {
        if self.is_status {
            assert_eq!(i32::from(self.code), error.code.grpc_status().number(), "{self:?}");
            assert_eq!(self.reason, format!("{} ({})", error.message, error.code));
            return;
        }
        let reason = format!("{}: {}", error.code, error.message);
        assert_eq!(self.code, error.code.close_code(), "{self:?}");
        let least = reason.len().min(REASON_BYTES_LEAST);
        assert!(self.reason.len() >= least && reason.starts_with(&self.reason), "{self:?}");
    }
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
