//! What the journal holds that the database does not.
//!
//! Every block of every segment is looked at: a group that is damaged must not hide the ones behind it. The commits above
//! the settled one must then have no hole up to the last one that is known to have been durable, which is the highest
//! that a valid group has or names; what is missing below that was acknowledged and is lost, so the store stays closed.
//! A group that is invalid above that is the torn end of a crash and was never acknowledged.
//!
//! A segment is durable in its full length before the first group is written to it, and no group makes it longer. So one
//! that is shorter and was written to was cut by somebody: what is missing may have been acknowledged.
//!
//! What is found is settled into the database before the store opens, and only then are the segments removed: a crash in
//! between finds the same again. Nothing is ever appended to a segment of an earlier life.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use crate::store::local::disk::Disk;
use crate::store::local::error::OpenStoreError;
use crate::store::local::group::{BLOCK_BYTES, FoundGroup, announced, find};
use crate::store::local::segment::{JOURNAL_FOLDER, file_name, number};

/// What was found in the journal.
#[derive(Debug, Default)]
pub struct Found {
    /// The payloads of the commits above the settled one, without a hole.
    pub groups: BTreeMap<u64, Bytes>,
    /// Every segment there is.
    pub segments: Vec<u64>,
}

impl Found {
    /// A number above that of every segment.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.segments.last().map_or(1, |last| last + 1)
    }
}

/// Looks through the journal, whose segments have `segment_bytes`, for commits above `settled`.
///
/// # Errors
/// [`OpenStoreError::CutJournal`], [`OpenStoreError::DamagedJournal`] or [`OpenStoreError::Io`].
pub fn scan(disk: &dyn Disk, salt: u64, segment_bytes: u64, settled: u64) -> Result<Found, OpenStoreError> {
    let io_error = |name: &str| {
        let path = PathBuf::from(name);
        move |source: io::Error| OpenStoreError::Io { what: "reading", path, source }
    };
    let mut found = Found::default();
    // Where each commit was found, and whether its segment begins with it, to say where a missing one belongs.
    let mut places = BTreeMap::new();
    let mut last = settled;
    for name in disk.list(JOURNAL_FOLDER).map_err(io_error(JOURNAL_FOLDER))? {
        let Some(segment) = number(&name) else { continue };
        found.segments.push(segment);
        let name = file_name(segment);
        let bytes = read(disk, &name).map_err(io_error(&name))?;
        if let Some(least) = least_bytes(segment, segment_bytes, &bytes)
            && least > bytes.len() as u64
        {
            return Err(OpenStoreError::CutJournal { path: name.into(), bytes: bytes.len() as u64, least });
        }
        for (at, group) in groups_of(salt, segment, &bytes) {
            last = last.max(group.commit).max(group.durable);
            places.insert(group.commit, (segment, at == 0));
            if group.commit > settled {
                found.groups.insert(group.commit, group.payload);
            }
        }
    }
    let missing = (settled + 1..=last).find(|commit| !found.groups.contains_key(commit));
    match missing {
        None => Ok(found),
        Some(commit) => {
            let before = places.range(..commit).next_back().map(|(_, (segment, _))| *segment);
            let after = places.range(commit..).next().map(|(_, place)| *place);
            let segment = match (before, after) {
                (_, Some((segment, false))) => segment,
                (Some(segment), _) | (None, Some((segment, true))) => segment,
                (None, None) => 0,
            };
            Err(OpenStoreError::DamagedJournal { segment, commit })
        }
    }
}

fn read(disk: &dyn Disk, name: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(name)?;
    let mut bytes = vec![0; usize::try_from(file.bytes()?).unwrap_or(usize::MAX)];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// How long a segment was made, as far as what is in it tells; `None` when there may never have been a group in it.
fn least_bytes(segment: u64, segment_bytes: u64, bytes: &[u8]) -> Option<u64> {
    if (bytes.len() as u64) < segment_bytes {
        // One that a crash left so was being made, and has nothing but zeros.
        let written = bytes.chunks(BLOCK_BYTES).any(|block| announced(segment, block).is_some());
        return written.then_some(segment_bytes);
    }
    // One that was made longer, for one long group, is not recycled: before that there were zeros, and of a length that is
    // torn in front of zeros too little is left, never too much.
    (bytes.len() as u64 > segment_bytes).then(|| announced(segment, bytes)).flatten()
}

/// The groups of a segment, each with where it begins.
fn groups_of(salt: u64, segment: u64, bytes: &[u8]) -> Vec<(usize, FoundGroup)> {
    let mut groups = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match find(salt, segment, &bytes[at..]) {
            Some(group) => {
                let bytes = group.bytes;
                groups.push((at, group));
                at += bytes;
            }
            None => at += BLOCK_BYTES,
        }
    }
    groups
}
