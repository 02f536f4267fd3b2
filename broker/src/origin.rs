//! Origins: which pages a browser may connect from (RFC 6454). A browser says truly where a page came from; everything
//! else that can open a socket can also leave the header out.

use http::header::{HeaderMap, ORIGIN};
use http::uri::Authority;
use longwire_proto::error::{Error, ErrorCode};

/// Pages of which origins are let in: the broker's own, and those of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    /// Besides the broker's own, as browsers write them.
    pub listed: Vec<String>,
    /// The port speaks TLS, so a page of its own came over it too.
    pub tls: bool,
}

/// An origin as browsers write it: lower case, no user, no path, no port that is the scheme's own.
struct Origin<'t> {
    scheme: &'t str,
    host: String,
    port: Option<u16>,
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    }
}

impl<'t> Origin<'t> {
    fn parse(text: &'t str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
            && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || b"0123456789+-.".contains(&byte));
        let authority: Authority = rest.parse().ok()?;
        let (host, port) = (authority.host().to_owned(), authority.port_u16());
        let written = port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        let is_plain = rest == written && !host.is_empty() && !host.ends_with('.');
        let is_lower = !rest.bytes().any(|byte| byte.is_ascii_uppercase());
        let has_own_port = port.is_some() && port == default_port(scheme);
        (is_scheme && is_plain && is_lower && !has_own_port).then_some(Self { scheme, host, port })
    }
}

/// Whether a text is an origin as browsers write it, which is how it is compared.
#[must_use]
pub fn is_origin(text: &str) -> bool {
    Origin::parse(text).is_some()
}

impl Origins {
    /// Refuses a page that may not connect to the broker, which it knows as `host`.
    ///
    /// # Errors
    /// `origin_forbidden`.
    pub fn check(&self, headers: &HeaderMap, host: Option<&Authority>) -> Result<(), Error> {
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(origin) = origins.next() else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default();
        if origins.next().is_none() && self.allows(origin, host) {
            return Ok(());
        }
        let message = format!(
            "pages of the origin {origin:?} may not connect; serve the page from the broker's own address, or add its \
             origin to the broker's `origins`"
        );
        Err(Error::new(ErrorCode::OriginForbidden, message))
    }

    fn allows(&self, origin: &str, host: Option<&Authority>) -> bool {
        if self.listed.iter().any(|listed| listed == origin) {
            return true;
        }
        let (Some(origin), Some(host)) = (Origin::parse(origin), host) else { return false };
        // Without TLS of our own, a proxy may have terminated it: then the page is of `https` and we cannot know.
        let from_here = origin.scheme == "https" || (origin.scheme == "http" && !self.tls);
        let own_port = default_port(origin.scheme);
        from_here
            && host.host().eq_ignore_ascii_case(&origin.host)
            && host.port_u16().or(own_port) == origin.port.or(own_port)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn allows(origins: &Origins, origin: &[&str], host: &str) -> bool {
        let mut headers = HeaderMap::new();
        for origin in origin {
            headers.append(ORIGIN, HeaderValue::from_bytes(origin.as_bytes()).unwrap());
        }
        origins.check(&headers, host.parse().ok().as_ref()).is_ok()
    }

    fn plain() -> Origins {
        Origins::default()
    }

    fn tls() -> Origins {
        Origins { tls: true, ..Origins::default() }
    }

    #[test]
    fn the_same_origin_is_let_in() {
        for (origin, host) in [
            ("http://127.0.0.1:8700", "127.0.0.1:8700"),
            ("http://[::1]:8700", "[::1]:8700"),
            ("http://localhost", "localhost:80"),
            ("http://localhost", "LOCALHOST"),
            ("https://broker.example", "broker.example"),
            ("https://broker.example", "broker.example:443"),
            ("https://broker.example:8700", "broker.example:8700"),
        ] {
            assert!(allows(&plain(), &[origin], host), "{origin} at {host}");
            assert_eq!(allows(&tls(), &[origin], host), origin.starts_with("https"), "{origin} at {host}");
        }
    }

    #[test]
    fn who_is_no_browser_has_no_origin() {
        assert!(allows(&plain(), &[], "127.0.0.1:8700"));
        assert!(allows(&tls(), &[], ""));
    }

    #[test]
    fn every_other_origin_is_refused() {
        for origin in [
            "null",
            "",
            "https://",
            "https://broker.example",
            "https://broker.example:8701",
            "https://broker.example:443",
            "https://broker.example:8700.evil.example",
            "https://broker.example.evil.example:8700",
            "https://evilbroker.example:8700",
            "https://evil.example:8700",
            "https://broker.example.:8700",
            "https://user@broker.example:8700",
            "https://broker.example:8700@evil.example",
            "https://evil.example#@broker.example:8700",
            "https://broker.example:8700/",
            "https://broker.example:8700/page",
            "https://broker.example:8700?",
            "https://broker.example:08700",
            "https://broker.example: 8700",
            " https://broker.example:8700",
            "https://Broker.example:8700",
            "HTTPS://broker.example:8700",
            "https:broker.example:8700",
            "//broker.example:8700",
            "broker.example:8700",
            "file://broker.example:8700",
            "ws://broker.example:8700",
            "https://localhost:8700",
            "https://127.0.0.1:8700",
            "https://br\u{f6}ker.example:8700",
        ] {
            assert!(!allows(&plain(), &[origin], "broker.example:8700"), "{origin:?}");
            assert!(!allows(&tls(), &[origin], "broker.example:8700"), "{origin:?}");
        }
        assert!(!allows(&tls(), &["http://broker.example:8700"], "broker.example:8700"));
        // On localhost too, another port is another page's.
        assert!(!allows(&plain(), &["http://localhost:3000"], "localhost:8700"));
        assert!(!allows(&plain(), &["http://localhost:8700"], "127.0.0.1:8700"));
        assert!(!allows(&plain(), &["http://localhost:8700"], ""));
        let same = "https://broker.example:8700";
        assert!(!allows(&tls(), &[same, same], "broker.example:8700"));
    }

    #[test]
    fn a_listed_origin_is_let_in_as_it_is_written() {
        let listed = vec!["https://app.example".to_owned(), "tauri://localhost".to_owned()];
        for origins in [Origins { listed: listed.clone(), tls: true }, Origins { listed, tls: false }] {
            for origin in ["https://app.example", "tauri://localhost"] {
                assert!(allows(&origins, &[origin], "broker.example:8700"));
            }
            for origin in [
                "http://app.example",
                "https://app.example:8443",
                "https://app.example.",
                "https://app.example.evil.example",
                "https://x.app.example",
                "https://App.example",
                "https://user@app.example",
                "https://app.example/",
                "null",
            ] {
                assert!(!allows(&origins, &[origin], "broker.example:8700"), "{origin}");
            }
            assert!(!allows(&origins, &["https://app.example", "https://evil.example"], "b:1"));
        }
    }

    #[test]
    fn only_what_browsers_write_can_be_listed() {
        for origin in
            ["https://app.example", "http://localhost:3000", "http://[::1]:3000", "tauri://localhost"]
        {
            assert!(is_origin(origin), "{origin}");
        }
        for origin in [
            "null",
            "*",
            "https://*.example/",
            "app.example",
            "https://app.example/",
            "https://App.example",
            "https://app.example:443",
            "http://app.example:80",
            "https://app.example.",
            "https://u@app.example",
        ] {
            assert!(!is_origin(origin), "{origin}");
        }
    }
}
