//! Frames over WebSocket (RFC 6455): one frame a message.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use longwire_proto::codec::Encoding;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

use crate::sockets::SocketPlace;
use crate::transport::door::{Door, hello_too_large, poll_through};
use crate::transport::lanes::Lane;
use crate::transport::linger::linger;
use crate::transport::threshold::{Bounded, Threshold};
use crate::transport::{FrameSink, FrameSource, Gone, LinkEnd};

/// Read buffer of a connection: most frames of clients are small, and there are many idle connections.
const READ_BUFFER_BYTES: usize = 4 << 10;
/// Bytes that are gathered before they are written without being asked to flush.
const WRITE_BUFFER_BYTES: usize = 64 << 10;
/// Bytes of a close reason (RFC 6455, section 5.5: a control frame carries 125, two of them the code).
const CLOSE_REASON_BYTES_MAX: usize = 123;

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        // Room for what is gathered and the largest frames: a link waits when it is passed and never fails for it.
        .max_write_buffer_size(WRITE_BUFFER_BYTES + 4 * FRAME_BYTES_MAX)
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX))
}

/// Takes over an upgraded stream, whose socket has a place, and answers its two halves.
pub async fn accept<S>(
    stream: S,
    encoding: Encoding,
    place: Option<Arc<SocketPlace>>,
) -> (WebSocketSource<S>, WebSocketSink<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let threshold = Threshold::new(HELLO_BYTES_MAX);
    let stream = Bounded::new(stream, Arc::clone(&threshold));
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config())).await;
    let (sink, stream) = socket.split();
    let door = Some(Door::new(place));
    (WebSocketSource { stream, encoding, threshold, door }, WebSocketSink { sink, encoding })
}

/// Ends the stream whose two halves these are, once the peer has heard what was said to it.
pub async fn end<S>(source: WebSocketSource<S>, sink: WebSocketSink<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    // Halves of two streams do not come here.
    if let Ok(socket) = sink.sink.reunite(source.stream) {
        linger(socket.into_inner().into_inner()).await;
    }
}

/// Why nothing came through the threshold.
fn refusal(threshold: &Threshold, end: LinkEnd) -> LinkEnd {
    if threshold.is_spent() { LinkEnd::Refused(hello_too_large()) } else { end }
}

/// The receiving half.
#[derive(Debug)]
pub struct WebSocketSource<S> {
    stream: SplitStream<WebSocketStream<Bounded<S>>>,
    encoding: Encoding,
    threshold: Arc<Threshold>,
    /// Closed until the peer's hello was accepted.
    door: Option<Door>,
}

impl<S> FrameSource for WebSocketSource<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, LinkEnd>> {
        let Self { stream, encoding, threshold, door } = self;
        poll_through(door, context, |context| {
            poll_receive(stream, *encoding, context).map_err(|end| refusal(threshold, end))
        })
    }

    fn admit(&mut self) -> Result<(), LinkEnd> {
        self.door.as_mut().map_or(Ok(()), Door::admit)?;
        self.threshold.open();
        Ok(())
    }
}

fn poll_receive<S>(
    stream: &mut SplitStream<WebSocketStream<S>>,
    encoding: Encoding,
    context: &mut Context<'_>,
) -> Poll<Result<Bytes, LinkEnd>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    loop {
        return Poll::Ready(match (ready!(stream.poll_next_unpin(context)), encoding) {
            (Some(Ok(Message::Binary(bytes))), Encoding::Proto) => Ok(bytes),
            (Some(Ok(Message::Text(text))), Encoding::Json) => Ok(Bytes::from(text)),
            (Some(Ok(Message::Binary(_))), Encoding::Json) => Err(wrong_type("text", "binary", encoding)),
            (Some(Ok(Message::Text(_))), Encoding::Proto) => Err(wrong_type("binary", "text", encoding)),
            (Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))), _) => continue,
            (Some(Ok(Message::Close(_))) | None, _) => Err(LinkEnd::Gone),
            (Some(Err(error)), _) => Err(link_end(&error)),
        });
    }
}

fn wrong_type(due: &str, came: &str, encoding: Encoding) -> LinkEnd {
    let message =
        format!("a {came} message came where {due} is due with subprotocol {}", encoding.subprotocol());
    LinkEnd::Refused(Error::new(ErrorCode::WrongMessageType, message))
}

fn link_end(error: &tungstenite::Error) -> LinkEnd {
    match error {
        tungstenite::Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            LinkEnd::Refused(Error::frame_too_large(*size, *max_size))
        }
        tungstenite::Error::Utf8(_) => {
            LinkEnd::Refused(Error::new(ErrorCode::InvalidFrame, "a text message must be UTF-8"))
        }
        tungstenite::Error::Protocol(error) => {
            LinkEnd::Refused(Error::new(ErrorCode::InvalidFrame, format!("not a WebSocket frame: {error}")))
        }
        _ => LinkEnd::Gone,
    }
}

/// The sending half.
#[derive(Debug)]
pub struct WebSocketSink<S> {
    sink: SplitSink<WebSocketStream<Bounded<S>>, Message>,
    encoding: Encoding,
}

impl<S> FrameSink for WebSocketSink<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    async fn feed(&mut self, _lane: Lane, frame: Bytes) -> Result<(), Gone> {
        let message = match self.encoding {
            Encoding::Proto => Message::Binary(frame),
            Encoding::Json => Message::Text(Utf8Bytes::try_from(frame).map_err(|_| Gone)?),
        };
        self.sink.feed(message).await.map_err(|_| Gone)
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        self.sink.flush().await.map_err(|_| Gone)
    }

    async fn close(&mut self, last: Bytes, error: &Error) -> Result<(), Gone> {
        self.feed(Lane::Control, last).await?;
        let mut reason = format!("{}: {}", error.code, error.message);
        let mut length = CLOSE_REASON_BYTES_MAX.min(reason.len());
        while !reason.is_char_boundary(length) {
            length -= 1;
        }
        reason.truncate(length);
        let close = CloseFrame { code: CloseCode::from(error.code.close_code()), reason: reason.into() };
        self.sink.send(Message::Close(Some(close))).await.map_err(|_| Gone)
    }
}
