//! One publisher, and many connections that each subscribe to its session: how many deliveries of records a second, and what one
//! costs the broker, over every transport. `LONGWIRE_BENCH_SUBSCRIBERS` (1,000), `LONGWIRE_BENCH_RECORDS` (5,000) of 256 bytes.
//! The release binary must be there: `cargo build --release`.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Instant;

use longwire_proto::raw::server_frame::Frame;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::{self, from::From};
use tokio::task::JoinSet;

use crate::common::link::{Clients, Link, Transport};
use crate::common::rounds::{Rounds, rounds};
use crate::common::{Broker, folder, from_env, raise_open_files, record};

/// Bytes of the body of each record.
const BODY_BYTES: usize = 256;
/// Publishes without an answer.
const IN_FLIGHT: u64 = 256;
/// Connections that are being made at the same time.
const CONNECTING: usize = 50;

async fn connect(
    clients: &'static Clients,
    transport: Transport,
    broker: &Broker,
    session: &str,
) -> Vec<Link> {
    let subscribers = from_env("LONGWIRE_BENCH_SUBSCRIBERS", 1000) as usize;
    let mut links = Vec::with_capacity(subscribers);
    while links.len() < subscribers {
        let mut connecting = JoinSet::new();
        for _ in 0..CONNECTING.min(subscribers - links.len()) {
            let (address, session) = (broker.address, session.to_owned());
            connecting.spawn(async move {
                let mut link = clients.open(transport, address).await;
                link.subscribe(&session, From::Start(true)).await;
                link
            });
        }
        links.extend(connecting.join_all().await);
    }
    links
}

async fn publish(link: &mut Link, session: &str, records: u64) {
    let in_flight = from_env("LONGWIRE_BENCH_IN_FLIGHT", IN_FLIGHT);
    let mut answered = 0;
    for request in 1..=records {
        let publish = wire::Publish {
            request,
            session: session.into(),
            records: vec![record(BODY_BYTES)],
            ..Default::default()
        };
        link.send(ClientFrame::Publish(publish)).await;
        while request - answered >= in_flight || (request == records && answered < records) {
            match link.control().await {
                Frame::Published(_) => answered += 1,
                other => panic!("{other:?} came instead of an answer"),
            }
        }
    }
}

#[tokio::main]
async fn main() {
    raise_open_files();
    let records = from_env("LONGWIRE_BENCH_RECORDS", 5000);
    let folder = folder();
    let plain = Broker::start(&folder.path().join("plain"), &[]);
    let tls = Broker::start(&folder.path().join("tls"), &[("TLS_DEVELOPMENT", "true")]);
    let clients: &'static Clients = Box::leak(Box::new(Clients::new()));
    let mut told = Rounds::new(&Transport::ALL);
    for round in 0..rounds() {
        for transport in told.round(round) {
            let broker = if transport.is_tls() { &tls } else { &plain };
            let session = format!("fan-out/{}-{round}", transport.name());
            let links = connect(clients, transport, broker, &session).await;
            let mut publisher = clients.open(transport, broker.address).await;
            let deliveries = (links.len() as u64 * records) as f64;
            let (began, cpu) = (Instant::now(), broker.cpu_seconds());
            let mut reading = JoinSet::new();
            for mut link in links {
                reading.spawn(async move {
                    link.read_to(records).await;
                    link
                });
            }
            publish(&mut publisher, &session, records).await;
            let links = reading.join_all().await;
            told.add("deliveries_per_second", transport, deliveries / began.elapsed().as_secs_f64());
            told.add("broker_us_per_delivery", transport, (broker.cpu_seconds() - cpu) * 1e6 / deliveries);
            for link in links {
                link.close().await;
            }
        }
    }
    told.tell(Transport::Wss);
}
