//! As much of a WebSocket client as a bench needs. Its masking key is 0, which costs it nothing; the server unmasks all the same.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::BODY_BYTES;
use super::feed::{Feed, Walk};
use super::link::Listen;

/// The first byte of a frame that is a whole binary message.
pub(crate) const BINARY: u8 = 0x82;
const CLOSE: u8 = 8;

/// Asks for the upgrade, and answers what came after it.
pub(crate) async fn upgrade(stream: &mut TcpStream, path: &str, headers: &str) -> Vec<u8> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut piece).await.unwrap();
        assert!(read > 0, "ended instead of an upgrade: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..read]);
        if let Some(end) = memchr::memmem::find(&answer, b"\r\n\r\n") {
            assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
            return answer.split_off(end + 4);
        }
    }
}

/// A client's binary message.
pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![BINARY];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// What is said within the frames of a server.
pub(crate) struct Frames<W> {
    feed: Feed<W>,
    left: usize,
}

impl<W: Walk> Frames<W> {
    pub(crate) fn new(walk: W) -> Self {
        Self { feed: Feed::new(walk), left: 0 }
    }
}

impl<W: Walk> Walk for Frames<W> {
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.left > 0 {
            let here = self.left.min(bytes.len());
            self.feed.push(&bytes[..here]);
            self.left -= here;
            return here;
        }
        let [first, second, rest @ ..] = bytes else { return 0 };
        let (length, header) = match (second, rest) {
            (126, [a, b, ..]) => (usize::from(u16::from_be_bytes([*a, *b])), 4),
            (127, [a, b, c, d, e, f, g, h, ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]) as usize, 10)
            }
            (126 | 127, _) => return 0,
            (length, _) => (usize::from(*length), 2),
        };
        match first & 0xf {
            CLOSE => panic!("the server closed: {}", String::from_utf8_lossy(rest)),
            0..=2 => {
                self.left = length;
                header
            }
            _ => header + length,
        }
    }
}

impl<L: Listen> Listen for Frames<L> {
    fn count(&self) -> u64 {
        self.feed.walk.count()
    }

    fn reply(&mut self, out: &mut Vec<u8>) {
        let mut said = Vec::new();
        self.feed.walk.reply(&mut said);
        if !said.is_empty() {
            out.extend_from_slice(&frame(&said));
        }
    }
}

/// Messages that are a body and nothing else, as a bare broadcaster sends them.
#[derive(Default)]
pub(crate) struct Messages {
    count: u64,
}

impl Walk for Messages {
    fn step(&mut self, _: &[u8]) -> usize {
        self.count += 1;
        BODY_BYTES
    }
}

impl Listen for Messages {
    fn count(&self) -> u64 {
        self.count
    }
}
