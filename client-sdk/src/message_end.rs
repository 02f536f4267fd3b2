//! How a message that grows ends.

/// How a message that grows ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageEnd {
    /// It is whole.
    Complete,
    /// It was stopped.
    Cancelled,
    /// Nobody went on with it.
    Abandoned,
    /// Another one takes its place.
    Superseded,
}

impl MessageEnd {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Cancelled => "cancelled",
            Self::Abandoned => "abandoned",
            Self::Superseded => "superseded",
        }
    }
}
