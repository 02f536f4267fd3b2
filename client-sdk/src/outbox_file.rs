//! The outbox file: unacknowledged publishes that survive the process.
//!
//! Append-only; `outbox_entry` describes the bytes. The batches stay on disk: memory holds where they are. An accepted
//! publish is *written*, so it survives a kill of the process; with `sync` it also survives a crash of the machine. What
//! is torn at the end when the file is opened was never accepted (without `sync`, a crash of the machine can tear more),
//! and is cut. When nothing is left the file is emptied; when most of it is dead it is rewritten.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::OutboxError;
use crate::lane::Lane;
use crate::machine::outbox::{Entry, Recovered, RecoveredEntry, Slot};
use crate::outbox_entry::{FileEntry, HEAD_BYTES, MAGIC, checksum, parse_head};
use crate::publication::EncodedBatch;

/// Dead bytes that a file may carry besides as many as are alive: rewriting costs an fsync and should be rare.
const DEAD_BYTES_MAX: u64 = 16 << 20;
/// Answers that one entry of the file lists.
const DONE_PER_ENTRY_MAX: usize = 4096;

#[derive(Debug)]
struct Live {
    lane: Lane,
    slot: Slot,
    /// Where its entry begins in the file, and the length of its payload.
    place: u64,
    length: usize,
}

impl Live {
    fn file_bytes(&self) -> u64 {
        (HEAD_BYTES + self.length) as u64
    }
}

#[derive(Debug)]
pub(crate) struct OutboxFile {
    path: PathBuf,
    file: File,
    /// Held as long as the outbox is; the file itself is replaced when it is rewritten.
    _lock: File,
    sync: bool,
    /// Bytes of the file that are whole entries. More can be there after a write that failed half-way.
    length: u64,
    live: BTreeMap<Entry, Live>,
    live_bytes: u64,
    next: BTreeMap<Lane, Slot>,
    next_entry: Entry,
    done: Vec<Entry>,
    unsynced: bool,
    /// Dead bytes above which the file is rewritten.
    dead_bytes_max: u64,
    /// The file and memory differ: nothing more is accepted.
    broken: Option<OutboxError>,
    cut_bytes: u64,
}

fn io_error(path: &Path, action: &'static str, source: std::io::Error) -> OutboxError {
    OutboxError::Io { path: path.to_owned(), action, source: Arc::new(source) }
}

fn open_private(path: &Path, truncate: bool) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(truncate);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

