//! What sessions are found by, log by log, for whoever compares it with what their records say.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use longwire_proto::session_id::SessionId;

use crate::store::local::LocalStore;
use crate::store::local::reader::{blocking, failure};
use crate::store::local::table::logs::{LOGS, LogRow};
use crate::store::{LogId, Projection, StoreError};

/// What one session is found by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its log.
    pub log: LogId,
    /// The session; none when the row of the log is damaged.
    pub session: Option<SessionId>,
    /// What the database has.
    pub projection: Projection,
}

impl LocalStore {
    /// What the database has of the logs after one, at most `limit` of them; fewer at the end. What is not settled is not
    /// looked at.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub async fn projections(&self, after: Option<LogId>, limit: usize) -> Result<Vec<Found>, StoreError> {
        let from = after.map_or(Bound::Unbounded, |log| Bound::Excluded(log.0));
        blocking(&Arc::clone(&self.shared), move |shared| {
            let found = shared.database.read(|transaction| {
                let mut found = Vec::new();
                for entry in transaction.open_table(LOGS)?.range::<u64>((from, Bound::Unbounded))?.take(limit)
                {
                    let (key, row) = entry?;
                    let log = LogId(key.value());
                    let row = LogRow::decode(log, row.value()).ok();
                    let (session, projection) = match row {
                        Some(row) => (Some(row.name), row.projection),
                        None => (None, Default::default()),
                    };
                    let projection = Projection {
                        row: projection.row(),
                        terms: projection.terms().map(Bytes::copy_from_slice).collect(),
                        deadline_ms: projection.deadline_ms(),
                    };
                    found.push(Found { log, session, projection });
                }
                Ok(found)
            });
            found.map_err(|error| failure(LogId(0), 0, error))
        })
        .await
    }
}
