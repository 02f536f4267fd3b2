//! What stands between a client and the broker on UDP, as the router of a home does: the client keeps its address, and the broker
//! sees another one whenever the router forgets. It loses, repeats and reorders what it is told to.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use crate::support::rng::Rng;

/// No packet is longer.
const PACKET_BYTES: usize = 65_536;
/// Packets that are kept, to be sent again much later.
const KEPT: usize = 512;

/// What becomes of packets, in both directions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Of so many in a hundred nothing is heard again.
    pub(crate) lost: u64,
    /// So many in a hundred come after the one behind them.
    pub(crate) late: u64,
    /// Each comes twice, and with it one that came long ago.
    pub(crate) repeats: bool,
    /// Nothing comes to the client.
    pub(crate) deaf: bool,
}

enum Change {
    Rebind,
    Upstream(SocketAddr),
    Weather(Weather),
}

/// One direction.
#[derive(Default)]
struct Way {
    late: Option<Vec<u8>>,
    kept: VecDeque<Vec<u8>>,
}

impl Way {
    /// What arrives when this packet was sent.
    fn arriving(&mut self, packet: &[u8], weather: Weather, rng: &mut Rng) -> Vec<Vec<u8>> {
        if rng.below(100) < weather.lost {
            return Vec::new();
        }
        if self.late.is_none() && rng.below(100) < weather.late {
            self.late = Some(packet.to_vec());
            return Vec::new();
        }
        let mut arriving = vec![packet.to_vec()];
        arriving.extend(self.late.take());
        if weather.repeats {
            arriving.extend(arriving.clone());
            if !self.kept.is_empty() {
                arriving.push(self.kept[rng.below(self.kept.len() as u64) as usize].clone());
            }
            self.kept.push_back(packet.to_vec());
            if self.kept.len() > KEPT {
                self.kept.pop_front();
            }
        }
        arriving
    }
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
        Self::start_seeded(upstream, 1).await
    }

    pub(crate) async fn start_seeded(upstream: SocketAddr, seed: u64) -> Self {
        Self::over(UdpSocket::bind("127.0.0.1:0").await.unwrap(), upstream, seed)
    }

    /// A relay that clients reach at this socket.
    pub(crate) fn over(front: UdpSocket, mut upstream: SocketAddr, seed: u64) -> Self {
        let address = front.local_addr().unwrap();
        let is_blocked = Arc::new(AtomicBool::new(false));
        let begun: Arc<Mutex<BTreeSet<Vec<u8>>>> = Arc::default();
        let (blocked, seen) = (Arc::clone(&is_blocked), Arc::clone(&begun));
        let (changes, mut changed) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let (mut up, mut down) = (vec![0; PACKET_BYTES], vec![0; PACKET_BYTES]);
            let (mut upwards, mut downwards) = (Way::default(), Way::default());
            let (mut weather, mut rng) = (Weather::default(), Rng::from_env(seed));
            let mut client = None;
            loop {
                // Packets that do not get through are lost, as they may be.
                tokio::select! {
                    Ok((length, from)) = front.recv_from(&mut up) => {
                        if blocked.load(Ordering::SeqCst) {
                            seen.lock().unwrap().extend(begins(&up[..length]));
                            continue;
                        }
                        // Every packet that begins a client's first connection has this bit; who sends something else asks only whether a port is closed.
                        if up[0] & 0x40 != 0 {
                            client = Some(from);
                        }
                        for packet in upwards.arriving(&up[..length], weather, &mut rng) {
                            drop(back.send_to(&packet, upstream).await);
                        }
                    }
                    Ok((length, _)) = back.recv_from(&mut down) => {
                        let hears = !weather.deaf && !blocked.load(Ordering::SeqCst);
                        let Some(client) = client.filter(|_| hears) else { continue };
                        for packet in downwards.arriving(&down[..length], weather, &mut rng) {
                            drop(front.send_to(&packet, client).await);
                        }
                    }
                    change = changed.recv() => match change {
                        Some(Change::Rebind) => back = UdpSocket::bind("127.0.0.1:0").await.unwrap(),
                        Some(Change::Upstream(address)) => upstream = address,
                        Some(Change::Weather(next)) => weather = next,
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

    fn change(&self, change: Change) {
        self.changes.send(change).unwrap_or_else(|_| panic!("the relay has ended"));
    }

    /// From here on the broker sees the client at another address.
    pub(crate) fn rebind(&self) {
        self.change(Change::Rebind);
    }

    pub(crate) fn set_upstream(&self, upstream: SocketAddr) {
        self.change(Change::Upstream(upstream));
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.change(Change::Weather(weather));
    }
}
