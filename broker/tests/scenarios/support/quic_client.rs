//! A client that speaks frames over QUIC, and reads of its streams what it wants.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use longwire_proto::codec::{Encoding, decode_server, encode_client};
use longwire_proto::framing::{Deframer, prefix};
use longwire_proto::limits::{FRAME_BYTES_MAX, SUBSCRIPTIONS_MAX};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, ReadError, RecvStream, SendStream, TransportConfig,
    VarInt,
};
use rustls::version::TLS13;
use tokio::time::timeout;

use crate::support::tls_client;

/// A hang is a failure; nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Streams that the broker opens: one a subscription, and another one while it begins anew.
const STREAMS_MAX: VarInt = VarInt::from_u32(2 * SUBSCRIPTIONS_MAX as u32);

/// Fails when it takes too long.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: it has not come to that"))
}

pub(crate) fn quic_config(tls: rustls::ClientConfig) -> ClientConfig {
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

/// Makes a connection that offers this protocol.
pub(crate) async fn connect(
    address: SocketAddr,
    protocol: &str,
) -> Result<(Endpoint, Connection), ConnectionError> {
    let mut transport = TransportConfig::default();
    transport.max_concurrent_uni_streams(STREAMS_MAX);
    connect_with(address, protocol, transport).await
}

/// The same, with other limits than those of the stack.
pub(crate) async fn connect_with(
    address: SocketAddr,
    protocol: &str,
    transport: TransportConfig,
) -> Result<(Endpoint, Connection), ConnectionError> {
    let endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let mut config = quic_config(tls_client::config(&[&TLS13], &[protocol]));
    config.transport_config(Arc::new(transport));
    let connecting = endpoint.connect_with(config, address, "localhost").unwrap();
    let connection = soon("the handshake ends", connecting).await?;
    Ok((endpoint, connection))
}

/// A stream of frames.
pub(crate) struct Frames {
    pub(crate) stream: RecvStream,
    frames: Deframer,
}

impl Frames {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self { stream, frames: Deframer::new(FRAME_BYTES_MAX) }
    }

    /// The next frame; `None` at the end.
    pub(crate) async fn try_next(&mut self) -> Result<Option<ServerFrame>, ReadError> {
        soon("a frame comes", self.read()).await
    }

    /// The same, however long it takes. Dropping the future loses nothing.
    pub(crate) async fn read(&mut self) -> Result<Option<ServerFrame>, ReadError> {
        loop {
            if let Some(frame) = self.frames.pop().unwrap() {
                return Ok(Some(decode_server(Encoding::Proto, frame).unwrap()));
            }
            match self.stream.read_chunk(usize::MAX, true).await? {
                Some(piece) => self.frames.push(piece.bytes),
                None => {
                    assert!(self.frames.is_between_frames(), "the stream ended within a frame");
                    return Ok(None);
                }
            }
        }
    }

    pub(crate) async fn next(&mut self) -> ServerFrame {
        self.try_next().await.unwrap().expect("a frame comes")
    }

    pub(crate) async fn subscribed(&mut self) -> wire::Subscribed {
        match self.next().await {
            ServerFrame::Subscribed(subscribed) => subscribed,
            other => panic!("{other:?} begins a stream"),
        }
    }

    pub(crate) async fn delivery(&mut self) -> wire::Delivery {
        match self.next().await {
            ServerFrame::Delivery(delivery) => delivery,
            other => panic!("{other:?} came instead of a delivery"),
        }
    }
}

pub(crate) struct QuicClient {
    pub(crate) endpoint: Endpoint,
    pub(crate) connection: Connection,
    pub(crate) send: SendStream,
    pub(crate) control: Frames,
}

impl QuicClient {
    /// Connects, and says nothing.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let (endpoint, connection) = connect(address, "longwire/1").await.unwrap();
        Self::over(endpoint, connection).await
    }

    /// The same, with other limits than those of the stack.
    pub(crate) async fn open_with(address: SocketAddr, transport: TransportConfig) -> Self {
        let (endpoint, connection) = connect_with(address, "longwire/1", transport).await.unwrap();
        Self::over(endpoint, connection).await
    }

    /// The same, over a connection that was made some other way.
    pub(crate) async fn over(endpoint: Endpoint, connection: Connection) -> Self {
        let (send, stream) = connection.open_bi().await.unwrap();
        Self { endpoint, connection, send, control: Frames::new(stream) }
    }

    /// Connects with a token, and takes the welcome.
    pub(crate) async fn connect_as(address: SocketAddr, token: &str) -> Self {
        Self::open(address).await.greet(token).await
    }

    /// Says hello, and takes the welcome.
    pub(crate) async fn greet(mut self, token: &str) -> Self {
        let client = &mut self;
        client.send(ClientFrame::Hello(wire::Hello { token: token.into(), ..Default::default() })).await;
        match client.control.next().await {
            ServerFrame::Welcome(_) => self,
            other => panic!("{other:?} came instead of a welcome"),
        }
    }

    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::connect_as(address, "").await
    }

    pub(crate) async fn send(&mut self, frame: ClientFrame) {
        let frame = encode_client(Encoding::Proto, frame);
        self.send.write_all_chunks(&mut [prefix(frame.len()).unwrap(), frame]).await.unwrap();
    }

    /// Asks for a subscription from the start of a session.
    pub(crate) async fn ask(&mut self, request: u64, subscription: u32, session: &str) {
        let wanted = wire::Subscription {
            subscription,
            session: session.into(),
            from: Some(wire::From { from: Some(wire::from::From::Start(true)) }),
            wait: true,
            ..Default::default()
        };
        self.send(ClientFrame::Subscribe(wire::Subscribe { request, subscriptions: vec![wanted] })).await;
    }

    /// Begins a subscription from the start of a session: its stream.
    pub(crate) async fn subscribe(&mut self, request: u64, subscription: u32, session: &str) -> Frames {
        self.ask(request, subscription, session).await;
        let mut frames = self.accept().await;
        let subscribed = frames.subscribed().await;
        assert_eq!((subscribed.request, subscribed.subscription), (request, subscription));
        frames
    }

    /// The next stream that the broker opens.
    pub(crate) async fn accept(&mut self) -> Frames {
        let stream = soon("a stream comes", self.connection.accept_uni()).await.unwrap();
        Frames::new(stream)
    }

    /// Asks whether both are alive.
    pub(crate) async fn ping(&mut self, token: u64) {
        self.send(ClientFrame::Ping(wire::Ping { token })).await;
        loop {
            match self.control.next().await {
                ServerFrame::Pong(pong) if pong.token == token => return,
                ServerFrame::Heartbeat(_) => {}
                other => panic!("{other:?} came instead of a pong"),
            }
        }
    }

    /// Waits for the end: the code of the goodbye, that of the close, and its reason.
    pub(crate) async fn ended(mut self) -> (String, u64, String) {
        let mut said = String::new();
        while let Ok(Some(frame)) = self.control.try_next().await {
            if let ServerFrame::Goodbye(goodbye) = frame {
                said = goodbye.error.unwrap().code;
            }
        }
        match soon("the connection ends", self.connection.closed()).await {
            ConnectionError::ApplicationClosed(close) => {
                (said, close.error_code.into_inner(), String::from_utf8(close.reason.to_vec()).unwrap())
            }
            other => panic!("{other:?} ended the connection"),
        }
    }
}
