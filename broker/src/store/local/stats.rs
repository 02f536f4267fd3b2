//! Numbers of a data folder, while no broker runs. Nothing is settled: what the journal holds beyond the database is counted
//! as such.

use std::path::Path;
use std::sync::Arc;

use redb::{ReadTransaction, ReadableTable as _, ReadableTableMetadata as _};

use crate::store::LogId;
use crate::store::local::ballast::BALLAST_FILE;
use crate::store::local::database::Database;
use crate::store::local::database_failure::DatabaseFailure;
use crate::store::local::disk::RealDisk;
use crate::store::local::error::OpenStoreError;
use crate::store::local::folder::{DATABASE_FILE, DataFolder, FORMAT_FILE};
use crate::store::local::recovery::scan;
use crate::store::local::segment::file_name;
use crate::store::local::shared::Tuning;
use crate::store::local::table::changes::CHANGES;
use crate::store::local::table::chunks::{CHUNKS, Packed};
use crate::store::local::table::deadlines::DEADLINES;
use crate::store::local::table::doomed::DOOMED;
use crate::store::local::table::gone::GONE;
use crate::store::local::table::logs::{LOGS, LogRow};
use crate::store::local::table::meta::META;
use crate::store::local::table::names::{NAMES, Name, OTHERS};
use crate::store::local::table::rows::ROWS;
use crate::store::local::table::shares::SHARES;
use crate::store::local::table::terms::TERMS;
use crate::store::local::table::values::VALUES;

/// Numbers of one table of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableStats {
    /// Its name.
    pub name: String,
    /// Its entries.
    pub entries: u64,
    /// Bytes of keys and values.
    pub stored_bytes: u64,
    /// Bytes of the pages that hold them.
    pub page_bytes: u64,
}

/// Numbers of a data folder. Those of sessions are as the database has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sessions, those of the broker's own included.
    pub sessions: u64,
    /// Names that were deleted, whose next epoch is kept.
    pub deleted_names: u64,
    /// Records that sessions retain.
    pub records: u64,
    /// Bytes of the records that are stored, each once.
    pub record_bytes: u64,
    /// Chunks that hold them.
    pub chunks: u64,
    /// Rows of snapshots.
    pub rows: u64,
    /// Rows of logs, and headers of chunks, that are damaged and not in the numbers above.
    pub damaged: u64,
    /// Deleted logs that are being removed.
    pub removing: u64,
    /// Every table of the database.
    pub tables: Vec<TableStats>,
    /// Bytes of the database's file.
    pub database_bytes: u64,
    /// Bytes of it that are free for what comes next; compacting gives them back to the disk.
    pub free_bytes: u64,
    /// Segments of the journal, spare ones included.
    pub segments: u64,
    /// Bytes of them.
    pub journal_bytes: u64,
    /// Commits that the journal has and the database has not: the next start settles them.
    pub unsettled_commits: u64,
    /// The last commit that is settled.
    pub settled_commit: u64,
    /// Bytes of the ballast.
    pub ballast_bytes: u64,
}

/// Counts. Blocks, and reads most of the database.
///
/// # Errors
/// See [`OpenStoreError`].
pub fn stats(data_dir: &Path) -> Result<Stats, OpenStoreError> {
    let folder = DataFolder::open(data_dir)?;
    if folder.is_new {
        return Err(OpenStoreError::Missing(data_dir.join(FORMAT_FILE)));
    }
    let damaged = |failure: DatabaseFailure| OpenStoreError::DamagedDatabase {
        path: data_dir.join(DATABASE_FILE),
        what: failure.to_string(),
    };
    let bytes = |name: &str| {
        let path = data_dir.join(name);
        match std::fs::metadata(&path) {
            Ok(found) => Ok(found.len()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(source) => Err(OpenStoreError::Io { what: "measuring", path, source }),
        }
    };
    let disk = Arc::new(RealDisk::new(data_dir.to_owned()));
    let tuning = Tuning::default();
    let database = Database::open(disk.clone(), tuning.cache_bytes).map_err(damaged)?;
    let settled_commit = database.meta().map_err(damaged)?.settled_commit;
    let found = scan(disk.as_ref(), folder.salt, tuning.segment_bytes, settled_commit)?;
    let mut journal_bytes = 0;
    for segment in &found.segments {
        journal_bytes += bytes(&file_name(*segment))?;
    }
    let mut stats = database.read(count).map_err(damaged)?;
    let (allocated_bytes, page_bytes) = database.allocated().map_err(damaged)?;
    stats.tables = database.read(|transaction| tables(transaction, page_bytes)).map_err(damaged)?;
    let database_bytes = bytes(DATABASE_FILE)?;
    Ok(Stats {
        database_bytes,
        free_bytes: database_bytes.saturating_sub(allocated_bytes),
        segments: found.segments.len() as u64,
        journal_bytes,
        unsettled_commits: found.groups.len() as u64,
        settled_commit,
        ballast_bytes: bytes(BALLAST_FILE)?,
        ..stats
    })
}

fn count(transaction: &ReadTransaction) -> Result<Stats, DatabaseFailure> {
    let mut stats = Stats::default();
    for entry in transaction.open_table(NAMES)?.iter()? {
        let (key, value) = entry?;
        match Name::decode(key.value(), value.value()) {
            Ok(Name::Log(_)) => stats.sessions += 1,
            Ok(Name::Deleted { .. }) if key.value() == OTHERS => {}
            Ok(Name::Deleted { .. }) => stats.deleted_names += 1,
            Err(_) => stats.damaged += 1,
        }
    }
    for entry in transaction.open_table(LOGS)?.iter()? {
        let (key, value) = entry?;
        match LogRow::decode(LogId(key.value()), value.value()) {
            Ok(row) => stats.records += row.end - row.start,
            Err(_) => stats.damaged += 1,
        }
    }
    for entry in transaction.open_table(CHUNKS)?.iter()? {
        let (key, value) = entry?;
        let (log, base) = key.value();
        match Packed::parse(LogId(log), base, value.value()) {
            Ok(packed) => stats.record_bytes += packed.record_bytes(),
            Err(_) => stats.damaged += 1,
        }
        stats.chunks += 1;
    }
    stats.rows = transaction.open_table(ROWS)?.len()?;
    stats.removing = transaction.open_table(DOOMED)?.len()?;
    Ok(stats)
}

fn tables(transaction: &ReadTransaction, page_bytes: u64) -> Result<Vec<TableStats>, DatabaseFailure> {
    let mut tables = Vec::new();
    macro_rules! add {
        ($($table:expr),*) => {$({
            let table = transaction.open_table($table)?;
            let found = table.stats()?;
            tables.push(TableStats {
                name: redb::TableHandle::name(&$table).to_owned(),
                entries: table.len()?,
                stored_bytes: found.stored_bytes(),
                page_bytes: (found.leaf_pages() + found.branch_pages()) * page_bytes,
            });
        })*};
    }
    add!(META, NAMES, LOGS, CHUNKS, ROWS, TERMS, CHANGES, DEADLINES, GONE, VALUES, SHARES, DOOMED);
    Ok(tables)
}
