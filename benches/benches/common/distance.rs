//! A broker that is far away: what is sent takes its time.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Bytes that are passed on at once.
const PIECE_BYTES: usize = 64 << 10;

/// Where a broker is reached by TCP.
pub(crate) async fn tcp(upstream: SocketAddr, distance: Duration) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(upstream).await.unwrap();
            for stream in [&near, &far] {
                stream.set_nodelay(true).unwrap();
            }
            let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
            tokio::spawn(pass(near_read, far_write, distance));
            tokio::spawn(pass(far_read, near_write, distance));
        }
    });
    address
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, distance: Duration) {
    let (under_way, mut arriving) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let arrive = async move {
        while let Some((at, piece)) = arriving.recv().await {
            sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        drop(to.shutdown().await);
    };
    let depart = async move {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            drop(under_way.send((Instant::now() + distance, piece[..length].to_vec())));
        }
    };
    tokio::join!(arrive, depart);
}

/// Where a broker is reached by UDP, by one client.
pub(crate) async fn udp(upstream: SocketAddr, distance: Duration) -> SocketAddr {
    let near = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    let far = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    let address = near.local_addr().unwrap();
    let (up, departed) = mpsc::unbounded_channel();
    tokio::spawn(arrive(departed, Arc::clone(&far)));
    tokio::spawn(async move {
        let (down, departed) = mpsc::unbounded_channel();
        tokio::spawn(arrive(departed, Arc::clone(&near)));
        let (mut sent, mut answered) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
        let mut client = None;
        loop {
            tokio::select! {
                Ok((length, from)) = near.recv_from(&mut sent) => {
                    client = Some(from);
                    up.send((Instant::now() + distance, upstream, sent[..length].to_vec())).unwrap();
                }
                Ok((length, _)) = far.recv_from(&mut answered) => {
                    let Some(client) = client else { continue };
                    down.send((Instant::now() + distance, client, answered[..length].to_vec())).unwrap();
                }
            }
        }
    });
    address
}

async fn arrive(mut departed: mpsc::UnboundedReceiver<(Instant, SocketAddr, Vec<u8>)>, by: Arc<UdpSocket>) {
    while let Some((at, to, packet)) = departed.recv().await {
        sleep_until(at).await;
        drop(by.send_to(&packet, to).await);
    }
}
