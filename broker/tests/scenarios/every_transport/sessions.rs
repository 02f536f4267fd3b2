//! What is asked of whole sessions: descriptions, lists, pages, and the life of a log.

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::every_transport::client::{Client, about, assert_told, position, wish};
use crate::every_transport::transport::{Bed, Transport};
use crate::support::wire_client::{record, text};

const SESSION: &str = "acme/1";

async fn described(client: &mut Client, frame: ClientFrame) -> wire::Session {
    match client.ask(frame).await {
        ServerFrame::SessionDescription(description) => description.session.unwrap(),
        other => panic!("{other:?} is no description"),
    }
}

fn describe(session: &str) -> ClientFrame {
    ClientFrame::DescribeSession(wire::DescribeSession { request: 0, session: session.into() })
}

fn create(session: &str, meta: wire::SessionMeta, update: bool) -> ClientFrame {
    let create = wire::CreateSession { request: 0, session: session.into(), meta: Some(meta), update };
    ClientFrame::CreateSession(create)
}

fn done(frame: &ServerFrame) -> bool {
    matches!(frame, ServerFrame::Done(_))
}

pub(super) async fn a_session_is_created_described_listed_closed_and_deleted(transport: Transport) {
    let bed = Bed::new(transport);
    let mut client = bed.connect().await;
    let client = &mut client;
    assert_told(&client.refused(describe(SESSION)).await, &Error::no_such_session());
    let labels: std::collections::BTreeMap<String, String> = [("team".into(), "a".into())].into();
    let meta = wire::SessionMeta {
        title: "First".into(),
        labels: labels.clone(),
        parent: "acme".into(),
        retention: Some(wire::Retention { records: Some(1000), ..Default::default() }),
        expiry: Some(wire::Expiry { idle_ms: Some(3_600_000), ..Default::default() }),
    };
    let made = described(client, create(SESSION, meta.clone(), false)).await;
    let wanted = wire::Session {
        session: SESSION.into(),
        end: 1,
        meta: Some(meta.clone()),
        created_ms: made.created_ms,
        last_time_ms: made.created_ms,
        lineage: vec![wire::LineageEntry::default()],
        status: "idle".into(),
        ..Default::default()
    };
    assert!(made.created_ms > 1_600_000_000_000);
    assert_eq!(made, wanted);
    assert_eq!(described(client, describe(SESSION)).await, wanted);
    let again = client.refused(create(SESSION, meta.clone(), false)).await;
    assert_told(&again, &about("session", ErrorCode::SessionExists, 0, "the session exists already; set `update` to replace its metadata"));
    let renamed = wire::SessionMeta { title: "Second".into(), ..meta };
    let made = described(client, create(SESSION, renamed.clone(), true)).await;
    assert_eq!((made.end, made.meta), (2, Some(renamed)));
    for number in 0..5 {
        client.publish(&format!("acme/many/{number}"), &["x"]).await;
    }
    let ask = |prefix: &str, page: String| wire::ListSessions {
        prefix: prefix.into(),
        page,
        limit: 2,
        ..Default::default()
    };
    let (mut names, mut page) = (Vec::new(), String::new());
    loop {
        let ServerFrame::SessionList(list) =
            client.ask(ClientFrame::ListSessions(ask("acme/many/", page))).await
        else {
            panic!()
        };
        names.extend(list.sessions.into_iter().map(|session| (session.session, session.end)));
        page = list.next_page;
        if page.is_empty() {
            break;
        }
        let other = client.refused(ClientFrame::ListSessions(ask("acme/other", page.clone()))).await;
        assert_told(&other, &about("page", ErrorCode::PageMismatch, 0, "`page` is of a list with other conditions; begin again without it"));
    }
    assert_eq!(names, (0..5).map(|number| (format!("acme/many/{number}"), 1)).collect::<Vec<_>>());
    let labelled = wire::ListSessions { labels, status: "open".into(), ..Default::default() };
    let ServerFrame::SessionList(list) = client.ask(ClientFrame::ListSessions(labelled)).await else { panic!() };
    assert_eq!(list.sessions.iter().map(|one| one.session.as_str()).collect::<Vec<_>>(), [SESSION]);
    let close = || {
        let reason = "done".into();
        ClientFrame::CloseSession(wire::CloseSession { request: 0, session: SESSION.into(), reason })
    };
    let closed = described(client, close()).await;
    assert_eq!((closed.closed, closed.end), (true, 3));
    assert_eq!(described(client, close()).await, closed, "closing it again changes nothing");
    let late = client.refused(super::client::publish(SESSION, &["late"])).await;
    assert_told(&late, &about("session", ErrorCode::SessionClosed, 0, "the session is closed and takes no more publishes; use another session"));
    let delete = || ClientFrame::DeleteSession(wire::DeleteSession { request: 0, session: SESSION.into() });
    assert!(done(&client.ask(delete()).await));
    assert_told(&client.refused(delete()).await, &Error::no_such_session());
    assert_eq!(client.publish(SESSION, &["anew"]).await.epoch, 1);
}

