//! What a backup is.

use std::path::PathBuf;

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
