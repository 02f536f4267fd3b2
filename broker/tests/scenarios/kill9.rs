//! The broker killed with kill -9 under load, and again while it recovers: what was acknowledged is there, dense, in one
//! order, once, and nobody was ever shown anything else.

use std::path::Path;
use std::time::{Duration, Instant};

use longwire_proto::codec::Encoding;
use tokio::sync::watch;

use crate::support::broker::{Attempt, Broker, folder, recovered};
use crate::support::proxy::Proxy;
use crate::support::rng::{Rng, repetitions};
use crate::support::traffic::{self, Traffic, read_all};
use crate::support::wire_client::WireClient;

/// Kills under load in the test command; `LONGWIRE_TEST_KILLS` for more.
const KILLS: u64 = 20;
/// Recoveries that are interrupted; `LONGWIRE_TEST_RECOVERY_KILLS` for more.
const RECOVERY_KILLS: u64 = 4;
/// Starts that are killed in a row, at most, so that the load goes on.
const ATTEMPTS: usize = 3;
const SESSIONS: [&str; 3] = ["load/a", "load/b", "load/c"];
/// Acknowledgements in all between a start and a kill.
const ACKNOWLEDGED_PER_CYCLE: u64 = 150;
/// A kill comes up to this long after that, in microseconds.
const JITTER_US: u64 = 20_000;
/// A hang is a failure; nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A start that was killed, as far as it is known what it had to do.
struct Killed {
    was_ready: bool,
    recovered: Option<u64>,
}

async fn kill_a_start(data: &Path, log: &Path, took_us: u64, rng: &mut Rng) -> Killed {
    let attempt = Attempt::start_logged(data, log);
    tokio::time::sleep(Duration::from_micros(rng.below(took_us))).await;
    let was_ready = attempt.kill();
    Killed { was_ready, recovered: recovered(log) }
}

/// How many were killed before they were ready and had commits of an earlier life to settle: they say so themselves, or
/// a later start found them. What is not certain does not count.
fn interrupted(killed: &[Killed], found_at_last: u64) -> u64 {
    let mut found = found_at_last > 0;
    let mut count = 0;
    for start in killed.iter().rev() {
        found |= start.recovered.is_some_and(|commits| commits > 0);
        count += u64::from(found && !start.was_ready);
    }
    count
}

#[test]
fn only_interrupted_recoveries_count() {
    let killed = |was_ready, recovered| Killed { was_ready, recovered };
    assert_eq!(interrupted(&[], 5), 0);
    assert_eq!(interrupted(&[killed(false, None), killed(false, None)], 5), 2);
    assert_eq!(interrupted(&[killed(false, None), killed(true, Some(3)), killed(false, None)], 0), 1);
    assert_eq!(interrupted(&[killed(false, None), killed(false, Some(0))], 0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_under_load_loses_repeats_and_reorders_nothing() {
    let mut rng = Rng::from_env(11);
    let kills = repetitions("LONGWIRE_TEST_KILLS", KILLS);
    let recovery_kills = repetitions("LONGWIRE_TEST_RECOVERY_KILLS", RECOVERY_KILLS);
    let (folder, data) = folder();
    let log = folder.path().join("log");
    let mut broker = Broker::start(&data);
    let proxy = Proxy::start(broker.address()).await;
    let traffic = Traffic::new(proxy.upstream(), Some(proxy.address()), &SESSIONS);
    let ends: Vec<_> = SESSIONS.iter().map(|_| watch::Sender::new(None)).collect();
    let (mut clients, mut followers) = traffic::start(&traffic, &mut rng, &ends);
    let mut acknowledged = traffic.acknowledged.subscribe();
    let (mut cycle, mut interruptions, mut took_us) = (0, 0, 1);
    while cycle < kills || interruptions < recovery_kills {
        let due = *acknowledged.borrow() + ACKNOWLEDGED_PER_CYCLE;
        tokio::select! {
            reached = tokio::time::timeout(PATIENCE, acknowledged.wait_for(|count| *count >= due)) => {
                reached.unwrap_or_else(|_| panic!("no progress in cycle {cycle}")).unwrap();
            }
            ended = clients.join_next() => panic!("a client has ended: {ended:?}"),
            ended = followers.join_next() => panic!("a reader has ended: {ended:?}"),
        }
        tokio::time::sleep(Duration::from_micros(rng.below(JITTER_US))).await;
        broker.kill();
        proxy.set_upstream(None);
        cycle += 1;
        let mut killed = Vec::new();
        // Spread over the cycles.
        if interruptions < recovery_kills * cycle / kills.max(1) {
            while killed.len() < ATTEMPTS {
                killed.push(kill_a_start(&data, &log, took_us, &mut rng).await);
            }
        }
        let started = Instant::now();
        broker = Broker::start_logged(&data, &log);
        took_us = 1 + u64::try_from(started.elapsed().as_micros()).unwrap();
        interruptions += interrupted(&killed, recovered(&log).unwrap());
        proxy.set_upstream(Some(broker.address()));
    }
    traffic.stop();
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    // The log after one more restart: what is read is what the disk has.
    assert!(broker.terminate());
    broker = Broker::start(&data);
    proxy.set_upstream(Some(broker.address()));
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    let mut logs = Vec::new();
    for (session, end) in SESSIONS.iter().zip(&ends) {
        let log = read_all(&mut client, session).await;
        end.send_replace(Some(log.len() as u64));
        logs.push(log);
    }
    while let Some(read) = followers.join_next().await {
        read.unwrap();
    }
    let (mut records, mut looks, mut readers, mut refused, mut unknown) = (0, 0, 0, 0, 0);
    for (worked, log) in traffic.sessions.iter().zip(&logs) {
        worked.recorder.check(&worked.session, log);
        let sizes = worked.recorder.sizes();
        assert!(sizes.ok > 0 && sizes.failed > 0 && sizes.looks > 0, "{sizes:?} shows nothing");
        records += log.len() as u64;
        looks += sizes.looks;
        readers += sizes.readers;
        refused += sizes.failed;
        unknown += sizes.unknown;
    }
    println!("{records} records, {refused} publishes refused and {unknown} of unknown outcome");
    println!("COUNT kills={cycle}\nCOUNT recovery_kills={interruptions}\nCOUNT records={records}");
    println!("COUNT answers={looks}\nCOUNT readers={readers}");
    assert!(records >= kills * ACKNOWLEDGED_PER_CYCLE);
}