impl OutboxFile {
    /// Opens or creates the file, and takes it for this process alone (through `<path>.lock`).
    pub(crate) fn open(path: &Path, sync: bool) -> Result<Self, OutboxError> {
        let error = |action| move |source| io_error(path, action, source);
        let lock = open_private(&with_suffix(path, ".lock"), false).map_err(error("locked"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OutboxError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(io_error(path, "locked", source)),
        }
        let mut outbox = Self {
            path: path.to_owned(),
            file: open_private(path, false).map_err(error("opened"))?,
            _lock: lock,
            sync,
            length: MAGIC.len() as u64,
            live: BTreeMap::new(),
            live_bytes: 0,
            next: BTreeMap::new(),
            next_entry: 0,
            done: Vec::new(),
            unsynced: false,
            dead_bytes_max: DEAD_BYTES_MAX,
            broken: None,
            cut_bytes: 0,
        };
        outbox.replay()?;
        outbox.sync_name().map_err(error("synced"))?;
        Ok(outbox)
    }

    fn replay(&mut self) -> Result<(), OutboxError> {
        let path = self.path.clone();
        let error = |action| {
            let path = path.clone();
            move |source| io_error(&path, action, source)
        };
        let size = self.file.metadata().map_err(error("read"))?.len();
        let mut reader = std::io::BufReader::new(self.file.try_clone().map_err(error("read"))?);
        let mut magic = Vec::new();
        (&mut reader).take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(error("read"))?;
        if !MAGIC.starts_with(&magic) {
            return Err(OutboxError::Foreign { path: self.path.clone() });
        }
        if magic.len() < MAGIC.len() {
            return self.reset().map_err(error("written"));
        }
        let mut place = self.length;
        while let Some((payload, length)) = read_entry(&mut reader).map_err(error("read"))? {
            let Some(entry) = FileEntry::parse(payload) else { break };
            self.apply(place, length, entry);
            place += (HEAD_BYTES + length) as u64;
        }
        self.length = place;
        self.cut_bytes = size.saturating_sub(place);
        if self.cut_bytes > 0 {
            self.file.set_len(place).map_err(error("cut"))?;
        }
        self.file.seek(SeekFrom::Start(place)).map_err(error("read"))?;
        Ok(())
    }

    fn apply(&mut self, place: u64, length: usize, entry: FileEntry) {
        match entry {
            FileEntry::Publish { entry, slot, lane, .. } => self.insert(entry, slot, lane, place, length),
            FileEntry::Done(entries) => entries.iter().for_each(|entry| self.forget(*entry)),
            FileEntry::Renumber { epoch, lane } => self.number(&lane, epoch),
            FileEntry::Next { slot, lane } => drop(self.next.insert(lane, slot)),
        }
    }

    fn insert(&mut self, entry: Entry, slot: Slot, lane: Lane, place: u64, length: usize) {
        self.next_entry = self.next_entry.max(entry + 1);
        // A rewritten file says the next slot itself, in front.
        let follows = |next: &Slot| next.producer == slot.producer && next.epoch >= slot.epoch;
        let known = self
            .next
            .get(&lane)
            .is_some_and(|next| follows(next) && (next.epoch > slot.epoch || next.sequence > slot.sequence));
        if !known {
            let next = Slot { sequence: slot.sequence + 1, ..slot.clone() };
            self.next.insert(lane.clone(), next);
        }
        let live = Live { lane, slot, place, length };
        self.live_bytes += live.file_bytes();
        self.live.insert(entry, live);
    }

    fn forget(&mut self, entry: Entry) {
        if let Some(live) = self.live.remove(&entry) {
            self.live_bytes -= live.file_bytes();
        }
    }

    fn number(&mut self, lane: &Lane, epoch: u64) {
        let Some(next) = self.next.get_mut(lane) else { return };
        (next.epoch, next.sequence) = (epoch, 0);
        for live in self.live.values_mut().filter(|live| live.lane == *lane) {
            live.slot = next.clone();
            next.sequence += 1;
        }
    }

    /// What was left by the process before.
    pub(crate) fn recovered(&self) -> Recovered {
        let entries = self.live.iter().map(|(entry, live)| RecoveredEntry {
            entry: *entry,
            lane: live.lane.clone(),
            slot: live.slot.clone(),
            bytes: live.length as u64,
        });
        Recovered { entries: entries.collect(), next: self.next.clone() }
    }

    /// Bytes at the end that were no whole entry when the file was opened.
    pub(crate) fn cut_bytes(&self) -> u64 {
        self.cut_bytes
    }

    /// Writes a publish.
    pub(crate) fn append(
        &mut self,
        lane: &Lane,
        slot: &Slot,
        batch: EncodedBatch,
    ) -> Result<Entry, OutboxError> {
        let entry = self.next_entry;
        let (place, lane) = (self.length, lane.clone());
        let publish = FileEntry::Publish { entry, slot: slot.clone(), lane: lane.clone(), batch: batch.0 };
        let mut bytes = Vec::new();
        publish.put(&mut bytes);
        self.write(&bytes)?;
        self.insert(entry, slot.clone(), lane, place, bytes.len() - HEAD_BYTES);
        Ok(entry)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), OutboxError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let result = self.file.seek(SeekFrom::Start(self.length)).and_then(|_| self.file.write_all(bytes));
        match result {
            Ok(()) => {
                self.length += bytes.len() as u64;
                self.unsynced = true;
                Ok(())
            }
            Err(source) => {
                let error = io_error(&self.path, "written", source);
                // Half an entry must not stand in front of the next one.
                if self.file.set_len(self.length).is_err() {
                    self.broken = Some(error.clone());
                }
                Err(error)
            }
        }
    }

    /// Reads a batch back.
    pub(crate) fn read(&mut self, entry: Entry) -> Result<EncodedBatch, OutboxError> {
        let damaged = || OutboxError::Damaged { path: self.path.clone() };
        let live = self.live.get(&entry).ok_or_else(damaged)?;
        self.file.seek(SeekFrom::Start(live.place)).map_err(|source| io_error(&self.path, "read", source))?;
        match read_entry(&mut self.file).map_err(|source| io_error(&self.path, "read", source))? {
            Some((payload, _)) => match FileEntry::parse(payload) {
                Some(FileEntry::Publish { entry: found, batch, .. }) if found == entry => {
                    Ok(EncodedBatch(batch))
                }
                _ => Err(damaged()),
            },
            None => Err(damaged()),
        }
    }

