//! The link: a WebSocket, QUIC (`quic.rs`) or gRPC (`grpc.rs`). It connects (`dial.rs`), writes what is queued and reads frames, all within one
//! poll, so that neither direction ever waits for the other.

mod dial;
mod endpoints;
#[cfg(feature = "grpc")]
mod grpc;
mod quic;
mod target;
mod websocket;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, Sink, SinkExt, Stream as _};
use longwire_proto::codec::Encoding;
use longwire_proto::error::ErrorCode;
use longwire_proto::limits::FRAME_BYTES_MAX;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};

use crate::address::Address;
use crate::connect_failure::ConnectFailure;
use crate::dialer::Dialer;
use crate::error::Closed;
use crate::heard::Heard;
use crate::link::dial::{Dialed, dial};
use crate::link::quic::QuicLink;
use crate::link::target::Target;
use crate::tls::Tls;
use crate::tls::stream::Stream;
use crate::transport::Transport;

/// A polite close is tried for this long.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes queued for the socket above which no further publish is taken out of the outbox.
const QUEUED_BYTES_MAX: usize = 1 << 20;
/// Bytes of a message of the broker: a record at its limit can need several times its size as JSON.
const MESSAGE_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;

type Socket = WebSocketStream<Stream>;
type Connecting = Pin<Box<dyn Future<Output = Dialed> + Send>>;

/// What happened on the link.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    Connected(Transport),
    ConnectFailed(ConnectFailure),
    Frame(Box<Heard>, u64),
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

impl Open {
    fn transport(&self) -> Transport {
        match self {
            Self::WebSocket(_) => Transport::WebSocket,
            Self::Quic(_) => Transport::Quic,
            #[cfg(feature = "grpc")]
            Self::Grpc(_) => Transport::Grpc,
        }
    }

    /// Whether it has said the greeting that it was dialed with.
    fn has_greeted(&self) -> bool {
        matches!(self, Self::Quic(_))
    }

    /// Leaves a connection that nothing was said over, but a greeting that changes nothing.
    fn abandon(mut self) {
        match &mut self {
            // What does not get away at once is said by the end of the stream.
            Self::WebSocket(socket) => drop(socket.send(Message::Close(None)).now_or_never()),
            Self::Quic(link) => link.leave(),
            // The end of the stream says it.
            #[cfg(feature = "grpc")]
            Self::Grpc(_) => {}
        }
    }
}

pub(crate) struct Link {
    target: Arc<Target>,
    encoding: Encoding,
    state: State,
    dialer: Dialer,
    began: Instant,
    /// The broker has said something over this connection.
    is_heard: bool,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    unflushed: bool,
}

impl Link {
    pub(crate) fn new(address: Address, tls: Option<Tls>, encoding: Encoding) -> Self {
        Self {
            dialer: Dialer::new(address.scheme.transports()),
            target: Arc::new(Target::new(address, tls, encoding)),
            encoding,
            state: State::Idle,
            began: Instant::now(),
            is_heard: false,
            queue: VecDeque::new(),
            queued_bytes: 0,
            unflushed: false,
        }
    }

    /// Connects, and says the greeting first: encoded frames that only read.
    pub(crate) fn connect(&mut self, greeting: Vec<Bytes>) {
        self.disconnect();
        let dialing = dial(Arc::clone(&self.target), self.dialer.clone(), self.began, greeting);
        self.state = State::Connecting(Box::pin(dialing));
    }

    pub(crate) fn disconnect(&mut self) {
        if let State::Open(Open::Quic(_)) = self.state
            && !self.is_heard
        {
            self.dialer.silent(self.began.elapsed());
        }
        self.forget();
    }

    fn forget(&mut self) {
        self.state = State::Idle;
        self.is_heard = false;
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
            let (queue, encoding, target) = (&mut self.queue, self.encoding, &self.target);
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
                        target.endpoints.wait_idle(link.remote()).await;
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
        self.forget();
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<LinkEvent> {
        let event = match &mut self.state {
            State::Idle => return Poll::Pending,
            State::Connecting(connecting) => {
                let Dialed { tried, outcome, greeting } = ready!(connecting.as_mut().poll(context));
                let won = outcome.as_ref().ok().map(Open::transport);
                self.dialer.decided(self.began.elapsed(), &tried, won);
                match outcome {
                    Ok(open) => {
                        let transport = open.transport();
                        let rest = if open.has_greeted() { Vec::new() } else { greeting };
                        self.state = State::Open(open);
                        rest.into_iter().for_each(|frame| self.send(frame));
                        return Poll::Ready(LinkEvent::Connected(transport));
                    }
                    Err(failure) => LinkEvent::ConnectFailed(failure),
                }
            }
            State::Open(_) => match self.poll_write(context) {
                Poll::Ready(Err(error)) => self.broken(error),
                _ => match ready!(self.poll_read(context)) {
                    Ok((heard, bytes)) => {
                        self.heard();
                        return Poll::Ready(LinkEvent::Frame(Box::new(heard), bytes));
                    }
                    Err(error) => self.broken(error),
                },
            },
        };
        self.forget();
        Poll::Ready(event)
    }

    fn heard(&mut self) {
        if !std::mem::replace(&mut self.is_heard, true) && matches!(self.state, State::Open(Open::Quic(_))) {
            self.dialer.heard();
        }
    }

    /// A connection that is over, and may have been none to begin with.
    fn broken(&mut self, error: String) -> LinkEvent {
        let State::Open(Open::Quic(link)) = &self.state else { return LinkEvent::Disconnected(error) };
        if link.timed_out() && !self.is_heard {
            self.dialer.silent(self.began.elapsed());
        }
        match link.refusal() {
            None => LinkEvent::Disconnected(error),
            Some(failure) => {
                let fatal = Some(Closed::Tls { url: self.target.address.url.clone(), failure });
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

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(Heard, u64), String>> {
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
            match Heard::decode(self.encoding, bytes) {
                Ok(heard) => return Poll::Ready(Ok((heard, length))),
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
