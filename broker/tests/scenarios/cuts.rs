//! The SDK over connections that are cut at random byte positions, in both directions: every publish is made once, and
//! every reader sees every record once, in order.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use longwire::{Backoff, Client, Encoding, From, Position};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::broker::{Broker, folder};
use crate::support::history::{Outcome, Recorder};
use crate::support::probe::ask;
use crate::support::proxy::Proxy;
use crate::support::rng::{Rng, repetitions};
use crate::support::traffic::{Traffic, read_all, value, visit};
use crate::support::wire_client::WireClient;

/// Cuts in the test command; `LONGWIRE_TEST_CUTS` for more.
const CUTS: u64 = 1000;
/// Publishes that a writer has under way.
const IN_FLIGHT: usize = 16;
/// A connection lasts for at most so many bytes up and down; its opening alone takes some 400.
const UP_BYTES: u64 = 6_000;
const DOWN_BYTES: u64 = 20_000;
const SESSION: &str = "cut";
/// Of a reader that is far behind, connections last for this long, in bytes down; one delivery may be a dozen times as large.
const SHORT_BYTES: u64 = 20_000;
/// What it is behind by, in records and the bytes of one.
const BEHIND: (u64, usize) = (2_000, 200);
/// What a connection brings it ahead by at least: a fifth of what passes, the opening and frames included.
const AHEAD_BYTES: u64 = SHORT_BYTES / 5;

fn client(url: &str, encoding: Encoding) -> Client {
    let backoff = Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(5) };
    let (client, driver) = Client::builder().url(url).encoding(encoding).backoff(backoff).build().unwrap();
    tokio::spawn(driver);
    client
}

async fn write(proxy: Arc<Proxy>, cuts: u64, encoding: Encoding, name: String, recorder: Recorder) {
    let session = client(&proxy.url(), encoding).session(SESSION).unwrap();
    let writer: Arc<str> = name.into();
    while proxy.cuts() < cuts {
        let mut acknowledgements = Vec::new();
        for _ in 0..IN_FLIGHT {
            let invocation = recorder.publish(&writer, 1);
            let text = invocation.values.start.to_string();
            acknowledgements.push((invocation, session.enqueue(text).await.unwrap()));
        }
        for (invocation, acknowledgement) in acknowledgements {
            let place = acknowledgement.await.unwrap();
            recorder.ended(&invocation, Outcome::Ok(place.from.offset));
            assert_eq!(place.next.offset, place.from.offset + 1);
        }
    }
}

/// Reads up to the value that is published last.
async fn read(url: String, encoding: Encoding, name: String, recorder: Recorder, last: watch::Receiver<u64>) {
    let session = client(&url, encoding).session(SESSION).unwrap();
    let mut records = session.subscribe(From::Start).wait_for_session().await.unwrap();
    let reader = recorder.reader(name, 0);
    let mut next = 0;
    while let Some(record) = records.next().await {
        let record = record.unwrap();
        let (offset, value) = (record.position().offset, value(record.text().unwrap()));
        recorder.saw(reader, [(offset, value)]);
        next = offset + 1;
        if value == *last.borrow() {
            break;
        }
    }
    recorder.stayed(reader);
    assert_eq!(records.position(), Some(Position { epoch: 0, offset: next }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_cuts_lose_and_repeat_nothing() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut rng = Rng::from_env(23);
    let cut_rng = Mutex::new(rng.split());
    let plan = move |_| {
        let mut rng = cut_rng.lock().unwrap();
        Some((1 + rng.below(UP_BYTES), 1 + rng.below(DOWN_BYTES)))
    };
    let proxy = Arc::new(Proxy::start_with(broker.address(), Arc::new(plan)).await);
    let cuts = repetitions("LONGWIRE_TEST_CUTS", CUTS);
    // Who asks is connected directly: only connections of the SDK are cut and counted.
    let traffic = Traffic::new(proxy.upstream(), None, &[SESSION]);
    let recorder = traffic.sessions[0].recorder.clone();
    let (last, is_last) = watch::channel(u64::MAX);
    let (mut writers, mut readers, mut askers) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    for (index, encoding) in [Encoding::Proto, Encoding::Json, Encoding::Proto].into_iter().enumerate() {
        let (proxy, last) = (Arc::clone(&proxy), is_last.clone());
        readers.spawn(read(proxy.url(), encoding, format!("r{index}"), recorder.clone(), last));
        writers.spawn(write(proxy, cuts, encoding, format!("w{index}"), recorder.clone()));
    }
    askers.spawn(ask(Arc::clone(&traffic), 0, "asker".into(), rng.split()));
    askers.spawn(visit(Arc::clone(&traffic), 0, "visitor".into(), rng.split()));
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    traffic.stop();
    while let Some(asked) = askers.join_next().await {
        asked.unwrap();
    }
    let invocation = recorder.publish(&"last".into(), 1);
    last.send_replace(invocation.values.start);
    let direct = client(&broker.url(), Encoding::Proto).session(SESSION).unwrap();
    let place = direct.publish(invocation.values.start.to_string()).await.unwrap();
    recorder.ended(&invocation, Outcome::Ok(place.from.offset));
    while let Some(read) = readers.join_next().await {
        read.unwrap();
    }
    let mut client = WireClient::connect(broker.address(), longwire_proto::codec::Encoding::Proto).await;
    let log = read_all(&mut client, SESSION).await;
    recorder.check(SESSION, &log);
    let sizes = recorder.sizes();
    assert!(sizes.ok > cuts && sizes.failed > 0 && sizes.looks > 0, "{sizes:?} shows nothing");
    let (records, looks) = (log.len(), sizes.looks);
    println!("COUNT cuts={}\nCOUNT records={records}\nCOUNT answers={looks}", proxy.cuts());
}

/// However large deliveries may be, one that is as large as what a connection passes would never arrive.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_far_behind_gets_ahead_over_short_connections() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let (records, bytes) = BEHIND;
    let connections_max = records * bytes as u64 / AHEAD_BYTES;
    // A reader that does not get there is let through, to fail.
    let plan = move |connection| (connection < connections_max).then_some((u64::MAX, SHORT_BYTES));
    let proxy = Proxy::start_with(broker.address(), Arc::new(plan)).await;
    let writer = client(&broker.url(), Encoding::Proto).session(SESSION).unwrap();
    let mut acknowledgements = Vec::new();
    for number in 0..records {
        acknowledgements.push(writer.enqueue(format!("{number:bytes$}")).await.unwrap());
    }
    for acknowledgement in acknowledgements {
        acknowledgement.await.unwrap();
    }
    let session = client(&proxy.url(), Encoding::Proto).session(SESSION).unwrap();
    let mut reading = session.subscribe(From::Start).await.unwrap();
    for number in 0..records {
        let record = reading.next().await.unwrap().unwrap();
        assert_eq!(record.text().unwrap().trim(), number.to_string());
    }
    let cuts = proxy.cuts();
    assert!(0 < cuts && cuts < connections_max, "{cuts} connections of {connections_max}");
}
