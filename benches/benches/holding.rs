//! What a broker holds in memory and on disk, and how soon it is there: idle connections, many sessions, and its start.
//! `LONGWIRE_BENCH_CONNECTIONS` (5,000), `LONGWIRE_BENCH_SESSIONS` (100,000), `LONGWIRE_BENCH_MEBIBYTES` (1,024),
//! `LONGWIRE_BENCH_ROUNDS` (5); `LONGWIRE_BENCH_ROWS` (`idle,sessions,start`) leaves some out, and so does `LONGWIRE_BENCH_CREATORS`
//! (1 or 16 connections). The release binary must be there: `cargo build --release`.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use longwire_proto::wire::from::From;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::common::fragment::{Fragment, Spread, met};
use crate::common::killed::{SESSION, load_and_kill};
use crate::common::process::disk_bytes;
use crate::common::rounds::rounds;
use crate::common::socket::{Socket, crowd, publish};
use crate::common::{Broker, PATIENT, folder, from_env, raise_open_files};

/// Bytes of the body of each record.
const BODY_BYTES: usize = 256;
/// Records that each idle connection has received before.
const TRAFFIC: usize = 100;
/// Until what was busy is idle: allocators and buffers that are given back are, by then.
const QUIET: Duration = Duration::from_secs(3);
/// Connections that sessions are created over.
const CREATORS: [usize; 2] = [1, 16];
/// Of the answers to publishes, as many may be under way on a connection as the protocol has.
const IN_FLIGHT: usize = longwire_proto::limits::REQUESTS_MAX;
/// Starts of an empty broker in each round: each is short.
const FRESH_STARTS: usize = 5;
/// Between a start and the next kill.
const MEBIBYTES_PER_ROUND: u64 = 16;
/// A folder is settled when its size has not changed for so long: what settles is written within a second, and spare segments that are
/// needed no more go at the second look, which comes two seconds after the first.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

const IDLE_GOAL_BYTES: f64 = 8192.0;
const SESSIONS_GOAL_MS: f64 = 1000.0;
const SESSIONS_GOAL_RSS_MIB: f64 = 64.0;
const SESSIONS_GOAL_DISK_MB: f64 = 128.0;
const FRESH_GOAL_MS: f64 = 10.0;
const KILLED_GOAL_MS: f64 = 1000.0;

const MIB: f64 = (1 << 20) as f64;
const MB: f64 = 1e6;

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Bytes of memory that each of the connections costs once they are idle, all on one session or on one each.
async fn idle(connections: usize, own_sessions: bool) -> f64 {
    let folder = folder();
    let broker = Broker::start(&folder.path().join("data"), &[PATIENT]);
    let address = broker.address;
    let session = move |number: usize| format!("idle/{}", if own_sessions { number } else { 0 });
    let mut publisher = Socket::open(address).await;
    publisher.publish(&publish(0, "first", 1, BODY_BYTES)).await;
    sleep(QUIET).await;
    let before = broker.rss_bytes();
    let sockets = crowd(connections, |number| async move {
        let mut socket = Socket::open(address).await;
        socket.subscribe(1, &session(number), From::Start(true)).await;
        socket
    })
    .await;
    let mut reading = JoinSet::new();
    for mut socket in sockets {
        reading.spawn(async move {
            socket.reader.read_to(TRAFFIC as u64).await;
            socket
        });
    }
    let sessions = if own_sessions { connections } else { 1 };
    let messages: Vec<Vec<u8>> =
        (0..sessions).map(|number| publish(0, &session(number), 1, BODY_BYTES)).collect();
    for _ in 0..TRAFFIC {
        publisher.publish_all(&messages, IN_FLIGHT).await;
    }
    let sockets = reading.join_all().await;
    sleep(QUIET).await;
    let after = broker.rss_bytes();
    drop(sockets);
    (after - before) as f64 / connections as f64
}

struct Created {
    ms: f64,
    cpu_us: f64,
    rss_mib: f64,
    peak_mib: f64,
    running_mb: f64,
    stopped_mb: f64,
}

/// Waits until a folder has settled, and tells what it takes.
async fn settled_mb(folder: &Path) -> f64 {
    let (mut bytes, mut since) = (disk_bytes(folder), Instant::now());
    while since.elapsed() < SETTLED_AFTER {
        sleep(SETTLED_AFTER / 20).await;
        let now = disk_bytes(folder);
        if now != bytes {
            (bytes, since) = (now, Instant::now());
        }
    }
    bytes as f64 / MB
}

/// Creates sessions with a record each over some connections.
async fn create(sessions: usize, connections: usize) -> Created {
    let folder = folder();
    let data = folder.path().join("data");
    let broker = Broker::start(&data, &[]);
    let mut sockets = crowd(connections, |_| Socket::open(broker.address)).await;
    // As many as there are at a time: a session more, and the first must have left memory.
    sockets[0].publish(&publish(0, "many/sessions/0", 1, BODY_BYTES)).await;
    let messages: Vec<Vec<Vec<u8>>> = (0..connections)
        .map(|first| {
            (first..sessions)
                .step_by(connections)
                .map(|number| publish(number as u64, &format!("many/sessions/{number}"), 1, BODY_BYTES))
                .collect()
        })
        .collect();
    sleep(QUIET).await;
    let before = broker.rss_bytes() as f64;
    let cpu_before = broker.cpu_seconds();
    let began = Instant::now();
    let publishing: JoinSet<()> = sockets
        .into_iter()
        .zip(messages)
        .map(|(mut socket, messages)| async move { socket.publish_all(&messages, IN_FLIGHT).await })
        .collect();
    publishing.join_all().await;
    let ms = millis(began);
    let peak = broker.memory_bytes("VmHWM") as f64;
    let running_mb = settled_mb(&data).await;
    let rss = broker.rss_bytes() as f64;
    let cpu_us = (broker.cpu_seconds() - cpu_before) * 1e6 / sessions as f64;
    broker.terminate();
    let stopped_mb = disk_bytes(&data) as f64 / MB;
    Created {
        ms,
        cpu_us,
        rss_mib: (rss - before) / MIB,
        peak_mib: (peak - before) / MIB,
        running_mb,
        stopped_mb,
    }
}

