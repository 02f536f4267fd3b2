//! A disk in memory that knows what is durable and what is not, and records every operation, so that the disk can be
//! had as a power cut at any of them leaves it. Contents are shared page by page: an image costs what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use crate::store::local::disk::{Disk, DiskFile};
use crate::store::local::tests::sim::rng::Rng;

const PAGE: usize = 4096;
/// What a disk writes as one, unless a power cut tears even that.
const SECTOR: usize = 512;
/// Of a group's write: its header. Of a write of redb: less than its own.
const HEADER: usize = 40;

type Page = Arc<[u8; PAGE]>;

fn zeros() -> &'static Page {
    static ZEROS: OnceLock<Page> = OnceLock::new();
    ZEROS.get_or_init(|| Arc::new([0; PAGE]))
}

/// The bytes of a file.
#[derive(Clone, Debug, Default)]
struct Pages {
    length: usize,
    pages: Vec<Page>,
}

impl Pages {
    fn resize(&mut self, length: usize) {
        if length < self.length && !length.is_multiple_of(PAGE) {
            let last = &mut self.pages[length / PAGE];
            Arc::make_mut(last)[length % PAGE..].fill(0);
        }
        self.pages.resize_with(length.div_ceil(PAGE), || Arc::clone(zeros()));
        self.length = length;
    }

    /// Writes what is within the length.
    fn write(&mut self, at: usize, bytes: &[u8]) {
        let mut done = 0;
        let end = self.length.min(at + bytes.len());
        while at + done < end {
            let (page, from) = ((at + done) / PAGE, (at + done) % PAGE);
            let length = (PAGE - from).min(end - at - done);
            Arc::make_mut(&mut self.pages[page])[from..from + length]
                .copy_from_slice(&bytes[done..done + length]);
            done += length;
        }
    }

    fn read(&self, at: usize, out: &mut [u8]) -> bool {
        if at + out.len() > self.length {
            return false;
        }
        let mut done = 0;
        while done < out.len() {
            let (page, from) = ((at + done) / PAGE, (at + done) % PAGE);
            let length = (PAGE - from).min(out.len() - done);
            out[done..done + length].copy_from_slice(&self.pages[page][from..from + length]);
            done += length;
        }
        true
    }
}

fn folder(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// A file apart from its name, as on a real disk.
pub(crate) type Inode = u64;

/// One operation. Names and contents become durable by the two syncs alone.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Create(String),
    Rename(String, String),
    Remove(String),
    /// Those in the folder of this file.
    SyncNames(String),
    Write(Inode, usize, Arc<[u8]>),
    SetLength(Inode, usize),
    Sync(Inode),
    /// What was written may be there or not, and no later sync changes that.
    FailedSync(Inode),
    /// What the workload was doing.
    Mark(Mark),
}

/// What the workload was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The database exists: the folder would be marked as ready.
    Ready,
    /// The writer writes the group of the next commit.
    Group(Does),
    /// It is acknowledged.
    Acknowledged,
    /// The settler moves what is durable into the database.
    Settling { deletes: bool },
    /// It has done so.
    Settled,
    /// The settler removes parts of deleted logs.
    Removing { begins: bool },
    /// The settler rewrites chunks with erased records, and wipes the files.
    Wiping { begins: bool },
}

/// What a group does beside appending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Does {
    pub(crate) deletes: bool,
    pub(crate) trims: bool,
    pub(crate) forks: bool,
    pub(crate) erases: bool,
    pub(crate) renames: bool,
}

#[derive(Clone, Debug)]
enum Pending {
    Write(usize, Arc<[u8]>),
    Length(usize),
}

#[derive(Clone, Debug, Default)]
struct File {
    cached: Pages,
    durable: Pages,
    pending: Vec<Pending>,
    failed: bool,
    renamed: bool,
}

/// Everything on the disk: as it is seen, and as far as it is durable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    names: BTreeMap<String, Inode>,
    durable_names: BTreeMap<String, Inode>,
    pending_names: Vec<Op>,
    files: BTreeMap<Inode, File>,
    next_inode: Inode,
}

/// How a power cut treats what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Tear {
    Nothing,
    Everything,
    /// A random subset of sectors; of each that is kept perhaps only some bytes.
    Sectors {
        kept_of_8: usize,
        torn: bool,
    },
    /// Of each write its first bytes.
    Headers,
    /// The writes before one of them, and a random part of that.
    Prefix,
    /// Everything but one sector.
    AllButOne,
}

