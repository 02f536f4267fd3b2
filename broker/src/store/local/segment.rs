//! Segments: the preallocated files that the journal is written to, and the pool that makes, keeps and recycles them.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{info, warn};

use crate::store::local::disk::{Disk, DiskFile};
use crate::store::local::group::BLOCK_BYTES;

/// Bytes of a segment: long enough that changing it is rare, short enough that one is free again soon after settling.
/// Recovery refuses a shorter one that was written to, so a broker with a larger number must know this one too.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// Spares kept ready while little is written: one for the next change. More would only occupy disk; for a failed segment meanwhile there
/// is a makeshift.
pub const SPARES_MIN: usize = 1;
/// Spares kept ready while the journal is busy: what fills, or fails, while the settler does something else.
pub const SPARES_BUSY: usize = 2;
/// Segments that the writer takes between two looks at what is needed, from which on the journal is busy. Who writes less finds one that
/// was recycled.
const TAKES_BUSY: usize = 2;
/// Spares kept while they are needed: what fills during one settling and waits for the next. Making one anew writes all of it, and
/// removing it makes the file system write, beside the groups that wait.
pub const SPARES_MAX: usize = 6;
/// Of a makeshift, one of so many bytes is filled: 64 KiB, enough for what is written down at a start and for the first
/// publishes.
const MAKESHIFT_FILLED_PART: u64 = 256;
/// The folder of the segments.
pub const JOURNAL_FOLDER: &str = "journal";

/// The file of a segment.
#[must_use]
pub fn file_name(number: u64) -> String {
    format!("{JOURNAL_FOLDER}/{number:016}")
}

/// The number of a segment from the last part of its file's name.
#[must_use]
pub fn number(name: &str) -> Option<u64> {
    (name.len() == 16 && name.bytes().all(|b| b.is_ascii_digit())).then(|| name.parse().ok()).flatten()
}

/// A segment that is written to.
///
/// A *makeshift* has its full length and its room on the disk from the start, and is filled at its beginning only: filling
/// all of it takes longer than who waits for its first group should wait. Behind what is filled every fdatasync has
/// metadata to write, so it is written to until there is a spare, and never recycled.
#[derive(Debug)]
pub struct Segment {
    number: u64,
    // Its number when its file was made: recycling keeps what is in the file.
    made: u64,
    file: Box<dyn DiskFile>,
    used: u64,
    bytes: u64,
    last_commit: u64,
    is_makeshift: bool,
}

impl Segment {
    /// Its number, which no other segment of the folder ever has.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether a spare should take its place.
    #[must_use]
    pub fn is_makeshift(&self) -> bool {
        self.is_makeshift
    }

    /// Whether a group of `bytes` fits.
    #[must_use]
    pub fn fits(&self, bytes: usize) -> bool {
        self.used + bytes as u64 <= self.bytes
    }

    /// Writes a group after the last one and makes it durable.
    ///
    /// # Errors
    /// Those of the disk. The segment must not be written to any more.
    pub fn write(&mut self, commit: u64, group: &[u8]) -> io::Result<()> {
        // Before the write: a group that failed may still be there, and the file must outlive it.
        self.last_commit = commit;
        self.file.write_at(self.used, group)?;
        self.file.sync_data()?;
        self.used += group.len() as u64;
        Ok(())
    }
}

#[derive(Debug)]
struct Retired {
    segment: Segment,
    trusted: bool,
}

#[derive(Debug)]
struct Inner {
    next_number: u64,
    // Files made before this number are not recycled.
    condemned_below: u64,
    // The writer has these: by the number that their files were made with.
    taken: BTreeSet<u64>,
    spares: VecDeque<Segment>,
    // The fewest spares since some were given back, and how many were taken.
    least_spares: usize,
    takes: usize,
    retired: Vec<Retired>,
}

impl Inner {
    fn whole_spares(&self) -> usize {
        self.spares.iter().filter(|spare| !spare.is_makeshift).count()
    }

    /// Spares that are kept, however few were needed lately.
    fn kept_spares(&self) -> usize {
        if self.takes < TAKES_BUSY { SPARES_MIN } else { SPARES_BUSY }
    }
}

/// Makes segments, keeps spares, and recycles what is settled. Shared by the writer, which takes and retires, and the
/// settler, which recycles and keeps the spares.
#[derive(Debug)]
pub struct SegmentPool {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    inner: Mutex<Inner>,
}

