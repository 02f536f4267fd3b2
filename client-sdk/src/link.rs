//! The link: a WebSocket, QUIC (`quic.rs`) or gRPC (`grpc.rs`). It connects, writes what is queued and reads frames, all within one poll, so that neither direction ever
//! waits for the other.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream as _};
use longwire_proto::codec::{self, Encoding};
use longwire_proto::error::ErrorCode;
use longwire_proto::limits::FRAME_BYTES_MAX;
use longwire_proto::wire::server_frame::Frame;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};

use crate::address::Address;
use crate::error::Closed;
use crate::link::quic::{Endpoints, QuicLink};
use crate::tls::Tls;
use crate::tls::failure::failure;
use crate::tls::stream::Stream;

/// A broker that does not answer within this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A polite close is tried for this long.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes queued for the socket above which no further publish is taken out of the outbox.
const QUEUED_BYTES_MAX: usize = 1 << 20;
/// Bytes read at a time: most frames are small.
const READ_BUFFER_BYTES: usize = 8 << 10;
/// Bytes that the WebSocket gathers before it writes.
const WRITE_BUFFER_BYTES: usize = 64 << 10;
/// Bytes of a message of the broker: a record at its limit can need several times its size as JSON.
const MESSAGE_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;

#[cfg(feature = "grpc")]
mod grpc;
mod quic;

type Socket = WebSocketStream<Stream>;
type Connecting = Pin<Box<dyn Future<Output = Result<Open, ConnectFailure>> + Send>>;

/// Why no connection was made.
#[derive(Debug)]
pub(crate) struct ConnectFailure {
    pub(crate) error: String,
    /// Why trying again is of no use, when it is.
    pub(crate) fatal: Option<Closed>,
}

/// What happened on the link.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    Connected,
    ConnectFailed(ConnectFailure),
    Frame(Box<Frame>, u64),
    Disconnected(String),
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Connecting(Connecting),
    Open(Open),
}

enum Open {
    WebSocket(Box<Socket>),
    Quic(Box<QuicLink>),
    #[cfg(feature = "grpc")]
    Grpc(Box<grpc::GrpcLink>),
}

pub(crate) struct Link {
    address: Address,
    tls: Option<Tls>,
    encoding: Encoding,
    state: State,
    endpoints: Arc<Endpoints>,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    unflushed: bool,
}

