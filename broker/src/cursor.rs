//! Cursors: how far a principal has consumed a session, kept in the store under a name.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::position::Position;
use longwire_proto::session_id::SessionId;
use longwire_proto::short_id::check_short_id;

use crate::hub::Hub;
use crate::life::{offset, progress};
use crate::store::reconcile::{self, retry_read};
use crate::store::{Cas, LogId, Store, StoreError};
use crate::store_error::to_error;

/// Where the keys of cursors begin.
const FAMILY: &[u8] = b"cursor\0";

/// Values looked at together.
const SCANNED: usize = 1000;

/// Whose cursor, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorName {
    /// The principal.
    pub principal: String,
    /// The name that it chose.
    pub name: String,
}

impl CursorName {
    /// A cursor of a principal.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] when the name is none.
    pub fn new(principal: &str, name: &str) -> Result<Self, Error> {
        check_short_id(ErrorCode::InvalidArgument, "cursor", name.as_bytes())?;
        Ok(Self { principal: principal.to_owned(), name: name.to_owned() })
    }

    /// `cursor`, principal and name, each ended by a zero byte, and the log's number: the cursors of one name are together.
    fn key(&self, log: LogId) -> Bytes {
        let mut key = self.prefix();
        key.put_u64(log.0);
        key.freeze()
    }

    fn prefix(&self) -> BytesMut {
        let mut key = BytesMut::with_capacity(FAMILY.len() + self.principal.len() + self.name.len() + 10);
        key.put_slice(FAMILY);
        key.put_slice(self.principal.as_bytes());
        key.put_u8(0);
        key.put_slice(self.name.as_bytes());
        key.put_u8(0);
        key
    }
}

fn encode(position: Position) -> Bytes {
    let mut value = BytesMut::with_capacity(16);
    value.put_u64_le(position.epoch);
    value.put_u64_le(position.offset);
    value.freeze()
}

fn decode(mut value: &[u8]) -> Option<Position> {
    Some(Position { epoch: value.try_get_u64_le().ok()?, offset: value.try_get_u64_le().ok()? })
}

/// Where a cursor is in a log; `None` when nothing was committed.
///
/// # Errors
/// [`ErrorCode::DataCorrupt`] or [`ErrorCode::StorageUnavailable`].
pub async fn position(store: &dyn Store, cursor: &CursorName, log: LogId) -> Result<Option<Position>, Error> {
    let value = retry_read(|| store.get(cursor.key(log))).await.map_err(|error| to_error(&error))?;
    Ok(value.as_deref().and_then(decode))
}

/// Where a cursor is in every log that has it: the offsets.
///
/// # Errors
/// [`ErrorCode::DataCorrupt`] or [`ErrorCode::StorageUnavailable`].
pub async fn positions(store: &dyn Store, cursor: &CursorName) -> Result<HashMap<LogId, u64>, Error> {
    let prefix = cursor.prefix().freeze();
    let (mut found, mut after) = (HashMap::new(), None);
    loop {
        let values = retry_read(|| store.scan(prefix.clone(), after.clone(), SCANNED))
            .await
            .map_err(|error| to_error(&error))?;
        let Some((last, _)) = values.last() else { return Ok(found) };
        after = Some(last.clone());
        for (key, value) in &values {
            let log = key.get(prefix.len()..).and_then(|log| log.try_into().ok()).map(u64::from_be_bytes);
            if let (Some(log), Some(position)) = (log, decode(value)) {
                found.insert(LogId(log), position.offset);
            }
        }
    }
}

/// Moves a cursor forwards, durably.
///
/// # Errors
/// [`ErrorCode::CursorBackwards`], [`ErrorCode::InvalidPosition`], [`ErrorCode::ForeignPosition`],
/// [`ErrorCode::OutOfRange`], and those of the session and the store.
pub async fn commit(
    hub: &Arc<Hub>,
    cursor: &CursorName,
    session: &SessionId,
    text: &str,
) -> Result<(), Error> {
    let progress = progress(hub, session).await?;
    // A cursor may stand where records were trimmed meanwhile: they were consumed.
    let whole = crate::tail::Progress { start: 0, ..progress };
    let offset = offset(text, "position", &whole)?;
    let moved = Position { epoch: whole.lineage.epoch_at(offset), offset };
    let key = cursor.key(whole.log);
    loop {
        let expected = retry_read(|| hub.store().get(key.clone())).await.map_err(|error| to_error(&error))?;
        let known = expected.as_deref().and_then(decode);
        if let Some(known) = known {
            if known.offset > offset {
                let message = format!("the cursor is at {}; it never moves backwards", known.offset);
                return Err(Error::new(ErrorCode::CursorBackwards, message)
                    .field("position")
                    .expected(known.offset));
            }
            if known == moved {
                return Ok(());
            }
        }
        let write = Cas { key: key.clone(), expected, value: Some(encode(moved)) };
        match reconcile::cas(&**hub.store(), vec![write]).await {
            Ok(()) => return Ok(()),
            // Another device of the same principal was quicker; the further of the two stays.
            Err(StoreError::VersionConflict) => {}
            Err(error) => return Err(to_error(&error)),
        }
    }
}
