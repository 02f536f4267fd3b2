//! The data folder: who may use it and which format it has. Both are settled before anything else in it is touched.
//!
//! `LOCK` is held while a broker runs. `FORMAT` is text:
//! ```text
//! longwire-store 2
//! salt 0123456789abcdef
//! state ready
//! ```
//! The salt seeds the journal's checksums. The state is `new` until the folder is complete, so that a creation that was
//! interrupted begins again, while a database that was lost later is noticed.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::store::local::disk::{FILE_MODE, FOLDER_MODE, sync_folder};
use crate::store::local::error::OpenStoreError;
use crate::store::local::format::FORMAT_VERSION;
use crate::store::local::segment::JOURNAL_FOLDER;

/// The name of the database.
pub const DATABASE_FILE: &str = "sessions.redb";
pub(super) const LOCK_FILE: &str = "LOCK";
pub(super) const FORMAT_FILE: &str = "FORMAT";
/// Where `FORMAT` is written before it takes its name.
const FORMAT_DRAFT: &str = "FORMAT.new";
/// `FORMAT` is a few lines; a longer one is not ours and not worth reading.
const FORMAT_BYTES_MAX: u64 = 4096;

/// A data folder that this process holds.
#[derive(Debug)]
pub struct DataFolder {
    /// Where it is.
    pub path: PathBuf,
    /// Seeds the journal's checksums.
    pub salt: u64,
    /// True when there is nothing in it yet: database and journal are made anew.
    pub is_new: bool,
    // Released when it is dropped, and by the system when the process dies.
    _lock: File,
}

impl DataFolder {
    /// Locks the folder, creating it when it is absent, and checks its format.
    ///
    /// # Errors
    /// See [`OpenStoreError`].
    pub fn open(path: &Path) -> Result<Self, OpenStoreError> {
        create(path)?;
        let lock = lock(path)?;
        match read_format(path)? {
            Some(format) => {
                let database = path.join(DATABASE_FILE);
                if format.ready && !database.exists() {
                    return Err(OpenStoreError::Missing(database));
                }
                // The broker before may have died between changing a name here and making that durable. What this one
                // acknowledges must not hang on such a name: `state new` would come back and the folder be emptied.
                sync_folder(path).map_err(io_error("making durable", path))?;
                Ok(Self { path: path.into(), salt: format.salt, is_new: !format.ready, _lock: lock })
            }
            None => {
                if path.join(DATABASE_FILE).exists() || path.join(JOURNAL_FOLDER).exists() {
                    return Err(OpenStoreError::Missing(path.join(FORMAT_FILE)));
                }
                let salt = random_salt(path)?;
                write_format(path, &Format { salt, ready: false })?;
                Ok(Self { path: path.into(), salt, is_new: true, _lock: lock })
            }
        }
    }

    /// Takes another salt, durably. What the journal has is worth nothing afterwards: it is to be settled before.
    ///
    /// # Errors
    /// [`OpenStoreError::Io`].
    pub fn renew_salt(&mut self) -> Result<(), OpenStoreError> {
        self.salt = random_salt(&self.path)?;
        write_format(&self.path, &Format { salt: self.salt, ready: !self.is_new })
    }

