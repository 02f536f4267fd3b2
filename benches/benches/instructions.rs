//! Instructions that the core path takes, beside those that `benches/instructions.toml` has: fails when one of them has grown by
//! more than 5 %. With `--update` it writes them anew. What else the machine does is not in them, so they can be kept.
//!
//! `LONGWIRE_BENCH_ROWS` (`core_step,publish,delivery,catch_up`) leaves some out. `scripts/instructions` runs it. The release binary must be there: `cargo build --release`. So must Debian's `valgrind`.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use longwire_proto::wire::from::From;

use crate::common::callgrind::{Threads, callgrind, instructions};
use crate::common::core_step::CoreStep;
use crate::common::fragment::{Fragment, met};
use crate::common::socket::{Socket, crowd, publish};
use crate::common::{Broker, folder};

/// Bytes of the body of each record.
const BODY_BYTES: usize = 256;
/// More than this is a regression, in percent.
const GROWTH_MAX: f64 = 5.0;
/// Where the counts are kept.
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.toml");
/// Has this process make so many steps of the core instead, for valgrind.
const CORE_STEPS: &str = "--core-steps=";

/// Each count is of the difference between two runs, so what starts and ends a broker is not in it.
struct Lengths {
    short: u64,
    long: u64,
}

const PUBLISHES: Lengths = Lengths { short: 1000, long: 9000 };
const STEPS: Lengths = Lengths { short: 20_000, long: 120_000 };
const CAUGHT_UP: Lengths = Lengths { short: 4000, long: 104_000 };
const DELIVERED: Lengths = Lengths { short: 200, long: 1200 };
const SUBSCRIBERS: Lengths = Lengths { short: 1, long: 21 };
/// Sessions that are published to in turn.
const SESSIONS: u64 = 16;
/// Records of a publish that makes a log.
const BATCH: usize = 1000;

impl Lengths {
    fn difference(&self, count: impl Fn(u64) -> u64) -> f64 {
        (count(self.long) - count(self.short)) as f64 / (self.long - self.short) as f64
    }

    async fn runs(&self, run: impl AsyncFn(u64) -> u64) -> f64 {
        let (short, long) = (run(self.short).await, run(self.long).await);
        self.difference(|length| if length == self.long { long } else { short })
    }
}

/// Instructions of a broker from its start to its end.
async fn of_broker(data: &Path, threads: Threads, load: impl AsyncFnOnce(&Broker)) -> u64 {
    let out = data.with_extension("callgrind");
    // Nothing happens by itself but settling, which what is published causes.
    let settings = [("SCRUB_BYTES_PER_SECOND", "0"), ("HEARTBEAT_MS", "3600000")];
    let broker = Broker::start_under(callgrind(&out), data, &settings);
    load(&broker).await;
    broker.terminate();
    instructions(&out, threads)
}

/// A publish of one record, one under way.
async fn publishes() -> f64 {
    PUBLISHES
        .runs(async |count| {
            let folder = folder();
            of_broker(&folder.path().join("data"), Threads::All, async |broker| {
                let mut socket = Socket::open(broker.address).await;
                for request in 0..count {
                    let session = format!("count/{}", request % SESSIONS);
                    socket.publish(&publish(request, &session, 1, BODY_BYTES)).await;
                }
            })
            .await
        })
        .await
}

