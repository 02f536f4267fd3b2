//! `shares`: which records of a log others show. Such chunks outlive a trim or the deletion of the log that holds them,
//! until nobody shows them any more. The rows follow from the ancestries of the logs and change in the transaction that
//! changes those.
//!
//! ```text
//! key    log id u64 of the holder · log id u64 of the one that shows them
//! value  crc u32 · from u64 · until u64
//! ```

use std::ops::Range;

use bytes::Buf;
use redb::{ReadableTable, Table, TableDefinition};

use crate::store::LogId;
use crate::store::ancestry::Ancestry;
use crate::store::local::database::DatabaseFailure;
use crate::store::local::table::{Damage, seal, unseal};

/// The table.
pub const SHARES: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("shares");
const TAG: &[u8] = b"shares";

fn encode(holder: LogId, by: LogId, range: &Range<u64>) -> Vec<u8> {
    let payload = [range.start.to_le_bytes(), range.end.to_le_bytes()].concat();
    seal(TAG, &[&holder.0.to_le_bytes(), &by.0.to_le_bytes()], &payload)
}

fn decode(holder: u64, by: u64, value: &[u8]) -> Result<Range<u64>, Damage> {
    let mut payload = unseal(TAG, &[&holder.to_le_bytes(), &by.to_le_bytes()], value)?;
    if payload.len() != 16 {
        return Err(Damage("the row has another length"));
    }
    Ok(payload.get_u64_le()..payload.get_u64_le())
}

/// Whether a row is sound.
///
/// # Errors
/// [`Damage`].
pub fn verify(holder: u64, by: u64, value: &[u8]) -> Result<(), Damage> {
    decode(holder, by, value).map(drop)
}

/// Writes what a log that starts at `start` shows of others, instead of what it showed before.
///
/// # Errors
/// Those of redb.
pub fn put(
    shares: &mut Table<'_, (u64, u64), &[u8]>,
    by: LogId,
    ancestry: &Ancestry,
    start: u64,
) -> Result<(), DatabaseFailure> {
    remove(shares, by, ancestry)?;
    for (holder, range) in ancestry.shown(start) {
        shares.insert((holder.0, by.0), encode(holder, by, &range).as_slice())?;
    }
    Ok(())
}

/// Removes what a log shows of others.
///
/// # Errors
/// Those of redb.
pub fn remove(
    shares: &mut Table<'_, (u64, u64), &[u8]>,
    by: LogId,
    ancestry: &Ancestry,
) -> Result<(), DatabaseFailure> {
    for (holder, _) in ancestry.entries() {
        shares.remove((holder.0, by.0))?;
    }
    Ok(())
}

/// What others show of a log: ranges that neither overlap nor touch, in order.
///
/// # Errors
/// Those of redb, or that a row is damaged.
pub fn of(
    shares: &impl ReadableTable<(u64, u64), &'static [u8]>,
    holder: u64,
) -> Result<Vec<Range<u64>>, DatabaseFailure> {
    let mut ranges = Vec::new();
    for entry in shares.range((holder, 0)..=(holder, u64::MAX))? {
        let (key, value) = entry?;
        ranges.push(decode(holder, key.value().1, value.value())?);
    }
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    Ok(merged)
}
