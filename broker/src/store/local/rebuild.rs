//! Making anew what follows from the rows of the logs, while no broker runs: the tables by which logs are found, and names.
//!
//! Every entry is compared with the rows and every row with the entries, some thousand in a transaction, and what is wrong is
//! put right. A crash in the middle leaves less to do for the next time. When damaged keys hide entries from that, the tables
//! are thrown away and made again in one transaction.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata as _, WriteTransaction};

use crate::store::LogId;
use crate::store::list::is_hidden;
use crate::store::local::database::{Database, DatabaseFailure};
use crate::store::local::disk::RealDisk;
use crate::store::local::error::OpenStoreError;
use crate::store::local::folder::{DATABASE_FILE, DataFolder};
use crate::store::local::index::Indexes;
use crate::store::local::opening;
use crate::store::local::shared::Tuning;
use crate::store::local::table::changes::{self, CHANGES};
use crate::store::local::table::deadlines::{self, DEADLINES};
use crate::store::local::table::gone::{self, GONE};
use crate::store::local::table::logs::{LOGS, LogRow};
use crate::store::local::table::names::{NAMES, Name};
use crate::store::local::table::terms::{self, TERMS};

/// Entries that one transaction is about: it stays below some megabytes, and the disk needs no room for more.
const STEP: usize = 4096;
/// Damaged rows that are named; the others are counted.
const DAMAGED_NAMED: usize = 100;
/// The first epoch of a session whose name says nothing any more: above every epoch that it can have had, so that no
/// position of an earlier life fits a later one. Restores give epochs that are Unix milliseconds.
const EPOCH_AFTER_DAMAGE: u64 = 1 << 44;

/// How many entries of a table were wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// They were not there.
    pub missing: u64,
    /// They led nowhere, or were damaged.
    pub superfluous: u64,
}

/// What was found and put right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Rows of logs that were looked at.
    pub logs: u64,
    /// Of the terms of sessions.
    pub terms: Repaired,
    /// Of the change feed.
    pub changes: Repaired,
    /// Of the deadlines.
    pub deadlines: Repaired,
    /// Of the names of sessions.
    pub names: Repaired,
    /// Rows of logs that are damaged: those sessions cannot be opened, and what they are found by is gone.
    pub damaged: u64,
    /// The first of them.
    pub damaged_logs: Vec<LogId>,
    /// Whether keys were damaged, so that the tables were thrown away and made again.
    pub remade: bool,
}

/// Settles what the journal holds, then rebuilds. Blocks.
///
/// # Errors
/// See [`OpenStoreError`]; after an error it can be done again.
pub fn rebuild(data_dir: &Path) -> Result<Rebuilt, OpenStoreError> {
    let folder = DataFolder::open(data_dir)?;
    let salt = folder.salt;
    let disk = Arc::new(RealDisk::new(data_dir.to_owned()));
    let shared = opening::open(disk, Some(folder), salt, Tuning::default())?;
    rebuild_database(&shared.database, STEP).map_err(|failure| OpenStoreError::DamagedDatabase {
        path: data_dir.join(DATABASE_FILE),
        what: failure.to_string(),
    })
}

/// Rebuilds a database, `step` entries in a transaction.
pub(super) fn rebuild_database(database: &Database, step: usize) -> Result<Rebuilt, DatabaseFailure> {
    let mut rebuilt = Rebuilt::default();
    rebuilt.terms.superfluous = sweep(database, step, terms_to_sweep, |transaction, bad| {
        let mut table = transaction.open_table(TERMS)?;
        for (term, name) in bad {
            table.remove((&term[..], name.as_str()))?;
        }
        Ok(())
    })?;
    rebuilt.changes.superfluous = sweep(database, step, changes_to_sweep, |transaction, bad| {
        let mut table = transaction.open_table(CHANGES)?;
        for key in bad {
            table.remove(key)?;
        }
        Ok(())
    })?;
    rebuilt.deadlines.superfluous = sweep(database, step, deadlines_to_sweep, |transaction, bad| {
        let mut table = transaction.open_table(DEADLINES)?;
        for key in bad {
            table.remove(key)?;
        }
        Ok(())
    })?;
    rebuilt.names.superfluous = sweep(database, step, names_to_sweep, |transaction, bad| {
        let mut table = transaction.open_table(NAMES)?;
        for name in bad {
            let name = name.as_str();
            let unknown = Name::Deleted { next_epoch: EPOCH_AFTER_DAMAGE };
            table.insert(name, unknown.encode(name).as_slice())?;
        }
        Ok(())
    })?;
    let expected = fill(database, step, &mut rebuilt)?;
    let found = database.read(|transaction| {
        Ok(Entries {
            terms: transaction.open_table(TERMS)?.len()?,
            changes: transaction.open_table(CHANGES)?.len()?,
            deadlines: transaction.open_table(DEADLINES)?.len()?,
        })
    })?;
    if expected != found {
        rebuilt.remade = true;
        database.write(remake)?;
    }
    Ok(rebuilt)
}

