//! A group: the unit that the journal makes durable with one write and one fdatasync. All integers are little-endian.
//!
//! ```text
//! header   0  magic        4  "LWG1"
//!          4  crc          4  CRC32C of salt, segment number and commit number (u64 each), then of bytes 8.. to the end
//!                             of the payload: bytes of an older life of the file, of another file, of another folder,
//!                             or of a record that imitates a group, are never valid
//!          8  segment      8  the number of the segment that this copy was written to
//!         16  commit       8  commit numbers have no hole
//!         24  durable      8  the last commit that was durable when this group was formed
//!         32  length       4  bytes of payload
//!         36  shard        4  0; there is one commit sequence today
//! payload 40  items, then zeros to a multiple of 4,096
//!
//! item     kind u8, then
//! 1 create log u64 · name (u16 length, bytes) · lineage (u16 count, then epoch u64, from_offset u64 each) · start u64
//!          · ancestry (see `ancestry.rs`)
//! 2 append log u64 · term u64 · version u64 · batch u128 · base u64 · last_time_ms u64 · projection u8 (0 none, 1 some: u32 length, see `projected.rs`)
//!          · erase (u32 count, then log u64, from u64, until u64 each) · records (u32 count, then u32 length, u32 crc, bytes each)
//! 3 delete log u64 · name (u16 length, bytes) · next_epoch u64
//! 5 trim   log u64 · start u64 · freed_bytes u64
//! 6 rename log u64 · name before, name after (u16 length, bytes each)
//! 16 put   writes (u16 count, then key (u16 length, bytes), u8 0 (removed) or 1 (written: u32 length, bytes) each)
//! ```

use std::ops::Range;

use bytes::{Buf, Bytes};
use longwire_proto::position::{Lineage, LineageEntry};
use longwire_proto::session_id::SessionId;

use crate::store::ancestry::Ancestry;
use crate::store::local::projected::Projected;
use crate::store::local::record::{Record, Records};
use crate::store::local::values::Writes;
use crate::store::{BatchId, LogId, Term, Version};

/// Groups begin and end on pages of this size, so that no page that holds acknowledged bytes is ever written again: a
/// torn page can only hold the group that was being written.
pub const BLOCK_BYTES: usize = 4096;
/// Length of the header.
pub const HEADER_BYTES: usize = 40;
const MAGIC: &[u8; 4] = b"LWG1";
/// The one shard of today.
const SHARD: u32 = 0;
const CREATE: u8 = 1;
const APPEND: u8 = 2;
const DELETE: u8 = 3;
const TRIM: u8 = 5;
const RENAME: u8 = 6;
// Below 16 are kinds that are about a log.
const PUT: u8 = 16;

/// A log comes into being.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// Its identity.
    pub log: LogId,
    /// The session.
    pub name: SessionId,
    /// Its epochs.
    pub lineage: Lineage,
    /// Its first offset.
    pub start: u64,
    /// Whose records it shows from there up to its own.
    pub ancestry: Ancestry,
}

impl Create {
    /// The offset of its first own record.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.ancestry.end().unwrap_or(self.start)
    }
}

/// Records are appended to a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The log.
    pub log: LogId,
    /// The opening that wrote it.
    pub term: Term,
    /// The version after it.
    pub version: Version,
    /// Recognises it.
    pub batch: BatchId,
    /// The offset of the first record.
    pub base: u64,
    /// When the last record was made.
    pub last_time_ms: u64,
    /// The records.
    pub records: Records,
    /// What the session is found by, when that changes.
    pub projection: Option<Projected>,
    /// Records that are erased with it, in the logs that hold them.
    pub erase: Vec<Erase>,
}

/// Records that are erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Erase {
    /// The log that holds them.
    pub log: LogId,
    /// Their offsets.
    pub offsets: Range<u64>,
}

/// A log is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// The log.
    pub log: LogId,
    /// The session.
    pub name: SessionId,
    /// The first epoch of a session created later under the name.
    pub next_epoch: u64,
}

/// Values of the store's own table are written or removed, all of them or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// What is there afterwards.
    pub writes: Writes,
}

/// A log loses its first records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trim {
    /// The log.
    pub log: LogId,
    /// Its first offset afterwards.
    pub start: u64,
    /// Bytes of its own records that go.
    pub freed_bytes: u64,
}

