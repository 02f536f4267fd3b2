//! What one settling moves into the database, and how.

use std::collections::BTreeMap;
use std::sync::Arc;

use longwire_proto::session_id::SessionId;
use redb::{ReadableTable as _, Table, WriteTransaction};

use crate::store::LogId;
use crate::store::Reservation;
use crate::store::ancestry::Ancestry;
use crate::store::local::database::Database;
use crate::store::local::database_failure::DatabaseFailure;
use crate::store::local::format::FORMAT_VERSION;
use crate::store::local::group::Erase;
use crate::store::local::index::Indexes;
use crate::store::local::log::{Rows, Settled, SnapshotReply};
use crate::store::local::record::Records;
use crate::store::local::table::chunks::{CHUNKS, Packer};
use crate::store::local::table::doomed::{self, DOOMED, Lost, Tables};
use crate::store::local::table::erasing::{self, ERASING};
use crate::store::local::table::logs::{LOGS, LogRow};
use crate::store::local::table::meta::{self, META, Meta};
use crate::store::local::table::names::{NAMES, Name};
use crate::store::local::table::rows::{self, ROWS};
use crate::store::local::table::shares::{self, SHARES};
use crate::store::local::table::shred;
use crate::store::local::table::values::{self, VALUES};
use crate::store::local::values::Writes;

/// Entries looked at by the removal of a settling for each chunk that it puts: more than one, so that what is trimmed goes as fast as
/// it can come.
const ENTRIES_PER_CHUNK: usize = 2;

/// When what a plan trims is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// With it, a bounded part.
    Now,
    /// Step by step after it: nothing that is to go need be readable for the plan to be settled.
    Later,
}

/// What changes about one log.
#[derive(Debug)]
pub enum LogChange {
    /// It has more records, other rows, or is new.
    Live {
        /// Its row after this.
        row: Box<LogRow>,
        /// What the database has of it.
        settled: Option<Settled>,
        /// Whose records it shows there.
        ancestry: Ancestry,
        /// The first offset that the database lacks.
        base: u64,
        /// Records from there, batch by batch.
        batches: Vec<Records>,
        /// Rows of its snapshot.
        rows: Option<Arc<Rows>>,
    },
    /// It is gone.
    Deleted {
        /// The session.
        name: SessionId,
        /// The first epoch of a session created next.
        next_epoch: u64,
        /// Its last row.
        row: Box<LogRow>,
        /// What the database has of it.
        settled: Option<Settled>,
        /// Whose records it shows there.
        ancestry: Ancestry,
        /// The first offset that the database lacks.
        base: u64,
        /// Records from there that others show.
        batches: Vec<Records>,
    },
}

/// Everything that is durable and not settled at one moment.
#[derive(Debug)]
pub struct Plan {
    /// How far the database is afterwards.
    pub meta: Meta,
    /// The logs that change, in the order of their ids: a name that was created again has a higher one.
    pub logs: Vec<(LogId, LogChange)>,
    /// Values of the table.
    pub values: Arc<Writes>,
    /// Who waits for a snapshot.
    pub replies: Vec<SnapshotReply>,
    /// What snapshots and values hold of the quota.
    pub reservations: Vec<Reservation>,
    /// Bytes of the quota that it frees.
    pub bytes: usize,
    /// Names that lost their log to another name, and the last commit that did it.
    pub vacated: BTreeMap<SessionId, u64>,
    /// Records that were erased.
    pub erase: Vec<Erase>,
}

impl Plan {
    /// Moves everything into the database in one transaction. Doing it twice is harmless.
    ///
    /// # Errors
    /// Those of the database; then the outcome is unknown, see [`Plan::is_applied`].
    pub fn apply(&self, database: &Database, removal: Removal) -> Result<(), DatabaseFailure> {
        database.write(|transaction| self.write(transaction, removal))
    }

    /// Whether a settling whose outcome was unknown is in the database.
    pub fn is_applied(&self, database: &Database) -> bool {
        database.meta().is_ok_and(|meta| meta.settle == self.meta.settle)
    }

