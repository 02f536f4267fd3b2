//! The broker's memory, as the system sees it, stays within what docs/operations.md says.

use std::sync::Arc;

use longwire_broker::memory::{
    CONNECTION_BYTES, QUIC_STALLED_BYTES, STALLED_BYTES, TAIL_COPIES, store_bytes,
};
use longwire_broker::tail::TAIL_BYTES_MAX;
use longwire_proto::codec::Encoding;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use quinn::{TransportConfig, VarInt};

use crate::support::attacker::{Attacker, TEXT, raise_open_files};
use crate::support::broker::{Broker, folder};
use crate::support::quic_client::QuicClient;
use crate::support::wire_client::{WireClient, published, record};

/// Clients that stop reading.
const STALLED: usize = 500;
/// MiB that are published meanwhile, unless the environment asks for more: 1,024 is the long run's number.
const MEBIBYTES: usize = 32;
/// Bytes of one record, and records of one publish.
const RECORD_BYTES: usize = 128 << 10;
const BATCH_RECORDS: usize = 16;
/// Nobody is sent away for not reading before the end.
const IDLE_TIMEOUT_MS: &str = "3600000";

/// A line of `/proc/PID/status`, in bytes.
fn memory(broker: &Broker, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_stop_reading_cost_what_the_formula_says() {
    let mebibytes =
        std::env::var("LONGWIRE_TEST_STALLED_MIB").map_or(MEBIBYTES, |text| text.parse().unwrap());
    raise_open_files();
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("IDLE_TIMEOUT_MS", IDLE_TIMEOUT_MS)]);
    let mut writer = WireClient::connect(broker.address(), Encoding::Proto).await;
    published(writer.publish("flood", &["first"]).await);
    let before = memory(&broker, "VmRSS");
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let mut attacker = Attacker::greeted_with_small_buffer(broker.address()).await;
        let subscribe = br#"{"subscribe":{"request":1,"subscriptions":[{"subscription":1,"session":"flood","from":{"start":true}}]}}"#;
        attacker.write_frame(true, TEXT, subscribe).await;
        attacker.read_until(b"\"subscribed\"").await;
        stalled.push(attacker);
    }
    let connected = memory(&broker, "VmRSS");
    let body: Arc<str> = "x".repeat(RECORD_BYTES).into();
    for _ in 0..mebibytes * (1 << 20) / (RECORD_BYTES * BATCH_RECORDS) {
        let records = vec![record(&body); BATCH_RECORDS];
        let publish = wire::Publish { session: "flood".into(), records, ..Default::default() };
        published(writer.publish_with(publish).await);
    }
    let peak = memory(&broker, "VmHWM");
    let bound = store_bytes() + TAIL_COPIES * TAIL_BYTES_MAX + STALLED * (CONNECTION_BYTES + STALLED_BYTES);
    println!("COUNT stalled_clients={STALLED}");
    println!("COUNT published_mib={mebibytes}");
    println!("COUNT rss_before_mib={}", before >> 20);
    println!("COUNT rss_connected_mib={}", connected >> 20);
    println!("COUNT rss_peak_mib={}", peak >> 20);
    println!("COUNT formula_mib={}", bound >> 20);
    assert!(peak - before <= bound, "grew by {} bytes, which is above {bound}", peak - before);
    assert!(
        connected - before <= STALLED * CONNECTION_BYTES,
        "a connection costs {} bytes, which is above {CONNECTION_BYTES}",
        (connected - before) / STALLED
    );
    // Nobody was sent away, so all of them did stall.
    let (_, metrics) = broker.get("/metrics");
    let connections = metrics.lines().find_map(|line| line.strip_prefix("longwire_connections ")).unwrap();
    assert_eq!(connections.parse::<f64>().unwrap(), (STALLED + 1) as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_on_quic_cost_what_the_formula_says() {
    const IDLE: usize = 300;
    const STALLED: usize = 20;
    /// Each holds a delivery that nobody takes: together more than they may.
    const SUBSCRIPTIONS: u32 = 32;
    /// Bytes that a client's stack takes of each.
    const WINDOW: u32 = 32 << 10;
    let (_folder, data) = folder();
    let settings = [("TLS_DEVELOPMENT", "true"), ("IDLE_TIMEOUT_MS", IDLE_TIMEOUT_MS)];
    let broker = Broker::start_with(&data, &settings);
    let mut writer = QuicClient::connect(broker.address()).await;
    writer.ping(1).await;
    let before = memory(&broker, "VmRSS");
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        idle.push(QuicClient::connect(broker.address()).await);
    }
    let connected = memory(&broker, "VmRSS");
    let body = "x".repeat(RECORD_BYTES);
    for request in 0..64 {
        let records = vec![record(&body); BATCH_RECORDS / 2];
        let publish = wire::Publish { request, session: "flood".into(), records, ..Default::default() };
        writer.send(ClientFrame::Publish(publish)).await;
        assert!(matches!(writer.control.next().await, ServerFrame::Published(_)));
    }
    let flooded = memory(&broker, "VmRSS");
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(VarInt::from_u32(WINDOW));
        let mut client = QuicClient::open_with(broker.address(), transport).await.greet("").await;
        let mut streams = Vec::new();
        for number in 1..=SUBSCRIPTIONS {
            streams.push(client.subscribe(number.into(), number, "flood").await);
        }
        client.ping(1).await;
        stalled.push((client, streams));
    }
    let peak = memory(&broker, "VmHWM");
    let (each_idle, each_stalled) =
        (connected.saturating_sub(before) / IDLE, peak.saturating_sub(flooded) / STALLED);
    println!("COUNT quic_idle_bytes={each_idle}");
    println!("COUNT quic_stalled_bytes={each_stalled}");
    println!(
        "COUNT rss_connected_mib={} rss_flooded_mib={} rss_peak_mib={}",
        connected >> 20,
        flooded >> 20,
        peak >> 20
    );
    assert!(each_idle <= CONNECTION_BYTES, "an idle connection costs {each_idle} bytes");
    let bound = store_bytes() / STALLED + CONNECTION_BYTES + QUIC_STALLED_BYTES;
    assert!(each_stalled <= bound, "a stalled one costs {each_stalled} bytes, which is above {bound}");
    for (client, _) in &mut stalled {
        client.ping(2).await;
    }
}