impl Link {
    pub(crate) fn new(address: Address, tls: Option<Tls>, encoding: Encoding) -> Self {
        Self {
            address,
            tls,
            encoding,
            state: State::Idle,
            endpoints: Arc::default(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            unflushed: false,
        }
    }

    pub(crate) fn connect(&mut self) {
        self.disconnect();
        let (address, tls) = (self.address.clone(), self.tls.clone());
        let connecting = connect(address, tls, self.encoding, Arc::clone(&self.endpoints));
        self.state = State::Connecting(Box::pin(connecting));
    }

    pub(crate) fn disconnect(&mut self) {
        self.state = State::Idle;
        self.queue.clear();
        self.queued_bytes = 0;
        self.unflushed = false;
    }

    /// Whether publishes may be queued.
    pub(crate) fn has_room(&self) -> bool {
        self.queued_bytes < QUEUED_BYTES_MAX
    }

    /// Queues an encoded frame.
    pub(crate) fn send(&mut self, frame: Bytes) {
        self.queued_bytes += frame.len();
        self.queue.push_back(frame);
    }

    /// Waits for what happens next, writing meanwhile. Safe to drop between polls.
    pub(crate) async fn next(&mut self) -> LinkEvent {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// Says goodbye, with what is queued in front of it.
    pub(crate) async fn close(&mut self) {
        if let State::Open(open) = &mut self.state {
            let (queue, encoding, endpoints) = (&mut self.queue, self.encoding, &self.endpoints);
            let farewell = async {
                match open {
                    Open::WebSocket(socket) => {
                        for frame in queue.drain(..) {
                            socket.feed(message(frame, encoding)).await?;
                        }
                        socket.send(Message::Close(None)).await
                    }
                    Open::Quic(link) => {
                        link.close(queue).await;
                        endpoints.wait_idle().await;
                        Ok(())
                    }
                    #[cfg(feature = "grpc")]
                    Open::Grpc(link) => {
                        link.close(queue).await;
                        Ok(())
                    }
                }
            };
            // Whoever does not take a farewell within this time will notice that nobody is there.
            drop(tokio::time::timeout(CLOSE_TIMEOUT, farewell).await);
        }
        self.disconnect();
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<LinkEvent> {
        let event = match &mut self.state {
            State::Idle => return Poll::Pending,
            State::Connecting(connecting) => match ready!(connecting.as_mut().poll(context)) {
                Ok(open) => {
                    self.state = State::Open(open);
                    return Poll::Ready(LinkEvent::Connected);
                }
                Err(failure) => LinkEvent::ConnectFailed(failure),
            },
            State::Open(_) => match self.poll_write(context) {
                Poll::Ready(Err(error)) => self.broken(error),
                _ => match ready!(self.poll_read(context)) {
                    Ok((frame, bytes)) => return Poll::Ready(LinkEvent::Frame(Box::new(frame), bytes)),
                    Err(error) => self.broken(error),
                },
            },
        };
        self.disconnect();
        Poll::Ready(event)
    }

    /// A connection that is over, and may have been none to begin with.
    fn broken(&self, error: String) -> LinkEvent {
        let State::Open(Open::Quic(link)) = &self.state else { return LinkEvent::Disconnected(error) };
        match link.refusal() {
            None => LinkEvent::Disconnected(error),
            Some(failure) => {
                let fatal = Some(Closed::Tls { url: self.address.url.clone(), failure });
                LinkEvent::ConnectFailed(ConnectFailure { error, fatal })
            }
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), String>> {
        let State::Open(open) = &mut self.state else { return Poll::Ready(Ok(())) };
        match open {
            Open::WebSocket(_) => self.poll_write_messages(context).map_err(|error| error.to_string()),
            Open::Quic(link) => link.poll_write(context, &mut self.queue, &mut self.queued_bytes),
            #[cfg(feature = "grpc")]
            Open::Grpc(link) => link.poll_write(context, &mut self.queue, &mut self.queued_bytes),
        }
    }

    fn poll_write_messages(&mut self, context: &mut Context<'_>) -> Poll<Result<(), WebSocketError>> {
        let State::Open(Open::WebSocket(socket)) = &mut self.state else { return Poll::Ready(Ok(())) };
        let mut socket = Pin::new(socket.as_mut());
        while !self.queue.is_empty() {
            ready!(socket.as_mut().poll_ready(context))?;
            let Some(frame) = self.queue.pop_front() else { break };
            self.queued_bytes -= frame.len();
            self.unflushed = true;
            socket.as_mut().start_send(message(frame, self.encoding))?;
        }
        if self.unflushed {
            ready!(socket.poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(Frame, u64), String>> {
        let socket = match &mut self.state {
            State::Open(Open::WebSocket(socket)) => socket,
            State::Open(Open::Quic(link)) => return link.poll_read(context),
            #[cfg(feature = "grpc")]
            State::Open(Open::Grpc(link)) => return link.poll_read(context),
            State::Idle | State::Connecting(_) => return Poll::Pending,
        };
        loop {
            let message = match ready!(Pin::new(socket.as_mut()).poll_next(context)) {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Poll::Ready(Err(error.to_string())),
                None => return Poll::Ready(Err("the broker ended the connection".to_owned())),
            };
            let bytes = match (message, self.encoding) {
                (Message::Binary(bytes), Encoding::Proto) => bytes,
                (Message::Text(text), Encoding::Json) => Bytes::from(text),
                (Message::Close(Some(frame)), _) => {
                    return Poll::Ready(Err(format!("the broker closed the connection: {frame}")));
                }
                (Message::Close(None), _) => {
                    return Poll::Ready(Err("the broker closed the connection".to_owned()));
                }
                (Message::Binary(_) | Message::Text(_), _) => {
                    return Poll::Ready(Err("the broker sent the wrong type of message".to_owned()));
                }
                _ => continue,
            };
            let length = bytes.len() as u64;
            match codec::decode_server(self.encoding, bytes) {
                Ok(frame) => return Poll::Ready(Ok((frame, length))),
                // A newer broker may say more than this SDK understands.
                Err(error) if error.code == ErrorCode::UnknownFrame => {}
                Err(error) => return Poll::Ready(Err(error.to_string())),
            }
        }
    }
}

fn message(frame: Bytes, encoding: Encoding) -> Message {
    match encoding {
        Encoding::Proto => Message::Binary(frame),
        Encoding::Json => Message::text(String::from_utf8_lossy(&frame).into_owned()),
    }
}

async fn connect(
    address: Address,
    tls: Option<Tls>,
    encoding: Encoding,
    endpoints: Arc<Endpoints>,
) -> Result<Open, ConnectFailure> {
    let handshake = async {
        match &tls {
            Some(tls) if address.quic => {
                QuicLink::connect(&address, tls, &endpoints).await.map(|link| Open::Quic(Box::new(link)))
            }
            #[cfg(feature = "grpc")]
            tls if address.grpc => {
                let link = grpc::GrpcLink::connect(&address, tls.as_ref()).await;
                link.map(|link| Open::Grpc(Box::new(link)))
            }
            tls => {
                handshake(&address, tls.as_ref(), encoding).await.map(|open| Open::WebSocket(Box::new(open)))
            }
        }
    };
    tokio::time::timeout(CONNECT_TIMEOUT, handshake).await.unwrap_or_else(|_| {
        let error = format!("{} did not answer within {} s", address.url, CONNECT_TIMEOUT.as_secs());
        Err(ConnectFailure { error, fatal: None })
    })
}

async fn handshake(
    address: &Address,
    tls: Option<&Tls>,
    encoding: Encoding,
) -> Result<Socket, ConnectFailure> {
    let failed = |error: &dyn std::fmt::Display| {
        let error = format!("no connection to {}: {error}", address.url);
        ConnectFailure { error, fatal: None }
    };
    let failed_io = |error: &std::io::Error| {
        let fatal = failure(error).map(|failure| Closed::Tls { url: address.url.clone(), failure });
        ConnectFailure { fatal, ..failed(error) }
    };
    let mut request = address.url.as_str().into_client_request().map_err(|error| failed(&error))?;
    let subprotocol = HeaderValue::from_static(encoding.subprotocol());
    request.headers_mut().insert("sec-websocket-protocol", subprotocol);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(MESSAGE_BYTES_MAX)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let stream = TcpStream::connect((address.host.as_str(), address.port));
    let stream = stream.await.map_err(|error| failed(&error))?;
    // Frames are gathered here; the kernel shall not wait for more.
    stream.set_nodelay(true).map_err(|error| failed(&error))?;
    let stream = match tls {
        None => Stream::Plain(stream),
        Some(tls) => Stream::Tls(Box::new(tls.connect(stream).await.map_err(|error| failed_io(&error))?)),
    };
    match tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await {
        Ok((socket, _)) => Ok(socket),
        Err(WebSocketError::Http(response)) => {
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let status = response.status();
            let failure = failed(&format!("HTTP {status} {body}"));
            // The broker speaks none of our subprotocols; everything else a proxy may say for a while.
            let fatal = status.as_u16() == 400 && body.contains(ErrorCode::UnsupportedProtocol.as_str());
            let fatal = fatal.then(|| Closed::Refused(failure.error.clone()));
            Err(ConnectFailure { fatal, ..failure })
        }
        // In TLS 1.3 a client learns only now what the broker thinks of its certificate.
        Err(WebSocketError::Io(error)) => Err(failed_io(&error)),
        Err(error) => Err(failed(&error)),
    }
}
