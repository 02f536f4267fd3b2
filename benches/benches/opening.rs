//! How long a broker that was killed with kill -9 under load takes from its start to `/readyz`, with a lot of data:
//! `LONGWIRE_BENCH_MEBIBYTES` of it, 1,024 by default. The release binary must be there: `cargo build --release`.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Instant;

use crate::common::killed::load_and_kill;
use crate::common::{Broker, folder, from_env, quantile};

const ROUNDS: usize = 5;
/// Between a start and the next kill.
const MEBIBYTES_PER_ROUND: u64 = 32;

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
