//! Longwire beside what one could take instead, and beside what the machine can do at all: the same workloads in the same run, one
//! subject after the other in every round. The clients are as lean as can be: requests are encoded before, and what comes is walked,
//! not copied. `scripts/peers` installs the others; what is not installed is left out, and said. The release binary must be there:
//! `cargo build --release`. Every run of a subject begins with an empty folder, on the disk of the target folder.
//!
//! `LONGWIRE_BENCH_ROWS` and `LONGWIRE_BENCH_SUBJECTS` choose, such as `1x1,64x16` and `longwire,redis`; `LONGWIRE_BENCH_ROUNDS` (5),
//! `LONGWIRE_BENCH_MS` (2,000) for each run of the rows that publish, `LONGWIRE_BENCH_SUBSCRIBERS` (1,000), `LONGWIRE_BENCH_FAN_OUT_RECORDS`
//! (2,000), `LONGWIRE_BENCH_PACE_SECONDS` (10), `LONGWIRE_BENCH_CATCH_UP_RECORDS` (1,000,000). The tables are written to
//! `target/performance/peers.md`. `LONGWIRE_BENCH_OTHER` may name another build of the broker to measure beside this one.
#![allow(clippy::unwrap_used)]

mod common;
mod peers {
    pub(crate) mod broadcaster;
    pub(crate) mod catch_up;
    pub(crate) mod durable_streams;
    pub(crate) mod fan_out;
    pub(crate) mod feed;
    pub(crate) mod http;
    pub(crate) mod link;
    pub(crate) mod longwire;
    pub(crate) mod machine;
    pub(crate) mod nats;
    pub(crate) mod pace;
    pub(crate) mod publishing;
    pub(crate) mod raw;
    pub(crate) mod redis;
    pub(crate) mod row;
    pub(crate) mod s2;
    pub(crate) mod server;
    pub(crate) mod subject;
    pub(crate) mod told;
    pub(crate) mod websocket;

    /// Bytes of the body of each record.
    pub(crate) const BODY_BYTES: usize = 256;
}

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::common::rounds::rounds;
use crate::common::{folder, from_env, quantile, raise_open_files};
use crate::peers::broadcaster;
use crate::peers::catch_up::CatchUp;
use crate::peers::fan_out::FanOut;
use crate::peers::pace::Pace;
use crate::peers::publishing::{Publishing, Values};
use crate::peers::raw::Raw;
use crate::peers::row::{Measure, Row};
use crate::peers::subject::Subject;
use crate::peers::told::Told;

/// How long one subject may take in one round: longer than any that works.
const RUN_MAX: Duration = Duration::from_secs(120);

/// Whether a list in the environment has this name; without one everything is wanted.
fn is_wanted(variable: &str, name: &str) -> bool {
    std::env::var(variable).ok().is_none_or(|wanted| wanted.split(',').any(|wanted| wanted == name))
}

fn catch_up_records() -> u64 {
    from_env("LONGWIRE_BENCH_CATCH_UP_RECORDS", 1_000_000)
}

/// What goes on from round to round.
struct Kept {
    catch_up: CatchUp,
    disk: Raw,
}

async fn run(row: Row, subject: Subject, folder: &Path, kept: &mut Kept) -> Option<Values> {
    let subscribers = from_env("LONGWIRE_BENCH_SUBSCRIBERS", 1000) as usize;
    let (connections, in_flight) = match row {
        Row::One | Row::PingPong => (1, 1),
        Row::Connections => (64, 1),
        Row::ConnectionsDeep => (64, 16),
        Row::Deep => (1, 256),
        Row::FanOut => {
            let records = from_env("LONGWIRE_BENCH_FAN_OUT_RECORDS", 2000);
            return FanOut { subscribers, records }.run(subject, folder).await;
        }
        Row::Pace => {
            let records = 50 * from_env("LONGWIRE_BENCH_PACE_SECONDS", 10);
            return Pace { subscribers, records }.run(subject, folder).await;
        }
        Row::CatchUp => return kept.catch_up.run(subject, catch_up_records()).await,
    };
    let duration = Duration::from_millis(from_env("LONGWIRE_BENCH_MS", 2000));
    let publishing = Publishing { connections, in_flight, duration };
    if row == Row::PingPong {
        return publishing.echo(folder).await;
    }
    let mut disk = kept.disk.probe();
    let mut values = publishing.run(subject, folder).await?;
    disk.extend(kept.disk.probe());
    disk.sort_by(f64::total_cmp);
    values.push((Measure::Disk, quantile(&disk, 0.5)));
    Some(values)
}