impl Tear {
    pub(crate) fn any(rng: &mut Rng) -> Self {
        match rng.below(8) {
            0 | 1 => Self::Sectors { kept_of_8: 1 + rng.below(7), torn: false },
            2 | 3 => Self::Sectors { kept_of_8: 1 + rng.below(8), torn: true },
            4 => Self::Headers,
            5 | 6 => Self::Prefix,
            _ => Self::AllButOne,
        }
    }
}

/// What was pending when an image was made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InFlight {
    pub(crate) anything: bool,
    pub(crate) growth: bool,
    pub(crate) truncation: bool,
    pub(crate) names: bool,
    /// A write to a recycled segment, or the renaming that recycles it.
    pub(crate) recycled: bool,
}

impl Content {
    fn apply_name(names: &mut BTreeMap<String, Inode>, op: &Op, create: impl FnOnce() -> Inode) {
        match op {
            Op::Create(name) => {
                names.insert(name.clone(), create());
            }
            Op::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Op::Remove(name) => {
                names.remove(name);
            }
            _ => {}
        }
    }

    pub(crate) fn apply(&mut self, op: &Op) {
        match op {
            Op::Create(_) | Op::Rename(..) | Op::Remove(_) => {
                if let Op::Rename(from, _) = op
                    && let Some(file) = self.names.get(from).and_then(|inode| self.files.get_mut(inode))
                {
                    file.renamed = true;
                }
                let (next, files) = (&mut self.next_inode, &mut self.files);
                Self::apply_name(&mut self.names, op, || {
                    *next += 1;
                    files.insert(*next, File::default());
                    *next
                });
                self.pending_names.push(op.clone());
            }
            Op::SyncNames(of) => {
                let here = folder(of);
                self.durable_names.retain(|name, _| folder(name) != here);
                let synced = self.names.iter().filter(|(name, _)| folder(name) == here);
                self.durable_names.extend(synced.map(|(name, inode)| (name.clone(), *inode)));
                self.pending_names.retain(|op| match op {
                    Op::Create(name) | Op::Rename(_, name) | Op::Remove(name) => folder(name) != here,
                    _ => false,
                });
                let named: BTreeSet<Inode> =
                    self.names.values().chain(self.durable_names.values()).copied().collect();
                self.files.retain(|inode, _| named.contains(inode));
            }
            Op::Write(inode, at, bytes) => {
                let Some(file) = self.files.get_mut(inode) else { return };
                if file.cached.length < at + bytes.len() {
                    file.cached.resize(at + bytes.len());
                }
                file.cached.write(*at, bytes);
                file.pending.push(Pending::Write(*at, Arc::clone(bytes)));
            }
            Op::SetLength(inode, length) => {
                let Some(file) = self.files.get_mut(inode) else { return };
                file.cached.resize(*length);
                file.pending.push(Pending::Length(*length));
            }
            Op::Sync(inode) => {
                let Some(file) = self.files.get_mut(inode).filter(|file| !file.failed) else { return };
                file.durable = file.cached.clone();
                file.pending.clear();
            }
            Op::FailedSync(inode) => {
                let Some(file) = self.files.get_mut(inode) else { return };
                file.failed = true;
            }
            Op::Mark(_) => {}
        }
    }

    /// What every file holds, as it is seen and as far as it is durable.
    pub(crate) fn files(&self) -> Vec<Vec<u8>> {
        let bytes = |pages: &Pages| {
            let mut bytes = vec![0; pages.length];
            assert!(pages.read(0, &mut bytes));
            bytes
        };
        let files =
            self.names.values().chain(self.durable_names.values()).filter_map(|inode| self.files.get(inode));
        // What is synced is the same pages twice.
        let synced = |file: &File| {
            let mut pages = file.cached.pages.iter().zip(&file.durable.pages);
            file.cached.length == file.durable.length && pages.all(|(one, other)| Arc::ptr_eq(one, other))
        };
        let both = |file: &File| {
            let durable = (!synced(file)).then(|| bytes(&file.durable));
            std::iter::once(bytes(&file.cached)).chain(durable)
        };
        files.flat_map(both).collect()
    }

    pub(crate) fn in_flight(&self) -> InFlight {
        let renames = self.pending_names.iter().any(|op| matches!(op, Op::Rename(..)));
        let mut found = InFlight {
            names: !self.pending_names.is_empty(),
            recycled: renames,
            anything: !self.pending_names.is_empty(),
            ..InFlight::default()
        };
        for file in self.files.values().filter(|file| !file.pending.is_empty()) {
            found.anything = true;
            found.recycled |= file.renamed;
            let mut length = file.durable.length;
            for pending in &file.pending {
                let next = match pending {
                    Pending::Write(at, bytes) => length.max(at + bytes.len()),
                    Pending::Length(length) => *length,
                };
                found.growth |= next > length;
                found.truncation |= next < length;
                length = next;
            }
        }
        found
    }

