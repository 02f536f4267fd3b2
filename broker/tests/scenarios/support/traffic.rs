//! Clients that write, read and ask at the same time, over connections that may end at any moment, and record what they
//! were told.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::broker::hostile;
use crate::support::history::{By, Invocation, Outcome, Recorder, Value, moment};
use crate::support::probe::ask;
use crate::support::rng::Rng;
use crate::support::wire_client::{WireClient, delivery, record, subscribed, text};

/// Publishes that one writer has in flight.
const IN_FLIGHT: usize = 8;
/// Records of one publish, at most.
const BATCH_MAX: u64 = 4;
/// Deliveries that a visitor stays for, at most.
const VISIT_MAX: u64 = 6;
/// Records before the end that a visitor begins at, at most.
const BACK_MAX: u64 = 200;

/// A session that is worked on.
#[derive(Clone, Debug)]
pub(crate) struct Worked {
    pub(crate) session: String,
    pub(crate) recorder: Recorder,
}

/// What the clients share.
#[derive(Debug)]
pub(crate) struct Traffic {
    /// Where to connect, while there is anything to connect to.
    pub(crate) upstream: watch::Receiver<Option<SocketAddr>>,
    /// What to connect to instead; a proxy that stays while brokers come and go.
    pub(crate) through: Option<SocketAddr>,
    pub(crate) sessions: Vec<Worked>,
    pub(crate) acknowledged: watch::Sender<u64>,
    stop: watch::Sender<bool>,
}

impl Traffic {
    /// Clients for these sessions, none of them started.
    pub(crate) fn new(
        upstream: watch::Receiver<Option<SocketAddr>>,
        through: Option<SocketAddr>,
        sessions: &[&str],
    ) -> Arc<Self> {
        let worked = |session: &&str| Worked { session: (*session).into(), recorder: Recorder::default() };
        Arc::new(Self {
            upstream,
            through,
            sessions: sessions.iter().map(worked).collect(),
            acknowledged: watch::Sender::new(0),
            stop: watch::Sender::new(false),
        })
    }

    /// Ends every client but those that follow.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(crate) fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// A connection, once there is something to connect to; `None` when it ended at once.
    pub(crate) async fn connect(&self) -> Option<WireClient> {
        let upstream = (*self.upstream.clone().wait_for(Option::is_some).await.ok()?)?;
        WireClient::try_connect(self.through.unwrap_or(upstream)).await
    }

    /// A publish was acknowledged.
    pub(crate) fn note(&self, recorder: &Recorder, invocation: &Invocation, from: u64) {
        recorder.ended(invocation, Outcome::Ok(from));
        self.acknowledged.send_modify(|count| *count += 1);
    }
}

/// The records of a publish.
pub(crate) fn records(invocation: &Invocation) -> Vec<wire::Record> {
    invocation.values.clone().map(|value| record(&value.to_string())).collect()
}

/// The value of a record that was published here. What is none is a value that nobody published.
pub(crate) fn value(text: &str) -> Value {
    text.parse().unwrap_or(Value::MAX)
}

/// The values of consecutive records, by offset.
pub(crate) fn values(from: u64, records: &[wire::Record]) -> Vec<(u64, Value)> {
    (from..).zip(records.iter().map(|record| value(text(record)))).collect()
}

/// A broker that stops refuses what it is asked while it does. Nothing else here is refused.
fn may_be_repeated(refused: &wire::Refused) {
    let error = refused.error.as_ref().unwrap();
    assert!(error.retryable, "{refused:?}");
}

/// A store that misses a read ends a subscription for now. Nothing else here ends one.
fn may_be_resumed(ended: &wire::SubscriptionEnded) {
    let error = ended.error.as_ref().unwrap();
    assert!(error.retryable && hostile().is_some(), "{ended:?}");
}

