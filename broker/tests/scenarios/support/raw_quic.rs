//! A client of QUIC by hand: its packets are right, and hold whatever frames it is told to send.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut};
use longwire_proto::codec::{Encoding, encode_client};
use longwire_proto::framing::prefix;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use rustls::Side;
use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
use rustls::pki_types::ServerName;
use rustls::quic::{ClientConnection, KeyChange, Keys, PacketKeySet, Secrets, Version};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::support::quic_client::soon;
use crate::support::rng::Rng;
use crate::support::tls_client;

/// A first datagram has at least so many bytes (RFC 9000, section 14.1).
pub(crate) const INITIAL_BYTES: usize = 1200;
/// The versions of this client, and of QUIC.
const VERSION: u32 = 1;
const ID_BYTES: usize = 8;
/// Of every packet number, as it is sent.
const NUMBER_BYTES: usize = 4;
const TAG_BYTES: usize = 16;
/// What a header is protected with is taken so far behind the number's beginning, and is so long.
const SAMPLE: std::ops::Range<usize> = 4..20;
/// After this time of silence what was sent last is taken for lost, and the broker is reminded.
const SILENCE: Duration = Duration::from_millis(300);

/// The same for who waits for an end: a broker that has said why, says so again for three of its probe timeouts (RFC 9000, section
/// 10.2), which here are 75 ms at least, and then knows of nothing.
const END_SILENCE: Duration = Duration::from_millis(15);
/// Of the first byte of a packet of data: which keys it has.
const KEY_PHASE: u8 = 0x04;
/// No datagram is longer: on one machine they are longer than on a network.
const DATAGRAM_BYTES: usize = 65_536;

/// The spaces of packet numbers.
#[derive(Clone, Copy)]
enum Space {
    Initial,
    Handshake,
    Data,
}

const SPACES: [Space; 3] = [Space::Initial, Space::Handshake, Space::Data];

/// What the broker may change the keys of data to, at any time (RFC 9001, section 6): its stack does so after ten to a thousand packets.
struct KeyPhase {
    secrets: Secrets,
    next: PacketKeySet,
    bit: u8,
}

impl KeyPhase {
    fn new(mut secrets: Secrets) -> Self {
        Self { next: secrets.next_packet_keys(), secrets, bit: 0 }
    }

    /// Goes on to the next keys, in both directions.
    fn advance(&mut self, keys: &mut Keys) {
        let next = std::mem::replace(&mut self.next, self.secrets.next_packet_keys());
        (keys.local.packet, keys.remote.packet) = (next.local, next.remote);
        self.bit ^= KEY_PHASE;
    }
}

#[derive(Default)]
struct Numbers {
    keys: Option<Keys>,
    next: u64,
    received: BTreeSet<u64>,
    owes_ack: bool,
    /// What came of the handshake, by offset, and up to where it was read.
    crypto: BTreeMap<u64, Vec<u8>>,
    crypto_read: u64,
    /// What TLS has to say in this space, and what it has said.
    crypto_pending: Vec<u8>,
    crypto_sent: u64,
}

/// What the broker said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Stream {
        id: u64,
        offset: u64,
        data: Vec<u8>,
        ends: bool,
    },
    Reset {
        id: u64,
    },
    /// How many streams, in both directions or in one, it allows.
    MaxStreams {
        bidirectional: bool,
        most: u64,
    },
    MaxData(u64),
    /// The end, with the code of QUIC or of the application.
    Closed {
        by_application: bool,
        code: u64,
        reason: String,
    },
    HandshakeDone,
}

pub(crate) fn varint(into: &mut Vec<u8>, value: u64) {
    match value {
        0..0x40 => into.put_u8(value as u8),
        0x40..0x4000 => into.put_u16(value as u16 | 0x4000),
        0x4000..0x4000_0000 => into.put_u32(value as u32 | 0x8000_0000),
        _ => into.put_u64(value | 0xc000_0000_0000_0000),
    }
}

fn take_varint(from: &mut &[u8]) -> u64 {
    let length = 1 << (from[0] >> 6);
    let first = u64::from(from.get_u8() & 0x3f);
    (1..length).fold(first, |value, _| value << 8 | u64::from(from.get_u8()))
}

