//! What happens to whole logs: trimming, erasing, forking, exporting and importing, expiring.

use std::path::Path;
use std::time::{Duration, Instant};

use longwire::{
    Client, ErrorCode, Expiry, From, Outcome, Position, RequestError, Retention, Session, SessionId,
    SessionMeta,
};
use longwire_proto::wire;

use crate::residency::wait_for_live;
use crate::support::broker::{Broker, folder, longwire};

fn client(broker: &Broker) -> Client {
    Client::connect(&broker.url()).unwrap()
}

/// Whole records as the broker sends them, and the offset of the first.
async fn log(session: &Session) -> (u64, Vec<wire::Record>) {
    let info = session.describe().await.unwrap();
    let (mut records, mut next) = (Vec::new(), info.start);
    while next < info.end {
        let begun = info.lineage.iter().rfind(|entry| entry.from_offset <= next).unwrap();
        let at = Position { epoch: begun.epoch, offset: next };
        let page = session.read().after(at).limit(1000).as_sent().await.unwrap();
        if page.from != next {
            // It was trimmed meanwhile.
            assert!(page.start > next, "{page:?}");
            return Box::pin(log(session)).await;
        }
        records.extend(page.records);
        next = page.next;
    }
    (info.start, records)
}

fn text(record: &wire::Record) -> &str {
    match &record.body {
        Some(wire::record::Body::Text(text)) => text,
        _ => "",
    }
}

async fn fill(session: &Session, texts: impl IntoIterator<Item = String>) {
    let mut last = None;
    for text in texts {
        last = Some(session.enqueue(text).await.unwrap());
    }
    last.unwrap().await.unwrap();
}

fn at(offset: u64) -> Position {
    Position { epoch: 0, offset }
}

fn refused(error: RequestError) -> ErrorCode {
    match error {
        RequestError::Refused(refusal) => refusal.code.unwrap(),
        other => panic!("{other}"),
    }
}

/// Waits for what the broker does by itself.
async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < patience, "{what} did not come about");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_trim_is_durable_and_told_to_whoever_comes_late() {
    let (_folder, data) = folder();
    let mut broker = Broker::start(&data);
    for round in 0..2 {
        let client = self::client(&broker);
        let session = client.session("a").unwrap();
        if round == 0 {
            fill(&session, (0..500).map(|n| format!("m{n}"))).await;
            let trimmed = session.trim(at(123)).await.unwrap();
            assert_eq!((trimmed.start, trimmed.end), (123, 500));
            assert_eq!(session.trim(at(5)).await.unwrap().start, 123, "a trim never goes back");
        }
        let (start, records) = log(&session).await;
        assert_eq!((start, records.len(), text(&records[0])), (123, 377, "m123"));
        let page = session.read().after(at(7)).await.unwrap();
        assert_eq!((page.outcome, page.from), (Outcome::Gap, at(123)));
        let mut late = session.subscribe(at(7)).await.unwrap();
        let gap = late.next().await.unwrap().unwrap_err();
        assert!(matches!(gap, longwire::SubscriptionError::Gap { from: 7, next: 123 }), "{gap}");
        assert_eq!(late.next().await.unwrap().unwrap().text(), Some("m123"));
        broker.kill();
        broker = Broker::start(&data);
    }
    let session = self::client(&broker).session("a").unwrap();
    assert_eq!(refused(session.trim(at(501)).await.unwrap_err()), ErrorCode::OutOfRange);
    let foreign = Position { epoch: 3, offset: 200 };
    assert_eq!(refused(session.trim(foreign).await.unwrap_err()), ErrorCode::ForeignPosition);
    // What was published before the trim is recognised after it, as long as a record of its producer is there.
    assert_eq!(session.publish("more").await.unwrap().from.offset, 500);
}

