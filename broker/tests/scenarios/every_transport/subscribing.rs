//! Subscribing: where reading begins, how it goes on, and how it ends.

use std::collections::BTreeMap;

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::every_transport::client::{Client, assert_told, position, publish, subscribe, wish};
use crate::every_transport::transport::{Bed, Transport};
use crate::support::wire_client::{published, record, text};

const SESSION: &str = "acme/1";

fn trim(before: u64) -> ClientFrame {
    ClientFrame::TrimSession(wire::TrimSession {
        request: 0,
        session: SESSION.into(),
        before: position(0, before),
    })
}

fn delete() -> ClientFrame {
    ClientFrame::DeleteSession(wire::DeleteSession { request: 0, session: SESSION.into() })
}

fn close() -> ClientFrame {
    let reason = "done".into();
    ClientFrame::CloseSession(wire::CloseSession { request: 0, session: SESSION.into(), reason })
}

/// What a `subscribed` says, without what belongs to the one request.
fn begun(outcome: &str, from: u64) -> wire::Subscribed {
    wire::Subscribed {
        subscription: 1,
        session: SESSION.into(),
        exists: true,
        outcome: outcome.into(),
        from,
        ..Default::default()
    }
}

async fn subscribed(client: &mut Client, from: From) -> wire::Subscribed {
    let subscribed = client.subscribe(wish(1, SESSION, from)).await;
    wire::Subscribed { request: 0, ..subscribed }
}

/// The texts that are read from somewhere until the end.
async fn texts(client: &mut Client, from: u64, end: u64) -> Vec<String> {
    client.take(1, from, end).await.iter().map(|record| text(record).to_owned()).collect()
}

pub(super) async fn reading_begins_where_it_was_asked_to(transport: Transport) {
    let bed = Bed::new(transport);
    let mut client = bed.connect().await;
    client.publish(SESSION, &["0", "1", "2", "3"]).await;
    let commit = wire::CommitCursor {
        session: SESSION.into(),
        cursor: "phone".into(),
        position: position(0, 3),
        ..Default::default()
    };
    client.ask(ClientFrame::CommitCursor(commit)).await;
    let cases = [
        (From::Start(true), "from_start", 0),
        (From::End(true), "resumed", 4),
        (From::Last(3), "resumed", 1),
        (From::Last(30), "resumed", 0),
        (From::Offset(2), "resumed", 2),
        (From::Position(position(0, 1)), "resumed", 1),
        (From::Position(position(0, 4)), "resumed", 4),
        (From::Cursor("phone".into()), "resumed", 3),
        (From::Cursor("laptop".into()), "from_start", 0),
    ];
    for (from, outcome, offset) in cases {
        let what = format!("{from:?}");
        let wanted = wire::Subscribed { end: 4, ..begun(outcome, offset) };
        // Each takes the place of the one before.
        assert_eq!(subscribed(&mut client, from).await, wanted, "{what}");
        let wanted: Vec<_> = (offset..4).map(|number| number.to_string()).collect();
        assert_eq!(texts(&mut client, offset, 4).await, wanted, "{what}");
    }
    client.ping(1).await;
    client.assert_nothing_else();
}

pub(super) async fn what_became_of_a_place_is_told(transport: Transport) {
    let bed = Bed::new(transport);
    let mut client = bed.connect().await;
    client.publish(SESSION, &["0", "1", "2", "3"]).await;
    client.ask(trim(2)).await;
    let kept = |outcome, from| wire::Subscribed { start: 2, end: 4, ..begun(outcome, from) };
    let gap = wire::Subscribed { gap_from: 1, ..kept("gap", 2) };
    assert_eq!(subscribed(&mut client, From::Position(position(0, 1))).await, gap);
    assert_eq!(texts(&mut client, 2, 4).await, ["2", "3"]);
    assert_eq!(subscribed(&mut client, From::Position(position(0, 5))).await, kept("future_position", 4));
    assert_eq!(subscribed(&mut client, From::Offset(9)).await, kept("future_position", 4));
    assert_eq!(subscribed(&mut client, From::Position(position(7, 3))).await, kept("epoch_changed", 2));
    assert_eq!(texts(&mut client, 2, 4).await, ["2", "3"]);
    client.ask(close()).await;
    let end = client.take(1, 4, 5).await;
    assert_eq!(end[0].kind, 10);
    let ended = client.subscription_ended(1).await;
    assert_eq!((ended.epoch, ended.next), (0, 5));
    assert_told(&ended.error.unwrap(), &Error::new(ErrorCode::SessionClosed, "the session is closed; this was its last record"));
    let closed = wire::Subscribed { end: 5, ..kept("closed", 5) };
    assert_eq!(subscribed(&mut client, From::Position(position(0, 5))).await, closed);
    client.ask(delete()).await;
    assert_told(
        &client.refused(subscribe([wish(1, SESSION, From::Start(true))])).await,
        &Error::no_such_session(),
    );
    client.publish(SESSION, &["anew"]).await;
    let anew = wire::Subscribed { epoch: 1, start: 0, end: 1, ..begun("epoch_changed", 0) };
    assert_eq!(subscribed(&mut client, From::Position(position(0, 5))).await, anew);
    assert_eq!(texts(&mut client, 0, 1).await, ["anew"]);
    // Whoever is overtaken by a deletion is told.
    client.ask(delete()).await;
    let ended = client.subscription_ended(1).await;
    assert_eq!((ended.epoch, ended.next), (1, 1));
    assert_told(&ended.error.unwrap(), &Error::new(ErrorCode::SessionDeleted, "the session was deleted"));
}