/// A writer without a producer: what it does not know, it does not repeat.
pub(crate) async fn write_once(traffic: Arc<Traffic>, index: usize, name: String, mut rng: Rng) {
    let Worked { session, recorder } = traffic.sessions[index].clone();
    let writer: Arc<str> = name.into();
    let mut request = 0;
    while !traffic.stopped() {
        let Some(mut client) = traffic.connect().await else { continue };
        let mut open: HashMap<u64, Invocation> = HashMap::new();
        loop {
            while open.len() < IN_FLIGHT && !traffic.stopped() {
                let invocation = recorder.publish(&writer, 1 + rng.below(BATCH_MAX));
                request += 1;
                let publish = wire::Publish {
                    request,
                    session: session.clone(),
                    records: records(&invocation),
                    ..Default::default()
                };
                open.insert(request, invocation);
                client.send(ClientFrame::Publish(publish)).await;
            }
            if open.is_empty() {
                break;
            }
            match client.receive_any().await {
                Some(ServerFrame::Published(ack)) => {
                    let invocation = open.remove(&ack.request).unwrap();
                    traffic.note(&recorder, &invocation, ack.from);
                }
                Some(ServerFrame::Refused(refused)) => {
                    may_be_repeated(&refused);
                    open.remove(&refused.request).unwrap();
                }
                Some(_) => {}
                None => break,
            }
        }
    }
}

/// A writer with a producer: it repeats what it does not know, in order, until it knows.
pub(crate) async fn write_until_known(traffic: Arc<Traffic>, index: usize, name: String, mut rng: Rng) {
    let Worked { session, recorder } = traffic.sessions[index].clone();
    let writer: Arc<str> = name.clone().into();
    let mut open: VecDeque<(u64, Invocation)> = VecDeque::new();
    let mut next_sequence = 0;
    let publish = |sequence, invocation: &Invocation| {
        ClientFrame::Publish(wire::Publish {
            request: sequence,
            session: session.clone(),
            records: records(invocation),
            producer: Some(wire::Producer { id: name.clone(), epoch: 0, sequence }),
            ..Default::default()
        })
    };
    while !traffic.stopped() || !open.is_empty() {
        let Some(mut client) = traffic.connect().await else { continue };
        for (sequence, invocation) in &open {
            client.send(publish(*sequence, invocation)).await;
        }
        loop {
            while open.len() < IN_FLIGHT && !traffic.stopped() {
                let invocation = recorder.publish(&writer, 1 + rng.below(BATCH_MAX));
                client.send(publish(next_sequence, &invocation)).await;
                open.push_back((next_sequence, invocation));
                next_sequence += 1;
            }
            if open.is_empty() {
                break;
            }
            match client.receive_any().await {
                Some(ServerFrame::Published(ack)) => {
                    let place = open.iter().position(|(sequence, _)| *sequence == ack.request).unwrap();
                    let (_, invocation) = open.remove(place).unwrap();
                    traffic.note(&recorder, &invocation, ack.from);
                }
                Some(ServerFrame::Refused(refused)) => {
                    may_be_repeated(&refused);
                    // What follows it would be out of order.
                    break;
                }
                Some(_) => {}
                None => break,
            }
        }
    }
}

fn subscribe(session: &str, from: From) -> ClientFrame {
    let subscription = wire::Subscription {
        subscription: 1,
        session: session.into(),
        from: Some(wire::From { from: Some(from) }),
        wait: true,
        ..Default::default()
    };
    ClientFrame::Subscribe(wire::Subscribe { request: 1, subscriptions: vec![subscription] })
}

/// The text of a position of the first epoch.
pub(crate) fn position(offset: u64) -> String {
    format!("{:016}_{offset:016}", 0)
}

/// A reader that resumes where it was, until it has seen everything that there is when the writers have stopped, which
/// `end` tells.
pub(crate) async fn follow(
    traffic: Arc<Traffic>,
    index: usize,
    name: String,
    end: watch::Receiver<Option<u64>>,
) {
    let Worked { session, recorder } = traffic.sessions[index].clone();
    let reader = recorder.reader(name, 0);
    let mut next = 0;
    let done = |next: u64| end.borrow().is_some_and(|end| next >= end);
    while !done(next) {
        let Some(mut client) = traffic.connect().await else { continue };
        let began = moment();
        client.send(subscribe(&session, From::Position(position(next)))).await;
        let mut end = end.clone();
        while !done(next) {
            let frame = tokio::select! {
                frame = client.receive_any() => frame,
                _ = end.changed() => continue,
            };
            match frame {
                Some(ServerFrame::Subscribed(subscribed)) => {
                    assert_eq!(subscribed.outcome, "resumed", "{subscribed:?}");
                    recorder.look(By::Subscribed, began, subscribed.end, None);
                }
                Some(ServerFrame::Delivery(delivery)) => {
                    recorder.saw(reader, values(delivery.from, &delivery.records));
                    next = delivery.next;
                }
                Some(ServerFrame::Heartbeat(_) | ServerFrame::Goodbye(_)) => {}
                Some(ServerFrame::Refused(refused)) => {
                    may_be_repeated(&refused);
                    break;
                }
                Some(ServerFrame::SubscriptionEnded(ended)) => {
                    may_be_resumed(&ended);
                    assert_eq!(ended.next, next, "{ended:?}");
                    break;
                }
                Some(other) => panic!("{other:?}"),
                None => break,
            }
        }
    }
    recorder.stayed(reader);
}

