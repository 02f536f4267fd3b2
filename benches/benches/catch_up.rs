//! One reader reads a long session from its start, over every transport. `LONGWIRE_BENCH_RECORDS` (1,000,000) of 256 bytes. The
//! release binary must be there: `cargo build --release`.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Instant;

use longwire_proto::raw::server_frame::Frame;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::{self, from::From};

use crate::common::link::{Clients, Transport};
use crate::common::rounds::{Rounds, rounds};
use crate::common::{Broker, folder, from_env, record};

/// Bytes of the body of each record.
const BODY_BYTES: usize = 256;
/// Records of a publish.
const BATCH: u64 = 1000;
const SESSION: &str = "catch-up";

async fn fill(clients: &Clients, transport: Transport, broker: &Broker, records: u64) {
    let mut link = clients.open(transport, broker.address).await;
    for request in 1..=records.div_ceil(BATCH) {
        let publish = wire::Publish {
            request,
            session: SESSION.into(),
            records: vec![record(BODY_BYTES); BATCH as usize],
            ..Default::default()
        };
        link.send(ClientFrame::Publish(publish)).await;
        assert!(matches!(link.control().await, Frame::Published(_)));
    }
    link.close().await;
}

#[tokio::main]
async fn main() {
    let records = from_env("LONGWIRE_BENCH_RECORDS", 1_000_000);
    let folder = folder();
    let plain = Broker::start(&folder.path().join("plain"), &[]);
    let tls = Broker::start(&folder.path().join("tls"), &[("TLS_DEVELOPMENT", "true")]);
    let clients = Clients::with_sockets(1);
    fill(&clients, Transport::Ws, &plain, records).await;
    fill(&clients, Transport::Wss, &tls, records).await;
    let mut told = Rounds::new(&Transport::ALL);
    for round in 0..rounds() {
        for transport in told.round(round) {
            let broker = if transport.is_tls() { &tls } else { &plain };
            let mut link = clients.open(transport, broker.address).await;
            let (began, cpu) = (Instant::now(), broker.cpu_seconds());
            link.subscribe(SESSION, From::Start(true)).await;
            link.read_to(records).await;
            told.add("records_per_second", transport, records as f64 / began.elapsed().as_secs_f64());
            told.add("broker_us_per_record", transport, (broker.cpu_seconds() - cpu) * 1e6 / records as f64);
            link.close().await;
        }
    }
    told.tell(Transport::Wss);
}
