//! The receiving half: the control stream, as far as the client's hello has opened it.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use longwire_proto::framing::Deframer;
use longwire_proto::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX};
use quinn::{Connection, RecvStream};

use crate::sockets::SocketPlace;
use crate::transport::door::{Door, poll_through};
use crate::transport::quic::config::RECEIVE_WINDOW_BYTES;
use crate::transport::{FrameSource, LinkEnd};

/// Bytes that are taken from the stream at once.
const PIECE_BYTES: usize = 64 << 10;

/// The receiving half.
pub(super) struct QuicSource {
    connection: Connection,
    control: RecvStream,
    frames: Deframer,
    /// Closed until the peer's hello was accepted.
    door: Option<Door>,
}

impl QuicSource {
    pub(super) fn new(connection: Connection, control: RecvStream, place: Arc<SocketPlace>) -> Self {
        let door = Some(Door::new(Some(place)));
        Self { connection, control, frames: Deframer::new(HELLO_BYTES_MAX), door }
    }
}

impl FrameSource for QuicSource {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, LinkEnd>> {
        let Self { control, frames, door, .. } = self;
        poll_through(door, context, |context| poll_receive(control, frames, context))
    }

    fn admit(&mut self) -> Result<(), LinkEnd> {
        self.door.as_mut().map_or(Ok(()), Door::admit)?;
        self.frames.set_frame_bytes_max(FRAME_BYTES_MAX);
        self.connection.set_receive_window(RECEIVE_WINDOW_BYTES.into());
        Ok(())
    }
}

fn poll_receive(
    control: &mut RecvStream,
    frames: &mut Deframer,
    context: &mut Context<'_>,
) -> Poll<Result<Bytes, LinkEnd>> {
    loop {
        if let Some(frame) = frames.pop().map_err(LinkEnd::Refused)? {
            return Poll::Ready(Ok(frame));
        }
        // The stack keeps who is to be woken beyond the future.
        match ready!(pin!(control.read_chunk(PIECE_BYTES, true)).poll(context)) {
            Ok(Some(piece)) => frames.push(piece.bytes),
            Ok(None) | Err(_) => return Poll::Ready(Err(LinkEnd::Gone)),
        }
    }
}
