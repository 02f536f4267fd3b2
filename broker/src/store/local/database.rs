//! The database handle. redb refuses everything after an I/O error until the database is opened again, so the handle can
//! be replaced beneath its users.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Durability, ReadTransaction, ReadableDatabase as _, WriteTransaction};
use tracing::warn;

use crate::store::local::database_failure::{DatabaseFailure, guard};
use crate::store::local::disk::{DatabaseFile, Disk, DiskFile};
use crate::store::local::folder::{DATABASE_DRAFT, DATABASE_FILE};
use crate::store::local::format::FORMAT_VERSION;
use crate::store::local::index::Indexes;
use crate::store::local::table::Damage;
use crate::store::local::table::chunks::CHUNKS;
use crate::store::local::table::doomed::DOOMED;
use crate::store::local::table::erasing::ERASING;
use crate::store::local::table::filler::FILLER;
use crate::store::local::table::logs::LOGS;
use crate::store::local::table::meta::{self, META, Meta};
use crate::store::local::table::names::NAMES;
use crate::store::local::table::rows::ROWS;
use crate::store::local::table::shares::SHARES;
use crate::store::local::table::values::VALUES;

struct Handle {
    // Counts openings, so that of many who saw one failure only the first opens it again.
    generation: u64,
    open: Option<redb::Database>,
}

/// The database of the store.
pub struct Database {
    disk: Arc<dyn Disk>,
    cache_bytes: usize,
    growths: Arc<AtomicU64>,
    handle: RwLock<Handle>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl Database {
    /// Opens the database, or makes it when it is absent.
    ///
    /// # Errors
    /// Those of redb.
    pub fn open(disk: Arc<dyn Disk>, cache_bytes: usize) -> Result<Self, DatabaseFailure> {
        if !disk.exists(DATABASE_FILE).map_err(io_failure)? {
            let database = Self::create(disk, cache_bytes)?;
            database.take_name_now()?;
            database.disk.sync_names(DATABASE_FILE).map_err(io_failure)?;
            return Ok(database);
        }
        let (file, _) = disk.open_now(DATABASE_FILE).map_err(io_failure)?;
        Self::with(file, disk, cache_bytes, &Arc::default())
    }

    /// Makes the database, with its tables, durably. It has no name yet: it is opened again only after [`Database::take_name_now`].
    ///
    /// # Errors
    /// Those of redb.
    pub fn create(disk: Arc<dyn Disk>, cache_bytes: usize) -> Result<Self, DatabaseFailure> {
        // A crash may have left anything under this name.
        disk.remove_now(DATABASE_DRAFT).map_err(io_failure)?;
        let (file, _) = disk.open_now(DATABASE_DRAFT).map_err(io_failure)?;
        // redb syncs five times until the tables are there.
        let in_the_making = Arc::new(AtomicBool::new(true));
        let database = Self::with(file, disk, cache_bytes, &in_the_making)?;
        database.write(|transaction| {
            transaction.open_table(NAMES)?;
            transaction.open_table(LOGS)?;
            transaction.open_table(CHUNKS)?;
            transaction.open_table(ROWS)?;
            transaction.open_table(DOOMED)?;
            transaction.open_table(VALUES)?;
            Indexes::open(transaction)?;
            transaction.open_table(SHARES)?;
            transaction.open_table(ERASING)?;
            transaction.open_table(FILLER)?;
            let meta = Meta { format: FORMAT_VERSION, ..Meta::default() };
            transaction.open_table(META)?.insert(meta::KEY, meta.encode().as_slice())?;
            Ok(())
        })?;
        let (file, _) = database.disk.open_now(DATABASE_DRAFT).map_err(io_failure)?;
        file.sync_data().map_err(io_failure)?;
        in_the_making.store(false, Ordering::SeqCst);
        Ok(database)
    }

    /// Gives its name to a database that was made. The name is durable with those that are in the folder.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn take_name_now(&self) -> Result<(), DatabaseFailure> {
        self.disk.rename_now(DATABASE_DRAFT, DATABASE_FILE).map_err(io_failure)
    }

    fn with(
        file: Box<dyn DiskFile>,
        disk: Arc<dyn Disk>,
        cache_bytes: usize,
        in_the_making: &Arc<AtomicBool>,
    ) -> Result<Self, DatabaseFailure> {
        let growths = Arc::default();
        let open = guard(|| open(file, cache_bytes, &growths, in_the_making))?;
        let handle = RwLock::new(Handle { generation: 0, open: Some(open) });
        Ok(Self { disk, cache_bytes, growths, handle })
    }

    /// How far the database is.
    ///
    /// # Errors
    /// Those of redb, or that the row is damaged.
    pub fn meta(&self) -> Result<Meta, DatabaseFailure> {
        self.read(|transaction| {
            let table = transaction.open_table(META)?;
            let value = table.get(meta::KEY)?.ok_or(Damage("it does not say how far it is"))?;
            Ok(Meta::decode(value.value())?)
        })
    }

