//! A broker that is killed with kill -9 while it is published to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::common::{Broker, Connection, record};

const CONNECTIONS: u64 = 4;
const IN_FLIGHT: u64 = 32;
const SESSIONS: u64 = 64;
/// A publish: 64 KiB.
const RECORDS: usize = 16;
const RECORD_BYTES: usize = 4096;
const PUBLISHES_PER_MEBIBYTE: u64 = 16;

/// One of the sessions that were published to.
pub(crate) const SESSION: &str = "open/00";

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
pub(crate) async fn load_and_kill(broker: Broker, mebibytes: u64) {
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
