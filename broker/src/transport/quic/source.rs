//! The receiving half: the control stream, as far as the client's handshake and hello have opened it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use longwire_proto::early::only_reads;
use longwire_proto::framing::Deframer;
use longwire_proto::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX};
use quinn::{Connection, RecvStream};

use crate::sockets::SocketPlace;
use crate::transport::door::{Door, poll_through};
use crate::transport::quic::config::RECEIVE_WINDOW_BYTES;
use crate::transport::quic::handshake::Handshake;
use crate::transport::{FrameSource, LinkEnd};

/// Bytes that are taken from the stream at once.
const PIECE_BYTES: usize = 64 << 10;

/// The receiving half.
pub(super) struct QuicSource {
    connection: Connection,
    control: Control,
    /// Closed until the peer's hello was accepted.
    door: Option<Door>,
}

struct Control {
    stream: RecvStream,
    frames: Deframer,
    /// Until it is over, only what reads is handed out; says whether it was finished.
    handshake: Option<BoxFuture<'static, bool>>,
    /// The frame that waits for that. Nothing behind it is looked at.
    held: Option<Bytes>,
}

impl QuicSource {
    /// With the handshake when the stream came before its end.
    pub(super) fn new(
        connection: Connection,
        stream: RecvStream,
        place: Arc<SocketPlace>,
        handshake: Option<Handshake>,
    ) -> Self {
        let frames = Deframer::new(HELLO_BYTES_MAX);
        let handshake = handshake.map(|handshake| async move { handshake.over().await }.boxed());
        let control = Control { stream, frames, handshake, held: None };
        Self { connection, control, door: Some(Door::new(Some(place))) }
    }
}

impl FrameSource for QuicSource {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, LinkEnd>> {
        let Self { control, door, .. } = self;
        poll_through(door, context, |context| control.poll_next(context))
    }

    fn admit(&mut self) -> Result<(), LinkEnd> {
        self.door.as_mut().map_or(Ok(()), Door::admit)?;
        self.control.frames.set_frame_bytes_max(FRAME_BYTES_MAX);
        self.connection.set_receive_window(RECEIVE_WINDOW_BYTES.into());
        Ok(())
    }
}

impl Control {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, LinkEnd>> {
        if self.held.is_none() {
            let frame = ready!(self.poll_receive(context))?;
            if self.handshake.is_none() || only_reads(&frame) {
                return Poll::Ready(Ok(frame));
            }
            self.held = Some(frame);
        }
        if let Some(handshake) = &mut self.handshake {
            if !ready!(handshake.as_mut().poll(context)) {
                return Poll::Ready(Err(LinkEnd::Gone));
            }
            self.handshake = None;
        }
        Poll::Ready(self.held.take().ok_or(LinkEnd::Gone))
    }

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, LinkEnd>> {
        loop {
            if let Some(frame) = self.frames.pop().map_err(LinkEnd::Refused)? {
                return Poll::Ready(Ok(frame));
            }
            // The stack keeps who is to be woken beyond the future.
            match ready!(pin!(self.stream.read_chunk(PIECE_BYTES, true)).poll(context)) {
                Ok(Some(piece)) => self.frames.push(piece.bytes),
                Ok(None) | Err(_) => return Poll::Ready(Err(LinkEnd::Gone)),
            }
        }
    }
}
