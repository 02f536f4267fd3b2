//! The receiving half: the control stream, as far as the client's handshake and hello have opened it.

use std::sync::Arc;

use bytes::Bytes;
use longwire_proto::early::only_reads;
use longwire_proto::framing::Deframer;
use longwire_proto::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX};
use quinn::{Connection, RecvStream};

use crate::sockets::SocketPlace;
use crate::transport::door::{Door, through};
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
    /// Until it is over, only what reads is handed out.
    handshake: Option<Handshake>,
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
        let control = Control { stream, frames, handshake, held: None };
        Self { connection, control, door: Some(Door::new(Some(place))) }
    }
}

impl FrameSource for QuicSource {
    async fn next(&mut self) -> Result<Bytes, LinkEnd> {
        let Self { control, door, .. } = self;
        through(door, control.next()).await
    }

    fn admit(&mut self) -> Result<(), LinkEnd> {
        self.door.as_mut().map_or(Ok(()), Door::admit)?;
        self.control.frames.set_frame_bytes_max(FRAME_BYTES_MAX);
        self.connection.set_receive_window(RECEIVE_WINDOW_BYTES.into());
        Ok(())
    }
}

impl Control {
    /// Dropping the future loses nothing.
    async fn next(&mut self) -> Result<Bytes, LinkEnd> {
        if self.held.is_none() {
            let frame = self.receive().await?;
            if self.handshake.is_none() || only_reads(&frame) {
                return Ok(frame);
            }
            self.held = Some(frame);
        }
        if let Some(handshake) = &self.handshake {
            if !handshake.over().await {
                return Err(LinkEnd::Gone);
            }
            self.handshake = None;
        }
        self.held.take().ok_or(LinkEnd::Gone)
    }

    async fn receive(&mut self) -> Result<Bytes, LinkEnd> {
        loop {
            if let Some(frame) = self.frames.pop().map_err(LinkEnd::Refused)? {
                return Ok(frame);
            }
            match self.stream.read_chunk(PIECE_BYTES, true).await {
                Ok(Some(piece)) => self.frames.push(piece.bytes),
                Ok(None) | Err(_) => return Err(LinkEnd::Gone),
            }
        }
    }
}
