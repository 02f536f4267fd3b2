//! Servers that do nothing but pass on: what a fan-out cannot be faster than. They are processes of their own, which are this
//! program, so that what they use of the processors is counted apart.

use std::env::{current_exe, var};
use std::future::pending;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::BODY_BYTES;
use super::feed::Walk;
use super::link::{Link, Listen, connect, reads_only};
use super::raw::Raw;
use super::server::{Server, free_ports};
use super::websocket::{BINARY, Frames, Messages, upgrade};

/// Says which of them this process is, and where it listens.
const VARIABLE: &str = "LONGWIRE_BENCH_BROADCASTER";
/// Pieces of the log that are written at once.
const SLICES: usize = 64;
/// Bytes that are read from the publisher at once.
const READ_BYTES: usize = 64 << 10;

/// What a broadcaster does with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Hands it to tokio-tungstenite for each subscriber, and flushes when it has handed over all there are.
    Tungstenite,
    /// Makes a frame of it once, and writes the frames that are pending at once.
    Encoded,
    /// The same, when the record is on disk.
    EncodedSynced,
    /// Sends it back to where it comes from.
    Echo,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Tungstenite, Self::Encoded, Self::EncodedSynced, Self::Echo];

    /// The server, and where its subscribers connect.
    pub(crate) fn start(self, folder: &Path) -> (Server, SocketAddr) {
        let [publishers, subscribers] = free_ports();
        let index = Self::ALL.iter().position(|kind| *kind == self).unwrap();
        let mut command = Command::new(current_exe().unwrap());
        command.env(VARIABLE, format!("{index} {publishers} {subscribers} {}", folder.display()));
        let server = Server::spawn(command, &folder.join("log"), publishers);
        (server, SocketAddr::from((Ipv4Addr::LOCALHOST, subscribers)))
    }
}

/// Serves, if this process was started to, and never returns then.
pub(crate) async fn serve_if_asked() {
    let Ok(asked) = var(VARIABLE) else { return };
    let parts: Vec<&str> = asked.splitn(4, ' ').collect();
    let [kind, publishers, subscribers, folder] = parts[..] else { panic!("{asked}") };
    let kind = Kind::ALL[kind.parse::<usize>().unwrap()];
    let listen =
        async |port: &str| TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse().unwrap())).await.unwrap();
    let (subscribers, publishers) = (listen(subscribers).await, listen(publishers).await);
    let log = Arc::new(Log { kind, pieces: RwLock::default(), length: watch::Sender::new(0) });
    tokio::spawn(subscriptions(subscribers, Arc::clone(&log)));
    let (appends, appended) = mpsc::channel(1);
    let path = (kind == Kind::EncodedSynced).then(|| PathBuf::from(folder));
    std::thread::spawn(move || append(path.as_deref(), appended));
    loop {
        let (stream, _) = publishers.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        tokio::spawn(publications(stream, Arc::clone(&log), appends.clone()));
    }
}

/// A part of the log: for tungstenite a body, for the others the frames of what came at once.
struct Log {
    kind: Kind,
    pieces: RwLock<Vec<Bytes>>,
    length: watch::Sender<usize>,
}

impl Log {
    fn push(&self, bodies: &[u8]) {
        let mut pieces = self.pieces.write().unwrap();
        if self.kind == Kind::Tungstenite {
            pieces.extend(bodies.chunks(BODY_BYTES).map(Bytes::copy_from_slice));
        } else {
            let length = (BODY_BYTES as u16).to_be_bytes();
            let header = [BINARY, 126, length[0], length[1]];
            let frames = bodies.chunks(BODY_BYTES).flat_map(|body| [&header, body]).collect::<Vec<_>>();
            pieces.push(frames.concat().into());
        }
        self.length.send_replace(pieces.len());
    }

    fn from(&self, at: usize) -> Vec<Bytes> {
        self.pieces.read().unwrap()[at..].iter().take(SLICES).cloned().collect()
    }
}

