//! A producer may repeat itself as often as it likes: what is answered with what is known takes no room in the store.
#![allow(clippy::unwrap_used)] // tests: a panic is their failure

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longwire_broker::ageing::Ageing;
use longwire_broker::clock::Clock;
use longwire_broker::hub::Hub;
use longwire_broker::request::Operation;
use longwire_broker::store::local::{LocalConfig, LocalStore};
use longwire_core::command::{Command, Reply};
use longwire_proto::record::{ProducerRef, Sender};
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use prost::Message as _;

/// Bytes of what is repeated, and how often: four times what one session may have unsettled.
const BODY_BYTES: usize = 256 << 10;
const TIMES: usize = 200;

fn publish(record: &Bytes) -> Command {
    Command::Publish {
        sender: Sender { principal: "writer".into(), ..Sender::default() },
        producer: Some(ProducerRef { id: "p".into(), epoch: 0, sequence: 0 }),
        if_end: None,
        may_create: true,
        records: vec![record.clone()],
        meant: None,
    }
}

#[tokio::test]
async fn repetitions_take_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::open(LocalConfig::new(folder.path())).unwrap());
    let hub = Hub::new(store, Clock::start(), Ageing::default(), Duration::from_secs(3600));
    let session = SessionId::parse("repeated").unwrap();
    let body = wire::record::Body::Data(Bytes::from(vec![7; BODY_BYTES]));
    let record = Bytes::from(wire::Record { body: Some(body), ..Default::default() }.encode_to_vec());
    for time in 0..TIMES {
        let reply = hub.ask(&session, Operation::Command(publish(&record))).await;
        let Ok(Some(Reply::Published { from: 0, next: 1, duplicate, .. })) = reply else {
            panic!("time {time}: {reply:?}");
        };
        assert_eq!(duplicate, time > 0);
    }
    hub.drain().await;
}
