//! The same client over every transport: it writes frames, and reads one subscription.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use longwire_proto::codec::{Encoding, encode_client};
use longwire_proto::framing::{Deframer, grpc_prefix, prefix};
use longwire_proto::limits::FRAME_BYTES_MAX;
use longwire_proto::raw::server_frame::Frame;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::{raw, service, wire};
use prost::Message as _;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Endpoint, EndpointConfig, RecvStream, SendStream, TokioRuntime, TransportConfig, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{CipherSuite, ClientConfig, DigitallySignedStruct, SignatureScheme};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Bytes that a client lets come ahead of what it has read, of one stream, as the SDK does.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The same of all streams of a connection.
const WINDOW_BYTES: u32 = 8 << 20;
/// Bytes that the system keeps for a client of what has come, as the SDK asks for.
const SOCKET_BUFFER_BYTES: usize = 2 << 20;
/// The windows of gRPC, as the SDK has them.
const GRPC_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes of a frame of HTTP/2, likewise.
const GRPC_FRAME_BYTES_MAX: u32 = 256 << 10;
/// Bytes of a datagram that a client takes, as the SDK does.
const DATAGRAM_BYTES_MAX: u16 = 60_000;
/// Bytes of a datagram of theirs, likewise.
const LOCAL_MTU: u16 = 6500;
/// UDP sockets of all clients together. Clients have one each; but here they are one process, each socket has a task of its own, and
/// with these nothing is lost for want of a buffer.
const UDP_SOCKETS: usize = 200;

/// What carries the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Ws,
    Wss,
    Quic,
    Grpcs,
}

impl Transport {
    pub(crate) const ALL: [Self; 4] = [Self::Ws, Self::Wss, Self::Quic, Self::Grpcs];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Quic => "quic",
            Self::Grpcs => "grpcs",
        }
    }

    /// Whether the broker must have a certificate.
    pub(crate) fn is_tls(self) -> bool {
        self != Self::Ws
    }
}

/// What all clients share.
pub(crate) struct Clients {
    tls: Arc<ClientConfig>,
    grpc_tls: Arc<ClientConfig>,
    quic: quinn::ClientConfig,
    endpoints: Vec<Endpoint>,
    next: AtomicUsize,
}

impl Clients {
    pub(crate) fn new() -> Self {
        Self::with_sockets(UDP_SOCKETS)
    }

    pub(crate) fn with_sockets(sockets: usize) -> Self {
        let mut transport = TransportConfig::default();
        transport
            .stream_receive_window(STREAM_WINDOW_BYTES.into())
            .receive_window(WINDOW_BYTES.into())
            .max_concurrent_uni_streams(VarInt::from_u32(100))
            .initial_mtu(LOCAL_MTU);
        let mut crypto = tls(b"longwire/1");
        // As in the SDK: only what reads is said so.
        crypto.enable_early_data = true;
        let crypto = QuicClientConfig::try_from(crypto).unwrap();
        let mut quic = quinn::ClientConfig::new(Arc::new(crypto));
        quic.transport_config(Arc::new(transport));
        let endpoint = |_| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER_BYTES).unwrap();
            let mut config = EndpointConfig::default();
            config.max_udp_payload_size(DATAGRAM_BYTES_MAX).unwrap();
            Endpoint::new(config, None, socket, Arc::new(TokioRuntime)).unwrap()
        };
        Self {
            tls: Arc::new(tls(b"http/1.1")),
            grpc_tls: Arc::new(tls(b"h2")),
            quic,
            endpoints: (0..sockets).map(endpoint).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// A connection that was welcomed.
    pub(crate) async fn open(&self, transport: Transport, address: SocketAddr) -> Link {
        let mut link = self.connect(transport, address).await;
        link.send(ClientFrame::Hello(wire::Hello::default())).await;
        link.welcomed().await;
        link
    }

    /// A connection with a subscription, which is asked for right behind the hello, as the SDK does.
    pub(crate) async fn resume(
        &self,
        transport: Transport,
        address: SocketAddr,
        session: &str,
        from: wire::from::From,
    ) -> Link {
        let said = [ClientFrame::Hello(wire::Hello::default()), subscribe(1, session, from)];
        let mut link = match transport {
            Transport::Quic => self.quic(address, &said).await,
            _ => {
                let mut link = self.connect(transport, address).await;
                for frame in said {
                    link.send(frame).await;
                }
                link
            }
        };
        link.welcomed().await;
        link.subscribed().await;
        link
    }

    /// A connection of QUIC that has said this, with its first packets where it has a ticket: what only reads.
    async fn quic(&self, address: SocketAddr, said: &[ClientFrame]) -> Link {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.endpoints.len();
        let connecting = self.endpoints[next].connect_with(self.quic.clone(), address, "localhost");
        let (connection, accepted) = match connecting.unwrap().into_0rtt() {
            Ok((connection, accepted)) => (connection, Some(accepted)),
            Err(connecting) => (connecting.await.unwrap(), None),
        };
        let mut link = Link::over(connection.clone(), said).await;
        if let Some(accepted) = accepted
            && !accepted.await
        {
            link = Link::over(connection, said).await;
        }
        link
    }

    async fn connect(&self, transport: Transport, address: SocketAddr) -> Link {
        match transport {
            Transport::Ws => {
                Link::WebSocket(Box::new(websocket(Box::new(tcp(address).await), address).await))
            }
            Transport::Wss => {
                let connector = TlsConnector::from(Arc::clone(&self.tls));
                let name = ServerName::try_from("localhost").unwrap();
                let stream = connector.connect(name, tcp(address).await).await.unwrap();
                Link::WebSocket(Box::new(websocket(Box::new(stream), address).await))
            }
            Transport::Quic => self.quic(address, &[]).await,
            Transport::Grpcs => {
                let connector = TlsConnector::from(Arc::clone(&self.grpc_tls));
                let name = ServerName::try_from("localhost").unwrap();
                let stream = connector.connect(name, tcp(address).await).await.unwrap();
                Link::Grpc(Box::new(GrpcLink::open(Box::new(stream), address).await))
            }
        }
    }
}

pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

async fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn websocket(stream: Box<dyn Io>, address: SocketAddr) -> WebSocketStream<Box<dyn Io>> {
    let mut request = format!("ws://{address}/v1/connect").into_client_request().unwrap();
    let protocol = Encoding::Proto.subprotocol();
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    let config = WebSocketConfig::default().read_buffer_size(8 << 10);
    tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await.unwrap().0
}

/// The frames of a stream.
pub(crate) struct Frames {
    stream: RecvStream,
    frames: Deframer,
}

impl Frames {
    fn new(stream: RecvStream) -> Self {
        Self { stream, frames: Deframer::new(2 * FRAME_BYTES_MAX) }
    }

    async fn next(&mut self) -> Bytes {
        loop {
            if let Some(frame) = self.frames.pop().unwrap() {
                return frame;
            }
            self.frames.push(self.stream.read_chunk(64 << 10, true).await.unwrap().unwrap().bytes);
        }
    }
}

pub(crate) struct QuicLink {
    connection: quinn::Connection,
    send: SendStream,
    control: Frames,
    lane: Option<Frames>,
}

pub(crate) struct GrpcLink {
    send: h2::SendStream<Bytes>,
    receive: h2::RecvStream,
    frames: Deframer,
}

impl GrpcLink {
    async fn open(stream: Box<dyn Io>, address: SocketAddr) -> Self {
        let handshake = h2::client::Builder::new()
            .initial_window_size(GRPC_WINDOW_BYTES)
            .initial_connection_window_size(GRPC_WINDOW_BYTES)
            .max_frame_size(GRPC_FRAME_BYTES_MAX)
            .handshake(stream);
        let (mut requests, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::post(format!("https://{address}/{}/Attach", service::NAME))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (answer, send) = requests.send_request(request, false).unwrap();
        let receive = answer.await.unwrap().into_body();
        Self { send, receive, frames: Deframer::grpc(2 * FRAME_BYTES_MAX) }
    }

    async fn send(&mut self, frame: Bytes) {
        for mut piece in [Bytes::copy_from_slice(&grpc_prefix(&frame).unwrap()), frame] {
            while !piece.is_empty() {
                self.send.reserve_capacity(piece.len());
                let room = poll_fn(|context| self.send.poll_capacity(context)).await.unwrap().unwrap();
                self.send.send_data(piece.split_to(room.min(piece.len())), false).unwrap();
            }
        }
    }

    async fn next(&mut self) -> Bytes {
        loop {
            if let Some(frame) = self.frames.pop().unwrap() {
                return frame;
            }
            let piece = self.receive.data().await.unwrap().unwrap();
            self.receive.flow_control().release_capacity(piece.len()).unwrap();
            self.frames.push(piece);
        }
    }
}

/// A connection.
pub(crate) enum Link {
    WebSocket(Box<WebSocketStream<Box<dyn Io>>>),
    Quic(Box<QuicLink>),
    Grpc(Box<GrpcLink>),
}

impl Link {
    async fn over(connection: quinn::Connection, said: &[ClientFrame]) -> Self {
        let (send, receive) = connection.open_bi().await.unwrap();
        let mut link =
            Self::Quic(Box::new(QuicLink { connection, send, control: Frames::new(receive), lane: None }));
        for frame in said {
            link.send(frame.clone()).await;
        }
        link
    }

