//! The page for people: static files, embedded in the binary, that show and follow sessions in a browser.
//!
//! What agents write is hostile to whoever looks at it. The page writes text only; should it ever fail to, the policy
//! below leaves what got in with nothing to run, nothing to load and nowhere to send anything.

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::get;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};

/// Path, media type and text of every file.
const FILES: [(&str, &str, &str); 7] = [
    ("/", "text/html; charset=utf-8", include_str!("../web/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("../web/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("../web/page.js")),
    ("/client.js", "text/javascript; charset=utf-8", include_str!("../web/client.js")),
    ("/ask.js", "text/javascript; charset=utf-8", include_str!("../web/ask.js")),
    ("/text.js", "text/javascript; charset=utf-8", include_str!("../web/text.js")),
    ("/icon.svg", "image/svg+xml", include_str!("../web/icon.svg")),
];

/// Only what the broker itself serves runs, is loaded or is connected to; no other page may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Headers of every file. Without a cache, the files that a browser has are always of one broker's version.
const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Adds the page to the routes of the port.
pub fn routes<S: Clone + Send + Sync + 'static>(mut router: Router<S>) -> Router<S> {
    for (path, media_type, text) in FILES {
        router = router.route(path, get(move || async move { file(media_type, text) }));
    }
    router
}

fn file(media_type: &'static str, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of the page in all: what one person reads in an hour, and no framework fits in.
    const LINES_MAX: usize = 750;

    #[test]
    fn the_page_is_small() {
        let lines: usize = FILES.iter().map(|(_, _, text)| text.lines().count()).sum();
        assert!(lines <= LINES_MAX, "{lines} lines");
    }

    #[test]
    fn the_page_makes_nothing_but_text_of_text() {
        let forbidden =
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"];
        for (path, _, text) in FILES {
            for word in forbidden {
                assert!(!text.contains(word), "{path} has {word}");
            }
        }
    }

    #[test]
    fn nothing_is_inline_or_from_elsewhere() {
        let (_, _, html) = FILES[0];
        assert!(!html.contains("<style") && !html.contains("style=") && !html.contains("://"));
        assert!(html.matches("<script").count() == html.matches("<script type=\"module\" src=\"/").count());
        let handler = |word: &str| word.starts_with("on") && word.contains('=');
        assert!(!html.split_whitespace().any(handler));
    }
}
