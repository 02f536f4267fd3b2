//! Many clients whose broker restarts: how long until all have resumed, and how many of them come in the same tenth of a
//! second. `LONGWIRE_BENCH_CLIENTS` of them, 10,000 by default, of 100 principals, each with a token of its own; `LONGWIRE_BENCH_END=kill`
//! kills the broker, else it drains;
//! `LONGWIRE_BENCH_DOWN_MS` is how long it is away, and `LONGWIRE_BENCH_CONFIG` its settings, as `KEY=VALUE` separated by spaces. The
//! release binary must be there: `cargo build --release`.
//!
//! A client here is a socket and a few hundred bytes, and waits as docs/protocol.md says (full jitter). It says hello,
//! subscribes from where it was, and is back when `subscribed` has come.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use longwire_broker::auth::guard::OWN_NAME;
use longwire_broker::auth::issuer::Issuer;
use longwire_broker::auth::mint::Mint;
use longwire_broker::auth::principal::Kind;
use longwire_broker::auth::signing_keys::SigningKeys;
use longwire_broker::clock::Clock;
use longwire_broker::server::SIGNING_KEYS_FILE;
use longwire_proto::codec::{Encoding, decode_server, encode_client};
use longwire_proto::grants::Grants;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::common::{Broker, Connection, folder, from_env, raise_open_files, record};

/// Sessions that the clients follow.
const SESSIONS: u64 = 100;
/// Principals that they are: each has several devices.
const PRINCIPALS: u64 = 100;
/// Longer than any run.
const TTL_MS: u64 = 60 * 60 * 1000;
/// What is counted together.
const BUCKET: Duration = Duration::from_millis(100);
/// Bounds of the wait between tries, as in docs/protocol.md.
const BACKOFF_BASE: Duration = Duration::from_millis(100);
const BACKOFF_CAP: Duration = Duration::from_secs(10);
/// For TCP, upgrade and hello together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A hang is a failure.
const PATIENCE: Duration = Duration::from_secs(120);

fn session(number: u64) -> String {
    format!("herd/{number}")
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        limit.mul_f64((z ^ (z >> 31)) as f64 / u64::MAX as f64)
    }
}

/// A client that has just subscribed.
struct Subscribed {
    client: u64,
    at: Instant,
}

/// Makes tokens of the broker that will have this folder.
struct Tokens {
    keys: SigningKeys,
    own: Issuer,
    clock: Clock,
}

impl Tokens {
    fn of(data: &Path) -> Self {
        std::fs::create_dir_all(data).unwrap();
        let keys = SigningKeys::load_or_make(&data.join(SIGNING_KEYS_FILE)).unwrap();
        Self { keys, own: Issuer::own(OWN_NAME, OWN_NAME).unwrap(), clock: Clock::start() }
    }

    fn token(&self, sub: &str, grant: &str) -> String {
        let grants = Grants::parse(&[grant]).unwrap();
        let mint = Mint { sub, kind: Kind::Agent, grants: &grants, roles: &[], device: None, ttl_ms: TTL_MS };
        self.keys.mint(&self.own, &mint, self.clock.now_ms()).unwrap().token
    }
}

struct Client {
    number: u64,
    token: String,
    address: SocketAddr,
    random: Random,
    told: mpsc::UnboundedSender<Subscribed>,
}

/// A binary WebSocket frame, masked by zeros.
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82];
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

/// The next frame of the broker; `None` when there is none any more.
async fn receive(stream: &mut BufReader<TcpStream>) -> Option<ServerFrame> {
    let head = stream.read_u16().await.ok()?.to_be_bytes();
    let length = match head[1] & 0x7f {
        126 => u64::from(stream.read_u16().await.ok()?),
        127 => stream.read_u64().await.ok()?,
        length => u64::from(length),
    };
    let mut payload = vec![0; usize::try_from(length).ok()?];
    stream.read_exact(&mut payload).await.ok()?;
    let is_data = head[0] & 0x0f == 2;
    is_data.then(|| decode_server(Encoding::Proto, Bytes::from(payload)).unwrap())
}

impl Client {
    /// Who this is.
    fn hello(&self) -> wire::Hello {
        wire::Hello { device: format!("d{}", self.number), token: self.token.clone(), ..Default::default() }
    }

