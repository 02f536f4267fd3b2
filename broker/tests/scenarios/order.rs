//! What a connection asks after a publish reflects it, although the publish is not answered yet.

use futures_util::SinkExt as _;
use longwire_proto::codec::{Encoding, encode_client};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio_tungstenite::tungstenite::Message;

use crate::support::broker::{Broker, folder};
use crate::support::wire_client::{WireClient, is_for_now, record};

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
    let (mut rounds, mut known) = (0, 0);
    while rounds < ROUNDS {
        let publish = wire::Publish {
            request: 1,
            session: "order".into(),
            records: records.clone(),
            ..Default::default()
        };
        let read = wire::Read { request: 2, session: "order".into(), limit: 1, ..Default::default() };
        for frame in [ClientFrame::Publish(publish), ClientFrame::Read(read.clone())] {
            let message = Message::Binary(encode_client(Encoding::Proto, frame));
            client.socket().feed(message).await.unwrap();
        }
        client.socket().flush().await.unwrap();
        let mut frames = vec![client.receive_as_is().await.unwrap(), client.receive_as_is().await.unwrap()];
        let refused = frames.iter().any(is_for_now);
        if refused {
            // Nothing follows from what was not carried out, or not told.
            let exists = known > 0 || frames.iter().any(|frame| matches!(frame, ServerFrame::Published(_)));
            if !exists {
                continue;
            }
            client.send(ClientFrame::Read(read)).await;
            frames.push(client.receive().await);
        }
        let end = frames.iter().rev().find_map(|frame| match frame {
            ServerFrame::Page(page) => Some(page.end),
            _ => None,
        });
        if refused {
            known = end.unwrap();
            continue;
        }
        known += RECORDS;
        assert_eq!(end, Some(known));
        rounds += 1;
    }
}
