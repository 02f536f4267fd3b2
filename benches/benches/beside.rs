//! How late records are for those who keep up, beside others who do not: 1,000 readers that stopped reading beside 100 of the same
//! session that read; and one session that is flooded beside 100 that are quiet. In pairs, one after the other. The flood comes once
//! more to another broker on the same machine: what that does is the processor's part, not the broker's.
//! `LONGWIRE_BENCH_STALLED` (1,000), `LONGWIRE_BENCH_RECORDS` (1,000), `LONGWIRE_BENCH_ROUNDS` (5); `LONGWIRE_BENCH_ROWS`
//! (`stalled,flooded`) leaves some out. The release binary must be there: `cargo build --release`.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use longwire_proto::wire::from::From;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use crate::common::fragment::{Fragment, Spread, met};
use crate::common::rounds::rounds;
use crate::common::socket::{Buffer, Socket, crowd, publish};
use crate::common::{Broker, PATIENT, folder, from_env, quantile, raise_open_files};

/// Bytes of the body of each record.
const BODY_BYTES: usize = 256;
/// Readers that keep up, and quiet sessions.
const HEALTHY: usize = 100;
/// Between two records: 200 a second.
const EVERY: Duration = Duration::from_millis(5);
/// What those who stop reading have to catch up with: more than the buffers on the way hold.
const BACKLOG: u64 = 32;
const BACKLOG_BYTES: usize = 256 << 10;
/// Publishes of the flood under way: it is as fast as the broker answers.
const FLOOD_IN_FLIGHT: usize = 64;
const GOAL: f64 = 1.2;

/// Records sent at an interval, and when each came to whom it was for, in milliseconds, sorted.
async fn measure(
    publisher: &mut Socket,
    readers: Vec<Socket>,
    records: usize,
    sessions: usize,
    message: impl Fn(usize) -> Vec<u8>,
) -> (Vec<f64>, Vec<Socket>) {
    let messages: Vec<Vec<u8>> = (0..sessions).map(message).collect();
    let expected = records / sessions;
    let mut reading = JoinSet::new();
    for (number, mut reader) in readers.into_iter().enumerate() {
        reading.spawn(async move {
            let mut came = Vec::with_capacity(expected);
            let mut first = None;
            while came.len() < expected {
                let (offsets, now) = (reader.reader.delivered().await, Instant::now());
                let first = *first.get_or_insert(offsets.start);
                came.resize((offsets.end - first) as usize, now);
            }
            (number, came, reader)
        });
    }
    let mut sent = Vec::with_capacity(records);
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for record in 0..records {
        every.tick().await;
        sent.push(Instant::now());
        publisher.publish(&messages[record % sessions]).await;
    }
    let (mut late, mut readers) = (Vec::new(), Vec::new());
    for (number, came, reader) in reading.join_all().await {
        readers.push((number, reader));
        for (index, came) in came.into_iter().enumerate() {
            let sent = sent[index * sessions + number % sessions];
            late.push(came.duration_since(sent).as_secs_f64() * 1e3);
        }
    }
    // Who reads which session is told by its place.
    readers.sort_by_key(|(number, _)| *number);
    late.sort_by(f64::total_cmp);
    (late, readers.into_iter().map(|(_, reader)| reader).collect())
}

/// One session that many read: with those who stopped, or without.
struct Shared {
    broker: Broker,
    publisher: Socket,
    healthy: Vec<Socket>,
    _stalled: Vec<Socket>,
}

impl Shared {
    async fn open(data: &std::path::Path, stalled: usize) -> Self {
        let broker = Broker::start(data, &[PATIENT]);
        let address = broker.address;
        let mut publisher = Socket::open(address).await;
        let backlog = publish(0, "shared", 1, BACKLOG_BYTES);
        for _ in 0..BACKLOG {
            publisher.publish(&backlog).await;
        }
        let stalled = crowd(stalled, |_| async move {
            let mut socket = Socket::open_with(address, Buffer::Small).await;
            socket.subscribe_and_stall("shared", From::Start(true)).await;
            socket
        })
        .await;
        let healthy = crowd(HEALTHY, |_| async move {
            let mut socket = Socket::open(address).await;
            socket.subscribe(1, "shared", From::End(true)).await;
            socket
        })
        .await;
        Self { broker, publisher, healthy, _stalled: stalled }
    }

    async fn measure(&mut self, records: usize) -> Vec<f64> {
        let readers = std::mem::take(&mut self.healthy);
        let message = |_| publish(0, "shared", 1, BODY_BYTES);
        let (late, readers) = measure(&mut self.publisher, readers, records, 1, message).await;
        self.healthy = readers;
        late
    }
}

/// Publishes to one session until it is told to stop, and tells how much.
fn flood(address: SocketAddr, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    tokio::spawn(async move {
        let mut socket = Socket::open(address).await;
        let messages = vec![publish(0, "flood", 1, BODY_BYTES); FLOOD_IN_FLIGHT];
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            socket.publish_all(&messages, FLOOD_IN_FLIGHT).await;
            count += messages.len() as u64;
        }
        count
    })
}

