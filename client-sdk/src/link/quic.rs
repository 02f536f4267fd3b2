//! QUIC: a stream for control, and one for each subscription, read as if they were one link.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::future::{AbortHandle, Abortable, FutureExt};
use futures_util::stream::{BoxStream, SelectAll, StreamExt, unfold};
use longwire_proto::codec::Encoding;
use longwire_proto::early::only_reads;
use longwire_proto::error::ErrorCode;
use longwire_proto::framing::{Deframer, prefix};
use longwire_proto::limits::SUBSCRIPTIONS_MAX;
use longwire_proto::wire::server_frame::Frame;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connecting, Connection, ConnectionError, MtuDiscoveryConfig, ReadError, RecvStream,
    SendStream, TransportConfig, VarInt, WriteError,
};
use rustls::AlertDescription;

use crate::connect_failure::ConnectFailure;
use crate::error::{Closed, TlsFailure};
use crate::heard::Heard;
use crate::link::MESSAGE_BYTES_MAX;
use crate::link::endpoints::LOCAL_MTU;
use crate::link::target::Target;
use crate::tls::Tls;
use crate::tls::failure::of_alert;

/// Streams that the broker opens: one a subscription, and another one while it begins anew.
const STREAMS_MAX: VarInt = VarInt::from_u32(2 * SUBSCRIPTIONS_MAX as u32);
/// Bytes that come ahead of what was read of one stream.
const STREAM_WINDOW_BYTES: VarInt = VarInt::from_u32(1 << 20);
/// The same of all: they are read whenever there is something, so none keeps the others from it.
const WINDOW_BYTES: VarInt = VarInt::from_u32(8 << 20);
/// Bytes that the broker has not acknowledged.
const SEND_WINDOW_BYTES: u64 = 4 << 20;
/// Most routers forget a flow of UDP after 30 seconds of silence; and this is when a client that only listens hears that the
/// broker was killed, and is back.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Bytes that are taken from a stream at once.
const PIECE_BYTES: usize = 64 << 10;
/// The code of who leaves, or wants no more of a stream.
const LEFT: VarInt = VarInt::from_u32(0);
/// No packet of QUIC begins so (RFC 9000, section 17), and whoever gets it throws it away; but a system on which nobody
/// listens says so.
const PROBE: [u8; 1] = [0];
/// Errors of QUIC from here on are alerts of TLS (RFC 9001, section 4.8).
const ALERTS: u64 = 0x100;

/// Where a frame comes from.
#[derive(Clone, Copy, Debug)]
struct Lane {
    /// Which stream of the broker: a later one has a higher number.
    index: u64,
    /// The number of the subscription, as its first frame says.
    subscription: u32,
}

enum Came {
    Frame(Option<Lane>, Box<Heard>, u64),
    /// The stream is over, as it should be.
    Ended(Option<Lane>, u64),
    Failed(String),
}

type Streams = BoxStream<'static, Result<RecvStream, ConnectionError>>;

/// An open connection.
pub(super) struct QuicLink {
    connection: Connection,
    control: SendStream,
    /// What is being written.
    pieces: VecDeque<Bytes>,
    frames: SelectAll<BoxStream<'static, Came>>,
    streams: Streams,
    /// The broker said welcome; what overtook that waits.
    is_welcome: bool,
    /// The streams of subscriptions.
    lanes: HashMap<u64, AbortHandle>,
    /// The newest of each subscription.
    newest: HashMap<u32, u64>,
}

