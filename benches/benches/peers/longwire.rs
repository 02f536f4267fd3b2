//! Longwire over a plain WebSocket.

use std::net::SocketAddr;

use longwire_proto::codec::{Encoding, encode_client};
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::{self, from::From};

use super::BODY_BYTES;
use super::feed::Walk;
use super::link::{Link, Listen, Request, connect, reads_only};
use super::websocket::{Frames, frame, upgrade};
use crate::common::link::subscribe;
use crate::common::record;

/// The number of the first request: from here to 2^28 all of them take four bytes, so that the next one is written over it.
const FIRST_REQUEST: u32 = 1 << 21;

/// The tags of what the broker sends.
const WELCOME: u8 = 1 << 3 | 2;
const PUBLISHED: u8 = 3 << 3 | 2;
const SUBSCRIBED: u8 = 4 << 3 | 2;
const DELIVERY: u8 = 5 << 3 | 2;
const HEARTBEAT: u8 = 11 << 3 | 2;
/// The tag of a record in a delivery.
const RECORD: u8 = 5 << 3 | 2;

/// Counts welcomes, answers and records.
#[derive(Default)]
struct Answers {
    count: u64,
    delivery: usize,
}

/// A number, and how many bytes it takes.
fn varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

impl Walk for Answers {
    fn step(&mut self, bytes: &[u8]) -> usize {
        let Some((value, taken)) = bytes.get(1..).and_then(varint) else { return 0 };
        let header = 1 + taken;
        let tag = bytes[0];
        if self.delivery > 0 {
            let field = if tag & 7 == 2 { header + value } else { header };
            self.delivery -= field;
            self.count += u64::from(tag == RECORD);
            return field;
        }
        match tag {
            DELIVERY => {
                self.delivery = value;
                header
            }
            WELCOME | PUBLISHED | SUBSCRIBED => {
                self.count += 1;
                header + value
            }
            HEARTBEAT => header + value,
            _ => panic!("{} came instead of an answer", String::from_utf8_lossy(bytes)),
        }
    }
}

impl Listen for Answers {
    fn count(&self) -> u64 {
        self.count
    }
}

/// A frame with a number that is four bytes long, and where that is.
fn publish(session: &str, records: usize) -> (Vec<u8>, usize) {
    let publish = wire::Publish {
        request: u64::from(FIRST_REQUEST),
        session: session.into(),
        records: vec![record(BODY_BYTES); records],
        ..Default::default()
    };
    let frame = frame(&encode_client(Encoding::Proto, ClientFrame::Publish(publish)));
    let at = memchr::memmem::find(&frame, &digits(FIRST_REQUEST)).unwrap();
    assert_eq!(frame[at - 1], 1 << 3, "the request is the first field");
    (frame, at)
}

/// A number as a varint of four bytes.
fn digits(number: u32) -> [u8; 4] {
    [0, 7, 14, 21].map(|shift| (number >> shift & 0x7f) as u8 | if shift < 21 { 0x80 } else { 0 })
}

async fn open(address: SocketAddr, request: Request) -> Link {
    let mut stream = connect(address).await;
    let protocol = format!("sec-websocket-protocol: {}\r\n", Encoding::Proto.subprotocol());
    let came = upgrade(&mut stream, "/v1/connect", &protocol).await;
    let mut link = Link::new(stream, &came, Box::new(Frames::new(Answers::default())), request);
    let hello = encode_client(Encoding::Proto, ClientFrame::Hello(wire::Hello::default()));
    link.say(&frame(&hello)).await;
    link.receive_to(1).await;
    link
}

/// Each of its publishes is so many records.
pub(crate) async fn publisher(address: SocketAddr, session: &str, records: usize) -> Link {
    let (mut frame, at) = publish(session, records);
    let mut next = FIRST_REQUEST;
    let request = move |out: &mut Vec<u8>| {
        frame[at..at + 4].copy_from_slice(&digits(next));
        next += 1;
        out.extend_from_slice(&frame);
    };
    open(address, Box::new(request)).await
}

pub(crate) async fn subscriber(address: SocketAddr, session: &str) -> Link {
    let mut link = open(address, reads_only()).await;
    link.say(&frame(&encode_client(Encoding::Proto, subscribe(1, session, From::Start(true))))).await;
    link.receive_to(2).await;
    link
}