    fn write(&self, transaction: &WriteTransaction, removal: Removal) -> Result<(), DatabaseFailure> {
        let mut names = transaction.open_table(NAMES)?;
        let mut logs = transaction.open_table(LOGS)?;
        let mut chunks = transaction.open_table(CHUNKS)?;
        let mut snapshot_rows = transaction.open_table(ROWS)?;
        let mut doomed = transaction.open_table(DOOMED)?;
        let mut indexes = Indexes::open(transaction)?;
        let mut shares = transaction.open_table(SHARES)?;
        let mut lost: Vec<Lost> = Vec::new();
        let mut put = 0;
        // Names in this order: one that was given up or deleted may have another log by now.
        for name in self.vacated.keys() {
            shred::take(&mut names, &name.as_str())?;
        }
        for (log, change) in &self.logs {
            let LogChange::Deleted { name, next_epoch, row, settled, ancestry, base, batches } = change
            else {
                continue;
            };
            // One that was given up after that is as if it had never had a log.
            if self.vacated.get(name).is_none_or(|vacated| *vacated < row.commit) {
                put_deleted(&mut names, name.as_str(), *next_epoch)?;
            }
            put += put_records(&mut chunks, *log, settled.is_none(), *base, batches)?;
            shares::remove(&mut shares, *log, ancestry)?;
            if let Some(settled) = settled {
                lost.extend(Lost::of_others(ancestry, settled.start..u64::MAX));
                let old = logs.get(log.0)?.and_then(|old| LogRow::decode(*log, old.value()).ok());
                indexes.reindex(*log, old.as_ref(), None)?;
                shred::take(&mut logs, &log.0)?;
            }
            indexes.bury(*log, row)?;
            // One that the database never had, too: its removal ends what the change feed tells of it.
            doomed.insert(log.0, 0)?;
        }
        for (log, change) in &self.logs {
            let LogChange::Live { row, settled, ancestry, base, batches, rows } = change else { continue };
            // What a damaged row was found by leads to this one, which does not confirm it. A new log has nothing there.
            let old = if settled.is_some() { logs.get(log.0)? } else { None };
            let old = old.and_then(|old| LogRow::decode(*log, old.value()).ok());
            indexes.reindex(*log, old.as_ref(), Some(row))?;
            shred::put(&mut logs, &log.0, &row.encode(*log))?;
            // One that gave up its name and got it back has lost the entry above.
            let vacated = self.vacated.contains_key(&row.name);
            if vacated || settled.as_ref().is_none_or(|settled| settled.name != row.name) {
                let name = row.name.as_str();
                names.insert(name, Name::Log(*log).encode(name).as_slice())?;
            }
            if settled.as_ref().is_none_or(|settled| settled.start != row.start) {
                shares::put(&mut shares, *log, ancestry, row.start)?;
                if let Some(settled) = settled {
                    let gone = settled.start..row.start;
                    lost.extend(Lost::of_others(ancestry, gone.clone()));
                    lost.push(Lost { holder: *log, offsets: gone });
                }
            }
            put += put_records(&mut chunks, *log, settled.is_none(), *base, batches)?;
            for (key, row) in rows.iter().flat_map(|rows| rows.iter()) {
                match row {
                    Some(row) => {
                        shred::put(&mut snapshot_rows, &(log.0, &key[..]), &rows::encode(*log, key, row))?;
                    }
                    None => shred::take(&mut snapshot_rows, &(log.0, &key[..]))?,
                }
            }
        }
        // Only now: a fork that is in this very plan may show what a trim or a deletion of it drops.
        let looks = match removal {
            Removal::Now => doomed::SETTLING_ENTRIES_MIN.max(put * ENTRIES_PER_CHUNK),
            Removal::Later => 0,
        };
        let tables = Tables { logs: &logs, shares: &shares, chunks: &mut chunks, doomed: &mut doomed };
        doomed::remove(tables, lost, looks)?;
        let mut table = transaction.open_table(VALUES)?;
        for (key, value) in self.values.iter() {
            match value {
                Some(value) => drop(table.insert(&key[..], values::encode(key, value).as_slice())?),
                None => drop(table.remove(&key[..])?),
            }
        }
        if !self.erase.is_empty() {
            let mut erasing = transaction.open_table(ERASING)?;
            for Erase { log, offsets } in &self.erase {
                erasing::put(&mut erasing, *log, offsets.clone())?;
            }
        }
        let meta = Meta { format: FORMAT_VERSION, ..self.meta };
        transaction.open_table(META)?.insert(meta::KEY, meta.encode().as_slice())?;
        Ok(())
    }
}

/// Says which epoch comes next under a name that has no log. An earlier log of the name may be deleted with a later one.
fn put_deleted(
    names: &mut Table<'_, &'static str, &'static [u8]>,
    name: &str,
    next_epoch: u64,
) -> Result<(), DatabaseFailure> {
    let known = names.get(name)?.and_then(|row| Name::decode(name, row.value()).ok());
    if let Some(Name::Deleted { next_epoch: known }) = known
        && known >= next_epoch
    {
        return Ok(());
    }
    names.insert(name, Name::Deleted { next_epoch }.encode(name).as_slice())?;
    Ok(())
}

/// Packs records into chunks, of which a new log has none. Tells how many it put.
fn put_records(
    chunks: &mut Table<'_, (u64, u64), &'static [u8]>,
    log: LogId,
    is_new: bool,
    base: u64,
    batches: &[Records],
) -> Result<usize, DatabaseFailure> {
    if batches.is_empty() {
        return Ok(0);
    }
    let mut put = 0;
    let mut packer = if is_new {
        Packer::extend(log, base, None)
    } else {
        let last = chunks.range((log.0, 0)..=(log.0, u64::MAX))?.next_back().transpose()?;
        let last = last.as_ref().map(|(key, value)| (key.value().1, value.value()));
        Packer::extend(log, base, last)
    };
    for record in batches.iter().flat_map(|records| records.iter()) {
        if let Some((key, value)) = packer.push(record) {
            shred::put(chunks, &key, &value)?;
            put += 1;
        }
    }
    if let Some((key, value)) = packer.close() {
        shred::put(chunks, &key, &value)?;
        put += 1;
    }
    Ok(put)
}
