//! `chunks`: the records of logs, packed.
//!
//! ```text
//! key    log id u64 · base offset u64
//! value  crc u32 · count u32 · record*      record = length u32 · crc u32 · bytes
//! ```
//! The value's crc covers log, base, count and the length of the whole value, so that the header can be trusted without
//! reading the records; the crc of a record (see `record.rs`) covers log, offset, length and bytes, and is the one that
//! was computed when the record was admitted. Packing again copies records with their checksums and never computes new
//! ones, so that damage cannot be made to look sound.

use std::ops::Range;

use bytes::{Buf, Bytes};
use redb::TableDefinition;

use crate::store::framed::Framer;
use crate::store::local::record::{Record, checksum};
use crate::store::local::table::Damage;
use crate::store::{LogId, ReadLimit};

/// The table.
pub const CHUNKS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("chunks");
/// A chunk is at most this long, unless one record alone is longer. redb gives it a run of pages, whose number is a power of
/// two, and reads and writes all of them: a chunk of 64 KiB and a byte would take 128 KiB.
pub const CHUNK_BYTES: usize = (64 << 10) - LEAF_BYTES;
/// What redb puts around the one value of a page run is less.
const LEAF_BYTES: usize = 64;
/// The last chunk of a log is extended while it is shorter than this; extending a longer one would rewrite too much for
/// a few records.
pub const EXTEND_BELOW_BYTES: usize = 16 << 10;
const HEADER_BYTES: usize = 8;
const RECORD_HEADER_BYTES: usize = 8;
const TAG: &[u8] = b"chunks";

/// A chunk whose header holds.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'v> {
    log: LogId,
    base: u64,
    count: u32,
    records: &'v [u8],
}

/// What was read of a chunk: the records before the damage, and the damage.
#[derive(Debug, Default)]
pub struct Unpacked {
    /// Sound records from the offset asked for on.
    pub records: Vec<Bytes>,
    /// The first damaged offset.
    pub damaged: Option<u64>,
}

impl<'v> Packed<'v> {
    /// The chunk of a value.
    ///
    /// # Errors
    /// [`Damage`].
    pub fn parse(log: LogId, base: u64, value: &'v [u8]) -> Result<Self, Damage> {
        let (mut header, records) =
            value.split_at_checked(HEADER_BYTES).ok_or(Damage("the chunk is too short"))?;
        let crc = header.get_u32_le();
        let count = header.get_u32_le();
        if header_checksum(log, base, count, value.len()) != crc {
            return Err(Damage("the checksum of the chunk's header does not fit"));
        }
        Ok(Self { log, base, count, records })
    }

    /// Bytes of its records, as its length says.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        (self.records.len() as u64).saturating_sub(u64::from(self.count) * RECORD_HEADER_BYTES as u64)
    }

    /// The offset after its last record.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.base + u64::from(self.count)
    }

    /// A chunk with the records of `range` alone, copied with their checksums; `None` when they are not all there.
    #[must_use]
    pub fn cut(&self, range: Range<u64>) -> Option<Vec<u8>> {
        let mut packer = Packer::new(self.log, range.start);
        let mut rest = self.records;
        for offset in self.base..range.end.min(self.end()) {
            let (record, crc) = split_record(&mut rest)?;
            if offset >= range.start {
                packer.add(record, crc);
            }
        }
        packer.close().map(|(_, value)| value)
    }

    /// The chunk with what `change` gives instead of a record; others are copied with their checksums. `None` when they are
    /// not all there.
    #[must_use]
    pub fn map(&self, mut change: impl FnMut(u64, &[u8], u32) -> Option<Record>) -> Option<Vec<u8>> {
        let mut packer = Packer::new(self.log, self.base);
        let mut rest = self.records;
        for offset in self.base..self.end() {
            let (record, crc) = split_record(&mut rest)?;
            match change(offset, record, crc) {
                Some(changed) => packer.add(&changed.bytes, changed.crc),
                None => packer.add(record, crc),
            }
        }
        packer.close().map(|(_, value)| value)
    }

    /// Bytes of it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.records.len()
    }

    /// Frames its records from `from` on and below `until`, each verified, as far as there is room. Whether there may be more
    /// behind it: neither room nor a record was missing.
    #[must_use]
    pub fn frame(&self, from: u64, until: u64, framer: &mut Framer) -> bool {
        let mut rest = self.records;
        for offset in self.base..self.end().min(until) {
            let Some((record, crc)) = split_record(&mut rest) else { return false };
            if offset < from {
                continue;
            }
            if !framer.has_room(record.len()) || checksum(self.log, offset, record) != crc {
                return false;
            }
            framer.push(record);
        }
        self.end() < until
    }

    /// Its records from `from` on, each verified, within `limit`; at least one, unless it is damaged.
    #[must_use]
    pub fn unpack(&self, from: u64, limit: ReadLimit) -> Unpacked {
        let mut unpacked = Unpacked::default();
        let mut wanted: Vec<(u64, u32, &[u8])> = Vec::new();
        let mut rest = self.records;
        let mut bytes = 0;
        for offset in self.base..self.end() {
            let Some((record, crc)) = split_record(&mut rest) else {
                unpacked.damaged = Some(offset.max(from));
                break;
            };
            if offset < from {
                continue;
            }
            let full = wanted.len() >= limit.records || bytes + record.len() > limit.bytes;
            if full && !wanted.is_empty() {
                break;
            }
            bytes += record.len();
            wanted.push((offset, crc, record));
        }
        // One allocation for all, in which every record is a slice.
        let mut copy = Vec::with_capacity(bytes);
        let mut lengths = Vec::with_capacity(wanted.len());
        for (offset, crc, record) in wanted {
            if checksum(self.log, offset, record) != crc {
                unpacked.damaged = Some(offset);
                break;
            }
            copy.extend_from_slice(record);
            lengths.push(record.len());
        }
        let mut copy = Bytes::from(copy);
        unpacked.records = lengths.into_iter().map(|length| copy.split_to(length)).collect();
        unpacked
    }
}