impl QuicLink {
    /// Connects, and says the greeting: with the first packets, when the broker gave a session to resume.
    pub(super) async fn connect(
        target: &Target,
        tls: &Tls,
        remote: SocketAddr,
        greeting: &[Bytes],
    ) -> Result<Self, ConnectFailure> {
        let failed = |error: &dyn std::fmt::Display| ConnectFailure::passing(error.to_string());
        let config = config(tls.quic(), remote.ip()).map_err(|error| failed(&error))?;
        let endpoint = target.endpoints.to(remote).map_err(|error| failed(&error))?;
        let connecting = endpoint.connect_with(config, remote, &target.address.host);
        let connecting = connecting.map_err(|error| failed(&error))?;
        let refused = tokio::select! {
            biased;
            connected = Self::open(connecting, greeting) => match connected {
                Ok(link) => return Ok(link),
                Err(error) => error,
            },
            error = port_is_closed(remote) => return Err(failed(&error)),
        };
        let failure = failure(&refused, tls);
        let fatal = failure.map(|failure| Closed::Tls { url: target.address.url.clone(), failure });
        Err(ConnectFailure { fatal, ..failed(&refused) })
    }

    /// Resolves when the handshake is over.
    async fn open(connecting: Connecting, greeting: &[Bytes]) -> Result<Self, ConnectionError> {
        // A greeting may be said more than once, to a broker that does not take it early; what else there is to say waits for the end of
        // the handshake, because it may not.
        debug_assert!(greeting.iter().all(|frame| only_reads(frame)));
        let (connection, mut over) = match connecting.into_0rtt() {
            Ok(early) => early,
            Err(connecting) => return Self::greet(connecting.await?, greeting).await,
        };
        let mut early = Self::greet(connection.clone(), greeting).now_or_never().transpose()?;
        let is_taken = poll_fn(|context| {
            if let Some(early) = &mut early {
                // What has no room, and what went wrong, is found out again by who writes next.
                drop(early.poll_pieces(context));
            }
            Pin::new(&mut over).poll(context)
        });
        if let (true, Some(early)) = (is_taken.await, early) {
            return Ok(early);
        }
        match connection.close_reason() {
            Some(error) => Err(error),
            // Nothing of it has reached the broker.
            None => Self::greet(connection, greeting).await,
        }
    }

    async fn greet(connection: Connection, greeting: &[Bytes]) -> Result<Self, ConnectionError> {
        let (control, answers) = connection.open_bi().await?;
        let mut link = Self::new(connection, control, answers);
        for frame in greeting {
            // There is none for what is longer than any frame.
            if let Some(prefix) = prefix(frame.len()) {
                link.pieces.extend([prefix, frame.clone()]);
            }
        }
        Ok(link)
    }

