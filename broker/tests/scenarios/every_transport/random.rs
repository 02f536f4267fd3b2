//! Random commands: whatever they are, they come to the same over every transport.

use std::collections::BTreeMap;

use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::every_transport::client::{Client, position, subscribe};
use crate::every_transport::transport::{Bed, Transport};
use crate::support::rng::Rng;
use crate::support::wire_client::record;

const COMMANDS: u64 = 200;
const SEED: u64 = 20_261_121;
const SESSIONS: u64 = 4;
const SUBSCRIPTIONS: u64 = 4;

/// What came of a run: the answers in their order, and what each registration of a subscription was sent. How many deliveries
/// that takes is nobody's promise.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    answers: Vec<String>,
    delivered: Vec<String>,
}

/// Reading that goes on.
struct Reading {
    session: String,
    next: u64,
    told: String,
}

struct Run {
    client: Client,
    rng: Rng,
    readings: BTreeMap<u32, Reading>,
    outcome: Outcome,
}

fn session(rng: &mut Rng) -> String {
    format!("acme/{}", rng.below(SESSIONS))
}

/// A place that is mostly there.
fn place(rng: &mut Rng) -> String {
    position(rng.below(8) / 7, rng.below(20))
}

fn publish(rng: &mut Rng) -> ClientFrame {
    let records = (0..rng.below(4))
        .map(|_| wire::Record {
            kind: [0, 0, 0, 40, 10][rng.below(5) as usize],
            r#type: ["", "a", "b"][rng.below(3) as usize].into(),
            ..record(&format!("{:x}", rng.next()))
        })
        .collect();
    let producer = (rng.below(3) > 0).then(|| wire::Producer {
        id: format!("p{}", rng.below(2)),
        epoch: rng.below(6) / 5,
        sequence: rng.below(6),
    });
    let if_end = (rng.below(4) == 0).then(|| rng.below(10));
    ClientFrame::Publish(wire::Publish { session: session(rng), records, producer, if_end, ..Default::default() })
}

fn wish(rng: &mut Rng) -> wire::Subscription {
    let from = match rng.below(6) {
        0 => From::Start(true),
        1 => From::End(true),
        2 => From::Position(place(rng)),
        3 => From::Offset(rng.below(20)),
        4 => From::Last(rng.below(5)),
        _ => From::Cursor(format!("c{}", rng.below(2))),
    };
    let filter = (rng.below(3) == 0).then(|| wire::Filter { kinds: vec![0], types: vec!["a".into()], ..Default::default() });
    wire::Subscription {
        subscription: rng.below(SUBSCRIPTIONS) as u32,
        session: session(rng),
        from: Some(wire::From { from: Some(from) }),
        filter,
        ..Default::default()
    }
}

fn command(rng: &mut Rng) -> ClientFrame {
    use wire::read::Place;
    let request = 0;
    match rng.below(32) {
        0..12 => publish(rng),
        12..18 => subscribe([wish(rng)]),
        18 => ClientFrame::Unsubscribe(wire::Unsubscribe { request, subscription: rng.below(SUBSCRIPTIONS) as u32 }),
        19 => ClientFrame::DescribeSession(wire::DescribeSession { request, session: session(rng) }),
        20 | 21 => {
            let meta = Some(wire::SessionMeta { title: format!("{}", rng.below(9)), ..Default::default() });
            let update = rng.below(2) == 0;
            ClientFrame::CreateSession(wire::CreateSession { request, session: session(rng), meta, update })
        }
        22 => ClientFrame::CloseSession(wire::CloseSession { request, session: session(rng), reason: "r".into() }),
        23 => ClientFrame::DeleteSession(wire::DeleteSession { request, session: session(rng) }),
        24 => ClientFrame::TrimSession(wire::TrimSession { request, session: session(rng), before: place(rng) }),
        25 => {
            let from = rng.below(10);
            let ranges = vec![wire::OffsetRange { from, next: from + rng.below(3) }];
            let session = session(rng);
            ClientFrame::EraseRecords(wire::EraseRecords { session, ranges, ..Default::default() })
        }
        26 => {
            let (from_session, at) = (session(rng), place(rng));
            let session = session(rng);
            ClientFrame::ForkSession(wire::ForkSession { session, from_session, at, ..Default::default() })
        }
        27 => {
            let (session, cursor) = (session(rng), format!("c{}", rng.below(2)));
            ClientFrame::CommitCursor(wire::CommitCursor { request, session, cursor, position: place(rng) })
        }
        28 => {
            let (session, cursor) = (session(rng), format!("c{}", rng.below(2)));
            ClientFrame::DescribeCursor(wire::DescribeCursor { request, session, cursor })
        }
        29 => ClientFrame::ListSessions(wire::ListSessions { limit: rng.below(4) as u32, ..Default::default() }),
        _ => {
            let place = match rng.below(3) {
                0 => None,
                1 => Some(Place::After(place(rng))),
                _ => Some(Place::Before(place(rng))),
            };
            let limit = rng.below(6) as u32;
            ClientFrame::Read(wire::Read { session: session(rng), place, limit, ..Default::default() })
        }
    }
}