impl SegmentPool {
    /// A pool whose segments are numbered from `next_number` on.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, segment_bytes: u64, next_number: u64) -> Self {
        let inner = Inner {
            next_number,
            condemned_below: 0,
            taken: BTreeSet::new(),
            spares: VecDeque::new(),
            least_spares: 0,
            takes: 0,
            retired: Vec::new(),
        };
        Self { disk, segment_bytes, inner: Mutex::new(inner) }
    }

    /// Sees to it that the first group finds a segment. What it may leave under the names of files counts for nothing before
    /// there is a group.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn prepare(&self) -> io::Result<()> {
        let segment = self.make(0, true)?;
        self.inner().spares.push_back(segment);
        Ok(())
    }

    /// Whether a segment is ready that is no makeshift.
    #[must_use]
    pub fn has_spare(&self) -> bool {
        self.inner().whole_spares() > 0
    }

    /// A segment with room for a group of `bytes`: a spare, or a makeshift.
    ///
    /// # Errors
    /// Those of the disk, such as that it is full.
    pub fn take(&self, bytes: usize) -> io::Result<Segment> {
        let spare = {
            let mut inner = self.inner();
            let spare = inner.spares.pop_front();
            inner.takes += 1;
            inner.least_spares = inner.least_spares.min(inner.whole_spares());
            inner.taken.extend(spare.iter().map(|spare| spare.made));
            spare
        };
        match spare {
            Some(spare) if spare.fits(bytes) => return Ok(spare),
            Some(spare) => {
                self.inner().taken.remove(&spare.made);
                self.discard(spare);
            }
            None => {}
        }
        let segment = self.make(bytes, true)?;
        self.inner().taken.insert(segment.made);
        Ok(segment)
    }

    /// Sees to it that every file there is by now is removed as soon as it is settled, because of what is in it. The
    /// writer gives up the one that it has.
    pub fn condemn(&self) {
        let spares = {
            let mut inner = self.inner();
            inner.condemned_below = inner.next_number;
            std::mem::take(&mut inner.spares)
        };
        for spare in spares {
            self.discard(spare);
        }
    }

    /// Whether a segment is not to be written to any more.
    #[must_use]
    pub fn is_condemned(&self, segment: &Segment) -> bool {
        segment.made < self.inner().condemned_below
    }

    /// Whether files are left that are to be removed.
    #[must_use]
    pub fn has_condemned(&self) -> bool {
        let inner = self.inner();
        let mut made =
            inner.taken.iter().copied().chain(inner.retired.iter().map(|retired| retired.segment.made));
        made.any(|made| made < inner.condemned_below)
    }

    /// Takes back a segment that is not written to any more. One that failed is not `trusted` and is never used again.
    pub fn retire(&self, segment: Segment, trusted: bool) {
        let mut inner = self.inner();
        inner.taken.remove(&segment.made);
        inner.retired.push(Retired { segment, trusted });
    }

    /// How many segments wait for being settled.
    #[must_use]
    pub fn retired(&self) -> usize {
        self.inner().retired.len()
    }

    /// Reuses or removes every retired segment whose groups are all settled, and makes sure that there are spares.
    pub fn recycle(&self, settled: u64) {
        let (done, mut room, condemned_below) = {
            let mut inner = self.inner();
            let (done, kept) = inner.retired.drain(..).partition(|r| r.segment.last_commit <= settled);
            inner.retired = kept;
            let done: Vec<Retired> = done;
            (done, SPARES_MAX.saturating_sub(inner.whole_spares()), inner.condemned_below)
        };
        for Retired { segment, trusted } in done {
            let condemned = segment.made < condemned_below;
            let is_odd = segment.is_makeshift || segment.bytes != self.segment_bytes;
            if !trusted || condemned || room == 0 || is_odd {
                self.discard(segment);
                continue;
            }
            match self.reuse(segment) {
                Ok(segment) => {
                    self.inner().spares.push_back(segment);
                    room -= 1;
                }
                Err(error) => warn!(%error, "a journal segment could not be recycled"),
            }
        }
    }

    /// Makes the spares that are missing.
    ///
    /// # Errors
    /// Those of the disk. Spares are a convenience: the writer has a makeshift when there is none.
    pub fn top_up(&self) -> io::Result<()> {
        while self.is_short() {
            let segment = self.make(0, false)?;
            self.inner().spares.push_back(segment);
        }
        Ok(())
    }

    fn is_short(&self) -> bool {
        let inner = self.inner();
        inner.whole_spares() < inner.kept_spares()
    }

    /// Gives the disk back the spares beyond those that are kept which were not needed since this was called before.
    pub fn give_back(&self) {
        let idle = {
            let mut inner = self.inner();
            let mut idle = Vec::new();
            while inner.least_spares > inner.kept_spares()
                && let Some(at) = inner.spares.iter().rposition(|spare| !spare.is_makeshift)
            {
                idle.extend(inner.spares.remove(at));
                inner.least_spares -= 1;
            }
            inner.least_spares = inner.whole_spares();
            inner.takes = 0;
            idle
        };
        for spare in idle {
            self.discard(spare);
        }
    }

    /// Whether there are more spares than are kept ready when little is written.
    #[must_use]
    pub fn has_surplus(&self) -> bool {
        let inner = self.inner();
        inner.whole_spares() > inner.kept_spares()
    }

    /// Gives the disk back what the spares occupy, because it is full.
    pub fn release_spares(&self) {
        let spares = std::mem::take(&mut self.inner().spares);
        if !spares.is_empty() {
            info!(segments = spares.len(), "removing spare journal segments, because the disk is full");
        }
        for spare in spares {
            self.discard(spare);
        }
    }

    fn make(&self, bytes: usize, is_makeshift: bool) -> io::Result<Segment> {
        let number = self.next_number();
        let bytes = self.segment_bytes.max(bytes.next_multiple_of(BLOCK_BYTES) as u64);
        let part = (bytes / MAKESHIFT_FILLED_PART).next_multiple_of(BLOCK_BYTES as u64);
        let filled_bytes = if is_makeshift { part } else { bytes };
        let name = file_name(number);
        let (file, _) = self.disk.open_now(&name)?;
        let reserved = if is_makeshift { file.reserve(bytes) } else { Ok(()) };
        // Written, not just allocated, so that a group's fdatasync finds no metadata to write.
        let filled = reserved.and_then(|()| file.fill(filled_bytes));
        // Its name last: file systems that keep a journal have written it down by then.
        let durable = filled.and_then(|()| file.sync_data()).and_then(|()| self.disk.sync_names(&name));
        if let Err(error) = durable {
            let _ = self.disk.remove(&name);
            return Err(error);
        }
        Ok(Segment { number, made: number, file, used: 0, bytes, last_commit: 0, is_makeshift })
    }

    fn reuse(&self, segment: Segment) -> io::Result<Segment> {
        let number = self.next_number();
        self.disk.rename(&file_name(segment.number), &file_name(number))?;
        Ok(Segment { number, used: 0, last_commit: 0, ..segment })
    }

    fn discard(&self, segment: Segment) {
        if let Err(error) = self.disk.remove(&file_name(segment.number)) {
            warn!(%error, segment = segment.number, "a journal segment could not be removed");
        }
    }

    fn next_number(&self) -> u64 {
        let mut inner = self.inner();
        let number = inner.next_number;
        inner.next_number += 1;
        number
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::local::tests::faulty_disk::FaultyDisk;

    fn files(disk: &FaultyDisk) -> usize {
        disk.list(JOURNAL_FOLDER).unwrap().len()
    }

    #[test]
    fn a_busy_journal_keeps_its_segments_and_gives_them_back_when_it_needs_them_no_more() {
        let disk = FaultyDisk::new();
        let pool = SegmentPool::new(Arc::new(disk.clone()), 8192, 1);
        pool.top_up().unwrap();
        assert_eq!((files(&disk), pool.has_surplus()), (SPARES_MIN, false));
        // More than are kept fill at a time: those that are recycled are not made again.
        for round in 0..4 {
            let mut used = Vec::new();
            for _ in 0..SPARES_MAX + 2 {
                if !pool.has_spare() {
                    // A makeshift is not recycled.
                    let segment = pool.make(0, false).unwrap();
                    pool.inner().spares.push_back(segment);
                }
                used.push(pool.take(100).unwrap());
            }
            used.into_iter().for_each(|segment| pool.retire(segment, true));
            pool.recycle(0);
            assert_eq!((files(&disk), pool.has_surplus()), (SPARES_MAX, true), "round {round}");
            let made = pool.inner().spares.iter().filter(|spare| spare.made < spare.number).count();
            assert_eq!(made, SPARES_MAX, "they are recycled ones");
            pool.give_back();
            assert_eq!(files(&disk), SPARES_MAX, "all of them were needed");
        }
        // Three of them are needed from now on: with some to spare.
        for _ in 0..3 {
            let used: Vec<Segment> = (0..3).map(|_| pool.take(100).unwrap()).collect();
            used.into_iter().for_each(|segment| pool.retire(segment, true));
            pool.recycle(0);
            pool.give_back();
            assert_eq!(files(&disk), 3 + SPARES_BUSY);
        }
        // One now and then: it is recycled, and none is made beside it.
        for _ in 0..3 {
            let used = pool.take(100).unwrap();
            pool.top_up().unwrap();
            pool.retire(used, true);
            pool.recycle(0);
            pool.give_back();
        }
        assert_eq!(files(&disk), 1 + SPARES_MIN);
        pool.give_back();
        assert_eq!((files(&disk), pool.has_surplus()), (SPARES_MIN, false));
        pool.give_back();
        assert_eq!(files(&disk), SPARES_MIN);
    }
}
