//! What a subscription and a publish are told, by frames that the broker sends.

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::position::Position;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use super::SESSIONS;
use super::step::Step;
use super::world::{ToBroker, World, world_with};
use crate::error::SubscriptionError;
use crate::machine::event::Event;
use crate::machine::io::{Input, Output};
use crate::machine::outbox::Entry;
use crate::machine::{Awaited, Link};

/// Gives the machine one frame as if the broker had sent it, and returns what it told the subscription.
fn told(world: &mut World, frame: ServerFrame) -> Vec<Event> {
    world.machine.handle(world.now, Input::Frame(Box::new(frame.into()), 1));
    std::iter::from_fn(|| world.machine.poll_output())
        .filter_map(|output| match output {
            Output::Event { event, .. } => Some(event),
            _ => None,
        })
        .collect()
}

fn subscribed(outcome: &str) -> ServerFrame {
    ServerFrame::Subscribed(wire::Subscribed {
        request: 1,
        subscription: 1,
        exists: true,
        epoch: 2,
        start: 5,
        end: 9,
        outcome: outcome.into(),
        from: 5,
        gap_from: 3,
        ..Default::default()
    })
}

#[test]
fn outcomes_are_told_once_and_typed() {
    let told_for = |outcome| told(&mut world_with(0), subscribed(outcome));
    let resume = Position { epoch: 2, offset: 5 };
    let end = Position { epoch: 2, offset: 9 };
    assert!(matches!(
        told_for("gap")[..],
        [Event::Began(_), Event::Failed(SubscriptionError::Gap { from: 3, next: 5 })]
    ));
    let changed = told_for("epoch_changed");
    assert!(
        matches!(&changed[1], Event::Failed(error) if *error == SubscriptionError::EpochChanged { resume })
    );
    let future = told_for("future_position");
    assert!(
        matches!(&future[1], Event::Failed(error) if *error == SubscriptionError::FuturePosition { end })
    );
    assert!(matches!(future[2], Event::Ended));
    assert!(matches!(told_for("closed")[..], [Event::Began(_), Event::Ended]));
}

#[test]
fn ends_are_told_apart() {
    let ended = |code: ErrorCode, next| {
        let mut world = world_with(0);
        told(&mut world, subscribed("resumed"));
        let error = Some(Error::new(code, "over").to_wire());
        let ended =
            wire::SubscriptionEnded { subscription: 1, epoch: 2, next, error, session: String::new() };
        let events = told(&mut world, ServerFrame::SubscriptionEnded(ended));
        (events, matches!(world.machine.link, Link::Open(_)))
    };
    assert!(
        matches!(ended(ErrorCode::SessionClosed, 5), (events, true) if matches!(events[..], [Event::Ended]))
    );
    assert!(matches!(ended(ErrorCode::SessionClosed, 6), (events, false) if events.is_empty()));
    let (events, _) = ended(ErrorCode::SessionDeleted, 5);
    assert!(matches!(events[..], [Event::Failed(SubscriptionError::Deleted), Event::Ended]));
    let (events, _) = ended(ErrorCode::Draining, 5);
    assert!(events.is_empty());
    let (events, _) = ended(ErrorCode::DataCorrupt, 5);
    assert!(matches!(events[..], [Event::Failed(SubscriptionError::Refused(_)), Event::Ended]));
}

/// Refuses what is in flight with these codes, in order, and says what became of the entries.
fn settled_after(codes: &[(ErrorCode, u64)]) -> (Vec<(Entry, String)>, World) {
    let mut world = world_with(codes.len());
    let requests: Vec<u64> = world
        .to_broker
        .drain(..)
        .filter_map(|frame| match frame {
            ToBroker::Publish { request, .. } => Some(request),
            ToBroker::Frame(_) => None,
        })
        .collect();
    let mut settled = Vec::new();
    for (request, (code, expected)) in requests.iter().zip(codes) {
        let error = Some(Error::new(*code, "no").expected(*expected).to_wire());
        let refused = wire::Refused { request: *request, subscription: 0, error };
        world.machine.handle(world.now, Input::Frame(Box::new(ServerFrame::Refused(refused).into()), 0));
        while let Some(output) = world.machine.poll_output() {
            if let Output::Settled { entry, result } = output {
                world.spool.remove(&entry);
                settled.push((entry, format!("{:?}", result.unwrap_err())));
            }
        }
    }
    (settled, world)
}

