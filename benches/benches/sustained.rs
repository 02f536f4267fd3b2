//! A broker at 70 % of what it takes at most, for a long time, with sessions that keep their last megabytes: whether delays grow,
//! whether memory and disk stay as they are, and what is written to the disk for each byte published.
//! `LONGWIRE_BENCH_SECONDS` (600) of it, after a few seconds that find out what the most is: 64 connections with 16 publishes under
//! way each. Beside it somebody else appends to a file of their own and makes that durable, now and then: what the disk did to everybody
//! is told apart from what the broker did. The release binary must be there: `cargo build --release`.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use crate::common::fragment::{Fragment, met};
use crate::common::process::{disk_bytes, disk_written_bytes};
use crate::common::socket::{Socket, crowd, message, publish};
use crate::common::{Broker, folder, from_env, quantile, raise_open_files};

/// Bytes of the body of each record.
const BODY_BYTES: usize = 256;
const CONNECTIONS: usize = 64;
const IN_FLIGHT: usize = 16;
/// How long the most is measured; as long goes before it, which is not counted.
const CALIBRATION: Duration = Duration::from_secs(5);
/// Of the most that was measured.
const LOAD: f64 = 0.7;
/// What each session keeps.
const RETAINED_BYTES: u64 = 4 << 20;
/// How often a connection sends what is due by then.
const TICK: Duration = Duration::from_millis(5);
/// What is looked at together.
const WINDOW: Duration = Duration::from_secs(10);
/// How often somebody else makes something durable.
const PROBE: Duration = Duration::from_millis(50);
/// Of the windows, the last third beside the first third: more is a drift.
const DRIFT_GOAL: f64 = 1.2;
/// Memory and disk likewise.
const GROWTH_GOAL: f64 = 1.1;

/// Nobody waits so long for a disk that does nothing else.
const SLOW_MS: f64 = 100.0;

const MB: f64 = 1e6;

/// Delays in microseconds, in steps of 3 %.
#[derive(Clone)]
struct Delays(Vec<u32>);

impl Delays {
    const STEPS_PER_DOUBLING: f64 = 24.0;

    fn new() -> Self {
        Self(vec![0; 24 * 32])
    }

    fn add(&mut self, delay: Duration) {
        let micros = delay.as_secs_f64() * 1e6;
        let step = (micros.max(1.0).log2() * Self::STEPS_PER_DOUBLING) as usize;
        let last = self.0.len() - 1;
        self.0[step.min(last)] += 1;
    }

    fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, count)| *sum += count);
    }

    fn millis(&self, part: f64) -> f64 {
        let wanted = (self.0.iter().map(|count| u64::from(*count)).sum::<u64>() as f64 * part) as u64;
        let mut seen = 0;
        let step = self.0.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted
        });
        2f64.powf((step.unwrap_or_default() + 1) as f64 / Self::STEPS_PER_DOUBLING) / 1e3
    }
}

fn session(number: usize) -> String {
    format!("sustained/{number}")
}

async fn open(address: SocketAddr, number: usize) -> Socket {
    let mut socket = Socket::open(address).await;
    let retention = wire::Retention { bytes: Some(RETAINED_BYTES), ..Default::default() };
    let meta = wire::SessionMeta { retention: Some(retention), ..Default::default() };
    let create = wire::CreateSession {
        session: session(number),
        meta: Some(meta),
        update: true,
        ..Default::default()
    };
    socket.write(&message(ClientFrame::CreateSession(create))).await;
    assert!(matches!(socket.reader.frame().await, ServerFrame::SessionDescription(_)));
    socket
}

/// Publishes with so many under way, and tells how many were answered in the second half of the time.
async fn most(address: SocketAddr) -> f64 {
    let sockets = crowd(CONNECTIONS, |number| open(address, number)).await;
    let from = Instant::now() + CALIBRATION;
    let until = from + CALIBRATION;
    let publishing: JoinSet<u64> = sockets
        .into_iter()
        .enumerate()
        .map(|(number, mut socket)| async move {
            let one = publish(0, &session(number), 1, BODY_BYTES);
            socket.write(&one.repeat(IN_FLIGHT)).await;
            let mut count = 0;
            loop {
                socket.reader.published(1).await;
                // What has come meanwhile is answered by one write.
                let more = 1 + socket.reader.published_already();
                let now = Instant::now();
                if now >= until {
                    return count;
                }
                count += if now >= from { more as u64 } else { 0 };
                socket.write(&one.repeat(more)).await;
            }
        })
        .collect();
    publishing.join_all().await.iter().sum::<u64>() as f64 / CALIBRATION.as_secs_f64()
}

