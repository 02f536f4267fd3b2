//! Where the broker is.

use tokio_tungstenite::tungstenite::http::Uri;

use crate::error::ConnectError;
use crate::transport::Transport;

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

/// How a broker is reached, as the beginning of its URL says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Ws,
    Wss,
    Quic,
    Longwire,
    Grpc,
    Grpcs,
}

impl Scheme {
    const ALL: [Self; 6] = [Self::Ws, Self::Wss, Self::Quic, Self::Longwire, Self::Grpc, Self::Grpcs];

    /// Its name; whether TLS is spoken; what carries a connection, best first.
    const fn row(self) -> (&'static str, bool, &'static [Transport]) {
        match self {
            Self::Ws => ("ws", false, &[Transport::WebSocket]),
            Self::Wss => ("wss", true, &[Transport::WebSocket]),
            Self::Quic => ("quic", true, &[Transport::Quic]),
            Self::Longwire => ("longwire", true, &[Transport::Quic, Transport::WebSocket]),
            Self::Grpc => ("grpc", false, &[Transport::Grpc]),
            Self::Grpcs => ("grpcs", true, &[Transport::Grpc]),
        }
    }

    pub(crate) const fn has_tls(self) -> bool {
        self.row().1
    }

    pub(crate) const fn transports(self) -> &'static [Transport] {
        self.row().2
    }

    /// Whether it is a WebSocket whatever comes. The others have no paths, and frames of one encoding.
    pub(crate) fn is_websocket(self) -> bool {
        self.transports() == [Transport::WebSocket]
    }

    fn is_built(self) -> bool {
        cfg!(feature = "grpc") || !self.transports().contains(&Transport::Grpc)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) scheme: Scheme,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The URL that errors name.
    pub(crate) url: String,
    /// The URL of the WebSocket, when it may be one.
    pub(crate) websocket: String,
}

impl Address {
    /// Parses `ws://HOST[:PORT][/PATH]`, or `wss://` for TLS; a path is taken as a prefix of the broker's. Or
    /// `quic://HOST[:PORT]`, or `longwire://HOST[:PORT]`, or `grpc://HOST[:PORT]`, or `grpcs://` for TLS.
    pub(crate) fn parse(text: &str) -> Result<Self, ConnectError> {
        let invalid =
            |reason: &str| ConnectError::InvalidUrl { url: text.to_owned(), reason: reason.to_owned() };
        let uri: Uri = text.parse().map_err(|error| invalid(&format!("{error}")))?;
        let scheme = Scheme::ALL.into_iter().find(|scheme| uri.scheme_str() == Some(scheme.row().0));
        let scheme = scheme.ok_or_else(|| {
            invalid("it must begin with ws://, wss://, quic://, longwire://, grpc:// or grpcs://")
        })?;
        if !scheme.is_built() {
            return Err(invalid("this build has no gRPC: turn on the feature `grpc` of the SDK"));
        }
        if uri.query().is_some() || text.contains('@') {
            return Err(invalid("it must have neither a query nor a user"));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| invalid("it names no host"))?;
        let port = uri.port_u16().unwrap_or(DEFAULT_PORT);
        let prefix = uri.path().trim_end_matches('/').trim_end_matches(CONNECT_PATH);
        if !scheme.is_websocket() && !prefix.is_empty() {
            return Err(invalid(
                "only WebSockets have paths: leave out what follows the port, or use wss://",
            ));
        }
        let websocket = if scheme.has_tls() { "wss" } else { "ws" };
        let websocket = format!("{websocket}://{host}:{port}{prefix}{CONNECT_PATH}");
        let url = match scheme.is_websocket() {
            true => websocket.clone(),
            false => format!("{}://{host}:{port}", scheme.row().0),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { scheme, host, port, url, websocket })
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
            ("longwire://h", "h", 8700, "longwire://h:8700"),
            ("longwire://[::1]:9/", "::1", 9, "longwire://[::1]:9"),
        ] {
            let found = Address::parse(text).unwrap();
            assert_eq!((found.host.as_str(), found.port, found.url.as_str()), (host, port, url));
            assert_eq!(found.scheme.has_tls(), !text.starts_with("ws:"));
        }
    }

    #[test]
    fn the_one_that_finds_out_knows_the_websocket_too() {
        let found = Address::parse("longwire://[::1]:9").unwrap();
        assert_eq!(found.websocket, "wss://[::1]:9/v1/connect");
        assert_eq!(found.scheme.transports(), [Transport::Quic, Transport::WebSocket]);
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
            "longwire://",
            "longwire://h/x",
            "longwires://h",
        ] {
            assert!(matches!(Address::parse(text), Err(ConnectError::InvalidUrl { .. })), "{text}");
        }
    }
}
