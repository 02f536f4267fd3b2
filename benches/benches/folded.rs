//! Opening a session that is one long message, `LONGWIRE_BENCH_DELTAS` (20,000) of some bytes each: folded, beside raw in the same run,
//! from the subscribe to the last of it, over a WebSocket. The release binary must be there: `cargo build --release`.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Instant;

use longwire_proto::kind;
use longwire_proto::raw::server_frame::Frame;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::record::Body;
use longwire_proto::wire::{self, from::From};
use prost::Message;

use crate::common::link::{Clients, Link, Transport, subscribe};
use crate::common::{Broker, folder, from_env, quantile};

const SESSION: &str = "message";
/// Deltas of a publish: as an agent's outbox has them together when its model is quick.
const BATCH: u64 = 20;
/// Of each view, one after the other.
const ROUNDS: usize = 20;
/// What the longest took is told with it.
const QUANTILES: [f64; 2] = [0.5, 1.0];

fn delta(number: u64) -> wire::Record {
    let body = Some(Body::Text(format!("word{} ", number % 10)));
    wire::Record { kind: kind::DELTA, message: "m".into(), body, ..Default::default() }
}

async fn publish(link: &mut Link, request: u64, records: Vec<wire::Record>) {
    let publish = wire::Publish { request, session: SESSION.into(), records, ..Default::default() };
    link.send(ClientFrame::Publish(publish)).await;
    assert!(matches!(link.control().await, Frame::Published(_)));
}

/// Deliveries and bytes until everything has come.
async fn read(link: &mut Link, view: &str, end: u64) -> (u64, usize) {
    let ClientFrame::Subscribe(mut frame) = subscribe(1, SESSION, From::Start(true)) else { unreachable!() };
    frame.subscriptions[0].view = view.to_owned();
    link.send(ClientFrame::Subscribe(frame)).await;
    let (mut deliveries, mut bytes) = (0, 0);
    loop {
        if let Frame::Delivery(delivery) = link.next().await {
            deliveries += 1;
            bytes += delivery.encoded_len();
            if delivery.next == end {
                return (deliveries, bytes);
            }
        }
    }
}

#[tokio::main]
async fn main() {
    let deltas = from_env("LONGWIRE_BENCH_DELTAS", 20_000);
    let folder = folder();
    let broker = Broker::start(&folder.path().join("data"), &[]);
    let clients = Clients::with_sockets(1);
    let mut link = clients.open(Transport::Ws, broker.address).await;
    publish(&mut link, 1, vec![wire::Record { id: "m".into(), grows: true, ..Default::default() }]).await;
    let mut number = 0;
    while number < deltas {
        let batch = BATCH.min(deltas - number);
        publish(&mut link, number + 2, (number..number + batch).map(delta).collect()).await;
        number += batch;
    }
    link.close().await;
    let views = ["raw", "folded"];
    let mut times = [Vec::new(), Vec::new()];
    let mut counts = [(0, 0); 2];
    for _ in 0..ROUNDS {
        for (index, view) in views.into_iter().enumerate() {
            let mut link = clients.open(Transport::Ws, broker.address).await;
            let began = Instant::now();
            counts[index] = read(&mut link, view, deltas + 1).await;
            times[index].push(began.elapsed().as_secs_f64() * 1e3);
            link.close().await;
        }
    }
    for (index, view) in views.into_iter().enumerate() {
        times[index].sort_by(f64::total_cmp);
        let [median, most] = QUANTILES.map(|share| quantile(&times[index], share));
        let (deliveries, bytes) = counts[index];
        println!("COUNT {view}_median_ms={median:.1}\nCOUNT {view}_max_ms={most:.1}");
        println!("COUNT {view}_deliveries={deliveries}\nCOUNT {view}_bytes={bytes}");
    }
}
