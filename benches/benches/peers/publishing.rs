//! Publishers that each keep so many records in flight, to a session of their own.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::link::Link;
use super::raw::Raw;
use super::row::Measure;
use super::subject::{Running, Subject};
use crate::common::quantile;

/// What is not measured at the beginning: caches, files and windows of the connection grow.
const WARM_UP: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Publishing {
    pub(crate) connections: usize,
    pub(crate) in_flight: u64,
    pub(crate) duration: Duration,
}

/// What the publishers of a run share.
#[derive(Default)]
struct Shared {
    answered: AtomicU64,
    is_measured: AtomicBool,
    is_over: AtomicBool,
}

pub(crate) type Values = Vec<(Measure, f64)>;

/// Of times in seconds.
pub(crate) fn latencies(mut times: Vec<f64>) -> Values {
    times.sort_by(f64::total_cmp);
    vec![(Measure::P50, quantile(&times, 0.5)), (Measure::P99, quantile(&times, 0.99))]
}

impl Publishing {
    /// `None` when it is not installed.
    pub(crate) async fn run(self, subject: Subject, folder: &Path) -> Option<Values> {
        if subject == Subject::Raw {
            return Some(self.raw(folder));
        }
        self.drive(&Running::start(subject, folder)?).await
    }

    /// To a server that sends it back at once.
    pub(crate) async fn echo(self, folder: &Path) -> Option<Values> {
        self.drive(&Running::start(Subject::Raw, folder)?).await
    }

    async fn drive(self, running: &Running) -> Option<Values> {
        let mut links = Vec::new();
        for number in 0..self.connections {
            links.push(running.publisher(&format!("s{number}")).await);
        }
        let shared = Arc::new(Shared::default());
        let mut publishers = JoinSet::new();
        for link in links {
            publishers.spawn(publish(link, self.in_flight, Arc::clone(&shared)));
        }
        sleep(WARM_UP).await;
        shared.is_measured.store(true, Ordering::Relaxed);
        let (began, before, cpu) =
            (Instant::now(), shared.answered.load(Ordering::Relaxed), running.server.cpu_seconds());
        sleep(self.duration).await;
        let answered = (shared.answered.load(Ordering::Relaxed) - before) as f64;
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), running.server.cpu_seconds() - cpu);
        shared.is_over.store(true, Ordering::Relaxed);
        let times = publishers.join_all().await.concat();
        let mut values = vec![(Measure::PerSecond, answered / seconds)];
        if answered > 0.0 {
            values.push((Measure::Cpu, cpu * 1e6 / answered));
        }
        if !times.is_empty() {
            values.extend(latencies(times));
        }
        Some(values)
    }

    /// The records that are in flight are a group, as nobody can do with fewer syncs.
    fn raw(self, folder: &Path) -> Values {
        let mut raw = Raw::new(folder);
        let records = self.connections as u64 * self.in_flight;
        raw.run(records, WARM_UP);
        let times: Vec<f64> = raw.run(records, self.duration).iter().map(Duration::as_secs_f64).collect();
        let rate = (times.len() as u64 * records) as f64 / times.iter().sum::<f64>();
        let mut values = latencies(times);
        values.push((Measure::PerSecond, rate));
        values
    }
}

/// Publishes until it is over, and answers how long each answer took if one record is in flight at a time.
async fn publish(mut link: Link, in_flight: u64, shared: Arc<Shared>) -> Vec<f64> {
    let (mut sent, mut answered, mut times) = (0, 0, Vec::new());
    loop {
        let wrote = Instant::now();
        if !shared.is_over.load(Ordering::Relaxed) {
            let more = in_flight - (sent - answered);
            link.publish(more).await;
            sent += more;
        } else if sent == answered {
            return times;
        }
        let count = loop {
            let count = link.receive().await;
            if count > answered {
                break count;
            }
        };
        if in_flight == 1 && shared.is_measured.load(Ordering::Relaxed) {
            times.push(wrote.elapsed().as_secs_f64());
        }
        shared.answered.fetch_add(count - answered, Ordering::Relaxed);
        answered = count;
    }
}
