//! The store's errors as clients see them.

use std::fmt::Display;

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::session_id::SessionId;

use crate::store::StoreError;

/// When a client may ask again that the store could not serve.
const RETRY_AFTER_MS: u64 = 1000;

/// An error that is of no session.
#[must_use]
pub fn to_error(error: &StoreError) -> Error {
    let (code, retry_after_ms) = match error {
        StoreError::Overloaded { .. } => (ErrorCode::Overloaded, 100),
        StoreError::Unavailable(_) | StoreError::Read(_) => (ErrorCode::StorageUnavailable, RETRY_AFTER_MS),
        StoreError::Corrupt { .. } => (ErrorCode::DataCorrupt, 0),
        StoreError::Deleted => (ErrorCode::SessionDeleted, 0),
        StoreError::NotFound => return Error::no_such_session(),
        StoreError::Fenced | StoreError::VersionConflict | StoreError::Unknown(_) => {
            (ErrorCode::OutcomeUnknown, 0)
        }
        StoreError::OutOfRange(_) => (ErrorCode::OutOfRange, 0),
        StoreError::Unsupported(_) => (ErrorCode::NotConfigured, 0),
        StoreError::BatchTooLarge { .. } => (ErrorCode::Internal, 0),
        StoreError::AlreadyExists => (ErrorCode::SessionExists, 0),
    };
    Error::new(code, error.to_string()).retry_after_ms(retry_after_ms)
}

/// An error met in a session: damage is told by the session's name.
#[must_use]
pub fn in_session(session: &SessionId, error: &StoreError) -> Error {
    match error {
        StoreError::Corrupt { offset, what, .. } => corrupt(session, format!("at offset {offset}: {what}")),
        error => to_error(error),
    }
}

/// A session has something that cannot be.
#[must_use]
pub fn corrupt(session: &SessionId, what: impl Display) -> Error {
    let message = format!("session `{session}` is damaged {what}; restore it from a backup");
    Error::new(ErrorCode::DataCorrupt, message)
}