/// A text without what differs from run to run: times, and the numbers of requests, since what comes in one delivery or in two is
/// looked after as often.
fn timeless(frame: &impl std::fmt::Debug) -> String {
    ["_ms: ", "request: "].iter().fold(format!("{frame:?}"), |text, name| {
        let mut parts = text.split(name);
        let mut kept = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            kept.push_str(name);
            kept.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
        }
        kept
    })
}

impl Run {
    async fn step(&mut self, number: u64) {
        let command = command(&mut self.rng);
        let (wished, left) = match &command {
            ClientFrame::Subscribe(subscribe) => (Some(subscribe.subscriptions[0].clone()), None),
            ClientFrame::Unsubscribe(unsubscribe) => (None, Some(unsubscribe.subscription)),
            _ => (None, None),
        };
        let asked = timeless(&command);
        let mut answer = self.client.ask(command).await;
        // Sealed with a key of the broker's own, and never the same twice.
        if let ServerFrame::SessionList(list) = &mut answer
            && !list.next_page.is_empty()
        {
            list.next_page = "more".into();
        }
        self.outcome.answers.push(format!("{number} {asked}: {}", timeless(&answer)));
        // A registration again is an end of the one before, whether or not it comes to something.
        let subscription = wished.as_ref().map(|wish| wish.subscription).or(left);
        let is_wrong = matches!(&answer, ServerFrame::Refused(refused)
            if refused.error.as_ref().is_some_and(|error| error.code.starts_with("invalid_")));
        if let Some(subscription) = subscription.filter(|_| !is_wrong) {
            self.finish(subscription, "replaced");
        }
        if let (Some(wish), ServerFrame::Subscribed(begun)) = (wished, &answer)
            && !["closed", "future_position"].contains(&begun.outcome.as_str())
        {
            let reading = Reading { session: wish.session, next: begun.from, told: format!("{number}:") };
            self.readings.insert(wish.subscription, reading);
        }
        self.settle().await;
    }

    fn finish(&mut self, subscription: u32, how: &str) {
        if let Some(reading) = self.readings.remove(&subscription) {
            self.outcome.delivered.push(format!("{subscription} {how} {}", reading.told));
        }
    }

    /// Waits until everything that there is was read.
    async fn settle(&mut self) {
        for subscription in self.readings.keys().copied().collect::<Vec<_>>() {
            loop {
                let reading = &self.readings[&subscription];
                let describe = wire::DescribeSession { request: 0, session: reading.session.clone() };
                let (is_over, end) = match self.client.ask(ClientFrame::DescribeSession(describe)).await {
                    ServerFrame::SessionDescription(answer) => {
                        let session = answer.session.unwrap();
                        // Who is overtaken by a trim is told.
                        (session.closed || session.start > reading.next, session.end)
                    }
                    _ => (true, 0),
                };
                if !is_over && reading.next >= end {
                    break;
                }
                if !self.read(subscription).await {
                    break;
                }
            }
        }
    }

    /// Reads what a subscription has next; false when that is its end.
    async fn read(&mut self, subscription: u32) -> bool {
        match self.client.of(subscription).await {
            ServerFrame::Delivery(delivery) => {
                let reading = self.readings.get_mut(&subscription).unwrap();
                assert_eq!(delivery.from, reading.next);
                reading.next = delivery.next;
                for (index, record) in (0..).zip(&delivery.records) {
                    let offset = delivery.offsets.get(index).copied().unwrap_or(delivery.from + index as u64);
                    reading.told.push_str(&format!(" {}.{offset} {}", delivery.epoch, timeless(record)));
                }
                true
            }
            ServerFrame::SubscriptionEnded(ended) => {
                self.finish(subscription, &timeless(&ended));
                false
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn run(transport: Transport, rng: Rng) -> Outcome {
    let bed = Bed::new(transport);
    let client = bed.connect().await;
    let mut run = Run { client, rng, readings: BTreeMap::new(), outcome: Outcome::default() };
    for number in 0..COMMANDS {
        run.step(number).await;
    }
    for subscription in run.readings.keys().copied().collect::<Vec<_>>() {
        run.finish(subscription, "left");
    }
    run.client.ping(1).await;
    run.client.assert_nothing_else();
    run.outcome
}

pub(super) async fn random_commands_come_to_the_same(transport: Transport) {
    let rng = Rng::from_env(SEED);
    let wanted = run(Transport::WsProto, rng.clone()).await;
    let found = run(transport, rng).await;
    for (found, wanted) in found.answers.iter().zip(&wanted.answers) {
        assert_eq!(found, wanted);
    }
    assert_eq!(found, wanted);
}
