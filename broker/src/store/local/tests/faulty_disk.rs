//! A disk in memory that loses what was not synced, and fails when it is told to.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::store::local::LocalStore;
use crate::store::local::disk::{Disk, DiskFile};
use crate::store::local::error::OpenStoreError;
use crate::store::local::folder::DATABASE_FILE;
use crate::store::local::shared::Tuning;

/// The random number of the simulated folder.
pub(crate) const SALT: u64 = 0x5a17;

/// A file: what a reader sees, and what is left after a power cut.
#[derive(Clone, Debug, Default)]
struct Content {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Where `cached` may differ from `durable`.
    unsynced: Vec<(usize, usize)>,
    /// A sync has failed: what is here must not be trusted any more.
    failed: bool,
}

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Of files whose name begins like this: so many more syncs succeed before so many fail.
    pub(crate) fail_sync: Option<(&'static str, usize, usize)>,
    /// Bytes that all files together may have.
    pub(crate) room: Option<usize>,
}

#[derive(Debug, Default)]
struct Inner {
    // A file is apart from its name, as on a real disk: an open one follows a renaming and outlives a removal.
    files: BTreeMap<String, Arc<Mutex<Content>>>,
    faults: Faults,
    failures: usize,
    misuses: usize,
    syncs: usize,
}

/// See the top of this file. Cloning gives another handle of the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultyDisk(Arc<Mutex<Inner>>);

impl FaultyDisk {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The store on this disk, once nobody has the database of an earlier one any more: whoever closes it last may be a thread that
    /// has just answered a read, and closing writes.
    pub(crate) fn try_store(&self, tuning: Tuning) -> Result<LocalStore, OpenStoreError> {
        while self.has_open(DATABASE_FILE) {
            std::thread::yield_now();
        }
        LocalStore::open_on(Arc::new(self.clone()), None, SALT, tuning)
    }

    pub(crate) fn store(&self, tuning: Tuning) -> LocalStore {
        self.try_store(tuning).unwrap()
    }

    fn has_open(&self, name: &str) -> bool {
        self.inner().files.get(name).is_some_and(|file| Arc::strong_count(file) > 1)
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.inner().faults = faults;
    }

    /// How many operations have failed.
    pub(crate) fn failures(&self) -> usize {
        self.inner().failures
    }

    /// How often anything was to be made durable.
    pub(crate) fn syncs(&self) -> usize {
        self.inner().syncs
    }

    /// How often a segment was written to although a sync of it had failed.
    pub(crate) fn misuses(&self) -> usize {
        self.inner().misuses
    }

    /// Bytes that all files together have.
    pub(crate) fn used(&self) -> usize {
        self.inner().used()
    }

    /// The disk as a power cut leaves it: of what was not synced, each sector is there when `keep` says so.
    pub(crate) fn after_power_cut(&self, mut keep: impl FnMut() -> bool) -> Self {
        const SECTOR: usize = 512;
        // Every file at one moment.
        let inner = self.inner();
        let mut files = BTreeMap::new();
        for (name, file) in &inner.files {
            let Content { cached, durable: mut left, unsynced, .. } = file.lock().unwrap().clone();
            // The length is metadata: it may be as new as the file was.
            if left.len() != cached.len() && keep() {
                left.resize(cached.len(), 0);
            }
            for (from, to) in unsynced {
                let mut at = from;
                while at < to {
                    let end = to.min((at / SECTOR + 1) * SECTOR).min(left.len()).min(cached.len());
                    if at < end && keep() {
                        left[at..end].copy_from_slice(&cached[at..end]);
                    }
                    at = (at / SECTOR + 1) * SECTOR;
                }
            }
            let content =
                Content { cached: left.clone(), durable: left, unsynced: Vec::new(), failed: false };
            files.insert(name.clone(), Arc::new(Mutex::new(content)));
        }
        Self(Arc::new(Mutex::new(Inner { files, ..Inner::default() })))
    }

    /// The disk as a dying process leaves it: everything that was written is there.
    pub(crate) fn copy(&self) -> Self {
        self.after_power_cut(|| true)
    }

