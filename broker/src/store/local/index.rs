//! The tables by which logs are found: `terms`, `changes`, `deadlines`. They follow from the rows of the logs and change in
//! the transaction that changes a row; `rebuild.rs` makes them anew.

use redb::{ReadableTable as _, Table, WriteTransaction};

use crate::store::LogId;
use crate::store::list::is_hidden;
use crate::store::local::database_failure::DatabaseFailure;
use crate::store::local::table::changes::{self, CHANGES};
use crate::store::local::table::deadlines::{self, DEADLINES};
use crate::store::local::table::gone::{self, GONE};
use crate::store::local::table::logs::LogRow;
use crate::store::local::table::terms::{self, TERMS};

/// The tables, open for writing.
#[derive(Debug)]
pub struct Indexes<'t> {
    terms: Table<'t, (&'static [u8], &'static str), &'static [u8]>,
    changes: Table<'t, (u64, u64), &'static [u8]>,
    deadlines: Table<'t, (u64, u64), &'static [u8]>,
    gone: Table<'t, u64, &'static [u8]>,
}

impl<'t> Indexes<'t> {
    /// Opens them.
    ///
    /// # Errors
    /// Those of redb.
    pub fn open(transaction: &'t WriteTransaction) -> Result<Self, DatabaseFailure> {
        Ok(Self {
            terms: transaction.open_table(TERMS)?,
            changes: transaction.open_table(CHANGES)?,
            deadlines: transaction.open_table(DEADLINES)?,
            gone: transaction.open_table(GONE)?,
        })
    }

    /// The row of a log changes from `old` to `new`, where none is no row. Sessions of the broker's own have no entries.
    ///
    /// # Errors
    /// Those of redb.
    pub fn reindex(
        &mut self,
        log: LogId,
        old: Option<&LogRow>,
        new: Option<&LogRow>,
    ) -> Result<(), DatabaseFailure> {
        let old = old.filter(|row| !is_hidden(&row.name));
        let new = new.filter(|row| !is_hidden(&row.name));
        let (before, after) = (old.map(|row| row.commit), new.map(|row| row.commit));
        if before != after {
            if let Some(commit) = before {
                self.changes.remove((commit, log.0))?;
            }
            if let Some(commit) = after {
                self.changes.insert((commit, log.0), changes::encode(commit, log).as_slice())?;
            }
        }
        if let (Some(old), Some(new)) = (old, new)
            && old.name == new.name
            && old.projection == new.projection
        {
            return Ok(());
        }
        self.reindex_terms(log, old, new)?;
        let deadline = |row: Option<&LogRow>| row.and_then(|row| row.projection.deadline_ms());
        let (before, after) = (deadline(old), deadline(new));
        if before != after {
            if let Some(when_ms) = before {
                self.deadlines.remove((when_ms, log.0))?;
            }
            if let Some(when_ms) = after {
                self.deadlines.insert((when_ms, log.0), deadlines::encode(when_ms, log).as_slice())?;
            }
        }
        Ok(())
    }

    fn reindex_terms(
        &mut self,
        log: LogId,
        old: Option<&LogRow>,
        new: Option<&LogRow>,
    ) -> Result<(), DatabaseFailure> {
        let same_name = old.map(|row| &row.name) == new.map(|row| &row.name);
        let kept = |term: &[u8], other: Option<&LogRow>| {
            same_name && other.is_some_and(|row| row.projection.terms().any(|found| found == term))
        };
        if let Some(old) = old {
            for term in old.projection.terms().filter(|term| !kept(term, new)) {
                let key = (term, old.name.as_str());
                // The name may have passed to another log in this very transaction.
                let found = self.terms.get(key)?.map(|value| terms::decode(term, key.1, value.value()));
                if found.is_some_and(|found| found.is_ok_and(|found| found != log)) {
                    continue;
                }
                self.terms.remove(key)?;
            }
        }
        if let Some(new) = new {
            let name = new.name.as_str();
            for term in new.projection.terms().filter(|term| !kept(term, old)) {
                self.terms.insert((term, name), terms::encode(term, name, log).as_slice())?;
            }
        }
        Ok(())
    }

    /// A deleted log has left the other tables, and the change feed tells of it until [`Indexes::forget`].
    ///
    /// # Errors
    /// Those of redb.
    pub fn bury(&mut self, log: LogId, row: &LogRow) -> Result<(), DatabaseFailure> {
        if !is_hidden(&row.name) {
            self.gone.insert(log.0, gone::encode(log, row).as_slice())?;
            self.changes.insert((row.commit, log.0), changes::encode(row.commit, log).as_slice())?;
        }
        Ok(())
    }

    /// Nothing is left of a deleted log.
    ///
    /// # Errors
    /// Those of redb.
    pub fn forget(&mut self, log: LogId) -> Result<(), DatabaseFailure> {
        let row = self.gone.get(log.0)?.map(|value| gone::decode(log, value.value()));
        // The entry of a damaged row stays, which leads nowhere: `rebuild.rs` removes it.
        if let Some(Ok(row)) = row {
            self.changes.remove((row.commit, log.0))?;
        }
        self.gone.remove(log.0)?;
        Ok(())
    }
}
