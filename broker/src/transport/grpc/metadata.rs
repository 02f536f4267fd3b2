//! What the metadata of a call say: who calls, and how long it may take.

use std::time::Duration;

use http::header::{HeaderMap, USER_AGENT};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::TITLE_BYTES_MAX;
use longwire_proto::wire;
use tokio::time::Instant;

use crate::bearer::bearer;

/// Names the endpoint, as `device` of a hello does.
const DEVICE: &str = "longwire-device";
/// Names the client's software, as `client` of a hello does.
const CLIENT: &str = "longwire-client";
/// How long a call may take.
const TIMEOUT: &str = "grpc-timeout";
/// Digits of that (`PROTOCOL-HTTP2.md` of gRPC).
const TIMEOUT_DIGITS_MAX: usize = 8;
/// A time that is longer is none: timers do not reach as far as gRPC can write.
const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Error> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| {
        Error::new(ErrorCode::InvalidArgument, format!("`{name}` of the metadata must be printable ASCII"))
    })
}

/// The hello of a call that has no frames to say it in.
///
/// # Errors
/// Of metadata that are none.
pub(super) fn hello(headers: &HeaderMap) -> Result<wire::Hello, Error> {
    let token = bearer(headers)?.to_owned();
    let device = text(headers, DEVICE)?.unwrap_or_default().to_owned();
    let library = headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
    // What a library writes there by itself must not get the call refused.
    let library = library.filter(|text| text.len() <= TITLE_BYTES_MAX);
    let client = text(headers, CLIENT)?.or(library).unwrap_or_default().to_owned();
    Ok(wire::Hello { device, client, features: Vec::new(), token })
}

/// When the call's time is over; `None` when it has all the time there is.
///
/// # Errors
/// Of a `grpc-timeout` that is none.
pub(super) fn deadline(headers: &HeaderMap) -> Result<Option<Instant>, Error> {
    let Some(value) = text(headers, TIMEOUT)? else { return Ok(None) };
    let within = timeout(value).ok_or_else(|| {
        let message = format!("`{TIMEOUT}` is 1 to {TIMEOUT_DIGITS_MAX} digits and one of H, M, S, m, u, n");
        Error::new(ErrorCode::InvalidArgument, message)
    })?;
    Ok((within <= TIMEOUT_MAX).then(|| Instant::now() + within))
}

fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=TIMEOUT_DIGITS_MAX).contains(&digits.len())
        && digits.bytes().all(|digit| digit.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_what_grpc_writes() {
        for (text, wanted) in [
            ("0n", Some(Duration::ZERO)),
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("20S", Some(Duration::from_secs(20))),
            ("007m", Some(Duration::from_millis(7))),
            ("5u", Some(Duration::from_micros(5))),
            ("", None),
            ("S", None),
            ("-1S", None),
            ("+1S", None),
            ("1s", None),
            ("1.5S", None),
            ("100000000S", None),
            ("1é", None),
        ] {
            assert_eq!(timeout(text), wanted, "{text:?}");
        }
        let mut headers = HeaderMap::new();
        assert_eq!(deadline(&headers), Ok(None));
        headers.insert(TIMEOUT, "99999999H".parse().unwrap());
        assert_eq!(deadline(&headers), Ok(None), "nobody waits so long");
        headers.insert(TIMEOUT, "1S".parse().unwrap());
        assert!(deadline(&headers).unwrap().is_some());
        headers.insert(TIMEOUT, "soon".parse().unwrap());
        assert_eq!(deadline(&headers).unwrap_err().code, ErrorCode::InvalidArgument);
    }

    #[test]
    fn a_hello_is_made_of_metadata() {
        let mut headers = HeaderMap::new();
        assert_eq!(hello(&headers), Ok(wire::Hello::default()));
        headers.insert("authorization", "bearer T".parse().unwrap());
        headers.insert(USER_AGENT, "grpc-python/1".parse().unwrap());
        headers.insert(DEVICE, "phone".parse().unwrap());
        let found = hello(&headers).unwrap();
        assert_eq!(
            (found.token.as_str(), found.device.as_str(), found.client.as_str()),
            ("T", "phone", "grpc-python/1")
        );
        headers.insert(CLIENT, "mine/2".parse().unwrap());
        headers.insert(USER_AGENT, "x".repeat(TITLE_BYTES_MAX + 1).parse().unwrap());
        assert_eq!(hello(&headers).unwrap().client, "mine/2");
        headers.remove(CLIENT);
        assert_eq!(hello(&headers).unwrap().client, "");
        headers.insert("authorization", "Basic T".parse().unwrap());
        assert_eq!(hello(&headers).unwrap_err().code, ErrorCode::Unauthenticated);
    }
}