    /// A publish has its answer. [`Self::flush`] writes that down; until then a crash only means a repeat, which the
    /// broker recognises.
    pub(crate) fn remove(&mut self, entry: Entry) {
        self.forget(entry);
        self.done.push(entry);
    }

    /// Numbers the lane's entries anew. Nothing may be sent under the new numbers before this returns.
    pub(crate) fn renumber(&mut self, lane: &Lane, epoch: u64) -> Result<(), OutboxError> {
        self.flush()?;
        let mut bytes = Vec::new();
        FileEntry::Renumber { epoch, lane: lane.clone() }.put(&mut bytes);
        self.number(lane, epoch);
        self.write(&bytes).inspect_err(|error| self.broken = Some(error.clone()))
    }

    /// Writes down which publishes have their answer, and makes the file smaller when it is time.
    pub(crate) fn flush(&mut self) -> Result<(), OutboxError> {
        if !self.done.is_empty() {
            if self.live.is_empty() {
                self.done.clear();
                self.next.clear();
                if self.broken.is_none() {
                    self.reset().map_err(|source| io_error(&self.path, "emptied", source))?;
                }
            } else {
                let mut bytes = Vec::new();
                for entries in std::mem::take(&mut self.done).chunks(DONE_PER_ENTRY_MAX) {
                    FileEntry::Done(entries.to_vec()).put(&mut bytes);
                }
                self.write(&bytes)?;
            }
            let dead = self.length.saturating_sub(self.live_bytes);
            if dead > self.live_bytes + self.dead_bytes_max && self.broken.is_none() {
                // After a failure (such as a full disk) the next try waits until twice as much is dead.
                self.dead_bytes_max = 2 * dead;
                self.rewrite()?;
                self.dead_bytes_max = DEAD_BYTES_MAX;
            }
        }
        Ok(())
    }

    /// Makes what was accepted safe against a crash of the machine, when that was asked for.
    pub(crate) fn sync(&mut self) -> Result<(), OutboxError> {
        if self.sync && self.unsynced {
            let result = self.file.sync_data();
            result.map_err(|source| {
                let error = io_error(&self.path, "synced", source);
                // What a failed sync leaves on the disk is not known.
                self.broken = Some(error.clone());
                error
            })?;
        }
        self.unsynced = false;
        Ok(())
    }

