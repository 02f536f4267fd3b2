//! What a client says before it has heard anything: taken whole, passed on when it is to be, and kept, as by whoever looks on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::support::quic_client::soon;

/// No packet is longer.
const PACKET_BYTES: usize = 65_536;

/// What nobody has answered for so long is sent again.
const SILENCE: Duration = Duration::from_millis(100);

/// Reads a number of QUIC (RFC 9000, section 16).
fn varint(packet: &[u8], at: &mut usize) -> Option<usize> {
    let first = *packet.get(*at)?;
    let length = 1 << (first >> 6);
    let value = packet.get(*at + 1..*at + length)?;
    *at += length;
    Some(value.iter().fold(usize::from(first & 0x3f), |value, byte| value << 8 | usize::from(*byte)))
}

/// Whether a packet of 0-RTT is among those of a datagram (RFC 9000, section 17.2). Who knows the broker may clear the bit by which QUIC is
/// known (RFC 9287).
fn is_early(mut datagram: &[u8]) -> bool {
    while let Some(first) = datagram.first().filter(|first| **first & 0x80 != 0) {
        let kind = first >> 4 & 3;
        if kind == 1 {
            return true;
        }
        let skipped = (|| {
            let mut at = 5;
            for _ in 0..2 {
                at += 1 + usize::from(*datagram.get(at)?);
            }
            if kind == 0 {
                at += varint(datagram, &mut at)?;
            }
            let length = varint(datagram, &mut at)?;
            datagram.get(at + length..)
        })();
        datagram = skipped.unwrap_or_default();
    }
    false
}

/// Where a client's first packets arrive.
pub(crate) struct FirstFlight {
    front: UdpSocket,
}

/// Lets through what comes back, and, once it is open, everything.
pub(crate) struct Gate(Arc<AtomicBool>);

impl Gate {
    pub(crate) fn open(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl FirstFlight {
    pub(crate) async fn new() -> Self {
        Self { front: UdpSocket::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.front.local_addr().unwrap()
    }

    /// The datagrams, up to the one with what is said early. It must fit into one.
    pub(crate) async fn take(&self) -> (Vec<Vec<u8>>, SocketAddr) {
        let (mut flight, mut packet) = (Vec::new(), vec![0; PACKET_BYTES]);
        loop {
            let (length, client) = soon("a client comes", self.front.recv_from(&mut packet)).await.unwrap();
            flight.push(packet[..length].to_vec());
            if is_early(&packet[..length]) {
                return (flight, client);
            }
        }
    }

    /// Passes it on.
    pub(crate) async fn pass(self, (flight, client): (&[Vec<u8>], SocketAddr), upstream: SocketAddr) -> Gate {
        let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for packet in flight {
            back.send_to(packet, upstream).await.unwrap();
        }
        let is_open = Arc::new(AtomicBool::new(false));
        let opened = Arc::clone(&is_open);
        drop(tokio::spawn(async move {
            let (mut up, mut down) = (vec![0; PACKET_BYTES], vec![0; PACKET_BYTES]);
            loop {
                tokio::select! {
                    Ok((length, _)) = self.front.recv_from(&mut up) => {
                        if opened.load(Ordering::SeqCst) {
                            drop(back.send_to(&up[..length], upstream).await);
                        }
                    }
                    Ok((length, _)) = back.recv_from(&mut down) => {
                        drop(self.front.send_to(&down[..length], client).await);
                    }
                }
            }
        }));
        Gate(is_open)
    }
}

/// The same packets from somebody else, again and again until they are answered: the answer.
pub(crate) async fn send_again(flight: &[Vec<u8>], upstream: SocketAddr) -> Vec<u8> {
    let elsewhere = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut answer = vec![0; PACKET_BYTES];
    let answered = async {
        loop {
            for packet in flight {
                elsewhere.send_to(packet, upstream).await.unwrap();
            }
            if let Ok(came) = timeout(SILENCE, elsewhere.recv(&mut answer)).await {
                return came.unwrap();
            }
        }
    };
    let length = soon("it is answered", answered).await;
    answer.truncate(length);
    answer
}
