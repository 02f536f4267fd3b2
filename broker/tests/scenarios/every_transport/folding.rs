//! The folded view: deltas that follow each other come as one, and what is left of one when reading resumes within it.

use longwire_proto::record::kind;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::every_transport::client::{Client, subscribe, wish};
use crate::every_transport::transport::{Bed, Transport};
use crate::support::wire_client::{published, record, text};

const SESSION: &str = "acme/1";

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
    let filter = Some(wire::Filter { kinds: vec![kind::DELTA], types: Vec::new() });
    client.subscribe(wire::Subscription { filter, ..folded(3, From::Start(true)) }).await;
    assert_eq!(take(&mut client, 3, 0, 9).await, told(&[(5, Some(3), 0, "xy"), (8, Some(2), 0, "To be, or not to be.")]));
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
