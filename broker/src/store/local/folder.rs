//! The data folder: who may use it and which format it has. Both are settled before anything else in it is touched.
//!
//! `LOCK` is held while a broker runs. `FORMAT` is text:
//! ```text
//! longwire-store 2
//! salt 0123456789abcdef
//! state ready
//! ```
//! The salt seeds the journal's checksums. Before the folder is complete the same text is `FORMAT.new`, and the database has
//! another name, too: a creation that was interrupted begins again, or is finished when all that is missing are names, while
//! a database that was lost later is noticed. (`state new` is what a broker wrote that gave `FORMAT` its name at once.)

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use crate::store::local::disk::{FILE_MODE, FOLDER_MODE, sync_folder};
use crate::store::local::error::OpenStoreError;
use crate::store::local::format::FORMAT_VERSION;
use crate::store::local::segment::JOURNAL_FOLDER;

/// The name of the database.
pub const DATABASE_FILE: &str = "sessions.redb";
/// Its name until it is durable.
pub(super) const DATABASE_DRAFT: &str = "sessions.redb.new";
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

/// What [`DataFolder::mark_ready`] gives a name to, while it is made durable.
#[derive(Debug)]
pub struct Preparing(JoinHandle<Result<Prepared, OpenStoreError>>);

/// That it is durable.
#[derive(Debug)]
pub struct Prepared(());

impl Preparing {
    /// Waits until it is durable.
    ///
    /// # Errors
    /// [`OpenStoreError::Io`].
    pub fn wait(self) -> Result<Prepared, OpenStoreError> {
        let panicked = io_error("preparing", Path::new(FORMAT_DRAFT));
        self.0.join().map_err(|_| panicked(io::Error::other("its thread panicked")))?
    }
}

impl DataFolder {
    /// Locks the folder, creating it when it is absent, and checks its format.
    ///
    /// # Errors
    /// See [`OpenStoreError`].
    pub fn open(path: &Path) -> Result<Self, OpenStoreError> {
        create(path)?;
        let lock = lock(path)?;
        let database = path.join(DATABASE_FILE);
        match read_format(&path.join(FORMAT_FILE))? {
            Some(format) => {
                if format.ready && !database.exists() {
                    // A power cut may have left one of two names that were given one after the other.
                    fs::rename(path.join(DATABASE_DRAFT), &database)
                        .map_err(|_| OpenStoreError::Missing(database))?;
                }
                if !format.ready {
                    write_draft(path, format.salt)?;
                }
                // The broker before may have died between changing a name here and making that durable. What this one
                // acknowledges must not hang on such a name: `state new` would come back and the folder be emptied.
                sync_folder(path).map_err(io_error("making durable", path))?;
                Ok(Self { path: path.into(), salt: format.salt, is_new: !format.ready, _lock: lock })
            }
            None if database.exists() => {
                let missing = || OpenStoreError::Missing(path.join(FORMAT_FILE));
                let format = read_format(&path.join(FORMAT_DRAFT)).ok().flatten().ok_or_else(missing)?;
                // Whoever gave the database its name had made both durable.
                name_draft(path)?;
                Ok(Self { path: path.into(), salt: format.salt, is_new: false, _lock: lock })
            }
            None => {
                if path.join(JOURNAL_FOLDER).exists() && !path.join(FORMAT_DRAFT).exists() {
                    return Err(OpenStoreError::Missing(path.join(FORMAT_FILE)));
                }
                let salt = random_salt(path)?;
                write_draft(path, salt)?;
                Ok(Self { path: path.into(), salt, is_new: true, _lock: lock })
            }
        }
    }

    /// Takes another salt, durably. What the journal has is worth nothing afterwards: it is to be settled before, so this is not
    /// for a new folder.
    ///
    /// # Errors
    /// [`OpenStoreError::Io`].
    pub fn renew_salt(&mut self) -> Result<(), OpenStoreError> {
        self.salt = random_salt(&self.path)?;
        write_draft(&self.path, self.salt)?;
        sync_draft(&self.path)?;
        name_draft(&self.path)
    }

    /// Begins to make durable what a new folder's `FORMAT` will say, and the folder's own name, on a thread of its own: beside
    /// all else that makes the folder, because the disk then flushes its cache once for all.
    ///
    /// # Errors
    /// [`OpenStoreError::Thread`].
    pub fn prepare(&self) -> Result<Preparing, OpenStoreError> {
        let path = self.path.clone();
        let preparing = thread::Builder::new().name("store-folder".into()).spawn(move || {
            sync_draft(&path)?;
            sync_parent(&path)?;
            Ok(Prepared(()))
        });
        Ok(Preparing(preparing.map_err(OpenStoreError::Thread)?))
    }

