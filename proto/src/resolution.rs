//! How an ask ended.

use std::fmt;

use bytes::Bytes;
use prost::Message;

use crate::wire;

/// The outcome of an ask. They are distinct, and only the first grants anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskOutcome {
    /// Somebody who may has answered.
    Answered,
    /// Somebody who may has declined to.
    Denied,
    /// Nobody did in time.
    Expired,
    /// It is not asked any more.
    Cancelled,
}

impl AskOutcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [Self::Answered, Self::Denied, Self::Expired, Self::Cancelled];

    /// The outcome as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// The outcome that a text names.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }

    /// The outcome that an answer gives its ask: one without any is an answer.
    #[must_use]
    pub fn of(answer: &wire::Answer) -> Option<Self> {
        if answer.outcome.is_empty() { Some(Self::Answered) } else { Self::parse(&answer.outcome) }
    }
}

impl fmt::Display for AskOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How an ask ended, and by which record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// What it came to.
    pub outcome: AskOutcome,
    /// The principal whose record it was.
    pub by: String,
    /// The offset of that record.
    pub offset: u64,
    /// When, in Unix milliseconds.
    pub time_ms: u64,
    /// The answer as an encoded [`wire::Answer`], where it is known: it can have been erased.
    pub answer: Option<Bytes>,
}

impl Resolution {
    /// The resolution as the wire carries it.
    #[must_use]
    pub fn to_wire(&self) -> wire::Resolution {
        wire::Resolution {
            outcome: self.outcome.as_str().to_owned(),
            by: self.by.clone(),
            offset: self.offset,
            time_ms: self.time_ms,
            answer: self.answer.as_ref().and_then(|answer| wire::Answer::decode(answer.clone()).ok()),
        }
    }
}