    /// The names of the files in a folder that hold anything but zeros.
    pub(crate) fn written(&self, folder: &str) -> Vec<String> {
        let files = self.inner().files.clone();
        let files = files.into_iter().filter(|(name, file)| {
            name.starts_with(folder) && file.lock().unwrap().cached.iter().any(|byte| *byte != 0)
        });
        files.map(|(name, _)| name).collect()
    }

    /// What every file holds.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let files = self.inner().files.clone();
        files.into_iter().map(|(name, file)| (name, file.lock().unwrap().cached.clone())).collect()
    }

    /// How long a file is; 0 when it is absent.
    pub(crate) fn length(&self, name: &str) -> usize {
        self.inner().files.get(name).map_or(0, |file| file.lock().unwrap().cached.len())
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        let file = Arc::clone(&self.inner().files[name]);
        let file = file.lock().unwrap();
        file.cached.clone()
    }

    /// Changes what a file holds, behind the back of everyone.
    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let file = Arc::clone(&self.inner().files[name]);
        let mut file = file.lock().unwrap();
        change(&mut file.cached);
        file.durable = file.cached.clone();
    }

    /// Nothing is read, written or synced until what this answers is dropped.
    pub(crate) fn hold(&self) -> impl Sized + '_ {
        self.inner()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

impl Inner {
    fn used(&self) -> usize {
        self.files.values().map(|file| file.lock().unwrap().cached.len()).sum()
    }
}

impl Disk for FaultyDisk {
    fn open_now(&self, name: &str) -> io::Result<(Box<dyn DiskFile>, bool)> {
        let mut inner = self.inner();
        let created = !inner.files.contains_key(name);
        let content = Arc::clone(inner.files.entry(name.into()).or_default());
        Ok((Box::new(FaultyFile { disk: self.clone(), name: name.into(), content }), created))
    }

    fn rename_now(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner();
        let content = inner.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inner.files.insert(to.into(), content);
        Ok(())
    }

    fn remove_now(&self, name: &str) -> io::Result<bool> {
        Ok(self.inner().files.remove(name).is_some())
    }

    fn sync_names(&self, _name: &str) -> io::Result<()> {
        self.inner().syncs += 1;
        Ok(())
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        Ok(self.inner().files.contains_key(name))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let prefix = format!("{folder}/");
        Ok(self.inner().files.keys().filter_map(|name| name.strip_prefix(&prefix)).map(Into::into).collect())
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    name: String,
    content: Arc<Mutex<Content>>,
}

impl FaultyFile {
    /// The lock of the disk, held for a whole operation so that a copy is of one moment; refuses to grow a full disk.
    fn growing_to(&self, bytes: usize) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.disk.inner();
        let growth = bytes.saturating_sub(self.content().cached.len());
        match inner.faults.room {
            Some(room) if growth > 0 && inner.used() + growth > room => {
                inner.failures += 1;
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(inner),
        }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }
}

// The lock of the disk is always taken before that of a file.
impl DiskFile for FaultyFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.content().cached.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let content = self.content();
        let from = offset as usize;
        let bytes = content.cached.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (from, to) = (offset as usize, offset as usize + bytes.len());
        let mut inner = self.growing_to(to)?;
        let mut content = self.content();
        inner.misuses += usize::from(content.failed && self.name.starts_with("journal/"));
        if content.cached.len() < to {
            content.cached.resize(to, 0);
        }
        content.cached[from..to].copy_from_slice(bytes);
        content.unsynced.push((from, to));
        Ok(())
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        let _inner = self.growing_to(bytes as usize)?;
        self.content().cached.resize(bytes as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.disk.inner();
        inner.syncs += 1;
        if let Some((prefix, left, failing)) = &mut inner.faults.fail_sync
            && self.name.starts_with(*prefix)
        {
            if *left > 0 {
                *left -= 1;
            } else if *failing > 0 {
                *failing -= 1;
                inner.failures += 1;
                // As Linux does it: what could not be written is forgotten and will not be tried again.
                let mut content = self.content();
                content.unsynced.clear();
                content.failed = true;
                return Err(io::Error::other("injected"));
            }
        }
        let mut content = self.content();
        let Content { cached, durable, unsynced, .. } = &mut *content;
        durable.resize(cached.len(), 0);
        for (from, to) in unsynced.drain(..) {
            let to = to.min(cached.len());
            if from < to {
                durable[from..to].copy_from_slice(&cached[from..to]);
            }
        }
        Ok(())
    }
}