/// What a pair of measurements gave.
#[derive(Default)]
struct Pairs {
    alone: Vec<f64>,
    beside: Vec<f64>,
    ratios: Vec<f64>,
}

impl Pairs {
    fn add(&mut self, alone: &[f64], beside: &[f64]) {
        let (alone, beside) = (quantile(alone, 0.99), quantile(beside, 0.99));
        println!("alone p99 {alone:.2} ms, beside p99 {beside:.2} ms");
        self.alone.push(alone);
        self.beside.push(beside);
        self.ratios.push(beside / alone);
    }

    fn tell(self, told: &mut Fragment, what: &str, goal: Option<f64>) {
        let ratio = Spread::of(self.ratios);
        told.row(&[
            what,
            &Spread::of(self.alone).text(2),
            &Spread::of(self.beside).text(2),
            &ratio.text(2),
            &goal.map_or_else(String::new, |goal| format!("≤ {goal}")),
            goal.map_or("", |goal| met(ratio.median <= goal)),
        ]);
    }
}

async fn stalled(told: &mut Fragment, records: usize) {
    let count = from_env("LONGWIRE_BENCH_STALLED", 1000) as usize;
    let folder = folder();
    let mut alone = Shared::open(&folder.path().join("alone"), 0).await;
    let mut beside = Shared::open(&folder.path().join("beside"), count).await;
    let mut pairs = Pairs::default();
    let (began, cpu) = (Instant::now(), beside.broker.cpu_seconds());
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!(
        "with {count} that stopped reading and nothing published: {:.1} % of a processor",
        (beside.broker.cpu_seconds() - cpu) * 100.0 / began.elapsed().as_secs_f64()
    );
    for round in 0..rounds() {
        // Each round begins with another one.
        let (first, second) =
            if round % 2 == 0 { (&mut alone, &mut beside) } else { (&mut beside, &mut alone) };
        let (one, other) = (first.measure(records).await, second.measure(records).await);
        let (one, other) = if round % 2 == 0 { (one, other) } else { (other, one) };
        pairs.add(&one, &other);
    }
    let what = format!("{HEALTHY} readers beside {count} of their session that stopped reading");
    pairs.tell(told, &what, Some(GOAL));
}

async fn flooded(told: &mut Fragment, records: usize) {
    let folder = folder();
    let broker = Broker::start(&folder.path().join("data"), &[PATIENT]);
    let other = Broker::start(&folder.path().join("other"), &[PATIENT]);
    let address = broker.address;
    let session = |number: usize| format!("quiet/{number}");
    let mut publisher = Socket::open(address).await;
    let mut readers = crowd(HEALTHY, |number| async move {
        let mut socket = Socket::open(address).await;
        socket.subscribe(1, &session(number), From::Start(true)).await;
        socket
    })
    .await;
    let (mut here, mut elsewhere) = (Pairs::default(), Pairs::default());
    let mut rates = Vec::new();
    for _ in 0..rounds() {
        let mut late = Vec::new();
        for flooded in [None, Some(&broker), Some(&other)] {
            let stop = Arc::new(AtomicBool::new(false));
            let flooding = flooded.map(|broker| flood(broker.address, Arc::clone(&stop)));
            let began = Instant::now();
            let message = |number: usize| publish(0, &session(number), 1, BODY_BYTES);
            let measured;
            (measured, readers) = measure(&mut publisher, readers, records, HEALTHY, message).await;
            late.push(measured);
            stop.store(true, Ordering::Relaxed);
            if let Some(flooding) = flooding {
                let rate = flooding.await.unwrap() as f64 / began.elapsed().as_secs_f64();
                println!("the flood has {rate:.0} records a second");
                if flooded.is_some_and(|flooded| flooded.address == address) {
                    rates.push(rate);
                }
            }
        }
        here.add(&late[0], &late[1]);
        elsewhere.add(&late[0], &late[2]);
    }
    let what =
        format!("{HEALTHY} quiet sessions beside one with {} records a second", Spread::of(rates).text(0));
    here.tell(told, &what, Some(GOAL));
    elsewhere.tell(told, "the same while another broker on the machine is flooded", None);
}

#[tokio::main]
async fn main() {
    raise_open_files();
    let records = from_env("LONGWIRE_BENCH_RECORDS", 1000) as usize;
    let mut told = Fragment::new("beside");
    told.head(&["what", "p99 alone, ms", "p99 beside, ms", "ratio of the pairs", "goal", "met"]);
    let rows = std::env::var("LONGWIRE_BENCH_ROWS").unwrap_or_else(|_| "stalled,flooded".into());
    if rows.contains("stalled") {
        stalled(&mut told, records).await;
    }
    if rows.contains("flooded") {
        flooded(&mut told, records).await;
    }
    told.finish();
}
