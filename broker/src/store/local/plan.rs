//! What one settling moves into the database, and how.

use std::sync::Arc;

use longwire_proto::session_id::SessionId;
use redb::{ReadableTable as _, WriteTransaction};

use crate::store::LogId;
use crate::store::Reservation;
use crate::store::local::database::{Database, DatabaseFailure};
use crate::store::local::format::FORMAT_VERSION;
use crate::store::local::index::Indexes;
use crate::store::local::log::{Rows, SnapshotReply};
use crate::store::local::record::Records;
use crate::store::local::table::chunks::{CHUNKS, Packer};
use crate::store::local::table::doomed::DOOMED;
use crate::store::local::table::logs::{LOGS, LogRow};
use crate::store::local::table::meta::{self, META, Meta};
use crate::store::local::table::names::{NAMES, Name};
use crate::store::local::table::rows::{self, ROWS};
use crate::store::local::table::values::{self, VALUES};
use crate::store::local::values::Writes;

/// What changes about one log.
#[derive(Debug)]
pub enum LogChange {
    /// It has more records, other rows, or is new.
    Live {
        /// Its row after this.
        row: LogRow,
        /// Whether the name must be written.
        created: bool,
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
        row: LogRow,
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
}

impl Plan {
    /// Moves everything into the database in one transaction. Doing it twice is harmless.
    ///
    /// # Errors
    /// Those of the database; then the outcome is unknown, see [`Plan::is_applied`].
    pub fn apply(&self, database: &Database) -> Result<(), DatabaseFailure> {
        database.write(|transaction| self.write(transaction))
    }

    /// Whether a settling whose outcome was unknown is in the database.
    pub fn is_applied(&self, database: &Database) -> bool {
        database.meta().is_ok_and(|meta| meta.settle == self.meta.settle)
    }

    fn write(&self, transaction: &WriteTransaction) -> Result<(), DatabaseFailure> {
        let mut names = transaction.open_table(NAMES)?;
        let mut logs = transaction.open_table(LOGS)?;
        let mut chunks = transaction.open_table(CHUNKS)?;
        let mut snapshot_rows = transaction.open_table(ROWS)?;
        let mut doomed = transaction.open_table(DOOMED)?;
        let mut indexes = Indexes::open(transaction)?;
        for (log, change) in &self.logs {
            match change {
                LogChange::Live { row, created, base, batches, rows } => {
                    // What a damaged row was found by leads to this one, which does not confirm it.
                    let old = logs
                        .insert(log.0, row.encode(*log).as_slice())?
                        .and_then(|old| LogRow::decode(*log, old.value()).ok());
                    indexes.reindex(*log, old.as_ref(), Some(row))?;
                    if *created {
                        let name = row.name.as_str();
                        names.insert(name, Name::Log(*log).encode(name).as_slice())?;
                    }
                    if !batches.is_empty() {
                        let mut packer = {
                            let last =
                                chunks.range((log.0, 0)..=(log.0, u64::MAX))?.next_back().transpose()?;
                            let last = last.as_ref().map(|(key, value)| (key.value().1, value.value()));
                            Packer::extend(*log, *base, last)
                        };
                        for record in batches.iter().flat_map(|records| records.iter()) {
                            if let Some((key, value)) = packer.push(record) {
                                chunks.insert(key, value.as_slice())?;
                            }
                        }
                        if let Some((key, value)) = packer.close() {
                            chunks.insert(key, value.as_slice())?;
                        }
                    }
                    for (key, row) in rows.iter().flat_map(|rows| rows.iter()) {
                        match row {
                            Some(row) => {
                                snapshot_rows
                                    .insert((log.0, &key[..]), rows::encode(*log, key, row).as_slice())?;
                            }
                            None => drop(snapshot_rows.remove((log.0, &key[..]))?),
                        }
                    }
                }
                LogChange::Deleted { name, next_epoch, row } => {
                    let name = name.as_str();
                    let deleted = Name::Deleted { next_epoch: *next_epoch };
                    names.insert(name, deleted.encode(name).as_slice())?;
                    let old = logs.remove(log.0)?.and_then(|old| LogRow::decode(*log, old.value()).ok());
                    indexes.reindex(*log, old.as_ref(), None)?;
                    indexes.bury(*log, row)?;
                    // One that the database never had, too: its removal ends what the change feed tells of it.
                    doomed.insert(log.0, ())?;
                }
            }
        }
        let mut table = transaction.open_table(VALUES)?;
        for (key, value) in self.values.iter() {
            match value {
                Some(value) => drop(table.insert(&key[..], values::encode(key, value).as_slice())?),
                None => drop(table.remove(&key[..])?),
            }
        }
        let meta = Meta { format: FORMAT_VERSION, ..self.meta };
        transaction.open_table(META)?.insert(meta::KEY, meta.encode().as_slice())?;
        Ok(())
    }
}
