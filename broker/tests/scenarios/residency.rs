//! Sessions that nobody uses are not in memory.

use std::time::{Duration, Instant};

use longwire_proto::codec::Encoding;
use longwire_proto::wire::from::From;
use tokio::task::JoinSet;

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

/// More sessions than stay live when others come: with an hour of idle time nothing else makes them rest.
#[tokio::test]
async fn of_a_crowd_the_longest_unused_rest_and_nothing_of_them_is_lost() {
    const SESSIONS: usize = 2500;
    const LIVE_MAX: u64 = 2048;
    const WRITERS: usize = 16;
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("SESSION_IDLE_MS", "3600000")]);
    let address = broker.address();
    let name = |number: usize| format!("crowd/{number}");
    let mut reader = WireClient::connect(address, Encoding::Proto).await;
    published(reader.publish(&name(0), &["first"]).await);
    subscribed(reader.subscribe(&name(0), From::End(true)).await);
    // Each of the second round finds its session resting, or just about to.
    for round in 0..2 {
        let mut writing = JoinSet::new();
        for first in 1..=WRITERS {
            writing.spawn(async move {
                let mut writer = WireClient::connect(address, Encoding::Proto).await;
                for number in (first..SESSIONS).step_by(WRITERS) {
                    let published = published(writer.publish(&name(number), &[&format!("{round}")]).await);
                    assert_eq!(published.from, round, "{number}");
                }
            });
        }
        writing.join_all().await;
        // The one that is read stays, and so do those that are still being written when their turn comes.
        let patience = Instant::now() + Duration::from_secs(30);
        while live(&broker) > LIVE_MAX + 1 {
            assert!(Instant::now() < patience, "{} sessions are live", live(&broker));
            tokio::task::yield_now().await;
        }
        published(reader.publish(&name(0), &["more"]).await);
        let delivered = delivery(reader.receive().await);
        assert_eq!((delivered.from, text(&delivered.records[0])), (1 + round, "more"));
    }
    for number in [1, 2, SESSIONS / 2, SESSIONS - 1] {
        let mut late = WireClient::connect(address, Encoding::Proto).await;
        subscribed(late.subscribe(&name(number), From::Start(true)).await);
        let records = late.take(0, 2).await;
        assert_eq!(records.iter().map(text).collect::<Vec<_>>(), ["0", "1"], "{number}");
    }
}
