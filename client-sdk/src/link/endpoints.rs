//! The UDP sockets of a client.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};

use quinn::{Endpoint, EndpointConfig, TokioRuntime};
use socket2::SockRef;

/// Bytes that the system keeps of what has come: a burst of the broker's is larger than what it keeps by itself.
const SOCKET_BUFFER_BYTES: usize = 2 << 20;
/// Bytes of a datagram to a broker on the same machine, where what a packet costs hardly depends on its length: as many as it takes.
pub(super) const LOCAL_MTU: u16 = 6500;
/// Bytes of one from there: what the loopback carries.
const DATAGRAM_BYTES_MAX: u16 = 60_000;

/// The UDP sockets of a client. They outlive its connections.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    v4: OnceLock<Endpoint>,
    v6: OnceLock<Endpoint>,
}

impl Endpoints {
    /// The socket for an address.
    ///
    /// # Errors
    /// What the system says of it.
    pub(super) fn to(&self, address: SocketAddr) -> io::Result<&Endpoint> {
        let (endpoint, any) = match address {
            SocketAddr::V4(_) => (&self.v4, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
            SocketAddr::V6(_) => (&self.v6, IpAddr::from(Ipv6Addr::UNSPECIFIED)),
        };
        if let Some(endpoint) = endpoint.get() {
            return Ok(endpoint);
        }
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        // It gives what its administrator allows; with less there is more that is sent twice.
        drop(SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER_BYTES));
        let mut config = EndpointConfig::default();
        config.max_udp_payload_size(DATAGRAM_BYTES_MAX).map_err(io::Error::other)?;
        let made = Endpoint::new(config, None, socket, Arc::new(TokioRuntime))?;
        Ok(endpoint.get_or_init(|| made))
    }

    /// Resolves when everything that was closed there has been said to be. The other family may have attempts that came to
    /// nothing, and who closes waits for none of those.
    pub(super) async fn wait_idle(&self, remote: SocketAddr) {
        let endpoint = if remote.is_ipv4() { &self.v4 } else { &self.v6 };
        if let Some(endpoint) = endpoint.get() {
            endpoint.wait_idle().await;
        }
    }
}
