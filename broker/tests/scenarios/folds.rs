//! Messages that grow, read folded with the SDK and on the command line.

use std::collections::BTreeMap;
use std::process::Command;

use longwire::{AttachError, Body, Client, From, Position, Record, Subscription};
use longwire_proto::limits::MESSAGE_BYTES_MAX;

use crate::support::broker::{Broker, LONGWIRE, folder};
use crate::support::rng::Rng;

const SESSION: &str = "acme/1";
const PIECES: usize = 300;
const SEED: u64 = 7;
/// Of a file that is attached: as much as 8 answers have.
const ATTACHMENT_BYTES: usize = 8 << 20;

fn client(broker: &Broker) -> Client {
    let (client, driver) = Client::builder().url(broker.url()).build().unwrap();
    drop(tokio::spawn(driver));
    client
}

/// Two messages that grow at the same time; what each comes to.
async fn two_messages(client: &Client) -> BTreeMap<String, String> {
    let session = client.session(SESSION).unwrap();
    let run = session.start_run("Say something").await.unwrap();
    let mut messages =
        [run.open_message("text/plain").await.unwrap(), session.open_message("text/plain").await.unwrap()];
    let mut wholes = BTreeMap::new();
    for piece in 0..PIECES {
        for message in &mut messages {
            let text = format!("{piece} ");
            wholes.entry(message.id().to_owned()).or_insert_with(String::new).push_str(&text);
            message.push(text).await.unwrap();
        }
    }
    for message in messages {
        message.close().await.unwrap();
    }
    wholes
}

/// Takes a record in; what was taken before, it takes no second time.
fn take(record: &Record, texts: &mut BTreeMap<String, String>) {
    if record.message.is_empty() {
        return;
    }
    let text = texts.entry(record.message.clone()).or_default();
    let known = text.len() - usize::try_from(record.at_byte).unwrap();
    if let Some(more) = record.text().unwrap().get(known..) {
        text.push_str(more);
    }
}

async fn read(
    subscription: &mut Subscription,
    texts: &mut BTreeMap<String, String>,
    records_max: usize,
) -> usize {
    let mut records = 0;
    while records < records_max
        && let Some(record) = subscription.next().await
    {
        take(&record.unwrap(), texts);
        records += 1;
    }
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_folds_has_the_same_text_wherever_it_stops() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let client = client(&broker);
    let wholes = two_messages(&client).await;
    let session = client.session(SESSION).unwrap();
    let mut raw = BTreeMap::new();
    let mut subscription = session.subscribe(From::Start).until_end().await.unwrap();
    assert!(read(&mut subscription, &mut raw, usize::MAX).await > 2 * PIECES);
    assert_eq!(raw, wholes);
    let mut folded = BTreeMap::new();
    let mut subscription = session.subscribe(From::Start).folded().until_end().await.unwrap();
    assert!(read(&mut subscription, &mut folded, usize::MAX).await < PIECES / 4);
    assert_eq!(folded, wholes);
    // Another reader takes over after every second record. Two folds overlap, so it may see a piece again, and never misses one.
    let (mut texts, mut from) = (BTreeMap::new(), From::Start);
    loop {
        let mut subscription = session.subscribe(from).folded().until_end().await.unwrap();
        if read(&mut subscription, &mut texts, 2).await == 0 {
            break;
        }
        let place = subscription.position().unwrap();
        assert!(!matches!(from, From::Position(before) if before >= place), "it goes on");
        from = From::Position(place);
    }
    assert_eq!(texts, wholes);
    let page = session.read().folded().limit(1000).await.unwrap();
    let mut texts = BTreeMap::new();
    page.records.iter().for_each(|record| take(record, &mut texts));
    assert!(page.is_first() && page.records.len() < PIECES / 4);
    assert_eq!(texts, wholes);

    let arguments = ["tail", SESSION, "--from", "start", "--no-follow", "--folded", "--json"];
    let shown = Command::new(LONGWIRE).args(arguments).env("LONGWIRE_URL", broker.url()).output().unwrap();
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for line in String::from_utf8(shown.stdout).unwrap().lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        if let Some(message) = record["message"].as_str() {
            let text = texts.entry(message.to_owned()).or_default();
            assert_eq!(record["at_byte"], text.len());
            text.push_str(record["text"].as_str().unwrap());
        }
    }
    assert_eq!(texts, wholes);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attachment_is_read_by_ranges_over_any_transport() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let writer = client(&broker);
    let whole = Rng::from_env(SEED).bytes(ATTACHMENT_BYTES);
    let attachment =
        writer.session(SESSION).unwrap().attach(&whole[..], "application/x-noise").await.unwrap();
    assert_eq!(attachment.bytes, whole.len() as u64);
    for url in [broker.url(), broker.url().replacen("ws://", "grpc://", 1)] {
        let (reader, driver) = Client::builder().url(url).build().unwrap();
        drop(tokio::spawn(driver));
        let session = reader.session(SESSION).unwrap();
        assert_eq!(session.read_message(&attachment.id, ..).await.unwrap(), whole);
        let mut rng = Rng::from_env(SEED);
        for _ in 0..20 {
            let from = rng.below(attachment.bytes);
            let until = from + rng.below(attachment.bytes - from);
            let part = session.read_message(&attachment.id, from..until).await.unwrap();
            assert_eq!(part, whole[from as usize..until as usize], "{from}..{until}");
        }
        let last = session.read_message_part(&attachment.id, attachment.bytes - 1, None).await.unwrap();
        assert_eq!((last.close.as_str(), last.next_byte()), ("complete", attachment.bytes));
        // Who follows the session is told of it in a few records, and reads it when it is wanted.
        let mut subscription = session.subscribe(From::Start).folded().until_end().await.unwrap();
        let (mut read, mut records, mut references) = (Vec::new(), 0, 0);
        while let Some(record) = subscription.next().await {
            let record = record.unwrap();
            references += usize::from(matches!(record.body, Body::Reference(_)));
            read.extend(session.read_body(&record).await.unwrap());
            records += 1;
        }
        assert!(
            read == whole && references > 0 && records < 10,
            "{records} records, {references} references"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_has_an_end() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let client = client(&broker);
    let session = client.session(SESSION).unwrap();
    let endless = tokio::io::repeat(7);
    let error = session.attach(endless, "application/x-noise").await.unwrap_err();
    assert!(matches!(error, AttachError::TooLarge(MESSAGE_BYTES_MAX)), "{error}");
    let start = Position { epoch: 0, offset: 0 };
    let opened = session.read().after(start).limit(1).await.unwrap().records.remove(0);
    let last = session.read_message_part(&opened.id, MESSAGE_BYTES_MAX as u64, None).await.unwrap();
    assert_eq!((last.total_bytes, last.close.as_str()), (MESSAGE_BYTES_MAX as u64, "cancelled"));
}
