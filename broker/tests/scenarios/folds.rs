//! Messages that grow, read folded with the SDK and on the command line.

use std::collections::BTreeMap;
use std::process::Command;

use longwire::{Client, From, Record, Subscription};

use crate::support::broker::{Broker, LONGWIRE, folder};

const SESSION: &str = "acme/1";
const PIECES: usize = 300;

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
