//! An agent of a session: who holds its lease, or held the last one.

use std::sync::Arc;

use longwire_proto::lease::Terms;

use crate::entity::at::At;
use crate::row::{RowReader, RowWriter};

/// One agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// The offset of the record that the lease was claimed with: a later one has a higher one.
    pub generation: u64,
    /// Whose it is, or was.
    pub principal: Arc<str>,
    /// How long things wait for its holder, and for the next one.
    pub terms: Terms,
    /// Whether no record has ended it.
    pub held: bool,
    /// When it was claimed, or ended, in Unix milliseconds.
    pub changed_ms: u64,
}

impl Agent {
    /// One whose lease a record claims.
    #[must_use]
    pub fn claimed(terms: Terms, at: &At<'_>) -> Self {
        let (generation, principal) = (at.offset, at.principal.into());
        Self { generation, principal, terms, held: true, changed_ms: at.time_ms }
    }

    /// Until when its runs wait for the next holder, in Unix milliseconds; `None` while there is one.
    #[must_use]
    pub fn adopt_by_ms(&self) -> Option<u64> {
        (!self.held).then(|| self.changed_ms.saturating_add(self.terms.adopt_timeout_ms))
    }

    /// The agent as a part of a row.
    pub fn encode(&self, row: &mut RowWriter) {
        row.u64(self.generation).bytes(self.principal.as_bytes()).u64(self.terms.ttl_ms);
        row.u64(self.terms.adopt_timeout_ms).u64(u64::from(self.held)).u64(self.changed_ms);
    }

    /// The agent of such a part.
    #[must_use]
    pub fn decode(row: &mut RowReader<'_>) -> Option<Self> {
        let (generation, principal) = (row.u64()?, row.text()?.into());
        let terms = Terms { ttl_ms: row.u64()?, adopt_timeout_ms: row.u64()? };
        Some(Self { generation, principal, terms, held: row.u64()? != 0, changed_ms: row.u64()? })
    }
}

/// The agent that something of a snapshot of this version belongs to. The second knew none.
pub(super) fn agent_of(row: &mut RowReader<'_>, version: u64) -> Option<Arc<str>> {
    if version > 2 { row.text().map(Into::into) } else { Some(Arc::default()) }
}
