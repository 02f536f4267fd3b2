//! From nothing to the first record behind the position that a client has: a connection, then hello and the subscription at once; over
//! QUIC these go with the first packets (0-RTT), as with the SDK.
//! `LONGWIRE_BENCH_TRIES` (300) over each transport, in turns. Then the same with the broker far away, `LONGWIRE_BENCH_FAR_TRIES` (40)
//! of each: everything takes 10 ms each way, but the handshake of TCP, which the system makes with the near end. The release
//! binary must be there: `cargo build --release`.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use longwire_proto::raw::server_frame::Frame;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::{self, from::From};

use crate::common::link::{Clients, Transport};
use crate::common::rounds::{Rounds, rounds};
use crate::common::{Broker, distance, folder, from_env, quantile, record};

const SESSION: &str = "reconnect";
/// Records of the session: the client has half of them.
const RECORDS: u64 = 1000;

/// How long everything takes to a broker that is far away, each way.
const DISTANCE: Duration = Duration::from_millis(10);

/// Who is asked where.
type Places = [(Transport, SocketAddr); Transport::ALL.len()];

async fn measure(
    clients: &Clients,
    told: &mut Rounds,
    places: &Places,
    tries: u64,
    names: [&'static str; 2],
) {
    for round in 0..rounds() {
        let mut times = [const { Vec::new() }; Transport::ALL.len()];
        for turn in 0..tries {
            for transport in told.round(turn) {
                let (_, address) = places[transport as usize];
                let began = Instant::now();
                let from = From::Offset(RECORDS / 2);
                let mut link = clients.resume(transport, address, SESSION, from).await;
                link.read_to(RECORDS / 2 + 1).await;
                times[transport as usize].push(began.elapsed().as_secs_f64() * 1e3);
                link.settle().await;
                link.close().await;
            }
        }
        for transport in told.round(round) {
            let times = &mut times[transport as usize];
            times.sort_by(f64::total_cmp);
            told.add(names[0], transport, quantile(times, 0.5));
            told.add(names[1], transport, quantile(times, 0.99));
        }
    }
}

// One client at a time, so one thread is what it takes.
#[tokio::main(flavor = "current_thread")]
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
    let near = Transport::ALL
        .map(|transport| (transport, if transport.is_tls() { tls.address } else { plain.address }));
    measure(&clients, &mut told, &near, tries, ["p50_ms", "p99_ms"]).await;
    let mut far = near;
    for (transport, address) in &mut far {
        *address = match transport {
            Transport::Quic => distance::udp(*address, DISTANCE).await,
            _ => distance::tcp(*address, DISTANCE).await,
        };
    }
    let tries = from_env("LONGWIRE_BENCH_FAR_TRIES", 40);
    measure(&clients, &mut told, &far, tries, ["far_p50_ms", "far_p99_ms"]).await;
    told.tell(Transport::Wss);
}