async fn page(client: &mut Client, read: wire::Read) -> wire::Page {
    match client.ask(ClientFrame::Read(wire::Read { session: SESSION.into(), ..read })).await {
        ServerFrame::Page(page) => page,
        other => panic!("{other:?} is no page"),
    }
}

pub(super) async fn pages_are_read_both_ways(transport: Transport) {
    use wire::read::Place;
    const RECORDS: u64 = 25;
    let bed = Bed::new(transport);
    let client = &mut bed.connect().await;
    let read = |session: &str| ClientFrame::Read(wire::Read { session: session.into(), ..Default::default() });
    assert_told(&client.refused(read("acme/none")).await, &Error::no_such_session());
    let records = (0..RECORDS)
        .map(|number| wire::Record { kind: if number % 5 == 0 { 40 } else { 0 }, ..record(&number.to_string()) })
        .collect();
    client.ask(ClientFrame::Publish(wire::Publish { session: SESSION.into(), records, ..Default::default() })).await;
    let numbers = |page: &wire::Page| -> Vec<u64> {
        page.records.iter().map(|record| text(record).parse().unwrap()).collect()
    };
    let newest = page(client, wire::Read { limit: 10, ..Default::default() }).await;
    assert_eq!((newest.start, newest.end, newest.from, newest.next), (0, 25, 15, 25));
    assert_eq!((newest.outcome.as_str(), numbers(&newest)), ("resumed", (15..25).collect()));
    let (mut before, mut seen) = (newest.from, Vec::new());
    while before > 0 {
        let place = Some(Place::Before(position(0, before)));
        let page = page(client, wire::Read { place, limit: 7, ..Default::default() }).await;
        assert_eq!(page.next, before);
        seen.splice(0..0, numbers(&page));
        before = page.from;
    }
    assert_eq!(seen, (0..15).collect::<Vec<_>>());
    let (mut after, mut seen) = (0, Vec::new());
    while after < RECORDS {
        let place = Some(Place::After(position(0, after)));
        let page = page(client, wire::Read { place, limit: 7, ..Default::default() }).await;
        assert_eq!(page.from, after);
        seen.extend(numbers(&page));
        after = page.next;
    }
    assert_eq!(seen, (0..RECORDS).collect::<Vec<_>>());
    let filter = Some(wire::Filter { kinds: vec![40], ..Default::default() });
    let place = Some(Place::After(position(0, 0)));
    let filtered = page(client, wire::Read { place, filter, ..Default::default() }).await;
    assert_eq!((filtered.from, filtered.next, filtered.offsets), (0, 25, vec![0, 5, 10, 15, 20]));
    let messages = page(client, wire::Read { unit: "messages".into(), limit: 4, ..Default::default() }).await;
    assert_eq!(numbers(&messages), [21, 22, 23, 24]);
    for (offset, epoch, outcome, from) in [(26, 0, "future_position", 25), (3, 7, "epoch_changed", 0)] {
        let place = Some(Place::After(position(epoch, offset)));
        let page = page(client, wire::Read { place, ..Default::default() }).await;
        assert_eq!((page.outcome.as_str(), page.from), (outcome, from));
    }
    let trim = wire::TrimSession { request: 0, session: SESSION.into(), before: position(0, 5) };
    assert_eq!(described(client, ClientFrame::TrimSession(trim)).await.start, 5);
    let place = Some(Place::After(position(0, 1)));
    let gap = page(client, wire::Read { place, limit: 1, ..Default::default() }).await;
    assert_eq!((gap.outcome.as_str(), gap.start, gap.from, gap.next), ("gap", 5, 5, 6));
    let place = Some(Place::Before("12".into()));
    let wrong = ClientFrame::Read(wire::Read { session: SESSION.into(), place, ..Default::default() });
    assert_told(&client.refused(wrong).await, &about("before", ErrorCode::InvalidPosition, 0, "`12` is not a position; it must be the text of one: 16 digits, `_`, 16 digits, such as \
         0000000000000000_0000000000000042"));
}

