//! `doomed`: logs that lost records: deleted ones, and of trimmed ones and those whose records were shown by such what the
//! settling that trimmed them had no time for. What nobody shows any more is removed in bounded steps, because a long log
//! removed in one transaction would hold up settling for as long.
//!
//! ```text
//! key    log id u64
//! value  the first offset u64 that was not looked at
//! ```

use std::ops::{Bound, Range};

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::store::LogId;
use crate::store::ancestry::Ancestry;
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
/// Chunks looked at within one settling at least, so that a trim by itself is carried out as quickly as a step removes.
pub const SETTLING_ENTRIES_MIN: usize = STEP_ENTRIES;

/// Records that a log does not show any more, of those that are in the chunks of `holder`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The log that holds them.
    pub holder: LogId,
    /// Their offsets.
    pub offsets: Range<u64>,
}

impl Lost {
    /// What others hold of the records of `gone`.
    pub fn of_others(ancestry: &Ancestry, gone: Range<u64>) -> impl Iterator<Item = Self> + '_ {
        let shown = ancestry.shown(gone.start);
        let lost =
            shown.map(move |(holder, range)| Self { holder, offsets: range.start..range.end.min(gone.end) });
        lost.filter(|lost| !lost.offsets.is_empty())
    }
}

/// What says who shows what, and what has it.
#[derive(Debug)]
pub struct Tables<'a, 't> {
    /// The rows of the logs that live.
    pub logs: &'a Table<'t, u64, &'static [u8]>,
    /// What they show of each other.
    pub shares: &'a Table<'t, (u64, u64), &'static [u8]>,
    /// The records.
    pub chunks: &'a mut Table<'t, (u64, u64), &'static [u8]>,
    /// What is left to be looked at.
    pub doomed: &'a mut Table<'t, u64, u64>,
}

/// Removes what nobody shows any more of what was lost, after looking at `looks` chunks at most; the rest, and what deleted logs
/// hold, is left to the steps. Everything that the transaction says about who shows what must be in the tables.
///
/// # Errors
/// Those of redb. What is damaged is left to the steps, which are in nobody's way.
pub fn remove(mut tables: Tables<'_, '_>, lost: Vec<Lost>, mut looks: usize) -> Result<(), DatabaseFailure> {
    for Lost { holder, offsets } in lost {
        let row = match tables.row(holder) {
            Err(DatabaseFailure::Damage(_)) => None,
            row => row?,
        };
        let rest = match row {
            Some(row) => match tables.clear(holder, Some(&row), offsets.clone(), &mut looks) {
                Err(DatabaseFailure::Damage(_)) => Some(offsets.start),
                rest => rest?,
            },
            None => Some(offsets.start),
        };
        if let Some(rest) = rest {
            let known = tables.doomed.get(holder.0)?.map(|from| from.value());
            tables.doomed.insert(holder.0, known.map_or(rest, |known| known.min(rest)))?;
        }
    }
    Ok(())
}

impl Tables<'_, '_> {
    fn row(&self, log: LogId) -> Result<Option<LogRow>, DatabaseFailure> {
        match self.logs.get(log.0)? {
            Some(value) => Ok(Some(LogRow::decode(log, value.value())?)),
            None => Ok(None),
        }
    }

    /// Removes what nobody shows of these records of a log, which has no row when it was deleted. Tells where it had looked often
    /// enough, if so.
    fn clear(
        &mut self,
        log: LogId,
        row: Option<&LogRow>,
        offsets: Range<u64>,
        looks: &mut usize,
    ) -> Result<Option<u64>, DatabaseFailure> {
        if *looks == 0 {
            return Ok(Some(offsets.start));
        }
        let shown = shares::of(self.shares, log.0)?;
        let below = row.map_or(u64::MAX, |row| row.start);
        let (fates, rest) = look(self.chunks, log.0, offsets, below, &shown, row.is_none(), looks)?;
        for (base, fate) in fates {
            shred::take(self.chunks, &(log.0, base))?;
            if let Fate::Cut(pieces) = fate {
                for (base, value) in pieces {
                    shred::put(self.chunks, &(log.0, base), &value)?;
                }
            }
        }
        Ok(rest)
    }
}

