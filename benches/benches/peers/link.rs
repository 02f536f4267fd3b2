//! A connection to a server: requests that were encoded before, and the answers that come.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::feed::{Feed, Walk};

/// Bytes that are read at once. All connections of a thread read into the same, so that a thousand of them do not empty the caches.
const READ_BYTES: usize = 128 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Knows what a server says, and counts what is waited for.
pub(crate) trait Listen: Walk {
    /// Answers, or records, that have come.
    fn count(&self) -> u64;

    /// What has to be said because of what came.
    fn reply(&mut self, _out: &mut Vec<u8>) {}
}

impl<L: Listen + ?Sized> Walk for Box<L> {
    fn step(&mut self, bytes: &[u8]) -> usize {
        (**self).step(bytes)
    }
}

/// Writes the next publish.
pub(crate) type Request = Box<dyn FnMut(&mut Vec<u8>) + Send>;

pub(crate) struct Link {
    stream: TcpStream,
    feed: Feed<Box<dyn Listen>>,
    request: Request,
    out: Vec<u8>,
    before: u64,
}

pub(crate) async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

impl Link {
    /// What has come already, such as after a handshake, goes before what comes.
    pub(crate) fn new(stream: TcpStream, came: &[u8], listen: Box<dyn Listen>, request: Request) -> Self {
        let mut feed = Feed::new(listen);
        feed.push(came);
        Self { stream, feed, request, out: Vec::new(), before: 0 }
    }

    /// Answers or records that have come since it was [ready](Self::ready).
    pub(crate) fn count(&self) -> u64 {
        self.feed.walk.count() - self.before
    }

    /// What has come so far was about the connection.
    pub(crate) fn ready(mut self) -> Self {
        self.before = self.feed.walk.count();
        self
    }

    pub(crate) async fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Publishes so many records, in one write.
    pub(crate) async fn publish(&mut self, records: u64) {
        self.out.clear();
        for _ in 0..records {
            (self.request)(&mut self.out);
        }
        self.stream.write_all(&self.out).await.unwrap();
    }

    /// Waits for bytes, and answers how many answers or records have come by now.
    pub(crate) async fn receive(&mut self) -> u64 {
        loop {
            self.stream.readable().await.unwrap();
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let read = self.stream.try_read(scratch)?;
                self.feed.push(&scratch[..read]);
                Ok::<usize, std::io::Error>(read)
            });
            match read {
                Ok(0) => panic!("the server ended the connection"),
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
        self.out.clear();
        self.feed.walk.reply(&mut self.out);
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).await.unwrap();
        }
        self.count()
    }

    /// Waits until so many answers or records have come.
    pub(crate) async fn receive_to(&mut self, count: u64) {
        while self.count() < count {
            self.receive().await;
        }
    }
}

/// A request that there is none of: the link only reads.
pub(crate) fn reads_only() -> Request {
    Box::new(|_| panic!("this connection publishes nothing"))
}
