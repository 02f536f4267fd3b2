//! What every request on the port is answered with, and where it comes from.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::connection::ConnectionContext;
use crate::late_recorder::MetricsText;
use crate::origin::Origins;
use crate::transport::grpc::system::Serving;

/// What the HTTP side needs.
pub struct HttpContext {
    /// What connections share.
    pub connections: Arc<ConnectionContext>,
    /// What `/metrics` shows.
    pub metrics: MetricsText,
    /// Names that are answered to besides addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Pages that may connect.
    pub origins: Origins,
    /// Tracks upgraded connections, which outlive their HTTP request, and calls.
    pub upgraded: TaskTracker,
    /// Whether the broker serves, as gRPC is told.
    pub(crate) serving: Serving,
}

/// Where a request comes from: the peer of its socket, which may be a proxy.
#[derive(Clone, Copy, Debug)]
pub struct Remote(pub SocketAddr);
