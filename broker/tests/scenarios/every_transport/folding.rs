//! The folded view: deltas that follow each other come as one, and what is left of one when reading resumes within it.

use longwire_proto::limits::FOLD_BYTES_MAX;
use longwire_proto::position::Position;
use longwire_proto::kind;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::every_transport::client::{Client, subscribe, wish};
use crate::every_transport::transport::{Bed, Transport};
use crate::support::rng::Rng;
use crate::support::wire_client::{published, record, text};

const SESSION: &str = "acme/1";
const SEED: u64 = 7;

fn publish(records: Vec<wire::Record>) -> ClientFrame {
    ClientFrame::Publish(wire::Publish { session: SESSION.into(), records, ..Default::default() })
}

fn opens(id: &str) -> wire::Record {
    wire::Record { id: id.into(), grows: true, ..record("") }
}

fn delta(message: &str, piece: &str) -> wire::Record {
    wire::Record { kind: kind::DELTA, message: message.into(), ..record(piece) }
}

fn folded(number: u32, from: From) -> wire::Subscription {
    wire::Subscription { view: "folded".into(), ..wish(number, SESSION, from) }
}

/// What is delivered up to an offset: of each record its offset, the first one that it stands for, where it is in its message and
/// what it says.
async fn take(client: &mut Client, number: u32, from: u64, until: u64) -> Vec<(u64, Option<u64>, u64, String)> {
    let (mut next, mut taken) = (from, Vec::new());
    while next < until {
        let delivery = client.delivery(number).await;
        assert_eq!(delivery.from, next);
        next = delivery.next;
        let dense = delivery.offsets.is_empty() && !delivery.records.is_empty();
        let offsets = if dense { (delivery.from..delivery.next).collect() } else { delivery.offsets };
        assert_eq!(offsets.len(), delivery.records.len());
        taken.extend(offsets.into_iter().zip(delivery.records).map(|(offset, record)| {
            (offset, record.folded_from, record.at_byte, text(&record).to_owned())
        }));
    }
    assert_eq!(next, until);
    taken
}

fn told(records: &[(u64, Option<u64>, u64, &str)]) -> Vec<(u64, Option<u64>, u64, String)> {
    records.iter().map(|(offset, from, at_byte, text)| (*offset, *from, *at_byte, (*text).to_owned())).collect()
}

