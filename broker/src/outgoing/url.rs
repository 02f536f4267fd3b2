//! The address that an outgoing request goes to, as somebody writes it.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use http::uri::Scheme;

use crate::outgoing::address::{Reach, reach};

/// Bytes of an address: what every server takes.
const URL_BYTES_MAX: usize = 2048;
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;
/// The one name that is this host by definition (RFC 6761).
const LOCALHOST: &str = "localhost";

/// Why a text is no address that anything is sent to. It does not repeat the text, which may have a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    /// It cannot be read.
    #[error("it is an address such as https://id.example/path, of at most {URL_BYTES_MAX} characters")]
    Form,
    /// It has a name and a password.
    #[error("it has no name and password in it")]
    Credentials,
    /// It has a fragment, which is never sent.
    #[error("it has no `#`")]
    Fragment,
    /// It is neither.
    #[error("it begins with https://")]
    Scheme,
    /// Anybody on the way could read it, and answer instead.
    #[error(
        "it begins with https://: with http:// anybody on the way could read what is asked and answer as they like, so that is for \
         127.0.0.1, [::1] and localhost only"
    )]
    PlainText,
}

/// See the top of this file.
#[derive(Clone, PartialEq, Eq)]
pub struct OutgoingUrl {
    secure: bool,
    host: String,
    port: u16,
    authority: String,
    target: String,
}

impl fmt::Debug for OutgoingUrl {
    /// A query may have a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OutgoingUrl({}:{})", self.host, self.port)
    }
}

impl OutgoingUrl {
    /// The address that a text is.
    ///
    /// # Errors
    /// [`InvalidUrl`].
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        if text.len() > URL_BYTES_MAX {
            return Err(InvalidUrl::Form);
        }
        if text.contains('#') {
            return Err(InvalidUrl::Fragment);
        }
        let uri: Uri = text.parse().map_err(|_| InvalidUrl::Form)?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(InvalidUrl::Form);
        };
        if authority.as_str().contains('@') {
            return Err(InvalidUrl::Credentials);
        }
        let secure = match scheme {
            scheme if *scheme == Scheme::HTTPS => true,
            scheme if *scheme == Scheme::HTTP => false,
            _ => return Err(InvalidUrl::Scheme),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        // What is behind a colon may be nothing, or no port.
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            None if authority.as_str() != authority.host() => return Err(InvalidUrl::Form),
            None => {
                if secure {
                    HTTPS_PORT
                } else {
                    HTTP_PORT
                }
            }
        };
        if host.is_empty() || port == 0 {
            return Err(InvalidUrl::Form);
        }
        let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let url = Self { secure, host, port, authority: authority.as_str().to_owned(), target };
        if !secure && !url.is_this_host() {
            return Err(InvalidUrl::PlainText);
        }
        Ok(url)
    }

    /// Whether it is spoken to by TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// The name or the address of the host, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and port, as `Host` has them.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Path and query.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Scheme, host and port: what can be shown of it, as the rest may be a secret.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.authority)
    }

    /// Whether it says itself that it is of this host, and does not leave that to a name.
    #[must_use]
    pub fn is_this_host(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        self.host == LOCALHOST || address.is_ok_and(|address| reach(address) == Reach::Loopback)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_https_and_this_host() {
        for (text, host, port, target) in [
            ("https://id.example/jwks.json", "id.example", 443, "/jwks.json"),
            ("https://ID.example:8443", "id.example", 8443, "/"),
            ("https://[2606:4700::1]/k?v=1", "2606:4700::1", 443, "/k?v=1"),
            ("http://127.0.0.1:9/jwks", "127.0.0.1", 9, "/jwks"),
            ("http://[::1]/", "::1", 80, "/"),
            ("http://localhost:1/", "localhost", 1, "/"),
        ] {
            let url = OutgoingUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((url.host(), url.port(), url.target()), (host, port, target));
            assert_eq!(url.is_secure(), text.starts_with("https"));
        }
    }

    #[test]
    fn refuses_the_rest() {
        for (text, why) in [
            ("", InvalidUrl::Form),
            ("id.example", InvalidUrl::Form),
            ("/jwks", InvalidUrl::Form),
            ("https://", InvalidUrl::Form),
            ("https://id.example:/", InvalidUrl::Form),
            ("https://id.example:0/", InvalidUrl::Form),
            ("https://id.example:99999/", InvalidUrl::Form),
            ("https://id.example/a b", InvalidUrl::Form),
            ("https://user:secret@id.example/", InvalidUrl::Credentials),
            ("https://id.example@evil.example/", InvalidUrl::Credentials),
            ("https://id.example/#k", InvalidUrl::Fragment),
            ("ftp://id.example/", InvalidUrl::Scheme),
            ("file:///etc/passwd", InvalidUrl::Form),
            ("http://id.example/", InvalidUrl::PlainText),
            ("http://127.0.0.1.evil.example/", InvalidUrl::PlainText),
            ("http://localhost.evil.example/", InvalidUrl::PlainText),
            ("http://10.0.0.1/", InvalidUrl::PlainText),
            // Other ways to write 127.0.0.1 are names here; what they lead to is looked at later.
            ("http://2130706433/", InvalidUrl::PlainText),
            ("http://127.1/", InvalidUrl::PlainText),
            ("http://0.0.0.0/", InvalidUrl::PlainText),
        ] {
            assert_eq!(OutgoingUrl::parse(text).unwrap_err(), why, "{text}");
        }
        assert_eq!(
            OutgoingUrl::parse(&format!("https://a/{}", "x".repeat(URL_BYTES_MAX))),
            Err(InvalidUrl::Form)
        );
    }

    #[test]
    fn a_password_in_a_query_is_not_shown() {
        let url = OutgoingUrl::parse("https://id.example/k?key=secret").unwrap();
        assert!(!format!("{url:?}").contains("secret"));
    }
}