/// A piece of a stream.
pub(crate) fn stream(id: u64, offset: u64, data: &[u8], ends: bool) -> Vec<u8> {
    let mut frame = vec![0x0e | u8::from(ends)];
    varint(&mut frame, id);
    varint(&mut frame, offset);
    varint(&mut frame, data.len() as u64);
    frame.extend(data);
    frame
}

/// A frame of Longwire, as it is on a stream.
pub(crate) fn framed(frame: ClientFrame) -> Vec<u8> {
    let frame = encode_client(Encoding::Proto, frame);
    [prefix(frame.len()).unwrap(), frame].concat()
}

pub(crate) fn hello() -> Vec<u8> {
    framed(ClientFrame::Hello(wire::Hello::default()))
}

pub(crate) struct RawQuic {
    socket: UdpSocket,
    tls: ClientConnection,
    own_id: [u8; ID_BYTES],
    broker_id: Vec<u8>,
    numbers: [Numbers; 3],
    /// Where TLS is.
    level: Space,
    phase: Option<KeyPhase>,
    heard: VecDeque<Heard>,
    /// The first datagram.
    pub(crate) first: Vec<u8>,
}

impl RawQuic {
    /// A client that has not said anything yet.
    pub(crate) async fn new(address: SocketAddr, seed: u64) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(address).await.unwrap();
        let mut rng = Rng::from_env(seed);
        let (own_id, broker_id) = (rng.bytes(ID_BYTES).try_into().unwrap(), rng.bytes(ID_BYTES));
        // The large shares of the other groups do not fit into one datagram.
        let config = tls_client::config_with(&["longwire/1"], kx_group::X25519);
        let mut parameters = Vec::new();
        let large = 1 << 30;
        // The windows of data, and of each kind of stream; and how many streams of one direction the broker may open.
        for (parameter, value) in [(0x04, large), (0x05, large), (0x06, large), (0x07, large), (0x09, 100)] {
            let mut text = Vec::new();
            varint(&mut text, value);
            varint(&mut parameters, parameter);
            varint(&mut parameters, text.len() as u64);
            parameters.extend(text);
        }
        varint(&mut parameters, 0x0f);
        varint(&mut parameters, ID_BYTES as u64);
        parameters.extend(own_id);
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(Arc::new(config), Version::V1, name, parameters).unwrap();
        let suite = cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap();
        let keys = suite.quic_suite().unwrap().keys(&broker_id, Side::Client, Version::V1);
        let mut numbers: [Numbers; 3] = Default::default();
        numbers[Space::Initial as usize].keys = Some(keys);
        let mut client = Self {
            socket,
            tls,
            own_id,
            broker_id,
            numbers,
            level: Space::Initial,
            phase: None,
            heard: VecDeque::new(),
            first: Vec::new(),
        };
        client.advance();
        let mut first = client.crypto(Space::Initial);
        first.resize(INITIAL_BYTES, 0);
        client.first = client.packet_in(Space::Initial, &first);
        client
    }

    /// Connects, up to where streams can be opened.
    pub(crate) async fn connect(address: SocketAddr, seed: u64) -> Self {
        let mut client = Self::new(address, seed).await;
        client.throw(&client.first.clone()).await;
        client.until(|heard| *heard == Heard::HandshakeDone).await;
        client
    }

    /// Connects, and says hello.
    pub(crate) async fn greet(address: SocketAddr, seed: u64) -> Self {
        let mut client = Self::connect(address, seed).await;
        client.send(&stream(0, 0, &hello(), false)).await;
        client.until(|heard| matches!(heard, Heard::Stream { id: 0, .. })).await;
        client
    }

    /// Sends a datagram as it is.
    pub(crate) async fn throw(&self, datagram: &[u8]) {
        self.socket.send(datagram).await.unwrap();
    }

    /// Sends frames in a packet of their own, which it answers with: it can be sent again.
    pub(crate) async fn send(&mut self, frames: &[u8]) -> Vec<u8> {
        let packet = self.packet_in(Space::Data, frames);
        self.throw(&packet).await;
        packet
    }

    /// The next datagram, as it is; `None` after a while of silence.
    pub(crate) async fn datagram(&self) -> Option<Vec<u8>> {
        self.datagram_within(SILENCE).await
    }

    async fn datagram_within(&self, silence: Duration) -> Option<Vec<u8>> {
        let mut datagram = vec![0; DATAGRAM_BYTES];
        let length = timeout(silence, self.socket.recv(&mut datagram)).await.ok()?.unwrap();
        datagram.truncate(length);
        Some(datagram)
    }

    /// Waits for something.
    pub(crate) async fn until(&mut self, is: impl Fn(&Heard) -> bool) -> Heard {
        soon("the broker says it", async {
            loop {
                while let Some(heard) = self.heard.pop_front() {
                    if is(&heard) {
                        return heard;
                    }
                    assert!(!matches!(heard, Heard::Closed { .. }), "{heard:?}");
                }
                self.receive().await;
            }
        })
        .await
    }

    /// Waits for the end: whether it is the application's, its code and its reason.
    pub(crate) async fn closed(&mut self) -> (bool, u64, String) {
        match self.until(|heard| matches!(heard, Heard::Closed { .. })).await {
            Heard::Closed { by_application, code, reason } => (by_application, code, reason),
            other => panic!("{other:?}"),
        }
    }

    /// Says something until this comes of it.
    pub(crate) async fn say(&mut self, frames: &[u8], is: impl Fn(&Heard) -> bool) {
        soon("the broker answers", async {
            while !self.heard.iter().any(&is) {
                self.send(frames).await;
                self.receive_within(END_SILENCE).await;
            }
        })
        .await;
    }

    /// Says something for which the broker ends the connection, until it does: packets get lost where many were sent.
    pub(crate) async fn ended_for(&mut self, frames: &[u8]) -> (bool, u64, String) {
        self.say(frames, |heard| matches!(heard, Heard::Closed { .. })).await;
        self.heard.retain(|heard| matches!(heard, Heard::Closed { .. }));
        self.closed().await
    }

    /// Takes what comes, and answers as QUIC asks for.
    pub(crate) async fn receive(&mut self) {
        self.receive_within(SILENCE).await;
    }

    async fn receive_within(&mut self, silence: Duration) {
        match self.datagram_within(silence).await {
            Some(mut datagram) => {
                self.take(&mut datagram);
                let mut waiting = vec![0; DATAGRAM_BYTES];
                while let Ok(length) = self.socket.try_recv(&mut waiting) {
                    self.take(&mut waiting[..length]);
                }
            }
            // One of either side was lost: the broker repeats what it hears nothing of, and is to hear that all is well.
            None => {
                self.numbers.iter_mut().for_each(|numbers| numbers.owes_ack |= !numbers.received.is_empty())
            }
        }
        let mut datagram = Vec::new();
        for space in SPACES {
            if self.numbers[space as usize].keys.is_none() {
                continue;
            }
            let mut frames = self.crypto(space);
            if self.numbers[space as usize].owes_ack {
                frames.splice(0..0, self.ack(space));
            }
            if !frames.is_empty() {
                // One that is short has nothing to sample.
                frames.resize(frames.len().max(SAMPLE.end), 0);
                datagram.extend(self.packet_in(space, &frames));
            }
        }
        if !datagram.is_empty() {
            self.throw(&datagram).await;
        }
    }

    /// Takes what TLS has to say, and the keys that it has come to.
    fn advance(&mut self) {
        loop {
            let change = self.tls.write_hs(&mut self.numbers[self.level as usize].crypto_pending);
            let keys = match change {
                Some(KeyChange::Handshake { keys }) => (Space::Handshake, keys),
                Some(KeyChange::OneRtt { keys, next }) => {
                    self.phase = Some(KeyPhase::new(next));
                    (Space::Data, keys)
                }
                None => return,
            };
            self.level = keys.0;
            self.numbers[self.level as usize].keys = Some(keys.1);
        }
    }

    fn crypto(&mut self, space: Space) -> Vec<u8> {
        let numbers = &mut self.numbers[space as usize];
        let text = std::mem::take(&mut numbers.crypto_pending);
        if text.is_empty() {
            return text;
        }
        let mut frame = vec![0x06];
        varint(&mut frame, numbers.crypto_sent);
        varint(&mut frame, text.len() as u64);
        numbers.crypto_sent += text.len() as u64;
        frame.extend(text);
        frame
    }

    fn ack(&mut self, space: Space) -> Vec<u8> {
        let numbers = &mut self.numbers[space as usize];
        numbers.owes_ack = false;
        let Some(largest) = numbers.received.last().copied() else { return Vec::new() };
        let below = (0..largest).rev().take_while(|number| numbers.received.contains(number)).count();
        let mut frame = vec![0x02];
        for value in [largest, 0, 0, below as u64] {
            varint(&mut frame, value);
        }
        frame
    }

    fn packet_in(&mut self, space: Space, frames: &[u8]) -> Vec<u8> {
        let number = self.numbers[space as usize].next;
        self.numbers[space as usize].next += 1;
        let mut packet = Vec::new();
        match space {
            Space::Data => {
                packet.push(0x43 | self.phase.as_ref().map_or(0, |phase| phase.bit));
                packet.extend(&self.broker_id);
            }
            Space::Initial | Space::Handshake => {
                packet.push(if matches!(space, Space::Initial) { 0xc3 } else { 0xe3 });
                packet.put_u32(VERSION);
                for id in [&self.broker_id[..], &self.own_id[..]] {
                    packet.put_u8(id.len() as u8);
                    packet.extend(id);
                }
                if matches!(space, Space::Initial) {
                    varint(&mut packet, 0);
                }
                varint(&mut packet, (NUMBER_BYTES + frames.len() + TAG_BYTES) as u64);
            }
        }
        let start = packet.len();
        packet.put_u32(number as u32);
        let mut payload = frames.to_vec();
        let keys = &self.numbers[space as usize].keys.as_ref().unwrap().local;
        let tag = keys.packet.encrypt_in_place(number, &packet, &mut payload).unwrap();
        packet.extend(payload);
        packet.extend(tag.as_ref());
        let sample = packet[start + SAMPLE.start..start + SAMPLE.end].to_vec();
        let (first, rest) = packet.split_first_mut().unwrap();
        let protected = &mut rest[start - 1..start - 1 + NUMBER_BYTES];
        keys.header.encrypt_in_place(&sample, first, protected).unwrap();
        packet
    }

    /// Takes the packets of a datagram.
    fn take(&mut self, mut datagram: &mut [u8]) {
        while !datagram.is_empty() && datagram[0] & 0x40 != 0 {
            let is_long = datagram[0] & 0x80 != 0;
            let (space, start, end) = if is_long {
                let mut rest = &datagram[1..];
                // Such as what is said of another version, or to somebody else.
                if rest.get_u32() != VERSION || usize::from(rest.get_u8()) != ID_BYTES {
                    return;
                }
                if rest[..ID_BYTES] != self.own_id {
                    return;
                }
                rest.advance(ID_BYTES);
                let length = usize::from(rest.get_u8());
                let id = rest[..length].to_vec();
                rest.advance(length);
                let space = if datagram[0] & 0x30 == 0 { Space::Initial } else { Space::Handshake };
                if matches!(space, Space::Initial) {
                    let token = take_varint(&mut rest) as usize;
                    rest.advance(token);
                }
                let length = take_varint(&mut rest) as usize;
                let start = datagram.len() - rest.len();
                self.broker_id = id;
                (space, start, start + length)
            } else {
                (Space::Data, 1 + ID_BYTES, datagram.len())
            };
            let (packet, rest) = datagram.split_at_mut(end);
            self.open(space, packet, start);
            self.advance();
            datagram = rest;
        }
    }

    fn open(&mut self, space: Space, packet: &mut [u8], start: usize) {
        let numbers = &mut self.numbers[space as usize];
        // What overtook the keys comes again.
        let Some(keys) = &mut numbers.keys else { return };
        let phase = self.phase.as_mut().filter(|_| matches!(space, Space::Data));
        let sample = packet[start + SAMPLE.start..start + SAMPLE.end].to_vec();
        let (first, rest) = packet.split_first_mut().unwrap();
        let number = &mut rest[start - 1..start - 1 + NUMBER_BYTES];
        keys.remote.header.decrypt_in_place(&sample, first, number).unwrap();
        let phase = phase.filter(|phase| *first & KEY_PHASE != phase.bit);
        let length = usize::from(*first & 3) + 1;
        let low = number[..length].iter().fold(0, |low, byte| low << 8 | u64::from(*byte));
        let window = 1u64 << (8 * length);
        let expected = numbers.received.last().map_or(0, |last| last + 1);
        let near = expected & !(window - 1) | low;
        let number = [near.wrapping_sub(window), near, near + window]
            .into_iter()
            .min_by_key(|number| number.abs_diff(expected))
            .unwrap();
        let (header, payload) = packet.split_at_mut(start + length);
        let key = phase.as_ref().map_or(&keys.remote.packet, |phase| &phase.next.remote);
        let Ok(payload) = key.decrypt_in_place(number, header, payload) else { return };
        let payload = payload.to_vec();
        if let Some(phase) = phase {
            phase.advance(keys);
        }
        if numbers.received.insert(number) {
            self.frames(space, &payload);
        }
    }

    fn frames(&mut self, space: Space, mut rest: &[u8]) {
        let numbers = &mut self.numbers[space as usize];
        while !rest.is_empty() {
            let kind = take_varint(&mut rest);
            numbers.owes_ack |= !matches!(kind, 0x00 | 0x02 | 0x03 | 0x1c | 0x1d);
            let mut value = || take_varint(&mut rest);
            match kind {
                // Padding, and a ping.
                0x00 | 0x01 => {}
                0x02 | 0x03 => {
                    let (_, _, ranges, _) = (value(), value(), value(), value());
                    let counts = if kind == 0x03 { 3 } else { 0 };
                    (0..2 * ranges + counts).for_each(|_| {
                        value();
                    });
                }
                0x04 => {
                    let (id, _, _) = (value(), value(), value());
                    self.heard.push_back(Heard::Reset { id });
                }
                0x06 => {
                    let (offset, length) = (value(), value() as usize);
                    numbers.crypto.insert(offset, rest[..length].to_vec());
                    rest.advance(length);
                    while let Some(text) = numbers.crypto.remove(&numbers.crypto_read) {
                        numbers.crypto_read += text.len() as u64;
                        self.tls.read_hs(&text).unwrap();
                    }
                }
                0x07 => {
                    let length = value() as usize;
                    rest.advance(length);
                }
                0x08..=0x0f => {
                    let id = value();
                    let offset = if kind & 4 == 0 { 0 } else { value() };
                    let length = if kind & 2 == 0 { rest.len() } else { take_varint(&mut rest) as usize };
                    let data = rest[..length].to_vec();
                    rest.advance(length);
                    self.heard.push_back(Heard::Stream { id, offset, data, ends: kind & 1 == 1 });
                }
                0x10 => {
                    let most = value();
                    self.heard.push_back(Heard::MaxData(most));
                }
                0x12 | 0x13 => {
                    let (bidirectional, most) = (kind == 0x12, value());
                    self.heard.push_back(Heard::MaxStreams { bidirectional, most });
                }
                0x14 | 0x16 | 0x17 | 0x19 => {
                    value();
                }
                0x05 | 0x11 | 0x15 => {
                    value();
                    value();
                }
                0x18 => {
                    value();
                    value();
                    let length = usize::from(rest.get_u8());
                    // And the token of a stateless reset.
                    rest.advance(length + 16);
                }
                0x1a | 0x1b => rest.advance(8),
                0x1c | 0x1d => {
                    let code = value();
                    if kind == 0x1c {
                        value();
                    }
                    let length = value() as usize;
                    let reason = String::from_utf8_lossy(&rest[..length]).into_owned();
                    rest.advance(length);
                    self.heard.push_back(Heard::Closed { by_application: kind == 0x1d, code, reason });
                }
                0x1e => self.heard.push_back(Heard::HandshakeDone),
                other => panic!("a frame of kind {other:#x}"),
            }
        }
    }
}