fn is_chosen(subject: Subject) -> bool {
    if subject == Subject::LongwireOther && std::env::var_os("LONGWIRE_BENCH_OTHER").is_none() {
        return false;
    }
    is_wanted("LONGWIRE_BENCH_SUBJECTS", subject.name())
}

/// One thread drives all clients of the rows that publish; those that read have two.
fn runtime(row: Row) -> Runtime {
    match row {
        Row::FanOut | Row::Pace | Row::CatchUp => {
            Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
        }
        _ => Builder::new_current_thread().enable_all().build().unwrap(),
    }
}

/// `None` when it fails, which it has said; it does not take the others with it.
fn attempt<T>(runtime: &Runtime, what: impl Future<Output = T>) -> Option<T> {
    let what = async { timeout(RUN_MAX, what).await };
    catch_unwind(AssertUnwindSafe(|| runtime.block_on(what))).ok()?.ok()
}

/// Before the first round reads, all have settled what they were filled with.
fn fill(kept: &mut Kept, told: &mut Told) {
    for subject in Row::CatchUp.subjects().iter().copied().filter(|subject| is_chosen(*subject)) {
        let runtime = runtime(Row::CatchUp);
        if attempt(&runtime, kept.catch_up.fill(subject, catch_up_records())).is_none() {
            told.fail(Row::CatchUp, subject);
        }
    }
}

fn main() {
    raise_open_files();
    Builder::new_multi_thread().enable_all().build().unwrap().block_on(broadcaster::serve_if_asked());
    let (mut told, mut missing) = (Told::default(), BTreeSet::new());
    let disk = folder();
    let mut kept = Kept { catch_up: CatchUp::default(), disk: Raw::new(disk.path()) };
    for round in 0..rounds() as usize {
        for row in Row::ALL.into_iter().filter(|row| is_wanted("LONGWIRE_BENCH_ROWS", row.name())) {
            if row == Row::CatchUp && round == 0 {
                fill(&mut kept, &mut told);
            }
            let mut subjects = row.subjects().to_vec();
            subjects.retain(|subject| is_chosen(*subject) && !told.has_failed(row, *subject));
            let first = round % subjects.len().max(1);
            subjects.rotate_left(first);
            for subject in subjects {
                let folder = folder();
                let runtime = runtime(row);
                match attempt(&runtime, run(row, subject, folder.path(), &mut kept)) {
                    Some(Some(values)) => told.add(round, row, subject, &values),
                    Some(None) => drop(missing.insert(subject)),
                    None => told.fail(row, subject),
                }
                drop((runtime, folder));
                // What one subject left to be written is not the next one's to wait for.
                rustix::fs::sync();
            }
        }
    }
    let mut text = told.markdown();
    text.push_str(&peers::machine::said(&told, &missing));
    println!("\n{text}");
    let performance = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("performance");
    fs::create_dir_all(&performance).unwrap();
    fs::write(performance.join("peers.md"), text).unwrap();
    let failed: Vec<&str> =
        Row::ALL.into_iter().filter(|row| told.has_failed(*row, Subject::Longwire)).map(Row::name).collect();
    assert!(failed.is_empty(), "Longwire failed in {failed:?}");
}
