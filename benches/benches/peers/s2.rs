//! s2-lite on local files: an append session, which is one request whose body is appends and whose answer is acknowledgements.

use std::net::SocketAddr;
use std::path::Path;

use prost::Message;

use super::BODY_BYTES;
use super::feed::Walk;
use super::http::Chunks;
use super::link::{Link, Listen, connect};
use super::server::{Server, free_ports};

const BASIN: &str = "longwire-benches";
/// The flag of a frame that ends the session.
const TERMINAL: u8 = 0x80;

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(bytes = "vec", tag = "3")]
    body: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Append {
    #[prost(message, repeated, tag = "1")]
    records: Vec<Record>,
}

/// It waits for 5 ms to write what has come together, as it does by default on local files.
pub(crate) fn start(folder: &Path) -> Option<Server> {
    let [port] = free_ports();
    let init = folder.join("init.json");
    let basin = format!(r#"{{"basins":[{{"name":"{BASIN}","config":{{"create_stream_on_append":true}}}}]}}"#);
    std::fs::write(&init, basin).unwrap();
    let (port_text, root, init) =
        (port.to_string(), folder.join("root").display().to_string(), init.display().to_string());
    std::fs::create_dir(&root).unwrap();
    let arguments = ["--port", &port_text, "--local-root", &root, "--init-file", &init, "--no-dashboard"];
    Server::start("s2-lite", &arguments, &[("RUST_LOG", "warn")], folder, port)
}

/// Counts acknowledgements.
#[derive(Default)]
struct Acks(u64);

impl Walk for Acks {
    fn step(&mut self, bytes: &[u8]) -> usize {
        let [a, b, c, flags, ..] = bytes else { return 0 };
        assert!(flags & TERMINAL == 0, "{} came", String::from_utf8_lossy(bytes));
        self.0 += 1;
        3 + u32::from_be_bytes([0, *a, *b, *c]) as usize
    }
}

impl Listen for Acks {
    fn count(&self) -> u64 {
        self.0
    }
}

pub(crate) async fn publisher(address: SocketAddr, stream: &str) -> Link {
    let append = Append { records: vec![Record { body: vec![b'x'; BODY_BYTES] }] }.encode_to_vec();
    let mut frame = (1 + append.len() as u32).to_be_bytes()[1..].to_vec();
    frame.push(0);
    frame.extend_from_slice(&append);
    let mut chunk = format!("{:x}\r\n", frame.len()).into_bytes();
    chunk.extend_from_slice(&frame);
    chunk.extend_from_slice(b"\r\n");
    let request = move |out: &mut Vec<u8>| out.extend_from_slice(&chunk);
    let listen = Box::new(Chunks::new(Acks::default()));
    let mut link = Link::new(connect(address).await, &[], listen, Box::new(request));
    let head = format!(
        "POST /v1/streams/{stream}/records HTTP/1.1\r\nhost: localhost\r\ns2-basin: {BASIN}\r\n\
         authorization: Bearer ignored\r\ncontent-type: s2s/proto\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    link.say(head.as_bytes()).await;
    link
}
