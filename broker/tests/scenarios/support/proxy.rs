//! A TCP proxy that keeps its address while brokers come and go behind it, and cuts connections when it is told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Decides, for each connection, after how many bytes it is cut in each direction; `None` for never.
pub(crate) type CutPlan = Arc<dyn Fn(u64) -> Option<(u64, u64)> + Send + Sync>;

pub(crate) struct Proxy {
    address: SocketAddr,
    upstream: watch::Sender<Option<SocketAddr>>,
    cuts: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    cut_now: watch::Sender<()>,
}

impl Proxy {
    /// A proxy that never cuts.
    pub(crate) async fn start(upstream: SocketAddr) -> Self {
        Self::start_with(upstream, Arc::new(|_| None)).await
    }

    pub(crate) async fn start_with(upstream: SocketAddr, plan: CutPlan) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, receiver) = watch::channel(Some(upstream));
        let cuts = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&cuts);
        let connections = Arc::new(AtomicU64::new(0));
        let came = Arc::clone(&connections);
        let (cut_now, cut) = watch::channel(());
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((client, _)) = listener.accept().await else { return };
                came.fetch_add(1, Ordering::SeqCst);
                let Some(upstream) = *receiver.borrow() else { continue };
                tokio::spawn(forward(client, upstream, plan(connection), Arc::clone(&counted), cut.clone()));
            }
        });
        Self { address, upstream: sender, cuts, connections, cut_now }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Connections are refused while there is no upstream.
    pub(crate) fn set_upstream(&self, upstream: Option<SocketAddr>) {
        self.upstream.send_replace(upstream);
    }

    /// What there is behind it, for who waits for that.
    pub(crate) fn upstream(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.upstream.subscribe()
    }

    /// Cuts every connection that there is.
    pub(crate) fn cut(&self) {
        self.cut_now.send_replace(());
    }

    /// How many connections came, those that were refused included.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }

    /// How many connections were cut.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }
}

async fn forward(
    client: TcpStream,
    upstream: SocketAddr,
    cut: Option<(u64, u64)>,
    cuts: Arc<AtomicU64>,
    mut cut_now: watch::Receiver<()>,
) {
    cut_now.mark_unchanged();
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (up, down) = cut.unwrap_or((u64::MAX, u64::MAX));
    let was_cut = tokio::select! {
        was_cut = copy(from_client, to_server, up) => was_cut,
        was_cut = copy(from_server, to_client, down) => was_cut,
        Ok(()) = cut_now.changed() => true,
    };
    if was_cut {
        cuts.fetch_add(1, Ordering::SeqCst);
    }
}

/// Copies up to `limit` bytes; true when the limit ended it. Both sockets are dropped by the caller then.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut limit: u64) -> bool {
    let mut buffer = vec![0; 4096];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return false };
        let pass = length.min(usize::try_from(limit).unwrap_or(usize::MAX));
        if to.write_all(&buffer[..pass]).await.is_err() {
            return false;
        }
        limit -= pass as u64;
        if limit == 0 {
            return true;
        }
    }
}
