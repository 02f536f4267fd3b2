//! A client that costs little, because it shares the processors with what is measured: frames are made beforehand, many are
//! written at once, and of what comes only what is asked for is looked at.

use std::net::SocketAddr;
use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};
use longwire_proto::codec::{Encoding, decode_server, encode_client};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};

use crate::common::link::subscribe;
use crate::common::record;

/// Room that a read has at least.
const READ_BYTES: usize = 16 << 10;
/// Connections that are being made at the same time.
const CONNECTING: usize = 100;
/// The first byte of a frame of the broker: number and wire type of what it contains.
const PUBLISHED: u8 = 3 << 3 | 2;
const DELIVERY: u8 = 5 << 3 | 2;
const HEARTBEAT: u8 = 11 << 3 | 2;

/// What a connection takes before it is read.
#[derive(Clone, Copy, Default)]
pub(crate) enum Buffer {
    /// What the system gives.
    #[default]
    Usual,
    /// As little as the system lets it be.
    Small,
}

/// A WebSocket message with this frame, masked by zeros.
pub(crate) fn message(frame: ClientFrame) -> Vec<u8> {
    let payload = encode_client(Encoding::Proto, frame);
    let mut message = vec![0x82];
    match payload.len() {
        length @ 0..=125 => message.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            message.push(0x80 | 126);
            message.extend((length as u16).to_be_bytes());
        }
        length => {
            message.push(0x80 | 127);
            message.extend((length as u64).to_be_bytes());
        }
    }
    message.extend([0; 4]);
    message.extend(payload);
    message
}

/// The message of a publish.
pub(crate) fn publish(request: u64, session: &str, records: usize, bytes: usize) -> Vec<u8> {
    let records = vec![record(bytes); records];
    message(ClientFrame::Publish(wire::Publish {
        request,
        session: session.into(),
        records,
        ..Default::default()
    }))
}

/// The receiving half.
pub(crate) struct Reader {
    stream: OwnedReadHalf,
    buffer: BytesMut,
}

impl Reader {
    fn buffered(&mut self) -> Option<Bytes> {
        let head = [*self.buffer.first()?, *self.buffer.get(1)?];
        let (length, from) = match head[1] {
            126 => (usize::from(u16::from_be_bytes(self.buffer.get(2..4)?.try_into().ok()?)), 4),
            127 => (u64::from_be_bytes(self.buffer.get(2..10)?.try_into().ok()?) as usize, 10),
            length => (usize::from(length), 2),
        };
        if self.buffer.len() < from + length {
            self.buffer.reserve(from + length - self.buffer.len());
            return None;
        }
        assert_eq!(head[0], 0x82, "only binary messages come, unless the connection has ended");
        self.buffer.advance(from);
        Some(self.buffer.split_to(length).freeze())
    }

    /// The next frame, heartbeats left out.
    pub(crate) async fn next(&mut self) -> Bytes {
        loop {
            while let Some(frame) = self.buffered() {
                if frame[0] != HEARTBEAT {
                    return frame;
                }
            }
            self.buffer.reserve(READ_BYTES);
            let read = self.stream.read_buf(&mut self.buffer).await.unwrap();
            assert!(read > 0, "the broker has ended the connection");
        }
    }

    /// The next frame, read.
    pub(crate) async fn frame(&mut self) -> ServerFrame {
        decode_server(Encoding::Proto, self.next().await).unwrap()
    }

    /// Waits for this many answers to publishes.
    pub(crate) async fn published(&mut self, count: u64) {
        for _ in 0..count {
            let frame = self.next().await;
            assert!(frame[0] == PUBLISHED, "{:?} came", decode_server(Encoding::Proto, frame));
        }
    }

    /// How many answers to publishes have come already, and takes them.
    pub(crate) fn published_already(&mut self) -> usize {
        let mut count = 0;
        while let Some(frame) = self.buffered() {
            let is_answer = frame[0] == PUBLISHED;
            assert!(is_answer || frame[0] == HEARTBEAT, "{:?} came", decode_server(Encoding::Proto, frame));
            count += usize::from(is_answer);
        }
        count
    }

