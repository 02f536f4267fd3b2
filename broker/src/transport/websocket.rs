//! Frames over WebSocket (RFC 6455): one frame a message.
//!
//! Both halves belong to one task, and share the stream: pongs and the answer to a close go out between the frames of the sink.

mod incoming;
mod outgoing;

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use longwire_proto::codec::{Encoding, FrameBytes};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::sockets::SocketPlace;
use crate::transport::door::{Door, hello_too_large, poll_through};
use crate::transport::lanes::Lane;
use crate::transport::linger::linger;
use crate::transport::threshold::{Bounded, Threshold};
use crate::transport::websocket::incoming::{Incoming, Message, Opcode, PIECE_BYTES, Violation};
use crate::transport::websocket::outgoing::{Outgoing, SLICES_MAX};
use crate::transport::{FrameSink, FrameSource, Gone, LinkEnd};

/// Bytes that are gathered before they are written without being asked to flush.
const WRITE_BUFFER_BYTES: usize = 64 << 10;

/// What both halves use.
#[derive(Debug)]
struct Socket<S> {
    stream: Bounded<S>,
    incoming: Incoming,
    outgoing: Outgoing,
    /// The last ping that was not answered: only that needs an answer (RFC 6455, section 5.5.3).
    ping: Option<Bytes>,
    /// Nothing goes out behind a close (section 5.5.1).
    is_closed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Receives some bytes; 0 at the end.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        if let Some(rest) = self.incoming.long() {
            return poll_read_buf(stream, context, rest);
        }
        let mut piece = [MaybeUninit::uninit(); PIECE_BYTES];
        let mut piece = ReadBuf::uninit(&mut piece);
        ready!(stream.poll_read(context, &mut piece))?;
        self.incoming.push(piece.filled());
        Poll::Ready(Ok(piece.filled().len()))
    }

    /// Writes until there are at most so many bytes left.
    fn poll_write_down_to(&mut self, context: &mut Context<'_>, most: usize) -> Poll<Result<(), Gone>> {
        while self.outgoing.bytes() > most {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = self.outgoing.slices(&mut slices);
            let stream = Pin::new(&mut self.stream);
            let written = match &slices[..count] {
                [slice] => stream.poll_write(context, slice),
                slices => stream.poll_write_vectored(context, slices),
            };
            match ready!(written) {
                Ok(written @ 1..) => self.outgoing.advance(written),
                Ok(0) | Err(_) => return Poll::Ready(Err(Gone)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        self.answer_ping();
        ready!(self.poll_write_down_to(context, 0))?;
        Pin::new(&mut self.stream).poll_flush(context).map_err(|_| Gone)
    }

    /// Answers a ping behind what there is, unless too much waits already: then it is answered later, if none comes meanwhile.
    fn answer_ping(&mut self) {
        if !self.is_closed
            && self.outgoing.bytes() <= WRITE_BUFFER_BYTES
            && let Some(ping) = self.ping.take()
        {
            self.outgoing.push(Opcode::Pong, ping.into());
        }
    }

    /// The next message; an error when the peer is gone, or sent what nobody may.
    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Result<Message, LinkEnd>> {
        loop {
            match self.incoming.next() {
                Ok(Some(Message::Ping(ping))) => self.ping = Some(ping),
                Ok(Some(Message::Pong)) => {}
                Ok(Some(message)) => return Poll::Ready(Ok(message)),
                Ok(None) => {
                    if self.ping.is_some() {
                        // Where there is no room, whoever makes some answers it.
                        if let Poll::Ready(Err(Gone)) = self.poll_flush(context) {
                            return Poll::Ready(Err(LinkEnd::Gone));
                        }
                    }
                    match ready!(self.poll_receive(context)) {
                        Ok(1..) => {}
                        Ok(0) | Err(_) => return Poll::Ready(Err(LinkEnd::Gone)),
                    }
                }
                Err(violation) => return Poll::Ready(Err(refused(violation))),
            }
        }
    }

    /// The peer leaves, and is told that this was heard, as far as that needs no waiting.
    fn leave(&mut self, context: &mut Context<'_>, code: Option<u16>) {
        if !self.is_closed {
            self.outgoing.push_close(code, "");
            self.is_closed = true;
            // It has left, whether it hears this or not.
            let _: Poll<Result<(), Gone>> = self.poll_flush(context);
        }
    }
}

type Shared<S> = Arc<Mutex<Socket<S>>>;

// Both halves are polled by one task; nothing panics while it holds the lock.
fn lock<S>(socket: &Mutex<Socket<S>>) -> MutexGuard<'_, Socket<S>> {
    socket.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes over an upgraded stream, whose socket has a place, and answers its two halves.
pub fn accept<S>(
    stream: S,
    encoding: Encoding,
    place: Option<Arc<SocketPlace>>,
) -> (WebSocketSource<S>, WebSocketSink<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let threshold = Threshold::new(HELLO_BYTES_MAX);
    let outgoing = Outgoing::new(stream.is_write_vectored());
    let stream = Bounded::new(stream, Arc::clone(&threshold));
    let socket = Socket { stream, incoming: Incoming::default(), outgoing, ping: None, is_closed: false };
    let socket = Arc::new(Mutex::new(socket));
    let door = Some(Door::new(place));
    let source = WebSocketSource { socket: Arc::clone(&socket), encoding, threshold, door };
    (source, WebSocketSink { socket, encoding })
}

/// Ends the stream whose two halves these are, once the peer has heard what was said to it.
pub async fn end<S>(source: WebSocketSource<S>, sink: WebSocketSink<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    drop(sink);
    // Halves of two streams do not come here.
    if let Some(socket) = Arc::into_inner(source.socket) {
        let socket = socket.into_inner().unwrap_or_else(PoisonError::into_inner);
        linger(socket.stream.into_inner()).await;
    }
}

fn refused(violation: Violation) -> LinkEnd {
    LinkEnd::Refused(match violation {
        Violation::TooLong(bytes) => {
            Error::frame_too_large(usize::try_from(bytes).unwrap_or(usize::MAX), FRAME_BYTES_MAX)
        }
        Violation::NotUtf8 => Error::new(ErrorCode::InvalidFrame, violation.to_string()),
        Violation::Protocol(what) => {
            Error::new(ErrorCode::InvalidFrame, format!("not a WebSocket frame: {what}"))
        }
    })
}

/// The receiving half.
pub struct WebSocketSource<S> {
    socket: Shared<S>,
    encoding: Encoding,
    threshold: Arc<Threshold>,
    /// Closed until the peer's hello was accepted.
    door: Option<Door>,
}

impl<S> fmt::Debug for WebSocketSource<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WebSocketSource").field("encoding", &self.encoding).finish_non_exhaustive()
    }
}

