//! What the broker knows of a session.

use std::collections::BTreeMap;

use longwire_proto::position::LineageEntry;
use longwire_proto::retention::{Expiry, Retention};
use longwire_proto::wire;
use longwire_proto::wire::OpenAsk;

/// What an application says about a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionMeta {
    /// A title for humans; at most 512 bytes.
    pub title: String,
    /// Labels; at most 64.
    pub labels: BTreeMap<String, String>,
    /// The session that this one belongs to; empty when to none.
    pub parent: String,
    /// How much of the log is kept; by default everything.
    pub retention: Retention,
    /// When the session is closed and deleted; by default never.
    pub expiry: Expiry,
}

impl SessionMeta {
    /// Metadata with a title alone.
    #[must_use]
    pub fn titled(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Default::default() }
    }

    pub(crate) fn into_wire(self) -> wire::SessionMeta {
        wire::SessionMeta {
            title: self.title,
            labels: self.labels,
            parent: self.parent,
            retention: self.retention.to_wire(),
            expiry: self.expiry.to_wire(),
        }
    }

    fn from_wire(meta: wire::SessionMeta) -> Self {
        let retention = meta.retention.unwrap_or_default();
        let expiry = meta.expiry.unwrap_or_default();
        Self {
            title: meta.title,
            labels: meta.labels,
            parent: meta.parent,
            retention: Retention {
                age_ms: retention.age_ms,
                bytes: retention.bytes,
                records: retention.records,
            },
            expiry: Expiry { idle_ms: expiry.idle_ms, at_ms: expiry.at_ms },
        }
    }
}

/// A session as the broker describes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionInfo {
    /// The session's id.
    pub session: String,
    /// The epoch of its log.
    pub epoch: u64,
    /// The first retained offset.
    pub start: u64,
    /// The next offset to be assigned.
    pub end: u64,
    /// What its makers say about it.
    pub meta: SessionMeta,
    /// When it was created, in Unix milliseconds.
    pub created_ms: u64,
    /// The time of its last record, in Unix milliseconds.
    pub last_time_ms: u64,
    /// Whether it takes no more publishes.
    pub closed: bool,
    /// The epochs of the log, and the offset from which each counts; empty in lists.
    pub lineage: Vec<LineageEntry>,
    /// `idle`, `working`: a run, a message or an input is open, `input_required`: an ask is open, or `closed`. Empty from a broker that does not
    /// say.
    pub status: String,
    /// Asks without an answer; empty in lists.
    pub asks: Vec<OpenAsk>,
    /// Runs that have not ended, and before them those that ended last; empty in lists.
    pub runs: Vec<wire::Run>,
    /// Agents that somebody is, or was; empty in lists.
    pub agents: Vec<wire::Agent>,
    /// Inputs to them that were not consumed yet; empty in lists.
    pub inputs: Vec<wire::OpenInput>,
    /// The keyed state, in order of its keys; empty in lists.
    pub entries: Vec<wire::StateEntry>,
}

impl SessionInfo {
    pub(crate) fn new(session: wire::Session) -> Self {
        let entry =
            |entry: &wire::LineageEntry| LineageEntry { epoch: entry.epoch, from_offset: entry.from_offset };
        let state = session.state.unwrap_or_default();
        Self {
            session: session.session,
            epoch: session.epoch,
            start: session.start,
            end: session.end,
            meta: SessionMeta::from_wire(session.meta.unwrap_or_default()),
            created_ms: session.created_ms,
            last_time_ms: session.last_time_ms,
            closed: session.closed,
            lineage: session.lineage.iter().map(entry).collect(),
            status: session.status,
            asks: state.asks,
            runs: state.runs,
            agents: state.agents,
            inputs: state.inputs,
            entries: state.entries,
        }
    }
}