    /// The disk after a power cut: of what was not synced, what `tear` and chance leave. `decisions` is told all of them.
    pub(crate) fn after_power_cut(&self, tear: Tear, rng: &mut Rng, decisions: &mut dyn FnMut(u64)) -> Self {
        let whole = |rng: &mut Rng, decisions: &mut dyn FnMut(u64)| {
            let kept = match tear {
                Tear::Nothing => false,
                Tear::Everything => true,
                Tear::AllButOne => rng.below(8) > 0,
                _ => rng.below(2) == 0,
            };
            decisions(u64::from(kept));
            kept
        };
        let mut names = self.durable_names.clone();
        for op in &self.pending_names {
            if whole(rng, decisions) {
                let created = match op {
                    Op::Create(name) => self.created(name),
                    _ => None,
                };
                Self::apply_name(&mut names, op, || created.unwrap_or(Inode::MAX));
            }
        }
        names.retain(|_, inode| self.files.contains_key(inode));
        let mut files = BTreeMap::new();
        for inode in names.values() {
            let file = &self.files[inode];
            let mut left = file.durable.clone();
            let stop = rng.below(file.pending.len().max(1));
            let spared = rng.below(file.pending.len().max(1));
            for (index, pending) in file.pending.iter().enumerate() {
                if tear == Tear::Prefix && index > stop {
                    break;
                }
                let before = tear == Tear::Prefix && index < stop;
                match pending {
                    Pending::Length(length) => {
                        if before || whole(rng, decisions) {
                            left.resize(*length);
                        }
                    }
                    Pending::Write(at, bytes) => {
                        // The length is metadata: it may be as new as the file was.
                        let end = at + bytes.len();
                        if end > left.length && (before || whole(rng, decisions)) {
                            left.resize(end);
                        }
                        if before {
                            left.write(*at, bytes);
                            continue;
                        }
                        for range in kept(*at, bytes.len(), tear, index == spared, rng) {
                            decisions((index as u64) << 40 ^ (range.start as u64) << 16 ^ range.len() as u64);
                            left.write(at + range.start, &bytes[range]);
                        }
                    }
                }
            }
            let renamed = file.renamed;
            files.insert(
                *inode,
                File { cached: left.clone(), durable: left, pending: Vec::new(), failed: false, renamed },
            );
        }
        Self {
            durable_names: names.clone(),
            names,
            pending_names: Vec::new(),
            files,
            next_inode: self.next_inode,
        }
    }

    /// The file that a pending creation made: it may have been renamed since.
    fn created(&self, name: &str) -> Option<Inode> {
        let mut at = name.to_owned();
        let after =
            self.pending_names.iter().skip_while(|op| !matches!(op, Op::Create(made) if made == name));
        for op in after {
            if let Op::Rename(from, to) = op
                && *from == at
            {
                at = to.clone();
            }
        }
        self.names.get(&at).copied()
    }
}

/// Which parts of a write are kept.
fn kept(at: usize, length: usize, tear: Tear, chosen: bool, rng: &mut Rng) -> Vec<Range<usize>> {
    let only = |part: Range<usize>| Vec::from([part]);
    match tear {
        Tear::Nothing => Vec::new(),
        Tear::Everything => only(0..length),
        Tear::Headers => only(0..HEADER.min(length)),
        Tear::AllButOne if !chosen => only(0..length),
        _ => {
            let mut sectors = Vec::new();
            let mut from = 0;
            while from < length {
                let to = length.min(((at + from) / SECTOR + 1) * SECTOR - at);
                sectors.push(from..to);
                from = to;
            }
            match tear {
                Tear::AllButOne => {
                    sectors.remove(rng.below(sectors.len()));
                    sectors
                }
                Tear::Prefix => {
                    let end = rng.below(length + 1);
                    sectors.retain(|sector| sector.start < end);
                    if let Some(last) = sectors.last_mut() {
                        last.end = last.end.min(end);
                    }
                    sectors
                }
                Tear::Sectors { kept_of_8, torn } => {
                    sectors.retain(|_| rng.below(8) < kept_of_8);
                    if torn {
                        for sector in &mut sectors {
                            let cut = sector.start + rng.below(sector.len());
                            match rng.below(4) {
                                0 => sector.end = cut,
                                1 => sector.start = cut,
                                2 => *sector = cut..cut + 1,
                                _ => {}
                            }
                        }
                    }
                    sectors
                }
                _ => sectors,
            }
        }
    }
}

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Inner {
    content: Content,
    ops: Vec<Op>,
    // What an earlier process still does fails.
    life: u64,
    hook: Option<(usize, Hook)>,
    fail_sync: bool,
}

