//! What keeps the command from being an agent.

use longwire::{Closed, ErrorCode, PublishError, Refusal, RequestError, SubscriptionError};

/// Why something as the agent came to nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// The client is closed; whoever records says why.
    Closed,
    /// Somebody else is the agent.
    Held(String),
    /// The lease has lapsed, or the broker is busy: it is worth another try.
    Passing,
    /// Somebody else has ended the run.
    Ended,
    /// It will not be otherwise later.
    Refused(String),
}

impl From<Refusal> for Obstacle {
    fn from(refusal: Refusal) -> Self {
        match refusal.code {
            Some(ErrorCode::LeaseHeld) => Self::Held(refusal.to_string()),
            Some(ErrorCode::Fenced) => Self::Passing,
            Some(ErrorCode::RunEnded) => Self::Ended,
            _ if refusal.retryable => Self::Passing,
            _ => Self::Refused(refusal.to_string()),
        }
    }
}

impl From<Closed> for Obstacle {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<RequestError> for Obstacle {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused(refusal) => refusal.into(),
            RequestError::Closed(closed) => closed.into(),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<PublishError> for Obstacle {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Refused(refusal) => refusal.into(),
            PublishError::Closed(closed) => closed.into(),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<SubscriptionError> for Obstacle {
    fn from(error: SubscriptionError) -> Self {
        match error {
            SubscriptionError::Closed(closed) => closed.into(),
            other => Self::Refused(other.to_string()),
        }
    }
}
