//! How long a broker that was killed with kill -9 under load takes from its start to `/readyz`, with a lot of data:
//! `LONGWIRE_BENCH_MEBIBYTES` of it, 1,024 by default. The release binary must be there: `cargo build --release`.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::common::{Broker, Connection, folder, from_env, quantile, record};

const ROUNDS: usize = 5;
const CONNECTIONS: u64 = 4;
const IN_FLIGHT: u64 = 32;
const SESSIONS: u64 = 64;
/// A publish: 64 KiB.
const RECORDS: usize = 16;
const RECORD_BYTES: usize = 4096;
const PUBLISHES_PER_MEBIBYTE: u64 = 16;
/// Between a start and the next kill.
const MEBIBYTES_PER_ROUND: u64 = 32;

/// Publishes until the connection ends.
async fn load(address: SocketAddr, numbers: Arc<AtomicU64>, acknowledged: Arc<watch::Sender<u64>>) {
    let mut connection = Connection::open(address).await;
    let mut in_flight = 0;
    loop {
        while in_flight < IN_FLIGHT {
            let request = numbers.fetch_add(1, Ordering::Relaxed);
            let session = format!("open/{:02}", request % SESSIONS);
            let records = vec![record(RECORD_BYTES); RECORDS];
            connection
                .send(ClientFrame::Publish(wire::Publish { request, session, records, ..Default::default() }))
                .await;
            in_flight += 1;
        }
        match connection.receive().await {
            Some(ServerFrame::Published(_)) => acknowledged.send_modify(|count| *count += 1),
            Some(ServerFrame::Refused(refused)) => {
                assert!(refused.error.as_ref().unwrap().retryable, "{refused:?}");
            }
            Some(other) => panic!("{other:?}"),
            None => return,
        }
        in_flight -= 1;
    }
}

/// Publishes so much and kills the broker while it is still being published to.
async fn load_and_kill(broker: Broker, mebibytes: u64) {
    let acknowledged = Arc::new(watch::Sender::new(0));
    let numbers = Arc::new(AtomicU64::new(0));
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        connections.spawn(load(broker.address, Arc::clone(&numbers), Arc::clone(&acknowledged)));
    }
    let mut reached = acknowledged.subscribe();
    reached.wait_for(|count| *count >= mebibytes * PUBLISHES_PER_MEBIBYTE).await.unwrap();
    drop(broker);
    while let Some(ended) = connections.join_next().await {
        ended.unwrap();
    }
}

#[tokio::main]
async fn main() {
    let mebibytes = from_env("LONGWIRE_BENCH_MEBIBYTES", 1024);
    let folder = folder();
    let data = folder.path().join("data");
    load_and_kill(Broker::start(&data, &[]), mebibytes).await;
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let started = Instant::now();
        let broker = Broker::start(&data, &[]);
        while !broker.is_ready() {}
        let took = started.elapsed().as_secs_f64() * 1e3;
        let log = std::fs::read_to_string(&broker.log).unwrap();
        let commits = log.lines().find_map(|line| line.split_once("commits=")).map_or("?", |(_, text)| text);
        println!("round {round}: {took:.0} ms, {commits} commits to settle");
        times.push(took);
        load_and_kill(broker, MEBIBYTES_PER_ROUND).await;
    }
    times.sort_by(f64::total_cmp);
    let database = std::fs::metadata(data.join("sessions.redb")).unwrap().len() >> 20;
    println!("COUNT published_mib={mebibytes}\nCOUNT database_mib={database}");
    println!("COUNT open_median_ms={:.0}", quantile(&times, 0.5));
    println!("COUNT open_max_ms={:.0}", quantile(&times, 1.0));
}
