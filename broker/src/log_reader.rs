//! Records of one log, for who knows that they are there.

use std::sync::Arc;

use bytes::Bytes;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::session_id::SessionId;

use crate::store::reconcile::retry_read;
use crate::store::{Chunk, LogId, ReadLimit, Store};
use crate::store_error::{corrupt, in_session};

/// Reads a log from the store.
pub struct LogReader {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The session, which errors name.
    pub session: SessionId,
    /// Its log.
    pub log: LogId,
}

impl LogReader {
    /// What one read gives: one record at least, and fewer than there are when the store has it so.
    ///
    /// # Errors
    /// [`ErrorCode::Trimmed`], [`ErrorCode::DataCorrupt`] or [`ErrorCode::StorageUnavailable`].
    pub async fn chunk(&self, from: u64, limit: ReadLimit) -> Result<Chunk, Error> {
        let chunk = retry_read(|| self.store.read(self.log, from, limit))
            .await
            .map_err(|error| in_session(&self.session, &error))?;
        if chunk.from > from {
            let message = format!("records up to {} were trimmed meanwhile; read again", chunk.from);
            return Err(Error::new(ErrorCode::Trimmed, message));
        }
        if chunk.from != from || chunk.records.is_empty() {
            return Err(corrupt(&self.session, format!("at offset {from}: records are missing")));
        }
        Ok(chunk)
    }

    /// The records from an offset on, up to the limit, in as many reads as the store takes for them: it ends before the limit's last
    /// record only when that many come to more than its bytes, and has one at least.
    ///
    /// # Errors
    /// As [`LogReader::chunk`].
    pub async fn range(&self, from: u64, limit: ReadLimit) -> Result<Chunk, Error> {
        let mut range = self.chunk(from, limit).await?;
        let mut bytes = bytes_of(&range.records);
        while range.records.len() < limit.records && bytes < limit.bytes {
            let left = ReadLimit { records: limit.records - range.records.len(), bytes: limit.bytes - bytes };
            let next = self.chunk(range.next(), left).await?;
            bytes += bytes_of(&next.records);
            range.records.extend(next.records);
        }
        Ok(range)
    }
}

fn bytes_of(records: &[Bytes]) -> usize {
    records.iter().map(Bytes::len).sum()
}
