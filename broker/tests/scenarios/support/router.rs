//! What stands between a client and the broker on both TCP and UDP, on ports of the same number, and lets through what it is told
//! to.

use std::net::SocketAddr;

use tokio::net::{TcpListener, UdpSocket};

use crate::support::broker::Broker;
use crate::support::proxy::Proxy;
use crate::support::udp_relay::UdpRelay;

/// Both ports are as good as always found at once.
const TRIES: usize = 100;

pub(crate) struct Router {
    pub(crate) tcp: Proxy,
    pub(crate) udp: UdpRelay,
    /// Takes connections, and never says anything.
    silent: TcpListener,
}

impl Router {
    pub(crate) async fn start(broker: &Broker) -> Self {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for _ in 0..TRIES {
            let tcp = Proxy::start(broker.address()).await;
            if let Ok(front) = UdpSocket::bind(tcp.address()).await {
                return Self { tcp, udp: UdpRelay::over(front, broker.address(), 1), silent };
            }
        }
        panic!("no port is free for both");
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.tcp.address()
    }

    pub(crate) fn url(&self) -> String {
        format!("longwire://{}", self.address())
    }

    /// From here on connections by TCP are made, and come to nothing.
    pub(crate) fn stall_tcp(&self) {
        self.tcp.set_upstream(Some(self.silent.local_addr().unwrap()));
    }
}
