//! A client of TLS that takes any certificate, and says which it was shown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ALL_VERSIONS, ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A hang is a failure; nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>, Arc<AtomicUsize>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.1.fetch_add(1, Ordering::SeqCst);
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What takes any certificate.
pub(crate) fn config(versions: &[&'static SupportedProtocolVersion], protocols: &[&str]) -> ClientConfig {
    counting(versions, protocols).0
}

/// The same, which exchanges keys in this way alone.
pub(crate) fn config_with(protocols: &[&str], exchange: &'static dyn SupportedKxGroup) -> ClientConfig {
    let provider = CryptoProvider { kx_groups: vec![exchange], ..aws_lc_rs::default_provider() };
    made(&[&TLS13], protocols, provider).0
}

/// The same, and how many certificates it was shown: who resumes a session is shown none.
pub(crate) fn counting(
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
) -> (ClientConfig, Arc<AtomicUsize>) {
    made(versions, protocols, aws_lc_rs::default_provider())
}

fn made(
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
    provider: CryptoProvider,
) -> (ClientConfig, Arc<AtomicUsize>) {
    let shown = Arc::new(AtomicUsize::new(0));
    let provider = Arc::new(provider);
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider, Arc::clone(&shown))))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    (config, shown)
}

/// A connection of these versions that offers these protocols.
pub(crate) async fn connect_with(
    address: SocketAddr,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    over(stream, config(versions, protocols)).await.unwrap()
}

/// TLS over a connection.
pub(crate) async fn over(stream: TcpStream, config: ClientConfig) -> Result<TlsStream<TcpStream>, String> {
    let name = ServerName::IpAddress(stream.peer_addr().unwrap().ip().into());
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    timeout(PATIENCE, connecting).await.expect("the handshake ends").map_err(|error| error.to_string())
}

/// A connection as most clients make it.
pub(crate) async fn connect(address: SocketAddr) -> TlsStream<TcpStream> {
    connect_with(address, ALL_VERSIONS, &["http/1.1"]).await
}

/// The fingerprint of the certificate that the broker shows now.
pub(crate) async fn shown(address: SocketAddr) -> String {
    let stream = connect(address).await;
    let (_, session) = stream.get_ref();
    let leaf = &session.peer_certificates().unwrap()[0];
    Sha256::digest(leaf).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A GET over HTTP/1.1: status and body.
pub(crate) async fn get(address: SocketAddr, path: &str, headers: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n");
    exchange(address, &request).await
}

/// Asks a broker to become a WebSocket, as a page of this origin does: status and body.
pub(crate) async fn upgrade(address: SocketAddr, host: &str, origin: &str) -> (u16, String) {
    let request = format!(
        "GET /v1/connect HTTP/1.1\r\nhost: {host}\r\norigin: {origin}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-protocol: longwire.v1.json\r\n\r\n"
    );
    exchange(address, &request).await
}

/// Whether an answer has everything that it announced.
fn is_whole(response: &[u8]) -> bool {
    let text = String::from_utf8_lossy(response);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    head.starts_with("HTTP/1.1 101") || length.is_some_and(|length: usize| body.len() >= length)
}

async fn exchange(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = connect(address).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("an answer comes");
        match read {
            Ok(0) | Err(_) => break,
            Ok(read) => response.extend_from_slice(&buffer[..read]),
        }
        // A connection that asked to be upgraded is kept, whatever the answer.
        if is_whole(&response) {
            break;
        }
    }
    let response = String::from_utf8(response).unwrap();
    let status = response.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = response.split_once("\r\n\r\n").unwrap();
    (status, body.to_owned())
}
