//! One publisher at a steady pace and many subscribers: how long it takes until the last of them has a record.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::interval;

use super::fan_out::followed;
use super::publishing::{Values, latencies};
use super::row::Measure;
use super::subject::Subject;

/// From one record to the next.
const EVERY: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) subscribers: usize,
    pub(crate) records: u64,
}

/// Of each record when it was sent, and the longest it took to a subscriber; nanoseconds since the beginning.
struct Times {
    began: Instant,
    sent: Vec<AtomicU64>,
    longest: Vec<AtomicU64>,
}

impl Times {
    fn new(records: u64) -> Self {
        let zeros = || (0..records).map(|_| AtomicU64::new(0)).collect();
        Self { began: Instant::now(), sent: zeros(), longest: zeros() }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn received(&self, from: u64, to: u64) {
        let now = self.now();
        for index in from as usize..to as usize {
            let took = now - self.sent[index].load(Ordering::Acquire);
            self.longest[index].fetch_max(took, Ordering::Relaxed);
        }
    }
}

impl Pace {
    pub(crate) async fn run(self, subject: Subject, folder: &Path) -> Option<Values> {
        let (running, mut publisher, links) = followed(subject, folder, self.subscribers).await?;
        let times = Arc::new(Times::new(self.records));
        let cpu = running.server.cpu_seconds();
        let mut reading = JoinSet::new();
        for mut link in links {
            let times = Arc::clone(&times);
            reading.spawn(async move {
                let mut count = 0;
                while count < self.records {
                    let before = count;
                    count = link.receive().await;
                    times.received(before, count);
                }
                link
            });
        }
        let mut turns = interval(EVERY);
        for index in 0..self.records {
            turns.tick().await;
            times.sent[index as usize].store(times.now(), Ordering::Release);
            publisher.publish(1).await;
            publisher.receive_to(index + 1).await;
        }
        let links = reading.join_all().await;
        let deliveries = (links.len() as u64 * self.records) as f64;
        let cpu = running.server.cpu_seconds() - cpu;
        let longest = times.longest.iter().map(|nanos| nanos.load(Ordering::Relaxed) as f64 / 1e9).collect();
        let mut values = latencies(longest);
        values.push((Measure::Cpu, cpu * 1e6 / deliveries));
        Some(values)
    }
}
