//! A lot of sessions, listed page by page over the wire: `LONGWIRE_BENCH_SESSIONS` of them, 1,000,000 by default. The
//! release binary must be there: `cargo build --release`.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use longwire_proto::limits::{LIST_PAGE_DEFAULT, LIST_PAGE_MAX};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio::task::JoinSet;

use crate::common::{Broker, Connection, folder, from_env, quantile, record};

const CONNECTIONS: u64 = 8;
const IN_FLIGHT: usize = 256;
/// Sessions that one broker process creates, by default: all of them, far above the store's limit of resident logs.
const PER_LIFE: u64 = 1_000_000;

/// Spread over the names, so that neighbours in the list were not created together.
fn session(number: u64) -> String {
    format!("list/{:03}/{number:07}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 1000)
}

fn publish(number: u64) -> ClientFrame {
    let publish = wire::Publish {
        request: number,
        session: session(number),
        records: vec![record(100)],
        ..Default::default()
    };
    ClientFrame::Publish(publish)
}

/// Creates one session of every eight, or so. A refusal that may be repeated is.
async fn create(address: SocketAddr, range: Range<u64>) -> u64 {
    let mut connection = Connection::open(address).await;
    let mut numbers = range.step_by(CONNECTIONS as usize);
    let (mut in_flight, mut repeated) = (0, 0);
    loop {
        while in_flight < IN_FLIGHT {
            let Some(number) = numbers.next() else { break };
            connection.send(publish(number)).await;
            in_flight += 1;
        }
        if in_flight == 0 {
            return repeated;
        }
        match connection.receive().await {
            Some(ServerFrame::Published(_)) => in_flight -= 1,
            Some(ServerFrame::Refused(refused)) => {
                assert!(refused.error.as_ref().unwrap().retryable, "{refused:?}");
                repeated += 1;
                connection.send(publish(refused.request)).await;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Lists everything and answers how long each page took, in milliseconds.
async fn list(connection: &mut Connection, sessions: u64, limit: usize) -> Vec<f64> {
    let (mut after, mut found, mut times) = (String::new(), 0, Vec::new());
    loop {
        let list = wire::ListSessions {
            request: 1,
            prefix: "list/".into(),
            page: after.clone(),
            limit: limit.try_into().unwrap(),
            ..Default::default()
        };
        let started = Instant::now();
        connection.send(ClientFrame::ListSessions(list)).await;
        let Some(ServerFrame::SessionList(page)) = connection.receive().await else { panic!("no page") };
        times.push(started.elapsed().as_secs_f64() * 1e3);
        found += page.sessions.len() as u64;
        assert!(page.sessions.is_sorted_by(|one, other| one.session < other.session));
        assert!(page.sessions.first().is_none_or(|first| first.session > after));
        after = page.next_page;
        if after.is_empty() {
            assert_eq!(found, sessions);
            times.sort_by(f64::total_cmp);
            return times;
        }
    }
}

#[tokio::main]
async fn main() {
    let sessions = from_env("LONGWIRE_BENCH_SESSIONS", 1_000_000);
    let folder = folder();
    // Each is used once; live sessions are limited.
    let start = || Broker::start(&folder.path().join("data"), &[("SESSION_IDLE_MS", "1")]);
    let per_life = from_env("LONGWIRE_BENCH_SESSIONS_PER_LIFE", PER_LIFE);
    let started = Instant::now();
    let (mut broker, mut repeated) = (start(), 0);
    for life in (0..sessions).step_by(usize::try_from(per_life).unwrap()) {
        if life > 0 {
            drop(broker);
            broker = start();
        }
        let mut creating = JoinSet::new();
        for first in life..life + CONNECTIONS {
            creating.spawn(create(broker.address, first..sessions.min(life + per_life)));
        }
        repeated += creating.join_all().await.into_iter().sum::<u64>();
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{sessions} sessions created in {seconds:.0} s; {repeated} publishes repeated");
    println!("COUNT sessions={sessions}\nCOUNT rss_after_creation_mib={}", broker.memory_mib("VmRSS"));
    let mut connection = Connection::open(broker.address).await;
    for limit in [LIST_PAGE_DEFAULT, LIST_PAGE_MAX] {
        let times = list(&mut connection, sessions, limit).await;
        println!("COUNT pages_of_{limit}={}", times.len());
        for (name, part) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            println!("COUNT page_of_{limit}_{name}_ms={:.2}", quantile(&times, part));
        }
    }
    println!("COUNT rss_peak_mib={}", broker.memory_mib("VmHWM"));
}
