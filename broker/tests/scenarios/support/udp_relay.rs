//! What stands between a client and the broker on UDP, as the router of a home does: the client keeps its address, and the broker
//! sees another one whenever the router forgets.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::sync::mpsc;

/// No packet is longer.
const PACKET_BYTES: usize = 65_536;

enum Change {
    Rebind,
    Upstream(SocketAddr),
}

/// What begins a connection of QUIC: an Initial packet of version 1 (RFC 9000, section 17.2.2), by the id that its client chose for
/// the other end. It keeps that until something comes back.
fn begins(packet: &[u8]) -> Option<Vec<u8>> {
    let [first, 0, 0, 0, 1, length, rest @ ..] = packet else { return None };
    (first & 0xf0 == 0xc0).then(|| rest.get(..usize::from(*length)).map(<[u8]>::to_vec))?
}

/// A relay for one client.
pub(crate) struct UdpRelay {
    address: SocketAddr,
    changes: mpsc::UnboundedSender<Change>,
    is_blocked: Arc<AtomicBool>,
    begun: Arc<Mutex<BTreeSet<Vec<u8>>>>,
}

impl UdpRelay {
    pub(crate) async fn start(upstream: SocketAddr) -> Self {
        Self::over(UdpSocket::bind("127.0.0.1:0").await.unwrap(), upstream)
    }

    /// A relay that clients reach at this socket.
    pub(crate) fn over(front: UdpSocket, mut upstream: SocketAddr) -> Self {
        let address = front.local_addr().unwrap();
        let is_blocked = Arc::new(AtomicBool::new(false));
        let begun: Arc<Mutex<BTreeSet<Vec<u8>>>> = Arc::default();
        let (blocked, seen) = (Arc::clone(&is_blocked), Arc::clone(&begun));
        let (changes, mut changed) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let (mut up, mut down) = (vec![0; PACKET_BYTES], vec![0; PACKET_BYTES]);
            let mut client = None;
            loop {
                // Packets that do not get through are lost, as they may be.
                tokio::select! {
                    Ok((length, from)) = front.recv_from(&mut up) => {
                        if blocked.load(Ordering::SeqCst) {
                            seen.lock().unwrap().extend(begins(&up[..length]));
                            continue;
                        }
                        // Every packet of QUIC has this bit; who sends something else asks only whether a port is closed.
                        if up[0] & 0x40 != 0 {
                            client = Some(from);
                        }
                        drop(back.send_to(&up[..length], upstream).await);
                    }
                    Ok((length, _)) = back.recv_from(&mut down) => {
                        if let Some(client) = client.filter(|_| !blocked.load(Ordering::SeqCst)) {
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
        Self { address, changes, is_blocked, begun }
    }

    /// From here on nothing gets through, and nobody is told.
    pub(crate) fn block(&self) {
        self.is_blocked.store(true, Ordering::SeqCst);
    }

    pub(crate) fn unblock(&self) {
        self.is_blocked.store(false, Ordering::SeqCst);
    }

    /// How many connections were begun in vain.
    pub(crate) fn begun_in_vain(&self) -> usize {
        self.begun.lock().unwrap().len()
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