    /// Makes the file's name safe against a crash of the machine, when that was asked for.
    fn sync_name(&self) -> std::io::Result<()> {
        let folder = self.path.parent().filter(|_| self.sync);
        match folder {
            Some(folder) if folder.as_os_str().is_empty() => File::open(".")?.sync_all(),
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }

    fn reset(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(MAGIC)?;
        self.length = MAGIC.len() as u64;
        self.unsynced = true;
        Ok(())
    }

    /// Writes what is alive into a new file, which then takes the place of this one.
    fn rewrite(&mut self) -> Result<(), OutboxError> {
        let path = with_suffix(&self.path, ".new");
        let error = |source| io_error(&path, "rewritten", source);
        let mut file = open_private(&path, true).map_err(error)?;
        let mut places = Vec::new();
        let mut length = MAGIC.len() as u64;
        file.write_all(MAGIC).map_err(error)?;
        let alive: std::collections::BTreeSet<Lane> =
            self.live.values().map(|live| live.lane.clone()).collect();
        self.next.retain(|lane, _| alive.contains(lane));
        let mut bytes = Vec::new();
        for (lane, slot) in &self.next {
            FileEntry::Next { slot: slot.clone(), lane: lane.clone() }.put(&mut bytes);
        }
        file.write_all(&bytes).map_err(error)?;
        length += bytes.len() as u64;
        for entry in self.live.keys().copied().collect::<Vec<_>>() {
            let Ok(batch) = self.read(entry) else { continue };
            let live = &self.live[&entry];
            let (slot, lane) = (live.slot.clone(), live.lane.clone());
            bytes.clear();
            FileEntry::Publish { entry, slot, lane, batch: batch.0 }.put(&mut bytes);
            file.write_all(&bytes).map_err(error)?;
            places.push((entry, length, bytes.len() - HEAD_BYTES));
            length += bytes.len() as u64;
        }
        file.sync_data().map_err(error)?;
        std::fs::rename(&path, &self.path).and_then(|()| self.sync_name()).map_err(error)?;
        (self.file, self.length) = (file, length);
        for (entry, place, length) in places {
            if let Some(live) = self.live.get_mut(&entry) {
                (live.place, live.length) = (place, length);
            }
        }
        self.live_bytes = self.live.values().map(Live::file_bytes).sum();
        Ok(())
    }
}

/// Reads the next entry's payload; `None` where there is no whole entry with its checksum.
fn read_entry(reader: &mut impl Read) -> std::io::Result<Option<(Bytes, usize)>> {
    let mut head = [0; HEAD_BYTES];
    if !read_whole(reader, &mut head)? {
        return Ok(None);
    }
    let Some((length, crc)) = parse_head(head) else { return Ok(None) };
    let mut payload = Vec::new();
    reader.take(length as u64).read_to_end(&mut payload)?;
    let [a, b, c, d, ..] = head;
    let whole = payload.len() == length && checksum([a, b, c, d], &payload) == crc;
    Ok(whole.then(|| (Bytes::from(payload), length)))
}

fn read_whole(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use longwire_proto::session_id::SessionId;
    use proptest::prelude::*;

    use super::*;

    fn session(text: &str) -> Lane {
        SessionId::parse(text).unwrap().into()
    }

    fn slot(epoch: u64, sequence: u64) -> Slot {
        Slot { producer: "p-0".into(), epoch, sequence }
    }

    fn batch(text: &str) -> EncodedBatch {
        EncodedBatch(Bytes::from(text.to_owned()))
    }

    fn put(outbox: &mut OutboxFile, sequence: u64) -> Entry {
        outbox.append(&session("a/b"), &slot(0, sequence), batch(&format!("batch {sequence}"))).unwrap()
    }

    fn slots(outbox: &OutboxFile) -> Vec<(u64, u64)> {
        let entries = outbox.recovered().entries;
        entries.iter().map(|entry| (entry.slot.epoch, entry.slot.sequence)).collect()
    }

    #[test]
    fn what_has_no_answer_is_there_again_under_its_slots() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox");
        let mut outbox = OutboxFile::open(&path, true).unwrap();
        let entries: Vec<Entry> = (0..4).map(|sequence| put(&mut outbox, sequence)).collect();
        outbox.remove(entries[1]);
        outbox.remove(entries[3]);
        outbox.flush().unwrap();
        outbox.sync().unwrap();
        drop(outbox);
        let mut outbox = OutboxFile::open(&path, false).unwrap();
        assert_eq!(slots(&outbox), [(0, 0), (0, 2)]);
        assert_eq!(outbox.recovered().next[&session("a/b")], slot(0, 4));
        assert_eq!(outbox.read(entries[2]).unwrap(), batch("batch 2"));
        outbox.remove(entries[0]);
        outbox.renumber(&session("a/b"), 1).unwrap();
        drop(outbox);
        let mut outbox = OutboxFile::open(&path, false).unwrap();
        assert_eq!(slots(&outbox), [(1, 0)]);
        assert_eq!(outbox.recovered().next[&session("a/b")], slot(1, 1));
        outbox.remove(entries[2]);
        outbox.flush().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), MAGIC.len() as u64);
        drop(outbox);
        assert_eq!(OutboxFile::open(&path, false).unwrap().recovered(), Recovered::default());
    }

    #[test]
    fn a_tail_torn_at_any_byte_is_cut_and_the_rest_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox");
        let mut outbox = OutboxFile::open(&path, false).unwrap();
        let mut ends = vec![outbox.length];
        for sequence in 0..3 {
            put(&mut outbox, sequence);
            ends.push(outbox.length);
        }
        drop(outbox);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            for torn in [whole[..cut].to_vec(), [&whole[..cut], &[0u8; 100][..]].concat()] {
                let path = folder.path().join("torn");
                std::fs::write(&path, &torn).unwrap();
                let kept = ends.iter().filter(|end| **end <= cut as u64).count().saturating_sub(1);
                if cut < MAGIC.len() && torn.len() > cut {
                    assert!(matches!(OutboxFile::open(&path, false), Err(OutboxError::Foreign { .. })));
                    continue;
                }
                let mut outbox = OutboxFile::open(&path, false).unwrap();
                assert_eq!(slots(&outbox).len(), kept, "cut at {cut}");
                let next = put(&mut outbox, 9);
                assert_eq!(outbox.read(next).unwrap(), batch("batch 9"));
                drop(outbox);
                assert_eq!(slots(&OutboxFile::open(&path, false).unwrap()).len(), kept + 1);
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_found_when_the_entry_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox");
        let mut outbox = OutboxFile::open(&path, false).unwrap();
        let entry = put(&mut outbox, 0);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(outbox.read(entry), Err(OutboxError::Damaged { .. })));
    }

    #[test]
    fn a_mostly_dead_file_is_rewritten_and_says_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox");
        let mut outbox = OutboxFile::open(&path, false).unwrap();
        let first = put(&mut outbox, 0);
        let large = "x".repeat(1 << 20);
        for sequence in 1..20 {
            let entry = outbox.append(&session("a/b"), &slot(0, sequence), batch(&large)).unwrap();
            outbox.remove(entry);
            outbox.flush().unwrap();
        }
        assert!(std::fs::metadata(&path).unwrap().len() < DEAD_BYTES_MAX);
        let last = put(&mut outbox, 20);
        let before = outbox.recovered();
        assert_eq!(outbox.read(first).unwrap(), batch("batch 0"));
        drop(outbox);
        let mut outbox = OutboxFile::open(&path, false).unwrap();
        assert_eq!(outbox.recovered(), before);
        assert_eq!(outbox.read(last).unwrap(), batch("batch 20"));
    }

    #[test]
    fn one_client_at_a_time_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox");
        let outbox = OutboxFile::open(&path, false).unwrap();
        assert!(matches!(OutboxFile::open(&path, false), Err(OutboxError::Locked { .. })));
        drop(outbox);
        OutboxFile::open(&path, false).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        std::fs::write(&path, "something else").unwrap();
        assert!(matches!(OutboxFile::open(&path, false), Err(OutboxError::Foreign { .. })));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append(usize),
        Settle(usize),
        Renumber(usize),
        Flush,
        Rewrite,
        Reopen,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..3usize).prop_map(Step::Append),
            5 => any::<usize>().prop_map(Step::Settle),
            1 => (0..3usize).prop_map(Step::Renumber),
            2 => Just(Step::Flush),
            1 => Just(Step::Rewrite),
            2 => Just(Step::Reopen),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        /// The file against a map: whatever is done, it has the same entries, slots and batches after every reopening.
        #[test]
        fn says_after_any_reopening_what_it_was_told(steps in proptest::collection::vec(step(), 1..60)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("outbox");
            let mut outbox = OutboxFile::open(&path, false).unwrap();
            let mut names = ["a", "b", "a"].map(session);
            names[2].act_as = "somebody else".into();
            let mut next: BTreeMap<Lane, Slot> =
                names.iter().map(|name| (name.clone(), slot(0, 0))).collect();
            let mut wanted: BTreeMap<Entry, (Lane, Slot, String)> = BTreeMap::new();
            for (count, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Append(index) => {
                        let at = next.get_mut(&names[index]).unwrap();
                        let text = format!("batch {count}");
                        let entry = outbox.append(&names[index], at, batch(&text)).unwrap();
                        prop_assert!(wanted.insert(entry, (names[index].clone(), at.clone(), text)).is_none());
                        at.sequence += 1;
                    }
                    Step::Settle(index) if !wanted.is_empty() => {
                        let entry = *wanted.keys().nth(index % wanted.len()).unwrap();
                        wanted.remove(&entry);
                        outbox.remove(entry);
                    }
                    Step::Settle(_) => {}
                    Step::Renumber(index) => {
                        let at = next.get_mut(&names[index]).unwrap();
                        (at.epoch, at.sequence) = (at.epoch + 1, 0);
                        for (_, numbered, _) in wanted.values_mut().filter(|(name, _, _)| *name == names[index]) {
                            *numbered = at.clone();
                            at.sequence += 1;
                        }
                        outbox.renumber(&names[index], at.epoch).unwrap();
                    }
                    Step::Flush => outbox.flush().unwrap(),
                    Step::Rewrite => {
                        outbox.flush().unwrap();
                        outbox.rewrite().unwrap();
                    }
                    Step::Reopen => {
                        outbox.flush().unwrap();
                        drop(outbox);
                        outbox = OutboxFile::open(&path, false).unwrap();
                    }
                }
                let recovered = outbox.recovered();
                let found: Vec<_> =
                    recovered.entries.iter().map(|found| (found.entry, &found.lane, &found.slot)).collect();
                let told: Vec<_> = wanted.iter().map(|(entry, (name, at, _))| (*entry, name, at)).collect();
                prop_assert_eq!(found, told);
                for (entry, (name, _, text)) in &wanted {
                    prop_assert_eq!(&outbox.read(*entry).unwrap(), &batch(text));
                    prop_assert_eq!(recovered.next.get(name), next.get(name), "entries are alive, so the next is known");
                }
            }
        }
    }
}
