//! Who is let in, and how those are sent away who are not.

use bytes::Bytes;
use longwire_proto::codec::{Encoding, encode_client};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, FRAME_BYTES_MAX, HELLO_BYTES_MAX, PRODUCER_WINDOW, RECORD_BYTES_MAX,
    REQUESTS_MAX, SUBSCRIPTIONS_MAX,
};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;

use crate::every_transport::client::Ended;
use crate::every_transport::transport::{ALL_OF_ACME, Bed, Transport};
use crate::support::tokens::TTL_MS;

pub(super) async fn who_is_let_in_is_told_the_limits_and_times(transport: Transport) {
    let bed = Bed::with(transport, &[("HEARTBEAT_MS", "12345"), ("IDLE_TIMEOUT_MS", "54321")]);
    let hello = wire::Hello { device: "phone".into(), client: "suite/1".into(), ..bed.hello(&[ALL_OF_ACME]) };
    let (mut client, mut welcome) = bed.greet(hello).await.unwrap();
    let now = client.ping(7).await;
    assert!(welcome.expires_ms > now && welcome.expires_ms <= now + TTL_MS + 1_000, "{welcome:?}");
    assert!(welcome.connection.starts_with('c') && welcome.broker.starts_with("longwire/"), "{welcome:?}");
    welcome.expires_ms = 0;
    let wanted = wire::Welcome {
        broker: welcome.broker.clone(),
        connection: welcome.connection.clone(),
        principal: "ada".into(),
        limits: Some(wire::Limits {
            frame_bytes_max: FRAME_BYTES_MAX as u64,
            record_bytes_max: RECORD_BYTES_MAX as u64,
            batch_bytes_max: BATCH_BYTES_MAX as u64,
            batch_records_max: BATCH_RECORDS_MAX as u64,
            subscriptions_max: SUBSCRIPTIONS_MAX as u64,
            requests_max: REQUESTS_MAX as u64,
            producer_window: PRODUCER_WINDOW as u64,
        }),
        heartbeat_ms: 12345,
        idle_timeout_ms: 54321,
        ..Default::default()
    };
    assert_eq!(welcome, wanted);
    client.publish("acme/1", &["x"]).await;
    client.leave().await;
}
