use std::collections::VecDeque;
use std::io::{self, Cursor, Read, Write};

use bytes::{BufMut, BytesMut};
use futures_util::{FutureExt, SinkExt, StreamExt};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::*;

/// A frame as a client may, or may not, send it.
#[derive(Clone, Debug)]
struct Sent {
    first: u8,
    masked: bool,
    payload: Vec<u8>,
    /// Of the length, at least.
    length_bytes: usize,
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.first];
        let flag = if self.masked { 0x80 } else { 0 };
        let length = self.payload.len();
        match (length, self.length_bytes) {
            (..126, ..2) => bytes.put_u8(flag | length as u8),
            (..0x1_0000, ..3) => {
                bytes.put_u8(flag | 126);
                bytes.put_u16(length as u16);
            }
            _ => {
                bytes.put_u8(flag | 127);
                bytes.put_u64(length as u64);
            }
        }
        let mask = if self.masked { [0x12, 0x34, 0x56, 0x78] } else { [0; 4] };
        if self.masked {
            bytes.put_slice(&mask);
        }
        bytes.extend(self.payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }
}

/// What came of what was sent: messages, and why there are no more.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    messages: Vec<Message>,
    end: Option<&'static str>,
}

fn ours(bytes: &[u8], cuts: &[usize]) -> Outcome {
    let (mut incoming, mut outcome) = (Incoming::default(), Outcome::default());
    let mut cuts = cuts.iter().copied().cycle();
    let mut rest = bytes;
    loop {
        match incoming.next() {
            Ok(Some(message)) => {
                let is_last = matches!(message, Message::Close(_));
                outcome.messages.push(message);
                if is_last {
                    return outcome;
                }
            }
            Ok(None) if rest.is_empty() => return outcome,
            Ok(None) => {
                let (piece, left) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                match incoming.long() {
                    Some(buffer) => buffer.put_slice(piece),
                    None => incoming.push(piece),
                }
                rest = left;
            }
            Err(violation) => {
                outcome.end = Some(match violation {
                    Violation::TooLong(_) => "too long",
                    Violation::NotUtf8 => "not UTF-8",
                    Violation::Protocol(_) => "protocol",
                });
                return outcome;
            }
        }
    }
}

/// A stream that has all that comes, and takes whatever goes.
struct Whole(Cursor<Vec<u8>>);

impl Read for Whole {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.0.read(into)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

impl Write for Whole {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The same by a library that is known to do it right.
fn theirs(bytes: &[u8]) -> Outcome {
    let config = WebSocketConfig::default()
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    let stream = Whole(Cursor::new(bytes.to_vec()));
    let mut socket = tungstenite::WebSocket::from_raw_socket(stream, Role::Server, Some(config));
    let mut outcome = Outcome::default();
    loop {
        outcome.messages.push(match socket.read() {
            Ok(tungstenite::Message::Text(text)) => Message::Text(text.into()),
            Ok(tungstenite::Message::Binary(bytes)) => Message::Binary(bytes),
            Ok(tungstenite::Message::Ping(bytes)) => Message::Ping(bytes),
            Ok(tungstenite::Message::Pong(_)) => Message::Pong,
            Ok(tungstenite::Message::Close(_)) => {
                outcome.messages.push(Message::Close(None));
                return outcome;
            }
            Ok(tungstenite::Message::Frame(_)) => unreachable!("it is for who writes"),
            Err(tungstenite::Error::Io(_)) => return outcome,
            Err(error) => {
                outcome.end = Some(match error {
                    tungstenite::Error::Capacity(_) => "too long",
                    tungstenite::Error::Utf8(_) => "not UTF-8",
                    _ => "protocol",
                });
                return outcome;
            }
        });
    }
}

fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 0..300usize,
        2 => Just(125),
        2 => Just(126),
        1 => 0xfff0..0x1_0010usize,
        1 => PIECE_BYTES - 8..PIECE_BYTES + 8,
    ]
}

/// Long frames take long.
const CASES: u32 = 200;

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: CASES,
        rng_seed: RngSeed::Fixed(7),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn frames() -> impl Strategy<Value = Vec<Sent>> {
    let text = "[a-zäß✓]{0,60}".prop_map(String::into_bytes);
    let any = (lengths(), any::<u8>()).prop_map(|(length, byte)| vec![byte; length]);
    let payload = prop_oneof![3 => text, 2 => any];
    let opcode = prop_oneof![
        20 => prop::sample::select(vec![0x81u8, 0x82, 0x01, 0x02, 0x00, 0x80, 0x80, 0x89, 0x8a]),
        1 => prop::sample::select(vec![0x88u8, 0x09, 0xc2, 0x83, 0x8b]),
    ];
    let masked = prop_oneof![60 => Just(true), 1 => Just(false)];
    let length_bytes = prop::sample::select(vec![1usize, 1, 1, 2, 8]);
    let sent =
        (opcode, masked, payload, length_bytes).prop_map(|(first, masked, mut payload, length_bytes)| {
            // What breaks two rules may be refused for either.
            if first & 0x08 != 0 || !masked || first & 0x73 == 0x43 {
                payload.truncate(CONTROL_MOST);
            }
            if first == 0x88 {
                payload = if payload.len() % 3 == 0 {
                    Vec::new()
                } else {
                    [&1000u16.to_be_bytes()[..], b"bye"].concat()
                };
            }
            Sent { first, masked, payload, length_bytes }
        });
    prop::collection::vec(sent, 1..12)
}

