//! A reader that does not read slows nobody and loses nothing.

use longwire_proto::codec::Encoding;
use longwire_proto::wire;
use longwire_proto::wire::from::From;

use crate::support::broker::{Broker, folder};
use crate::support::wire_client::{WireClient, delivery, published, record, subscribed};

/// One, and 129 batches of 31.
const RECORDS: u64 = 4000;
/// Records of this length fill every buffer between the broker and a reader that does not read, many times over.
const RECORD_BYTES: usize = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_are_served_from_the_store_and_fast_ones_do_not_notice() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut writer = WireClient::connect(broker.address(), Encoding::Proto).await;
    published(writer.publish("s", &["first"]).await);
    let mut readers = Vec::new();
    for _ in 0..20 {
        let mut reader = WireClient::connect(broker.address(), Encoding::Proto).await;
        subscribed(reader.subscribe("s", From::Start(true)).await);
        readers.push(reader);
    }
    let slow = readers.split_off(10);
    let fast: Vec<_> = readers.into_iter().map(|reader| tokio::spawn(read_all(reader))).collect();
    let body = "x".repeat(RECORD_BYTES);
    for _ in 0..(RECORDS - 1) / 31 {
        let records = vec![record(&body); 31];
        let publish = wire::Publish { session: "s".into(), records, ..Default::default() };
        published(writer.publish_with(publish).await);
    }
    // The fast readers are through while the slow ones have not read a byte.
    for reader in fast {
        reader.await.unwrap();
    }
    let (_, metrics) = broker.get("/metrics");
    assert!(metrics.contains("longwire_deliveries_total"), "{metrics}");
    for reader in slow {
        read_all(reader).await;
    }
    assert!(broker.terminate());
}

async fn read_all(mut reader: WireClient) {
    let mut next = 0;
    while next < RECORDS {
        let delivery = delivery(reader.receive().await);
        assert_eq!(delivery.from, next);
        assert_eq!(delivery.next - delivery.from, delivery.records.len() as u64);
        next = delivery.next;
    }
}