/// A log gets another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// The log.
    pub log: LogId,
    /// Its name before.
    pub from: SessionId,
    /// Its name after.
    pub to: SessionId,
}

/// What a group consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// See [`Create`].
    Create(Create),
    /// See [`Append`].
    Append(Append),
    /// See [`Delete`].
    Delete(Delete),
    /// See [`Put`].
    Put(Put),
    /// See [`Trim`].
    Trim(Trim),
    /// See [`Rename`].
    Rename(Rename),
}

/// What seeds the checksum of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The random number of the folder.
    pub salt: u64,
    /// The segment's number.
    pub segment: u64,
    /// The group's commit number.
    pub commit: u64,
    /// The last durable commit.
    pub durable: u64,
}

/// A group under construction: items are added, then it is sealed for a segment, and again for another one if that
/// write fails.
#[derive(Debug)]
pub struct GroupWriter {
    buffer: Vec<u8>,
    payload: usize,
}

impl Default for GroupWriter {
    fn default() -> Self {
        Self { buffer: vec![0; HEADER_BYTES], payload: 0 }
    }
}

impl GroupWriter {
    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.resize(HEADER_BYTES, 0);
        self.payload = 0;
    }

    /// Adds the creation of a log.
    pub fn create(&mut self, create: &Create) {
        self.buffer.push(CREATE);
        self.u64(create.log.0);
        self.name(&create.name);
        self.buffer.extend((create.lineage.entries().len() as u16).to_le_bytes());
        for entry in create.lineage.entries() {
            self.u64(entry.epoch);
            self.u64(entry.from_offset);
        }
        self.u64(create.start);
        create.ancestry.encode(&mut self.buffer);
    }

    /// Adds an append.
    pub fn append(&mut self, append: &Append) {
        self.buffer.push(APPEND);
        self.u64(append.log.0);
        self.u64(append.term.0);
        self.u64(append.version.0);
        self.buffer.extend(append.batch.0.to_le_bytes());
        self.u64(append.base);
        self.u64(append.last_time_ms);
        self.buffer.push(u8::from(append.projection.is_some()));
        if let Some(projection) = &append.projection {
            self.u32(projection.as_bytes().len() as u32);
            self.buffer.extend_from_slice(projection.as_bytes());
        }
        self.u32(append.erase.len() as u32);
        for erase in &append.erase {
            self.u64(erase.log.0);
            self.u64(erase.offsets.start);
            self.u64(erase.offsets.end);
        }
        self.u32(append.records.len() as u32);
        for record in append.records.iter() {
            self.u32(record.bytes.len() as u32);
            self.u32(record.crc);
            self.buffer.extend_from_slice(&record.bytes);
        }
    }

    /// Adds a deletion.
    pub fn delete(&mut self, delete: &Delete) {
        self.buffer.push(DELETE);
        self.u64(delete.log.0);
        self.name(&delete.name);
        self.u64(delete.next_epoch);
    }

    /// Adds writes of values.
    pub fn put(&mut self, put: &Put) {
        self.buffer.push(PUT);
        self.buffer.extend((put.writes.len() as u16).to_le_bytes());
        for (key, value) in &put.writes {
            self.buffer.extend((key.len() as u16).to_le_bytes());
            self.buffer.extend_from_slice(key);
            self.buffer.push(u8::from(value.is_some()));
            if let Some(value) = value {
                self.u32(value.len() as u32);
                self.buffer.extend_from_slice(value);
            }
        }
    }

    /// Adds a trim.
    pub fn trim(&mut self, trim: &Trim) {
        self.buffer.push(TRIM);
        self.u64(trim.log.0);
        self.u64(trim.start);
        self.u64(trim.freed_bytes);
    }

    /// Adds a renaming.
    pub fn rename(&mut self, rename: &Rename) {
        self.buffer.push(RENAME);
        self.u64(rename.log.0);
        self.name(&rename.from);
        self.name(&rename.to);
    }

    /// The bytes to write, whole blocks.
    pub fn seal(&mut self, seal: Seal) -> &[u8] {
        if self.payload == 0 {
            self.payload = self.buffer.len() - HEADER_BYTES;
            self.buffer.resize(self.buffer.len().next_multiple_of(BLOCK_BYTES), 0);
        }
        let header = &mut self.buffer[..HEADER_BYTES];
        header[..4].copy_from_slice(MAGIC);
        header[8..16].copy_from_slice(&seal.segment.to_le_bytes());
        header[16..24].copy_from_slice(&seal.commit.to_le_bytes());
        header[24..32].copy_from_slice(&seal.durable.to_le_bytes());
        header[32..36].copy_from_slice(&(self.payload as u32).to_le_bytes());
        header[36..40].copy_from_slice(&SHARD.to_le_bytes());
        let crc =
            checksum(seal.salt, seal.segment, seal.commit, &self.buffer[8..HEADER_BYTES + self.payload]);
        self.buffer[4..8].copy_from_slice(&crc.to_le_bytes());
        &self.buffer
    }

    fn u32(&mut self, value: u32) {
        self.buffer.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.buffer.extend(value.to_le_bytes());
    }

    fn name(&mut self, name: &SessionId) {
        self.buffer.extend((name.as_str().len() as u16).to_le_bytes());
        self.buffer.extend_from_slice(name.as_str().as_bytes());
    }
}

