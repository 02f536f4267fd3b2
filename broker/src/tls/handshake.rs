//! The handshake of one socket: what comes before there is anybody to talk HTTP with.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use longwire_proto::error::{Error, ErrorCode};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::problem::problem_text;

/// The first byte of everything that begins TLS (RFC 8446, section 5.1: a record of type `handshake`).
const HANDSHAKE_RECORD: u8 = 22;
/// How long a peer whose handshake failed may take to read why.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of such a peer that are read and thrown away: a socket that is closed with unread bytes is reset, and takes what
/// was said with it.
const LINGER_BYTES_MAX: usize = 64 << 10;

/// Why there is nobody to serve. The names are labels of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    PlainText,
    Timeout,
    Left,
    ClientCertificate,
    Refused,
    Protocol,
}

impl Failure {
    fn label(self) -> &'static str {
        match self {
            Self::PlainText => "plain_text",
            Self::Timeout => "timeout",
            Self::Left => "left",
            Self::ClientCertificate => "client_certificate",
            Self::Refused => "refused",
            Self::Protocol => "protocol",
        }
    }

    fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_)) => {
                Self::ClientCertificate
            }
            // Most often a client that does not trust the certificate.
            Some(rustls::Error::AlertReceived(_)) => Self::Refused,
            Some(_) => Self::Protocol,
            None => Self::Left,
        }
    }
}

/// Makes the handshake within its time.
pub(super) async fn accept(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    within: Duration,
) -> Option<TlsStream<TcpStream>> {
    let (failure, stream) = match timeout(within, handshake(config, stream)).await {
        Ok(Ok(stream)) => {
            metrics::counter!("longwire_tls_handshakes_total").increment(1);
            return Some(stream);
        }
        Ok(Err((failure, stream))) => (failure, stream),
        Err(_) => (Failure::Timeout, None),
    };
    let reason = failure.label();
    metrics::counter!("longwire_tls_handshakes_failed_total", "reason" => reason).increment(1);
    tracing::debug!(reason, "a TLS handshake failed");
    if let Some(stream) = stream {
        linger(stream).await;
    }
    None
}

async fn handshake(
    config: Arc<ServerConfig>,
    mut stream: TcpStream,
) -> Result<TlsStream<TcpStream>, (Failure, Option<TcpStream>)> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1) if first == [HANDSHAKE_RECORD] => {}
        Ok(1) => {
            // Whoever does not take it has gone.
            drop(stream.write_all(plain_text_answer().as_bytes()).await);
            return Err((Failure::PlainText, Some(stream)));
        }
        _ => return Err((Failure::Left, None)),
    }
    let accepted = TlsAcceptor::from(config).accept(stream).into_fallible().await;
    // The alert that says why is written by now.
    accepted.map_err(|(error, stream)| (Failure::of(&error), Some(stream)))
}

/// What somebody who speaks HTTP without TLS is told; no one else can be told anything.
fn plain_text_answer() -> String {
    let message = "this port speaks TLS: use https:// or wss://";
    let (status, body) = problem_text(&Error::new(ErrorCode::UnsupportedProtocol, message));
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Leaves the peer the time to read what it was told.
async fn linger(mut stream: TcpStream) {
    let rest = async {
        stream.shutdown().await?;
        let (mut buffer, mut left) = ([0; 1024], LINGER_BYTES_MAX);
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        io::Result::Ok(())
    };
    // A peer that does not end it is left to itself.
    drop(timeout(LINGER_TIMEOUT, rest).await);
}
