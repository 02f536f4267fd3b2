//! A wall clock that is years off when the broker starts and that jumps while it runs, by libfaketime on the real binary:
//! publishes go on, record times never go back, and nothing is lost, repeated, reordered or wrongly expired.
//!
//! Each life of the broker below begins with another wall clock. What depends on time belongs in here: add its sessions
//! to [`SESSIONS`], its requests to [`Clocked::live`] and what must hold at the end to the test.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use longwire_proto::codec::Encoding;
use longwire_proto::wire;
use longwire_proto::wire::from::From;
use tokio::sync::watch;

use crate::support::broker::{Broker, folder};
use crate::support::proxy::Proxy;
use crate::support::rng::Rng;
use crate::support::traffic::{self, Traffic, value};
use crate::support::wire_client::{WireClient, delivery, published, record, subscribed, text};

/// Sessions that are worked on all the time.
const SESSIONS: [&str; 2] = ["clock/a", "clock/b"];
/// A session with one record a life, whose times show which clock the broker went by.
const MARKS: &str = "clock/marks";
/// A session whose records and which itself would be too old by any of the wrong clocks.
const AGEING: &str = "clock/ageing";
const HOUR_MS: u64 = 3_600_000;
/// Acknowledgements between one jump of the clock and the next.
const ACKNOWLEDGED: u64 = 60;
/// A hang is a failure; nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);
const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;
/// How far the clock is off when the broker starts, and then, one after the other, while it runs.
const LIVES: [(i64, [i64; 3]); 5] =
    [(0, [10, -10, 0]), (-10, [0, 10, -10]), (10, [-10, 0, 10]), (0, [-10, 10, 0]), (-10, [-10, 10, 0])];

/// The library, or nothing where it is missing; `scripts/test` says so.
fn libfaketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let found = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    if found.is_none() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "libfaketime is not installed");
        eprintln!("SKIPPED: libfaketime is not installed");
    }
    found
}

/// A data folder whose brokers see the wall clock that a file says.
struct Clocked {
    library: PathBuf,
    offset: PathBuf,
    data: PathBuf,
}

impl Clocked {
    /// From now on the wall clock is off by so many years. Monotonic time goes on as it is, as on a real machine.
    fn set(&self, years: i64) {
        let draft = self.offset.with_extension("new");
        fs::write(&draft, format!("{years:+}y\n")).unwrap();
        // At once: a broker must not read half of it.
        fs::rename(draft, &self.offset).unwrap();
    }

    fn start(&self, years: i64) -> Broker {
        self.set(years);
        let mut command = Command::new("env");
        command.arg(format!("LD_PRELOAD={}", self.library.display()));
        command.arg(format!("FAKETIME_TIMESTAMP_FILE={}", self.offset.display()));
        command.args(["FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"]);
        Broker::start_under(command, &self.data, &[])
    }

    /// One life of a broker that started so many years off: the clock jumps, and every time work goes on.
    async fn live(&self, broker: &Broker, started_at: i64, jumps: [i64; 3], traffic: &Traffic) {
        let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
        published(client.publish(MARKS, &["started"]).await);
        for years in jumps {
            self.set(years);
            let mut acknowledged = traffic.acknowledged.subscribe();
            let due = *acknowledged.borrow() + ACKNOWLEDGED;
            let reached = acknowledged.wait_for(|count| *count >= due);
            tokio::time::timeout(PATIENCE, reached).await.expect("publishes do not go on").unwrap();
            repeat_a_publish(&mut client).await;
        }
        // Twice around: whatever is due by this clock has been looked at.
        rounds(broker, 2);
        let (_, metrics) = broker.get("/metrics");
        let suspended = u8::from(started_at != 0);
        assert!(metrics.contains(&format!("longwire_ageing_suspended {suspended}")), "{metrics}");
        let ageing = subscribed(client.subscribe(AGEING, From::End(true)).await);
        assert_eq!((ageing.start, ageing.end), (0, 3), "nothing is too old");
    }
}

/// A session that is old by its retention and its expiry an hour from now.
async fn make_ageing(broker: &Broker) {
    let session = longwire::Client::connect(&broker.url()).unwrap().session(AGEING).unwrap();
    let retention = longwire::Retention { age_ms: Some(HOUR_MS), ..longwire::Retention::default() };
    let expiry = longwire::Expiry { idle_ms: Some(HOUR_MS), at_ms: None };
    let meta = longwire::SessionMeta { retention, expiry, ..longwire::SessionMeta::default() };
    session.create(meta).await.unwrap();
    session.publish("first").await.unwrap();
    session.publish("second").await.unwrap();
}

