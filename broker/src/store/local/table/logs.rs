//! `logs`: what there is to know about a log beside its records.
//!
//! ```text
//! key    log id u64
//! value  crc u32 · name (u16 length, bytes) · lineage (u16 count, then epoch u64, from_offset u64 each)
//!        · start u64 · end u64 · version u64 · batch (u8 0 or 1, u128) · snapshot_through (u8 0 or 1, u64)
//!        · born u64 · bytes u64 · ancestry (see `ancestry.rs`)
//!        · last_time_ms u64 · commit u64 · projection (u32 length, see `projected.rs`)
//! ```

use bytes::Buf;
use longwire_proto::position::{Lineage, LineageEntry};
use longwire_proto::session_id::SessionId;
use redb::TableDefinition;

use crate::store::ancestry::Ancestry;
use crate::store::local::projected::Projected;
use crate::store::local::table::{Damage, seal, unseal};
use crate::store::{BatchId, LogId};

/// The table.
pub const LOGS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("logs");
const TAG: &[u8] = b"logs";

/// A log as it was settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRow {
    /// The session.
    pub name: SessionId,
    /// Its epochs.
    pub lineage: Lineage,
    /// First retained offset.
    pub start: u64,
    /// Next offset.
    pub end: u64,
    /// Counts batches.
    pub version: u64,
    /// The last batch.
    pub batch: Option<BatchId>,
    /// What the rows reflect.
    pub snapshot_through: Option<u64>,
    /// The `start` that it was created with.
    pub born: u64,
    /// Bytes of its own records from `start` on.
    pub bytes: u64,
    /// Whose records it shows below its own.
    pub ancestry: Ancestry,
    /// When the last record was made.
    pub last_time_ms: u64,
    /// The last commit that changed it.
    pub commit: u64,
    /// What the session is found by.
    pub projection: Projected,
}

impl LogRow {
    /// The value of the row.
    #[must_use]
    pub fn encode(&self, log: LogId) -> Vec<u8> {
        self.encode_as(TAG, log)
    }

    /// The row of a value.
    ///
    /// # Errors
    /// [`Damage`].
    pub fn decode(log: LogId, value: &[u8]) -> Result<Self, Damage> {
        Self::decode_as(TAG, log, value)
    }

    /// The value of the row in a table with this tag.
    #[must_use]
    pub fn encode_as(&self, tag: &[u8], log: LogId) -> Vec<u8> {
        let mut payload = Vec::with_capacity(160 + self.projection.as_bytes().len());
        payload.extend((self.name.as_str().len() as u16).to_le_bytes());
        payload.extend_from_slice(self.name.as_str().as_bytes());
        payload.extend((self.lineage.entries().len() as u16).to_le_bytes());
        for entry in self.lineage.entries() {
            payload.extend(entry.epoch.to_le_bytes());
            payload.extend(entry.from_offset.to_le_bytes());
        }
        payload.extend(self.start.to_le_bytes());
        payload.extend(self.end.to_le_bytes());
        payload.extend(self.version.to_le_bytes());
        payload.push(u8::from(self.batch.is_some()));
        payload.extend(self.batch.map_or(0, |batch| batch.0).to_le_bytes());
        payload.push(u8::from(self.snapshot_through.is_some()));
        payload.extend(self.snapshot_through.unwrap_or(0).to_le_bytes());
        payload.extend(self.born.to_le_bytes());
        payload.extend(self.bytes.to_le_bytes());
        self.ancestry.encode(&mut payload);
        payload.extend(self.last_time_ms.to_le_bytes());
        payload.extend(self.commit.to_le_bytes());
        payload.extend((self.projection.as_bytes().len() as u32).to_le_bytes());
        payload.extend_from_slice(self.projection.as_bytes());
        seal(tag, &[&log.0.to_le_bytes()], &payload)
    }

    /// The row of a value of a table with this tag.
    ///
    /// # Errors
    /// [`Damage`].
    pub fn decode_as(tag: &[u8], log: LogId, value: &[u8]) -> Result<Self, Damage> {
        let payload = unseal(tag, &[&log.0.to_le_bytes()], value)?;
        parse(payload).ok_or(Damage("the row has another shape"))
    }
}

fn parse(mut payload: &[u8]) -> Option<LogRow> {
    let length = payload.try_get_u16_le().ok()? as usize;
    let (name, rest) = payload.split_at_checked(length)?;
    let name = SessionId::stored(std::str::from_utf8(name).ok()?).ok()?;
    let mut payload = rest;
    let count = payload.try_get_u16_le().ok()?;
    let entries = (0..count)
        .map(|_| {
            let epoch = payload.try_get_u64_le().ok()?;
            Some(LineageEntry { epoch, from_offset: payload.try_get_u64_le().ok()? })
        })
        .collect::<Option<Vec<_>>>()?;
    let lineage = Lineage::from_entries(entries)?;
    let start = payload.try_get_u64_le().ok()?;
    let end = payload.try_get_u64_le().ok()?;
    let version = payload.try_get_u64_le().ok()?;
    let has_batch = payload.try_get_u8().ok()? == 1;
    let batch = BatchId(payload.try_get_u128_le().ok()?);
    let has_snapshot = payload.try_get_u8().ok()? == 1;
    let through = payload.try_get_u64_le().ok()?;
    let born = payload.try_get_u64_le().ok()?;
    let bytes = payload.try_get_u64_le().ok()?;
    let ancestry = Ancestry::decode(&mut payload)?;
    let last_time_ms = payload.try_get_u64_le().ok()?;
    let commit = payload.try_get_u64_le().ok()?;
    let length = payload.try_get_u32_le().ok()? as usize;
    let projection = (payload.len() == length).then(|| Projected::parse(payload))??;
    Some(LogRow {
        name,
        lineage,
        start,
        end,
        version,
        batch: has_batch.then_some(batch),
        snapshot_through: has_snapshot.then_some(through),
        born,
        bytes,
        ancestry,
        last_time_ms,
        commit,
        projection,
    })
}