pub(super) async fn a_session_can_be_waited_for(transport: Transport) {
    let bed = Bed::new(transport);
    let mut client = bed.connect().await;
    let waiting = wire::Subscription { wait: true, ..wish(1, SESSION, From::Start(true)) };
    let answer = client.subscribe(waiting).await;
    let wanted = wire::Subscribed { request: answer.request, exists: false, ..begun("from_start", 0) };
    assert_eq!(answer, wanted);
    client.publish(SESSION, &["first"]).await;
    assert_eq!(texts(&mut client, 0, 1).await, ["first"]);
}

/// The next records of some subscriptions, by session.
async fn collect(client: &mut Client, subscriptions: &[u32], count: usize) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut so_far = 0;
    while so_far < count {
        let is_one = |frame: &ServerFrame| {
            matches!(frame, ServerFrame::Delivery(delivery) if subscriptions.contains(&delivery.subscription))
        };
        let ServerFrame::Delivery(delivery) = client.next("records come", is_one).await else { panic!() };
        so_far += delivery.records.len();
        let place = match delivery.session.as_str() {
            "" => delivery.subscription.to_string(),
            session => format!("{} {session}", delivery.subscription),
        };
        found.entry(place).or_default().extend(delivery.records.iter().map(|record| text(record).to_owned()));
    }
    found
}

fn found(expected: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    expected.iter().map(|(place, found)| ((*place).to_owned(), texts(found))).collect()
}

pub(super) async fn many_subscriptions_share_a_connection(transport: Transport) {
    let bed = Bed::new(transport);
    let mut client = bed.connect().await;
    client.publish("acme/a", &["a0", "a1"]).await;
    client.publish("acme/b", &["b0"]).await;
    let start = || From::Start(true);
    let pattern = wire::Subscription { pattern: "acme/*".into(), ..wish(9, "", start()) };
    let wishes =
        [wish(1, "acme/a", start()), wish(2, "acme/b", start()), wish(3, "acme/none", start()), pattern];
    let request = client.request(subscribe(wishes)).await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(match client.answer(request).await {
            ServerFrame::Subscribed(answer) => (answer.subscription, answer.outcome),
            ServerFrame::Refused(answer) => (answer.subscription, answer.error.unwrap().code),
            other => panic!("{other:?}"),
        });
    }
    answers.sort();
    let wanted = [(1, "from_start"), (2, "from_start"), (3, "session_not_found"), (9, "resumed")];
    assert_eq!(answers, wanted.map(|(number, what)| (number, what.to_owned())));
    let wanted = [("1", &["a0", "a1"][..]), ("2", &["b0"]), ("9 acme/a", &["a0", "a1"]), ("9 acme/b", &["b0"])];
    assert_eq!(collect(&mut client, &[1, 2, 9], 6).await, found(&wanted));
    // A session that comes later joins the pattern.
    let mut other = bed.connect().await;
    other.publish("acme/c", &["c0"]).await;
    other.publish("acme/deep/er", &["not matched"]).await;
    other.publish("acme/a", &["a2"]).await;
    let wanted = [("1", &["a2"][..]), ("9 acme/a", &["a2"]), ("9 acme/c", &["c0"])];
    assert_eq!(collect(&mut client, &[1, 2, 9], 3).await, found(&wanted));
    // The pattern was told of each of them before its first record.
    for _ in 0..3 {
        let joined = |frame: &ServerFrame| {
            matches!(frame, ServerFrame::Subscribed(joined) if joined.subscription == 9 && joined.request == 0)
        };
        let ServerFrame::Subscribed(joined) = client.next("it joined", joined).await else { panic!() };
        assert!(joined.exists && joined.from == 0, "{joined:?}");
    }
    client.ping(1).await;
    client.assert_nothing_else();
}

