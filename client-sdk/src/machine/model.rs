//! The machine against a model of the broker, under every interleaving that proptest can think of: cuts at any frame,
//! lost answers, refusals, broken deliveries, restarts of the client, and tokens that expire, are revoked, come late, not
//! at all, or twice.

mod broker;
mod outcomes;
mod step;
mod tokens;
mod world;

use longwire_proto::wire::client_frame::Frame as ClientFrame;
use proptest::prelude::*;

use self::step::{Step, step};
use self::world::{ToBroker, World, world_with};

const SESSIONS: [&str; 3] = ["a/1", "a/2", "b"];
const WINDOW_BYTES: u64 = 64;
const RECORD_BYTES: u64 = 10;
/// What the broker's clock shows when the machine is made.
const BROKER_MS: u64 = 1_700_000_000_000;
/// How long a token is valid.
const TOKEN_MS: u64 = 3_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn every_publish_once_in_order_and_every_record_seen_once_in_order(
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.heal();
        world.check();
    }
}

#[test]
fn a_skipped_delivery_is_a_violation_and_is_read_again() {
    let mut world = world_with(4);
    world.exchange();
    world.step(Step::Deliver { session: 0, records: 1 });
    world.step(Step::Deliver { session: 0, records: 1 });
    world.step(Step::SkipDelivery);
    world.step(Step::ToClient(99));
    assert_eq!(world.violations, 1);
    world.heal();
    world.check();
}

#[test]
fn a_known_end_that_never_comes_is_a_violation() {
    let mut world = world_with(2);
    world.exchange();
    for _ in 0..=4 {
        world.step(Step::Heartbeat);
        world.step(Step::ToClient(9));
    }
    assert_eq!(world.violations, 1);
    world.heal();
    world.check();
}

#[test]
fn silence_ends_the_connection_and_pings_keep_it() {
    let mut world = world_with(0);
    world.step(Step::ToBroker(9));
    world.step(Step::ToClient(9));
    world.step(Step::Advance(1000));
    assert!(matches!(world.to_broker.back(), Some(ToBroker::Frame(ClientFrame::Ping(_)))));
    world.step(Step::Advance(1499));
    assert!(world.connected);
    world.step(Step::Advance(1));
    assert!(!world.connected);
}

#[test]
fn a_consumer_that_sleeps_holds_a_bounded_backlog_over_any_number_of_cuts() {
    let mut world = world_with(100);
    for _ in 0..20 {
        for _ in 0..50 {
            world.step(Step::ToBroker(9));
            world.step(Step::Deliver { session: 0, records: 2 });
            world.step(Step::ToClient(9));
        }
        world.step(Step::Cut);
        world.step(Step::Advance(60_000));
    }
    let backlog: u64 = world.queue.iter().map(|(_, delivery)| delivery.bytes).sum();
    assert!(backlog <= WINDOW_BYTES * 3 / 2, "{backlog}");
    world.heal();
    world.check();
}

#[test]
fn every_subscription_resumes_in_one_frame() {
    let mut world = world_with(1);
    world.step(Step::ToBroker(99));
    world.step(Step::ToClient(99));
    world.step(Step::Cut);
    world.step(Step::Advance(60_000));
    let subscribes = world.to_broker.iter().filter_map(|frame| match frame {
        ToBroker::Frame(ClientFrame::Subscribe(subscribe)) => Some(subscribe.subscriptions.len()),
        _ => None,
    });
    assert_eq!(subscribes.collect::<Vec<_>>(), [3]);
}
