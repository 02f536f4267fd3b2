//! How what things cost grows with their size: sessions, subscribers, bytes of a record, records of a log. Writes docs/growth.svg.
//!
//! The largest sizes: `LONGWIRE_BENCH_SESSIONS` (1,000,000), `LONGWIRE_BENCH_SUBSCRIBERS` (10,000), `LONGWIRE_BENCH_RECORD_BYTES`
//! (1 MiB), `LONGWIRE_BENCH_LOG` (10,000,000); `LONGWIRE_BENCH_ROWS` (`sessions,subscribers,bytes,log`) leaves some out, and then no
//! chart is written. The release binary must be there: `cargo build --release`.
#![allow(clippy::unwrap_used)]

#[path = "growth/chart.rs"]
mod chart;
mod common;

use std::path::Path;
use std::time::Instant;

use longwire_proto::limits::RECORD_BYTES_MAX;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use longwire_proto::wire::{self, read};
use tokio::task::JoinSet;

use crate::chart::{Chart, Line, svg};
use crate::common::fragment::Fragment;
use crate::common::socket::{Socket, crowd, message, publish};
use crate::common::{Broker, PATIENT, folder, from_env, raise_open_files};

/// Bytes of the body of each record, where that is not what grows.
const BODY_BYTES: usize = 256;
/// Publishes under way, where there are many.
const IN_FLIGHT: usize = 64;
/// Publishes that a point is of; few of large records.
const PUBLISHES: usize = 20_000;
/// Bytes that a point is of, where fewer publishes have as many.
const POINT_BYTES: usize = 256 << 20;
/// Deliveries that a point is of, and the fewest and most records for them.
const DELIVERIES: usize = 200_000;
const DELIVERED: (usize, usize) = (40, 4000);
/// Records of a publish that fills a log.
const BATCH: usize = 1000;
/// Reads that a point is of.
const READS: usize = 300;
/// What a record has besides its body, at most.
const RECORD_OVERHEAD: usize = 64;

/// Wall time and the broker's processor time.
#[derive(Clone, Copy)]
struct Cost {
    wall_us: f64,
    cpu_us: f64,
}

/// What each of so many costs.
async fn cost(broker: &Broker, count: usize, work: impl Future<Output = ()>) -> Cost {
    let (began, cpu) = (Instant::now(), broker.cpu_seconds());
    work.await;
    let micros = 1e6 / count as f64;
    Cost {
        wall_us: began.elapsed().as_secs_f64() * micros,
        // A clock that ticks a hundred times a second has not seen less than this.
        cpu_us: (broker.cpu_seconds() - cpu).max(0.005) * micros,
    }
}

/// A size after the other, up to the largest.
fn sizes(first: u64, factor: u64, name: &str, default: u64) -> impl Iterator<Item = usize> {
    let last = from_env(name, default);
    std::iter::successors(Some(first), move |size| Some(size * factor))
        .take_while(move |size| *size <= last)
        .map(|size| size as usize)
}

/// splitmix64: any order will do, as long as it is the same one every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}

fn line(name: &str, points: impl Iterator<Item = (f64, f64)>) -> Line {
    Line { name: name.to_owned(), points: points.collect() }
}

/// The lines of wall time and of the broker's processor time.
fn lines(what: &str, points: &[(usize, Cost)]) -> Vec<Line> {
    vec![
        line(&format!("{what}: wall"), points.iter().map(|(size, cost)| (*size as f64, cost.wall_us))),
        line("the broker's processor time", points.iter().map(|(size, cost)| (*size as f64, cost.cpu_us))),
    ]
}

fn tell(told: &mut Fragment, what: &str, size: &str, cost: Cost) {
    told.row(&[what, size, &format!("{:.2}", cost.wall_us), &format!("{:.2}", cost.cpu_us)]);
}