    /// Reads within one transaction. An answer that needs more than one chunk uses several.
    ///
    /// # Errors
    /// What `work` answers. After an I/O error the database was opened again and `work` tried once more.
    pub fn read<T>(
        &self,
        work: impl Fn(&ReadTransaction) -> Result<T, DatabaseFailure>,
    ) -> Result<T, DatabaseFailure> {
        let attempt = || {
            let handle = self.handle.read().unwrap_or_else(PoisonError::into_inner);
            let result = match &handle.open {
                Some(open) => guard(|| work(&open.begin_read()?)),
                None => Err(DatabaseFailure::Redb(redb::Error::PreviousIo)),
            };
            (handle.generation, result)
        };
        match attempt() {
            (generation, Err(failure)) if failure.poisons() => {
                self.reopen(generation);
                attempt().1
            }
            (_, result) => result,
        }
    }

    /// A transaction to read from for as long as it takes, without holding up those who write, and the generation of the
    /// handle that it is of. What was read from it counts while that is still [`Database::generation`].
    ///
    /// # Errors
    /// Those of redb.
    pub fn snapshot(&self) -> Result<(ReadTransaction, u64), DatabaseFailure> {
        let handle = self.handle.read().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = &handle.open else { return Err(DatabaseFailure::Redb(redb::Error::PreviousIo)) };
        guard(|| Ok((open.begin_read()?, handle.generation)))
    }

    /// Counts how often the database was opened.
    pub fn generation(&self) -> u64 {
        self.handle.read().unwrap_or_else(PoisonError::into_inner).generation
    }

    /// Writes within one durable transaction. After a failure the outcome is unknown and the database was opened again.
    ///
    /// # Errors
    /// What `work` or the commit answers.
    pub fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, DatabaseFailure>,
    ) -> Result<T, DatabaseFailure> {
        let (generation, result) = {
            let handle = self.handle.read().unwrap_or_else(PoisonError::into_inner);
            let result = match &handle.open {
                Some(open) => guard(|| {
                    let mut transaction = open.begin_write()?;
                    transaction.set_durability(Durability::Immediate)?;
                    transaction.set_quick_repair(true);
                    let value = work(&transaction)?;
                    transaction.commit()?;
                    Ok(value)
                }),
                None => Err(DatabaseFailure::Redb(redb::Error::PreviousIo)),
            };
            (handle.generation, result)
        };
        if result
            .as_ref()
            .is_err_and(|failure| failure.poisons() || matches!(failure, DatabaseFailure::Panic))
        {
            self.reopen(generation);
        }
        result
    }

    /// Bytes of the pages in use, and bytes of a page.
    ///
    /// # Errors
    /// Those of redb.
    pub fn allocated(&self) -> Result<(u64, u64), DatabaseFailure> {
        let handle = self.handle.read().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = &handle.open else { return Err(DatabaseFailure::Redb(redb::Error::PreviousIo)) };
        guard(|| {
            let found = open.begin_write()?.stats()?;
            let page_bytes = found.page_size() as u64;
            Ok((found.allocated_pages() * page_bytes, page_bytes))
        })
    }

    /// How often the file grew.
    #[must_use]
    pub fn growths(&self) -> u64 {
        self.growths.load(Ordering::SeqCst)
    }

    /// Waits until every read that has begun has ended: no page is kept for it any more.
    pub fn wait_for_readers(&self) {
        drop(self.handle.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Moves pages together until nothing moves any more, and shortens the file.
    ///
    /// # Errors
    /// Those of redb.
    pub fn compact(&mut self) -> Result<(), DatabaseFailure> {
        let handle = self.handle.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = &mut handle.open else { return Err(DatabaseFailure::Redb(redb::Error::PreviousIo)) };
        guard(|| {
            while open.compact()? {}
            Ok(())
        })
    }

    fn reopen(&self, failed: u64) {
        let mut handle = self.handle.write().unwrap_or_else(PoisonError::into_inner);
        if handle.generation != failed {
            return;
        }
        // Closed before it is opened again: two handles on one file would overwrite each other.
        let closed = handle.open.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(closed)));
        let opened = self.disk.open(DATABASE_FILE).map_err(io_failure);
        match opened.and_then(|file| guard(|| open(file, self.cache_bytes, &self.growths, &Arc::default()))) {
            Ok(open) => {
                handle.open = Some(open);
                handle.generation += 1;
            }
            Err(failure) => warn!(%failure, "the database could not be opened again"),
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // redb writes its allocator's state when it closes, and may panic when that was damaged.
        let handle = self.handle.get_mut().unwrap_or_else(PoisonError::into_inner);
        let closed = handle.open.take();
        if catch_unwind(AssertUnwindSafe(|| drop(closed))).is_err() {
            warn!("the database could not be closed in order; it is repaired at the next start");
        }
    }
}

fn io_failure(error: std::io::Error) -> DatabaseFailure {
    DatabaseFailure::Redb(redb::Error::Io(error))
}

fn open(
    file: Box<dyn DiskFile>,
    cache_bytes: usize,
    growths: &Arc<AtomicU64>,
    in_the_making: &Arc<AtomicBool>,
) -> Result<redb::Database, DatabaseFailure> {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(cache_bytes);
    let (growths, in_the_making) = (Arc::clone(growths), Arc::clone(in_the_making));
    Ok(builder.create_with_backend(DatabaseFile { file, growths, in_the_making })?)
}
