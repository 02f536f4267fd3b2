//! One reader reads a long session from its start, and makes a value of its own of each record. The servers are filled once and go on
//! from round to round.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::feed::{line, number};
use super::link::connect;
use super::publishing::Values;
use super::row::Measure;
use super::subject::{Running, Subject};
use super::{longwire, nats, redis};
use crate::common::folder;

const SESSION: &str = "catch-up";
/// Records of a publish of Longwire, and entries of a page of Redis.
const PAGE: usize = 1000;
/// Publishes without an answer, while a server is filled.
const IN_FLIGHT: u64 = 1000;
/// The same, when each is a page.
const PAGES_IN_FLIGHT: u64 = 8;
/// Bytes that there is always room for.
const READ_BYTES: usize = 256 << 10;

/// Those that were filled.
#[derive(Default)]
pub(crate) struct CatchUp(BTreeMap<Subject, (Running, TempDir)>);

impl CatchUp {
    /// Fills one, which takes longer than reading; `None` when it is not installed.
    pub(crate) async fn fill(&mut self, subject: Subject, records: u64) -> Option<()> {
        let folder = folder();
        let running = Running::start(subject, folder.path())?;
        let is_longwire = matches!(subject, Subject::Longwire | Subject::LongwireOther);
        let (mut link, publishes, in_flight) = if is_longwire {
            let link = longwire::publisher(running.server.address, SESSION, PAGE).await.ready();
            (link, records / PAGE as u64, PAGES_IN_FLIGHT)
        } else {
            (running.publisher(SESSION).await, records, IN_FLIGHT)
        };
        let (mut sent, mut answered) = (0, 0);
        while answered < publishes {
            let more = (in_flight - (sent - answered)).min(publishes - sent);
            link.publish(more).await;
            sent += more;
            answered = link.receive().await;
        }
        // What it left to be written is not the readers' to wait for.
        rustix::fs::sync();
        self.0.insert(subject, (running, folder));
        Some(())
    }

    /// `None` when it was not filled.
    pub(crate) async fn run(&self, subject: Subject, records: u64) -> Option<Values> {
        let (running, _) = self.0.get(&subject)?;
        let address = running.server.address;
        let (began, cpu) = (Instant::now(), running.server.cpu_seconds());
        match subject {
            Subject::Longwire | Subject::LongwireOther => sdk(address, records).await,
            Subject::Redis => xrange(address, records).await,
            _ => consume(address, records).await,
        }
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), running.server.cpu_seconds() - cpu);
        let records = records as f64;
        Some(vec![(Measure::PerSecond, records / seconds), (Measure::Cpu, cpu * 1e6 / records)])
    }
}

/// Longwire's SDK, as it is by default.
async fn sdk(address: SocketAddr, records: u64) {
    let (client, driver) = ::longwire::Client::builder().url(format!("ws://{address}")).build().unwrap();
    let driver = tokio::spawn(driver);
    let mut subscription = client.session(SESSION).unwrap().subscribe(::longwire::From::Start).await.unwrap();
    for _ in 0..records {
        black_box(subscription.next().await.unwrap().unwrap());
    }
    drop(subscription);
    client.shutdown().await.unwrap();
    drop(driver.await);
}

/// What comes, of which parts are kept without copying them.
struct Coming {
    stream: TcpStream,
    bytes: BytesMut,
}

impl Coming {
    async fn read(&mut self) {
        self.bytes.reserve(READ_BYTES);
        assert!(self.stream.read_buf(&mut self.bytes).await.unwrap() > 0, "the server ended the connection");
    }
}

/// An entry of a stream of Redis.
struct Entry {
    _id: (u64, u64),
    _fields: Vec<(Bytes, Bytes)>,
}

/// Where the parts of an entry are.
struct Parts {
    id: (u64, u64),
    field: (usize, usize),
    value: (usize, usize),
}

/// A part of an answer: where its bytes are, or what it says as a number, and where the next one begins.
fn token(bytes: &[u8], at: usize) -> Option<((usize, usize), usize)> {
    let (head, taken) = line(&bytes[at..])?;
    let value = number(&head[1..]);
    match head[0] {
        b'*' => Some(((value, 0), at + taken)),
        b'$' if bytes.len() >= at + taken + value + 2 => Some(((at + taken, value), at + taken + value + 2)),
        b'$' => None,
        _ => panic!("{} came instead of entries", String::from_utf8_lossy(head)),
    }
}

