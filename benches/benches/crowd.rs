//! Sockets that say nothing, and handshakes that take for ever, held open; and how long somebody else takes to connect and
//! publish. `LONGWIRE_BENCH_CROWD` of each, 2,000 by default. The release binary must be there: `cargo build --release`.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Instant;

use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::{Broker, Connection, folder, from_env, quantile, raise_open_files, record};

/// How often somebody connects and publishes.
const TRIES: usize = 100;

fn publish(request: u64) -> ClientFrame {
    let records = vec![record(100)];
    ClientFrame::Publish(wire::Publish { request, session: "crowd".into(), records, ..Default::default() })
}

/// Connects and publishes, and answers how long that took, in milliseconds.
async fn others(broker: &Broker) -> Vec<f64> {
    let mut times = Vec::new();
    for request in 0..TRIES as u64 {
        let began = Instant::now();
        let mut connection = Connection::open(broker.address).await;
        connection.send(publish(request)).await;
        assert!(matches!(connection.receive().await, Some(ServerFrame::Published(_))));
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    times
}

fn tell(name: &str, times: &[f64]) {
    println!("COUNT {name}_p50_ms={:.2}", quantile(times, 0.5));
    println!("COUNT {name}_max_ms={:.2}", quantile(times, 1.0));
}

#[tokio::main]
async fn main() {
    raise_open_files();
    let crowd = from_env("LONGWIRE_BENCH_CROWD", 2000);
    let folder = folder();
    let broker = Broker::start(&folder.path().join("data"), &[]);
    tell("alone", &others(&broker).await);
    let before = broker.memory_mib("VmRSS");
    let mut sockets = Vec::new();
    for _ in 0..crowd {
        sockets.push(TcpStream::connect(broker.address).await.unwrap());
    }
    for _ in 0..crowd {
        let mut socket = TcpStream::connect(broker.address).await.unwrap();
        drop(socket.write_all(b"GET /v1/connect HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await);
        sockets.push(socket);
    }
    let times = others(&broker).await;
    println!("COUNT silent_sockets={crowd}");
    println!("COUNT slow_handshakes={crowd}");
    tell("crowded", &times);
    println!("COUNT rss_before_mib={before}");
    println!("COUNT rss_peak_mib={}", broker.memory_mib("VmHWM"));
    drop(sockets);
}
