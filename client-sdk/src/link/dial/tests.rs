//! Addresses that lead nowhere beside one that does, over real sockets.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;

use bytes::Bytes;
use longwire_proto::codec::{self, Encoding};
use longwire_proto::framing::prefix;
use longwire_proto::wire;
use longwire_proto::wire::server_frame::Frame;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{ConnectionError, Endpoint, ServerConfig};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};

use super::*;
use crate::address::Address;
use crate::error::{Closed, TlsFailure};
use crate::link::{Link, LinkEvent};
use crate::tls::Tls;
use crate::tls::TlsOptions;
use crate::tls::fingerprint::Fingerprint;

const LOCAL: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

async fn connect(url: &str, options: TlsOptions, addresses: &[SocketAddr]) -> Outcome {
    let address = Address::parse(url).unwrap();
    let tls = Tls::of(&address, &options).unwrap();
    let dialer = Dialer::new(address.scheme.transports());
    let target = Target::new(address, tls, Encoding::Proto);
    let race = dialer.race(Duration::ZERO, DIAL_TIMEOUT, addresses.len());
    run(&target, race, addresses, Instant::now(), &[]).await
}

/// What a server of this protocol speaks TLS with, and whom to trust then.
fn certified(protocol: &[u8]) -> (rustls::ServerConfig, TlsOptions) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = certified.cert.der().clone();
    let fingerprint = Some(Fingerprint::of(&certificate).to_string());
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key.into())
        .unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    (config, TlsOptions { fingerprint, ..Default::default() })
}

fn quic_server_at(address: SocketAddr, config: rustls::ServerConfig) -> std::io::Result<Endpoint> {
    let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(config).unwrap()));
    Endpoint::server(config, address)
}

/// Somebody who speaks QUIC, and whom to trust then.
fn quic_server() -> (Endpoint, TlsOptions) {
    let (config, options) = certified(b"longwire/1");
    (quic_server_at(LOCAL.into(), config).unwrap(), options)
}

fn serve_quic(server: Endpoint) {
    drop(tokio::spawn(async move {
        while let Some(incoming) = server.accept().await {
            drop(tokio::spawn(async move { drop(incoming.await.unwrap().closed().await) }));
        }
    }));
}

struct Chooses;

impl Callback for Chooses {
    fn on_request(self, _: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        let protocol = Encoding::Proto.subprotocol().parse().unwrap();
        response.headers_mut().insert("sec-websocket-protocol", protocol);
        Ok(response)
    }
}

#[tokio::test]
async fn a_websocket_is_made_beside_an_address_that_never_answers() {
    let silent = TcpListener::bind(LOCAL).await.unwrap();
    let server = TcpListener::bind(LOCAL).await.unwrap();
    let addresses = [silent.local_addr().unwrap(), server.local_addr().unwrap()];
    drop(tokio::spawn(async move {
        let (stream, _) = server.accept().await.unwrap();
        let socket = tokio_tungstenite::accept_hdr_async(stream, Chooses).await.unwrap();
        std::future::pending::<()>().await;
        drop(socket);
    }));
    let open = connect("ws://broker.example", TlsOptions::default(), &addresses).await;
    assert_eq!(open.map(|open| open.transport()).unwrap(), Transport::WebSocket);
}

#[tokio::test]
async fn quic_is_made_beside_addresses_that_never_answer_or_lead_nowhere() {
    let silent = UdpSocket::bind(LOCAL).unwrap();
    let (server, options) = quic_server();
    // For documentation only (RFC 3849): there is no way to it, or nothing at its end.
    let nowhere = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 1));
    let addresses = [nowhere, silent.local_addr().unwrap(), server.local_addr().unwrap()];
    serve_quic(server);
    for url in ["quic://localhost", "longwire://localhost"] {
        let open = connect(url, options.clone(), &addresses).await;
        assert_eq!(open.map(|open| open.transport()).unwrap(), Transport::Quic, "{url}");
    }
}

#[tokio::test]
async fn who_comes_too_late_is_told_that_nobody_waits() {
    let (config, options) = certified(b"http/1.1");
    let mut quic_config = config.clone();
    quic_config.alpn_protocols = vec![b"longwire/1".to_vec()];
    let (listener, late) = loop {
        let listener = TcpListener::bind(LOCAL).await.unwrap();
        if let Ok(late) = quic_server_at(listener.local_addr().unwrap(), quic_config.clone()) {
            break (listener, late);
        }
    };
    let address = listener.local_addr().unwrap();
    drop(tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
        let socket = tokio_tungstenite::accept_hdr_async(stream, Chooses).await.unwrap();
        std::future::pending::<()>().await;
        drop(socket);
    }));
    let addresses = [address];
    let (open, incoming) = tokio::join!(connect("longwire://localhost", options, &addresses), late.accept());
    assert_eq!(open.map(|open| open.transport()).unwrap(), Transport::WebSocket);
    // It has not answered so far. Who went without a word would be waited for until a timeout.
    let ended = incoming.unwrap().await.unwrap_err();
    assert!(matches!(ended, ConnectionError::ConnectionClosed(_)), "{ended:?}");
}

