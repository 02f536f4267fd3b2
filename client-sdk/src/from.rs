//! Where reading begins.

use longwire_proto::position::Position;
use longwire_proto::wire;

/// Where a subscription begins to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With the first retained record.
    Start,
    /// With what is published from now on.
    End,
    /// Where an earlier reading stopped: the position of the next record wanted.
    Position(Position),
    /// With this offset of the session's current epoch.
    Offset(u64),
    /// With this many records before the end.
    Last(u64),
}

impl From {
    pub(crate) fn to_wire(self) -> wire::From {
        let from = match self {
            Self::Start => wire::from::From::Start(true),
            Self::End => wire::from::From::End(true),
            Self::Position(position) => wire::from::From::Position(position.to_string()),
            Self::Offset(offset) => wire::from::From::Offset(offset),
            Self::Last(count) => wire::from::From::Last(count),
        };
        wire::From { from: Some(from) }
    }
}

impl std::convert::From<Position> for From {
    fn from(position: Position) -> Self {
        Self::Position(position)
    }
}