pub(super) async fn a_number_is_registered_again_and_given_up(transport: Transport) {
    let bed = Bed::new(transport);
    let mut client = bed.connect().await;
    let mut writer = bed.connect().await;
    for session in ["acme/a", "acme/b"] {
        client.publish(session, &["old"]).await;
    }
    client.subscribe(wish(1, "acme/a", From::End(true))).await;
    for round in 0..5 {
        for session in ["acme/b", "acme/a"] {
            // What comes from here on is of the new one, whatever was on its way.
            let answer = client.subscribe(wish(1, session, From::End(true))).await;
            assert_eq!(answer.session, session);
            let other = if session == "acme/a" { "acme/b" } else { "acme/a" };
            writer.publish(other, &["not this"]).await;
            let text = format!("{session} {round}");
            writer.publish(session, &[&text]).await;
            let delivery = client.delivery(1).await;
            assert_eq!(crate::support::wire_client::text(&delivery.records[0]), text);
        }
    }
    client.unsubscribe(1).await;
    writer.publish("acme/a", &["unread"]).await;
    client.ping(1).await;
    client.assert_nothing_else();
    let gone = ClientFrame::Unsubscribe(wire::Unsubscribe { request: 0, subscription: 1 });
    let error = Error::new(ErrorCode::SubscriptionNotFound, "there is no subscription 1").field("subscription");
    assert_told(&client.refused(gone).await, &error);
    let from = published(writer.ask(publish("acme/a", &["read again"])).await).from;
    let answer = client.subscribe(wish(1, "acme/a", From::Offset(from))).await;
    assert_eq!(answer.outcome, "resumed");
    assert_eq!(client.take(1, from, from + 1).await.len(), 1);
}

pub(super) async fn a_window_holds_deliveries_back_until_there_is_credit(transport: Transport) {
    const RECORDS: u64 = 6;
    let bed = Bed::new(transport);
    let mut client = bed.connect().await;
    let large = "x".repeat(100_000);
    for _ in 0..RECORDS {
        client.publish(SESSION, &[&large]).await;
    }
    client.subscribe(wire::Subscription { window_bytes: Some(1), ..wish(1, SESSION, From::Start(true)) }).await;
    let mut next = 0;
    while next < RECORDS {
        let delivery = client.delivery(1).await;
        assert_eq!(delivery.from, next);
        next = delivery.next;
        // Another subscription begins and is read to its end, and still nothing has come of the first.
        client.subscribe(wish(2, SESSION, From::Last(1))).await;
        client.take(2, RECORDS - 1, RECORDS).await;
        client.ping(next).await;
        client.assert_nothing_else();
        for _ in 0..2 {
            client.credit(1, next).await;
        }
    }
    client.credit(99, 1).await;
    client.ping(99).await;
}

pub(super) async fn a_filter_covers_every_offset(transport: Transport) {
    let bed = Bed::new(transport);
    let mut client = bed.connect().await;
    let typed = |name: &str| wire::Record { r#type: name.into(), ..record(name) };
    let publish = |names: &[&str]| {
        let records = names.iter().map(|name| typed(name)).collect();
        ClientFrame::Publish(wire::Publish { session: SESSION.into(), records, ..Default::default() })
    };
    client.ask(publish(&["a", "b", "a", "b"])).await;
    let filter = Some(wire::Filter { kinds: vec![0], types: vec!["a".into()], ..Default::default() });
    client.subscribe(wire::Subscription { filter, ..wish(1, SESSION, From::Offset(1)) }).await;
    client.ask(publish(&["b", "b", "a", "b"])).await;
    let (mut next, mut seen) = (1, Vec::new());
    while next < 8 {
        let delivery = client.delivery(1).await;
        assert_eq!((delivery.from, delivery.offsets.len()), (next, delivery.records.len()));
        next = delivery.next;
        seen.extend(delivery.offsets);
    }
    assert_eq!((next, seen), (8, vec![2, 6]));
}

/// Readers at the tail of a session under load: none is told an end that is not, and none sleeps through the last record.
pub(super) async fn catching_up_becomes_live_without_a_gap(transport: Transport) {
    const ROUNDS: u64 = 30;
    const PUBLISHES: u64 = 40;
    const END: u64 = ROUNDS * PUBLISHES;
    let bed = Bed::new(transport);
    let mut writer = bed.connect().await;
    let mut reader = bed.connect().await;
    let writing = tokio::spawn(async move {
        for _ in 0..ROUNDS {
            let mut requests = Vec::new();
            for _ in 0..PUBLISHES {
                requests.push(writer.request(publish(SESSION, &["x"])).await);
            }
            // The end of a round is the end of the load for a moment: who misses its wake-up hangs here.
            for request in requests {
                published(writer.answer(request).await);
            }
        }
    });
    let (mut next, mut number) = (0, 0);
    while next < END {
        number += 1;
        let wish = wire::Subscription { wait: true, ..wish(number, SESSION, From::Offset(next)) };
        assert_eq!(reader.subscribe(wish).await.from, next);
        let until = (next + 3 * PUBLISHES).min(END);
        while next < until {
            let delivery = reader.delivery(number).await;
            assert_eq!(delivery.from, next);
            next = delivery.next;
        }
        reader.unsubscribe(number).await;
    }
    writing.await.unwrap();
}
