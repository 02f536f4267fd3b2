//! The real broker as a child process, and a connection to it.
#![allow(dead_code, reason = "each bench uses a part of it")]

pub(crate) mod callgrind;
pub(crate) mod core_step;
pub(crate) mod distance;
pub(crate) mod fragment;
pub(crate) mod killed;
pub(crate) mod link;
pub(crate) mod process;
pub(crate) mod rounds;
pub(crate) mod socket;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use futures_util::{SinkExt, StreamExt};
use longwire_proto::codec::{Encoding, decode_server, encode_client};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// For clients that only read for longer than a client may say nothing.
pub(crate) const PATIENT: (&str, &str) = ("IDLE_TIMEOUT_MS", "3600000");

/// A number from the environment.
pub(crate) fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// Thousands of sockets need as many files.
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// A folder under the build's own one: on the real disk.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn binary() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    this.ancestors().nth(2).unwrap().join("longwire")
}

/// A broker process. Killed when dropped.
pub(crate) struct Broker {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) log: PathBuf,
}

impl Broker {
    /// Starts the binary beside this one's folder, which `cargo build --release` makes, and waits for its address.
    pub(crate) fn start(data: &Path, settings: &[(&str, &str)]) -> Self {
        Self::start_at("127.0.0.1:0", data, settings)
    }

    /// The same, at an address, where clients of an earlier life look for it.
    pub(crate) fn start_at(address: &str, data: &Path, settings: &[(&str, &str)]) -> Self {
        Self::spawn(Command::new(binary()), address, data, settings)
    }

    /// The same, beneath another program, which must become the broker.
    pub(crate) fn start_under(mut program: Command, data: &Path, settings: &[(&str, &str)]) -> Self {
        program.arg(binary());
        Self::spawn(program, "127.0.0.1:0", data, settings)
    }

    fn spawn(mut command: Command, address: &str, data: &Path, settings: &[(&str, &str)]) -> Self {
        let log = data.with_extension("log");
        command.args(["--json", "serve", "--listen", address, "--data"]).arg(data);
        for (key, value) in settings {
            command.env(format!("LONGWIRE_SERVE_{key}"), value);
        }
        command.env("LONGWIRE_LOG", "info").stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(std::fs::File::create(&log).unwrap());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        let (_, address) = ready["url"].as_str().unwrap().split_once("://").unwrap();
        let address = address.parse().unwrap();
        Self { child, address, log }
    }

    /// Asks to stop, and waits until it has.
    pub(crate) fn terminate(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    fn get(&self, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    /// Whether `/readyz` answers 200.
    pub(crate) fn is_ready(&self) -> bool {
        self.get("/readyz").starts_with("HTTP/1.1 200")
    }

    /// What a metric counts; 0 as long as it is not there.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let metrics = self.get("/metrics");
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.trim().parse().unwrap())
    }

    /// What it has used of the processors, in seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The name of the program may contain anything; the fields come after its closing parenthesis.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks = |field: usize| fields.split_whitespace().nth(field).unwrap().parse::<f64>().unwrap();
        (ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as f64
    }

    /// A line of `/proc/<pid>/status`, in MiB.
    pub(crate) fn memory_mib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A connection that was welcomed.
pub(crate) struct Connection(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::open_as(address, "").await
    }

    /// A connection with a token.
    pub(crate) async fn open_as(address: SocketAddr, token: &str) -> Self {
        let mut request = format!("ws://{address}/v1/connect").into_client_request().unwrap();
        let protocol = Encoding::Proto.subprotocol();
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        let (socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
        let mut connection = Self(socket);
        let hello = wire::Hello { token: token.to_owned(), ..Default::default() };
        connection.send(ClientFrame::Hello(hello)).await;
        assert!(matches!(connection.receive().await, Some(ServerFrame::Welcome(_))));
        connection
    }

    /// The peer may have ended the connection, which receiving tells.
    pub(crate) async fn send(&mut self, frame: ClientFrame) {
        drop(self.0.send(Message::Binary(encode_client(Encoding::Proto, frame))).await);
    }

    /// The next frame that is not a heartbeat; `None` when the connection has ended.
    pub(crate) async fn receive(&mut self) -> Option<ServerFrame> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Binary(bytes))) => match decode_server(Encoding::Proto, bytes).unwrap() {
                    ServerFrame::Heartbeat(_) => {}
                    frame => return Some(frame),
                },
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }
}

/// A record of so many bytes of text.
pub(crate) fn record(bytes: usize) -> wire::Record {
    wire::Record { body: Some(wire::record::Body::Text("x".repeat(bytes))), ..Default::default() }
}

/// The value below which a part of the sorted ones is.
pub(crate) fn quantile(sorted: &[f64], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}