/// Publishes at a rate, and tells the delays of each window, counted from when a publish was due.
async fn steady(socket: Socket, number: usize, rate: f64, began: Instant, windows: usize) -> Vec<Delays> {
    let one = publish(0, &session(number), 1, BODY_BYTES);
    let until = began + WINDOW * windows as u32;
    let (due, mut dues) = mpsc::unbounded_channel::<(Instant, u64)>();
    let Socket { mut reader, mut writer } = socket;
    let reading = tokio::spawn(async move {
        let mut delays = vec![Delays::new(); windows];
        while let Some((at, count)) = dues.recv().await {
            for _ in 0..count {
                reader.published(1).await;
                let window = (at.duration_since(began).as_nanos() / WINDOW.as_nanos()) as usize;
                delays[window.min(windows - 1)].add(at.elapsed());
            }
        }
        delays
    });
    // Connections do not all send at the same moment.
    sleep_until((began + TICK * number as u32 / CONNECTIONS as u32).into()).await;
    let mut every = interval(TICK);
    every.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sent = 0;
    let mut ticks = 0u32;
    loop {
        let at = every.tick().await.into_std();
        if at >= until {
            break;
        }
        ticks += 1;
        let count = (rate * TICK.as_secs_f64() * f64::from(ticks)) as u64 - sent;
        sent += count;
        if count > 0 {
            due.send((at, count)).unwrap();
            writer.write_all(&one.repeat(count as usize)).await.unwrap();
        }
    }
    drop(due);
    reading.await.unwrap()
}

/// Appends to a file and makes it durable until the windows are over, and tells the longest that took in each, in milliseconds.
fn probe(folder: &Path, began: Instant, windows: usize) -> Vec<f64> {
    let mut file = File::create(folder.join("probe")).unwrap();
    let mut longest = vec![0.0; windows];
    loop {
        let at = Instant::now();
        let window = (at.saturating_duration_since(began).as_nanos() / WINDOW.as_nanos()) as usize;
        let Some(slowest) = longest.get_mut(window) else { return longest };
        file.write_all(&[0; BODY_BYTES]).unwrap();
        file.sync_data().unwrap();
        *slowest = (at.elapsed().as_secs_f64() * 1e3).max(*slowest);
        std::thread::sleep(PROBE);
    }
}

/// What the system says at the end of a window.
struct Look {
    rss: f64,
    disk: f64,
    cpu: f64,
}

async fn look(broker: &Broker, data: &Path, began: Instant, windows: usize) -> Vec<Look> {
    let mut looks = Vec::new();
    for window in 1..=windows {
        sleep_until((began + WINDOW * window as u32).into()).await;
        looks.push(Look {
            rss: broker.rss_bytes() as f64 / MB,
            disk: disk_bytes(data) as f64 / MB,
            cpu: broker.cpu_seconds(),
        });
    }
    looks
}

/// The median of the last third, beside that of the first.
fn drift(values: &[f64]) -> f64 {
    let third = (values.len() / 3).max(1);
    let median = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        quantile(&values, 0.5)
    };
    median(&values[values.len() - third..]) / median(&values[..third])
}

