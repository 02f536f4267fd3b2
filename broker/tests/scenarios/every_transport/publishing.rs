//! Publishing: what is acknowledged, once, and what is refused as a whole.

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;

use crate::every_transport::client::{Client, assert_told, wish};
use crate::every_transport::transport::{Bed, Transport};
use crate::support::wire_client::{published, record, text};

fn publish(epoch: u64, sequence: u64, texts: &[&str]) -> wire::Publish {
    wire::Publish {
        session: "acme/1".into(),
        records: texts.iter().map(|text| record(text)).collect(),
        producer: Some(wire::Producer { id: "p".into(), epoch, sequence }),
        ..Default::default()
    }
}

async fn taken(client: &mut Client, publish: wire::Publish) -> (u64, u64, bool) {
    let wire::Published { request: _, epoch: _, from, next, duplicate } =
        published(client.ask(ClientFrame::Publish(publish)).await);
    (from, next, duplicate)
}

async fn refused(client: &mut Client, publish: wire::Publish, error: Error) {
    assert_told(&client.refused(ClientFrame::Publish(publish)).await, &error);
}

fn gap(sequence: u64, next: u64) -> Error {
    let message =
        format!("sequence {sequence} of producer `p` skips: the next is {next}; publish in order");
    Error::new(ErrorCode::SequenceGap, message).field("producer").expected(next)
}

pub(super) async fn a_producer_is_answered_the_same_however_often_it_repeats(transport: Transport) {
    let bed = Bed::new(transport);
    let client = &mut bed.connect().await;
    let unknown = Error::new(
        ErrorCode::ProducerUnknown,
        "producer `p` is not known here, so its first sequence must be 0, not 3; publish under a new producer id",
    );
    refused(client, publish(0, 3, &["x"]), unknown.field("producer")).await;
    assert_eq!(taken(client, publish(0, 0, &["a", "b"])).await, (0, 2, false));
    assert_eq!(taken(client, publish(0, 1, &["c"])).await, (2, 3, false));
    // Again, over another connection too.
    for client in [&mut *client, &mut bed.connect().await] {
        assert_eq!(taken(client, publish(0, 0, &["a", "b"])).await, (0, 2, true));
        assert_eq!(taken(client, publish(0, 1, &["c"])).await, (2, 3, true));
    }
    let conflict = Error::new(
        ErrorCode::SequenceConflict,
        "sequence 1 of producer `p` was published with another payload; use a new sequence for a new payload",
    );
    refused(client, publish(0, 1, &["other"]), conflict.field("producer").expected(2)).await;
    refused(client, publish(0, 5, &["x"]), gap(5, 2)).await;
    assert_eq!(taken(client, publish(4, 0, &["newer"])).await, (3, 4, false));
    let fenced = Error::new(
        ErrorCode::ProducerFenced,
        "producer `p` has published under epoch 4; epoch 0 is fenced, this writer must stop",
    );
    refused(client, publish(0, 2, &["late"]), fenced.field("producer").expected(4)).await;
    refused(client, publish(9, 1, &["x"]), gap(1, 0)).await;
    let guarded = |if_end, sequence| wire::Publish { if_end: Some(if_end), ..publish(4, sequence, &["last"]) };
    let mismatch =
        Error::new(ErrorCode::EndMismatch, "the session's end is 4, not 9; read what is new and decide again");
    refused(client, guarded(9, 1), mismatch.field("if_end").expected(4)).await;
    assert_eq!(taken(client, guarded(4, 1)).await, (4, 5, false));
    assert_eq!(taken(client, guarded(4, 1)).await, (4, 5, true));
}

pub(super) async fn a_batch_is_taken_as_a_whole_or_not_at_all(transport: Transport) {
    let bed = Bed::new(transport);
    let client = &mut bed.connect().await;
    let reserved = wire::Record { kind: 10, ..record("x") };
    let bad = wire::Publish { records: vec![record("1"), reserved, record("3")], ..publish(0, 0, &[]) };
    let reserved = Error::new(
        ErrorCode::KindReserved,
        "record 1: kind 10 is reserved for the broker; publish kinds 0 to 7 as protocol.md has them, or 32 and above for your own",
    );
    refused(client, bad, reserved.field("kind")).await;
    assert_eq!(taken(client, publish(0, 0, &["a", "b", "c"])).await, (0, 3, false));
    client.subscribe(wish(1, "acme/1", From::Start(true))).await;
    let texts: Vec<_> = client.take(1, 0, 3).await.iter().map(|record| text(record).to_owned()).collect();
    assert_eq!(texts, ["a", "b", "c"]);
}

pub(super) async fn what_one_connection_publishes_to_a_session_keeps_its_order(transport: Transport) {
    const PUBLISHES: u64 = 1500;
    let bed = Bed::new(transport);
    let client = &mut bed.connect().await;
    // Many small pieces that nobody reads are a flood to HTTP/2, so these are not small.
    let text_of = |sequence: u64| format!("{sequence} {}", "x".repeat(256));
    // More than may wait at once: the broker reads no further until some are answered.
    let mut requests = Vec::new();
    for sequence in 0..PUBLISHES {
        let publish = publish(0, sequence, &[&text_of(sequence)]);
        requests.push(client.request(ClientFrame::Publish(publish)).await);
    }
    for (offset, request) in (0..).zip(requests) {
        assert_eq!(published(client.answer(request).await).from, offset);
    }
    client.subscribe(wish(1, "acme/1", From::Start(true))).await;
    for (sequence, record) in (0..).zip(client.take(1, 0, PUBLISHES).await) {
        assert_eq!(text(&record), text_of(sequence));
    }
}

/// A record with everything in it that a writer may set.
fn rich() -> wire::Record {
    wire::Record {
        id: "m-1".into(),
        kind: 4_000_000_000,
        r#type: "note".into(),
        to: vec!["bob".into(), "eve".into()],
        mode: "steer".into(),
        run: "r-1".into(),
        reply_to: "m-0".into(),
        replaces: "m-00".into(),
        headers: [("k", "v"), ("höi", "\u{1f980}"), ("empty", "")].map(|(k, v)| (k.into(), v.into())).into(),
        content_type: "text/markdown".into(),
        ..record("höi\0\n\"\\")
    }
}

pub(super) async fn what_is_in_a_record_arrives_as_it_was_sent(transport: Transport) {
    let bed = Bed::new(transport);
    let client = &mut bed.connect().await;
    let data = |bytes: &[u8]| wire::Record {
        body: Some(wire::record::Body::Data(bytes.to_vec().into())),
        ..Default::default()
    };
    let all: Vec<u8> = (0..=255).collect();
    let records = vec![rich(), data(&all), data(b""), record(""), wire::Record::default()];
    let whole = wire::Publish { records: records.clone(), ..publish(7, 0, &[]) };
    assert_eq!(taken(client, whole).await, (0, 5, false));
    client.subscribe(wish(1, "acme/1", From::Start(true))).await;
    for (sent, came) in records.iter().zip(client.take(1, 0, 5).await) {
        assert!(came.time_ms > 1_600_000_000_000);
        let stamped = wire::Record {
            time_ms: came.time_ms,
            sender: Some(wire::Sender { principal: "ada".into(), ..Default::default() }),
            producer: Some(wire::Producer { id: "p".into(), epoch: 7, sequence: 0 }),
            ..sent.clone()
        };
        assert_eq!(came, stamped);
    }
}
