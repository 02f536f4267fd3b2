//! One request for keys.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AGE, CACHE_CONTROL, HeaderValue};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::Full;

use crate::auth::key_set::KEYS_BYTES_MAX;
use crate::outgoing::{OutgoingError, Place, ask, number};

/// Why there are no keys. It repeats nothing of an answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There is no answer.
    #[error(transparent)]
    Outgoing(#[from] OutgoingError),
    /// It refuses.
    #[error("it answers with status {0}")]
    Status(u16),
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
    let mut request = Request::new(Full::<Bytes>::default());
    let wanted = HeaderValue::from_static("application/jwk-set+json, application/json");
    request.headers_mut().insert(ACCEPT, wanted);
    let answer = ask(place, request, KEYS_BYTES_MAX).await?;
    if answer.status != StatusCode::OK {
        return Err(FetchError::Status(answer.status.as_u16()));
    }
    let text = String::from_utf8(answer.body).map_err(|_| FetchError::Text)?;
    Ok(Fetched { text, max_age: max_age(&answer.headers) })
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
