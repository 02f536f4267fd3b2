//! What is no frame, and what is too large for one.

use bytes::Bytes;
use futures_util::future::join_all;
use longwire_proto::codec::{Encoding, encode_client};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::FRAME_BYTES_MAX;
use longwire_proto::wire;

use crate::every_transport::client::publish;
use crate::every_transport::transport::{Bed, Transport};

fn no_protobuf(why: &str) -> Error {
    let message = format!("the message is not a ClientFrame: failed to decode Protobuf message: {why}");
    Error::new(ErrorCode::InvalidFrame, message)
}

fn no_json(code: ErrorCode, place: &str, why: &str) -> Error {
    Error::new(code, format!("the JSON is not a frame: at `{place}`: {why}"))
}

pub(super) async fn what_is_no_frame_ends_the_connection(transport: Transport) {
    let bed = Bed::new(transport);
    let unknown = Error::new(
        ErrorCode::UnknownFrame,
        "the frame has none of the contents that this broker knows; docs/protocol.md lists them",
    );
    let proto: &[(&[u8], Error)] = &[
        (b"", unknown.clone()),
        // A field that is not known is a frame that is not known.
        (&[0xfa, 0x07, 0], unknown.clone()),
        (b"\xff\xff\xff", no_protobuf("invalid varint")),
        // A `publish` that is longer than what came.
        (&[0x1a, 0x7f, 1], no_protobuf("ClientFrame.frame: buffer underflow")),
    ];
    let json: &[(&[u8], Error)] = &[
        (b"{}", unknown),
        (br#"{"publish":"#, no_json(ErrorCode::InvalidFrame, "publish", "EOF while parsing a value at line 1 column 11")),
        (br#"{"publish":{"request":-1}}"#, no_json(ErrorCode::InvalidFrame, "publish.request", "not an integer of its range, plain or in quotes at line 1 column 25")),
        (br#"{"ping":{"colour":"red"}}"#, no_json(ErrorCode::UnknownField, "ping.colour", "unknown field `colour`, expected `token` at line 1 column 17")),
    ];
    let cases = match transport.encoding() {
        Encoding::Proto => proto,
        Encoding::Json => json,
    };
    let ends = cases.iter().map(async |(bytes, error)| {
        let mut client = bed.connect().await;
        client.publish("acme/1", &["before"]).await;
        client.send_bytes(Bytes::from_static(bytes)).await;
        client.ended().await.assert_is(error);
        // The same from somebody who has not said hello.
        let mut stranger = bed.open().await;
        stranger.send_bytes(Bytes::from_static(bytes)).await;
        stranger.ended().await.assert_is(error);
    });
    join_all(ends).await;
}

pub(super) async fn a_frame_that_is_too_large_ends_the_connection(transport: Transport) {
    let bed = Bed::new(transport);
    let frame = |length: usize| encode_client(transport.encoding(), publish("acme/1", &[&"x".repeat(length)]));
    let beside = frame(FRAME_BYTES_MAX).len() - FRAME_BYTES_MAX;
    // As large as a frame may be; what is in it may not.
    let mut client = bed.connect().await;
    client.send_bytes(frame(FRAME_BYTES_MAX - beside)).await;
    client.ping(1).await;
    let largest = frame(FRAME_BYTES_MAX - beside + 1);
    assert_eq!(largest.len(), FRAME_BYTES_MAX + 1);
    client.send_bytes(largest).await;
    let message = format!("the frame has {} bytes; at most {FRAME_BYTES_MAX} are allowed", FRAME_BYTES_MAX + 1);
    let error = Error::new(ErrorCode::FrameTooLarge, message).limit(FRAME_BYTES_MAX);
    let mut refused = false;
    let ended = client.ended_after(|frame| refused |= matches!(frame, wire::server_frame::Frame::Refused(_))).await;
    ended.assert_is(&error);
    assert!(refused, "the largest frame was answered");
}