#[tokio::test]
async fn a_port_that_is_closed_is_noticed_by_what_the_system_says() {
    let closed = UdpSocket::bind(LOCAL).unwrap().local_addr().unwrap();
    let (_, options) = quic_server();
    let failure = connect("quic://localhost", options, &[closed]).await.map(|_| ()).unwrap_err();
    assert!(failure.error.contains("refused") && failure.fatal.is_none(), "{failure:?}");
}

#[tokio::test]
async fn a_certificate_that_is_refused_over_quic_is_the_answer() {
    let (server, _) = quic_server();
    let address = server.local_addr().unwrap();
    drop(tokio::spawn(async move {
        while let Some(incoming) = server.accept().await {
            drop(incoming.await);
        }
    }));
    // Nobody is asked for a WebSocket, which nobody would give here: that would be no typed answer.
    let wrong = TlsOptions { fingerprint: Some("00".repeat(32)), ..Default::default() };
    let failure = connect("longwire://localhost", wrong, &[address]).await.map(|_| ()).unwrap_err();
    assert!(
        matches!(failure.fatal, Some(Closed::Tls { failure: TlsFailure::Fingerprint { .. }, .. })),
        "{failure:?}"
    );
}

#[tokio::test]
async fn a_connection_over_which_nothing_comes_is_not_made_again_for_a_while() {
    let (server, options) = quic_server();
    let url = format!("longwire://{}", server.local_addr().unwrap());
    // The first client is told nothing; the others get an answer.
    drop(tokio::spawn(async move {
        let silent = server.accept().await.unwrap().await.unwrap();
        while let Some(incoming) = server.accept().await {
            let (mut send, mut receive) = incoming.await.unwrap().accept_bi().await.unwrap();
            receive.read_chunk(usize::MAX, true).await.unwrap();
            let pong = Frame::Pong(wire::Pong { token: 1, time_ms: 1 });
            let pong = codec::encode_server(Encoding::Proto, pong);
            send.write_all_chunks(&mut [prefix(pong.len()).unwrap(), pong]).await.unwrap();
            std::future::pending::<()>().await;
        }
        drop(silent);
    }));
    let address = Address::parse(&url).unwrap();
    let tls = Tls::of(&address, &options).unwrap();
    let mut link = Link::new(address, tls, Encoding::Proto);
    let both = [Transport::Quic, Transport::WebSocket];
    link.connect(Vec::new());
    assert!(matches!(link.next().await, LinkEvent::Connected(Transport::Quic)));
    assert_eq!(link.dialer.transports(link.began.elapsed()), both);
    link.disconnect();
    assert_eq!(link.dialer.transports(link.began.elapsed()), [Transport::WebSocket]);
    // Nobody speaks TCP there: then it is QUIC's turn again, and once it is heard there is nothing left to remember.
    link.connect(Vec::new());
    assert!(matches!(link.next().await, LinkEvent::ConnectFailed(failure) if failure.fatal.is_none()));
    link.connect(Vec::new());
    assert!(matches!(link.next().await, LinkEvent::Connected(Transport::Quic)));
    link.send(Bytes::from_static(b"hello"));
    assert!(matches!(link.next().await, LinkEvent::Frame(..)));
    link.disconnect();
    assert_eq!(link.dialer.transports(link.began.elapsed()), both);
}

#[test]
fn families_take_turns() {
    let v4 = |last| SocketAddr::from(([10, 0, 0, last], 1));
    let v6 = |last| SocketAddr::from((Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last), 1));
    assert_eq!(in_turns(vec![v6(1), v6(2), v6(3), v4(1)]), [v6(1), v4(1), v6(2), v6(3)]);
    assert_eq!(in_turns(vec![v4(1), v6(1), v6(2), v4(2)]), [v4(1), v6(1), v4(2), v6(2)]);
    assert_eq!(in_turns(Vec::new()), []);
    assert_eq!(in_turns((0..99).map(v4).collect()).len(), ADDRESSES_MAX);
}
