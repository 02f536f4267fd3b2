//! One publisher and many subscribers, as fast as it goes.

use std::path::Path;
use std::time::Instant;

use tokio::task::JoinSet;

use super::link::Link;
use super::publishing::Values;
use super::row::Measure;
use super::subject::{Running, Subject};

/// Publishes without an answer.
const IN_FLIGHT: u64 = 256;
const SESSION: &str = "fan-out";

#[derive(Clone, Copy, Debug)]
pub(crate) struct FanOut {
    pub(crate) subscribers: usize,
    pub(crate) records: u64,
}

/// A server with a publisher, and many who follow it.
pub(crate) async fn followed(
    subject: Subject,
    folder: &Path,
    subscribers: usize,
) -> Option<(Running, Link, Vec<Link>)> {
    let running = Running::start(subject, folder)?;
    let publisher = running.publisher(SESSION).await;
    let mut links = Vec::with_capacity(subscribers);
    for number in 0..subscribers {
        links.push(running.subscriber(SESSION, number).await);
    }
    Some((running, publisher, links))
}

impl FanOut {
    pub(crate) async fn run(self, subject: Subject, folder: &Path) -> Option<Values> {
        let (running, mut publisher, links) = followed(subject, folder, self.subscribers).await?;
        let (began, cpu) = (Instant::now(), running.server.cpu_seconds());
        let mut reading = JoinSet::new();
        for mut link in links {
            reading.spawn(async move {
                link.receive_to(self.records).await;
                link
            });
        }
        let in_flight = if running.answers() { IN_FLIGHT } else { self.records };
        let (mut sent, mut answered) = (0, 0);
        while sent < self.records {
            let more = (in_flight - (sent - answered)).min(self.records - sent);
            publisher.publish(more).await;
            sent += more;
            if running.answers() {
                answered = publisher.receive().await;
            }
        }
        if running.answers() {
            publisher.receive_to(sent).await;
        }
        let links = reading.join_all().await;
        let deliveries = (links.len() as u64 * self.records) as f64;
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), running.server.cpu_seconds() - cpu);
        Some(vec![(Measure::PerSecond, deliveries / seconds), (Measure::Cpu, cpu * 1e6 / deliveries)])
    }
}
