//! What a subscription is told, and what ends a connection.

use longwire_proto::outcome::Outcome;
use longwire_proto::session_id::SessionId;

use crate::delivered::Delivered;
use crate::error::SubscriptionError;

/// How a subscription began: the broker's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Began {
    /// What became of the wish to read from some place.
    pub outcome: Outcome,
    /// Whether the session existed; false only with `wait_for_session`.
    pub exists: bool,
    /// The epoch of the log.
    pub epoch: u64,
    /// The first retained offset.
    pub start: u64,
    /// The durable end at that moment: records from here on are newer than the subscription.
    pub end: u64,
    /// Where deliveries begin.
    pub from: u64,
}

/// What a subscription is told.
#[derive(Debug)]
pub(crate) enum Event {
    Began(Began),
    Delivery(Delivery),
    /// The sessions of a pattern are watched.
    Watching,
    /// Something may have happened to this one.
    Touched(SessionId),
    Failed(SubscriptionError),
    Ended,
}

/// Records that come next.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) epoch: u64,
    pub(crate) next: u64,
    /// Bytes of the frame, for flow control.
    pub(crate) bytes: u64,
    pub(crate) records: Delivered,
}

/// The broker broke the protocol; the connection is made anew and reading resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) String);
