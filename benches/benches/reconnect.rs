//! From nothing to the first record behind the position that a client has: a connection, hello and the subscription, over TLS
//! and QUIC. `LONGWIRE_BENCH_TRIES` (300) of each, in turns. The release binary must be there: `cargo build --release`.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Instant;

use longwire_proto::raw::server_frame::Frame;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::{self, from::From};

use crate::common::link::{Clients, Transport};
use crate::common::rounds::{Rounds, rounds};
use crate::common::{Broker, folder, from_env, quantile, record};

const SESSION: &str = "reconnect";
/// Records of the session: the client has half of them.
const RECORDS: u64 = 1000;

#[tokio::main]
async fn main() {
    let tries = from_env("LONGWIRE_BENCH_TRIES", 300);
    let folder = folder();
    let plain = Broker::start(&folder.path().join("plain"), &[]);
    let tls = Broker::start(&folder.path().join("tls"), &[("TLS_DEVELOPMENT", "true")]);
    let clients = Clients::with_sockets(1);
    let mut told = Rounds::new(&Transport::ALL);
    for broker in [&plain, &tls] {
        let transport = if broker.address == plain.address { Transport::Ws } else { Transport::Wss };
        let mut link = clients.open(transport, broker.address).await;
        let records = vec![record(256); RECORDS as usize];
        let publish = wire::Publish { request: 1, session: SESSION.into(), records, ..Default::default() };
        link.send(ClientFrame::Publish(publish)).await;
        assert!(matches!(link.control().await, Frame::Published(_)));
    }
    for round in 0..rounds() {
        let mut times = [const { Vec::new() }; Transport::ALL.len()];
        for turn in 0..tries {
            for transport in told.round(turn) {
                let broker = if transport.is_tls() { &tls } else { &plain };
                let began = Instant::now();
                let mut link = clients.open(transport, broker.address).await;
                link.subscribe(SESSION, From::Offset(RECORDS / 2)).await;
                link.read_to(RECORDS / 2 + 1).await;
                times[transport as usize].push(began.elapsed().as_secs_f64() * 1e3);
                link.close().await;
            }
        }
        for transport in told.round(round) {
            let times = &mut times[transport as usize];
            times.sort_by(f64::total_cmp);
            told.add("p50_ms", transport, quantile(times, 0.5));
            told.add("p99_ms", transport, quantile(times, 0.99));
        }
    }
    told.tell(Transport::Wss);
}