fn checksum(salt: u64, segment: u64, commit: u64, bytes: &[u8]) -> u32 {
    let mut seed = [0; 24];
    seed[..8].copy_from_slice(&salt.to_le_bytes());
    seed[8..16].copy_from_slice(&segment.to_le_bytes());
    seed[16..].copy_from_slice(&commit.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&seed), bytes)
}

/// A group that was found in a segment and whose checksum holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundGroup {
    /// Its commit number.
    pub commit: u64,
    /// The last commit that was durable before it.
    pub durable: u64,
    /// Its items, encoded.
    pub payload: Bytes,
    /// Bytes that it occupies in the segment, whole blocks.
    pub bytes: usize,
}

/// The group at the start of `bytes`, when there is a valid one.
#[must_use]
pub fn find(salt: u64, segment: u64, bytes: &[u8]) -> Option<FoundGroup> {
    let header = bytes.get(..HEADER_BYTES)?;
    let mut fields = header.strip_prefix(MAGIC)?;
    let crc = fields.get_u32_le();
    let found_segment = fields.get_u64_le();
    let commit = fields.get_u64_le();
    let durable = fields.get_u64_le();
    let length = fields.get_u32_le() as usize;
    let shard = fields.get_u32_le();
    let end = HEADER_BYTES + length;
    let covered = bytes.get(8..end)?;
    if found_segment != segment || shard != SHARD || checksum(salt, segment, commit, covered) != crc {
        return None;
    }
    // A copy, because the segment's buffer is mostly padding when groups are small.
    let payload = Bytes::copy_from_slice(bytes.get(HEADER_BYTES..end)?);
    Some(FoundGroup { commit, durable, payload, bytes: end.next_multiple_of(BLOCK_BYTES) })
}

/// The bytes of the group whose header is at the start of `bytes`, whole blocks; `None` when there is no header of this
/// segment. The rest of the group may be torn, or not be there.
#[must_use]
pub fn announced(segment: u64, bytes: &[u8]) -> Option<u64> {
    let mut fields = bytes.get(..HEADER_BYTES)?.strip_prefix(MAGIC)?;
    fields.advance(size_of::<u32>());
    let found_segment = fields.get_u64_le();
    fields.advance(2 * size_of::<u64>());
    let end = HEADER_BYTES as u64 + u64::from(fields.get_u32_le());
    (found_segment == segment).then(|| end.next_multiple_of(BLOCK_BYTES as u64))
}

/// The items of a payload; `None` when it is not a sequence of items, which a valid checksum leaves to a broker of
/// another format.
#[must_use]
pub fn items(mut payload: Bytes) -> Option<Vec<Item>> {
    let mut items = Vec::new();
    while payload.has_remaining() {
        items.push(item(&mut payload)?);
    }
    Some(items)
}

