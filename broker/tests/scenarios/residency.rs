//! Sessions that nobody uses are not in memory.

use std::time::{Duration, Instant};

use longwire_proto::codec::Encoding;
use longwire_proto::wire::from::From;

use crate::support::broker::{Broker, folder};
use crate::support::wire_client::{WireClient, delivery, published, subscribed, text};

fn live(broker: &Broker) -> u64 {
    let (_, metrics) = broker.get("/metrics");
    let line = metrics.lines().find(|line| line.starts_with("longwire_sessions_live ")).unwrap();
    line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64
}

pub(crate) fn wait_for_live(broker: &Broker, expected: u64) {
    let patience = Instant::now() + Duration::from_secs(30);
    while live(broker) != expected {
        assert!(Instant::now() < patience, "{} sessions are live instead of {expected}", live(broker));
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn idle_sessions_leave_memory_and_come_back_as_they_were() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("SESSION_IDLE_MS", "50")]);
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    for round in 0..3 {
        for session in ["a", "b", "c"] {
            assert_eq!(published(client.publish(session, &[&format!("{round}")]).await).from, round);
        }
        wait_for_live(&broker, 0);
    }
    // A reader keeps its session resident; records reach it all the same when it is used again.
    subscribed(client.subscribe("a", From::End(true)).await);
    let mut writer = WireClient::connect(broker.address(), Encoding::Proto).await;
    writer.publish("b", &["x"]).await;
    wait_for_live(&broker, 1);
    writer.publish("a", &["wake"]).await;
    assert_eq!(text(&delivery(client.receive().await).records[0]), "wake");
}