#[test]
fn a_closed_session_fails_what_is_queued_and_a_fenced_producer_too() {
    let (settled, _) = settled_after(&[(ErrorCode::SessionClosed, 0); 3]);
    let wanted: Vec<(Entry, String)> = (0..3).map(|entry| (entry, "SessionClosed".to_owned())).collect();
    assert_eq!(settled, wanted);
    let (settled, mut world) = settled_after(&[(ErrorCode::ProducerFenced, 7); 2]);
    assert_eq!(settled.len(), 2);
    assert!(settled[0].1.starts_with("Fenced"));
    let slot = world.machine.reserve(&SessionId::parse(SESSIONS[0]).unwrap().into());
    assert_eq!((slot.producer.as_str(), slot.epoch, slot.sequence), ("life0-1", 0, 0));
}

#[test]
fn what_follows_a_mismatch_goes_on_under_the_next_epoch() {
    let codes = [(ErrorCode::EndMismatch, 12), (ErrorCode::SequenceGap, 0), (ErrorCode::SequenceGap, 0)];
    let (settled, mut world) = settled_after(&codes);
    assert_eq!(settled, [(0, "EndMismatch { end: 12 }".to_owned())]);
    let (_, first) = world.machine.poll_publish(world.now).unwrap();
    let (_, second) = world.machine.poll_publish(world.now).unwrap();
    assert_eq!((first.entry, first.slot.epoch, first.slot.sequence), (1, 1, 0));
    assert_eq!((second.entry, second.slot.epoch, second.slot.sequence), (2, 1, 1));
}

#[test]
fn a_producer_that_the_broker_forgot_begins_again() {
    let mut world = world_with(2);
    world.heal();
    world.broker.logs.clear();
    world.step(Step::Publish { session: 0, records: 1 });
    world.step(Step::ToBroker(9));
    world.step(Step::ToClient(9));
    world.step(Step::ToBroker(9));
    world.step(Step::ToClient(9));
    assert_eq!(world.broker.logs[SESSIONS[0]].records, ["2.0"]);
    assert_eq!(world.machine.unacknowledged(), 0);
}

#[test]
fn an_end_that_overtakes_the_answer_is_one() {
    let mut world = world_with(0);
    world.step(Step::ToBroker(99));
    let error = Error::new(ErrorCode::SessionNotFound, "there is no such session").to_wire();
    let ended = wire::SubscriptionEnded { subscription: 1, error: Some(error), ..Default::default() };
    let events = told(&mut world, ServerFrame::SubscriptionEnded(ended));
    assert!(
        matches!(events[..], [Event::Failed(SubscriptionError::NotAllowed(_)), Event::Ended]),
        "{events:?}"
    );
    let waits = |awaited: &Awaited| matches!(awaited, Awaited::Subscribe(all) if all.contains(&1));
    assert!(!world.machine.awaited.values().any(waits));
    assert!(told(&mut world, subscribed("resumed")).is_empty(), "what comes late is of no interest");
}

#[test]
fn a_subscription_that_ended_for_now_is_asked_for_again_on_the_same_connection() {
    let mut world = world_with(0);
    world.step(Step::ToBroker(99));
    told(&mut world, subscribed("resumed"));
    let mut error = Error::new(ErrorCode::StorageUnavailable, "reading failed").to_wire();
    error.retry_after_ms = 700;
    let ended = wire::SubscriptionEnded {
        subscription: 1,
        epoch: 2,
        next: 5,
        error: Some(error),
        session: String::new(),
    };
    assert!(told(&mut world, ServerFrame::SubscriptionEnded(ended)).is_empty());
    let asked = |world: &World| {
        world.to_broker.iter().any(|frame| match frame {
            ToBroker::Frame(ClientFrame::Subscribe(subscribe)) => {
                let again =
                    subscribe.subscriptions.iter().find(|subscription| subscription.subscription == 1);
                let position = Position { epoch: 2, offset: 5 }.to_string();
                again.and_then(|again| again.from.clone()?.from) == Some(wire::from::From::Position(position))
            }
            _ => false,
        })
    };
    world.step(Step::Advance(699));
    assert!(!asked(&world));
    world.step(Step::Advance(1));
    assert!(asked(&world), "it resumes where it was");
}