/// How many entries there are to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entries {
    terms: u64,
    changes: u64,
    deadlines: u64,
}

/// A look at some entries of a table after a place: how many, the last, and which of them are wrong.
struct Look<K> {
    looked: usize,
    last: Option<K>,
    bad: Vec<K>,
}

/// Looks at a whole table and mends what is wrong, step by step. Gives how many were.
fn sweep<K>(
    database: &Database,
    step: usize,
    look: impl Fn(&ReadTransaction, Option<&K>, usize) -> Result<Look<K>, DatabaseFailure>,
    mend: impl Fn(&WriteTransaction, &[K]) -> Result<(), DatabaseFailure>,
) -> Result<u64, DatabaseFailure> {
    let (mut after, mut wrong) = (None, 0);
    loop {
        let Look { looked, last, bad } =
            database.read(|transaction| look(transaction, after.as_ref(), step))?;
        if !bad.is_empty() {
            wrong += bad.len() as u64;
            database.write(|transaction| mend(transaction, &bad))?;
        }
        if looked < step {
            return Ok(wrong);
        }
        after = last;
    }
}

fn after<K>(place: Option<K>) -> (Bound<K>, Bound<K>) {
    (place.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

/// The row of a log; none when it is missing or damaged.
fn row_of(
    logs: &impl ReadableTable<u64, &'static [u8]>,
    log: LogId,
) -> Result<Option<LogRow>, DatabaseFailure> {
    Ok(logs.get(log.0)?.and_then(|row| LogRow::decode(log, row.value()).ok()))
}

fn terms_to_sweep(
    transaction: &ReadTransaction,
    place: Option<&(Vec<u8>, String)>,
    step: usize,
) -> Result<Look<(Vec<u8>, String)>, DatabaseFailure> {
    let (table, logs) = (transaction.open_table(TERMS)?, transaction.open_table(LOGS)?);
    let mut look = Look { looked: 0, last: None, bad: Vec::new() };
    let place = place.map(|(term, name)| (&term[..], name.as_str()));
    for entry in table.range::<(&[u8], &str)>(after(place))?.take(step) {
        let (key, value) = entry?;
        let (term, name) = key.value();
        let row = match terms::decode(term, name, value.value()) {
            Ok(log) => row_of(&logs, log)?,
            Err(_) => None,
        };
        let confirmed = row.is_some_and(|row| {
            row.name.as_str() == name
                && !is_hidden(&row.name)
                && row.projection.terms().any(|found| found == term)
        });
        let key = (term.to_vec(), name.to_owned());
        if !confirmed {
            look.bad.push(key.clone());
        }
        look.looked += 1;
        look.last = Some(key);
    }
    Ok(look)
}

fn changes_to_sweep(
    transaction: &ReadTransaction,
    place: Option<&(u64, u64)>,
    step: usize,
) -> Result<Look<(u64, u64)>, DatabaseFailure> {
    let (table, logs) = (transaction.open_table(CHANGES)?, transaction.open_table(LOGS)?);
    let gone = transaction.open_table(GONE)?;
    let mut look = Look { looked: 0, last: None, bad: Vec::new() };
    for entry in table.range::<(u64, u64)>(after(place.copied()))?.take(step) {
        let (key, value) = entry?;
        let (commit, log) = (key.value().0, LogId(key.value().1));
        let row = match row_of(&logs, log)? {
            Some(row) => Some(row),
            None => gone.get(log.0)?.and_then(|row| gone::decode(log, row.value()).ok()),
        };
        let confirmed = row.is_some_and(|row| row.commit == commit && !is_hidden(&row.name));
        if !confirmed || changes::verify(commit, log, value.value()).is_err() {
            look.bad.push(key.value());
        }
        look.looked += 1;
        look.last = Some(key.value());
    }
    Ok(look)
}

fn deadlines_to_sweep(
    transaction: &ReadTransaction,
    place: Option<&(u64, u64)>,
    step: usize,
) -> Result<Look<(u64, u64)>, DatabaseFailure> {
    let (table, logs) = (transaction.open_table(DEADLINES)?, transaction.open_table(LOGS)?);
    let mut look = Look { looked: 0, last: None, bad: Vec::new() };
    for entry in table.range::<(u64, u64)>(after(place.copied()))?.take(step) {
        let (key, value) = entry?;
        let (when_ms, log) = (key.value().0, LogId(key.value().1));
        let confirmed = row_of(&logs, log)?
            .is_some_and(|row| row.projection.deadline_ms() == Some(when_ms) && !is_hidden(&row.name));
        if !confirmed || deadlines::verify(when_ms, log, value.value()).is_err() {
            look.bad.push(key.value());
        }
        look.looked += 1;
        look.last = Some(key.value());
    }
    Ok(look)
}

/// A name whose log has another name or is not there. One whose log is damaged stays: that session is damaged, not gone.
fn names_to_sweep(
    transaction: &ReadTransaction,
    place: Option<&String>,
    step: usize,
) -> Result<Look<String>, DatabaseFailure> {
    let (table, logs) = (transaction.open_table(NAMES)?, transaction.open_table(LOGS)?);
    let mut look = Look { looked: 0, last: None, bad: Vec::new() };
    for entry in table.range::<&str>(after(place.map(String::as_str)))?.take(step) {
        let (key, value) = entry?;
        let name = key.value();
        let sound = match Name::decode(name, value.value()) {
            Ok(Name::Log(log)) => match logs.get(log.0)?.map(|row| LogRow::decode(log, row.value())) {
                Some(Ok(row)) => row.name.as_str() == name,
                Some(Err(_)) => true,
                None => false,
            },
            Ok(Name::Deleted { .. }) => true,
            Err(_) => false,
        };
        if !sound {
            look.bad.push(name.to_owned());
        }
        look.looked += 1;
        look.last = Some(name.to_owned());
    }
    Ok(look)
}

/// Looks at every row and puts what it is found by where it is missing. Gives how many entries there are to be.
fn fill(database: &Database, step: usize, rebuilt: &mut Rebuilt) -> Result<Entries, DatabaseFailure> {
    let mut expected = Entries::default();
    let mut place = None;
    loop {
        let rows = database.read(|transaction| {
            let logs = transaction.open_table(LOGS)?;
            let rows = logs.range::<u64>(after(place))?.take(step).map(|entry| {
                let (key, row) = entry?;
                let log = LogId(key.value());
                Ok((log, LogRow::decode(log, row.value())))
            });
            rows.collect::<Result<Vec<_>, DatabaseFailure>>()
        })?;
        place = rows.last().map(|(log, _)| log.0);
        let looked = rows.len();
        let mut sound = Vec::with_capacity(looked);
        for (log, row) in rows {
            rebuilt.logs += 1;
            match row {
                Ok(row) => sound.push((log, row)),
                Err(_) => {
                    rebuilt.damaged += 1;
                    if rebuilt.damaged_logs.len() < DAMAGED_NAMED {
                        rebuilt.damaged_logs.push(log);
                    }
                }
            }
        }
        for (_, row) in sound.iter().filter(|(_, row)| !is_hidden(&row.name)) {
            expected.terms += row.projection.terms().count() as u64;
            expected.changes += 1;
            expected.deadlines += u64::from(row.projection.deadline_ms().is_some());
        }
        let lacking = database.read(|transaction| lacking(transaction, &sound))?;
        if lacking.any() {
            database.write(|transaction| lacking.put(transaction))?;
            lacking.count(rebuilt);
        }
        if looked < step {
            break;
        }
    }
    // Deleted logs whose removal goes on are in the change feed.
    let (buried, missing) = database.read(|transaction| {
        let (gone, changes) = (transaction.open_table(GONE)?, transaction.open_table(CHANGES)?);
        let (mut buried, mut missing) = (0, Vec::new());
        for entry in gone.iter()? {
            let (key, row) = entry?;
            let log = LogId(key.value());
            let Ok(row) = gone::decode(log, row.value()) else { continue };
            buried += 1;
            if changes.get((row.commit, log.0))?.is_none() {
                missing.push((log, row));
            }
        }
        Ok((buried, missing))
    })?;
    expected.changes += buried;
    if !missing.is_empty() {
        rebuilt.changes.missing += missing.len() as u64;
        database.write(|transaction| {
            let mut indexes = Indexes::open(transaction)?;
            missing.iter().try_for_each(|(log, row)| indexes.bury(*log, row))
        })?;
    }
    Ok(expected)
}

/// Entries that rows say there are to be, and that are not there.
#[derive(Debug, Default)]
struct Lacking {
    terms: Vec<(Vec<u8>, String, LogId)>,
    changes: Vec<(u64, LogId)>,
    deadlines: Vec<(u64, LogId)>,
    names: Vec<(String, LogId)>,
}

fn lacking(transaction: &ReadTransaction, rows: &[(LogId, LogRow)]) -> Result<Lacking, DatabaseFailure> {
    let mut lacking = Lacking::default();
    let (terms, changes) = (transaction.open_table(TERMS)?, transaction.open_table(CHANGES)?);
    let (deadlines, names) = (transaction.open_table(DEADLINES)?, transaction.open_table(NAMES)?);
    for (log, row) in rows {
        let name = row.name.as_str();
        let there = match names.get(name)?.map(|value| Name::decode(name, value.value())) {
            Some(Ok(Name::Log(_))) => true,
            // An epoch that was given to a name of which nothing was known gives way; another one says that the log of the
            // row was deleted.
            Some(Ok(Name::Deleted { next_epoch })) => {
                next_epoch != EPOCH_AFTER_DAMAGE && row.lineage.epoch() < next_epoch
            }
            Some(Err(_)) | None => false,
        };
        if !there {
            lacking.names.push((name.to_owned(), *log));
        }
        if is_hidden(&row.name) {
            continue;
        }
        for term in row.projection.terms() {
            if terms.get((term, name))?.is_none() {
                lacking.terms.push((term.to_vec(), name.to_owned(), *log));
            }
        }
        if changes.get((row.commit, log.0))?.is_none() {
            lacking.changes.push((row.commit, *log));
        }
        if let Some(when_ms) = row.projection.deadline_ms()
            && deadlines.get((when_ms, log.0))?.is_none()
        {
            lacking.deadlines.push((when_ms, *log));
        }
    }
    Ok(lacking)
}

impl Lacking {
    fn any(&self) -> bool {
        !(self.terms.is_empty()
            && self.changes.is_empty()
            && self.deadlines.is_empty()
            && self.names.is_empty())
    }

    fn count(&self, rebuilt: &mut Rebuilt) {
        rebuilt.terms.missing += self.terms.len() as u64;
        rebuilt.changes.missing += self.changes.len() as u64;
        rebuilt.deadlines.missing += self.deadlines.len() as u64;
        rebuilt.names.missing += self.names.len() as u64;
    }

    fn put(&self, transaction: &WriteTransaction) -> Result<(), DatabaseFailure> {
        let mut table = transaction.open_table(TERMS)?;
        for (term, name, log) in &self.terms {
            table.insert((&term[..], name.as_str()), terms::encode(term, name, *log).as_slice())?;
        }
        let mut table = transaction.open_table(CHANGES)?;
        for (commit, log) in &self.changes {
            table.insert((*commit, log.0), changes::encode(*commit, *log).as_slice())?;
        }
        let mut table = transaction.open_table(DEADLINES)?;
        for (when_ms, log) in &self.deadlines {
            table.insert((*when_ms, log.0), deadlines::encode(*when_ms, *log).as_slice())?;
        }
        let mut table = transaction.open_table(NAMES)?;
        for (name, log) in &self.names {
            table.insert(name.as_str(), Name::Log(*log).encode(name).as_slice())?;
        }
        Ok(())
    }
}

/// Throws the tables away and makes them again.
fn remake(transaction: &WriteTransaction) -> Result<(), DatabaseFailure> {
    transaction.delete_table(TERMS)?;
    transaction.delete_table(CHANGES)?;
    transaction.delete_table(DEADLINES)?;
    let logs = transaction.open_table(LOGS)?;
    let deleted: Vec<(LogId, LogRow)> = {
        let gone = transaction.open_table(GONE)?;
        let rows = gone.iter()?.filter_map(|entry| {
            let read =
                entry.map(|(key, row)| (LogId(key.value()), gone::decode(LogId(key.value()), row.value())));
            match read {
                Ok((log, Ok(row))) => Some(Ok((log, row))),
                Ok((_, Err(_))) => None,
                Err(error) => Some(Err(error)),
            }
        });
        rows.collect::<Result<_, redb::StorageError>>()?
    };
    let mut indexes = Indexes::open(transaction)?;
    for entry in logs.iter()? {
        let (key, row) = entry?;
        let log = LogId(key.value());
        if let Ok(row) = LogRow::decode(log, row.value()) {
            indexes.reindex(log, None, Some(&row))?;
        }
    }
    deleted.iter().try_for_each(|(log, row)| indexes.bury(*log, row))
}