#[tokio::test]
async fn erased_is_gone_for_every_reader_and_in_every_fork() {
    let (_folder, data) = folder();
    let mut broker = Broker::start(&data);
    {
        let client = self::client(&broker);
        let session = client.session("a").unwrap();
        fill(&session, (0..50).map(|n| format!("secret {n}"))).await;
        let fork = client.session("b").unwrap();
        session.fork(fork.id(), Some(at(40)), None).await.unwrap();
        let mut live = session.subscribe(From::End).await.unwrap();
        let elsewhere = fork.erase(std::slice::from_ref(&(3..5)), "").await.unwrap_err();
        assert_eq!(refused(elsewhere), ErrorCode::EraseElsewhere);
        let erased = session.erase(&[3..5, 30..31], "asked").await.unwrap();
        assert_eq!(erased.records, 3);
        let told = live.next().await.unwrap().unwrap();
        assert_eq!((told.offset, told.kind), (50, 10), "live readers are told");
        for range in [49..60, 60..61] {
            assert_eq!(refused(session.erase(&[range], "").await.unwrap_err()), ErrorCode::OutOfRange);
        }
        for ranges in [&[5..5, 7..8][..], &[1..4, 3..6]] {
            assert_eq!(refused(session.erase(ranges, "").await.unwrap_err()), ErrorCode::InvalidArgument);
        }
    }
    for _ in 0..2 {
        let client = self::client(&broker);
        for (name, length) in [("a", 51), ("b", 41)] {
            let (start, records) = log(&client.session(name).unwrap()).await;
            assert_eq!((start, records.len()), (0, length), "offsets stay dense");
            for (offset, record) in records.iter().enumerate().take(40) {
                let gone = [3, 4, 30].contains(&offset);
                let expected = if gone { String::new() } else { format!("secret {offset}") };
                assert_eq!((text(record), record.kind == 11), (expected.as_str(), gone), "{name} {offset}");
                assert!(record.time_ms > 0 && record.sender.is_some(), "when and by whom stays");
            }
        }
        let missing = client.session("a").unwrap().erase_sender("nobody", "").await.unwrap();
        assert_eq!(missing.records, 0);
        broker.kill();
        broker = Broker::start(&data);
    }
    let session = self::client(&broker).session("a").unwrap();
    assert_eq!(session.erase_sender("anonymous", "all of it").await.unwrap().records, 47);
    let (_, records) = log(&session).await;
    assert!(records.iter().all(|record| text(record).is_empty()));
}

#[tokio::test]
async fn a_fork_goes_its_own_way() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let client = self::client(&broker);
    let parent = client.session("acme/a").unwrap();
    parent.create(SessionMeta::titled("The first")).await.unwrap();
    fill(&parent, (1..100).map(|n| format!("m{n}"))).await;
    let fork = client.session("acme/b").unwrap();
    let made = parent.fork(fork.id(), Some(at(60)), None).await.unwrap();
    assert_eq!((made.start, made.end, made.meta.title.as_str()), (0, 61, "The first"));
    assert!(matches!(parent.fork(fork.id(), None, None).await, Err(RequestError::Exists(_))));
    parent.publish("only there").await.unwrap();
    fork.publish("only here").await.unwrap();
    let (_, records) = log(&fork).await;
    assert_eq!((text(&records[59]), records[60].kind, text(&records[61])), ("m59", 10, "only here"));
    // A reader of the parent takes its position along.
    let mut reader = fork.subscribe(at(58)).await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().text(), Some("m58"));
    let second = client.session("acme/c").unwrap();
    fork.fork(second.id(), None, Some(SessionMeta::titled("The third"))).await.unwrap();
    parent.delete().await.unwrap();
    fork.delete().await.unwrap();
    broker.kill();
    let broker = Broker::start(&data);
    let second = Client::connect(&broker.url()).unwrap().session("acme/c").unwrap();
    let (_, records) = log(&second).await;
    assert_eq!((records.len(), text(&records[59]), text(&records[61])), (63, "m59", "only here"));
    let unknown = second.fork(&SessionId::parse("x").unwrap(), Some(at(99)), None).await.unwrap_err();
    // 99 is below the end of no epoch but the first.
    assert_eq!(refused(unknown), ErrorCode::ForeignPosition);
    let missing = self::client(&broker).session("no").unwrap();
    assert!(matches!(missing.fork(second.id(), None, None).await, Err(RequestError::NotFound(_))));
}