fn item(payload: &mut Bytes) -> Option<Item> {
    match payload.try_get_u8().ok()? {
        CREATE => {
            let log = LogId(u64(payload)?);
            let name = name(payload)?;
            let count = payload.try_get_u16_le().ok()?;
            let entries = (0..count)
                .map(|_| Some(LineageEntry { epoch: u64(payload)?, from_offset: u64(payload)? }))
                .collect::<Option<Vec<_>>>()?;
            let lineage = Lineage::from_entries(entries)?;
            let start = u64(payload)?;
            let ancestry = Ancestry::decode(payload)?;
            Some(Item::Create(Create { log, name, lineage, start, ancestry }))
        }
        APPEND => {
            let log = LogId(u64(payload)?);
            let term = Term(u64(payload)?);
            let version = Version(u64(payload)?);
            let batch = BatchId(payload.try_get_u128_le().ok()?);
            let base = u64(payload)?;
            let last_time_ms = u64(payload)?;
            let projection = match payload.try_get_u8().ok()? {
                0 => None,
                _ => {
                    let length = u32(payload)?;
                    Some(Projected::parse(&take(payload, length as usize)?)?)
                }
            };
            let count = u32(payload)?;
            let erase = (0..count)
                .map(|_| {
                    let log = LogId(u64(payload)?);
                    Some(Erase { log, offsets: u64(payload)?..u64(payload)? })
                })
                .collect::<Option<Vec<_>>>()?;
            let count = u32(payload)?;
            let records = (0..count)
                .map(|_| {
                    let length = u32(payload)?;
                    let crc = u32(payload)?;
                    Some(Record { bytes: take(payload, length as usize)?, crc })
                })
                .collect::<Option<Records>>()?;
            Some(Item::Append(Append {
                log,
                term,
                version,
                batch,
                base,
                last_time_ms,
                records,
                projection,
                erase,
            }))
        }
        DELETE => {
            let log = LogId(u64(payload)?);
            Some(Item::Delete(Delete { log, name: name(payload)?, next_epoch: u64(payload)? }))
        }
        PUT => {
            let count = payload.try_get_u16_le().ok()?;
            let writes = (0..count)
                .map(|_| {
                    let length = payload.try_get_u16_le().ok()?;
                    let key = take(payload, usize::from(length))?;
                    let value = match payload.try_get_u8().ok()? {
                        0 => None,
                        _ => {
                            let length = u32(payload)?;
                            Some(take(payload, length as usize)?)
                        }
                    };
                    Some((key, value))
                })
                .collect::<Option<Writes>>()?;
            Some(Item::Put(Put { writes }))
        }
        TRIM => {
            let log = LogId(u64(payload)?);
            Some(Item::Trim(Trim { log, start: u64(payload)?, freed_bytes: u64(payload)? }))
        }
        RENAME => {
            let log = LogId(u64(payload)?);
            Some(Item::Rename(Rename { log, from: name(payload)?, to: name(payload)? }))
        }
        _ => None,
    }
}

fn u64(payload: &mut Bytes) -> Option<u64> {
    payload.try_get_u64_le().ok()
}

fn u32(payload: &mut Bytes) -> Option<u32> {
    payload.try_get_u32_le().ok()
}

fn take(payload: &mut Bytes, length: usize) -> Option<Bytes> {
    (payload.len() >= length).then(|| payload.split_to(length))
}

