//! The SDK over connections that are cut at random byte positions, in both directions: every publish is made once, and
//! every reader sees every record once, in order.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use longwire::{Backoff, Client, Encoding, From, Position};

use crate::support::broker::{Broker, folder};
use crate::support::history::{History, Outcome};
use crate::support::proxy::Proxy;
use crate::support::rng::{Rng, repetitions};

/// Cuts in the test command; `LONGWIRE_TEST_CUTS` for more.
const CUTS: u64 = 1000;
/// Publishes that a writer has under way.
const IN_FLIGHT: usize = 16;
/// A connection lasts for at most so many bytes up and down; its opening alone takes some 400.
const UP_BYTES: u64 = 6_000;
const DOWN_BYTES: u64 = 20_000;

fn client(url: &str, encoding: Encoding) -> Client {
    let backoff = Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(5) };
    let (client, driver) = Client::builder().url(url).encoding(encoding).backoff(backoff).build().unwrap();
    tokio::spawn(driver);
    client
}

async fn write(
    proxy: Arc<Proxy>,
    cuts: u64,
    encoding: Encoding,
    name: String,
) -> (String, Vec<(String, Outcome)>) {
    let session = client(&proxy.url(), encoding).session("cut").unwrap();
    let mut published = Vec::new();
    while proxy.cuts() < cuts {
        let mut acknowledgements = Vec::new();
        for _ in 0..IN_FLIGHT {
            let value = format!("{name}-{}", published.len() + acknowledgements.len());
            acknowledgements.push((value.clone(), session.enqueue(value).await.unwrap()));
        }
        for (value, acknowledgement) in acknowledgements {
            let place = acknowledgement.await.unwrap();
            assert_eq!(place.next.offset, place.from.offset + 1);
            published.push((value, Outcome::Acknowledged(place.from.offset)));
        }
    }
    (name, published)
}

/// Reads up to the value that the last writer publishes last.
async fn read(url: String, encoding: Encoding, name: String) -> (String, Vec<(u64, String)>) {
    let session = client(&url, encoding).session("cut").unwrap();
    let mut records = session.subscribe(From::Start).wait_for_session().await.unwrap();
    let mut seen = Vec::new();
    while let Some(record) = records.next().await {
        let record = record.unwrap();
        let text = record.text().unwrap().to_owned();
        let ended = text == "end";
        seen.push((record.position().offset, text));
        if ended {
            break;
        }
    }
    let position = Position { epoch: 0, offset: seen.len() as u64 };
    assert_eq!(records.position(), Some(position));
    (name, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cuts_lose_and_repeat_nothing() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let rng = Mutex::new(Rng::from_env(23));
    let plan = move |_| {
        let mut rng = rng.lock().unwrap();
        Some((1 + rng.below(UP_BYTES), 1 + rng.below(DOWN_BYTES)))
    };
    let proxy = Arc::new(Proxy::start_with(broker.address(), Arc::new(plan)).await);
    let cuts = repetitions("LONGWIRE_TEST_CUTS", CUTS);
    let (mut writers, mut readers) = (Vec::new(), Vec::new());
    for (index, encoding) in [Encoding::Proto, Encoding::Json, Encoding::Proto].into_iter().enumerate() {
        writers.push(tokio::spawn(write(Arc::clone(&proxy), cuts, encoding, format!("w{index}"))));
        readers.push(tokio::spawn(read(proxy.url(), encoding, format!("r{index}"))));
    }
    let mut history = History::default();
    for writer in writers {
        let (name, published) = writer.await.unwrap();
        assert!(published.len() > IN_FLIGHT);
        history.published.insert(name, published);
    }
    let direct = client(&broker.url(), Encoding::Proto).session("cut").unwrap();
    let end = direct.publish("end").await.unwrap();
    history.published.insert("end".into(), vec![("end".into(), Outcome::Acknowledged(end.from.offset))]);
    let mut log = Vec::new();
    for reader in readers {
        let (name, seen) = reader.await.unwrap();
        assert_eq!(seen.len() as u64, end.next.offset, "{name} has not seen everything");
        log = seen.iter().map(|(_, value)| value.clone()).collect();
        history.read.insert(name, seen);
    }
    assert_eq!(history.violations(&log), Vec::<String>::new());
    println!("{} records over {} cuts", log.len(), proxy.cuts());
}