fn run(broker: &Broker, arguments: &[&str]) -> (bool, String) {
    let output = longwire(&[&["--url", &broker.url()], arguments].concat());
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn an_export_becomes_the_same_session_again() {
    let (folder, data) = folder();
    let broker = Broker::start(&data);
    let client = self::client(&broker);
    let session = client.session("acme/a").unwrap();
    let labels = [("k".to_owned(), "v".to_owned())].into();
    session.create(SessionMeta { labels, ..SessionMeta::titled("Old") }).await.unwrap();
    fill(&session, (1..3000).map(|n| format!("m{n} \u{1f980}"))).await;
    session.trim(at(10)).await.unwrap();
    let (start, before) = log(&session).await;
    for form in ["jsonl", "binary"] {
        let file = folder.path().join(form);
        let (exported, said) = run(&broker, &["export", "acme/a", "-o", name(&file), "--format", form]);
        assert!(exported, "{said}");
        let (again, said) = run(&broker, &["export", "acme/a", "-o", name(&file), "--format", form]);
        assert!(!again && said.contains("cannot be written"), "a file is not overwritten: {said}");
        let to = format!("acme/{form}");
        let (imported, said) = run(&broker, &["import", name(&file), "--to", &to]);
        assert!(imported, "{said}");
        let taken = client.session(&to).unwrap();
        let info = taken.describe().await.unwrap();
        assert_eq!((info.start, info.end, info.meta.title.as_str()), (10, 3001, "Old"));
        let (taken_start, after) = log(&taken).await;
        assert_eq!(taken_start, start);
        for (old, new) in before.iter().zip(&after) {
            let original = new.original.as_ref().unwrap();
            assert_eq!((original.time_ms, &original.sender), (old.time_ms, &old.sender));
            assert_eq!(original.session, "acme/a");
            assert_eq!((old.kind, &old.body, &old.headers), (new.kind, &new.body, &new.headers));
        }
        // A reader goes on where it was.
        let mut reader = taken.subscribe(at(2998)).await.unwrap();
        assert_eq!(reader.next().await.unwrap().unwrap().text(), Some("m2998 \u{1f980}"));
        let (twice, said) = run(&broker, &["import", name(&file), "--to", &to]);
        assert!(!twice && said.contains("exists already"), "{said}");
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes.remove(middle);
        std::fs::write(&file, bytes).unwrap();
        let (damaged, said) = run(&broker, &["import", name(&file), "--to", "acme/damaged"]);
        assert!(!damaged && said.contains("cannot be imported"), "{said}");
        assert!(matches!(
            client.session("acme/damaged").unwrap().describe().await,
            Err(RequestError::NotFound(_))
        ));
    }
}

#[tokio::test]
async fn an_import_is_there_as_a_whole_or_not_at_all() {
    let (_folder, data) = folder();
    let mut broker = Broker::start(&data);
    let target = SessionId::parse("acme/a").unwrap();
    let begin = |start, end| wire::ImportBegin {
        start,
        end,
        lineage: vec![wire::LineageEntry { epoch: 0, from_offset: 0 }],
        session: "old".into(),
        ..Default::default()
    };
    let records = |from: u64, count: u64| -> Vec<wire::Record> {
        let body = |n| Some(wire::record::Body::Text(format!("m{n}")));
        (from..from + count)
            .map(|n| wire::Record { time_ms: n, body: body(n), ..Default::default() })
            .collect()
    };
    {
        let client = self::client(&broker);
        let import = client.import(&target, "one", begin(5, 20));
        assert_eq!(import.step(5, records(5, 10), false).await.unwrap().next, 15);
        let hole = import.step(17, records(17, 3), false).await.unwrap_err();
        assert_eq!(refused(hole), ErrorCode::ImportOutOfOrder);
        assert_eq!(refused(import.step(15, records(15, 6), false).await.unwrap_err()), ErrorCode::OutOfRange);
        assert_eq!(
            refused(import.step(15, Vec::new(), true).await.unwrap_err()),
            ErrorCode::ImportOutOfOrder
        );
        let lineage = vec![wire::LineageEntry { epoch: 3, from_offset: 2 }];
        let wrong = client.import(&target, "two", wire::ImportBegin { lineage, ..begin(0, 1) });
        assert_eq!(
            refused(wrong.step(0, records(0, 1), true).await.unwrap_err()),
            ErrorCode::InvalidArgument
        );
        let reserved = wire::Record { kind: 5, ..Default::default() };
        let bad = client.import(&target, "three", begin(0, 1)).step(0, vec![reserved], true).await;
        assert!(bad.is_ok(), "kinds of other brokers are carried: {bad:?}");
    }
    broker.kill();
    broker = Broker::start(&data);
    let client = self::client(&broker);
    let session = client.session("acme/b").unwrap();
    let import = client.import(session.id(), "one", begin(5, 20));
    assert!(matches!(session.describe().await, Err(RequestError::NotFound(_))));
    // It waits for the session that the import becomes.
    let mut waiting = session.subscribe(From::Start).wait_for_session().await.unwrap();
    assert_eq!(import.step(5, records(5, 8), false).await.unwrap().next, 13);
    assert_eq!(import.step(5, records(5, 10), false).await.unwrap().next, 15, "what is there is skipped");
    assert!(
        matches!(session.describe().await, Err(RequestError::NotFound(_))),
        "nothing is seen before the end"
    );
    let done = import.step(15, records(15, 5), true).await.unwrap();
    let info = done.session.unwrap();
    assert_eq!((info.start, info.end), (5, 21));
    assert_eq!(waiting.next().await.unwrap().unwrap().text(), Some("m5"));
}

#[tokio::test]
async fn cursors_go_forwards_and_survive() {
    let (_folder, data) = folder();
    let mut broker = Broker::start(&data);
    {
        let session = self::client(&broker).session("a").unwrap();
        fill(&session, (0..20).map(|n| format!("m{n}"))).await;
        assert_eq!(session.cursor("phone").await.unwrap(), None);
        session.commit_cursor("phone", at(7)).await.unwrap();
        session.commit_cursor("phone", at(7)).await.unwrap();
        session.commit_cursor("phone", at(12)).await.unwrap();
        let back = session.commit_cursor("phone", at(11)).await.unwrap_err();
        assert!(
            matches!(&back, RequestError::Refused(refusal)
            if refusal.code == Some(ErrorCode::CursorBackwards) && refusal.expected == 12),
            "{back}"
        );
        let foreign = Position { epoch: 9, offset: 3 };
        for (position, code) in [(at(21), ErrorCode::OutOfRange), (foreign, ErrorCode::ForeignPosition)] {
            assert_eq!(refused(session.commit_cursor("phone", position).await.unwrap_err()), code);
        }
        let nameless = session.commit_cursor("no spaces", at(1)).await.unwrap_err();
        assert_eq!(refused(nameless), ErrorCode::InvalidArgument);
    }
    broker.kill();
    broker = Broker::start(&data);
    let session = self::client(&broker).session("a").unwrap();
    assert_eq!(session.cursor("phone").await.unwrap(), Some(at(12)));
    let mut reader = session.subscribe(From::End).from_cursor("phone").await.unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().text(), Some("m12"));
    let mut fresh = session.subscribe(From::End).from_cursor("laptop").await.unwrap();
    assert_eq!(fresh.next().await.unwrap().unwrap().text(), Some("m0"));
    session.delete().await.unwrap();
    session.publish("again").await.unwrap();
    assert_eq!(session.cursor("phone").await.unwrap(), None, "another session of the same name has its own");
}

