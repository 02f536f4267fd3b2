//! A broker within the process: its clients come in without a socket, and find everything as over one.
#![allow(clippy::unwrap_used)] // tests: a panic is their failure

use std::sync::Arc;

use longwire_broker::config::Config;
use longwire_broker::late_recorder::MetricsText;
use longwire_broker::server::Server;
use longwire_broker::store::memory::MemoryStore;
use longwire_broker::transport::LinkEnd;
use longwire_broker::transport::memory::{MemoryClient, MemoryPort};
use longwire_proto::codec::{Encoding, decode_server, encode_client};
use longwire_proto::error::ErrorCode;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame;
use tokio::sync::oneshot;

async fn say(client: &MemoryClient, encoding: Encoding, frame: ClientFrame) {
    client.send(encode_client(encoding, frame)).await.unwrap();
}

async fn hear(client: &MemoryClient, encoding: Encoding) -> Frame {
    decode_server(encoding, client.next().await.unwrap()).unwrap()
}

async fn connect(port: &MemoryPort, encoding: Encoding) -> MemoryClient {
    let client = port.connect(encoding);
    say(&client, encoding, ClientFrame::Hello(wire::Hello::default())).await;
    assert!(matches!(hear(&client, encoding).await, Frame::Welcome(_)));
    client
}

#[tokio::test]
async fn a_client_within_the_process_publishes_follows_and_is_drained() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        data: folder.path().to_owned(),
        ..Config::default()
    };
    let server =
        Server::bind(config, Arc::new(MemoryStore::default()), MetricsText::default()).await.unwrap();
    let port = server.memory_port();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async { drop(stopped.await) }));
    for encoding in Encoding::ALL {
        let (reader, writer) = (connect(&port, encoding).await, connect(&port, encoding).await);
        let session = format!("a/{encoding:?}").to_lowercase();
        let subscription = wire::Subscription {
            subscription: 1,
            session: session.clone(),
            wait: true,
            ..Default::default()
        };
        let subscribe = wire::Subscribe { request: 1, subscriptions: vec![subscription] };
        say(&reader, encoding, ClientFrame::Subscribe(subscribe)).await;
        assert!(matches!(hear(&reader, encoding).await, Frame::Subscribed(_)));
        let body = Some(wire::record::Body::Text("hello".into()));
        let records = vec![wire::Record { body, ..Default::default() }];
        let publish = wire::Publish { request: 2, session, records, ..Default::default() };
        say(&writer, encoding, ClientFrame::Publish(publish)).await;
        assert!(matches!(hear(&writer, encoding).await, Frame::Published(published) if published.next == 1));
        assert!(matches!(hear(&reader, encoding).await, Frame::Delivery(delivery) if delivery.next == 1));
    }
    let client = connect(&port, Encoding::Proto).await;
    let silent = port.connect(Encoding::Proto);
    say(&silent, Encoding::Proto, ClientFrame::Ping(wire::Ping::default())).await;
    let Frame::Goodbye(goodbye) = hear(&silent, Encoding::Proto).await else { panic!() };
    assert_eq!(goodbye.error.unwrap().code, ErrorCode::HelloExpected.as_str());
    stop.send(()).unwrap();
    let Frame::Goodbye(goodbye) = hear(&client, Encoding::Proto).await else { panic!() };
    assert_eq!(goodbye.error.unwrap().code, ErrorCode::Draining.as_str());
    assert!(matches!(client.next().await, Err(LinkEnd::Refused(error)) if error.code == ErrorCode::Draining));
    running.await.unwrap();
}