/// Whether a chunk and every record in it are sound.
///
/// # Errors
/// [`Damage`].
pub fn verify(log: LogId, base: u64, value: &[u8]) -> Result<(), Damage> {
    let packed = Packed::parse(log, base, value)?;
    let mut rest = packed.records;
    for offset in base..packed.end() {
        let sound = split_record(&mut rest).is_some_and(|(record, crc)| checksum(log, offset, record) == crc);
        if !sound {
            return Err(Damage("the checksum of a record does not fit"));
        }
    }
    Ok(())
}

fn split_record<'v>(rest: &mut &'v [u8]) -> Option<(&'v [u8], u32)> {
    let length = rest.try_get_u32_le().ok()? as usize;
    let crc = rest.try_get_u32_le().ok()?;
    let (record, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some((record, crc))
}

fn header_checksum(log: LogId, base: u64, count: u32, length: usize) -> u32 {
    let mut fields = [0; 28];
    fields[..8].copy_from_slice(&log.0.to_le_bytes());
    fields[8..16].copy_from_slice(&base.to_le_bytes());
    fields[16..20].copy_from_slice(&count.to_le_bytes());
    fields[20..].copy_from_slice(&(length as u64).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(TAG), &fields)
}

/// Packs records into chunks.
#[derive(Debug)]
pub struct Packer {
    log: LogId,
    base: u64,
    count: u32,
    value: Vec<u8>,
}

impl Packer {
    /// Begins with an empty chunk at `base`.
    #[must_use]
    pub fn new(log: LogId, base: u64) -> Self {
        Self { log, base, count: 0, value: vec![0; HEADER_BYTES] }
    }

    /// Goes on after the last chunk of the log, when its header holds, it ends at `base` and is short enough.
    #[must_use]
    pub fn extend(log: LogId, base: u64, last: Option<(u64, &[u8])>) -> Self {
        let last = last.filter(|(_, value)| value.len() < EXTEND_BELOW_BYTES);
        match last.map(|(first, value)| (Packed::parse(log, first, value), value)) {
            Some((Ok(packed), value)) if packed.end() == base => {
                Self { log, base: packed.base, count: packed.count, value: value.to_vec() }
            }
            _ => Self::new(log, base),
        }
    }

    /// Adds a record. Gives the key and value of the chunk that it found no room in.
    pub fn push(&mut self, record: &Record) -> Option<((u64, u64), Vec<u8>)> {
        let bytes = self.value.len() + RECORD_HEADER_BYTES + record.bytes.len();
        let closed = (bytes > CHUNK_BYTES).then(|| self.close()).flatten();
        self.add(&record.bytes, record.crc);
        closed
    }

    fn add(&mut self, record: &[u8], crc: u32) {
        self.value.extend((record.len() as u32).to_le_bytes());
        self.value.extend(crc.to_le_bytes());
        self.value.extend_from_slice(record);
        self.count += 1;
    }

    /// The key and value of the chunk so far, unless it is empty.
    pub fn close(&mut self) -> Option<((u64, u64), Vec<u8>)> {
        if self.count == 0 {
            return None;
        }
        let next = Self::new(self.log, self.base + u64::from(self.count));
        let mut closed = std::mem::replace(self, next);
        let crc = header_checksum(closed.log, closed.base, closed.count, closed.value.len());
        closed.value[..4].copy_from_slice(&crc.to_le_bytes());
        closed.value[4..8].copy_from_slice(&closed.count.to_le_bytes());
        Some(((closed.log.0, closed.base), closed.value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOG: LogId = LogId(7);
    const BASE: u64 = 40;

    type Chunks = Vec<((u64, u64), Vec<u8>)>;

    fn pack(lengths: &[usize]) -> (Vec<Bytes>, Chunks) {
        let record = |(index, length): (usize, &usize)| Bytes::from(vec![index as u8; *length]);
        let records: Vec<Bytes> = lengths.iter().enumerate().map(record).collect();
        let mut packer = Packer::new(LOG, BASE);
        let mut chunks = Vec::new();
        for (offset, bytes) in (BASE..).zip(&records) {
            let crc = checksum(LOG, offset, bytes);
            chunks.extend(packer.push(&Record { bytes: bytes.clone(), crc }));
        }
        chunks.extend(packer.close());
        (records, chunks)
    }

    proptest! {
        #[test]
        fn chunks_fit_their_pages_and_give_back_what_was_packed_either_way(
            lengths in prop::collection::vec(prop_oneof![0..300_usize, 0..40_000_usize, 60_000..70_000_usize], 1..40),
            skip in 0..40_u64,
            left in 0..40_u64,
            most in 1..40_usize,
            bytes in 0..200_000_usize,
        ) {
            let (records, chunks) = pack(&lengths);
            let end = BASE + records.len() as u64;
            let (from, until) = ((BASE + skip).min(end - 1), (end - left.min(end - BASE)).max(BASE));
            let limit = ReadLimit { records: most, bytes };
            let mut whole = Vec::new();
            for (index, ((log, base), value)) in chunks.iter().enumerate() {
                prop_assert_eq!((*log, *base), (LOG.0, BASE + whole.len() as u64));
                let packed = Packed::parse(LOG, *base, value).unwrap();
                prop_assert_eq!(packed.bytes(), value.len());
                prop_assert!(value.len() <= CHUNK_BYTES || packed.count == 1);
                if let Some((_, next)) = chunks.get(index + 1) {
                    let first = next.len().min(HEADER_BYTES + RECORD_HEADER_BYTES + records[(packed.end() - BASE) as usize].len());
                    prop_assert!(value.len() + first - HEADER_BYTES > CHUNK_BYTES, "it is as full as it may be");
                }
                let all = packed.unpack(*base, ReadLimit { records: usize::MAX, bytes: usize::MAX });
                prop_assert_eq!(all.damaged, None);
                whole.extend(all.records);
                if !(*base..packed.end()).contains(&from) || until <= from {
                    continue;
                }
                let unpacked = packed.unpack(from, limit);
                let few: Vec<Bytes> = unpacked.records.into_iter().take((until - from) as usize).collect();
                let mut framer = Framer::new(limit);
                let goes_on = packed.frame(from, until, &mut framer);
                prop_assert_eq!(goes_on, from + few.len() as u64 == packed.end() && packed.end() < until);
                let chunk = crate::store::Chunk { from, records: few };
                prop_assert_eq!(framer.finish(from), chunk.into());
            }
            prop_assert_eq!(whole, records);
        }
    }

    #[test]
    fn what_is_framed_ends_before_damage() {
        let (records, chunks) = pack(&[10, 10, 10]);
        let mut value = chunks[0].1.clone();
        let last = value.len() - 1;
        value[last] ^= 1;
        let packed = Packed::parse(LOG, BASE, &value).unwrap();
        let mut framer = Framer::new(ReadLimit { records: 9, bytes: 99 });
        assert!(!packed.frame(BASE, BASE + 9, &mut framer));
        let chunk = crate::store::Chunk { from: BASE, records: records[..2].to_vec() };
        assert_eq!(framer.finish(BASE), chunk.into());
    }
}