#[tokio::test]
async fn records_of_a_session_that_nobody_uses_grow_old_too() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[("SESSION_IDLE_MS", "50")]);
    let client = self::client(&broker);
    let retention = Retention { age_ms: Some(1500), ..Retention::default() };
    let young = client.session("young").unwrap();
    young.create(SessionMeta { retention, ..SessionMeta::default() }).await.unwrap();
    fill(&young, (1..10).map(|n| format!("m{n}"))).await;
    // What wakes it then is what the store knows.
    wait_for_live(&broker, 0);
    eventually("the retention by age", || async {
        let page = client.sessions("").next_page().await.unwrap().unwrap();
        page[0].start == page[0].end
    })
    .await;
}

#[tokio::test]
async fn retention_keeps_what_it_says() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let client = self::client(&broker);
    let by = |retention| SessionMeta { retention, ..SessionMeta::default() };
    let few = client.session("few").unwrap();
    few.create(by(Retention { records: Some(100), ..Retention::default() })).await.unwrap();
    fill(&few, (1..1000).map(|n| format!("m{n}"))).await;
    eventually("the retention by count", || async {
        let info = few.describe().await.unwrap();
        assert!(info.end - info.start >= 100);
        info.end - info.start == 100
    })
    .await;
    let small = client.session("small").unwrap();
    small.create(by(Retention { bytes: Some(1 << 20), ..Retention::default() })).await.unwrap();
    fill(&small, (1..40).map(|_| "x".repeat(100_000))).await;
    eventually("the retention by bytes", || async {
        let (_, records) = log(&small).await;
        let bytes: usize = records.iter().map(|record| text(record).len()).sum();
        assert!(bytes >= 900_000, "no more is trimmed than must be: {bytes}");
        bytes <= 1 << 20
    })
    .await;
    let young = client.session("young").unwrap();
    young.create(by(Retention { age_ms: Some(1000), ..Retention::default() })).await.unwrap();
    fill(&young, (1..10).map(|n| format!("m{n}"))).await;
    eventually("the retention by age", || async {
        let info = young.describe().await.unwrap();
        info.start == info.end
    })
    .await;
    assert_eq!(young.publish("next").await.unwrap().from.offset, 10, "offsets go on");
    for retention in [
        Retention { records: Some(0), ..Retention::default() },
        Retention { bytes: Some(5), ..Retention::default() },
        Retention { age_ms: Some(1), ..Retention::default() },
    ] {
        let refusal = client.session("x").unwrap().create(by(retention)).await.unwrap_err();
        assert_eq!(refused(refusal), ErrorCode::InvalidArgument);
    }
}

