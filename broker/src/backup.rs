//! Backups: a whole data folder, as it was at one moment, made while the broker serves.

use std::path::PathBuf;
use std::sync::Arc;

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::short_id::check_short_id;

use crate::driver::to_error;
use crate::store::{Store, StoreError};

/// A backup that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackedUp {
    /// The data folder that it is.
    pub folder: PathBuf,
    /// Sessions in it.
    pub sessions: u64,
    /// Records in it.
    pub records: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

/// Makes a backup of this name in the folder of backups.
///
/// # Errors
/// [`ErrorCode::NotConfigured`] without such a folder, [`ErrorCode::BackupExists`], [`ErrorCode::InvalidArgument`], and those
/// of the store.
pub async fn back_up(
    store: &Arc<dyn Store>,
    backups: Option<PathBuf>,
    name: &str,
) -> Result<BackedUp, Error> {
    check_short_id(ErrorCode::InvalidArgument, "name", name.as_bytes())?;
    let Some(backups) = backups else {
        let message = "the broker was given no folder for backups; start it with `--backups DIR`";
        return Err(Error::new(ErrorCode::NotConfigured, message));
    };
    match store.back_up(backups.join(name)).await {
        Ok(backup) => Ok(backup),
        Err(StoreError::AlreadyExists) => {
            let message = format!("there is a backup `{name}` already; choose another name");
            Err(Error::new(ErrorCode::BackupExists, message).field("name"))
        }
        Err(error) => Err(to_error(&error)),
    }
}
