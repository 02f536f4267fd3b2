//! The outcomes of a subscribe.

/// What became of a wish to read from some place. The texts of `Subscribed.outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Reading goes on exactly where it was asked to.
    Resumed,
    /// Reading begins with the first retained record, as asked.
    FromStart,
    /// Records were trimmed: those from `gap_from` up to `from` are gone.
    Gap,
    /// The position belongs to another history of the session: reading begins at `from` of this one.
    EpochChanged,
    /// The position is beyond the end. Nothing is subscribed.
    FuturePosition,
    /// The session is closed and was read to its end. Nothing is subscribed.
    Closed,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 6] =
        [Self::Resumed, Self::FromStart, Self::Gap, Self::EpochChanged, Self::FuturePosition, Self::Closed];

    /// The text on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resumed => "resumed",
            Self::FromStart => "from_start",
            Self::Gap => "gap",
            Self::EpochChanged => "epoch_changed",
            Self::FuturePosition => "future_position",
            Self::Closed => "closed",
        }
    }

    /// The outcome that a text on the wire names.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }

    /// Whether deliveries follow.
    #[must_use]
    pub fn is_subscribed(self) -> bool {
        !matches!(self, Self::FuturePosition | Self::Closed)
    }
}
