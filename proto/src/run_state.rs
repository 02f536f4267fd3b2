//! The state of a run.

use std::fmt;

/// What a run does, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Somebody works on it.
    Working,
    /// Nobody does, for now.
    Suspended,
    /// It waits for a human.
    InputRequired,
    /// It has come to what it was for.
    Completed,
    /// It has not.
    Failed,
    /// It was stopped.
    Cancelled,
    /// Nobody went on with it.
    Abandoned,
}

impl RunState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Working,
        Self::Suspended,
        Self::InputRequired,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Abandoned,
    ];

    /// The state as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Suspended => "suspended",
            Self::InputRequired => "input_required",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Abandoned => "abandoned",
        }
    }

    /// The state that a text names.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether the run goes no further.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Abandoned)
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
