//! The Durable Streams protocol, which is HTTP: a stream a session, and a request a publish. What is in flight is pipelined.

use std::net::SocketAddr;
use std::path::Path;

use super::BODY_BYTES;
use super::http::Answers;
use super::link::{Link, connect};
use super::server::{Server, free_ports};

/// The two servers there are in Rust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The project's own, with its write-ahead log.
    Project,
    /// The other one, with files that are synced.
    Other,
}

impl Kind {
    fn path(self, stream: &str) -> String {
        match self {
            Self::Project => format!("/{stream}"),
            Self::Other => format!("/v1/stream/{stream}"),
        }
    }

    pub(crate) fn start(self, folder: &Path) -> Option<Server> {
        let [port] = free_ports();
        let data = folder.join("data").display().to_string();
        match self {
            Self::Project => {
                let arguments = ["--port", &port.to_string(), "--data-dir", &data];
                Server::start("durable-streams", &arguments, &[], folder, port)
            }
            Self::Other => {
                // Its limits would end the run; they are not what is measured.
                let environment = [
                    ("DS_SERVER__BIND_ADDRESS", &*format!("127.0.0.1:{port}")),
                    ("DS_STORAGE__MODE", "file-durable"),
                    ("DS_STORAGE__DATA_DIR", &data),
                    ("DS_LIMITS__MAX_MEMORY_BYTES", "10000000000"),
                    ("DS_LIMITS__MAX_STREAM_BYTES", "10000000000"),
                    ("DS_OBSERVABILITY__RUST_LOG", "warn"),
                ];
                Server::start("durable-streams-server", &[""; 0], &environment, folder, port)
            }
        }
    }

    pub(crate) async fn publisher(self, address: SocketAddr, stream: &str) -> Link {
        let request = |method: &str, length: usize| {
            let path = self.path(stream);
            format!(
                "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/octet-stream\r\n\
                 content-length: {length}\r\n\r\n"
            )
        };
        let mut append = request("POST", BODY_BYTES).into_bytes();
        append.extend_from_slice(&[b'x'; BODY_BYTES]);
        let append = move |out: &mut Vec<u8>| out.extend_from_slice(&append);
        let mut link = Link::new(connect(address).await, &[], Box::new(Answers::default()), Box::new(append));
        link.say(request("PUT", 0).as_bytes()).await;
        link.receive_to(1).await;
        link
    }
}
