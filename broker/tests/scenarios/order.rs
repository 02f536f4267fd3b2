//! What a connection asks after a publish reflects it, although the publish is not answered yet.

use longwire_proto::codec::Encoding;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::support::broker::{Broker, folder};
use crate::support::wire_client::{WireClient, record};

/// Sessions that are made: in each the read must wait for the first publish.
const ROUNDS: u64 = 50;

#[tokio::test]
async fn a_read_reflects_the_publishes_before_it_without_waiting_for_them() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    for round in 0..ROUNDS {
        let session = format!("order/{round}");
        let publish = wire::Publish {
            request: 1,
            session: session.clone(),
            records: vec![record("x")],
            ..Default::default()
        };
        client.send(ClientFrame::Publish(publish)).await;
        let read = wire::Read { request: 2, session, ..Default::default() };
        client.send(ClientFrame::Read(read)).await;
        let frames = [client.receive().await, client.receive().await];
        let page = frames.iter().find_map(|frame| match frame {
            ServerFrame::Page(page) => Some((page.end, page.records.len())),
            _ => None,
        });
        assert_eq!(page, Some((1, 1)), "{frames:?}");
    }
}
