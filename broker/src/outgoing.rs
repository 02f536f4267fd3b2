//! A request that the broker makes of somebody else. Whoever answers is not trusted with more than the answer: not with where the request
//! goes, how much comes back, or how long that takes.

mod address;
pub mod trust;
pub mod url;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, HeaderValue, USER_AGENT,
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::outgoing::address::{Reach, reach};
use crate::outgoing::url::OutgoingUrl;

/// The whole request, from the name to the last byte.
pub const OUTGOING_TIMEOUT: Duration = Duration::from_secs(10);
/// One address: another one may answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Addresses that are tried.
const ADDRESSES_MAX: usize = 8;
/// Bytes of the headers of an answer.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// Headers of an answer.
const HEADERS_MAX: usize = 64;

/// Where a request goes, and whom that trusts.
#[derive(Clone)]
pub struct Place {
    /// The address.
    pub url: OutgoingUrl,
    /// Whether it may be one of a private network.
    pub allow_private: bool,
    /// Who vouches for certificates; needed for https alone.
    pub tls: Option<Arc<ClientConfig>>,
}

/// Why there is no answer. It repeats nothing of one.
#[derive(Debug, thiserror::Error)]
pub enum OutgoingError {
    /// It took too long.
    #[error("it took longer than {} s", OUTGOING_TIMEOUT.as_secs())]
    Timeout,
    /// The name leads nowhere.
    #[error("its name leads to no address: {0}")]
    Resolve(#[source] io::Error),
    /// It leads where nothing is asked for.
    #[error(
        "its name leads to an address of a private network, of this host or of no network; if that is meant, the broker's \
         configuration says so (`allow_private = true` of an issuer, `webhook_hosts`)"
    )]
    Address,
    /// Nobody answers.
    #[error("it cannot be connected to: {0}")]
    Connect(#[source] io::Error),
    /// TLS failed, such as for a certificate that is not trusted.
    #[error("TLS with it failed: {0}")]
    Tls(#[source] io::Error),
    /// What was answered is not HTTP, or ended in the middle.
    #[error("it did not answer in HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// The request cannot be made.
    #[error("no request can be made of its address")]
    Request,
    /// It leads elsewhere.
    #[error("it redirects, which is not followed; name where that leads")]
    Redirect,
    /// It is compressed, so its length is not known.
    #[error("its answer is compressed, which was not asked for")]
    Encoding,
    /// It is too long.
    #[error("its answer has more than {0} bytes")]
    Length(usize),
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// How it ended.
    pub status: StatusCode,
    /// What is said about it.
    pub headers: HeaderMap,
    /// What it is; empty unless the status says that it went well.
    pub body: Vec<u8>,
}

/// Asks once, and takes so many bytes at most. What a request always says (`Host` and such) is put in here.
///
/// # Errors
/// [`OutgoingError`].
pub async fn ask(
    place: Place,
    request: Request<Full<Bytes>>,
    bytes_max: usize,
) -> Result<Answer, OutgoingError> {
    let patiently = ask_patiently(&place, request, bytes_max);
    timeout(OUTGOING_TIMEOUT, patiently).await.unwrap_or(Err(OutgoingError::Timeout))
}

async fn ask_patiently(
    place: &Place,
    mut request: Request<Full<Bytes>>,
    bytes_max: usize,
) -> Result<Answer, OutgoingError> {
    let url = &place.url;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(url.authority()).map_err(|_| OutgoingError::Request)?);
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("longwire/", env!("CARGO_PKG_VERSION"))));
    *request.uri_mut() = url.target().parse().map_err(|_| OutgoingError::Request)?;
    let found = lookup_host((url.host(), url.port())).await.map_err(OutgoingError::Resolve)?;
    let stream = connect(&allowed(place, found.collect())?).await?;
    match &place.tls {
        Some(config) if url.is_secure() => {
            let name = ServerName::try_from(url.host().to_owned()).map_err(|_| OutgoingError::Request)?;
            let connector = TlsConnector::from(Arc::clone(config));
            let stream = connector.connect(name, stream).await.map_err(OutgoingError::Tls)?;
            exchange(request, stream, bytes_max).await
        }
        None if url.is_secure() => Err(OutgoingError::Request),
        _ => exchange(request, stream, bytes_max).await,
    }
}