    /// Says durably that database and journal exist.
    ///
    /// # Errors
    /// [`OpenStoreError::Io`].
    pub fn mark_ready(&mut self) -> Result<(), OpenStoreError> {
        // Late, because a file system that keeps a journal has its name by now; and whoever made the folder, because that
        // broker may have died before it came here.
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        match sync_folder(parent) {
            // Somebody else's, who made this one in it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            synced => synced.map_err(io_error("making durable", parent))?,
        }
        write_format(&self.path, &Format { salt: self.salt, ready: true })?;
        self.is_new = false;
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Format {
    salt: u64,
    ready: bool,
}

fn io_error<'p>(what: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> OpenStoreError + use<'p> {
    move |source| OpenStoreError::Io { what, path: path.into(), source }
}

fn create(path: &Path) -> Result<(), OpenStoreError> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(OpenStoreError::NotAFolder(path.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(OpenStoreError::NotAFolder(path.into()));
        }
        Err(error) => return Err(io_error("opening", path)(error)),
    }
    DirBuilder::new().mode(FOLDER_MODE).recursive(true).create(path).map_err(io_error("creating", path))
}

fn lock(folder: &Path) -> Result<File, OpenStoreError> {
    let path = folder.join(LOCK_FILE);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(&path)
        .map_err(io_error("opening", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenStoreError::InUse(folder.into())),
        Err(TryLockError::Error(error)) => Err(io_error("locking", &path)(error)),
    }
}

fn read_format(folder: &Path) -> Result<Option<Format>, OpenStoreError> {
    let path = folder.join(FORMAT_FILE);
    let mut text = String::new();
    match File::open(&path).and_then(|file| file.take(FORMAT_BYTES_MAX).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(OpenStoreError::UnreadableFormat { path, what: "it is not text".into() });
        }
        Err(error) => return Err(io_error("reading", &path)(error)),
    }
    let refuse = |what: &str| OpenStoreError::UnreadableFormat { path: path.clone(), what: what.into() };
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let version = first.strip_prefix("longwire-store ").and_then(|version| version.parse::<u32>().ok());
    match version {
        Some(FORMAT_VERSION) => {}
        Some(found) if found > FORMAT_VERSION => {
            return Err(OpenStoreError::NewerFormat { path: folder.into(), found });
        }
        Some(found) if found > 0 => {
            return Err(OpenStoreError::OlderFormat { path: folder.into(), found });
        }
        _ => return Err(refuse("its first line is another")),
    }
    let salt = lines
        .next()
        .and_then(|line| line.strip_prefix("salt "))
        .filter(|digits| digits.len() == 16)
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| refuse("its second line is not the salt"))?;
    match lines.next() {
        Some("state ready") => Ok(Some(Format { salt, ready: true })),
        Some("state new") => Ok(Some(Format { salt, ready: false })),
        _ => Err(refuse("its third line is not the state")),
    }
}

fn write_format(folder: &Path, format: &Format) -> Result<(), OpenStoreError> {
    let path = folder.join(FORMAT_FILE);
    let draft = folder.join(FORMAT_DRAFT);
    let state = if format.ready { "ready" } else { "new" };
    let text = format!("longwire-store {FORMAT_VERSION}\nsalt {:016x}\nstate {state}\n", format.salt);
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(&draft)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&draft, &path))
        .and_then(|()| sync_folder(folder))
        .map_err(io_error("writing", &path))
}

fn random_salt(path: &Path) -> Result<u64, OpenStoreError> {
    getrandom::u64()
        .map_err(|error| io_error("finding a random number for", path)(io::Error::other(error.to_string())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn refuses_what_is_not_a_store_and_leaves_it_alone() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(matches!(DataFolder::open(&file), Err(OpenStoreError::NotAFolder(_))));
        assert!(matches!(DataFolder::open(&file.join("below")), Err(OpenStoreError::NotAFolder(_))));
        for (text, message) in [
            ("longwire-store 3\nwhatever", "has format 3, and this broker reads formats up to 2"),
            ("longwire-store 1\nwhatever", "has format 1, and this broker reads format 2"),
            ("longwire-store 0\nwhatever", "does not say which format"),
            ("garbage", "does not say which format"),
            ("", "does not say which format"),
            ("longwire-store 2\nsalt 12\nstate ready\n", "not the salt"),
            ("longwire-store 2\nsalt 0123456789abcdef\nstate odd\n", "not the state"),
        ] {
            let folder = parent.path().join("store");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(FORMAT_FILE), text).unwrap();
            let error = DataFolder::open(&folder).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
            assert_eq!(fs::read_to_string(folder.join(FORMAT_FILE)).unwrap(), text);
        }
    }

    #[test]
    fn notices_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = DataFolder::open(folder.path()).unwrap();
        assert!(first.is_new);
        let salt = first.salt;
        drop(first);
        first = DataFolder::open(folder.path()).unwrap();
        assert!(first.is_new, "a creation that was interrupted begins again");
        assert_eq!(first.salt, salt);
        first.mark_ready().unwrap();
        drop(first);
        let error = DataFolder::open(folder.path()).unwrap_err();
        assert!(matches!(error, OpenStoreError::Missing(path) if path.ends_with(DATABASE_FILE)));
        fs::write(folder.path().join(DATABASE_FILE), "x").unwrap();
        fs::remove_file(folder.path().join(FORMAT_FILE)).unwrap();
        let error = DataFolder::open(folder.path()).unwrap_err();
        assert!(matches!(error, OpenStoreError::Missing(path) if path.ends_with(FORMAT_FILE)));
    }

    #[test]
    fn keeps_others_out() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let held = DataFolder::open(&path).unwrap();
        assert!(matches!(DataFolder::open(&path), Err(OpenStoreError::InUse(found)) if found == path));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        for name in [LOCK_FILE, FORMAT_FILE] {
            assert_eq!(fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        drop(held);
        DataFolder::open(&path).unwrap();
    }
}
