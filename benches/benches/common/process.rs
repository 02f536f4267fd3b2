//! What the system says of a broker's process, and of its folder.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::common::Broker;

/// Bytes of a block, and of a sector, as the system counts them.
const BLOCK_BYTES: u64 = 512;
/// Which field of a disk's statistics has the sectors that were written, from 0.
const SECTORS_WRITTEN: usize = 6;

impl Broker {
    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// A line of `/proc/<pid>/status`, in bytes.
    pub(crate) fn memory_bytes(&self, name: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// What it keeps in memory.
    pub(crate) fn rss_bytes(&self) -> u64 {
        self.memory_bytes("VmRSS")
    }

    /// What it has passed to calls that write to files. `write_bytes` would be what reached the disk, but a file system with
    /// large folios counts the whole of one for each block that is written in it.
    pub(crate) fn written_bytes(&self) -> u64 {
        let io = self.proc("io");
        io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
    }
}

/// What was written to the disk that has this folder, by everybody; 0 where the system does not tell.
pub(crate) fn disk_written_bytes(folder: &Path) -> u64 {
    let device = fs::metadata(folder).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stats = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap_or_default();
    stats
        .split_whitespace()
        .nth(SECTORS_WRITTEN)
        .map_or(0, |sectors| sectors.parse::<u64>().unwrap() * BLOCK_BYTES)
}

/// What a folder takes of the disk: all files below it, holes left out.
pub(crate) fn disk_bytes(folder: &Path) -> u64 {
    // What is looked at may be removed meanwhile.
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
            Ok(metadata) => metadata.blocks() * BLOCK_BYTES,
            Err(_) => 0,
        })
        .sum()
}
