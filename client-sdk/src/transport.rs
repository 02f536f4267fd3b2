//! What carries a connection.

use std::fmt;

/// What carries a connection to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Transport {
    /// A WebSocket, over TCP, with TLS or without.
    WebSocket,
    /// QUIC, over UDP, encrypted always.
    Quic,
    /// gRPC, over TCP, with TLS or without.
    Grpc,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WebSocket => "WebSocket",
            Self::Quic => "QUIC",
            Self::Grpc => "gRPC",
        })
    }
}
