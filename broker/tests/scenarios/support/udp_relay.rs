//! What stands between a client and the broker on UDP, as the router of a home does: the client keeps its address, and the broker
//! sees another one whenever the router forgets.

use std::net::SocketAddr;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;

/// No packet is longer.
const PACKET_BYTES: usize = 65_536;

enum Change {
    Rebind,
    Upstream(SocketAddr),
}

/// A relay for one client.
pub(crate) struct UdpRelay {
    address: SocketAddr,
    changes: mpsc::UnboundedSender<Change>,
}

impl UdpRelay {
    pub(crate) async fn start(mut upstream: SocketAddr) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap();
        let (changes, mut changed) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let (mut up, mut down) = (vec![0; PACKET_BYTES], vec![0; PACKET_BYTES]);
            let mut client = None;
            loop {
                // Packets that do not get through are lost, as they may be.
                tokio::select! {
                    Ok((length, from)) = front.recv_from(&mut up) => {
                        client = Some(from);
                        drop(back.send_to(&up[..length], upstream).await);
                    }
                    Ok((length, _)) = back.recv_from(&mut down) => {
                        if let Some(client) = client {
                            drop(front.send_to(&down[..length], client).await);
                        }
                    }
                    change = changed.recv() => match change {
                        Some(Change::Rebind) => back = UdpSocket::bind("127.0.0.1:0").await.unwrap(),
                        Some(Change::Upstream(address)) => upstream = address,
                        None => return,
                    },
                }
            }
        });
        Self { address, changes }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("quic://{}", self.address)
    }

    /// From here on the broker sees the client at another address.
    pub(crate) fn rebind(&self) {
        self.changes.send(Change::Rebind).unwrap_or_else(|_| panic!("the relay has ended"));
    }

    pub(crate) fn set_upstream(&self, upstream: SocketAddr) {
        self.changes.send(Change::Upstream(upstream)).unwrap_or_else(|_| panic!("the relay has ended"));
    }
}
