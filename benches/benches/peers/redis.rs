//! Redis (or Valkey): a stream a session, `XADD` to publish and `XREAD BLOCK` to follow.

use std::net::SocketAddr;
use std::path::Path;

use super::BODY_BYTES;
use super::feed::{Walk, line, number};
use super::link::{Link, Listen, connect, reads_only};
use super::server::{Server, free_ports};

/// Entries that a reader asks for at once.
const READ_ENTRIES: usize = 1000;

/// Every command is on disk before it is answered. Snapshots and rewriting of the file are off: they would cost it more.
pub(crate) fn start(folder: &Path) -> Option<Server> {
    let [port] = free_ports();
    let (port_text, folder_text) = (port.to_string(), folder.display().to_string());
    let arguments = [
        ["--port", &port_text],
        ["--dir", &folder_text],
        ["--bind", "127.0.0.1"],
        ["--save", ""],
        ["--appendonly", "yes"],
        ["--appendfsync", "always"],
        ["--auto-aof-rewrite-percentage", "0"],
    ];
    let arguments = arguments.as_flattened();
    Server::start("redis-server", arguments, &[], folder, port)
}

pub(crate) fn command(parts: &[&[u8]]) -> Vec<u8> {
    let mut command = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        command.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        command.extend_from_slice(part);
        command.extend_from_slice(b"\r\n");
    }
    command
}

pub(crate) fn add(stream: &str) -> Vec<u8> {
    command(&[b"XADD", stream.as_bytes(), b"*", b"b", &[b'x'; BODY_BYTES]])
}

/// Counts the ids that `XADD` answers.
#[derive(Default)]
struct Ids(u64);

impl Walk for Ids {
    fn step(&mut self, bytes: &[u8]) -> usize {
        let Some((head, taken)) = line(bytes) else { return 0 };
        let [b'$', length @ ..] = head else {
            panic!("{} came instead of an id", String::from_utf8_lossy(head))
        };
        self.0 += 1;
        taken + number(length) + 2
    }
}

impl Listen for Ids {
    fn count(&self) -> u64 {
        self.0
    }
}

pub(crate) async fn publisher(address: SocketAddr, stream: &str) -> Link {
    let add = add(stream);
    let request = move |out: &mut Vec<u8>| out.extend_from_slice(&add);
    Link::new(connect(address).await, &[], Box::new(Ids::default()), Box::new(request))
}

/// Where in an answer of `XREAD` it is: `*1 *2 $key *N`, then of each entry `*2 $id *2 $field $body`.
const HEADER_TOKENS: usize = 4;
const ENTRY_TOKENS: usize = 5;

/// Counts entries, and asks for the next ones when the last of an answer has come.
struct Entries {
    stream: String,
    count: u64,
    token: usize,
    left: usize,
    last: Vec<u8>,
    is_read: bool,
}

impl Entries {
    fn new(stream: &str) -> Self {
        Self { stream: stream.to_owned(), count: 0, token: 0, left: 0, last: b"0-0".to_vec(), is_read: false }
    }

    fn read(&self) -> Vec<u8> {
        let entries = READ_ENTRIES.to_string();
        let stream = self.stream.as_bytes();
        command(&[b"XREAD", b"COUNT", entries.as_bytes(), b"BLOCK", b"0", b"STREAMS", stream, &self.last])
    }
}

impl Walk for Entries {
    fn step(&mut self, bytes: &[u8]) -> usize {
        let Some((head, taken)) = line(bytes) else { return 0 };
        let value = number(&head[1..]);
        let length = match head[0] {
            b'*' => taken,
            b'$' => taken + value + 2,
            _ => panic!("{} came instead of entries", String::from_utf8_lossy(head)),
        };
        if self.token < HEADER_TOKENS {
            self.left = value;
            self.token += 1;
            return length;
        }
        if self.token == HEADER_TOKENS + 1 && self.left == 1 {
            // Where the next read begins.
            let Some(id) = bytes.get(taken..taken + value) else { return 0 };
            self.last = id.to_vec();
        }
        self.token += 1;
        if self.token == HEADER_TOKENS + ENTRY_TOKENS {
            self.count += 1;
            self.left -= 1;
            self.is_read = self.left == 0;
            self.token = if self.is_read { 0 } else { HEADER_TOKENS };
        }
        length
    }
}

impl Listen for Entries {
    fn count(&self) -> u64 {
        self.count
    }

    fn reply(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.is_read) {
            out.extend_from_slice(&self.read());
        }
    }
}

pub(crate) async fn subscriber(address: SocketAddr, stream: &str) -> Link {
    let entries = Entries::new(stream);
    let read = entries.read();
    let mut link = Link::new(connect(address).await, &[], Box::new(entries), reads_only());
    link.say(&read).await;
    link
}
