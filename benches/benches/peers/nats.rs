//! NATS: its text protocol, over TCP to publish and over WebSocket to follow; JetStream with a stream a session.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use super::BODY_BYTES;
use super::feed::{Walk, line, number};
use super::link::{Link, Listen, Request, connect, reads_only};
use super::server::{Server, free_ports};
use super::websocket::{Frames, upgrade};

pub(crate) const CONNECT: &[u8] = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\"lang\":\"bench\",\"version\":\"1\"}\r\n";
/// A record, or an answer; and one with headers.
const MESSAGE: &[u8] = b"MSG ";
const WITH_HEADERS: &[u8] = b"HMSG ";
/// Headers that are no record's: that a consumer still lives, or wants to hear that it is followed.
const STATUS: &[u8] = b"NATS/1.0 100";

/// A server, and where it takes WebSockets.
pub(crate) fn start(folder: &Path, is_always: bool) -> Option<(Server, SocketAddr)> {
    let [port, websocket] = free_ports();
    let sync = if is_always { "sync_interval: always" } else { "" };
    let config = format!(
        "listen: 127.0.0.1:{port}\njetstream {{ store_dir: {:?}\n{sync} }}\n\
         websocket {{ listen: \"127.0.0.1:{websocket}\", no_tls: true }}\n",
        folder.join("store"),
    );
    let path = folder.join("nats.conf");
    std::fs::write(&path, config).unwrap();
    let server = Server::start("nats-server", &[Path::new("-c"), &path], &[], folder, port)?;
    Some((server, SocketAddr::from((Ipv4Addr::LOCALHOST, websocket))))
}

/// Counts messages, and says what keeps the connection and its consumer going.
struct Messages {
    count: u64,
    /// Whether each is the answer to a publish, which says whether it was stored.
    are_answers: bool,
    said: Vec<u8>,
}

impl Messages {
    fn new(are_answers: bool) -> Self {
        Self { count: 0, are_answers, said: Vec::new() }
    }

    /// Flow control wants an answer; a sign of life does not.
    fn status(&mut self, head: &[u8], message: &[u8]) {
        assert!(message.starts_with(STATUS), "{} came", String::from_utf8_lossy(message));
        let words: Vec<&[u8]> = head.split(|byte| *byte == b' ').collect();
        if let [_, _, _, reply, _, _] = words[..] {
            self.said.extend_from_slice(&[b"PUB ", reply, b" 0\r\n\r\n"].concat());
        }
    }
}

impl Walk for Messages {
    fn step(&mut self, bytes: &[u8]) -> usize {
        let Some((head, taken)) = line(bytes) else { return 0 };
        if head.starts_with(MESSAGE) || head.starts_with(WITH_HEADERS) {
            let (_, length) = head.split_at(memchr::memrchr(b' ', head).unwrap() + 1);
            let message = taken + number(length) + 2;
            if head.starts_with(WITH_HEADERS) {
                let Some(came) = bytes.get(taken..message) else { return 0 };
                self.status(head, came);
                return message;
            }
            if self.are_answers {
                let Some(came) = bytes.get(taken..message) else { return 0 };
                assert!(came.starts_with(b"{\"stream\":"), "{} came", String::from_utf8_lossy(came));
            }
            self.count += 1;
            return message;
        }
        match head {
            b"PING" => self.said.extend_from_slice(b"PONG\r\n"),
            b"PONG" => self.count += 1,
            _ => assert!(head.starts_with(b"INFO "), "{} came", String::from_utf8_lossy(head)),
        }
        taken
    }
}

impl Listen for Messages {
    fn count(&self) -> u64 {
        self.count
    }

    fn reply(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.said);
    }
}

async fn open(address: SocketAddr, are_answers: bool, inbox: &str, request: Request) -> Link {
    let mut link = Link::new(connect(address).await, &[], Box::new(Messages::new(are_answers)), request);
    link.say(CONNECT).await;
    link.say(format!("SUB {inbox} 1\r\nPING\r\n").as_bytes()).await;
    link.receive_to(1).await;
    link
}

/// Asks JetStream for something, and waits until it is done.
pub(crate) struct Administrator(Link);

impl Administrator {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        // What is asked for is not answered as a publish is: a refusal shows when what was asked for is used.
        Self(open(address, false, "_INBOX.administrator", reads_only()).await)
    }

    async fn ask(&mut self, subject: &str, what: &str) {
        let length = what.len();
        let ask = format!("PUB $JS.API.{subject} _INBOX.administrator {length}\r\n{what}\r\n");
        let count = self.0.count();
        self.0.say(ask.as_bytes()).await;
        self.0.receive_to(count + 1).await;
    }

    /// A stream of its own, of the subject with its name.
    pub(crate) async fn create_stream(&mut self, name: &str) {
        let stream =
            format!(r#"{{"name":"{name}","subjects":["{name}"],"storage":"file","num_replicas":1}}"#);
        self.ask(&format!("STREAM.CREATE.{name}"), &stream).await;
    }

    /// An ordered consumer, as the client libraries make it, that sends to this subject.
    pub(crate) async fn create_consumer(&mut self, stream: &str, to: &str) {
        let consumer = format!(
            r#"{{"stream_name":"{stream}","config":{{"deliver_subject":"{to}","deliver_policy":"all","ack_policy":"none",
            "max_deliver":1,"replay_policy":"instant","flow_control":true,"idle_heartbeat":5000000000,"mem_storage":true,
            "num_replicas":1,"inactive_threshold":300000000000}}}}"#
        );
        self.ask(&format!("CONSUMER.CREATE.{stream}"), &consumer).await;
    }
}

/// Publishes to a stream, which answers when it has stored the record.
pub(crate) async fn publisher(address: SocketAddr, stream: &str) -> Link {
    let inbox = format!("_INBOX.{stream}");
    let mut publish = format!("PUB {stream} {inbox} {BODY_BYTES}\r\n").into_bytes();
    publish.extend_from_slice(&[b'x'; BODY_BYTES]);
    publish.extend_from_slice(b"\r\n");
    let request = move |out: &mut Vec<u8>| out.extend_from_slice(&publish);
    open(address, true, &inbox, Box::new(request)).await
}

/// Publishes to whoever is there: nothing is stored, and nothing is answered.
pub(crate) async fn core_publisher(address: SocketAddr, subject: &str) -> Link {
    let mut publish = format!("PUB {subject} {BODY_BYTES}\r\n").into_bytes();
    publish.extend_from_slice(&[b'x'; BODY_BYTES]);
    publish.extend_from_slice(b"\r\n");
    let request = move |out: &mut Vec<u8>| out.extend_from_slice(&publish);
    open(address, true, "_INBOX.core", Box::new(request)).await
}

/// Follows a subject over a WebSocket.
pub(crate) async fn subscriber(address: SocketAddr, subject: &str) -> Link {
    let mut stream = connect(address).await;
    let came = upgrade(&mut stream, "/", "").await;
    let listen = Frames::new(Messages::new(false));
    let mut link = Link::new(stream, &came, Box::new(listen), reads_only());
    link.say(&super::websocket::frame(CONNECT)).await;
    let subscribe = format!("SUB {subject} 1\r\nPING\r\n");
    link.say(&super::websocket::frame(subscribe.as_bytes())).await;
    link.receive_to(1).await;
    link
}