pub(super) async fn deltas_come_folded_to_who_asks_for_it(transport: Transport) {
    let bed = Bed::new(transport);
    let mut client = bed.connect().await;
    let records = vec![
        opens("m"),
        opens("n"),
        delta("m", "To be"),
        delta("n", "x"),
        delta("m", ", or"),
        delta("n", "y"),
        record("meanwhile"),
        delta("m", " not"),
        wire::Record { close: "complete".into(), ..delta("m", " to be.") },
    ];
    published(client.ask(publish(records)).await);
    client.subscribe(folded(1, From::Start(true))).await;
    let whole = [
        (0, None, 0, ""),
        (1, None, 0, ""),
        (4, Some(2), 0, "To be, or"),
        (5, Some(3), 0, "xy"),
        (6, None, 0, "meanwhile"),
        (8, Some(7), 9, " not to be."),
    ];
    assert_eq!(take(&mut client, 1, 0, 9).await, told(&whole));
    // Within a fold it goes on with exactly the rest.
    client.subscribe(folded(2, From::Offset(3))).await;
    let rest = [(4, None, 5, ", or"), (5, Some(3), 0, "xy"), (6, None, 0, "meanwhile"), (8, Some(7), 9, " not to be.")];
    assert_eq!(take(&mut client, 2, 3, 9).await, told(&rest));
    // What does not pass separates nothing.
    let filter = Some(wire::Filter { kinds: vec![kind::DELTA], ..Default::default() });
    client.subscribe(wire::Subscription { filter, ..folded(3, From::Start(true)) }).await;
    assert_eq!(take(&mut client, 3, 0, 9).await, told(&[(5, Some(3), 0, "xy"), (8, Some(2), 0, "To be, or not to be.")]));
    let filter = Some(wire::Filter { ids: vec!["m".into()], ..Default::default() });
    client.subscribe(wire::Subscription { filter, ..wish(7, SESSION, From::Start(true)) }).await;
    let about: Vec<u64> = take(&mut client, 7, 0, 9).await.into_iter().map(|(offset, ..)| offset).collect();
    assert_eq!(about, [0, 2, 4, 7, 8]);
    // Who did not ask for it gets every record.
    client.subscribe(wish(4, SESSION, From::Start(true))).await;
    assert_eq!(client.take(4, 0, 9).await.len(), 9);
    // Those who follow, too.
    published(client.ask(publish(vec![delta("n", "1"), delta("n", "2"), delta("n", "3")])).await);
    assert_eq!(take(&mut client, 1, 9, 12).await, told(&[(11, Some(9), 2, "123")]));
    assert_eq!(client.take(4, 9, 12).await.len(), 3);
    let pattern = wire::Subscription { pattern: "acme/*".into(), session: String::new(), ..folded(5, From::Start(true)) };
    client.subscribe(pattern).await;
    assert!(matches!(client.of(5).await, ServerFrame::Subscribed(told) if told.session == SESSION));
    assert_eq!(take(&mut client, 5, 0, 12).await.len(), 7);

    let read = wire::Read { session: SESSION.into(), limit: 2, view: "folded".into(), ..Default::default() };
    let ServerFrame::Page(page) = client.ask(ClientFrame::Read(read.clone())).await else { panic!() };
    assert_eq!((page.from, page.next, page.offsets), (8, 12, vec![8, 11]));
    assert_eq!(page.records.iter().map(text).collect::<Vec<_>>(), [" to be.", "123"]);
    let unknown = client.refused(ClientFrame::Read(wire::Read { view: "bent".into(), ..read })).await;
    assert_eq!((unknown.code.as_str(), unknown.field.as_str()), ("invalid_argument", "view"));
    for (wrong, field) in [
        (wire::Subscription { view: "bent".into(), ..folded(6, From::End(true)) }, "view"),
        (wire::Subscription { rollup_ms: 501, ..folded(6, From::End(true)) }, "rollup_ms"),
        (wire::Subscription { rollup_ms: 1, ..wish(6, SESSION, From::End(true)) }, "rollup_ms"),
        (wire::Subscription { rollup_ms: 1, session: String::new(), pattern: "acme/*".into(), ..folded(6, From::End(true)) }, "rollup_ms"),
    ] {
        let error = client.refused(subscribe([wrong])).await;
        assert_eq!((error.code.as_str(), error.field.as_str()), ("invalid_argument", field));
    }
    let forged = [
        (wire::Record { folded_from: Some(1), ..delta("n", "x") }, "folded_from"),
        (
            wire::Record { body: Some(wire::record::Body::Reference(wire::Reference { bytes: 1 })), ..delta("n", "") },
            "reference",
        ),
    ];
    for (forged, field) in forged {
        let error = client.refused(publish(vec![forged])).await;
        assert_eq!((error.code.as_str(), error.field.as_str()), ("field_reserved", field));
    }
}

pub(super) async fn deltas_are_gathered_until_the_time_has_come_or_something_else_has(transport: Transport) {
    let bed = Bed::new(transport);
    let (mut writer, mut reader) = (bed.connect().await, bed.connect().await);
    published(writer.ask(publish(vec![opens("m")])).await);
    for number in 1..=2 {
        reader.subscribe(wire::Subscription { rollup_ms: 500, ..folded(number, From::End(true)) }).await;
    }
    // Nothing but the time brings the second half, to either of them.
    let mut next = 1;
    for _ in 0..2 {
        for _ in 0..5 {
            published(writer.ask(publish(vec![delta("m", "x")])).await);
        }
        for number in 1..=2 {
            let taken = take(&mut reader, number, next, next + 5).await;
            assert_eq!(taken.iter().map(|(.., text)| text.len()).sum::<usize>(), 5);
        }
        next += 5;
    }
    // However much comes: what is no delta brings it along.
    for _ in 0..50 {
        published(writer.ask(publish(vec![delta("m", "x")])).await);
    }
    published(writer.ask(publish(vec![record("now")])).await);
    let mut taken = Vec::new();
    while next < 62 {
        let delivery = reader.delivery(1).await;
        assert_eq!(delivery.from, next);
        next = delivery.next;
        taken.extend(delivery.records);
    }
    assert_eq!(taken.iter().map(|record| text(record).len()).sum::<usize>(), 50 + 3);
    assert_eq!(text(taken.last().unwrap()), "now");
}

