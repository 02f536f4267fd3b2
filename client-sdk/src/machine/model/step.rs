//! What can happen, one thing at a time.

use proptest::prelude::*;

use super::broker::Trouble;

/// What the application does when it is asked for a token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Callback {
    #[default]
    Gives,
    GivesLater,
    /// The one of before again, unless that was revoked.
    GivesOld,
    Fails,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Publish { session: usize, records: usize },
    ToBroker(usize),
    ToClient(usize),
    Deliver { session: usize, records: usize },
    Consume(usize),
    Trouble(Trouble),
    SkipDelivery,
    RepeatDelivery,
    Heartbeat,
    Cut,
    Drain,
    Advance(u64),
    Restart,
    Callback(Callback),
    Revoke,
    RefuseRefresh,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let trouble = prop_oneof![
        Just(Trouble::Overloaded),
        Just(Trouble::UnknownApplied),
        Just(Trouble::UnknownNotApplied),
        Just(Trouble::Invalid),
    ];
    let callback = prop_oneof![
        4 => Just(Callback::Gives),
        1 => Just(Callback::GivesLater),
        1 => Just(Callback::GivesOld),
        1 => Just(Callback::Fails),
    ];
    prop_oneof![
        8 => (0..3usize, 1..4usize).prop_map(|(session, records)| Step::Publish { session, records }),
        8 => (1..6usize).prop_map(Step::ToBroker),
        8 => (1..6usize).prop_map(Step::ToClient),
        6 => (0..3usize, 1..5usize).prop_map(|(session, records)| Step::Deliver { session, records }),
        4 => (1..5usize).prop_map(Step::Consume),
        2 => trouble.prop_map(Step::Trouble),
        1 => Just(Step::SkipDelivery),
        1 => Just(Step::RepeatDelivery),
        1 => Just(Step::Heartbeat),
        2 => Just(Step::Cut),
        1 => Just(Step::Drain),
        3 => (1..2000u64).prop_map(Step::Advance),
        1 => Just(Step::Restart),
        2 => callback.prop_map(Step::Callback),
        1 => Just(Step::Revoke),
        1 => Just(Step::RefuseRefresh),
    ]
}
