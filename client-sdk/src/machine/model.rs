//! The machine against a model of the broker, under every interleaving that proptest can think of: cuts at any frame,
//! lost answers, refusals, broken deliveries, restarts of the client, and tokens that expire, are revoked, come late, not
//! at all, or twice.

mod broker;
mod outcomes;
mod step;
mod tokens;
mod world;

use std::time::Duration;

use longwire_proto::codec;
use longwire_proto::early::only_reads;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use proptest::prelude::*;

use self::step::{Step, step};
use self::world::{ToBroker, World, world_with};
use crate::from::From;
use crate::machine::Machine;
use crate::machine::io::{Config, Input, Output};
use crate::machine::outbox::Recovered;
use crate::machine::subscriptions::{Wanted, Wish};
use crate::machine::tokens::Known;
use crate::transport::Transport;

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

#[test]
fn what_is_said_first_only_reads_and_what_changes_meanwhile_is_said_behind_it() {
    const LONG: Duration = Duration::from_secs(60);
    let config = Config { token: Known::None, ..world::config(0, Recovered::default()) };
    let mut machine = Machine::new(config);
    let said = |machine: &mut Machine| -> Vec<ClientFrame> {
        let said = |output| match output {
            Output::Connect(greeting) => greeting,
            Output::Send(frame) => vec![frame],
            _ => Vec::new(),
        };
        std::iter::from_fn(|| machine.poll_output()).flat_map(said).collect()
    };
    assert!(matches!(&said(&mut machine)[..], [ClientFrame::Hello(_)]));
    for number in 1..=2 {
        let session = SessionId::parse("s").unwrap();
        let wish = Wish { wait: true, ..Wish::new(session, From::Start, 1) };
        machine.handle(Duration::ZERO, Input::Subscribe { number, wanted: Wanted::Records(wish) });
    }
    machine.handle(Duration::ZERO, Input::Connected(Transport::Quic));
    assert!(
        matches!(&said(&mut machine)[..], [ClientFrame::Subscribe(both)] if both.subscriptions.len() == 2)
    );
    // Twice, because an attempt may come to nothing.
    for _ in 0..2 {
        machine.handle(LONG, Input::Disconnected { error: "cut".into() });
        machine.handle(2 * LONG, Input::Time);
        let greeting = said(&mut machine);
        assert!(
            matches!(&greeting[..], [ClientFrame::Hello(_), ClientFrame::Subscribe(both)] if both.subscriptions.len() == 2)
        );
        let encode = |frame| codec::encode_client(codec::Encoding::Proto, frame);
        assert!(greeting.into_iter().map(encode).all(|frame| only_reads(&frame)));
    }
    machine.handle(2 * LONG, Input::Unsubscribe { number: 1 });
    assert!(said(&mut machine).is_empty());
    machine.handle(2 * LONG, Input::Connected(Transport::Quic));
    assert!(matches!(&said(&mut machine)[..], [ClientFrame::Unsubscribe(left)] if left.subscription == 1));
}