#[tokio::test]
async fn sessions_expire_even_while_nobody_uses_them() {
    let (_folder, data) = folder();
    let mut broker = Broker::start_with(&data, &[("SESSION_IDLE_MS", "50")]);
    {
        let client = self::client(&broker);
        let expiry = |expiry| SessionMeta { expiry, ..SessionMeta::default() };
        let sliding = Expiry { idle_ms: Some(1500), at_ms: None };
        for number in 0..20 {
            let session = client.session(&format!("idle/{number}")).unwrap();
            session.create(expiry(sliding)).await.unwrap();
        }
        let used = client.session("used").unwrap();
        used.create(expiry(sliding)).await.unwrap();
        let kept = client.session("kept").unwrap();
        kept.create(expiry(Expiry { idle_ms: Some(3_600_000), at_ms: None })).await.unwrap();
        let at_ms = kept.describe().await.unwrap().last_time_ms + 1000;
        client
            .session("at")
            .unwrap()
            .create(expiry(Expiry { idle_ms: None, at_ms: Some(at_ms) }))
            .await
            .unwrap();
        let mut reader = used.subscribe(From::End).await.unwrap();
        eventually("the expiry of idle sessions", || async {
            // Every record puts the end of this one off.
            used.publish("still here").await.unwrap();
            let mut pages = client.sessions("");
            pages.next_page().await.unwrap().unwrap().len() == 2
        })
        .await;
        while reader.next().await.unwrap().unwrap().text() == Some("still here") {}
        eventually("the expiry of the one that was used", || async {
            matches!(used.describe().await, Err(RequestError::NotFound(_)))
        })
        .await;
        assert_eq!(kept.describe().await.unwrap().end, 1);
        client.session("later").unwrap().create(expiry(sliding)).await.unwrap();
    }
    broker.kill();
    broker = Broker::start(&data);
    let client = self::client(&broker);
    eventually("the expiry of a session that nobody has used since the start", || async {
        let mut pages = client.sessions("later");
        pages.next_page().await.unwrap().unwrap().is_empty()
    })
    .await;
}
