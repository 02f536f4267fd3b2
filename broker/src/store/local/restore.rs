//! A restore: a new data folder with everything that a backup has, and a new epoch in every log.
//!
//! What was written after the backup is lost, and offsets are given again. So that a position of the lost part never meets
//! other records, every log begins a new epoch at its end, and every name that has no log now begins with one, whether
//! it was known or not. A backup can be restored more than once, each time with another future; so the epoch is the
//! time of the restore, in Unix milliseconds, and not merely one more than the last.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longwire_proto::limits::LINEAGE_ENTRIES_MAX;
use longwire_proto::position::{Lineage, LineageEntry};
use redb::ReadableTable as _;

use crate::store::LogId;
use crate::store::list::is_hidden;
use crate::store::local::database::{Database, DatabaseFailure};
use crate::store::local::disk::{FILE_MODE, FOLDER_MODE, RealDisk, sync_folder};
use crate::store::local::error::OpenStoreError;
use crate::store::local::folder::{DATABASE_FILE, DataFolder, FORMAT_FILE, LOCK_FILE};
use crate::store::local::opening;
use crate::store::local::partial::PartialFolder;
use crate::store::local::segment::JOURNAL_FOLDER;
use crate::store::local::shared::Tuning;
use crate::store::local::table::logs::{LOGS, LogRow};
use crate::store::local::table::names::{NAMES, Name, OTHERS};

/// Rows that one transaction changes: it stays below some megabytes.
const STEP: usize = 4096;

/// Why nothing was restored. The folder that was to be made is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is something where the data are to be.
    #[error(
        "{} is there and not empty; a restore makes a new data folder and never changes one: name one that does not \
         exist, or move this one away", .0.display()
    )]
    NotEmpty(PathBuf),
    /// What is to be restored is no data folder.
    #[error("{} is not a backup: {what} is missing; name the folder of one", path.display())]
    NotABackup {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// The disk refused.
    #[error("{what} {}: {source}; nothing was restored", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The copy cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenStoreError),
}

/// What was restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Sessions.
    pub sessions: u64,
    /// Records of theirs.
    pub records: u64,
    /// Rows of logs that are damaged: those sessions cannot be opened, as in the backup.
    pub damaged: u64,
}

/// A restored folder that does not have its name yet, and is removed when it is dropped. It can be opened meanwhile.
#[derive(Debug)]
pub struct Restoring {
    partial: PartialFolder,
    restored: Restored,
}

/// Copies a backup and begins the epochs. Takes a data folder for a backup that no broker runs on, too. Blocks.
///
/// # Errors
/// See [`RestoreError`].
pub fn begin(backup: &Path, data: &Path, now_ms: u64) -> Result<Restoring, RestoreError> {
    check_free(data)?;
    for (name, what) in [(FORMAT_FILE, "FORMAT"), (DATABASE_FILE, "sessions.redb")] {
        if !backup.join(name).is_file() {
            return Err(RestoreError::NotABackup { path: backup.into(), what });
        }
    }
    let held = hold(backup)?;
    let partial = PartialFolder::begin(data)?;
    copy(backup, partial.path())?;
    drop(held);
    let damaged = |failure: DatabaseFailure| OpenStoreError::DamagedDatabase {
        path: partial.path().join(DATABASE_FILE),
        what: failure.to_string(),
    };
    let restored = opened(partial.path(), |database| {
        close_names(database, now_ms)?;
        begin_epochs(database, now_ms)
    })?
    .map_err(damaged)?;
    Ok(Restoring { partial, restored })
}

impl Restoring {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.partial.path()
    }

    /// Gives the folder its own salt and its name. It must not be open. Blocks.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub fn finish(self) -> Result<Restored, RestoreError> {
        let Self { partial, restored } = self;
        // Settles what was written meanwhile: with another salt the journal is worth nothing.
        opened(partial.path(), |_| ())?;
        let mut folder = DataFolder::open(partial.path())?;
        folder.renew_salt()?;
        let path = partial.path().to_owned();
        partial.finish().map_err(|source| RestoreError::Io { what: "giving its name to", path, source })?;
        Ok(restored)
    }
}