    fn new(connection: Connection, control: SendStream, answers: RecvStream) -> Self {
        let mut frames: SelectAll<BoxStream<'static, Came>> = SelectAll::new();
        frames.push(read(answers, None));
        let accepting = connection.clone();
        let streams = unfold(accepting, |accepting| async {
            let stream = accepting.accept_uni().await;
            Some((stream, accepting))
        });
        Self {
            connection,
            control,
            pieces: VecDeque::new(),
            frames,
            streams: streams.boxed(),
            is_welcome: false,
            lanes: HashMap::new(),
            newest: HashMap::new(),
        }
    }

    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        queue: &mut VecDeque<Bytes>,
        queued_bytes: &mut usize,
    ) -> Poll<Result<(), String>> {
        loop {
            ready!(self.poll_pieces(context)).map_err(|error| error.to_string())?;
            let Some(frame) = queue.pop_front() else { return Poll::Ready(Ok(())) };
            *queued_bytes -= frame.len();
            let Some(prefix) = prefix(frame.len()) else {
                return Poll::Ready(Err("a frame is too long".to_owned()));
            };
            self.pieces.extend([prefix, frame]);
        }
    }

    fn poll_pieces(&mut self, context: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        while let Some(piece) = self.pieces.front_mut() {
            if piece.is_empty() {
                self.pieces.pop_front();
                continue;
            }
            let written = ready!(Pin::new(&mut self.control).poll_write(context, piece))?;
            piece.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(Heard, u64), String>> {
        loop {
            self.take_streams(context);
            match ready!(self.frames.poll_next_unpin(context)) {
                Some(Came::Frame(None, frame, bytes)) => {
                    self.is_welcome = true;
                    return Poll::Ready(Ok((*frame, bytes)));
                }
                Some(Came::Frame(Some(lane), frame, bytes)) => {
                    if self.is_newest(lane) {
                        return Poll::Ready(Ok((*frame, bytes)));
                    }
                }
                Some(Came::Ended(lane, index)) => {
                    self.lanes.remove(&index);
                    if let Some(lane) =
                        lane.filter(|lane| self.newest.get(&lane.subscription) == Some(&lane.index))
                    {
                        self.newest.remove(&lane.subscription);
                    }
                }
                Some(Came::Failed(error)) => return Poll::Ready(Err(self.reason(error))),
                None => return Poll::Ready(Err(self.reason("the broker ended the connection".to_owned()))),
            }
        }
    }

    fn take_streams(&mut self, context: &mut Context<'_>) {
        while self.is_welcome {
            // The control stream tells of an end.
            let Poll::Ready(Some(Ok(stream))) = self.streams.poll_next_unpin(context) else { return };
            let index = stream.id().index();
            let (abort, registration) = AbortHandle::new_pair();
            self.lanes.insert(index, abort);
            self.frames.push(Abortable::new(read(stream, Some(index)), registration).boxed());
        }
    }

    /// Whether no newer stream has begun for the same subscription; then the older one is not read any more.
    fn is_newest(&mut self, lane: Lane) -> bool {
        let newest = self.newest.entry(lane.subscription).or_insert(lane.index);
        let older = if lane.index < *newest { lane.index } else { std::mem::replace(newest, lane.index) };
        if older == lane.index && *newest == lane.index {
            return true;
        }
        if let Some(abort) = self.lanes.remove(&older) {
            abort.abort();
        }
        older != lane.index
    }

    /// What the broker says of our certificate, which it looks at when we have finished our half of the handshake.
    pub(super) fn refusal(&self) -> Option<TlsFailure> {
        match self.connection.close_reason()? {
            ConnectionError::ConnectionClosed(close) => of_code(u64::from(close.error_code)),
            _ => None,
        }
    }

    /// Whether nothing has come for too long.
    pub(super) fn timed_out(&self) -> bool {
        matches!(self.connection.close_reason(), Some(ConnectionError::TimedOut))
    }

    pub(super) fn remote(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    pub(super) fn leave(&self) {
        self.connection.close(LEFT, &[]);
    }

    fn reason(&self, error: String) -> String {
        match self.connection.close_reason() {
            Some(ConnectionError::ApplicationClosed(close)) => {
                format!("the broker closed the connection: {close}")
            }
            Some(reason) => reason.to_string(),
            None => error,
        }
    }

    /// Sends the rest, and leaves.
    pub(super) async fn close(&mut self, queue: &mut VecDeque<Bytes>) {
        let mut queued_bytes = queue.iter().map(Bytes::len).sum();
        let written = poll_fn(|context| self.poll_write(context, queue, &mut queued_bytes)).await;
        if written.is_ok() && self.control.finish().is_ok() {
            // Resolves when all of it has arrived, or nobody is there any more.
            drop(self.control.stopped().await);
        }
        self.leave();
    }
}

/// Resolves when the system hears, for another socket of its own, that nobody listens there, or that there is no way: no socket
/// of QUIC is told, because each speaks with everybody.
async fn port_is_closed(remote: SocketAddr) -> io::Error {
    let any = match remote {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    // Who has no socket for this learns nothing by it.
    let Ok(socket) = tokio::net::UdpSocket::bind(SocketAddr::new(any, 0)).await else {
        return pending().await;
    };
    let asked = async {
        socket.connect(remote).await?;
        socket.send(&PROBE).await?;
        loop {
            socket.recv(&mut [0]).await?;
        }
    };
    let asked: io::Result<Infallible> = asked.await;
    let Err(error) = asked;
    error
}

fn config(crypto: Arc<rustls::ClientConfig>, remote: IpAddr) -> Result<ClientConfig, String> {
    let crypto = QuicClientConfig::try_from(crypto).map_err(|error| error.to_string())?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(STREAMS_MAX)
        .stream_receive_window(STREAM_WINDOW_BYTES)
        .receive_window(WINDOW_BYTES)
        .send_window(SEND_WINDOW_BYTES)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0);
    if remote.to_canonical().is_loopback() {
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(LOCAL_MTU);
        transport.initial_mtu(LOCAL_MTU).mtu_discovery_config(Some(mtu));
    }
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Why trying again is of no use.
fn failure(error: &ConnectionError, tls: &Tls) -> Option<TlsFailure> {
    match error {
        ConnectionError::TransportError(error) => {
            tls.refusal(&error.reason).or_else(|| of_code(u64::from(error.code)))
        }
        ConnectionError::ConnectionClosed(close) => of_code(u64::from(close.error_code)),
        _ => None,
    }
}

fn of_code(code: u64) -> Option<TlsFailure> {
    let alert = u8::try_from(code.checked_sub(ALERTS)?).ok()?;
    of_alert(AlertDescription::from(alert))
}

struct Reading {
    stream: RecvStream,
    frames: Deframer,
    index: Option<u64>,
    lane: Option<Lane>,
}

/// The frames of a stream, and how it ended.
fn read(stream: RecvStream, index: Option<u64>) -> BoxStream<'static, Came> {
    let reading = Reading { stream, frames: Deframer::new(MESSAGE_BYTES_MAX), index, lane: None };
    let frames = unfold(Some(reading), |reading| async {
        let mut reading = reading?;
        let came = reading.next().await;
        let goes_on = matches!(came, Came::Frame(..));
        Some((came, goes_on.then_some(reading)))
    });
    frames.boxed()
}

impl Reading {
    async fn next(&mut self) -> Came {
        loop {
            match self.frames.pop() {
                Ok(Some(bytes)) => {
                    let length = bytes.len() as u64;
                    match Heard::decode(Encoding::Proto, bytes) {
                        Ok(frame) => return self.came(frame, length),
                        // A newer broker may say more than this SDK understands.
                        Err(error) if error.code == ErrorCode::UnknownFrame => continue,
                        Err(error) => return Came::Failed(error.to_string()),
                    }
                }
                Ok(None) => {}
                Err(error) => return Came::Failed(error.to_string()),
            }
            match (self.stream.read_chunk(PIECE_BYTES, true).await, self.index) {
                (Ok(Some(piece)), _) => self.frames.push(piece.bytes),
                (Ok(None), Some(index)) if self.frames.is_between_frames() => {
                    return Came::Ended(self.lane, index);
                }
                (Ok(None), Some(_)) => return Came::Failed("a stream ended within a frame".to_owned()),
                // A subscription that is over, or a connection, of whose end the control stream tells.
                (Err(ReadError::Reset(_) | ReadError::ConnectionLost(_)), Some(index)) => {
                    return Came::Ended(self.lane, index);
                }
                (Ok(None), None) => return Came::Failed("the broker ended the connection".to_owned()),
                (Err(error), _) => return Came::Failed(error.to_string()),
            }
        }
    }

    fn came(&mut self, heard: Heard, bytes: u64) -> Came {
        if let (Some(index), None, Heard::Frame(Frame::Subscribed(subscribed))) =
            (self.index, self.lane, &heard)
        {
            self.lane = Some(Lane { index, subscription: subscribed.subscription });
        }
        if self.index.is_some() && self.lane.is_none() {
            return Came::Failed("a stream does not begin with what it is for".to_owned());
        }
        Came::Frame(self.lane, Box::new(heard), bytes)
    }
}