impl<S> FrameSource for WebSocketSource<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, LinkEnd>> {
        let Self { socket, encoding, threshold, door } = self;
        poll_through(door, context, |context| {
            let mut socket = lock(socket);
            let message = ready!(socket.poll_message(context));
            // Nothing came through the threshold.
            let end = |end| if threshold.is_spent() { LinkEnd::Refused(hello_too_large()) } else { end };
            Poll::Ready(match (message.map_err(end)?, *encoding) {
                (Message::Binary(bytes), Encoding::Proto) | (Message::Text(bytes), Encoding::Json) => {
                    Ok(bytes)
                }
                (Message::Binary(_), Encoding::Json) => Err(wrong_type("text", "binary", Encoding::Json)),
                (Message::Text(_), Encoding::Proto) => Err(wrong_type("binary", "text", Encoding::Proto)),
                (Message::Close(code), _) => {
                    socket.leave(context, code);
                    Err(LinkEnd::Gone)
                }
                // These are answered where they are received.
                (Message::Ping(_) | Message::Pong, _) => Err(LinkEnd::Gone),
            })
        })
    }

    fn admit(&mut self) -> Result<(), LinkEnd> {
        self.door.as_mut().map_or(Ok(()), Door::admit)?;
        self.threshold.open();
        Ok(())
    }
}

fn wrong_type(due: &str, came: &str, encoding: Encoding) -> LinkEnd {
    let message =
        format!("a {came} message came where {due} is due with subprotocol {}", encoding.subprotocol());
    LinkEnd::Refused(Error::new(ErrorCode::WrongMessageType, message))
}

/// The sending half.
pub struct WebSocketSink<S> {
    socket: Shared<S>,
    encoding: Encoding,
}

impl<S> fmt::Debug for WebSocketSink<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WebSocketSink").field("encoding", &self.encoding).finish_non_exhaustive()
    }
}

impl<S> FrameSink for WebSocketSink<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    async fn feed(&mut self, _lane: Lane, frame: FrameBytes) -> Result<(), Gone> {
        let opcode = match self.encoding {
            Encoding::Proto => Opcode::Binary,
            Encoding::Json => Opcode::Text,
        };
        let mut frame = Some(frame);
        poll_fn(|context| {
            let mut socket = lock(&self.socket);
            ready!(socket.poll_write_down_to(context, WRITE_BUFFER_BYTES))?;
            match frame.take() {
                Some(frame) if !socket.is_closed => socket.outgoing.push(opcode, frame),
                _ => return Poll::Ready(Err(Gone)),
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        poll_fn(|context| lock(&self.socket).poll_flush(context)).await
    }

    async fn close(&mut self, last: Bytes, error: &Error) -> Result<(), Gone> {
        self.feed(Lane::Control, last.into()).await?;
        let reason = format!("{}: {}", error.code, error.message);
        {
            let mut socket = lock(&self.socket);
            socket.outgoing.push_close(Some(error.code.close_code()), &reason);
            socket.is_closed = true;
        }
        self.flush().await
    }
}

#[cfg(test)]
mod tests;
