//! Where publishes keep one order: a session, and in whose name one publishes to it.

use longwire_proto::session_id::SessionId;

/// Publishes of one lane have one producer. A producer belongs to a principal, so each name needs its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lane {
    pub(crate) session: SessionId,
    /// The principal that is published for; empty for the client's own.
    pub(crate) act_as: String,
}

impl From<SessionId> for Lane {
    fn from(session: SessionId) -> Self {
        Self { session, act_as: String::new() }
    }
}
