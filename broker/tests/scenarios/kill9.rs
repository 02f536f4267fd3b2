//! The broker killed with kill -9 under load: what was acknowledged is there, dense, in one order, once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use longwire_proto::codec::Encoding;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::broker::{Broker, folder};
use crate::support::history::{History, Outcome};
use crate::support::proxy::Proxy;
use crate::support::rng::{Rng, repetitions};
use crate::support::wire_client::{WireClient, delivery, record, subscribed, text};

/// Kills in the test command; `LONGWIRE_TEST_KILLS` for more.
const KILLS: u64 = 20;
const SESSIONS: [&str; 3] = ["load/a", "load/b", "load/c"];
/// Publishes that one writer has in flight.
const IN_FLIGHT: usize = 8;
/// Acknowledgements in all between a start and a kill.
const ACKNOWLEDGED_PER_CYCLE: u64 = 300;
/// A kill comes up to this long after that, in microseconds.
const JITTER_US: u64 = 20_000;

struct Load {
    proxy: SocketAddr,
    stop: AtomicBool,
    acknowledged: watch::Sender<u64>,
}

/// A writer without a producer: what it does not know, it does not repeat.
async fn write_once(
    load: Arc<Load>,
    session: &'static str,
    name: String,
) -> (String, Vec<(String, Outcome)>) {
    let mut published: Vec<(String, Outcome)> = Vec::new();
    while !load.stop.load(Ordering::Relaxed) {
        let Some(mut client) = WireClient::try_connect(load.proxy).await else { continue };
        let mut in_flight = 0;
        loop {
            while in_flight < IN_FLIGHT && !load.stop.load(Ordering::Relaxed) {
                let value = format!("{name}-{}", published.len());
                let request = published.len() as u64;
                published.push((value.clone(), Outcome::Unknown));
                let publish = wire::Publish {
                    request,
                    session: session.into(),
                    records: vec![record(&value)],
                    ..Default::default()
                };
                client.send(ClientFrame::Publish(publish)).await;
                in_flight += 1;
            }
            if in_flight == 0 {
                break;
            }
            match client.receive_any().await {
                Some(ServerFrame::Published(ack)) => {
                    published[usize::try_from(ack.request).unwrap()].1 = Outcome::Acknowledged(ack.from);
                    load.acknowledged.send_modify(|count| *count += 1);
                    in_flight -= 1;
                }
                Some(_) => {}
                None => break,
            }
        }
    }
    (name, published)
}

/// A writer with a producer: it repeats what it does not know until it knows.
async fn write_until_known(
    load: Arc<Load>,
    session: &'static str,
    name: String,
) -> (String, Vec<(String, Outcome)>) {
    let mut published: Vec<(String, Outcome)> = Vec::new();
    while !load.stop.load(Ordering::Relaxed)
        || published.last().is_some_and(|(_, known)| *known == Outcome::Unknown)
    {
        let Some(mut client) = WireClient::try_connect(load.proxy).await else { continue };
        loop {
            let unknown = published.last().is_some_and(|(_, outcome)| *outcome == Outcome::Unknown);
            if !unknown {
                if load.stop.load(Ordering::Relaxed) {
                    break;
                }
                published.push((format!("{name}-{}", published.len()), Outcome::Unknown));
            }
            let sequence = published.len() as u64 - 1;
            let value = &published.last().unwrap().0;
            let publish = wire::Publish {
                request: sequence,
                session: session.into(),
                records: vec![record(value)],
                producer: Some(wire::Producer { id: name.clone(), epoch: 0, sequence }),
                ..Default::default()
            };
            client.send(ClientFrame::Publish(publish)).await;
            match client.receive_any().await {
                Some(ServerFrame::Published(ack)) => {
                    published.last_mut().unwrap().1 = Outcome::Acknowledged(ack.from);
                    load.acknowledged.send_modify(|count| *count += 1);
                }
                Some(ServerFrame::Refused(refused)) => panic!("{refused:?}"),
                Some(_) => {}
                None => break,
            }
        }
    }
    (name, published)
}

