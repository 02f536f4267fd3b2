//! `erasing`: records that are erased and may still be in their chunks as they were. A row is written with the settling of
//! the batch that erased them, and moves on as their chunks are rewritten, a few in a step.
//!
//! ```text
//! key    log id u64 of the holder · from u64
//! value  crc u32 · until u64
//! ```

use std::ops::Range;

use bytes::Bytes;
use longwire_proto::record::erased;
use redb::{ReadableTable, TableDefinition, WriteTransaction};

use crate::store::LogId;
use crate::store::local::database_failure::DatabaseFailure;
use crate::store::local::record::{Record, checksum};
use crate::store::local::table::chunks::{CHUNKS, Packed};
use crate::store::local::table::logs::{LOGS, LogRow};
use crate::store::local::table::{Damage, seal, shred, unseal};

/// The table.
pub const ERASING: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("erasing");
const TAG: &[u8] = b"erasing";
/// Chunks rewritten in one step: a megabyte, some ten milliseconds of work.
const STEP_CHUNKS: usize = 16;

/// The value of a row.
#[must_use]
pub fn encode(log: LogId, from: u64, until: u64) -> Vec<u8> {
    seal(TAG, &[&log.0.to_le_bytes(), &from.to_le_bytes()], &until.to_le_bytes())
}

/// The row of a value.
///
/// # Errors
/// [`Damage`].
pub fn decode(log: u64, from: u64, value: &[u8]) -> Result<Range<u64>, Damage> {
    let payload = unseal(TAG, &[&log.to_le_bytes(), &from.to_le_bytes()], value)?;
    let until = payload.try_into().map_err(|_| Damage("the row has another length"))?;
    Ok(from..u64::from_le_bytes(until))
}

/// Every row.
///
/// # Errors
/// Those of redb, or that a row is damaged.
pub fn all(
    table: &impl ReadableTable<(u64, u64), &'static [u8]>,
) -> Result<Vec<(LogId, Range<u64>)>, DatabaseFailure> {
    let mut rows = Vec::new();
    for entry in table.iter()? {
        let (key, value) = entry?;
        let (log, from) = key.value();
        rows.push((LogId(log), decode(log, from, value.value())?));
    }
    Ok(rows)
}

/// What a step rewrites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The log that holds the records.
    pub log: LogId,
    /// Offsets that have nothing left to rewrite.
    pub offsets: Range<u64>,
    /// By how many bytes which records became shorter.
    pub freed: Vec<(u64, u64)>,
}

impl Rewritten {
    /// Bytes of records from `start` on.
    #[must_use]
    pub fn freed_from(&self, start: u64) -> u64 {
        self.freed.iter().filter(|(offset, _)| *offset >= start).map(|(_, bytes)| bytes).sum()
    }
}

/// The record that takes the place of an erased one; `None` when that stays as it is.
#[must_use]
pub fn tombstone(log: LogId, offset: u64, record: &[u8]) -> Option<Record> {
    erased(record).map(|bytes| Record { crc: checksum(log, offset, &bytes), bytes })
}

/// Rewrites a step's worth of the first row. Tells `told` before anything is committed; false when there is no row.
///
/// # Errors
/// Those of redb, or that a row is damaged.
pub fn step(transaction: &WriteTransaction, told: &mut Option<Rewritten>) -> Result<bool, DatabaseFailure> {
    let mut rows = transaction.open_table(ERASING)?;
    let Some((log, range)) = first(&rows)? else { return Ok(false) };
    let mut chunks = transaction.open_table(CHUNKS)?;
    let begin = chunks.range((log.0, 0)..=(log.0, range.start))?.next_back().transpose()?;
    let begin = begin.map_or(range.start, |(key, _)| key.value().1);
    let mut values: Vec<(u64, Option<Vec<u8>>)> = Vec::new();
    let mut freed = Vec::new();
    // None of what is not there: nobody shows it any more.
    let mut done = range.end;
    for (count, entry) in chunks.range((log.0, begin)..(log.0, range.end))?.enumerate() {
        let (key, value) = entry?;
        let base = key.value().1;
        if count == STEP_CHUNKS {
            done = base.max(range.start);
            break;
        }
        values.push((base, rewrite(log, base, value.value(), &range, &mut freed)));
    }
    for (base, value) in values {
        if let Some(value) = value {
            shred::put(&mut chunks, &(log.0, base), &value)?;
        }
    }
    let rewritten = Rewritten { log, offsets: range.start..done, freed };
    let mut logs = transaction.open_table(LOGS)?;
    let row = logs.get(log.0)?.map(|row| LogRow::decode(log, row.value())).transpose()?;
    if let Some(mut row) = row {
        row.bytes = row.bytes.saturating_sub(rewritten.freed_from(row.start));
        shred::put(&mut logs, &log.0, &row.encode(log))?;
    }
    rows.remove((log.0, range.start))?;
    if done < range.end {
        put(&mut rows, log, done..range.end)?;
    }
    *told = Some(rewritten);
    Ok(true)
}

/// Whether a step whose outcome was unknown is in the database.
///
/// # Errors
/// Those of redb.
pub fn is_done(
    table: &impl ReadableTable<(u64, u64), &'static [u8]>,
    step: &Rewritten,
) -> Result<bool, DatabaseFailure> {
    Ok(table.get((step.log.0, step.offsets.start))?.is_none())
}

/// Adds a row, or makes the one that begins there longer.
///
/// # Errors
/// Those of redb.
pub fn put(
    table: &mut redb::Table<'_, (u64, u64), &'static [u8]>,
    log: LogId,
    range: Range<u64>,
) -> Result<(), DatabaseFailure> {
    let known = table.get((log.0, range.start))?.and_then(|row| decode(log.0, range.start, row.value()).ok());
    let until = known.map_or(range.end, |known| known.end.max(range.end));
    table.insert((log.0, range.start), encode(log, range.start, until).as_slice())?;
    Ok(())
}

fn first(
    table: &impl ReadableTable<(u64, u64), &'static [u8]>,
) -> Result<Option<(LogId, Range<u64>)>, DatabaseFailure> {
    match table.first()? {
        Some((key, value)) => {
            let (log, from) = key.value();
            Ok(Some((LogId(log), decode(log, from, value.value())?)))
        }
        None => Ok(None),
    }
}

/// The chunk with tombstones; `None` when it has nothing to erase. A damaged record gets no checksum that holds: it is
/// erased all the same, and stays damaged.
fn rewrite(
    log: LogId,
    base: u64,
    value: &[u8],
    range: &Range<u64>,
    freed: &mut Vec<(u64, u64)>,
) -> Option<Vec<u8>> {
    let packed = Packed::parse(log, base, value).ok()?;
    let before = freed.len();
    let changed = packed.map(|offset, record, crc| {
        let sound = checksum(log, offset, record) == crc;
        let left = range.contains(&offset).then(|| tombstone(log, offset, record)).flatten()?;
        freed.push((offset, (record.len() as u64).saturating_sub(left.bytes.len() as u64)));
        Some(if sound { left } else { Record { crc: !checksum(log, offset, b""), bytes: Bytes::new() } })
    });
    (freed.len() > before).then_some(changed).flatten()
}
