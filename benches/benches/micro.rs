//! The parts of the core path, each alone: a step of the core, the codec, the journal, settling, and reading a chunk.
//!
//! `cargo bench -p longwire-benches --bench micro`; a part of a name after `--` leaves the others out.
#![allow(clippy::unwrap_used)]

mod common;

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BatchSize, Criterion};
use futures_util::future::try_join_all;
use longwire_broker::store::local::group::{Append, GroupWriter, Seal};
use longwire_broker::store::local::record::seal as seal_stored;
use longwire_broker::store::local::{LocalConfig, LocalStore};
use longwire_broker::store::{Batch, BatchId, LogId, Opened, ReadLimit, Reservation, Store, Term, Version};
use longwire_proto::codec::{DeliveryBody, Encoding, decode_client, encode_client, encode_server};
use longwire_proto::record::{Sender, Stamp, check, seal};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use prost::Message;
use tokio::runtime::Runtime;

use crate::common::core_step::CoreStep;
use crate::common::folder;
use crate::common::fragment::Fragment;
use crate::common::record;

/// Bytes of the body of each record.
const BODY_BYTES: usize = 256;
/// Records that are made durable together, each of another session.
const GROUPS: [usize; 3] = [1, 64, 1000];
/// Records of a chunk that a reader catches up with.
const CHUNK: usize = 1000;
/// Records of the log that it is of.
const LOG: usize = 100_000;
/// Each is measured this long; the disk's speed drifts by more than a longer time would tell.
const MEASURED: Duration = Duration::from_secs(2);
const SAMPLES: usize = 20;

fn own() -> Bytes {
    Bytes::from(record(BODY_BYTES).encode_to_vec())
}

fn stamp() -> Stamp {
    let sender = Sender { principal: "anonymous".into(), ..Sender::default() };
    Stamp { time_ms: 1_700_000_000_000, sender, producer: None }
}

fn stored() -> Bytes {
    seal(&stamp(), &[own()]).remove(0)
}

fn core(criterion: &mut Criterion) {
    let mut step = CoreStep::new();
    criterion.bench_function("core/step", |bencher| bencher.iter(|| step.publish()));
}

fn codec(criterion: &mut Criterion) {
    let publish = wire::Publish {
        request: 7,
        session: "acme/agents/a-1/log".into(),
        records: vec![record(BODY_BYTES)],
        ..Default::default()
    };
    let frame = encode_client(Encoding::Proto, ClientFrame::Publish(publish));
    let (own, stamp, stored) = (own(), stamp(), stored());
    let records = [own.clone()];
    criterion.bench_function("codec/decode a publish", |bencher| {
        bencher.iter(|| decode_client(Encoding::Proto, black_box(frame.clone())).unwrap());
    });
    criterion
        .bench_function("codec/check a record", |bencher| bencher.iter(|| check(black_box(&own)).unwrap()));
    criterion
        .bench_function("codec/seal a record", |bencher| bencher.iter(|| seal(&stamp, black_box(&records))));
    let published =
        wire::Published { request: 7, epoch: 1, from: 1_000_000, next: 1_000_001, duplicate: false };
    criterion.bench_function("codec/encode an answer", |bencher| {
        bencher.iter(|| encode_server(Encoding::Proto, ServerFrame::Published(black_box(published))));
    });
    let records = vec![stored; CHUNK];
    for count in [1, CHUNK] {
        criterion.bench_function(&format!("codec/build a delivery of {count}"), |bencher| {
            bencher.iter(|| {
                DeliveryBody::new(Encoding::Proto, 1, 1_000_000, black_box(&records[..count])).unwrap()
            });
        });
    }
    let body = DeliveryBody::new(Encoding::Proto, 1, 1_000_000, &records[..1]).unwrap();
    criterion.bench_function("codec/frame a delivery of 1 for a subscriber", |bencher| {
        bencher.iter(|| black_box(&body).frame(7, None));
    });
}

fn encode(criterion: &mut Criterion) {
    for count in GROUPS {
        let append = |log: usize| Append {
            log: LogId(log as u64),
            term: Term(1),
            version: Version(1),
            batch: BatchId(1),
            base: 7,
            last_time_ms: 1_700_000_000_000,
            records: seal_stored(LogId(log as u64), 7, vec![stored()]),
            projection: None,
            erase: Vec::new(),
        };
        let appends: Vec<Append> = (0..count).map(append).collect();
        let mut writer = GroupWriter::default();
        criterion.bench_function(&format!("journal/encode a group of {count}"), |bencher| {
            bencher.iter(|| {
                writer.clear();
                appends.iter().for_each(|append| writer.append(append));
                writer.seal(Seal { salt: 1, segment: 1, commit: 1, durable: 0 }).len()
            });
        });
    }
}

struct Session {
    opened: Opened,
    version: Version,
    end: u64,
}

/// A store with sessions that are open.
struct Opening {
    runtime: Runtime,
    store: LocalStore,
    sessions: Vec<Session>,
    record: Bytes,
}

