//! A publisher that dies with publishes that nobody acknowledged: the next one with its outbox file makes them, once.

use std::path::Path;
use std::time::Duration;

use longwire::{Backoff, Client, From};

use crate::support::broker::{Broker, folder};
use crate::support::proxy::Proxy;

const PUBLISHES: usize = 200;
/// Publishes that are acknowledged, and made again, before the connection is lost.
const BEFORE: usize = 50;

fn client(url: &str, outbox: &Path) -> (Client, tokio::task::JoinHandle<()>) {
    let backoff = Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(20) };
    let builder = Client::builder().url(url).backoff(backoff).outbox_file(outbox);
    let (client, driver) = builder.build().unwrap();
    (client, tokio::spawn(driver))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_file_carries_publishes_over_the_death_of_both_sides() {
    let (folder, data) = folder();
    let outbox = folder.path().join("outbox");
    let broker = Broker::start(&data);
    let proxy = Proxy::start(broker.address()).await;
    let (publisher, driver) = client(&proxy.url(), &outbox);
    let session = publisher.session("s").unwrap();
    for index in 0..BEFORE {
        session.publish(format!("{index}")).await.unwrap();
    }
    // Accepted while the broker is there, and while it is not: which of them it has seen is left to chance.
    for index in BEFORE..PUBLISHES / 2 {
        drop(session.enqueue(format!("{index}")).await.unwrap());
    }
    broker.kill();
    proxy.set_upstream(None);
    for index in PUBLISHES / 2..PUBLISHES {
        drop(session.enqueue(format!("{index}")).await.unwrap());
    }
    // The publisher's death: its driver is gone between two steps, and so is everything that it had in memory.
    driver.abort();
    assert!(driver.await.unwrap_err().is_cancelled());
    drop((publisher, session));
    let broker = Broker::start(&data);
    proxy.set_upstream(Some(broker.address()));
    let (successor, _driver) = client(&proxy.url(), &outbox);
    let session = successor.session("s").unwrap();
    // The same producer goes on behind what it left.
    session.publish("last").await.unwrap();
    let mut records = session.subscribe(From::Start).await.unwrap();
    for index in 0..PUBLISHES {
        assert_eq!(records.next().await.unwrap().unwrap().text(), Some(format!("{index}").as_str()));
    }
    assert_eq!(records.next().await.unwrap().unwrap().text(), Some("last"));
    assert_eq!(session.describe().await.unwrap().end, PUBLISHES as u64 + 1, "nothing was made twice");
}