pub(super) async fn a_log_is_trimmed_erased_forked_and_imported(transport: Transport) {
    let bed = Bed::new(transport);
    let client = &mut bed.connect().await;
    client.publish(SESSION, &["0", "1", "2", "3", "4"]).await;
    client.subscribe(wish(1, SESSION, From::End(true))).await;
    let trim = |epoch, before| {
        let before = position(epoch, before);
        ClientFrame::TrimSession(wire::TrimSession { request: 0, session: SESSION.into(), before })
    };
    let trimmed = described(client, trim(0, 1)).await;
    assert_eq!((trimmed.start, trimmed.end), (1, 5));
    assert_told(&client.refused(trim(0, 6)).await, &about("before", ErrorCode::OutOfRange, 5, "the session ends at 5; nothing beyond can be trimmed"));
    assert_told(&client.refused(trim(3, 2)).await, &about("before", ErrorCode::ForeignPosition, 0, "the position belongs to another history of the session"));
    let erase = |session: &str, from, next| {
        let ranges = vec![wire::OffsetRange { from, next }];
        let reason = "asked".into();
        let session = session.into();
        ClientFrame::EraseRecords(wire::EraseRecords { session, ranges, reason, ..Default::default() })
    };
    let fork = wire::ForkSession {
        session: "acme/fork".into(),
        from_session: SESSION.into(),
        at: position(0, 4),
        ..Default::default()
    };
    let made = described(client, ClientFrame::ForkSession(fork.clone())).await;
    assert_eq!((made.start, made.end), (1, 5));
    assert_eq!(made.lineage.len(), 2);
    let again = client.refused(ClientFrame::ForkSession(fork)).await;
    assert_told(&again, &about("session", ErrorCode::SessionExists, 0, "there is a session of this name already"));
    let elsewhere = client.refused(erase("acme/fork", 2, 3)).await;
    assert_told(&elsewhere, &about("ranges", ErrorCode::EraseElsewhere, 0, "erase them in the session that this one was forked off: the records 2 to 3 are those of log 1"));
    let ServerFrame::Erased(erased) = client.ask(erase(SESSION, 2, 3)).await else { panic!() };
    assert_eq!(erased.records, 1);
    assert_eq!(client.take(1, 5, 6).await[0].kind, 10, "live readers are told");
    assert_told(&client.refused(erase(SESSION, 5, 9)).await, &about("ranges", ErrorCode::OutOfRange, 6, "offsets 5 to 9 cannot be erased: the session ends at 6"));
    client.subscribe(wish(2, "acme/fork", From::Start(true))).await;
    let kinds: Vec<_> = client.take(2, 1, 4).await.iter().map(|record| record.kind).collect();
    assert_eq!(kinds, [0, 11, 0]);
    let step = |from, numbers: std::ops::Range<u64>, finish| {
        let lineage = vec![wire::LineageEntry::default()];
        let begin = wire::ImportBegin { end: 4, lineage, session: "elsewhere".into(), ..Default::default() };
        ClientFrame::ImportRecords(wire::ImportRecords {
            request: 0,
            session: "acme/import".into(),
            import: "i".into(),
            begin: Some(begin),
            from,
            records: numbers.map(|number| record(&number.to_string())).collect(),
            finish,
        })
    };
    for (frame, next) in [(step(0, 0..2, false), 2), (step(0, 0..2, false), 2)] {
        let ServerFrame::Imported(imported) = client.ask(frame).await else { panic!() };
        assert_eq!((imported.next, imported.session), (next, None));
    }
    let hole = client.refused(step(3, 3..4, false)).await;
    assert_told(&hole, &about("from", ErrorCode::ImportOutOfOrder, 2, "the import goes on at offset 2, not 3: records are missing"));
    assert_told(&client.refused(describe("acme/import")).await, &Error::no_such_session());
    let ServerFrame::Imported(imported) = client.ask(step(2, 2..4, true)).await else { panic!() };
    assert_eq!((imported.next, imported.session.unwrap().end), (4, 5));
    client.subscribe(wish(3, "acme/import", From::Start(true))).await;
    // Where the import ends, an epoch begins, and so does a delivery.
    let first = client.take(3, 0, 4).await;
    assert!(first.iter().all(|record| record.original.as_ref().unwrap().session == "elsewhere"));
}

pub(super) async fn cursors_go_forwards_only(transport: Transport) {
    let bed = Bed::new(transport);
    let client = &mut bed.connect().await;
    client.publish(SESSION, &["0", "1", "2", "3"]).await;
    let commit = |cursor: &str, epoch, offset| {
        ClientFrame::CommitCursor(wire::CommitCursor {
            request: 0,
            session: SESSION.into(),
            cursor: cursor.into(),
            position: position(epoch, offset),
        })
    };
    let ask = || {
        let (session, cursor) = (SESSION.into(), "c".into());
        ClientFrame::DescribeCursor(wire::DescribeCursor { request: 0, session, cursor })
    };
    for (frame, wanted) in [(None, String::new()), (Some(commit("c", 0, 2)), position(0, 2))] {
        if let Some(frame) = frame {
            assert!(done(&client.ask(frame).await));
        }
        let ServerFrame::CursorDescription(found) = client.ask(ask()).await else { panic!() };
        assert_eq!(found.position, wanted);
    }
    let refused = [
        (commit("c", 0, 1), about("position", ErrorCode::CursorBackwards, 2, "the cursor is at 2; it never moves backwards")),
        (commit("c", 0, 5), about("position", ErrorCode::OutOfRange, 4, "`position` is 5, and the session ends at 4")),
        (commit("c", 5, 3), about("position", ErrorCode::ForeignPosition, 0, "`position` belongs to another history of the session")),
        (commit("no spaces", 0, 3), about("cursor", ErrorCode::InvalidArgument, 0, "`cursor` must have 1 to 64 of the characters A-Z a-z 0-9 _ -").limit(64)),
    ];
    for (frame, error) in refused {
        assert_told(&client.refused(frame).await, &error);
    }
    // Another principal has cursors of its own.
    let token = bed.tokens.token("bob", &["acme/**:read"]);
    let ServerFrame::CursorDescription(found) = bed.connect_as(&token).await.ask(ask()).await else { panic!() };
    assert_eq!(found.position, "");
}
