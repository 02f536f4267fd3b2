//! The few file operations that the engine needs, so that a simulated disk can stand beneath the journal and redb.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redb::StorageBackend;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// Files are for the broker's user alone: they hold what people say to each other.
pub const FILE_MODE: u32 = 0o600;
/// Zeros written at a time.
const FILL_BYTES: usize = 1 << 20;
/// Folders likewise.
pub const FOLDER_MODE: u32 = 0o700;

/// An open file. Reads and writes name their offset; nothing is durable before [`DiskFile::sync_data`].
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// How long the file is.
    ///
    /// # Errors
    /// Those of the disk.
    fn bytes(&self) -> io::Result<u64>;
    /// Fills `out` from `offset`.
    ///
    /// # Errors
    /// Those of the disk; the end of the file is one.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// Those of the disk. Any part may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes the file this long; new bytes are zero.
    ///
    /// # Errors
    /// Those of the disk.
    fn set_bytes(&self, bytes: u64) -> io::Result<()>;
    /// Makes an empty file this long and takes the room for it: no write below that length finds the disk full. The bytes
    /// are zero.
    ///
    /// # Errors
    /// Those of the disk.
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        self.fill(bytes)
    }
    /// Writes so many zeros at the beginning, so that the blocks are not only taken but written.
    ///
    /// # Errors
    /// Those of the disk.
    fn fill(&self, bytes: u64) -> io::Result<()> {
        let zeros = vec![0; FILL_BYTES.min(usize::try_from(bytes).unwrap_or(FILL_BYTES))];
        (0..bytes)
            .step_by(FILL_BYTES)
            .try_for_each(|at| self.write_at(at, &zeros[..zeros.len().min((bytes - at) as usize)]))
    }
    /// Makes what was written durable.
    ///
    /// # Errors
    /// Those of the disk. What was written since the last success may or may not be durable, and trying again proves
    /// nothing: the system may have dropped the pages.
    fn sync_data(&self) -> io::Result<()>;
}

/// A folder of files. What [`Disk::open`], [`Disk::rename`] and [`Disk::remove`] do to names is durable when they return;
/// what the methods with `now` do is not before [`Disk::sync_names`], and those three are there so that few need them.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Opens a file, creating it empty when it is absent; true when it was.
    ///
    /// # Errors
    /// Those of the disk.
    fn open_now(&self, name: &str) -> io::Result<(Box<dyn DiskFile>, bool)>;
    /// Creates a folder. It is there at the latest with the first file that is opened in it.
    ///
    /// # Errors
    /// Those of the disk.
    fn make_folder_now(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }
    /// Renames a file.
    ///
    /// # Errors
    /// Those of the disk.
    fn rename_now(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file; false when it is absent.
    ///
    /// # Errors
    /// Those of the disk.
    fn remove_now(&self, name: &str) -> io::Result<bool>;
    /// Makes the names durable that are in the folder of the file `name`.
    ///
    /// # Errors
    /// Those of the disk.
    fn sync_names(&self, name: &str) -> io::Result<()>;
    /// Whether there is a file of that name.
    ///
    /// # Errors
    /// Those of the disk.
    fn exists(&self, name: &str) -> io::Result<bool>;
    /// The names in a folder, sorted.
    ///
    /// # Errors
    /// Those of the disk.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Opens a file, creating it empty when it is absent.
    ///
    /// # Errors
    /// Those of the disk.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let (file, created) = self.open_now(name)?;
        if created {
            self.sync_names(name)?;
        }
        Ok(file)
    }

    /// Renames a file.
    ///
    /// # Errors
    /// Those of the disk.
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.rename_now(from, to)?;
        self.sync_names(to)
    }

    /// Removes a file; one that is absent is no error.
    ///
    /// # Errors
    /// Those of the disk.
    fn remove(&self, name: &str) -> io::Result<()> {
        if self.remove_now(name)? { self.sync_names(name) } else { Ok(()) }
    }
}

/// A folder of the operating system.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// The folder at `root`, which exists.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn sync_parent(path: &Path) -> io::Result<()> {
        path.parent().map_or(Ok(()), sync_folder)
    }
}

/// Makes the names in a folder durable.
///
/// # Errors
/// Those of the disk.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Disk for RealDisk {
    fn open_now(&self, name: &str) -> io::Result<(Box<dyn DiskFile>, bool)> {
        let path = self.root.join(name);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => return Ok((Box::new(RealFile(file)), false)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            fs::DirBuilder::new().mode(FOLDER_MODE).create(folder)?;
            Self::sync_parent(folder)?;
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(&path)?;
        Ok((Box::new(RealFile(file)), true))
    }

    fn make_folder_now(&self, name: &str) -> io::Result<()> {
        match fs::DirBuilder::new().mode(FOLDER_MODE).create(self.root.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    fn rename_now(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove_now(&self, name: &str) -> io::Result<bool> {
        match fs::remove_file(self.root.join(name)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn sync_names(&self, name: &str) -> io::Result<()> {
        Self::sync_parent(&self.root.join(name))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.root.join(name).try_exists()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.root.join(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        match fallocate(&self.0, FallocateFlags::empty(), 0, bytes) {
            // Not every file system can.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.fill(bytes),
            reserved => Ok(reserved?),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// A file as redb wants it. It takes no lock: the `LOCK` file of the folder keeps other brokers out.
#[derive(Debug)]
pub struct DatabaseFile {
    /// The file.
    pub file: Box<dyn DiskFile>,
    /// Counts how often the file grew.
    pub growths: Arc<AtomicU64>,
    /// Whether the file is still being made: nothing in it counts, so nothing is waited for, and who makes it syncs it at
    /// the end.
    pub in_the_making: Arc<AtomicBool>,
}

impl StorageBackend for DatabaseFile {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.bytes()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        let before = self.file.bytes()?;
        self.file.set_bytes(len)?;
        if len > before {
            self.growths.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        if self.in_the_making.load(Ordering::SeqCst) { Ok(()) } else { self.file.sync_data() }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.file.write_at(offset, data)
    }
}