    /// Waits for the next delivery, and tells its offsets.
    pub(crate) async fn delivered(&mut self) -> Range<u64> {
        let frame = self.next().await;
        assert!(frame[0] == DELIVERY, "{:?} came", decode_server(Encoding::Proto, frame));
        offsets(&frame[1..])
    }

    /// Reads until the subscription has come to this offset.
    pub(crate) async fn read_to(&mut self, end: u64) {
        while self.delivered().await.end < end {}
    }
}

/// The fields `from` and `next` of a delivery, whose records are left alone.
fn offsets(mut bytes: &[u8]) -> Range<u64> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes.get_u8();
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }
    varint(&mut bytes);
    // A field that is 0 is not there.
    let mut from = 0;
    loop {
        let (key, value) = (varint(&mut bytes), varint(&mut bytes));
        match (key >> 3, key & 7) {
            (3, 0) => from = value,
            (4, 0) => return from..value,
            (_, 2) => bytes.advance(value as usize),
            _ => {}
        }
    }
}

/// A connection that was welcomed.
pub(crate) struct Socket {
    pub(crate) reader: Reader,
    pub(crate) writer: OwnedWriteHalf,
}

impl Socket {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::open_with(address, Buffer::Usual).await
    }

    pub(crate) async fn open_with(address: SocketAddr, buffer: Buffer) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        if let Buffer::Small = buffer {
            socket.set_recv_buffer_size(1).unwrap();
        }
        let mut stream: TcpStream = socket.connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let upgrade = "GET /v1/connect HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       sec-websocket-protocol: longwire.v1.proto\r\n\r\n";
        stream.write_all(upgrade.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
        let (stream, writer) = stream.into_split();
        let mut socket = Self { reader: Reader { stream, buffer: BytesMut::new() }, writer };
        socket.write(&message(ClientFrame::Hello(wire::Hello::default()))).await;
        assert!(matches!(socket.reader.frame().await, ServerFrame::Welcome(_)));
        socket
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).await.unwrap();
    }

    /// Publishes, and waits for the answer.
    pub(crate) async fn publish(&mut self, message: &[u8]) {
        self.write(message).await;
        self.reader.published(1).await;
    }

    /// Publishes all of these, so many under way at a time, in writes of as many as there is room for.
    pub(crate) async fn publish_all(&mut self, messages: &[Vec<u8>], in_flight: usize) {
        let (mut sent, mut answered) = (0, 0);
        let mut bytes = Vec::new();
        while answered < messages.len() {
            let until = messages.len().min(answered + in_flight);
            if sent < until {
                bytes.clear();
                messages[sent..until].iter().for_each(|message| bytes.extend_from_slice(message));
                sent = until;
                self.write(&bytes).await;
            }
            self.reader.published(1).await;
            answered += 1 + self.reader.published_already();
        }
    }

    /// Subscribes, and waits until that is so.
    pub(crate) async fn subscribe(&mut self, number: u32, session: &str, from: wire::from::From) {
        self.write(&message(subscribe(number, session, from))).await;
        assert!(matches!(self.reader.frame().await, ServerFrame::Subscribed(_)));
    }

    /// The same of a client that stops reading with the request.
    pub(crate) async fn subscribe_and_stall(&mut self, session: &str, from: wire::from::From) {
        self.write(&message(subscribe(1, session, from))).await;
    }
}

/// So many connections, each after what `begin` does with it, in order.
pub(crate) async fn crowd<F>(count: usize, mut begin: impl FnMut(usize) -> F) -> Vec<Socket>
where
    F: Future<Output = Socket> + Send + 'static,
{
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let first = all.len();
        let connecting: Vec<_> =
            (first..count.min(first + CONNECTING)).map(|number| tokio::spawn(begin(number))).collect();
        for connecting in connecting {
            all.push(connecting.await.unwrap());
        }
    }
    all
}
