//! What an error is over HTTP.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use longwire_proto::error::Error;

/// An error as `application/problem+json` (RFC 9457).
pub(crate) fn problem(error: &Error) -> Response {
    let (status, body) = problem_text(error);
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if error.retry_after_ms > 0 {
        // The header counts seconds (RFC 9110, section 10.2.3); who reads the body knows it better.
        let seconds = HeaderValue::from(error.retry_after_ms.div_ceil(1000));
        response.headers_mut().insert(RETRY_AFTER, seconds);
    }
    response
}

/// Status and body of the answer that an error is.
pub(crate) fn problem_text(error: &Error) -> (StatusCode, String) {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": error.message,
        "code": error.code.as_str(),
        "retryable": error.code.retryable(),
        "retry_after_ms": error.retry_after_ms,
        "limit": error.limit,
    });
    (status, body.to_string())
}
