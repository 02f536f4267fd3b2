//! `doomed`: deleted logs whose chunks and rows are still there. They are removed in small steps, because a long log
//! removed in one transaction would hold up settling for as long.
//!
//! ```text
//! key    log id u64
//! value  empty
//! ```

use redb::{ReadableTable, TableDefinition, WriteTransaction};

use crate::store::LogId;
use crate::store::local::database::DatabaseFailure;
use crate::store::local::index::Indexes;
use crate::store::local::table::chunks::CHUNKS;
use crate::store::local::table::rows::ROWS;

/// The table.
pub const DOOMED: TableDefinition<'_, u64, ()> = TableDefinition::new("doomed");
/// Entries removed in one step: some ten milliseconds of work.
const STEP_ENTRIES: usize = 256;

/// Removes a step's worth of the first doomed log. False when there is none left.
///
/// # Errors
/// Those of redb.
pub fn step(transaction: &WriteTransaction) -> Result<bool, DatabaseFailure> {
    let mut doomed = transaction.open_table(DOOMED)?;
    let Some(log) = doomed.first()?.map(|(key, _)| key.value()) else { return Ok(false) };
    let mut chunks = transaction.open_table(CHUNKS)?;
    let mut rows = transaction.open_table(ROWS)?;
    let first_chunks: Vec<u64> = chunks
        .range((log, 0)..=(log, u64::MAX))?
        .take(STEP_ENTRIES)
        .map(|entry| Ok(entry?.0.value().1))
        .collect::<Result<_, redb::StorageError>>()?;
    for base in &first_chunks {
        chunks.remove((log, *base))?;
    }
    let end = log
        .checked_add(1)
        .map_or(std::ops::Bound::Unbounded, |next| std::ops::Bound::Excluded((next, &b""[..])));
    let first_rows: Vec<Vec<u8>> = rows
        .range::<(u64, &[u8])>((std::ops::Bound::Included((log, &b""[..])), end))?
        .take(STEP_ENTRIES)
        .map(|entry| Ok(entry?.0.value().1.to_vec()))
        .collect::<Result<_, redb::StorageError>>()?;
    for key in &first_rows {
        rows.remove((log, key.as_slice()))?;
    }
    if first_chunks.len() < STEP_ENTRIES && first_rows.len() < STEP_ENTRIES {
        doomed.remove(log)?;
        Indexes::open(transaction)?.forget(LogId(log))?;
    }
    Ok(true)
}
