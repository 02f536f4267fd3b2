//! Backups of a broker that serves, and what becomes of them: restored, served, and met by clients that knew more.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use longwire::{Client, From, Position, Session, SubscriptionError};
use longwire_proto::wire;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::broker::{Broker, folder, longwire, wait_until};
use crate::support::proxy::Proxy;

const SESSIONS: [&str; 3] = ["acme/a", "acme/b", "notes"];
/// Writers of each session.
const WRITERS: usize = 2;
/// Acknowledgements in all before, between and after backups.
const ACKNOWLEDGED: usize = 300;

/// What was acknowledged: session, offset and text.
type Acknowledged = Arc<Mutex<Vec<(&'static str, u64, String)>>>;

fn client(broker: &Broker) -> Client {
    Client::connect(&broker.url()).unwrap()
}

fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn at(epoch: u64, offset: u64) -> Position {
    Position { epoch, offset }
}

fn start(data: &Path, backups: &Path) -> Broker {
    Broker::start_with(data, &[("BACKUPS", name(backups))])
}

/// Runs the binary: whether it succeeded, and what it said.
fn run(arguments: &[&str]) -> (bool, String) {
    let output = longwire(arguments);
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// Runs the binary, which succeeds, and answers its JSON.
fn told(arguments: &[&str]) -> Value {
    let (done, said) = run(&[&["--json"], arguments].concat());
    assert!(done, "{said}");
    serde_json::from_str(&said).unwrap()
}

/// Whole records as the broker sends them.
async fn log(session: &Session) -> Vec<wire::Record> {
    let info = session.describe().await.unwrap();
    let (mut records, mut next) = (Vec::new(), info.start);
    while next < info.end {
        let begun = info.lineage.iter().rfind(|entry| entry.from_offset <= next).unwrap();
        let page = session.read().after(at(begun.epoch, next)).limit(1000).as_sent().await.unwrap();
        assert_eq!(page.from, next);
        records.extend(page.records);
        next = page.next;
    }
    records
}

fn text(record: &wire::Record) -> &str {
    match &record.body {
        Some(wire::record::Body::Text(text)) => text,
        _ => "",
    }
}

async fn write(
    session: Session,
    id: &'static str,
    writer: usize,
    known: Acknowledged,
    stop: Arc<AtomicBool>,
) {
    for number in 0.. {
        let text = format!("{id} {writer} {number} {}", "x".repeat(number % 500));
        let published = session.publish(text.as_str()).await.unwrap();
        known.lock().unwrap().push((id, published.from.offset, text));
        if stop.load(Ordering::SeqCst) {
            return;
        }
    }
}

async fn more(known: &Acknowledged) {
    let count = || known.lock().unwrap().len();
    let wanted = count() + ACKNOWLEDGED;
    while count() < wanted {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_under_load_are_prefixes_that_go_on_by_themselves() {
    let (around, data) = folder();
    let backups = around.path().join("backups");
    let mut broker = start(&data, &backups);
    let proxy = Proxy::start(broker.address()).await;
    let through = Client::connect(&format!("ws://{}", proxy.address())).unwrap();
    let (known, stop) = (Acknowledged::default(), Arc::new(AtomicBool::new(false)));
    let mut writers = JoinSet::new();
    for id in SESSIONS {
        for writer in 0..WRITERS {
            let session = through.session(id).unwrap();
            writers.spawn(write(session, id, writer, Arc::clone(&known), Arc::clone(&stop)));
        }
    }
    let mut made = Vec::new();
    for backup in ["one", "two"] {
        more(&known).await;
        let before = known.lock().unwrap().clone();
        let url = broker.url();
        let answer = tokio::task::spawn_blocking(move || told(&["--url", &url, "backup", backup]));
        made.push((backup, before, answer.await.unwrap()));
    }
    more(&known).await;
    client(&broker).session("later").unwrap().publish("not in any backup").await.unwrap();
    broker.kill();
    proxy.set_upstream(None);
    broker = start(&data, &backups);
    proxy.set_upstream(Some(broker.address()));
    stop.store(true, Ordering::SeqCst);
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    let mut logs = Vec::new();
    for id in SESSIONS {
        logs.push(log(&client(&broker).session(id).unwrap()).await);
    }
    drop(broker);

    let mut epochs = Vec::new();
    for (backup, before, answer) in made {
        let folder = backups.join(backup);
        assert_eq!(answer["folder"], name(&folder));
        let report = told(&["store", "check", "--data", name(&folder)]);
        assert_eq!((&report["sessions"], &report["records"]), (&answer["sessions"], &answer["records"]));
        assert_eq!((&report["sessions"], &report["damages"]), (&3.into(), &Value::Array(Vec::new())));
        let restored = around.path().join(format!("restored-{backup}"));
        let answer = told(&["store", "restore", name(&folder), "--data", name(&restored)]);
        assert_eq!((&answer["sessions"], &answer["records"]), (&report["sessions"], &report["records"]));
        let broker = Broker::start(&restored);
        for (id, all) in SESSIONS.iter().zip(&logs) {
            let session = client(&broker).session(id).unwrap();
            let some = log(&session).await;
            assert!(some == all[..some.len()], "{id} of {backup} is a prefix of the log, record by record");
            assert!(some.len() < all.len(), "and the log went on");
            let theirs = before.iter().filter(|(session, _, _)| session == id);
            for (_, offset, value) in theirs {
                assert_eq!(some.get(*offset as usize).map(text), Some(value.as_str()), "{id} {offset}");
            }
            epochs.push(meets_the_new_epoch(&client(&broker), &session, &some).await);
        }
        // The backup has never heard of it, and a client has.
        let later = client(&broker).session("later").unwrap();
        later.publish("another").await.unwrap();
        let mut reader = later.subscribe(at(0, 1)).await.unwrap();
        let changed = reader.next().await.unwrap();
        assert!(matches!(changed, Err(SubscriptionError::EpochChanged { resume }) if resume.offset == 0));
        assert_eq!(reader.next().await.unwrap().unwrap().text(), Some("another"));
        broker.kill();
        let broker = Broker::start(&restored);
        let info = client(&broker).session(SESSIONS[0]).unwrap().describe().await.unwrap();
        assert!(epochs.contains(&info.lineage.last().unwrap().epoch), "{info:?}");
    }
    epochs.dedup();
    assert_eq!(epochs.len(), 2, "a restore has one epoch, and another one than the restore before");
}

/// Old positions, publishes and readers in a restored session. Answers its epoch.
async fn meets_the_new_epoch(client: &Client, session: &Session, records: &[wire::Record]) -> u64 {
    let end = records.len() as u64;
    let lineage = session.describe().await.unwrap().lineage;
    let epoch = lineage.last().unwrap().epoch;
    assert_eq!((lineage.len(), lineage[1].from_offset), (2, end));
    assert!(epoch > 0);
    // Readers from before: within the backup, at its very end, and beyond it.
    let mut within = session.subscribe(at(0, end / 2)).await.unwrap();
    let mut last = session.subscribe(at(0, end)).await.unwrap();
    for beyond in [end + 1, end + 1000] {
        // Reading goes on where the shared history ends, which is a position of the epoch before.
        let mut beyond = session.subscribe(at(0, beyond)).await.unwrap();
        let changed = beyond.next().await.unwrap();
        assert!(
            matches!(changed, Err(SubscriptionError::EpochChanged { resume }) if resume == at(0, end)),
            "{changed:?}"
        );
    }
    for offset in end / 2..end {
        let record = within.next().await.unwrap().unwrap();
        assert_eq!((record.epoch, record.offset), (0, offset));
        assert_eq!(record.text(), Some(text(&records[offset as usize])));
    }
    for number in 0..3 {
        let published = session.publish(format!("after {number}")).await.unwrap();
        assert_eq!(published.from, at(epoch, end + number));
    }
    for reader in [&mut within, &mut last] {
        for number in 0..3 {
            let record = reader.next().await.unwrap().unwrap();
            assert_eq!((record.epoch, record.offset), (epoch, end + number));
            assert_eq!(record.text(), Some(format!("after {number}").as_str()));
        }
    }
    // Everything at once, by somebody new.
    let fresh = client.session(session.id().as_str()).unwrap();
    let mut whole = fresh.subscribe(From::Start).await.unwrap();
    for offset in 0..end + 3 {
        assert_eq!(whole.next().await.unwrap().unwrap().offset, offset);
    }
    epoch
}

#[tokio::test]
async fn what_was_erased_since_is_erased_again() {
    let (around, data) = folder();
    let file = around.path().join("erasures.jsonl");
    let restored = erased_since(around.path(), &data, &file).await;
    let lines = fs::read_to_string(&file).unwrap();
    assert_eq!(
        lines,
        "{\"session\":\"gone\",\"deleted_below\":1}\n\
         {\"session\":\"again\",\"deleted_below\":1}\n\
         {\"session\":\"a\",\"epoch\":0,\"ranges\":[[3,5]]}\n\
         {\"session\":\"a\",\"epoch\":0,\"ranges\":[[18,22]]}\n\
         {\"session\":\"b\",\"epoch\":0,\"ranges\":[[0,1]]}\n"
    );
    // Of the second as many as the backup has; of `b`, which it does not have, none.
    let answer = told(&[
        "store",
        "restore",
        name(&around.path().join("backups/one")),
        "--data",
        name(&restored),
        "--erasures",
        name(&file),
    ]);
    assert_eq!((&answer["sessions"], &answer["records"]), (&3.into(), &22.into()));
    assert_eq!((&answer["erased"], &answer["deleted"]), (&4.into(), &2.into()));
    let broker = Broker::start(&restored);
    let listed = client(&broker).sessions("").next_page().await.unwrap().unwrap();
    assert_eq!(listed.iter().map(|info| info.session.as_str()).collect::<Vec<_>>(), ["a"]);
    let records = log(&client(&broker).session("a").unwrap()).await;
    assert_eq!(records.iter().map(|record| record.kind).skip(20).collect::<Vec<_>>(), [10, 10]);
    // Once more, from the restored folder: the same again, told by its own records.
    assert!(broker.terminate());
    let again = longwire(&["store", "erasures", "--data", name(&restored)]);
    let again = String::from_utf8(again.stdout).unwrap();
    let (deleted, erased): (Vec<_>, Vec<_>) = again.lines().partition(|line| line.contains("deleted_below"));
    assert_eq!(
        erased,
        [
            "{\"session\":\"a\",\"epoch\":0,\"ranges\":[[3,5]]}",
            "{\"session\":\"a\",\"epoch\":0,\"ranges\":[[18,20]]}"
        ]
    );
    let deleted = deleted.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["session"].clone());
    assert_eq!(deleted.collect::<Vec<_>>(), ["again", "gone"]);
}

#[tokio::test]
async fn what_was_erased_since_is_gone_from_a_restore() {
    let (around, data) = folder();
    let file = around.path().join("erasures.jsonl");
    let restored = erased_since(around.path(), &data, &file).await;
    told(&[
        "store",
        "restore",
        name(&around.path().join("backups/one")),
        "--data",
        name(&restored),
        "--erasures",
        name(&file),
    ]);
    let broker = Broker::start(&restored);
    for (offset, record) in log(&client(&broker).session("a").unwrap()).await.iter().enumerate().take(20) {
        let gone = [3, 4, 18, 19].contains(&offset);
        let expected = if gone { String::new() } else { format!("secret {offset}") };
        assert_eq!((text(record), record.kind == 11), (expected.as_str(), gone), "{offset}");
    }
}

/// Makes the backup `one` of twenty records, erases some of them and some later ones, and writes that to `file`. Answers
/// where it may be restored.
async fn erased_since(around: &Path, data: &Path, file: &Path) -> std::path::PathBuf {
    let broker = start(data, &around.join("backups"));
    let client = client(&broker);
    let session = client.session("a").unwrap();
    for number in 0..20 {
        session.publish(format!("secret {number}")).await.unwrap();
    }
    for name in ["gone", "again"] {
        client.session(name).unwrap().publish("x").await.unwrap();
    }
    assert_eq!(client.back_up("one").await.unwrap().records, 22);
    for name in ["gone", "again"] {
        client.session(name).unwrap().delete().await.unwrap();
    }
    client.session("again").unwrap().publish("another life").await.unwrap();
    for number in 20..30 {
        session.publish(format!("secret {number}")).await.unwrap();
    }
    let other = client.session("b").unwrap();
    other.publish("secret").await.unwrap();
    for (session, range) in [(&session, 3..5), (&session, 18..22), (&other, 0..1)] {
        session.erase(&[range], "asked").await.unwrap();
    }
    assert!(broker.terminate());
    let output = longwire(&["store", "erasures", "--data", name(data)]);
    assert!(output.status.success());
    fs::write(file, output.stdout).unwrap();
    around.join("restored")
}

#[tokio::test]
async fn what_cannot_be_backed_up_or_restored_is_refused_with_the_reason() {
    let (around, data) = folder();
    let path = |name: &str| around.path().join(name);
    let broker = Broker::start(&data);
    client(&broker).session("a").unwrap().publish("x").await.unwrap();
    let (done, said) = run(&["--url", &broker.url(), "backup", "one"]);
    assert!(!done && said.contains("--backups"), "{said}");
    assert!(broker.terminate());
    let broker = start(&data, &path("backups"));
    let (done, said) = run(&["--url", &broker.url(), "backup", "one"]);
    assert!(done && said.contains("1 sessions, 1 records"), "{said}");
    for (backup, part) in [("one", "already"), ("../one", "name"), ("", "name"), ("a.partial", "name")] {
        let (done, said) = run(&["--url", &broker.url(), "backup", backup]);
        assert!(!done && said.contains(part), "{backup}: {said}");
    }
    assert_eq!(fs::read_dir(path("backups")).unwrap().count(), 1);
    let backup = path("backups/one");
    fs::write(path("bad.jsonl"), "{\"session\":\"a\",\"epoch\":0,\"ranges\":[[0,1]]}\n{\"session\":\"a\"}\n")
        .unwrap();
    fs::create_dir(path("other")).unwrap();
    fs::write(path("other/file"), "x").unwrap();
    let new = path("new");
    for (arguments, part) in [
        // The live one, a stopped one, and anything else that is there.
        (vec![name(&backup), "--data", name(&data)], "not empty"),
        (vec![name(&backup), "--data", name(&backup)], "not empty"),
        (vec![name(&backup), "--data", name(&path("other"))], "not empty"),
        (vec![name(&path("other")), "--data", name(&new)], "is not a backup"),
        (vec!["/nowhere", "--data", name(&new)], "is not a backup"),
        (vec![name(&data), "--data", name(&new)], "in use"),
        (vec![name(&backup), "--data", name(&new), "--erasures", "/nowhere"], "/nowhere"),
        (vec![name(&backup), "--data", name(&new), "--erasures", name(&path("bad.jsonl"))], "line 2"),
        (vec![name(&backup)], "--data"),
    ] {
        let (done, said) = run(&[&["store", "restore"], &arguments[..]].concat());
        assert!(!done && said.contains(part), "{arguments:?}: {said}");
        assert!(!new.exists() && !path("new.partial").exists(), "{arguments:?}");
    }
    let (done, said) = run(&["serve", "--data", name(&backup)]);
    assert!(!done && said.contains("is a backup"), "{said}");
    let served = client(&broker).session("a").unwrap();
    assert_eq!(served.publish("y").await.unwrap().from.offset, 1, "the live one has noticed nothing");
    let (done, said) = run(&["store", "restore", name(&backup), "--data", name(&new)]);
    assert!(done && said.contains("1 sessions, 1 records"), "{said}");
    let (done, said) = run(&["store", "restore", name(&backup), "--data", name(&new)]);
    assert!(!done && said.contains("not empty"), "{said}");
}

#[tokio::test]
async fn old_backups_are_removed_and_data_folders_never() {
    let (around, data) = folder();
    let backups = around.path().join("backups");
    let broker = start(&data, &backups);
    for backup in ["one", "two"] {
        client(&broker).back_up(backup).await.unwrap();
    }
    assert!(broker.terminate());
    let stopped = backups.join("stopped");
    told(&["store", "restore", name(&backups.join("two")), "--data", name(&stopped)]);
    let settings = [("BACKUPS", name(&backups)), ("BACKUPS_KEEP_MS", "1")];
    let broker = Broker::start_with(&data, &settings);
    wait_until("both backups are removed", || {
        broker.get("/metrics").1.lines().any(|line| line == "longwire_backups_expired_total 2")
    });
    let left: Vec<_> = fs::read_dir(&backups).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, [stopped]);
}