impl Opening {
    fn new(folder: &Path, sessions: usize) -> Self {
        let runtime = Runtime::new().unwrap();
        let store = LocalStore::open(LocalConfig::new(folder)).unwrap();
        let open = |number: usize| {
            let opened = runtime.block_on(store.open(&format!("micro/{number}").parse().unwrap())).unwrap();
            Session { version: opened.version, end: opened.end, opened }
        };
        let sessions = (0..sessions).map(open).collect();
        Self { runtime, store, sessions, record: stored() }
    }

    /// Makes so many records durable in each of the first sessions, as one group.
    fn append(&mut self, sessions: usize, records: usize) {
        let Self { runtime, store, sessions: open, record } = self;
        let appends = open[..sessions].iter_mut().map(async |session| {
            let bytes = records * record.len();
            let reservation: Reservation = store.reserve(session.opened.log, bytes).await?;
            let batch = Batch {
                id: BatchId(u128::from(session.end)),
                base: session.end,
                last_time_ms: 0,
                records: vec![record.clone(); records],
                projection: None,
                origin: None,
                erase: Vec::new(),
                reservation,
            };
            let Opened { log, term, .. } = session.opened;
            session.version = store.append(log, term, session.version, batch).await?;
            session.end += records as u64;
            Ok::<(), longwire_broker::store::StoreError>(())
        });
        runtime.block_on(try_join_all(appends)).unwrap();
    }

    fn settle(&self) {
        self.runtime.block_on(self.store.settle()).unwrap();
    }
}

fn journal(criterion: &mut Criterion) {
    let folder = folder();
    let mut opening = Opening::new(folder.path(), GROUPS[GROUPS.len() - 1]);
    for count in GROUPS {
        criterion.bench_function(&format!("journal/make a group of {count} durable"), |bencher| {
            bencher.iter(|| opening.append(count, 1));
        });
    }
}

fn settle(criterion: &mut Criterion) {
    let folder = folder();
    let mut opening = Opening::new(folder.path(), GROUPS[GROUPS.len() - 1]);
    for count in GROUPS {
        // The appends before are not measured, and the store settles by itself only what has waited for a second.
        criterion.bench_function(&format!("settle/{count} sessions, a record each"), |bencher| {
            bencher.iter_custom(|times| {
                let mut taken = Duration::ZERO;
                for _ in 0..times {
                    opening.append(count, 1);
                    let began = Instant::now();
                    opening.settle();
                    taken += began.elapsed();
                }
                taken
            });
        });
    }
}

fn read(criterion: &mut Criterion) {
    let folder = folder();
    let mut opening = Opening::new(folder.path(), 1);
    for _ in 0..LOG / CHUNK {
        opening.append(1, CHUNK);
    }
    opening.settle();
    let log = opening.sessions[0].opened.log;
    let limit = ReadLimit { records: CHUNK, bytes: usize::MAX };
    let mut from = 0;
    criterion.bench_function(&format!("read/a chunk of {CHUNK} that is settled"), |bencher| {
        bencher.iter_batched(
            || {
                from = (from + 7 * CHUNK as u64) % (LOG - CHUNK) as u64;
                from
            },
            |from| opening.runtime.block_on(opening.store.read(log, from, limit)).unwrap().records.len(),
            BatchSize::SmallInput,
        );
    });
}

/// What criterion has found, by the names that were given.
fn tell(target: &Path) {
    let mut told = Fragment::new("micro");
    told.head(&["part", "median", "95 % confidence"]);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(target).unwrap().flatten() {
        let new = entry.path().join("new");
        let read = |file: &str| {
            let text = std::fs::read_to_string(new.join(file)).ok()?;
            serde_json::from_str::<serde_json::Value>(&text).ok()
        };
        let (Some(name), Some(estimates)) = (read("benchmark.json"), read("estimates.json")) else {
            continue;
        };
        let median = &estimates["median"];
        let nanos = |value: &serde_json::Value| value.as_f64().unwrap();
        let interval = &median["confidence_interval"];
        found.push((
            name["full_id"].as_str().unwrap().to_owned(),
            nanos(&median["point_estimate"]),
            nanos(&interval["lower_bound"]),
            nanos(&interval["upper_bound"]),
        ));
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    for (name, median, low, high) in found {
        told.row(&[&name, &time(median), &format!("{} to {}", time(low), time(high))]);
    }
    told.finish();
}

fn time(nanos: f64) -> String {
    match nanos {
        ..1e3 => format!("{nanos:.0} ns"),
        ..1e6 => format!("{:.2} µs", nanos / 1e3),
        _ => format!("{:.2} ms", nanos / 1e6),
    }
}

fn main() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("criterion");
    let mut criterion = Criterion::default()
        .sample_size(SAMPLES)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(MEASURED)
        .output_directory(&target)
        .configure_from_args();
    for part in [core, codec, encode, journal, settle, read] {
        part(&mut criterion);
    }
    criterion.final_summary();
    tell(&target);
}