/// From the start of the process to the answer to its first publish, in milliseconds.
async fn start(data: &Path, session: &str) -> (Broker, f64) {
    let message = publish(1, session, 1, BODY_BYTES);
    let began = Instant::now();
    let broker = Broker::start(data, &[]);
    let mut socket = Socket::open(broker.address).await;
    socket.publish(&message).await;
    let took = millis(began);
    (broker, took)
}

async fn idle_rows(told: &mut Fragment) {
    let connections = from_env("LONGWIRE_BENCH_CONNECTIONS", 5000) as usize;
    for own_sessions in [false, true] {
        let mut values = Vec::new();
        for _ in 0..rounds().min(3) {
            values.push(idle(connections, own_sessions).await);
        }
        let spread = Spread::of(values);
        let (whose, goal) = if own_sessions {
            ("on a session each, which is live", "")
        } else {
            ("on one session", "≤ 8 KiB")
        };
        told.row(&[
            &format!(
                "{connections} idle WebSocket subscriptions {whose}, after {TRAFFIC} records: memory each"
            ),
            &format!(
                "{} KiB",
                Spread::of(vec![spread.low / 1024.0, spread.median / 1024.0, spread.high / 1024.0]).text(1)
            ),
            goal,
            if own_sessions { "" } else { met(spread.median <= IDLE_GOAL_BYTES) },
        ]);
    }
}

async fn session_rows(told: &mut Fragment) {
    let sessions = from_env("LONGWIRE_BENCH_SESSIONS", 100_000) as usize;
    let only = from_env("LONGWIRE_BENCH_CREATORS", 0) as usize;
    for connections in CREATORS.into_iter().filter(|connections| only == 0 || only == *connections) {
        let mut created = Vec::new();
        for _ in 0..rounds() {
            created.push(create(sessions, connections).await);
        }
        let spread = |value: fn(&Created) -> f64| Spread::of(created.iter().map(value).collect());
        let what =
            format!("{sessions} sessions created with a record each, pipelined, connections: {connections}");
        let ms = spread(|created| created.ms);
        told.row(&[&what, &format!("{} ms", ms.text(0)), "≤ 1 s", met(ms.median <= SESSIONS_GOAL_MS)]);
        let cpu_us = spread(|created| created.cpu_us);
        told.row(&[
            "of that: processor time of the broker for each, until all is settled",
            &format!("{} µs", cpu_us.text(1)),
            "",
            "",
        ]);
        let rss = spread(|created| created.rss_mib);
        let peak = spread(|created| created.peak_mib);
        told.row(&[
            "of that: growth of memory, once settled; at its peak",
            &format!("{} MiB; {} MiB", rss.text(0), peak.text(0)),
            "≤ 64 MiB",
            met(rss.median <= SESSIONS_GOAL_RSS_MIB),
        ]);
        let (running, stopped) = (spread(|created| created.running_mb), spread(|created| created.stopped_mb));
        told.row(&[
            "of that: on disk once settled, everything counted; after a stop",
            &format!("{} MB; {} MB", running.text(0), stopped.text(0)),
            "≤ 128 MB",
            met(running.median <= SESSIONS_GOAL_DISK_MB),
        ]);
    }
}

async fn start_rows(told: &mut Fragment) {
    let mut fresh = Vec::new();
    for _ in 0..rounds() as usize * FRESH_STARTS {
        let folder = folder();
        fresh.push(start(&folder.path().join("data"), "first").await.1);
    }
    let spread = Spread::of(fresh);
    told.row(&[
        "start to the first acknowledged publish, in a fresh folder",
        &format!("{} ms", spread.text(1)),
        "≤ 10 ms",
        met(spread.median <= FRESH_GOAL_MS),
    ]);
    let mebibytes = from_env("LONGWIRE_BENCH_MEBIBYTES", 1024);
    let folder = folder();
    let data = folder.path().join("data");
    load_and_kill(Broker::start(&data, &[]), mebibytes).await;
    let mut killed = Vec::new();
    for _ in 0..rounds() {
        let (broker, took) = start(&data, SESSION).await;
        killed.push(took);
        load_and_kill(broker, MEBIBYTES_PER_ROUND).await;
    }
    let spread = Spread::of(killed);
    told.row(&[
        &format!("the same after kill -9 while being published to, with {mebibytes} MiB"),
        &format!("{} ms", spread.text(0)),
        "≤ 1 s",
        met(spread.median <= KILLED_GOAL_MS),
    ]);
}

#[tokio::main]
async fn main() {
    raise_open_files();
    let rows = std::env::var("LONGWIRE_BENCH_ROWS").unwrap_or_else(|_| "idle,sessions,start".into());
    let wanted = |row: &str| rows.split(',').any(|name| name == row);
    let mut told = Fragment::new("holding");
    told.head(&["what", "median (range)", "goal", "met"]);
    if wanted("idle") {
        idle_rows(&mut told).await;
    }
    if wanted("sessions") {
        session_rows(&mut told).await;
    }
    if wanted("start") {
        start_rows(&mut told).await;
    }
    told.finish();
}