/// Publishes to sessions of which there are more and more.
async fn sessions(told: &mut Fragment) -> Chart {
    let folder = folder();
    // More sessions than may be in memory are published to one after the other.
    let broker = Broker::start(&folder.path().join("data"), &[("SESSION_IDLE_MS", "1000")]);
    let mut socket = Socket::open(broker.address).await;
    let session = |number: usize| format!("growth/sessions/{number}");
    let (mut made, mut random, mut points) = (0, Random(1), Vec::new());
    for size in sizes(1, 10, "LONGWIRE_BENCH_SESSIONS", 1_000_000) {
        while made < size {
            let until = size.min(made + PUBLISHES);
            let new: Vec<_> =
                (made..until).map(|number| publish(0, &session(number), 1, BODY_BYTES)).collect();
            socket.publish_all(&new, IN_FLIGHT).await;
            made = until;
        }
        let messages: Vec<_> =
            (0..PUBLISHES).map(|_| publish(0, &session(random.below(size)), 1, BODY_BYTES)).collect();
        let each = cost(&broker, PUBLISHES, socket.publish_all(&messages, IN_FLIGHT)).await;
        tell(told, "a publish to one of so many sessions", &size.to_string(), each);
        points.push((size, each));
    }
    println!("memory of the broker: {} MiB", broker.rss_bytes() >> 20);
    Chart { title: "Sessions", x: "sessions", y: "µs a publish", lines: lines("64 under way", &points) }
}

/// Deliveries to subscribers of which there are more and more, each record when all have the one before.
async fn subscribers(told: &mut Fragment) -> Chart {
    let folder = folder();
    // Of connections there are 10,000 at most by default, and one publishes.
    let broker = Broker::start(&folder.path().join("data"), &[("CONNECTIONS_MAX", "100000"), PATIENT]);
    let address = broker.address;
    let mut publisher = Socket::open(address).await;
    let one = publish(0, "fan", 1, BODY_BYTES);
    publisher.publish(&one).await;
    let (mut readers, mut end): (Vec<Socket>, u64) = (Vec::new(), 1);
    let (mut singly, mut together) = (Vec::new(), Vec::new());
    for size in sizes(1, 10, "LONGWIRE_BENCH_SUBSCRIBERS", 10_000) {
        readers.extend(
            crowd(size - readers.len(), |_| async move {
                let mut socket = Socket::open(address).await;
                socket.subscribe(1, "fan", From::End(true)).await;
                socket
            })
            .await,
        );
        for (in_flight, points) in [(1, &mut singly), (IN_FLIGHT, &mut together)] {
            let records = (DELIVERIES * in_flight.min(4) / size).clamp(DELIVERED.0, DELIVERED.1 * in_flight);
            let first = end;
            end += records as u64;
            let mut reading = JoinSet::new();
            let (came, mut coming) = tokio::sync::mpsc::unbounded_channel();
            for mut reader in readers.drain(..) {
                let came = came.clone();
                reading.spawn(async move {
                    let mut at = first;
                    while at < end {
                        at = reader.reader.delivered().await.end;
                        if in_flight == 1 {
                            came.send(()).unwrap();
                        }
                    }
                    reader
                });
            }
            let messages = vec![one.clone(); records];
            let mut back = Vec::new();
            let each = cost(&broker, records * size, async {
                if in_flight == 1 {
                    for message in &messages {
                        publisher.publish(message).await;
                        for _ in 0..size {
                            coming.recv().await.unwrap();
                        }
                    }
                } else {
                    publisher.publish_all(&messages, in_flight).await;
                }
                back = reading.join_all().await;
            })
            .await;
            readers = back;
            let what = if in_flight == 1 {
                "a delivery to each of so many, record by record"
            } else {
                "the same, 64 publishes under way"
            };
            tell(told, what, &size.to_string(), each);
            points.push((size, each));
        }
    }
    let mut all = lines("record by record", &singly);
    all.push(line("the same, 64 under way", together.iter().map(|(size, cost)| (*size as f64, cost.cpu_us))));
    Chart { title: "Subscribers", x: "subscribers of a session", y: "µs a delivery", lines: all }
}

