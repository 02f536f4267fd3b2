//! What becomes of a machine whose tokens expire, are revoked, or do not come.

use longwire_proto::wire::client_frame::Frame as ClientFrame;

use super::step::{Callback, Step};
use super::world::{ToBroker, world_with};
use crate::connection_state::ConnectionState;
use crate::error::Closed;
use crate::machine::io::{Input, Output};
use crate::machine::tokens::TOKEN_TIMEOUT;
use crate::token::Token;

#[test]
fn a_callback_that_gives_keeps_one_connection_over_any_number_of_tokens() {
    let mut world = world_with(3);
    for _ in 0..100 {
        world.step(Step::Publish { session: 0, records: 1 });
        world.exchange();
        world.step(Step::Deliver { session: 0, records: 9 });
        world.step(Step::Heartbeat);
        world.exchange();
        world.step(Step::Consume(9));
        world.step(Step::Advance(100));
    }
    assert!(world.broker.refreshed >= 3, "{}", world.broker.refreshed);
    assert_eq!((world.broker.expired, world.violations), (0, 0));
    world.heal();
    world.check();
}

#[test]
fn a_refresh_that_is_refused_ends_in_a_connection_with_another_token() {
    let mut world = world_with(0);
    world.exchange();
    world.step(Step::RefuseRefresh);
    world.step(Step::Advance(2_000));
    world.exchange();
    world.step(Step::Advance(600));
    assert!(matches!(world.to_broker.back(), Some(ToBroker::Frame(ClientFrame::Authenticate(_)))));
    world.exchange();
    assert!(!world.connected);
    world.step(Step::Publish { session: 0, records: 1 });
    world.heal();
    world.check();
    assert_eq!((world.broker.refreshed, world.broker.tokens.len()), (0, 3));
}

#[test]
fn who_is_given_no_other_token_is_closed_and_told_why() {
    let mut world = world_with(1);
    world.exchange();
    world.step(Step::Revoke);
    world.exchange();
    assert!(!world.connected && !world.machine.is_closed());
    world.step(Step::Callback(Callback::GivesLater));
    world.step(Step::Advance(60_000));
    let revoked = Token::new("token 0").unwrap();
    world.machine.handle(world.now, Input::Token(Ok(revoked)));
    let told = std::iter::from_fn(|| world.machine.poll_output());
    let states: Vec<Output> = told.filter(|output| matches!(output, Output::State(_))).collect();
    assert!(
        matches!(&states[..], [Output::State(ConnectionState::Closed(Closed::TokenRevoked))]),
        "{states:?}"
    );
}

#[test]
fn a_callback_that_never_answers_is_asked_again() {
    let mut world = world_with(0);
    world.step(Step::Callback(Callback::GivesLater));
    world.step(Step::Cut);
    world.step(Step::Advance(60_000));
    assert!(world.asked && !world.connected);
    world.asked = false;
    world.step(Step::Advance(TOKEN_TIMEOUT.as_millis() as u64));
    assert!(!world.asked);
    world.step(Step::Advance(60_000));
    assert!(world.asked);
    world.heal();
    world.check();
}

#[test]
fn nothing_of_the_machine_shows_a_token() {
    let mut world = world_with(1);
    assert!(!format!("{:?}", world.machine).contains("token 0"));
    world.heal();
    assert!(!format!("{:?}", world.machine).contains("token 0"));
}