fn check_free(data: &Path) -> Result<(), RestoreError> {
    let free = match fs::read_dir(data) {
        Ok(mut entries) => entries.next().is_none(),
        // Something that is no folder, or a link that leads nowhere, is in the way as well.
        Err(error) => error.kind() == io::ErrorKind::NotFound && data.symlink_metadata().is_err(),
    };
    if free { Ok(()) } else { Err(RestoreError::NotEmpty(data.into())) }
}

/// Keeps brokers away from a backup, without writing to it: it may be on a medium that cannot be written.
fn hold(backup: &Path) -> Result<Option<File>, RestoreError> {
    let path = backup.join(LOCK_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(RestoreError::Io { what: "opening", path, source }),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(OpenStoreError::InUse(backup.into()).into()),
        Err(TryLockError::Error(source)) => Err(RestoreError::Io { what: "locking", path, source }),
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), RestoreError> {
    let copy = |name: &Path| -> io::Result<()> {
        let path = to.join(name);
        fs::copy(from.join(name), &path)?;
        fs::set_permissions(&path, Permissions::from_mode(FILE_MODE))?;
        File::open(&path)?.sync_all()
    };
    let io_error = |name: &Path, source| RestoreError::Io { what: "copying", path: from.join(name), source };
    let journal = Path::new(JOURNAL_FOLDER);
    let mut names = vec![PathBuf::from(FORMAT_FILE), PathBuf::from(DATABASE_FILE)];
    if from.join(journal).is_dir() {
        let made = DirBuilder::new().mode(FOLDER_MODE).create(to.join(journal));
        made.map_err(|source| io_error(journal, source))?;
        for entry in fs::read_dir(from.join(journal)).map_err(|source| io_error(journal, source))? {
            let entry = entry.map_err(|source| io_error(journal, source))?;
            names.push(journal.join(entry.file_name()));
        }
    }
    for name in names {
        copy(&name).map_err(|source| io_error(&name, source))?;
    }
    sync_folder(to).map_err(|source| io_error(Path::new(""), source))
}

/// Settles what the journal of a folder holds, and does something with the database.
fn opened<T>(folder: &Path, work: impl FnOnce(&Database) -> T) -> Result<T, OpenStoreError> {
    let data = DataFolder::open(folder)?;
    let salt = data.salt;
    let shared =
        opening::open(Arc::new(RealDisk::new(folder.to_owned())), Some(data), salt, Tuning::default())?;
    Ok(work(&shared.database))
}

/// Names without a log, known or not: sessions that are created under them begin with a new epoch.
fn close_names(database: &Database, now_ms: u64) -> Result<(), DatabaseFailure> {
    database.write(|transaction| {
        let mut names = transaction.open_table(NAMES)?;
        if names.get(OTHERS)?.is_none() {
            names.insert(OTHERS, Name::Deleted { next_epoch: 0 }.encode(OTHERS).as_slice())?;
        }
        Ok(())
    })?;
    let mut after: Option<String> = None;
    loop {
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let found = database.read(|transaction| {
            let names = transaction.open_table(NAMES)?;
            let found = names.range::<&str>((from, Bound::Unbounded))?.take(STEP).map(|entry| {
                let (key, value) = entry?;
                let next_epoch = match Name::decode(key.value(), value.value()) {
                    Ok(Name::Deleted { next_epoch }) => Some(next_epoch),
                    // A damaged one stays what it is.
                    Ok(Name::Log(_)) | Err(_) => None,
                };
                Ok((key.value().to_owned(), next_epoch))
            });
            found.collect::<Result<Vec<_>, DatabaseFailure>>()
        })?;
        database.write(|transaction| {
            let mut names = transaction.open_table(NAMES)?;
            for (name, next_epoch) in &found {
                let Some(next_epoch) = next_epoch else { continue };
                let closed = Name::Deleted { next_epoch: next_epoch.saturating_add(1).max(now_ms) };
                names.insert(name.as_str(), closed.encode(name).as_slice())?;
            }
            Ok(())
        })?;
        if found.len() < STEP {
            return Ok(());
        }
        after = found.into_iter().next_back().map(|(name, _)| name);
    }
}

/// Begins an epoch in every log, at its end.
fn begin_epochs(database: &Database, now_ms: u64) -> Result<Restored, DatabaseFailure> {
    let mut restored = Restored::default();
    let mut after = None;
    loop {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let found = database.read(|transaction| {
            let logs = transaction.open_table(LOGS)?;
            let found = logs.range::<u64>((from, Bound::Unbounded))?.take(STEP).map(|entry| {
                let (key, row) = entry?;
                let log = LogId(key.value());
                Ok((log, LogRow::decode(log, row.value())))
            });
            found.collect::<Result<Vec<_>, DatabaseFailure>>()
        })?;
        let (looked, last) = (found.len(), found.last().map(|(log, _)| log.0));
        let mut changed = Vec::with_capacity(looked);
        for (log, row) in found {
            let Ok(mut row) = row else {
                restored.damaged += 1;
                continue;
            };
            row.lineage = continued(&row.lineage, row.end, now_ms);
            if !is_hidden(&row.name) {
                restored.sessions += 1;
                restored.records += row.end - row.start;
            }
            changed.push((log, row));
        }
        database.write(|transaction| {
            let mut logs = transaction.open_table(LOGS)?;
            for (log, row) in &changed {
                logs.insert(log.0, row.encode(*log).as_slice())?;
            }
            Ok(())
        })?;
        if looked < STEP {
            return Ok(restored);
        }
        after = last;
    }
}

/// The epochs of a log with a new one at its end. Of too many the oldest is forgotten: its positions lead to nowhere then.
fn continued(lineage: &Lineage, end: u64, now_ms: u64) -> Lineage {
    let epoch = lineage.epoch().saturating_add(1).max(now_ms);
    let mut entries = lineage.entries().to_vec();
    if entries.len() >= LINEAGE_ENTRIES_MAX {
        entries.remove(0);
        entries[0].from_offset = 0;
    }
    // An import that is not finished has an epoch that begins where it will end.
    let from_offset = entries.last().map_or(end, |last| last.from_offset.max(end));
    entries.push(LineageEntry { epoch, from_offset });
    Lineage::from_entries(entries).unwrap_or_else(|| Lineage::beginning(epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_epoch_begins_at_the_end_and_sorts_after_every_other() {
        let entry = |epoch, from_offset| LineageEntry { epoch, from_offset };
        let lineage = |entries: &[LineageEntry]| Lineage::from_entries(entries.to_vec()).unwrap();
        let first = lineage(&[entry(0, 0)]);
        assert_eq!(continued(&first, 7, 1000).entries(), [entry(0, 0), entry(1000, 7)]);
        assert_eq!(continued(&first, 0, 1000).entries(), [entry(0, 0), entry(1000, 0)]);
        // A clock that was put back, and an import that is to end at 20.
        let later = lineage(&[entry(0, 0), entry(2000, 20)]);
        assert_eq!(continued(&later, 20, 1000).entries()[2], entry(2001, 20));
        assert_eq!(continued(&later, 9, 1000).entries()[2], entry(2001, 20));
        let full: Vec<_> = (0..LINEAGE_ENTRIES_MAX as u64).map(|number| entry(number, number)).collect();
        let longer = continued(&lineage(&full), 5000, 9000);
        assert_eq!(longer.entries().len(), LINEAGE_ENTRIES_MAX);
        assert_eq!((longer.entries()[0], longer.epoch()), (entry(1, 0), 9000));
    }

    #[test]
    fn only_a_new_or_empty_folder_is_free() {
        let around = tempfile::tempdir().unwrap();
        let path = |name: &str| around.path().join(name);
        fs::create_dir(path("empty")).unwrap();
        fs::create_dir_all(path("full/journal")).unwrap();
        fs::write(path("file"), "x").unwrap();
        std::os::unix::fs::symlink(path("nowhere"), path("link")).unwrap();
        for (name, free) in
            [("new", true), ("empty", true), ("full", false), ("file", false), ("link", false)]
        {
            let refused = check_free(&path(name));
            assert_eq!(refused.is_ok(), free, "{name}: {refused:?}");
        }
    }
}