    async fn connect(&self) -> Option<BufReader<TcpStream>> {
        let stream = TcpStream::connect(self.address).await.ok()?;
        let mut stream = BufReader::with_capacity(512, stream);
        let upgrade = "GET /v1/connect HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                       sec-websocket-protocol: longwire.v1.proto\r\n\r\n";
        stream.write_all(upgrade.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.ok()?);
        }
        if !answer.starts_with(b"HTTP/1.1 101 ") {
            return None;
        }
        let hello = ClientFrame::Hello(self.hello());
        let subscription = wire::Subscription {
            subscription: 1,
            session: session(self.number % SESSIONS),
            from: Some(wire::From { from: Some(wire::from::From::Offset(1)) }),
            ..Default::default()
        };
        let subscribe =
            ClientFrame::Subscribe(wire::Subscribe { request: 1, subscriptions: vec![subscription] });
        for sent in [hello, subscribe] {
            stream.write_all(&frame(&encode_client(Encoding::Proto, sent))).await.ok()?;
        }
        loop {
            match receive(&mut stream).await? {
                ServerFrame::Subscribed(_) => return Some(stream),
                ServerFrame::Goodbye(_) | ServerFrame::Refused(_) => return None,
                _ => {}
            }
        }
    }

    /// Stays connected until the broker ends it, and answers when to come back.
    async fn stay(&self, mut stream: BufReader<TcpStream>) -> Duration {
        let mut after = Duration::ZERO;
        while let Some(frame) = receive(&mut stream).await {
            if let ServerFrame::Goodbye(goodbye) = frame {
                after = Duration::from_millis(goodbye.reconnect_after_ms);
            }
        }
        after
    }

    async fn live(mut self) {
        let mut attempt = 0;
        loop {
            if let Ok(Some(stream)) = timeout(CONNECT_TIMEOUT, self.connect()).await {
                if self.told.send(Subscribed { client: self.number, at: Instant::now() }).is_err() {
                    return;
                }
                attempt = 0;
                sleep(self.stay(stream).await).await;
            }
            let most = (BACKOFF_BASE * (1 << attempt.min(20))).min(BACKOFF_CAP);
            attempt += 1;
            sleep(self.random.below(most)).await;
        }
    }
}

async fn all(clients: u64, told: &mut mpsc::UnboundedReceiver<Subscribed>) -> Vec<Instant> {
    let mut last: Vec<Option<Instant>> = vec![None; usize::try_from(clients).unwrap()];
    let mut missing = clients;
    while missing > 0 {
        let Subscribed { client, at } = timeout(PATIENCE, told.recv()).await.expect("nobody comes").unwrap();
        missing -= u64::from(last[client as usize].is_none());
        // Who was pushed out and came again is there when it came last.
        last[client as usize] = Some(at);
    }
    last.into_iter().flatten().collect()
}

#[tokio::main]
async fn main() {
    raise_open_files();
    let clients = from_env("LONGWIRE_BENCH_CLIENTS", 10_000);
    let down = Duration::from_millis(from_env("LONGWIRE_BENCH_DOWN_MS", 0));
    let kill = std::env::var("LONGWIRE_BENCH_END").is_ok_and(|end| end == "kill");
    let config = std::env::var("LONGWIRE_BENCH_CONFIG").unwrap_or_default();
    let mut settings = vec![("AUTH", "true")];
    settings.extend(config.split_whitespace().filter_map(|pair| pair.split_once('=')));
    let folder = folder();
    let data = folder.path().join("data");
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tokens = Tokens::of(&data);
    let broker = Broker::start_at(&address.to_string(), &data, &settings);
    let mut writer = Connection::open_as(address, &tokens.token("writer", "herd/*:publish")).await;
    for number in 0..SESSIONS {
        let records = vec![record(100); 2];
        let publish = wire::Publish { request: 1, session: session(number), records, ..Default::default() };
        writer.send(ClientFrame::Publish(publish)).await;
        assert!(matches!(writer.receive().await, Some(ServerFrame::Published(_))));
    }
    drop(writer);
    let (tell, mut told) = mpsc::unbounded_channel();
    for number in 0..clients {
        let token = tokens.token(&format!("p{}", number % PRINCIPALS), "herd/*:read");
        let client = Client { number, token, address, random: Random(number), told: tell.clone() };
        tokio::spawn(client.live());
        // At first they come one after the other: what is measured is their return.
        if number % 100 == 99 {
            sleep(Duration::from_millis(20)).await;
        }
    }
    all(clients, &mut told).await;
    let connected_mib = broker.memory_mib("VmRSS");
    let ended = Instant::now();
    match kill {
        true => drop(broker),
        false => broker.terminate(),
    }
    // Nobody is back before the broker is.
    while told.try_recv().is_ok() {}
    sleep(down).await;
    let broker = Broker::start_at(&address.to_string(), &data, &settings);
    let ready = Instant::now();
    let back = all(clients, &mut told).await;
    let last = back.iter().max().unwrap();
    let mut buckets = vec![0u64; 1];
    for at in &back {
        let bucket = (at.saturating_duration_since(ended).as_millis() / BUCKET.as_millis()) as usize;
        buckets.resize(buckets.len().max(bucket + 1), 0);
        buckets[bucket] += 1;
    }
    let fullest = *buckets.iter().max().unwrap();
    println!("COUNT clients={clients}");
    println!("COUNT down_ms={}", ready.duration_since(ended).as_millis());
    println!("COUNT all_back_ms={}", last.saturating_duration_since(ended).as_millis());
    println!("COUNT fullest_bucket={fullest}");
    println!("COUNT fullest_bucket_permille={}", fullest * 1000 / clients);
    println!("COUNT rss_before_mib={connected_mib}");
    println!("COUNT rss_peak_mib={}", broker.memory_mib("VmHWM"));
    println!("buckets of 100 ms since the end: {buckets:?}");
    drop(told);
}
