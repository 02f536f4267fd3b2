//! What happens to a whole log: erasing what somebody wrote, forking, importing.

pub mod erase;
pub mod erasures;
pub mod fork;
pub mod import;

use std::sync::Arc;

use longwire_core::command::{Command, Description, Reply};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::position::{Position, Resume};
use longwire_proto::session_id::SessionId;

use crate::hub::Hub;
use crate::request::Operation;
use crate::tail::Progress;

/// Where a session stands, everything that it was asked before included.
///
/// # Errors
/// [`ErrorCode::SessionNotFound`], and those of loading it.
pub(crate) async fn progress(hub: &Arc<Hub>, session: &SessionId) -> Result<Progress, Error> {
    hub.flush(session).await;
    let progress = hub.attach(session).await?.loaded().await?;
    if progress.exists() {
        return Ok(progress);
    }
    Err(Error::no_such_session())
}

/// Describes a session.
///
/// # Errors
/// [`ErrorCode::SessionNotFound`], and those of loading it.
pub(crate) async fn describe(hub: &Arc<Hub>, session: &SessionId) -> Result<Description, Error> {
    match hub.ask(session, Operation::Command(Command::Describe)).await? {
        Some(Reply::Described(description)) => Ok(*description),
        _ => Err(Error::new(ErrorCode::Internal, "the session did not describe itself")),
    }
}

/// The offset that a position means in a log that has it.
///
/// # Errors
/// [`ErrorCode::InvalidPosition`], [`ErrorCode::ForeignPosition`] or [`ErrorCode::OutOfRange`], naming the field.
pub(crate) fn offset(text: &str, field: &'static str, progress: &Progress) -> Result<u64, Error> {
    let position: Position = text
        .parse()
        .map_err(|error| Error::new(ErrorCode::InvalidPosition, format!("{error}")).field(field))?;
    match progress.lineage.resume(position) {
        Resume::EpochChanged(_) => {
            let message = format!("`{field}` belongs to another history of the session");
            Err(Error::new(ErrorCode::ForeignPosition, message).field(field))
        }
        Resume::At(offset) if offset > progress.end => {
            let message = format!("`{field}` is {offset}, and the session ends at {}", progress.end);
            Err(Error::new(ErrorCode::OutOfRange, message).field(field).expected(progress.end))
        }
        Resume::At(offset) if offset < progress.start => {
            let message = format!("`{field}` is {offset}, and the session begins at {} now", progress.start);
            Err(Error::new(ErrorCode::OutOfRange, message).field(field).expected(progress.start))
        }
        Resume::At(offset) => Ok(offset),
    }
}
