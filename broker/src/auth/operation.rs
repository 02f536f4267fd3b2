//! What a principal can ask of the broker, and which rights that takes.

use longwire_proto::right::{Right, Rights};

/// Everything that is asked of the broker by somebody.
///
/// What names two sessions is two operations. What names sessions by a pattern, a prefix or other conditions is asked for
/// each session that is found, and leaves out those that are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Append records; that creates the session.
    Publish,
    /// Follow a session.
    SubscribeLive,
    /// Follow a session from an earlier record on.
    SubscribeReplay,
    /// Follow a session that a pattern matches.
    SubscribePattern,
    /// Read a page of records.
    Read,
    /// See a session in a list.
    List,
    /// See one session's description.
    Describe,
    /// Create a session.
    Create,
    /// Replace a session's metadata; that creates it.
    Update,
    /// No more publishes.
    Close,
    /// Delete a session.
    Delete,
    /// Drop its first records.
    Trim,
    /// Make records tombstones.
    Erase,
    /// Fork a session off this one.
    ForkFrom,
    /// Make this session a fork.
    ForkInto,
    /// Read all of it, in order to take it elsewhere.
    Export,
    /// Make this session of what was exported.
    Import,
    /// Say how far one has consumed a session.
    CommitCursor,
    /// See how far one has.
    DescribeCursor,
    /// Do something in the name of somebody else.
    ActAs,
    /// Write a backup of every session.
    BackUp,
    /// See what the broker measures, of every session.
    Metrics,
}

/// What an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// One session.
    Session,
    /// Every session there is.
    Everything,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 22] = [
        Self::Publish,
        Self::SubscribeLive,
        Self::SubscribeReplay,
        Self::SubscribePattern,
        Self::Read,
        Self::List,
        Self::Describe,
        Self::Create,
        Self::Update,
        Self::Close,
        Self::Delete,
        Self::Trim,
        Self::Erase,
        Self::ForkFrom,
        Self::ForkInto,
        Self::Export,
        Self::Import,
        Self::CommitCursor,
        Self::DescribeCursor,
        Self::ActAs,
        Self::BackUp,
        Self::Metrics,
    ];

    /// The table: what it is about, and the rights that it takes, all of them.
    #[must_use]
    pub fn takes(self) -> (Reach, Rights) {
        let read = Rights::from(Right::Read);
        let create = Rights::from(Right::Create);
        let manage = Rights::from(Right::Manage);
        match self {
            Self::SubscribeLive | Self::SubscribeReplay | Self::SubscribePattern => (Reach::Session, read),
            Self::Read | Self::List | Self::Describe | Self::Export => (Reach::Session, read),
            Self::CommitCursor | Self::DescribeCursor | Self::ForkFrom => (Reach::Session, read),
            Self::Publish => (Reach::Session, Right::Publish.into()),
            Self::Create | Self::ForkInto => (Reach::Session, create),
            // Whether the session exists is not known here, so it takes what either case does.
            Self::Update => (Reach::Session, create | Right::Manage),
            // It brings records in.
            Self::Import => (Reach::Session, create | Right::Publish),
            Self::Close | Self::Delete | Self::Trim | Self::Erase | Self::ActAs => (Reach::Session, manage),
            Self::BackUp | Self::Metrics => (Reach::Everything, manage),
        }
    }

    /// The field of the request that names the session.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::ForkFrom => "from_session",
            _ => "session",
        }
    }
}