fn name(payload: &mut Bytes) -> Option<SessionId> {
    let length = payload.try_get_u16_le().ok()?;
    let name = take(payload, length as usize)?;
    SessionId::stored(std::str::from_utf8(&name).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Projection;
    use crate::store::local::record::seal;

    const SEAL: Seal = Seal { salt: 0x0123_4567_89ab_cdef, segment: 7, commit: 42, durable: 41 };

    fn written() -> (Vec<Item>, Vec<u8>) {
        let name = SessionId::parse("acme/a").unwrap();
        let entries =
            vec![LineageEntry { epoch: 3, from_offset: 0 }, LineageEntry { epoch: 4, from_offset: 9 }];
        let lineage = Lineage::from_entries(entries).unwrap();
        let ancestry = Ancestry::default().of_fork(LogId(4), 1, 9);
        let create = Create { log: LogId(5), name: name.clone(), lineage, start: 1, ancestry };
        let append = Append {
            log: LogId(5),
            term: Term(2),
            version: Version(1),
            batch: BatchId(0xb),
            base: 9,
            last_time_ms: 0x1122,
            records: seal(LogId(5), 9, vec![Bytes::from_static(b"hello"), Bytes::new()]),
            projection: Some(Projected::encode(&Projection {
                row: "row".into(),
                terms: vec!["t".into()],
                deadline_ms: Some(0x33),
            })),
            erase: vec![Erase { log: LogId(4), offsets: 2..3 }],
        };
        let delete = Delete { log: LogId(4), name: name.clone(), next_epoch: 6 };
        let trim = Trim { log: LogId(5), start: 7, freed_bytes: 0x99 };
        let rename = Rename { log: LogId(5), from: name, to: SessionId::reserved("~b").unwrap() };
        let writes = [("k".into(), Some("value".into())), ("removed".into(), None)];
        let put = Put { writes: writes.into() };
        let mut group = GroupWriter::default();
        group.create(&create);
        group.append(&append);
        group.delete(&delete);
        group.trim(&trim);
        group.rename(&rename);
        group.put(&put);
        let bytes = group.seal(SEAL).to_vec();
        let items = vec![
            Item::Create(create),
            Item::Append(append),
            Item::Delete(delete),
            Item::Trim(trim),
            Item::Rename(rename),
            Item::Put(put),
        ];
        (items, bytes)
    }

    /// These bytes are on people's disks: a change of them is a change of the format.
    #[test]
    fn bytes_stay_as_they_are() {
        let (_, bytes) = written();
        assert_eq!(bytes.len(), BLOCK_BYTES);
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        let hex: String = bytes[..=end].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN.replace(['\n', ' '], ""));
    }

    // Header; create; its lineage; its start and ancestry; append; its base, time and projection; what it erases; its
    // records; delete; trim; rename; put.
    const GOLDEN: &str = "
        4c574731 befd8b69 0700000000000000 2a00000000000000 2900000000000000 34010000 00000000
        01 0500000000000000 0600 61636d652f61
        0200 0300000000000000 0000000000000000 0400000000000000 0900000000000000
        0100000000000000 0100 0400000000000000 0900000000000000
        02 0500000000000000 0200000000000000 0100000000000000 0b000000000000000000000000000000
        0900000000000000 2211000000000000 01 13000000 01 3300000000000000 03000000 0100 74 726f77
        01000000 0400000000000000 0200000000000000 0300000000000000
        02000000 05000000 2e50bed5 68656c6c6f 00000000 660008ba
        03 0400000000000000 0600 61636d652f61 0600000000000000
        05 0500000000000000 0700000000000000 9900000000000000
        06 0500000000000000 0600 61636d652f61 0200 7e62
        10 0200 0100 6b 01 05000000 76616c7565 0700 72656d6f766564
    ";

    #[test]
    fn what_is_written_is_found() {
        let (items_written, bytes) = written();
        let found = find(SEAL.salt, SEAL.segment, &bytes).unwrap();
        assert_eq!((found.commit, found.durable, found.bytes), (42, 41, BLOCK_BYTES));
        assert_eq!(announced(SEAL.segment, &bytes[..HEADER_BYTES]), Some(BLOCK_BYTES as u64));
        assert_eq!(announced(SEAL.segment + 1, &bytes), None);
        assert_eq!(items(found.payload.clone()), Some(items_written));
        for length in 0..found.payload.len() {
            let cut = items(found.payload.slice(..length));
            assert!(cut.is_none_or(|items| items.len() < 6));
        }
    }

    #[test]
    fn a_group_is_sealed_again_for_another_segment() {
        let mut group = GroupWriter::default();
        group.delete(&Delete { log: LogId(1), name: SessionId::parse("a").unwrap(), next_epoch: 1 });
        let first = group.seal(SEAL).to_vec();
        let second = group.seal(Seal { segment: 8, ..SEAL }).to_vec();
        let payload = |segment, bytes: &[u8]| find(SEAL.salt, segment, bytes).map(|found| found.payload);
        assert_eq!(payload(7, &first), payload(8, &second));
        assert_eq!(payload(8, &first), None);
        group.clear();
        group.delete(&Delete { log: LogId(1), name: SessionId::parse("a").unwrap(), next_epoch: 1 });
        assert_eq!(group.seal(SEAL), first);
    }
}
