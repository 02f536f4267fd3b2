//! What a connection asks after a publish reflects it, although the publish is not answered yet.

use futures_util::SinkExt as _;
use longwire_proto::codec::{Encoding, encode_client};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio_tungstenite::tungstenite::Message;

use crate::support::broker::{Broker, folder};
use crate::support::wire_client::{WireClient, record};

/// Publishes that a read follows at once.
const ROUNDS: u64 = 20;
/// Records of each: many, so that they take a while, and the read is there before they are durable.
const RECORDS: u64 = 200;
const RECORD_BYTES: usize = 8 << 10;

#[tokio::test]
async fn a_read_reflects_the_publishes_before_it_without_waiting_for_them() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    let records: Vec<_> = (0..RECORDS).map(|_| record(&"x".repeat(RECORD_BYTES))).collect();
    for round in 1..=ROUNDS {
        let publish = wire::Publish {
            request: 1,
            session: "order".into(),
            records: records.clone(),
            ..Default::default()
        };
        let read = wire::Read { request: 2, session: "order".into(), limit: 1, ..Default::default() };
        for frame in [ClientFrame::Publish(publish), ClientFrame::Read(read)] {
            let message = Message::Binary(encode_client(Encoding::Proto, frame));
            client.socket().feed(message).await.unwrap();
        }
        client.socket().flush().await.unwrap();
        let frames = [client.receive().await, client.receive().await];
        let end = frames.iter().find_map(|frame| match frame {
            ServerFrame::Page(page) => Some(page.end),
            _ => None,
        });
        assert_eq!(end, Some(round * RECORDS));
    }
}