fn id(digits: &[u8]) -> (u64, u64) {
    let dash = memchr::memchr(b'-', digits).unwrap();
    (number(&digits[..dash]) as u64, number(&digits[dash + 1..]) as u64)
}

/// The next entry: `*2 $id *2 $field $value`.
fn entry(bytes: &[u8], at: usize) -> Option<(Parts, usize)> {
    let (_, at) = token(bytes, at)?;
    let ((begin, length), at) = token(bytes, at)?;
    let id = id(&bytes[begin..begin + length]);
    let (_, at) = token(bytes, at)?;
    let (field, at) = token(bytes, at)?;
    let (value, at) = token(bytes, at)?;
    Some((Parts { id, field, value }, at))
}

/// Pages of a thousand, each asked for as soon as the one before is here, and before its entries are made.
async fn xrange(address: SocketAddr, records: u64) {
    let mut coming = Coming { stream: connect(address).await, bytes: BytesMut::new() };
    let page = async |stream: &mut TcpStream, from: String| {
        let page = PAGE.to_string();
        let command = redis::command(&[
            b"XRANGE",
            SESSION.as_bytes(),
            from.as_bytes(),
            b"+",
            b"COUNT",
            page.as_bytes(),
        ]);
        stream.write_all(&command).await.unwrap();
    };
    let mut read = 0;
    page(&mut coming.stream, "-".to_owned()).await;
    while read < records {
        let ((entries, _), mut at) = loop {
            match token(&coming.bytes, 0) {
                Some(head) => break head,
                None => coming.read().await,
            }
        };
        let mut parts = Vec::with_capacity(entries);
        while parts.len() < entries {
            match entry(&coming.bytes, at) {
                Some((part, next)) => {
                    parts.push(part);
                    at = next;
                }
                None => coming.read().await,
            }
        }
        read += entries as u64;
        if read < records {
            let (time, sequence) = parts.last().unwrap().id;
            page(&mut coming.stream, format!("({time}-{sequence}")).await;
        }
        let bytes = coming.bytes.split_to(at).freeze();
        let part = |(begin, length): (usize, usize)| bytes.slice(begin..begin + length);
        for Parts { id, field, value } in parts {
            black_box(Entry { _id: id, _fields: vec![(part(field), part(value))] });
        }
    }
}

/// A message of NATS.
struct Message {
    _subject: Bytes,
    _reply: Bytes,
    _payload: Bytes,
}

/// An ordered consumer, over TCP.
async fn consume(address: SocketAddr, records: u64) {
    let mut coming = Coming { stream: connect(address).await, bytes: BytesMut::new() };
    let inbox = format!("to.catch-up.{}", coming.stream.local_addr().unwrap().port());
    coming.stream.write_all(nats::CONNECT).await.unwrap();
    coming.stream.write_all(format!("SUB {inbox} 1\r\nPING\r\n").as_bytes()).await.unwrap();
    while !coming.bytes.ends_with(b"PONG\r\n") {
        coming.read().await;
    }
    coming.bytes.clear();
    nats::Administrator::open(address).await.create_consumer(SESSION, &inbox).await;
    let mut read = 0;
    while read < records {
        while let Some((head, taken)) = line(&coming.bytes) {
            let words: Vec<&[u8]> = head.split(|byte| *byte == b' ').collect();
            let length = match words[..] {
                [b"MSG" | b"HMSG", .., length] => number(length) + 2,
                _ => 0,
            };
            if coming.bytes.len() < taken + length {
                break;
            }
            let answer = match words[..] {
                [b"HMSG", _, _, reply, _, _] => [b"PUB ", reply, b" 0\r\n\r\n"].concat(),
                [b"PING"] => b"PONG\r\n".to_vec(),
                _ => Vec::new(),
            };
            let is_record = words[0] == b"MSG";
            let bytes = coming.bytes.split_to(taken + length).freeze();
            if is_record {
                let (head, _) = line(&bytes).unwrap();
                let mut words = head.split(|byte| *byte == b' ').skip(1);
                let (subject, reply) = (words.next().unwrap(), words.nth(1).unwrap());
                let payload = bytes.slice(taken..bytes.len() - 2);
                let message = Message {
                    _subject: bytes.slice_ref(subject),
                    _reply: bytes.slice_ref(reply),
                    _payload: payload,
                };
                black_box(message);
                read += 1;
            } else if !answer.is_empty() {
                coming.stream.write_all(&answer).await.unwrap();
            }
        }
        if read < records {
            coming.read().await;
        }
    }
}