async fn bytes(client: &mut Client, read: wire::ReadMessage) -> wire::MessageBytes {
    let read = wire::ReadMessage { session: SESSION.into(), ..read };
    match client.ask(ClientFrame::ReadMessage(read)).await {
        ServerFrame::MessageBytes(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

pub(super) async fn bytes_of_a_message_are_read_at_any_place(transport: Transport) {
    const BATCHES: usize = 12;
    let bed = Bed::new(transport);
    let mut client = bed.connect().await;
    let mut rng = Rng::from_env(SEED);
    published(client.ask(publish(vec![wire::Record { grows: true, id: "m".into(), ..record("begin") }, opens("n")])).await);
    // Two messages that grow at the same time, and others in between.
    let mut whole = b"begin".to_vec();
    for batch in 0..BATCHES {
        let mut records = Vec::new();
        for _ in 0..200 {
            records.push(match rng.below(3) {
                0 => record("between"),
                1 => delta("n", "of another"),
                _ => {
                    let piece = format!("{} ", rng.below(1_000_000));
                    whole.extend_from_slice(piece.as_bytes());
                    delta("m", &piece)
                }
            });
        }
        if batch == BATCHES / 2 {
            let data = vec![0xfe; FOLD_BYTES_MAX];
            whole.extend_from_slice(&data);
            records.push(wire::Record { body: Some(wire::record::Body::Data(data.into())), ..delta("m", "") });
        }
        published(client.ask(publish(records)).await);
    }
    let of = |from_byte: u64| wire::ReadMessage { message: "m".into(), from_byte, ..Default::default() };
    let total = whole.len() as u64;
    for _ in 0..40 {
        let (from, bytes_max) = (rng.below(total), rng.below(1000) + 1);
        let hint = (rng.below(2) == 0).then(|| rng.below(3000));
        let wish = wire::ReadMessage { bytes_max: u32::try_from(bytes_max).unwrap(), hint, ..of(from) };
        let found = bytes(&mut client, wish).await;
        let until = (from + bytes_max).min(total);
        assert_eq!(found.data, whole[from as usize..until as usize], "{from} to {until}, {hint:?}");
        assert_eq!((found.from_byte, found.total_bytes, found.missing_bytes), (from, total, 0));
        assert_eq!((found.message.as_str(), found.close.as_str()), ("m", ""));
        // The hint leads on.
        if until < total {
            let next = bytes(&mut client, wire::ReadMessage { bytes_max: 1, hint: Some(found.hint), ..of(until) }).await;
            assert_eq!(next.data[..], whole[until as usize..=until as usize]);
        }
    }
    assert!(bytes(&mut client, of(total)).await.data.is_empty(), "the end so far");
    let beyond = client.refused(ClientFrame::ReadMessage(wire::ReadMessage { session: SESSION.into(), ..of(total + 1) })).await;
    assert_eq!((beyond.code.as_str(), beyond.field.as_str(), beyond.expected), ("out_of_range", "from_byte", total));
    let unknown = wire::ReadMessage { session: SESSION.into(), message: "x".into(), ..Default::default() };
    assert_eq!(client.refused(ClientFrame::ReadMessage(unknown)).await.code, "message_not_found");

    // What is gone is told, and what is behind it is there.
    let last = published(client.ask(publish(vec![delta("m", "secret"), delta("m", "behind")])).await);
    let close = wire::Record { close: "complete".into(), ..delta("m", "!") };
    published(client.ask(publish(vec![close])).await);
    let ranges = vec![wire::OffsetRange { from: last.from, next: last.from + 1 }];
    let erase = wire::EraseRecords { session: SESSION.into(), ranges, ..Default::default() };
    assert!(matches!(client.ask(ClientFrame::EraseRecords(erase)).await, ServerFrame::Erased(_)));
    let found = bytes(&mut client, of(total)).await;
    assert_eq!((found.missing_bytes, found.missing.as_str(), found.data.len()), (6, "erased", 0));
    let behind = bytes(&mut client, of(total + 6)).await;
    assert_eq!((&behind.data[..], behind.close.as_str(), behind.total_bytes), (&b"behind!"[..], "complete", total + 13));
    let before = Position { epoch: 0, offset: last.from };
    let trim = wire::TrimSession { session: SESSION.into(), before: before.to_string(), ..Default::default() };
    assert!(matches!(client.ask(ClientFrame::TrimSession(trim)).await, ServerFrame::SessionDescription(_)));
    let found = bytes(&mut client, of(3)).await;
    assert_eq!((found.missing.as_str(), found.data.len()), ("trimmed", 0));
    assert_eq!(found.missing_bytes, total - 3, "up to the first that is there, erased or not");
}
