//! Why a store cannot be opened. Every text says what was found and what to do.

use std::io;
use std::path::PathBuf;

use crate::store::local::format::FORMAT_VERSION;

/// Why a store cannot be opened. The folder is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// Another broker uses the folder.
    #[error(
        "{} is in use by another broker; a data folder belongs to one broker at a time: stop that one, or give this one \
         a folder of its own", .0.display()
    )]
    InUse(PathBuf),
    /// The path is not a folder.
    #[error("{} is not a folder; name a folder for the data, which is created when it is absent", .0.display())]
    NotAFolder(PathBuf),
    /// The folder is of a newer broker.
    #[error(
        "{} has format {found}, and this broker reads formats up to {FORMAT_VERSION}: it was written by a newer \
         broker; start that one, or restore a backup that this one made", path.display()
    )]
    NewerFormat {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The folder is of a broker from before the first release.
    #[error(
        "{} has format {found}, and this broker reads format {FORMAT_VERSION}: it was made before the first release, \
         and there is no way to bring it along; move it away, or name an empty folder", path.display()
    )]
    OlderFormat {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The format file cannot be understood.
    #[error(
        "{} does not say which format the folder has ({what}); expected is `longwire-store {FORMAT_VERSION}`: restore \
         the file, or the folder, from a backup", path.display()
    )]
    UnreadableFormat {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Part of the folder is absent.
    #[error(
        "{} is missing although the folder holds a store; restore the folder from a backup, or name an empty one",
        .0.display()
    )]
    Missing(PathBuf),
    /// What the journal acknowledged is not all there.
    #[error(
        "the journal is damaged: commit {commit} was acknowledged and is not valid in segment {segment}; records would \
         be lost, so the store stays closed: restore the folder from a backup, or move it away to begin anew"
    )]
    DamagedJournal {
        /// Where the commit was expected: the segment of the commit before it, or else of the one after it.
        segment: u64,
        /// The first commit that is missing.
        commit: u64,
    },
    /// A segment of the journal is shorter than it was when the first group was written to it.
    #[error(
        "{} of the data folder has {bytes} bytes, and had at least {least} when it was last written to: it was cut \
         short, which no crash does, and records may be lost, so the store stays closed: restore the folder from a \
         backup, or move it away to begin anew", path.display()
    )]
    CutJournal {
        /// The file, within the folder.
        path: PathBuf,
        /// How long it is.
        bytes: u64,
        /// How long it was, at least.
        least: u64,
    },
    /// The database is damaged where opening needs it.
    #[error("{}: {what}; restore the folder from a backup", path.display())]
    DamagedDatabase {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The disk refused.
    #[error("{what} {}: {source}; the broker's user must own the folder, and its disk must have room", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is durable in the journal could not be moved into the database.
    #[error(
        "what the journal holds could not be settled into the database ({0}); nothing is lost: free space on the disk, \
         or mend it, and start again"
    )]
    Settle(String),
    /// A thread could not be started.
    #[error(
        "a thread of the store could not be started: {0}; raise the limit on threads of the broker's user"
    )]
    Thread(io::Error),
}
