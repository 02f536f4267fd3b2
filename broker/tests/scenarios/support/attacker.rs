//! A raw socket in the hands of somebody who means harm.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// A hang is a failure; nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pace of who sends a byte now and then: faster than any deadline, and slower than any use.
const PACE: Duration = Duration::from_millis(100);

/// Opcodes of WebSocket frames (RFC 6455, section 5.2).
pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const PING: u8 = 9;

pub(crate) struct Attacker(TcpStream);

/// Thousands of sockets need as many files.
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

impl Attacker {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(timeout(PATIENCE, TcpStream::connect(address)).await.expect("nobody accepts").unwrap())
    }

    /// A WebSocket that has said nothing.
    pub(crate) async fn upgraded(address: SocketAddr) -> Self {
        Self::connect(address).await.upgrade().await
    }

    async fn upgrade(self) -> Self {
        let mut attacker = self;
        let upgrade = "GET /v1/connect HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       sec-websocket-protocol: longwire.v1.json\r\n\r\n";
        attacker.write(upgrade.as_bytes()).await;
        attacker.read_until(b"\r\n\r\n").await;
        attacker
    }

    /// A connection.
    pub(crate) async fn greeted(address: SocketAddr) -> Self {
        Self::upgraded(address).await.greet().await
    }

    /// A connection whose end takes next to nothing, so that what is not read stays with the broker.
    pub(crate) async fn greeted_with_small_buffer(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = timeout(PATIENCE, socket.connect(address)).await.expect("nobody accepts").unwrap();
        Self(stream).upgrade().await.greet().await
    }

    async fn greet(self) -> Self {
        let mut attacker = self;
        attacker.write_frame(true, TEXT, br#"{"hello":{}}"#).await;
        attacker.read_until(b"welcome").await;
        attacker
    }

    pub(crate) async fn read_until(&mut self, end: &[u8]) {
        let mut read = Vec::new();
        while !read.windows(end.len()).any(|window| window == end) {
            let byte = timeout(PATIENCE, self.0.read_u8()).await.expect("nothing came").unwrap();
            read.push(byte);
        }
    }

    /// The peer may have ended the connection; [`Attacker::ended`] tells.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        drop(self.0.write_all(bytes).await);
    }

    /// A frame, masked by zeros.
    pub(crate) fn frame(&self, fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![u8::from(fin) << 7 | opcode];
        match payload.len() {
            length @ 0..=125 => frame.push(0x80 | u8::try_from(length).unwrap()),
            length => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        frame
    }

    pub(crate) async fn write_frame(&mut self, fin: bool, opcode: u8, payload: &[u8]) {
        let frame = self.frame(fin, opcode, payload);
        self.write(&frame).await;
    }

    /// Reads until the connection has ended, and answers what was said.
    pub(crate) async fn ended(&mut self) -> String {
        let mut said = Vec::new();
        // A reset is an end too.
        drop(timeout(PATIENCE, self.0.read_to_end(&mut said)).await.expect("the connection goes on"));
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Sends the same again and again, slowly, until the connection has ended; answers what was said.
    pub(crate) async fn dribble(&mut self, bytes: &[u8]) -> String {
        let mut said = Vec::new();
        let ended = async {
            loop {
                match timeout(PACE, self.0.read_buf(&mut said)).await {
                    Ok(Ok(0) | Err(_)) => return,
                    Ok(Ok(_)) => {}
                    Err(_) => drop(self.0.write_all(bytes).await),
                }
            }
        };
        timeout(PATIENCE, ended).await.expect("the connection goes on");
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Sends as much as the peer takes, until the connection has ended; answers what was said.
    pub(crate) async fn flood(&mut self, next: impl Fn(&Self) -> Vec<u8>) -> String {
        let bytes = next(self);
        // Many at once: a flood is no flood if each drop is a system call.
        let bytes = bytes.repeat((64 << 10) / bytes.len() + 1);
        let (mut reader, mut writer) = self.0.split();
        let mut said = Vec::new();
        let flood = async { while writer.write_all(&bytes).await.is_ok() {} };
        let ended = async { drop(reader.read_to_end(&mut said).await) };
        timeout(PATIENCE, async { tokio::join!(flood, ended) }).await.expect("the connection goes on");
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Sends at least so many bytes, the same again and again, and answers what was said meanwhile.
    pub(crate) async fn burst(&mut self, bytes: &[u8], total: usize) -> String {
        let bytes = bytes.repeat(total / bytes.len() + 1);
        let (mut reader, mut writer) = self.0.split();
        let mut said = Vec::new();
        let send = async { writer.write_all(&bytes).await.unwrap() };
        let ended = async { drop(reader.read_to_end(&mut said).await) };
        timeout(PATIENCE, async { tokio::join!(send, ended) }).await.expect("the connection goes on");
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Asks again and again and reads nothing, until the connection has ended.
    pub(crate) async fn ask_without_reading(&mut self, frame: &[u8]) {
        let frame = self.frame(true, TEXT, frame);
        let asking = async {
            while self.0.write_all(&frame).await.is_ok() {
                tokio::time::sleep(PACE).await;
            }
        };
        timeout(PATIENCE, asking).await.expect("the connection goes on");
    }
}