/// See the top of this file.
#[derive(Clone)]
pub(crate) struct SimDisk {
    inner: Arc<Mutex<Inner>>,
    life: u64,
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimDisk(life {})", self.life)
    }
}

impl SimDisk {
    pub(crate) fn new(content: Content) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { content, ..Inner::default() })), life: 0 }
    }

    /// The disk for the next process: what the one before still does fails.
    pub(crate) fn next_life(&self) -> Self {
        let mut inner = self.inner();
        inner.life += 1;
        inner.hook = None;
        Self { inner: Arc::clone(&self.inner), life: inner.life }
    }

    pub(crate) fn mark(&self, mark: Mark) {
        self.inner().ops.push(Op::Mark(mark));
    }

    /// Runs something in between, when the database has done so many more writes and syncs.
    pub(crate) fn interrupt(&self, after: usize, hook: Hook) {
        self.inner().hook = Some((after, hook));
    }

    pub(crate) fn drop_interrupt(&self) {
        let hook = self.inner().hook.take();
        drop(hook);
    }

    /// The next sync of a segment fails.
    pub(crate) fn fail_sync(&self) {
        self.inner().fail_sync = true;
    }

    pub(crate) fn ops(&self) -> Vec<Op> {
        self.inner().ops.clone()
    }

    pub(crate) fn content(&self) -> Content {
        self.inner().content.clone()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn run(&self, op: Op) -> io::Result<()> {
        let mut inner = self.inner();
        if inner.life != self.life {
            return Err(io::Error::other("the process is dead"));
        }
        inner.content.apply(&op);
        inner.ops.push(op);
        Ok(())
    }
}

impl Disk for SimDisk {
    fn open_now(&self, name: &str) -> io::Result<(Box<dyn DiskFile>, bool)> {
        let created = !self.inner().content.names.contains_key(name);
        if created {
            self.run(Op::Create(name.into()))?;
        }
        let inode = *self.inner().content.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        let journal = name.starts_with("journal/");
        Ok((Box::new(SimFile { disk: self.clone(), inode, journal }), created))
    }

    fn rename_now(&self, from: &str, to: &str) -> io::Result<()> {
        if !self.inner().content.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.run(Op::Rename(from.into(), to.into()))
    }

    fn remove_now(&self, name: &str) -> io::Result<bool> {
        let there = self.inner().content.names.contains_key(name);
        if there {
            self.run(Op::Remove(name.into()))?;
        }
        Ok(there)
    }

    fn sync_names(&self, name: &str) -> io::Result<()> {
        self.run(Op::SyncNames(name.into()))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        Ok(self.inner().content.names.contains_key(name))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let prefix = format!("{folder}/");
        let inner = self.inner();
        Ok(inner.content.names.keys().filter_map(|name| name.strip_prefix(&prefix)).map(Into::into).collect())
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: Inode,
    journal: bool,
}

impl SimFile {
    fn interruption(&self) {
        if self.journal {
            return;
        }
        let due = {
            let mut inner = self.disk.inner();
            match &mut inner.hook {
                Some((0, _)) => inner.hook.take(),
                Some((left, _)) => {
                    *left -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some((_, hook)) = due {
            hook();
        }
    }
}

impl DiskFile for SimFile {
    fn bytes(&self) -> io::Result<u64> {
        let inner = self.disk.inner();
        let file = inner.content.files.get(&self.inode).ok_or(io::ErrorKind::NotFound)?;
        Ok(file.cached.length as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.disk.inner();
        let file = inner.content.files.get(&self.inode).ok_or(io::ErrorKind::NotFound)?;
        if file.cached.read(offset as usize, out) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.interruption();
        self.disk.run(Op::Write(self.inode, offset as usize, bytes.into()))
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.disk.run(Op::SetLength(self.inode, bytes as usize))
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        self.set_bytes(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.interruption();
        let fails = self.journal && std::mem::take(&mut self.disk.inner().fail_sync);
        if fails {
            self.disk.run(Op::FailedSync(self.inode))?;
            return Err(io::Error::other("injected"));
        }
        self.disk.run(Op::Sync(self.inode))
    }
}