    /// Says durably that database and journal exist, and makes all names in the folder durable, theirs among them. What they
    /// hold is durable before; and the database takes its name only when this is [`Prepared`], too, so that whoever finds that
    /// name can finish what was begun.
    ///
    /// # Errors
    /// [`OpenStoreError::Io`].
    pub fn mark_ready(&mut self, _: Prepared) -> Result<(), OpenStoreError> {
        name_draft(&self.path)?;
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

fn read_format(path: &Path) -> Result<Option<Format>, OpenStoreError> {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(FORMAT_BYTES_MAX).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let what = "it is not text".into();
            return Err(OpenStoreError::UnreadableFormat { path: path.into(), what });
        }
        Err(error) => return Err(io_error("reading", path)(error)),
    }
    let folder = path.parent().unwrap_or(path);
    let refuse = |what: &str| OpenStoreError::UnreadableFormat { path: path.into(), what: what.into() };
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

/// Writes what `FORMAT` is to say. It is neither durable nor in force.
fn write_draft(folder: &Path, salt: u64) -> Result<(), OpenStoreError> {
    let path = folder.join(FORMAT_DRAFT);
    let text = format!("longwire-store {FORMAT_VERSION}\nsalt {salt:016x}\nstate ready\n");
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(io_error("writing", &path))
}

fn sync_draft(folder: &Path) -> Result<(), OpenStoreError> {
    let path = folder.join(FORMAT_DRAFT);
    File::open(&path).and_then(|file| file.sync_all()).map_err(io_error("making durable", &path))
}

/// Makes the folder's own name durable.
fn sync_parent(folder: &Path) -> Result<(), OpenStoreError> {
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match sync_folder(parent) {
        // Somebody else's, who made this one in it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced.map_err(io_error("making durable", parent)),
    }
}

/// Puts in force what is durable.
fn name_draft(folder: &Path) -> Result<(), OpenStoreError> {
    let path = folder.join(FORMAT_FILE);
    fs::rename(folder.join(FORMAT_DRAFT), &path)
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
        assert_ne!(first.salt, salt);
        first.mark_ready(first.prepare().unwrap().wait().unwrap()).unwrap();
        drop(first);
        let error = DataFolder::open(folder.path()).unwrap_err();
        assert!(matches!(error, OpenStoreError::Missing(path) if path.ends_with(DATABASE_FILE)));
        fs::write(folder.path().join(DATABASE_FILE), "x").unwrap();
        fs::remove_file(folder.path().join(FORMAT_FILE)).unwrap();
        let error = DataFolder::open(folder.path()).unwrap_err();
        assert!(matches!(error, OpenStoreError::Missing(path) if path.ends_with(FORMAT_FILE)));
        fs::remove_file(folder.path().join(DATABASE_FILE)).unwrap();
        fs::create_dir(folder.path().join(JOURNAL_FOLDER)).unwrap();
        let error = DataFolder::open(folder.path()).unwrap_err();
        assert!(matches!(error, OpenStoreError::Missing(path) if path.ends_with(FORMAT_FILE)));
    }

    #[test]
    fn goes_on_with_a_creation_wherever_it_was_interrupted() {
        let begun = || {
            let folder = tempfile::tempdir().unwrap();
            let held = DataFolder::open(folder.path()).unwrap();
            fs::create_dir(folder.path().join(JOURNAL_FOLDER)).unwrap();
            fs::write(folder.path().join(DATABASE_DRAFT), "x").unwrap();
            (folder, held.salt)
        };
        let name = |folder: &Path, draft: &str, name: &str| {
            fs::rename(folder.join(draft), folder.join(name)).unwrap();
        };
        let (folder, _) = begun();
        assert!(DataFolder::open(folder.path()).unwrap().is_new, "no name is given");
        // Of a draft nothing is durable before a name is given.
        fs::write(folder.path().join(FORMAT_DRAFT), "").unwrap();
        assert!(DataFolder::open(folder.path()).unwrap().is_new, "the draft is torn");
        for (draft, file) in [(DATABASE_DRAFT, DATABASE_FILE), (FORMAT_DRAFT, FORMAT_FILE)] {
            let (folder, salt) = begun();
            name(folder.path(), draft, file);
            for _ in 0..2 {
                let found = DataFolder::open(folder.path()).unwrap();
                assert_eq!((found.is_new, found.salt), (false, salt), "{file} has its name");
            }
            assert_eq!(fs::read(folder.path().join(DATABASE_FILE)).unwrap(), b"x");
        }
        // As brokers did that gave FORMAT its name at once.
        let (folder, salt) = begun();
        fs::write(folder.path().join(DATABASE_FILE), "half").unwrap();
        let text = format!("longwire-store 2\nsalt {salt:016x}\nstate new\n");
        fs::write(folder.path().join(FORMAT_FILE), text).unwrap();
        let mut found = DataFolder::open(folder.path()).unwrap();
        assert_eq!((found.is_new, found.salt), (true, salt));
        found.mark_ready(found.prepare().unwrap().wait().unwrap()).unwrap();
        drop(found);
        assert!(!DataFolder::open(folder.path()).unwrap().is_new);
    }

    #[test]
    fn keeps_others_out() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let held = DataFolder::open(&path).unwrap();
        assert!(matches!(DataFolder::open(&path), Err(OpenStoreError::InUse(found)) if found == path));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        for name in [LOCK_FILE, FORMAT_DRAFT] {
            assert_eq!(fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        drop(held);
        DataFolder::open(&path).unwrap();
    }
}