/// Removes a step's worth of what is doomed, of as many logs as that takes. False when there is nothing left.
///
/// # Errors
/// Those of redb, or that a row is damaged and nothing else is left.
pub fn step(transaction: &WriteTransaction) -> Result<bool, DatabaseFailure> {
    let mut doomed = transaction.open_table(DOOMED)?;
    let logs = transaction.open_table(LOGS)?;
    let shares = transaction.open_table(SHARES)?;
    let mut chunks = transaction.open_table(CHUNKS)?;
    let mut looks = STEP_ENTRIES;
    let (mut next, mut removed, mut damage) = (0, false, None);
    while looks > 0 {
        let first = doomed.range(next..)?.next().transpose()?;
        let Some((log, from)) = first.map(|(key, from)| (key.value(), from.value())) else { break };
        let mut tables = Tables { logs: &logs, shares: &shares, chunks: &mut chunks, doomed: &mut doomed };
        match bury(transaction, &mut tables, LogId(log), from, &mut looks) {
            Ok(()) => removed = true,
            // The others are not to stay because of it.
            Err(DatabaseFailure::Damage(found)) => damage = Some(found),
            Err(failure) => return Err(failure),
        }
        // So that one of which nothing is left costs something.
        looks = looks.saturating_sub(1);
        next = log + 1;
    }
    match damage {
        Some(damage) if !removed => Err(damage.into()),
        _ => Ok(removed),
    }
}

/// Removes what nobody shows of one log.
fn bury(
    transaction: &WriteTransaction,
    tables: &mut Tables<'_, '_>,
    log: LogId,
    from: u64,
    looks: &mut usize,
) -> Result<(), DatabaseFailure> {
    let row = tables.row(log)?;
    let rest = tables.clear(log, row.as_ref(), from..u64::MAX, looks)?;
    let rows_left = row.is_none() && !remove_rows(transaction, log.0, looks)?;
    match (rest, rows_left) {
        (None, false) => {
            tables.doomed.remove(log.0)?;
            if row.is_none() {
                Indexes::open(transaction)?.forget(log)?;
            }
        }
        (rest, _) => drop(tables.doomed.insert(log.0, rest.unwrap_or(u64::MAX))?),
    }
    Ok(())
}

/// What becomes of a chunk that does not stay as it is.
enum Fate {
    Gone,
    Cut(Vec<(u64, Vec<u8>)>),
}

type Fates = Vec<(u64, Fate)>;

/// Looks at the chunks that have any of these offsets, from the one that has the first, and says where it had looked often enough.
fn look(
    chunks: &impl ReadableTable<(u64, u64), &'static [u8]>,
    log: u64,
    offsets: Range<u64>,
    below: u64,
    shown: &[Range<u64>],
    deleted: bool,
    looks: &mut usize,
) -> Result<(Fates, Option<u64>), DatabaseFailure> {
    let mut fates = Vec::new();
    let first = chunks.range((log, 0)..=(log, offsets.start))?.next_back().transpose()?;
    let first = first.map_or(offsets.start, |(key, _)| key.value().1);
    for entry in chunks.range((log, first)..=(log, u64::MAX))? {
        let (key, value) = entry?;
        let base = key.value().1;
        if base >= offsets.end.min(below) {
            break;
        }
        if *looks == 0 {
            return Ok((fates, Some(base)));
        }
        *looks -= 1;
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

/// Removes snapshot rows, as many as it may look at. True when there is none left.
fn remove_rows(transaction: &WriteTransaction, log: u64, looks: &mut usize) -> Result<bool, DatabaseFailure> {
    let most = *looks;
    let mut rows = transaction.open_table(ROWS)?;
    let end = log.checked_add(1).map_or(Bound::Unbounded, |next| Bound::Excluded((next, &b""[..])));
    let first_rows: Vec<Vec<u8>> = rows
        .range::<(u64, &[u8])>((Bound::Included((log, &b""[..])), end))?
        .take(most)
        .map(|entry| Ok(entry?.0.value().1.to_vec()))
        .collect::<Result<_, redb::StorageError>>()?;
    for key in &first_rows {
        shred::take(&mut rows, &(log, key.as_slice()))?;
    }
    *looks -= first_rows.len();
    Ok(first_rows.len() < most)
}
