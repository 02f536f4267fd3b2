//! One request for keys. Whoever answers is not trusted with more than their keys: not with where the request goes, how
//! much comes back, or how long that takes.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AGE, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HOST,
    USER_AGENT,
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::auth::jwks::address::{Reach, reach};
use crate::auth::jwks::url::JwksUrl;
use crate::auth::key_set::KEYS_BYTES_MAX;

/// The whole request, from the name to the last byte.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// One address: another one may answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Addresses that are tried.
const ADDRESSES_MAX: usize = 8;
/// Bytes of the headers of an answer.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// Headers of an answer.
const HEADERS_MAX: usize = 64;

/// Where keys are fetched from, and whom that trusts.
#[derive(Clone)]
pub struct Place {
    /// The address.
    pub url: JwksUrl,
    /// Whether it may be one of a private network.
    pub allow_private: bool,
    /// Who vouches for certificates; needed for https alone.
    pub tls: Option<Arc<ClientConfig>>,
}

/// Why there are no keys. It repeats nothing of an answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It took too long.
    #[error("it took longer than {} s", FETCH_TIMEOUT.as_secs())]
    Timeout,
    /// The name leads nowhere.
    #[error("its name leads to no address: {0}")]
    Resolve(#[source] io::Error),
    /// It leads where keys are not fetched from.
    #[error(
        "its name leads to an address of a private network, of this host or of no network; if that is meant, set \
         `allow_private = true`"
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
    #[error("it redirects, which is not followed; set `jwks_url` to where the keys are")]
    Redirect,
    /// It refuses.
    #[error("it answers with status {0}")]
    Status(u16),
    /// It is compressed, so its length is not known.
    #[error("its answer is compressed, which was not asked for")]
    Encoding,
    /// It is too long.
    #[error("its answer has more than {KEYS_BYTES_MAX} bytes")]
    Length,
    /// It is no text.
    #[error("its answer is no text")]
    Text,
}

/// What was answered.
#[derive(Debug)]
pub struct Fetched {
    /// The text, which is to be parsed as what a stranger wrote.
    pub text: String,
    /// For how long it says it is good.
    pub max_age: Option<Duration>,
}

/// Asks once.
///
/// # Errors
/// [`FetchError`].
pub async fn fetch(place: Place) -> Result<Fetched, FetchError> {
    timeout(FETCH_TIMEOUT, fetch_patiently(&place)).await.unwrap_or(Err(FetchError::Timeout))
}

async fn fetch_patiently(place: &Place) -> Result<Fetched, FetchError> {
    let url = &place.url;
    let found = lookup_host((url.host(), url.port())).await.map_err(FetchError::Resolve)?;
    let stream = connect(&allowed(place, found.collect())?).await?;
    match &place.tls {
        Some(config) if url.is_secure() => {
            let name = ServerName::try_from(url.host().to_owned()).map_err(|_| FetchError::Request)?;
            let connector = TlsConnector::from(Arc::clone(config));
            ask(url, connector.connect(name, stream).await.map_err(FetchError::Tls)?).await
        }
        None if url.is_secure() => Err(FetchError::Request),
        _ => ask(url, stream).await,
    }
}

/// The addresses, when each of them may be connected to. One that may not be makes the others suspicious: whoever answers
/// for the name tries out what is behind it.
fn allowed(place: &Place, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, FetchError> {
    let this_host = place.url.is_this_host();
    let may = |address: &SocketAddr| match reach(address.ip()) {
        Reach::Public => !this_host,
        Reach::Private => !this_host && place.allow_private,
        Reach::Loopback => this_host || place.allow_private,
        Reach::Never => false,
    };
    match found.is_empty() || !found.iter().all(may) {
        true => Err(FetchError::Address),
        false => Ok(found),
    }
}

async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, FetchError> {
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for address in addresses.iter().take(ADDRESSES_MAX) {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
    }
    Err(FetchError::Connect(last))
}

async fn ask<S>(url: &JwksUrl, stream: S) -> Result<Fetched, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = Request::get(url.target())
        .header(HOST, url.authority())
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(ACCEPT_ENCODING, "identity")
        .header(CONNECTION, "close")
        .header(USER_AGENT, concat!("longwire/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Request)?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEADER_BYTES_MAX).max_headers(HEADERS_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let exchange = pin!(async {
        let response = sender.send_request(request).await?;
        read(response).await
    });
    match select(exchange, pin!(connection)).await {
        Either::Left((outcome, _)) => outcome,
        // What it brought is still to be read.
        Either::Right((_, exchange)) => exchange.await,
    }
}

async fn read(response: Response<Incoming>) -> Result<Fetched, FetchError> {
    let (parts, mut body) = response.into_parts();
    match parts.status {
        StatusCode::OK => {}
        status if status.is_redirection() => return Err(FetchError::Redirect),
        status => return Err(FetchError::Status(status.as_u16())),
    }
    let is_plain = |value: &[u8]| value.eq_ignore_ascii_case(b"identity");
    if !parts.headers.get_all(CONTENT_ENCODING).iter().all(|value| is_plain(value.as_bytes())) {
        return Err(FetchError::Encoding);
    }
    if number(&parts.headers, CONTENT_LENGTH.as_str()).is_some_and(|length| length > KEYS_BYTES_MAX as u64) {
        return Err(FetchError::Length);
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if bytes.len() + data.len() > KEYS_BYTES_MAX {
                return Err(FetchError::Length);
            }
            bytes.extend_from_slice(&data);
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| FetchError::Text)?;
    Ok(Fetched { text, max_age: max_age(&parts.headers) })
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// For how long an answer says it is good (RFC 9111): `max-age`, less the time that it spent in caches on its way.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let directives = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let seconds: u64 = directives.flat_map(|value| value.split(',')).find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        let is_meant = name.trim().eq_ignore_ascii_case("max-age");
        is_meant.then(|| value.trim().trim_matches('"').parse().ok()).flatten()
    })?;
    Some(Duration::from_secs(seconds.saturating_sub(number(headers, AGE.as_str()).unwrap_or(0))))
}

#[cfg(test)]
mod tests;