/// One more than a control frame may carry.
const CONTROL_MOST: usize = 126;

proptest! {
    #![proptest_config(config())]
    #[test]
    fn it_takes_apart_what_the_library_takes_apart(
        frames in frames(),
        cuts in prop::collection::vec((1..20usize, 4000..40_000usize), 1..4),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(Sent::bytes).collect();
        let cuts: Vec<usize> = cuts.into_iter().flat_map(|(short, long)| [short, short, long]).collect();
        let mut came = ours(&bytes, &cuts);
        for message in &mut came.messages {
            // The library gives the code with its reason, or another one.
            if let Message::Close(code) = message {
                *code = None;
            }
        }
        prop_assert_eq!(came, theirs(&bytes));
    }
}

#[test]
fn a_message_has_at_most_so_many_bytes_in_however_many_fragments() {
    let sent =
        |first, length| Sent { first, masked: true, payload: vec![b'x'; length], length_bytes: 1 }.bytes();
    let most = [sent(0x01, 5), sent(0x89, 5), sent(0x80, FRAME_BYTES_MAX - 5)].concat();
    for (bytes, outcome) in
        [(most.clone(), theirs(&most)), ([most, sent(0x82, FRAME_BYTES_MAX)].concat(), Outcome::default())]
    {
        let came = ours(&bytes, &[100_000]);
        assert_eq!(came.end, None);
        assert!(outcome.messages.is_empty() || came == outcome);
    }
    let second = [sent(0x01, 6), sent(0x80, FRAME_BYTES_MAX - 5)].concat();
    for bytes in [sent(0x82, FRAME_BYTES_MAX + 1), second] {
        assert_eq!(ours(&bytes, &[100_000]), theirs(&bytes));
        assert_eq!(ours(&bytes, &[100_000]).end, Some("too long"));
        let header = &bytes[..bytes.len().min(30)];
        assert_eq!(ours(header, &[7]).end, Some("too long"), "nothing of it is waited for");
    }
}

fn frame(head: &[u8], body: usize, byte: u8) -> FrameBytes {
    FrameBytes { head: Bytes::copy_from_slice(head), body: Bytes::from(vec![byte; body]) }
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn frames_arrive_whole_and_in_order_however_they_are_written(
        frames in prop::collection::vec((0..20usize, lengths(), any::<u8>()), 1..12),
        writes in prop::collection::vec((1..20usize, 10_000..200_000usize), 1..4),
        is_vectored: bool,
    ) {
        let mut outgoing = Outgoing::new(is_vectored);
        let writes: Vec<usize> = writes.into_iter().flat_map(|(short, long)| [short, short, long]).collect();
        let (mut written, mut writes) = (Vec::new(), writes.into_iter().cycle());
        let mut expected = VecDeque::new();
        let mut write = |outgoing: &mut Outgoing| {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = outgoing.slices(&mut slices);
            let (before, most) = (written.len(), writes.next().unwrap());
            for slice in &slices[..count] {
                let length = slice.len().min(most - (written.len() - before));
                written.extend_from_slice(&slice[..length]);
            }
            outgoing.advance(written.len() - before);
        };
        for (head, body, byte) in frames {
            let frame = frame(&vec![7; head], body, byte);
            expected.push_back(frame.clone().into_bytes());
            outgoing.push(Opcode::Binary, frame);
            write(&mut outgoing);
        }
        while outgoing.bytes() > 0 {
            write(&mut outgoing);
        }
        let mut socket =
            tungstenite::WebSocket::from_raw_socket(Whole(Cursor::new(written)), Role::Client, None);
        while let Some(frame) = expected.pop_front() {
            prop_assert_eq!(socket.read().unwrap(), tungstenite::Message::Binary(frame));
        }
        prop_assert!(socket.read().is_err(), "and nothing else");
    }
}

async fn link(buffer: usize) -> (WebSocketSource<DuplexStream>, WebSocketSink<DuplexStream>, DuplexStream) {
    let (peer, stream) = duplex(buffer);
    let (mut source, sink) = accept(stream, Encoding::Proto, None);
    source.admit().unwrap();
    (source, sink, peer)
}

fn ping(text: &str) -> Vec<u8> {
    Sent { first: 0x89, masked: true, payload: text.as_bytes().to_vec(), length_bytes: 1 }.bytes()
}