/// Waits until deadlines were looked for this often.
fn rounds(broker: &Broker, more: u64) {
    let seen = || {
        let (_, metrics) = broker.get("/metrics");
        let line = metrics.lines().find(|line| line.starts_with("longwire_deadline_rounds_total "));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
    };
    let (due, patience) = (seen() + more, std::time::Instant::now() + PATIENCE);
    while seen() < due {
        assert!(std::time::Instant::now() < patience, "deadlines are not looked for");
        std::thread::yield_now();
    }
}

/// The same publish in every life: it is made in the first.
async fn repeat_a_publish(client: &mut WireClient) {
    let publish = wire::Publish {
        session: "clock/once".into(),
        records: vec![record("once")],
        producer: Some(wire::Producer { id: "clocked".into(), epoch: 0, sequence: 0 }),
        ..Default::default()
    };
    let ack = published(client.publish_with(publish).await);
    assert_eq!((ack.from, ack.next), (0, 1));
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().try_into().unwrap()
}

async fn records_of(client: &mut WireClient, session: &str) -> Vec<wire::Record> {
    let end = subscribed(client.subscribe(session, From::Start(true)).await).end;
    let mut log = Vec::new();
    while (log.len() as u64) < end {
        let delivery = delivery(client.receive().await);
        assert_eq!(delivery.from, log.len() as u64);
        log.extend(delivery.records);
    }
    log
}

fn time_of(record: &wire::Record) -> i64 {
    record.time_ms.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_and_jumps_loses_and_reorders_nothing() {
    let Some(library) = libfaketime() else { return };
    let mut rng = Rng::from_env(31);
    let (folder, data) = folder();
    let clocked = Clocked { library, offset: folder.path().join("offset"), data };
    let mut broker = clocked.start(LIVES[0].0);
    let proxy = Proxy::start(broker.address()).await;
    let traffic = Traffic::new(proxy.upstream(), Some(proxy.address()), &SESSIONS);
    let ends: Vec<_> = SESSIONS.iter().map(|_| watch::Sender::new(None)).collect();
    let (mut clients, mut followers) = traffic::start(&traffic, &mut rng, &ends);
    for (life, (years, jumps)) in LIVES.into_iter().enumerate() {
        if life > 0 {
            proxy.set_upstream(None);
            // By turns in order and killed.
            if life % 2 == 0 {
                assert!(broker.terminate());
            } else {
                broker.kill();
            }
            broker = clocked.start(years);
            proxy.set_upstream(Some(broker.address()));
        }
        if life == 0 {
            make_ageing(&broker).await;
        }
        clocked.live(&broker, years, jumps, &traffic).await;
    }
    traffic.stop();
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    broker.kill();
    broker = Broker::start(&clocked.data);
    proxy.set_upstream(Some(broker.address()));
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    let mut logs = Vec::new();
    for (session, end) in SESSIONS.iter().zip(&ends) {
        logs.push(records_of(&mut client, session).await);
        end.send_replace(Some(logs[logs.len() - 1].len() as u64));
    }
    while let Some(read) = followers.join_next().await {
        read.unwrap();
    }
    for (worked, log) in traffic.sessions.iter().zip(&logs) {
        let values: Vec<_> = log.iter().map(|record| value(text(record))).collect();
        worked.recorder.check(&worked.session, &values);
    }
    assert_eq!(records_of(&mut client, "clock/once").await.len(), 1);

    let marks = records_of(&mut client, MARKS).await;
    for log in logs.iter().chain([&marks]) {
        assert!(log.is_sorted_by_key(time_of), "a record's time is before that of the one before");
    }
    // The clock was really off: else nothing of this was shown. It never went back, neither at a start nor by a jump;
    // and a jump while the broker runs moves no time at all.
    let years: Vec<i64> =
        marks.iter().map(|mark| (time_of(mark) - now_ms() + YEAR_MS / 2).div_euclid(YEAR_MS)).collect();
    assert_eq!(years, [0, 0, 10, 10, 10]);
    for log in &logs {
        let mut moves = 0;
        for pair in log.windows(2) {
            moves += usize::from(time_of(&pair[1]) - time_of(&pair[0]) > YEAR_MS);
        }
        assert_eq!(moves, 1, "time moved other than at the start with a later clock");
    }
}
