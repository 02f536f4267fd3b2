//! Making the files of a store small again while no broker runs.

use std::path::Path;
use std::sync::Arc;

use crate::store::local::database::Database;
use crate::store::local::database_failure::DatabaseFailure;
use crate::store::local::disk::RealDisk;
use crate::store::local::error::OpenStoreError;
use crate::store::local::folder::{DATABASE_FILE, DataFolder};
use crate::store::local::shared::Tuning;
use crate::store::local::table::doomed;
use crate::store::local::{LocalConfig, LocalStore};

/// Sizes before and after, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// The database before.
    pub before: u64,
    /// The database after.
    pub after: u64,
}

/// Settles what the journal holds, removes what deleted sessions left, then moves the database's pages together and gives the rest back to the disk. Blocks.
///
/// # Errors
/// See [`OpenStoreError`]; nothing is lost by an error in the middle.
pub fn compact(data_dir: &Path) -> Result<Compacted, OpenStoreError> {
    // Recovery settles everything before the store is open.
    drop(LocalStore::open(LocalConfig::new(data_dir))?);
    let _folder = DataFolder::open(data_dir)?;
    let path = data_dir.join(DATABASE_FILE);
    let size = || {
        let source = |source| OpenStoreError::Io { what: "measuring", path: path.clone(), source };
        std::fs::metadata(&path).map(|found| found.len()).map_err(source)
    };
    let before = size()?;
    let damaged = |failure: DatabaseFailure| OpenStoreError::DamagedDatabase {
        path: path.clone(),
        what: failure.to_string(),
    };
    let disk = Arc::new(RealDisk::new(data_dir.to_owned()));
    let mut database = Database::open(disk, Tuning::default().cache_bytes).map_err(damaged)?;
    // A broker removes what deleted sessions leave little by little; here nobody waits in between.
    while database.write(doomed::step).map_err(damaged)? {}
    database.compact().map_err(damaged)?;
    drop(database);
    Ok(Compacted { before, after: size()? })
}