#[tokio::test]
async fn pings_are_answered_between_frames_and_a_flood_of_them_keeps_nothing() {
    let (mut source, mut sink, mut peer) = link(1 << 10).await;
    // A frame is cut by the peer's full buffer; the answer must not go into its middle.
    let body = Bytes::from(vec![1; 5000]);
    sink.feed(Lane::Control, body.clone().into()).await.unwrap();
    assert!(sink.flush().now_or_never().is_none());
    for number in 0..20_000 {
        peer.write_all(&ping(&format!("ping {number}"))).await.unwrap();
        // One task may not use up more than its share at once, and nothing is read then.
        tokio::task::yield_now().await;
        assert!(source.next().now_or_never().is_none());
        assert!(lock(&source.socket).outgoing.bytes() <= WRITE_BUFFER_BYTES + CONTROL_MOST, "after {number}");
    }
    let serving = tokio::spawn(async move {
        sink.flush().await.unwrap();
        // What could not be answered before is answered when it is the source's turn, at the latest.
        source.next().await
    });
    let mut peer = WebSocketStream::from_raw_socket(peer, Role::Client, None).await;
    assert_eq!(peer.next().await.unwrap().unwrap(), tungstenite::Message::Binary(body));
    let mut last = Bytes::new();
    while last != "ping 19999" {
        last = match peer.next().await.unwrap().unwrap() {
            tungstenite::Message::Pong(text) => text,
            other => panic!("{other:?}"),
        };
    }
    drop(peer);
    assert!(matches!(serving.await.unwrap(), Err(LinkEnd::Gone)));
}

#[tokio::test]
async fn a_close_is_answered_and_nothing_goes_out_behind_it() {
    let (mut source, mut sink, peer) = link(1 << 10).await;
    let mut peer = WebSocketStream::from_raw_socket(peer, Role::Client, None).await;
    peer.send(tungstenite::Message::Close(None)).await.unwrap();
    assert!(matches!(source.next().await, Err(LinkEnd::Gone)));
    assert_eq!(sink.feed(Lane::Control, frame(b"", 3, 1)).await, Err(Gone));
    drop((source, sink));
    assert_eq!(peer.next().await.unwrap().unwrap(), tungstenite::Message::Close(None));
    assert!(peer.next().await.is_none_or(|end| end.is_err()), "and nothing else");
}

#[tokio::test]
async fn the_reason_of_a_close_is_cut_between_letters() {
    let (_source, mut sink, peer) = link(1 << 12).await;
    let mut peer = WebSocketStream::from_raw_socket(peer, Role::Client, None).await;
    let error = Error::new(ErrorCode::IdleTimeout, "✓".repeat(100));
    sink.close(Bytes::from_static(b"last"), &error).await.unwrap();
    assert_eq!(
        peer.next().await.unwrap().unwrap(),
        tungstenite::Message::Binary(Bytes::from_static(b"last"))
    );
    match peer.next().await.unwrap().unwrap() {
        tungstenite::Message::Close(Some(close)) => {
            assert_eq!(u16::from(close.code), error.code.close_code());
            assert!(close.reason.starts_with("idle_timeout: ✓"), "{}", close.reason);
            assert!(close.reason.len() > 118, "{}", close.reason.len());
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_large_frame_that_is_only_announced_gets_no_memory() {
    let (mut source, _sink, mut peer) = link(1 << 20).await;
    let bytes =
        Sent { first: 0x82, masked: true, payload: vec![7; FRAME_BYTES_MAX], length_bytes: 1 }.bytes();
    let mut sent = 0;
    for length in [14, 100, 10_000, 100_000, 400_000] {
        peer.write_all(&bytes[sent..sent + length]).await.unwrap();
        sent += length;
        assert!(source.next().now_or_never().is_none());
        let kept = lock(&source.socket).incoming.kept_bytes();
        assert!(kept <= 2 * sent + 2 * PIECE_BYTES, "{kept} bytes of memory for {sent} that came");
    }
    let rest = tokio::spawn(async move { peer.write_all(&bytes[sent..]).await.map(|()| peer) });
    assert_eq!(source.next().await.unwrap(), vec![7; FRAME_BYTES_MAX]);
    rest.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_idle_link_keeps_no_buffers() {
    let (mut source, mut sink, peer) = link(1 << 20).await;
    let mut peer = WebSocketStream::from_raw_socket(peer, Role::Client, None).await;
    for bytes in [10, 5000, 100_000] {
        let body = BytesMut::zeroed(bytes).freeze();
        peer.send(tungstenite::Message::Binary(body.clone())).await.unwrap();
        assert_eq!(source.next().await.unwrap(), body);
        sink.feed(Lane::Control, body.into()).await.unwrap();
        sink.flush().await.unwrap();
        assert!(source.next().now_or_never().is_none());
    }
    let socket = lock(&source.socket);
    let kept = format!("{:?} {:?}", socket.incoming, socket.outgoing);
    assert_eq!(socket.incoming.kept_bytes() + socket.outgoing.kept_bytes(), 0, "{kept}");
}