#[tokio::main]
async fn main() {
    raise_open_files();
    let windows = (from_env("LONGWIRE_BENCH_SECONDS", 600) / WINDOW.as_secs()).max(1) as usize;
    let folder = folder();
    let data = folder.path().join("data");
    let broker = Broker::start(&data, &[]);
    let most = most(broker.address).await;
    let rate = most * LOAD;
    let sockets = crowd(CONNECTIONS, |number| open(broker.address, number)).await;
    let (written, on_disk, cpu) = (broker.written_bytes(), disk_written_bytes(&data), broker.cpu_seconds());
    let began = Instant::now();
    let each = rate / CONNECTIONS as f64;
    let publishing: JoinSet<Vec<Delays>> = sockets
        .into_iter()
        .enumerate()
        .map(|(number, socket)| steady(socket, number, each, began, windows))
        .collect();
    let beside = folder.path().to_owned();
    let probing = tokio::task::spawn_blocking(move || probe(&beside, began, windows));
    let looks = look(&broker, &data, began, windows).await;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = broker.cpu_seconds() - cpu;
    let mut delays = vec![Delays::new(); windows];
    for one in publishing.join_all().await {
        delays.iter_mut().zip(&one).for_each(|(sum, one)| sum.merge(one));
    }
    let published: u64 = delays.iter().flat_map(|delays| &delays.0).map(|count| u64::from(*count)).sum();
    let bodies = (published * BODY_BYTES as u64) as f64;
    let written = (broker.written_bytes() - written) as f64 / bodies;
    let on_disk = (disk_written_bytes(&data) - on_disk) as f64 / bodies;
    let p99: Vec<f64> = delays.iter().map(|delays| delays.millis(0.99)).collect();
    let synced = probing.await.unwrap();
    println!("window, p50 ms, p99 ms, longest sync of somebody else ms, memory MB, disk MB, processor s");
    for (window, ((delays, look), synced)) in delays.iter().zip(&looks).zip(&synced).enumerate() {
        println!(
            "{window}, {:.2}, {:.2}, {synced:.1}, {:.0}, {:.0}, {:.1}",
            delays.millis(0.5),
            delays.millis(0.99),
            look.rss,
            look.disk,
            look.cpu
        );
    }
    let mut sorted = p99.clone();
    sorted.sort_by(f64::total_cmp);
    let rss: Vec<f64> = looks.iter().map(|look| look.rss).collect();
    let disk: Vec<f64> = looks.iter().map(|look| look.disk).collect();
    let (p99_drift, rss_drift, disk_drift) = (drift(&p99), drift(&rss), drift(&disk));
    let range = |values: &[f64]| {
        let least = values.iter().copied().fold(f64::MAX, f64::min);
        let largest = values.iter().copied().fold(0.0, f64::max);
        format!("{least:.0} to {largest:.0}")
    };
    let mut told = Fragment::new("sustained");
    told.head(&["what", "result", "goal", "met"]);
    let ran = windows as u64 * WINDOW.as_secs();
    told.row(&[
        &format!(
            "{CONNECTIONS} connections × {IN_FLIGHT} under way, sessions that keep {} MiB: records a second",
            RETAINED_BYTES >> 20
        ),
        &format!("{most:.0}"),
        "",
        "",
    ]);
    let kept_up = published as f64 / seconds / rate;
    told.row(&[
        &format!("records a second at {:.0} % of it, for {ran} s; of those that were due", LOAD * 100.0),
        &format!("{:.0}; {:.1} %", published as f64 / seconds, kept_up * 100.0),
        "all",
        met(kept_up > 0.99),
    ]);
    told.row(&[
        "p99 of the answer, in windows of 10 s: median, smallest and largest",
        &format!("{:.1} ms ({:.1} to {:.1})", quantile(&sorted, 0.5), sorted[0], sorted[sorted.len() - 1]),
        "",
        "",
    ]);
    let mut sorted = synced.clone();
    sorted.sort_by(f64::total_cmp);
    told.row(&[
        "the longest append and fdatasync of somebody else to a file of their own, in the same windows",
        &format!("{:.1} ms ({:.1} to {:.1})", quantile(&sorted, 0.5), sorted[0], sorted[sorted.len() - 1]),
        "",
        "",
    ]);
    let slow = |limit: f64| {
        let slow = |values: &[f64]| values.iter().filter(|value| **value > limit).count();
        let both = p99.iter().zip(&synced).filter(|(p99, synced)| **p99 > limit && **synced > limit).count();
        format!("{}; {}; {both}", slow(&p99), slow(&synced))
    };
    told.row(&[
        &format!("windows in which more than {SLOW_MS:.0} ms were the p99; the longest such sync; both"),
        &slow(SLOW_MS),
        "",
        "",
    ]);
    told.row(&[
        "p99 of the last third beside the first third",
        &format!("{p99_drift:.2}"),
        "no drift: ≤ 1.2",
        met(p99_drift <= DRIFT_GOAL),
    ]);
    for (what, values, drift) in [("memory", &rss, rss_drift), ("disk", &disk, disk_drift)] {
        told.row(&[
            &format!("{what}: from and to; the last third beside the first third"),
            &format!("{} MB; {drift:.2}", range(values)),
            "flat: ≤ 1.1",
            met(drift <= GROWTH_GOAL),
        ]);
    }
    told.row(&[
        "bytes written for each byte of bodies: by the broker to files; on the disk, by everybody",
        &format!("{written:.2}; {on_disk:.2}"),
        "",
        "",
    ]);
    told.row(&[
        "processor time of the broker a record",
        &format!("{:.2} µs", cpu * 1e6 / published as f64),
        "",
        "",
    ]);
    told.finish();
}
