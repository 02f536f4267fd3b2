//! `filler`: nothing but zeros, for as long as free pages of the database are being overwritten with it.
//!
//! ```text
//! key    u64, rising
//! value  zeros, so many that each takes a page of its own
//! ```

use redb::{ReadableTable, TableDefinition, WriteTransaction};

use crate::store::local::database_failure::DatabaseFailure;

/// The table.
pub const FILLER: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("filler");
/// Two of these do not fit in a page of 4,096 bytes, and one does.
const FILLER_BYTES: usize = 4000;
/// Pages filled or given back in one step: 4 MiB, some ten milliseconds of work.
pub const STEP_PAGES: usize = 1024;

/// Adds pages, until `full` says so or there are `pages`.
///
/// # Errors
/// Those of redb.
pub fn fill(
    transaction: &WriteTransaction,
    pages: usize,
    full: impl Fn() -> bool,
) -> Result<(), DatabaseFailure> {
    let mut table = transaction.open_table(FILLER)?;
    // Rising, so that redb begins a page for each and rebuilds none.
    let first = table.last()?.map_or(0, |(key, _)| key.value() + 1);
    for key in (first..).take(pages) {
        table.insert(key, [0; FILLER_BYTES].as_slice())?;
        if full() {
            break;
        }
    }
    Ok(())
}

/// Gives a step's worth of pages back.
///
/// # Errors
/// Those of redb.
pub fn empty(transaction: &WriteTransaction) -> Result<(), DatabaseFailure> {
    let mut table = transaction.open_table(FILLER)?;
    let Some(first) = table.first()?.map(|(key, _)| key.value()) else { return Ok(()) };
    for entry in table.extract_from_if(..first + STEP_PAGES as u64, |_, _| true)? {
        entry?;
    }
    Ok(())
}