/// Readers that come somewhere, stay for some deliveries and leave.
pub(crate) async fn visit(traffic: Arc<Traffic>, index: usize, name: String, mut rng: Rng) {
    let Worked { session, recorder } = traffic.sessions[index].clone();
    let (mut stop, mut known_end) = (traffic.stop.subscribe(), 0_u64);
    while !traffic.stopped() {
        let Some(mut client) = traffic.connect().await else { continue };
        // Seldom from the start: a long log would be all that is read.
        let from = match rng.below(16) {
            0 => From::Start(true),
            1..4 => From::End(true),
            4..8 => From::Last(rng.below(BACK_MAX)),
            _ => From::Offset(known_end.saturating_sub(rng.below(BACK_MAX))),
        };
        let began = moment();
        client.send(subscribe(&session, from)).await;
        let mut reader = None;
        for _ in 0..=rng.below(VISIT_MAX) + 1 {
            let frame = tokio::select! {
                frame = client.receive_any() => frame,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match (frame, reader) {
                (Some(ServerFrame::Subscribed(subscribed)), None) => {
                    known_end = subscribed.end;
                    recorder.look(By::Subscribed, began, subscribed.end, None);
                    reader = Some(recorder.reader(name.clone(), subscribed.from));
                }
                (Some(ServerFrame::Delivery(delivery)), Some(reader)) => {
                    recorder.saw(reader, values(delivery.from, &delivery.records));
                }
                (Some(ServerFrame::Heartbeat(_) | ServerFrame::Goodbye(_)), _) => {}
                (Some(ServerFrame::Refused(refused)), None) => {
                    may_be_repeated(&refused);
                    break;
                }
                (Some(ServerFrame::SubscriptionEnded(ended)), Some(_)) => {
                    may_be_resumed(&ended);
                    break;
                }
                (Some(other), _) => panic!("{other:?}"),
                (None, _) => break,
            }
        }
    }
}

/// Writers, readers and askers of every session. What follows is in the second set.
pub(crate) fn start(
    traffic: &Arc<Traffic>,
    rng: &mut Rng,
    ends: &[watch::Sender<Option<u64>>],
) -> (JoinSet<()>, JoinSet<()>) {
    let (mut clients, mut followers) = (JoinSet::new(), JoinSet::new());
    for (index, end) in ends.iter().enumerate() {
        for number in 0..2 {
            let name = |kind: &str| format!("{kind}{index}{number}");
            clients.spawn(write_once(Arc::clone(traffic), index, name("once"), rng.split()));
            clients.spawn(write_until_known(Arc::clone(traffic), index, name("known"), rng.split()));
            followers.spawn(follow(Arc::clone(traffic), index, name("reader"), end.subscribe()));
        }
        clients.spawn(visit(Arc::clone(traffic), index, format!("visitor{index}"), rng.split()));
        clients.spawn(ask(Arc::clone(traffic), index, format!("asker{index}"), rng.split()));
    }
    (clients, followers)
}

/// Everything that a session has, as a new reader sees it.
pub(crate) async fn read_all(client: &mut WireClient, session: &str) -> Vec<Value> {
    let end = subscribed(client.subscribe(session, From::Start(true)).await).end;
    let mut log = Vec::new();
    while (log.len() as u64) < end {
        let delivery = delivery(client.receive().await);
        assert_eq!(delivery.from, log.len() as u64);
        log.extend(delivery.records.iter().map(|record| value(text(record))));
    }
    log
}