type Append = (Vec<u8>, tokio::sync::oneshot::Sender<()>);

/// Puts what it is given on disk, if there is a folder for it.
fn append(folder: Option<&Path>, mut appends: mpsc::Receiver<Append>) {
    let mut file = folder.map(Raw::new);
    while let Some((bodies, done)) = appends.blocking_recv() {
        if let Some(file) = &mut file {
            file.append(&bodies);
        }
        // Who asked may be gone.
        let _ = done.send(());
    }
}

/// Takes whole records, and answers each with a byte.
async fn publications(mut stream: TcpStream, log: Arc<Log>, appends: mpsc::Sender<Append>) {
    let (mut read, mut bodies) = (vec![0; READ_BYTES], Vec::new());
    while let Ok(length @ 1..) = stream.read(&mut read).await {
        bodies.extend_from_slice(&read[..length]);
        let partial = bodies.split_off(bodies.len() / BODY_BYTES * BODY_BYTES);
        if log.kind == Kind::Echo {
            stream.write_all(&bodies).await.unwrap();
        } else if !bodies.is_empty() {
            if log.kind == Kind::EncodedSynced {
                let (done, synced) = tokio::sync::oneshot::channel();
                appends.send((bodies.clone(), done)).await.unwrap();
                synced.await.unwrap();
            }
            log.push(&bodies);
            stream.write_all(&vec![1; bodies.len() / BODY_BYTES]).await.unwrap();
        }
        bodies = partial;
    }
}

async fn subscriptions(listener: TcpListener, log: Arc<Log>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            if log.kind == Kind::Tungstenite {
                hand_over(stream, &log).await
            } else {
                write(stream, &log).await
            }
        });
    }
}

async fn hand_over(stream: TcpStream, log: &Log) {
    let config = WebSocketConfig::default().read_buffer_size(8 << 10);
    let mut socket = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await.unwrap();
    let (mut length, mut at) = (log.length.subscribe(), 0);
    while length.wait_for(|length| *length > at).await.is_ok() {
        for body in log.from(at) {
            at += 1;
            if socket.feed(Message::Binary(body)).await.is_err() {
                return;
            }
        }
        if socket.flush().await.is_err() {
            return;
        }
    }
}

async fn write(mut stream: TcpStream, log: &Log) {
    let (mut asked, mut piece) = (Vec::new(), [0; 1024]);
    while !asked.ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut piece).await.unwrap();
        asked.extend_from_slice(&piece[..read]);
    }
    stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await.unwrap();
    let (mut length, mut at) = (log.length.subscribe(), 0);
    while length.wait_for(|length| *length > at).await.is_ok() {
        let pieces = log.from(at);
        at += pieces.len();
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut slices = &mut slices[..];
        while !slices.is_empty() {
            match stream.write_vectored(slices).await {
                Ok(written) => IoSlice::advance_slices(&mut slices, written),
                Err(_) => return,
            }
        }
    }
    pending::<()>().await;
}

/// Counts bytes: an answer is one, an echo as many as there are in a record.
struct Bytewise {
    bytes: usize,
    of: usize,
}

impl Walk for Bytewise {
    fn step(&mut self, bytes: &[u8]) -> usize {
        self.bytes += bytes.len();
        bytes.len()
    }
}

impl Listen for Bytewise {
    fn count(&self) -> u64 {
        (self.bytes / self.of) as u64
    }
}

/// Publishes; `of` are the bytes of an answer.
pub(crate) async fn publisher(address: SocketAddr, of: usize) -> Link {
    let request = |out: &mut Vec<u8>| out.extend_from_slice(&[b'x'; BODY_BYTES]);
    Link::new(connect(address).await, &[], Box::new(Bytewise { bytes: 0, of }), Box::new(request))
}

pub(crate) async fn subscriber(address: SocketAddr) -> Link {
    let mut stream = connect(address).await;
    let came = upgrade(&mut stream, "/", "").await;
    Link::new(stream, &came, Box::new(Frames::new(Messages::default())), reads_only())
}
