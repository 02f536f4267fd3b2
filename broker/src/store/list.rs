//! Finding sessions.

use bytes::Bytes;
use longwire_proto::position::Lineage;
use longwire_proto::session_id::SessionId;

use crate::store::LogId;

/// Whether a session is the broker's own: it is never listed, not in the change feed and never due.
#[must_use]
pub fn is_hidden(session: &SessionId) -> bool {
    session.as_str().starts_with(HIDDEN)
}

/// Whether a session is an import that has not come to its end: nothing of it is anybody's yet.
#[must_use]
pub fn is_unfinished(session: &SessionId) -> bool {
    session.as_str().starts_with(UNFINISHED)
}

/// What the ids of imports begin with until their end.
pub const UNFINISHED: &str = "~import/";

/// What the ids of the broker's own sessions begin with. It sorts after everything that others begin with.
pub const HIDDEN: char = '~';

/// One session of [`crate::store::Store::list`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The session.
    pub session: SessionId,
    /// Its log.
    pub log: LogId,
    /// The log's epochs.
    pub lineage: Lineage,
    /// First retained offset.
    pub start: u64,
    /// Next offset to be assigned.
    pub end: u64,
    /// What the last batch said.
    pub last_time_ms: u64,
    /// The row that the last batch with one carried.
    pub projection: Bytes,
}

impl Listed {
    /// The epoch of new records.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.lineage.epoch()
    }
}

/// Which sessions [`crate::store::Store::list`] is to find, in order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Only ids that begin with this.
    pub prefix: String,
    /// Only ids that sort after this.
    pub after: Option<SessionId>,
    /// Only sessions whose projection has every one of these terms.
    pub terms: Vec<Bytes>,
    /// At most this many, at least 1.
    pub limit: usize,
}

/// Sessions that were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// The sessions.
    pub sessions: Vec<Listed>,
    /// Set when there may be more: everything up to this id was looked at. A page can be empty and have more after it,
    /// because one call looks at a bounded number of candidates.
    pub more_after: Option<SessionId>,
}