/// A delivery of one record: what a subscriber more costs.
async fn deliveries() -> f64 {
    SUBSCRIBERS
        .runs(async |subscribers| {
            let folder = folder();
            let each = DELIVERED.runs(async |records| {
                let data = folder.path().join(records.to_string());
                of_broker(&data, Threads::WithoutSettler, async |broker| {
                    let address = broker.address;
                    let mut readers = crowd(subscribers as usize, |_| async move {
                        let mut socket = Socket::open(address).await;
                        socket.subscribe(1, "count", From::Start(true)).await;
                        socket
                    })
                    .await;
                    let mut socket = Socket::open(address).await;
                    for request in 0..records {
                        socket.publish(&publish(request, "count", 1, BODY_BYTES)).await;
                        for reader in &mut readers {
                            reader.reader.read_to(request + 1).await;
                        }
                    }
                })
                .await
            });
            // A whole number serves: it is some tens of thousands.
            each.await.round() as u64
        })
        .await
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A record that a reader catches up with.
async fn catching_up() -> f64 {
    let folder = folder();
    let data = folder.path().join("data");
    let broker = Broker::start(&data, &[]);
    let mut socket = Socket::open(broker.address).await;
    for request in 0..CAUGHT_UP.long / BATCH as u64 {
        socket.publish(&publish(request, "count", BATCH, BODY_BYTES)).await;
    }
    broker.terminate();
    CAUGHT_UP
        .runs(async |records| {
            // How many segments a broker leaves to the next one, which reads them all, is chance.
            let same = folder.path().join(records.to_string());
            copy(&data, &same);
            of_broker(&same, Threads::WithoutSettler, async |broker| {
                let mut socket = Socket::open(broker.address).await;
                socket.subscribe(1, "count", From::Last(records)).await;
                socket.reader.read_to(CAUGHT_UP.long).await;
            })
            .await
        })
        .await
}

/// A publish through the machine of a session, alone.
fn core_steps() -> f64 {
    let folder = folder();
    STEPS.difference(|steps| {
        let out = folder.path().join(steps.to_string());
        let mut valgrind = callgrind(&out);
        valgrind.arg(std::env::current_exe().unwrap()).arg(format!("{CORE_STEPS}{steps}"));
        assert!(valgrind.status().unwrap().success());
        instructions(&out, Threads::All)
    })
}

/// What is counted, by the name under which it is kept.
const WHAT: [(&str, &str); 4] = [
    ("publish", "a publish of one record over WebSocket, from socket to socket, settling included"),
    ("delivery", "a delivery of one record to one more WebSocket subscriber"),
    ("core_step", "a publish in the core alone"),
    ("catch_up", "a record that a WebSocket reader catches up with"),
];

fn kept() -> BTreeMap<String, u64> {
    std::fs::read_to_string(KEPT).map_or_else(|_| BTreeMap::new(), |text| toml::from_str(&text).unwrap())
}

fn keep(counts: &BTreeMap<&str, u64>, before: BTreeMap<String, u64>) {
    let mut text = "# Instructions of the broker, as valgrind counts them. `scripts/instructions` compares, and writes this file with\n\
                    # `--update`. Another compiler or another release of a library changes them too.\n"
        .to_owned();
    for (name, what) in WHAT {
        let Some(count) = counts.get(name).or_else(|| before.get(name)) else { continue };
        text += &format!("\n# {what}\n{name} = {count}\n");
    }
    std::fs::write(KEPT, text).unwrap();
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if let Some(steps) = arguments.next().and_then(|argument| argument.strip_prefix(CORE_STEPS)?.parse().ok())
    {
        let mut core = CoreStep::new();
        let released: usize = (0..steps).map(|_: u64| core.publish()).sum();
        assert!(released > 0);
        return ExitCode::SUCCESS;
    }
    let rows = std::env::var("LONGWIRE_BENCH_ROWS").ok();
    let wanted = |row: &str| rows.as_ref().is_none_or(|rows| rows.split(',').any(|name| name == row));
    let mut counts = BTreeMap::new();
    for (name, _) in WHAT.into_iter().filter(|(name, _)| wanted(name)) {
        let count = match name {
            "publish" => publishes().await,
            "delivery" => deliveries().await,
            "core_step" => core_steps(),
            _ => catching_up().await,
        };
        counts.insert(name, count.round() as u64);
    }
    if std::env::args().any(|argument| argument == "--update") {
        keep(&counts, kept());
    }
    let kept = kept();
    let mut told = Fragment::new("instructions");
    told.head(&["instructions of", "now", "kept", "growth", "at most 5 %"]);
    let mut grown = false;
    for (name, what) in WHAT {
        let Some(now) = counts.get(name).copied() else { continue };
        let Some(before) = kept.get(name) else {
            eprintln!("`{name}` is not in {KEPT}: scripts/instructions --update writes it");
            return ExitCode::FAILURE;
        };
        let growth = (now as f64 / *before as f64 - 1.0) * 100.0;
        grown |= growth > GROWTH_MAX;
        let cells = [now.to_string(), before.to_string(), format!("{growth:+.2} %")];
        told.row(&[what, &cells[0], &cells[1], &cells[2], met(growth <= GROWTH_MAX)]);
    }
    told.finish();
    if grown {
        eprintln!(
            "what the core path costs has grown: find out why, or keep it with scripts/instructions --update"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
