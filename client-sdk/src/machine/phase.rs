//! How far a subscription is on a connection.

use std::time::Duration;

/// See the top of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// To be asked for, not before this time.
    Wanted(Duration),
    Asked,
    Live,
}