/// A reader that resumes where it was, until it has seen everything that there is when the load has stopped.
async fn follow(
    load: Arc<Load>,
    session: &'static str,
    name: String,
    ends: watch::Receiver<Option<u64>>,
) -> (String, Vec<(u64, String)>) {
    let mut seen: Vec<(u64, String)> = Vec::new();
    let mut next = 0;
    let done = |next: u64| ends.borrow().is_some_and(|end| next >= end);
    while !done(next) {
        let Some(mut client) = WireClient::try_connect(load.proxy).await else { continue };
        let subscription = wire::Subscription {
            subscription: 1,
            session: session.into(),
            from: Some(wire::From { from: Some(From::Position(format!("{:016}_{next:016}", 0))) }),
            wait: true,
            ..Default::default()
        };
        let subscribe = wire::Subscribe { request: 1, subscriptions: vec![subscription] };
        client.send(ClientFrame::Subscribe(subscribe)).await;
        let mut ends = ends.clone();
        while !done(next) {
            let frame = tokio::select! {
                frame = client.receive_any() => frame,
                _ = ends.changed() => continue,
            };
            match frame {
                Some(ServerFrame::Subscribed(subscribed)) => {
                    assert_eq!(subscribed.outcome, "resumed", "{subscribed:?}")
                }
                Some(ServerFrame::Delivery(delivery)) => {
                    assert_eq!(delivery.from, next, "{name} was given a gap or a repeat");
                    for (offset, one) in (delivery.from..).zip(&delivery.records) {
                        seen.push((offset, text(one).to_owned()));
                    }
                    next = delivery.next;
                }
                Some(_) => {}
                None => break,
            }
        }
    }
    (name, seen)
}

async fn read_all(address: SocketAddr, session: &str) -> Vec<String> {
    let mut client = WireClient::connect(address, Encoding::Proto).await;
    let end = subscribed(client.subscribe(session, From::Start(true)).await).end;
    let mut log = Vec::new();
    while (log.len() as u64) < end {
        let delivery = delivery(client.receive().await);
        assert_eq!(delivery.from, log.len() as u64);
        log.extend(delivery.records.iter().map(|record| text(record).to_owned()));
    }
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_under_load_loses_repeats_and_reorders_nothing() {
    let mut rng = Rng::from_env(11);
    let (_folder, data) = folder();
    let mut broker = Broker::start(&data);
    let proxy = Proxy::start(broker.address()).await;
    let load = Arc::new(Load {
        proxy: proxy.address(),
        stop: AtomicBool::new(false),
        acknowledged: watch::Sender::new(0),
    });
    let ends: Vec<_> = SESSIONS.iter().map(|_| watch::Sender::new(None)).collect();
    let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
    for (index, session) in SESSIONS.into_iter().enumerate() {
        for number in 0..2 {
            let (once, known) = (write_once, write_until_known);
            let name = |kind: &str| format!("{kind}{index}{number}");
            let (one, other) = (Arc::clone(&load), Arc::clone(&load));
            let (first, second) = (name("once"), name("known"));
            writers.spawn(async move { (index, once(one, session, first).await) });
            writers.spawn(async move { (index, known(other, session, second).await) });
            let (load, reader, ends) = (Arc::clone(&load), name("reader"), ends[index].subscribe());
            readers.spawn(async move { (index, follow(load, session, reader, ends).await) });
        }
    }
    let mut acknowledged = load.acknowledged.subscribe();
    let kills = repetitions("LONGWIRE_TEST_KILLS", KILLS);
    for cycle in 0..kills {
        let due = *acknowledged.borrow() + ACKNOWLEDGED_PER_CYCLE;
        tokio::time::timeout(Duration::from_secs(60), acknowledged.wait_for(|count| *count >= due))
            .await
            .unwrap_or_else(|_| panic!("no progress in cycle {cycle}"))
            .unwrap();
        tokio::time::sleep(Duration::from_micros(rng.below(JITTER_US))).await;
        broker.kill();
        proxy.set_upstream(None);
        broker = Broker::start(&data);
        proxy.set_upstream(Some(broker.address()));
    }
    load.stop.store(true, Ordering::Relaxed);
    let mut histories = [History::default(), History::default(), History::default()];
    while let Some(written) = writers.join_next().await {
        let (index, (name, published)) = written.unwrap();
        histories[index].published.insert(name, published);
    }
    // The log after one more restart: what is read is what the disk has.
    assert!(broker.terminate());
    broker = Broker::start(&data);
    proxy.set_upstream(Some(broker.address()));
    let mut logs = Vec::new();
    for (session, end) in SESSIONS.iter().zip(&ends) {
        let log = read_all(broker.address(), session).await;
        end.send_replace(Some(log.len() as u64));
        logs.push(log);
    }
    while let Some(read) = readers.join_next().await {
        let (index, (name, seen)) = read.unwrap();
        assert_eq!(seen.len(), logs[index].len(), "{name} has not seen everything");
        histories[index].read.insert(name, seen);
    }
    for (index, history) in histories.iter().enumerate() {
        assert_eq!(history.violations(&logs[index]), Vec::<String>::new(), "{}", SESSIONS[index]);
    }
    let total: usize = logs.iter().map(Vec::len).sum();
    println!("{total} records over {kills} kills");
    assert!(total as u64 >= kills * ACKNOWLEDGED_PER_CYCLE);
}