/// The addresses, when each of them may be connected to. One that may not be makes the others suspicious: whoever answers
/// for the name tries out what is behind it.
fn allowed(place: &Place, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, OutgoingError> {
    let this_host = place.url.is_this_host();
    let may = |address: &SocketAddr| match reach(address.ip()) {
        Reach::Public => !this_host,
        Reach::Private => !this_host && place.allow_private,
        Reach::Loopback => this_host || place.allow_private,
        Reach::Never => false,
    };
    match found.is_empty() || !found.iter().all(may) {
        true => Err(OutgoingError::Address),
        false => Ok(found),
    }
}

async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, OutgoingError> {
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for address in addresses.iter().take(ADDRESSES_MAX) {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
    }
    Err(OutgoingError::Connect(last))
}

async fn exchange<S>(
    request: Request<Full<Bytes>>,
    stream: S,
    bytes_max: usize,
) -> Result<Answer, OutgoingError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEADER_BYTES_MAX).max_headers(HEADERS_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let exchange = pin!(async {
        let response = sender.send_request(request).await?;
        read(response, bytes_max).await
    });
    match select(exchange, pin!(connection)).await {
        Either::Left((outcome, _)) => outcome,
        // What it brought is still to be read.
        Either::Right((_, exchange)) => exchange.await,
    }
}

async fn read(response: Response<Incoming>, bytes_max: usize) -> Result<Answer, OutgoingError> {
    let (parts, mut content) = response.into_parts();
    let (status, headers, mut body) = (parts.status, parts.headers, Vec::new());
    if status.is_redirection() {
        return Err(OutgoingError::Redirect);
    }
    if !status.is_success() {
        return Ok(Answer { status, headers, body });
    }
    let is_plain = |value: &[u8]| value.eq_ignore_ascii_case(b"identity");
    if !headers.get_all(CONTENT_ENCODING).iter().all(|value| is_plain(value.as_bytes())) {
        return Err(OutgoingError::Encoding);
    }
    if number(&headers, CONTENT_LENGTH.as_str()).is_some_and(|length| length > bytes_max as u64) {
        return Err(OutgoingError::Length(bytes_max));
    }
    while let Some(frame) = content.frame().await {
        if let Ok(data) = frame?.into_data() {
            if body.len() + data.len() > bytes_max {
                return Err(OutgoingError::Length(bytes_max));
            }
            body.extend_from_slice(&data);
        }
    }
    Ok(Answer { status, headers, body })
}

/// Whether an address is of a private network, of this host, or of none.
#[must_use]
pub fn is_private(address: IpAddr) -> bool {
    reach(address) != Reach::Public
}

/// A header that is a number.
#[must_use]
pub fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_looked_at_however_the_name_is_written() {
        let addresses = |text: &str| -> Vec<SocketAddr> {
            text.split(' ').map(|address| SocketAddr::new(address.parse().unwrap(), 443)).collect()
        };
        let may = |url: &str, allow_private, found: &str| {
            let place = Place { url: OutgoingUrl::parse(url).unwrap(), allow_private, tls: None };
            allowed(&place, addresses(found)).is_ok()
        };
        let name = "https://id.example/";
        assert!(may(name, false, "1.1.1.1 2606:4700::1111"));
        for found in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "0.0.0.0", "::ffff:192.168.0.1"] {
            assert!(!may(name, false, found), "{found}");
            assert!(!may(name, false, &format!("1.1.1.1 {found}")), "{found}");
        }
        assert!(may(name, true, "10.0.0.1 127.0.0.1 1.1.1.1"));
        // The credentials of a machine in a cloud are there.
        assert!(!may(name, true, "169.254.169.254"));
        assert!(may("http://localhost:1/", false, "127.0.0.1 ::1"));
        // What is said to be this host leads nowhere else: it may be in plain text.
        assert!(!may("http://localhost:1/", true, "1.1.1.1"));
        assert!(!may("http://localhost:1/", true, "10.0.0.1"));
        let place = Place { url: OutgoingUrl::parse(name).unwrap(), allow_private: true, tls: None };
        assert!(allowed(&place, Vec::new()).is_err());
    }
}
