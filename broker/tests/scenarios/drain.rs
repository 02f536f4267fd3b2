//! SIGTERM: everything that was asked is answered, every client is told to come back, and the process leaves.

use longwire_proto::codec::Encoding;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::support::broker::{Broker, folder};
use crate::support::wire_client::{WireClient, record, subscribed};

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_what_was_asked_and_tells_everyone() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut writer = WireClient::connect(broker.address(), Encoding::Proto).await;
    let mut reader = WireClient::connect(broker.address(), Encoding::Json).await;
    writer.publish("s", &["first"]).await;
    subscribed(reader.subscribe("s", From::Start(true)).await);
    for request in 0..500 {
        let records = vec![record("x")];
        let publish = wire::Publish { request, session: "s".into(), records, ..Default::default() };
        writer.send(ClientFrame::Publish(publish)).await;
    }
    broker.ask_to_stop();
    let mut acknowledged = 0;
    let goodbye = loop {
        match writer.receive_any().await {
            Some(ServerFrame::Published(published)) => acknowledged = published.next,
            Some(ServerFrame::Goodbye(goodbye)) => break goodbye,
            Some(_) => {}
            None => panic!("the connection ended without a goodbye"),
        }
    };
    assert_eq!(goodbye.error.unwrap().code, "draining");
    assert!(goodbye.reconnect_after_ms > 0);
    let ended = writer.ended().await;
    assert_eq!(ended.close_code(), 1012);
    assert_eq!(reader.ended().await.code(), "draining");
    assert!(broker.wait(), "the broker left with success");
    let broker = Broker::start(&data);
    let mut reader = WireClient::connect(broker.address(), Encoding::Proto).await;
    let after = subscribed(reader.subscribe("s", From::End(true)).await);
    assert!(after.end >= acknowledged, "{} of {acknowledged} acknowledged records are there", after.end);
}

#[tokio::test]
async fn a_broker_without_clients_leaves_at_once_and_can_be_started_again() {
    let (_folder, data) = folder();
    for _ in 0..3 {
        assert!(Broker::start(&data).terminate());
    }
}
