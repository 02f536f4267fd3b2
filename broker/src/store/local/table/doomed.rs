//! `doomed`: logs that lost records: deleted ones, trimmed ones, and those whose records were shown by such. What nobody
//! shows any more is removed in small steps, because a long log removed in one transaction would hold up settling for as
//! long.
//!
//! ```text
//! key    log id u64
//! value  the base u64 of the first chunk that was not looked at
//! ```

use std::ops::{Bound, Range};

use redb::{ReadableTable, TableDefinition, WriteTransaction};

use crate::store::LogId;
use crate::store::local::database_failure::DatabaseFailure;
use crate::store::local::index::Indexes;
use crate::store::local::table::chunks::{CHUNKS, Packed};
use crate::store::local::table::logs::{LOGS, LogRow};
use crate::store::local::table::rows::ROWS;
use crate::store::local::table::shares::{self, SHARES};
use crate::store::local::table::shred;

/// The table.
pub const DOOMED: TableDefinition<'_, u64, u64> = TableDefinition::new("doomed");
/// Entries looked at in one step: some ten milliseconds of work.
const STEP_ENTRIES: usize = 256;

/// Removes a step's worth of the first doomed log. False when there is none left.
///
/// # Errors
/// Those of redb, or that a row is damaged.
pub fn step(transaction: &WriteTransaction) -> Result<bool, DatabaseFailure> {
    let mut doomed = transaction.open_table(DOOMED)?;
    let Some((log, from)) = doomed.first()?.map(|(key, from)| (key.value(), from.value())) else {
        return Ok(false);
    };
    let row = match transaction.open_table(LOGS)?.get(log)? {
        Some(value) => Some(LogRow::decode(LogId(log), value.value())?),
        None => None,
    };
    let shown = shares::of(&transaction.open_table(SHARES)?, log)?;
    let mut chunks = transaction.open_table(CHUNKS)?;
    let below = row.as_ref().map_or(u64::MAX, |row| row.start);
    let (fates, next) = look(&chunks, log, from, below, &shown, row.is_none())?;
    for (base, fate) in fates {
        shred::take(&mut chunks, &(log, base))?;
        if let Fate::Cut(pieces) = fate {
            for (base, value) in pieces {
                shred::put(&mut chunks, &(log, base), &value)?;
            }
        }
    }
    let rows_left = row.is_none() && !remove_rows(transaction, log)?;
    match (next, rows_left) {
        (None, false) => {
            doomed.remove(log)?;
            if row.is_none() {
                Indexes::open(transaction)?.forget(LogId(log))?;
            }
        }
        (next, _) => drop(doomed.insert(log, next.unwrap_or(u64::MAX))?),
    }
    Ok(true)
}

/// What becomes of a chunk that does not stay as it is.
enum Fate {
    Gone,
    Cut(Vec<(u64, Vec<u8>)>),
}

type Fates = Vec<(u64, Fate)>;

/// Looks at a step's worth of chunks, and says where the next step goes on.
fn look(
    chunks: &impl ReadableTable<(u64, u64), &'static [u8]>,
    log: u64,
    from: u64,
    below: u64,
    shown: &[Range<u64>],
    deleted: bool,
) -> Result<(Fates, Option<u64>), DatabaseFailure> {
    let mut fates = Vec::new();
    for (count, entry) in chunks.range((log, from)..=(log, u64::MAX))?.enumerate() {
        let (key, value) = entry?;
        let base = key.value().1;
        if base >= below {
            break;
        }
        if count == STEP_ENTRIES {
            return Ok((fates, Some(base)));
        }
        if deleted && shown.is_empty() {
            fates.push((base, Fate::Gone));
            continue;
        }
        // One whose header is damaged is kept: how far it reaches is not known.
        let Ok(packed) = Packed::parse(LogId(log), base, value.value()) else { continue };
        let pieces: Vec<Range<u64>> = shown
            .iter()
            .map(|range| range.start.max(base)..range.end.min(packed.end()))
            .filter(|piece| !piece.is_empty())
            .collect();
        let whole = pieces.first().is_some_and(|piece| *piece == (base..packed.end()));
        if pieces.is_empty() && packed.end() <= below {
            fates.push((base, Fate::Gone));
        } else if deleted && !whole {
            // Of a deleted log nothing stays but what others show, though it were in one chunk with that.
            let cut = |piece: Range<u64>| Some((piece.start, packed.cut(piece)?));
            // None of a damaged one, which is kept too.
            fates
                .extend(pieces.into_iter().map(cut).collect::<Option<_>>().map(|cut| (base, Fate::Cut(cut))));
        }
    }
    Ok((fates, None))
}

/// Removes a step's worth of snapshot rows. True when there is none left.
fn remove_rows(transaction: &WriteTransaction, log: u64) -> Result<bool, DatabaseFailure> {
    let mut rows = transaction.open_table(ROWS)?;
    let end = log.checked_add(1).map_or(Bound::Unbounded, |next| Bound::Excluded((next, &b""[..])));
    let first_rows: Vec<Vec<u8>> = rows
        .range::<(u64, &[u8])>((Bound::Included((log, &b""[..])), end))?
        .take(STEP_ENTRIES)
        .map(|entry| Ok(entry?.0.value().1.to_vec()))
        .collect::<Result<_, redb::StorageError>>()?;
    for key in &first_rows {
        shred::take(&mut rows, &(log, key.as_slice()))?;
    }
    Ok(first_rows.len() < STEP_ENTRIES)
}
