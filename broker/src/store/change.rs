//! The change feed: what happened to which log, in the order of the store's commits; and the deadlines of logs.

use longwire_proto::position::Lineage;
use longwire_proto::session_id::SessionId;

use crate::store::LogId;

/// The last thing that happened to a log: each log is in the feed once, at its last commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The commit.
    pub commit: u64,
    /// The log.
    pub log: LogId,
    /// The session.
    pub session: SessionId,
    /// The log's epochs.
    pub lineage: Lineage,
    /// First retained offset.
    pub start: u64,
    /// Next offset to be assigned.
    pub end: u64,
    /// The session was deleted. Told while the log is being removed; later it is not in the feed at all.
    pub deleted: bool,
}

/// A page of the feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Changes, in order of their commits.
    pub changes: Vec<Change>,
    /// Everything up to this commit is in these changes or was before them: where to go on.
    pub through: u64,
    /// Deletions up to this commit may not be told any more. Who goes on from before it looks whether what it knows of is there.
    pub forgotten: u64,
}

/// A log whose deadline has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The deadline, in Unix milliseconds.
    pub when_ms: u64,
    /// The log.
    pub log: LogId,
    /// The session.
    pub session: SessionId,
}
