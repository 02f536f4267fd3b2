//! Two subscriptions on one connection: one quiet, and one flooded that nobody reads. How late the records of the quiet one are,
//! beside how late they are alone, in pairs. Over QUIC the client leaves the stream of the flooded one alone. Over WebSocket it
//! cannot: there it gives the broker no credit (`wss`), or is slow with what came (`slow`).
//! `LONGWIRE_BENCH_RECORDS` (2,000) of the quiet one, each 5 ms. The release binary must be there: `cargo build --release`.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use longwire_proto::raw::server_frame::Frame;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::{self, from::From};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::common::link::{Clients, Link, Transport, subscribe};
use crate::common::rounds::rounds;
use crate::common::{Broker, folder, from_env, quantile, record};

const FLOOD: &str = "flood";
/// What the flooded one has to catch up with: more than any buffer on the way holds.
const FLOOD_RECORDS: usize = 2048;
const FLOOD_RECORD_BYTES: usize = 32 << 10;
/// And what comes while it is measured, each at this interval.
const FLOODED_EVERY: Duration = Duration::from_millis(10);
/// Between two records of the quiet one.
const EVERY: Duration = Duration::from_millis(5);
/// What a slow client takes for each delivery of the flooded one.
const SLOW: Duration = Duration::from_millis(5);
/// The number of the flooded subscription; the quiet one is 1.
const FLOODED: u32 = 2;

#[derive(Clone, Copy, PartialEq)]
enum Client {
    Quic,
    Credit,
    Slow,
}

impl Client {
    fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Credit => "wss",
            Self::Slow => "wss_slow",
        }
    }

    fn transport(self) -> Transport {
        if self == Self::Quic { Transport::Quic } else { Transport::Wss }
    }
}

async fn publish(link: &mut Link, request: u64, session: &str, records: Vec<wire::Record>) {
    let publish = wire::Publish { request, session: session.into(), records, ..Default::default() };
    link.send(ClientFrame::Publish(publish)).await;
    match link.control().await {
        Frame::Published(_) => {}
        other => panic!("{other:?} came instead of an answer"),
    }
}

/// Goes on with the flood until it is told to stop.
async fn flood(mut link: Link, stop: Arc<AtomicBool>) {
    let mut every = interval(FLOODED_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for request in 1.. {
        every.tick().await;
        if stop.load(Ordering::Relaxed) {
            return;
        }
        publish(&mut link, request, FLOOD, vec![record(FLOOD_RECORD_BYTES)]).await;
    }
}

/// How late each record of the quiet session was, in milliseconds, sorted.
async fn measure(
    clients: &Clients,
    broker: &Broker,
    client: Client,
    session: &str,
    is_flooded: bool,
) -> Vec<f64> {
    let records = from_env("LONGWIRE_BENCH_RECORDS", 2000);
    let mut link = clients.open(client.transport(), broker.address).await;
    link.subscribe(session, From::Start(true)).await;
    if is_flooded {
        let mut wanted = subscribe(FLOODED, FLOOD, From::Start(true));
        if let (ClientFrame::Subscribe(wanted), Client::Credit) = (&mut wanted, client) {
            wanted.subscriptions[0].window_bytes = Some(1);
        }
        link.send(wanted).await;
    }
    let (sent, mut sends) = mpsc::unbounded_channel();
    let mut publisher = clients.open(Transport::Wss, broker.address).await;
    let (quiet, stop) = (session.to_owned(), Arc::new(AtomicBool::new(false)));
    let flooding = tokio::spawn(flood(clients.open(Transport::Wss, broker.address).await, Arc::clone(&stop)));
    let publishing = tokio::spawn(async move {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for request in 1..=records {
            every.tick().await;
            sent.send(Instant::now()).unwrap();
            publish(&mut publisher, request, &quiet, vec![record(256)]).await;
        }
    });
    let (mut times, mut next) = (Vec::new(), 0);
    while next < records {
        match link.next().await {
            Frame::Delivery(delivery) if delivery.subscription == FLOODED => {
                if client == Client::Slow {
                    sleep(SLOW).await;
                }
            }
            Frame::Delivery(delivery) => {
                while next < delivery.next {
                    times.push(sends.recv().await.unwrap().elapsed().as_secs_f64() * 1e3);
                    next += 1;
                }
            }
            Frame::Subscribed(_) => {}
            other => panic!("{other:?} came instead of a delivery"),
        }
    }
    publishing.await.unwrap();
    stop.store(true, Ordering::Relaxed);
    flooding.await.unwrap();
    link.close().await;
    times.sort_by(f64::total_cmp);
    times
}

#[tokio::main]
async fn main() {
    let folder = folder();
    let broker = Broker::start(&folder.path().join("tls"), &[("TLS_DEVELOPMENT", "true")]);
    let clients = Clients::with_sockets(1);
    let mut link = clients.open(Transport::Wss, broker.address).await;
    for request in 1..=FLOOD_RECORDS as u64 {
        publish(&mut link, request, FLOOD, vec![record(FLOOD_RECORD_BYTES)]).await;
    }
    for client in [Client::Quic, Client::Credit, Client::Slow] {
        let mut ratios = Vec::new();
        for round in 0..rounds() {
            let session = |what| format!("quiet/{}-{what}-{round}", client.name());
            let alone = measure(&clients, &broker, client, &session("alone"), false).await;
            let beside = measure(&clients, &broker, client, &session("beside"), true).await;
            let (alone_p99, beside_p99) = (quantile(&alone, 0.99), quantile(&beside, 0.99));
            println!(
                "{}: alone p50 {:.2} p99 {alone_p99:.2} ms, beside the flooded one p50 {:.2} p99 {beside_p99:.2} ms",
                client.name(),
                quantile(&alone, 0.5),
                quantile(&beside, 0.5),
            );
            ratios.push(beside_p99 / alone_p99);
        }
        ratios.sort_by(f64::total_cmp);
        let (min, max) = (quantile(&ratios, 0.0), quantile(&ratios, 1.0));
        println!("COUNT {}_p99_of_alone={:.2} ({min:.2} to {max:.2})", client.name(), quantile(&ratios, 0.5));
    }
}
