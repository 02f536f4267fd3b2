//! Who is let in, and how those are sent away who are not.

use futures_util::future::join_all;
use longwire_proto::codec::encode_client;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, FRAME_BYTES_MAX, HELLO_BYTES_MAX, PRODUCER_WINDOW, RECORD_BYTES_MAX,
    REQUESTS_MAX, SUBSCRIPTIONS_MAX, TITLE_BYTES_MAX,
};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;

use crate::every_transport::client::Ended;
use crate::every_transport::transport::{ALL_OF_ACME, Bed, Transport};
use crate::support::tokens::TTL_MS;

/// A token's time is whole seconds; this one lives for one or two.
const SHORT_MS: u64 = 1_000;

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

/// How somebody is sent away who begins with a frame.
async fn sent_away(bed: &Bed, first: ClientFrame) -> Ended {
    let mut client = bed.open().await;
    client.send(first).await;
    client.ended().await
}

pub(super) async fn who_is_not_let_in_is_told_why(transport: Transport) {
    let bed = Bed::new(transport);
    let fine = bed.hello(&[ALL_OF_ACME]);
    let with = |token: String| ClientFrame::Hello(wire::Hello { token, ..fine.clone() });
    let expired = bed.tokens.short("ada", &[ALL_OF_ACME], SHORT_MS);
    // Until then it lets in, and the end of its time is the end of the connection.
    let ended = bed.connect_as(&expired).await.ended().await;
    ended.assert_is(&token_expired());
    let phone = bed.tokens.token_for("ada", &[ALL_OF_ACME], TTL_MS, Some("phone"));
    let refused = [
        (
            ClientFrame::Ping(wire::Ping { token: 1 }),
            Error::new(ErrorCode::HelloExpected, "the first frame of a connection must be `hello`"),
        ),
        (
            with(String::new()),
            Error::new(
                ErrorCode::Unauthenticated,
                "this broker wants to know who connects: send a token",
            )
            .field("token"),
        ),
        (
            with("nonsense".into()),
            Error::new(ErrorCode::Unauthenticated, "a token has three parts, separated by `.`").field("token"),
        ),
        (with(expired), Error::new(ErrorCode::TokenExpired, "the token has expired").field("token")),
        (
            ClientFrame::Hello(wire::Hello { token: phone, device: "laptop".into(), ..Default::default() }),
            Error::new(ErrorCode::Unauthenticated, "the token is for the device `phone` only").field("device"),
        ),
        (
            ClientFrame::Hello(wire::Hello { device: "my phone".into(), ..fine.clone() }),
            Error::new(ErrorCode::InvalidArgument, "`device` must have 1 to 64 of the characters A-Z a-z 0-9 _ -").field("device").limit(64),
        ),
        (
            ClientFrame::Hello(wire::Hello { client: "x".repeat(TITLE_BYTES_MAX + 1), ..fine.clone() }),
            Error::new(ErrorCode::InvalidArgument, "`client` has a length of 513; at most 512 is allowed").field("client").limit(TITLE_BYTES_MAX),
        ),
        (
            ClientFrame::Hello(wire::Hello { client: "x".repeat(HELLO_BYTES_MAX), ..fine.clone() }),
            Error::new(
                ErrorCode::FrameTooLarge,
                format!("the hello is not within the first {HELLO_BYTES_MAX} bytes"),
            )
            .limit(HELLO_BYTES_MAX),
        ),
    ];
    let sent_away = refused.map(async |(first, error)| sent_away(&bed, first).await.assert_is(&error));
    join_all(sent_away).await;
    // Nobody of them has used anything up.
    bed.connect().await.publish("acme/1", &["x"]).await;
    bed.metric_is("longwire_connections", 0).await;
}

fn token_expired() -> Error {
    Error::new(ErrorCode::TokenExpired, "the token has expired; connect with a new one")
}

pub(super) async fn a_second_hello_ends_the_connection(transport: Transport) {
    let bed = Bed::new(transport);
    let mut client = bed.connect().await;
    client.send(ClientFrame::Hello(bed.hello(&[ALL_OF_ACME]))).await;
    let error = Error::new(ErrorCode::HelloRepeated, "`hello` is sent once, as the first frame");
    client.ended().await.assert_is(&error);
}

pub(super) async fn a_hello_that_is_late_is_too_late(transport: Transport) {
    let bed = Bed::with(transport, &[("HANDSHAKE_TIMEOUT_MS", "300")]);
    let ended = bed.open().await.ended().await;
    let error = Error::new(ErrorCode::HandshakeTimeout, "no hello came within 300 ms");
    ended.close.assert_is(&error);
    // A stream on which nobody ever said anything is none to answer on.
    assert!(ended.goodbye.is_none() || ended.error() == error.to_wire(), "{ended:?}");
}

pub(super) async fn frames_may_follow_the_hello_at_once(transport: Transport) {
    let bed = Bed::new(transport);
    let mut client = bed.open().await;
    client.send(ClientFrame::Hello(bed.hello(&[ALL_OF_ACME]))).await;
    for token in 0..10 {
        client.send(ClientFrame::Ping(wire::Ping { token })).await;
    }
    let large = "x".repeat(2 * HELLO_BYTES_MAX);
    let publish = crate::every_transport::client::publish("acme/1", &[&large]);
    assert!(encode_client(transport.encoding(), publish.clone()).len() > HELLO_BYTES_MAX);
    let request = client.request(publish).await;
    client.answer(request).await;
}