/// Publishes of records that are longer and longer.
async fn bytes(told: &mut Fragment) -> Chart {
    let folder = folder();
    let mut points = Vec::new();
    for size in sizes(16, 4, "LONGWIRE_BENCH_RECORD_BYTES", 1 << 20) {
        let broker = Broker::start(&folder.path().join(size.to_string()), &[]);
        let mut socket = Socket::open(broker.address).await;
        let count = PUBLISHES.min(POINT_BYTES / size);
        let bytes = size.min(RECORD_BYTES_MAX - RECORD_OVERHEAD);
        let one = publish(0, "bytes", 1, bytes);
        socket.publish(&one).await;
        let in_flight = IN_FLIGHT.min(POINT_BYTES / 16 / size);
        let mut left = count;
        let each = cost(&broker, count, async {
            // Not all at once in memory.
            while left > 0 {
                let some = left.min(4 * in_flight);
                socket.publish_all(&vec![one.clone(); some], in_flight).await;
                left -= some;
            }
        })
        .await;
        let rate = bytes as f64 / each.wall_us;
        tell(
            told,
            &format!("a publish of a record of so many bytes: {rate:.1} MB/s"),
            &bytes.to_string(),
            each,
        );
        points.push((size, each));
        broker.terminate();
        drop(std::fs::remove_dir_all(folder.path().join(size.to_string())));
    }
    Chart {
        title: "Record",
        x: "bytes of a record",
        y: "µs a publish",
        lines: lines("up to 64 under way", &points),
    }
}

async fn read_middle(socket: &mut Socket, from: u64) {
    let read = wire::Read {
        request: 1,
        session: "log".into(),
        place: Some(read::Place::After(format!("{:016}_{from:016}", 0))),
        limit: BATCH as u32,
        ..Default::default()
    };
    socket.write(&message(ClientFrame::Read(read))).await;
    match socket.reader.frame().await {
        ServerFrame::Page(page) => assert!(!page.records.is_empty()),
        other => panic!("{other:?} came instead of a page"),
    }
}

/// Publishes to a log that is longer and longer, and reads from its middle.
async fn log(told: &mut Fragment) -> Chart {
    let folder = folder();
    let broker = Broker::start(&folder.path().join("data"), &[]);
    let mut socket = Socket::open(broker.address).await;
    let batch = publish(0, "log", BATCH, BODY_BYTES);
    let messages = vec![publish(0, "log", 1, BODY_BYTES); PUBLISHES];
    let (mut end, mut random) = (0, Random(2));
    let (mut publishes, mut reads) = (Vec::new(), Vec::new());
    for size in sizes(1000, 10, "LONGWIRE_BENCH_LOG", 10_000_000) {
        while end < size {
            socket.publish(&batch).await;
            end += BATCH;
        }
        // Within the middle half of the log.
        let froms: Vec<u64> = (0..READS).map(|_| (size / 4 + random.below(size / 2)) as u64).collect();
        let each = cost(&broker, READS, async {
            for from in &froms {
                read_middle(&mut socket, (*from).min((end - BATCH) as u64)).await;
            }
        })
        .await;
        tell(told, "a read of 1,000 from the middle of so many", &size.to_string(), each);
        reads.push((size, each));
        // What is published to measure belongs to the next size.
        let few = &messages[..PUBLISHES.min(size)];
        let each = cost(&broker, few.len(), socket.publish_all(few, IN_FLIGHT)).await;
        end += few.len();
        tell(told, "a publish to a log of so many", &size.to_string(), each);
        publishes.push((size, each));
    }
    let mut all = lines("publish, 64 under way", &publishes);
    all.push(line("read of 1,000: wall", reads.iter().map(|(size, cost)| (*size as f64, cost.wall_us))));
    Chart { title: "Log", x: "records of a log", y: "µs", lines: all }
}

#[tokio::main]
async fn main() {
    raise_open_files();
    let rows = std::env::var("LONGWIRE_BENCH_ROWS").ok();
    let wanted = |row: &str| rows.as_ref().is_none_or(|rows| rows.split(',').any(|name| name == row));
    let mut told = Fragment::new("growth");
    told.head(&["what", "size", "wall, µs", "processor time of the broker, µs"]);
    let mut charts = Vec::new();
    if wanted("sessions") {
        charts.push(sessions(&mut told).await);
    }
    if wanted("subscribers") {
        charts.push(subscribers(&mut told).await);
    }
    if wanted("bytes") {
        charts.push(bytes(&mut told).await);
    }
    if wanted("log") {
        charts.push(log(&mut told).await);
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("growth.svg");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/growth.svg");
    std::fs::write(if rows.is_some() { target } else { docs }, svg(&charts)).unwrap();
    told.finish();
}