    /// Waits for what the client needs to come back soon. Over QUIC it has a ticket for that only when its handshake is over, which may be
    /// after the first records.
    pub(crate) async fn settle(&mut self) {
        if let Self::Quic(_) = self {
            self.send(ClientFrame::Ping(wire::Ping::default())).await;
            assert!(matches!(self.control().await, Frame::Pong(_)));
        }
    }

    pub(crate) async fn send(&mut self, frame: ClientFrame) {
        let frame = encode_client(Encoding::Proto, frame);
        match self {
            Self::WebSocket(socket) => socket.send(Message::Binary(frame)).await.unwrap(),
            Self::Quic(link) => {
                link.send.write_all_chunks(&mut [prefix(frame.len()).unwrap(), frame]).await.unwrap();
            }
            Self::Grpc(link) => link.send(frame).await,
        }
    }

    /// Begins the subscription that [`next`](Self::next) reads.
    pub(crate) async fn subscribe(&mut self, session: &str, from: wire::from::From) {
        self.send(subscribe(1, session, from)).await;
        self.subscribed().await;
    }

    async fn welcomed(&mut self) {
        assert!(matches!(self.control().await, Frame::Welcome(_)));
    }

    async fn subscribed(&mut self) {
        if let Self::Quic(link) = self {
            link.lane = Some(Frames::new(link.connection.accept_uni().await.unwrap()));
        }
        match self.next().await {
            Frame::Subscribed(_) => {}
            other => panic!("{other:?} came instead of an answer"),
        }
    }

    /// The next frame of the subscription. Heartbeats are not told of.
    pub(crate) async fn next(&mut self) -> Frame {
        loop {
            let bytes = match self {
                Self::WebSocket(socket) => message(socket).await,
                Self::Quic(link) => link.lane.as_mut().unwrap().next().await,
                Self::Grpc(link) => link.next().await,
            };
            match decode(bytes) {
                Frame::Heartbeat(_) => {}
                frame => return frame,
            }
        }
    }

    /// The next frame that is an answer.
    pub(crate) async fn control(&mut self) -> Frame {
        loop {
            let bytes = match self {
                Self::WebSocket(socket) => message(socket).await,
                Self::Quic(link) => link.control.next().await,
                Self::Grpc(link) => link.next().await,
            };
            match decode(bytes) {
                Frame::Heartbeat(_) => {}
                frame => return frame,
            }
        }
    }

    /// Reads until the subscription has come to this offset.
    pub(crate) async fn read_to(&mut self, end: u64) {
        loop {
            match self.next().await {
                Frame::Delivery(delivery) if delivery.next >= end => return,
                Frame::Delivery(_) => {}
                other => panic!("{other:?} came instead of a delivery"),
            }
        }
    }

    /// Goes away.
    pub(crate) async fn close(self) {
        match self {
            Self::WebSocket(mut socket) => drop(SinkExt::close(&mut socket).await),
            Self::Quic(link) => link.connection.close(VarInt::from_u32(0), &[]),
            Self::Grpc(mut link) => drop(link.send.send_data(Bytes::new(), true)),
        }
    }
}

pub(crate) fn subscribe(number: u32, session: &str, from: wire::from::From) -> ClientFrame {
    let wanted = wire::Subscription {
        subscription: number,
        session: session.into(),
        from: Some(wire::From { from: Some(from) }),
        wait: true,
        ..Default::default()
    };
    ClientFrame::Subscribe(wire::Subscribe { request: u64::from(number), subscriptions: vec![wanted] })
}

async fn message(socket: &mut WebSocketStream<Box<dyn Io>>) -> Bytes {
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) => return bytes,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            other => panic!("{other:?} came instead of a frame"),
        }
    }
}

/// Records stay as they are: what is compared is what moves them.
fn decode(bytes: Bytes) -> Frame {
    raw::ServerFrame::decode(bytes).unwrap().frame.unwrap()
}

fn tls(protocol: &[u8]) -> ClientConfig {
    let mut provider = aws_lc_rs::default_provider();
    // As the SDK has them.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let provider = Arc::new(provider);
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

/// Takes any certificate: this is about what comes after.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
