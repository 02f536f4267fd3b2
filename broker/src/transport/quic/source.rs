//! The receiving half: the control stream, as far as the client's hello has opened it.

use std::sync::Arc;

use bytes::Bytes;
use longwire_proto::framing::Deframer;
use longwire_proto::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX};
use quinn::{Connection, RecvStream};

use crate::sockets::SocketPlace;
use crate::transport::door::{Door, through};
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
    async fn next(&mut self) -> Result<Bytes, LinkEnd> {
        let Self { control, frames, door, .. } = self;
        through(door, receive(control, frames)).await
    }

    fn admit(&mut self) -> Result<(), LinkEnd> {
        self.door.as_mut().map_or(Ok(()), Door::admit)?;
        self.frames.set_frame_bytes_max(FRAME_BYTES_MAX);
        self.connection.set_receive_window(RECEIVE_WINDOW_BYTES.into());
        Ok(())
    }
}

async fn receive(control: &mut RecvStream, frames: &mut Deframer) -> Result<Bytes, LinkEnd> {
    loop {
        if let Some(frame) = frames.pop().map_err(LinkEnd::Refused)? {
            return Ok(frame);
        }
        match control.read_chunk(PIECE_BYTES, true).await {
            Ok(Some(piece)) => frames.push(piece.bytes),
            Ok(None) | Err(_) => return Err(LinkEnd::Gone),
        }
    }
}
