//! How the client stands with the broker.

use std::time::Duration;

use longwire_proto::error::ErrorCode;
use longwire_proto::wire;

use crate::error::Closed;
use crate::transport::Transport;

/// The connection's state, as `Client::state` shows it.
#[derive(Clone, Debug, PartialEq)]
pub enum ConnectionState {
    /// The first connection is being made.
    Connecting,
    /// The broker welcomed the client.
    Connected {
        /// Who the broker takes the client for.
        principal: String,
        /// The broker's limits.
        limits: wire::Limits,
        /// What carries the connection.
        transport: Transport,
    },
    /// The connection broke or could not be made; the client tries again by itself.
    Reconnecting {
        /// Tries since the last good connection, from 1.
        attempt: u32,
        /// Why.
        error: String,
        /// The broker's reason for ending the connection, when it gave one.
        code: Option<ErrorCode>,
        /// When the next try begins.
        retry_in: Duration,
    },
    /// The broker is shutting down and told when to come back.
    Draining {
        /// When the next try begins.
        reconnect_in: Duration,
    },
    /// The client is closed for good.
    Closed(Closed),
}
