//! Where the broker is.

use tokio_tungstenite::tungstenite::http::Uri;

use crate::error::ConnectError;

/// The broker that is meant when nothing else is said.
pub const DEFAULT_URL: &str = "ws://127.0.0.1:8700";
/// The environment variable that names the broker.
pub const URL_VARIABLE: &str = "LONGWIRE_URL";
/// The environment variable that has the token.
pub const TOKEN_VARIABLE: &str = "LONGWIRE_TOKEN";
/// The path of the WebSocket on a broker.
const CONNECT_PATH: &str = "/v1/connect";
/// The broker's default port.
const DEFAULT_PORT: u16 = 8700;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The URL of the WebSocket, or of the port for QUIC and gRPC.
    pub(crate) url: String,
    /// Whether it is reached by TLS.
    pub(crate) tls: bool,
    /// Whether it is reached by QUIC.
    pub(crate) quic: bool,
    /// Whether it is reached by gRPC.
    pub(crate) grpc: bool,
}

impl Address {
    /// Parses `ws://HOST[:PORT][/PATH]`, or `wss://` for TLS; a path is taken as a prefix of the broker's. Or
    /// `quic://HOST[:PORT]`, or `grpc://HOST[:PORT]`, or `grpcs://` for TLS.
    pub(crate) fn parse(text: &str) -> Result<Self, ConnectError> {
        let invalid =
            |reason: &str| ConnectError::InvalidUrl { url: text.to_owned(), reason: reason.to_owned() };
        let uri: Uri = text.parse().map_err(|error| invalid(&format!("{error}")))?;
        let (scheme, tls) = match uri.scheme_str() {
            Some("ws") => ("ws", false),
            Some("wss") => ("wss", true),
            Some("quic") => ("quic", true),
            Some("grpc" | "grpcs") if !cfg!(feature = "grpc") => {
                return Err(invalid("this build has no gRPC: turn on the feature `grpc` of the SDK"));
            }
            Some("grpc") => ("grpc", false),
            Some("grpcs") => ("grpcs", true),
            _ => return Err(invalid("it must begin with ws://, wss://, quic://, grpc:// or grpcs://")),
        };
        if uri.query().is_some() || text.contains('@') {
            return Err(invalid("it must have neither a query nor a user"));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| invalid("it names no host"))?;
        let port = uri.port_u16().unwrap_or(DEFAULT_PORT);
        let prefix = uri.path().trim_end_matches('/').trim_end_matches(CONNECT_PATH);
        let (quic, grpc) = (scheme == "quic", scheme.starts_with("grpc"));
        if (quic || grpc) && !prefix.is_empty() {
            return Err(invalid("QUIC and gRPC have no paths: leave out what follows the port"));
        }
        let path = if quic || grpc { "" } else { CONNECT_PATH };
        let url = format!("{scheme}://{host}:{port}{prefix}{path}");
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port, url, tls, quic, grpc })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_host_port_and_path() {
        for (text, host, port, url) in [
            (DEFAULT_URL, "127.0.0.1", 8700, "ws://127.0.0.1:8700/v1/connect"),
            ("ws://box/", "box", 8700, "ws://box:8700/v1/connect"),
            ("ws://[::1]:9", "::1", 9, "ws://[::1]:9/v1/connect"),
            ("ws://h:1/proxy/", "h", 1, "ws://h:1/proxy/v1/connect"),
            ("ws://h:1/v1/connect", "h", 1, "ws://h:1/v1/connect"),
            ("wss://h", "h", 8700, "wss://h:8700/v1/connect"),
            ("wss://[::1]:443/x", "::1", 443, "wss://[::1]:443/x/v1/connect"),
            ("quic://h", "h", 8700, "quic://h:8700"),
            ("quic://[::1]:9/", "::1", 9, "quic://[::1]:9"),
        ] {
            let (tls, quic) = (!url.starts_with("ws:"), url.starts_with("quic"));
            let wanted = Address { host: host.into(), port, url: url.into(), tls, quic, grpc: false };
            assert_eq!(Address::parse(text).unwrap(), wanted);
        }
    }

    #[test]
    #[cfg(feature = "grpc")]
    fn finds_grpc() {
        for (text, tls, url) in
            [("grpc://h/", false, "grpc://h:8700"), ("grpcs://[::1]:9", true, "grpcs://[::1]:9")]
        {
            let found = Address::parse(text).unwrap();
            assert_eq!((found.grpc, found.quic, found.tls, found.url.as_str()), (true, false, tls, url));
        }
        assert!(Address::parse("grpc://h/x").is_err());
    }

    #[test]
    #[cfg(not(feature = "grpc"))]
    fn says_what_this_build_has_not() {
        let error = Address::parse("grpc://h").unwrap_err().to_string();
        assert!(error.contains("feature `grpc`"), "{error}");
    }

    #[test]
    fn says_what_is_wrong() {
        for text in [
            "",
            "h:1",
            "http://h",
            "https://h",
            "ws://",
            "wss://",
            "ws://u:p@h",
            "ws://h?x=1",
            "quic://h/x",
            "quic://",
        ] {
            assert!(matches!(Address::parse(text), Err(ConnectError::InvalidUrl { .. })), "{text}");
        }
    }
}
