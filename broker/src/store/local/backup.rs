//! A backup: everything that is durable at one moment, as a data folder of its own, made while the store serves.
//!
//! What is durable is settled; then one read transaction of the database is the moment, and every table is copied out of it.
//! Appends and settlings go on: pages that they replace are kept until the copy is complete, so the database grows by what
//! is rewritten meanwhile. Readers of the store are bounded to one chunk a transaction for that reason; this is the one
//! exception, and there is one at a time.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Key, ReadTransaction, TableDefinition, TableHandle as _, Value};
use tracing::{info, warn};

use crate::clock::Clock;
use crate::store::backed_up::BackedUp;
use crate::store::list::HIDDEN;
use crate::store::local::database::Database;
use crate::store::local::database_failure::{DatabaseFailure, guard};
use crate::store::local::disk::{FILE_MODE, RealDisk};
use crate::store::local::error::OpenStoreError;
use crate::store::local::folder::{DataFolder, Preparing};
use crate::store::local::partial::PartialFolder;
use crate::store::local::queued::Stop;
use crate::store::local::shared::Shared;
use crate::store::local::table::Damage;
use crate::store::local::table::changes::{self, CHANGES};
use crate::store::local::table::chunks::{self, CHUNKS};
use crate::store::local::table::deadlines::{self, DEADLINES};
use crate::store::local::table::doomed::DOOMED;
use crate::store::local::table::erasing::{self, ERASING};
use crate::store::local::table::filler::FILLER;
use crate::store::local::table::gone::{self, GONE};
use crate::store::local::table::logs::{LOGS, LogRow};
use crate::store::local::table::meta::{META, Meta};
use crate::store::local::table::names::{NAMES, Name};
use crate::store::local::table::rows::{self, ROWS};
use crate::store::local::table::shares::{self, SHARES};
use crate::store::local::table::terms::{self, TERMS};
use crate::store::local::table::values::{self, VALUES};
use crate::store::{LogId, StoreError};

/// Bytes of keys and values that one transaction writes, about: few enough to stay in memory, many enough that syncing
/// takes a small part of the time.
const STEP_BYTES: usize = 8 << 20;
/// Bytes of the cache of the database that is written: it is written from its beginning to its end.
const CACHE_BYTES: usize = 16 << 20;
/// The file that says that a folder is a backup, and when it was made, in Unix milliseconds.
pub const MARK_FILE: &str = "BACKUP";
/// A mark is one line; a longer one is not ours.
const MARK_BYTES_MAX: u64 = 64;
/// Damaged values that are named in the log; the others are counted.
const DAMAGED_NAMED: u64 = 20;

/// Makes a backup. One is made at a time; others wait.
///
/// # Errors
/// See [`crate::store::Store::back_up`].
pub async fn back_up(shared: Arc<Shared>, folder: PathBuf) -> Result<BackedUp, StoreError> {
    check_absent(&folder)?;
    settle_what_is_durable(&shared).await?;
    let permit = Arc::clone(&shared.backups).acquire_owned().await;
    let done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        copy(&shared, &folder)
    });
    done.await.unwrap_or_else(|error| Err(StoreError::Read(error.to_string())))
}

fn check_absent(folder: &Path) -> Result<(), StoreError> {
    // A link that leads nowhere is something, too.
    if folder.symlink_metadata().is_ok() { Err(StoreError::AlreadyExists) } else { Ok(()) }
}

/// Waits until the database has what is durable now. What becomes durable meanwhile is not waited for, so this ends
/// whatever the load is.
async fn settle_what_is_durable(shared: &Shared) -> Result<(), StoreError> {
    let mut settlings = shared.settled.subscribe();
    let wanted = shared.state().durable_commit();
    loop {
        settlings.mark_unchanged();
        if shared.state().settled.settled_commit >= wanted {
            return Ok(());
        }
        shared.settle_soon();
        tokio::select! {
            _ = settlings.changed() => {}
            trouble = shared.health.troubled() => return Err(trouble),
        }
    }
}

fn failed(what: &str, error: impl std::fmt::Display) -> StoreError {
    StoreError::Read(format!("{what}: {error}"))
}

fn copy(shared: &Shared, folder: &Path) -> Result<BackedUp, StoreError> {
    check_absent(folder)?;
    let not_written = |error: OpenStoreError| failed("the backup cannot be written", error);
    let partial = PartialFolder::begin(folder).map_err(not_written)?;
    let mut made = DataFolder::open(partial.path()).map_err(not_written)?;
    let prepared = made.prepare().and_then(Preparing::wait).map_err(not_written)?;
    info!(folder = %folder.display(), "a backup begins");
    let counted = {
        let disk = Arc::new(RealDisk::new(partial.path().to_owned()));
        let target = Database::open(disk, CACHE_BYTES)
            .map_err(|failure| failed("the backup cannot be written", failure))?;
        let (source, generation) =
            shared.database.snapshot().map_err(|failure| failed("the database cannot be read", failure))?;
        let mut copying = Copying { shared, source: &source, target: &target, counted: Counted::default() };
        copying.tables()?;
        // Of a handle that was replaced, pages may have been written over while they were read.
        if shared.database.generation() != generation {
            let what = "the database had to be opened again during the backup; make it again";
            return Err(StoreError::Read(what.into()));
        }
        copying.counted
    };
    made.mark_ready(prepared).map_err(not_written)?;
    mark(partial.path(), Clock::start().now_ms())
        .map_err(|error| failed("the backup cannot be written", error))?;
    let bytes = bytes_of(partial.path()).map_err(|error| failed("the backup cannot be measured", error))?;
    check_absent(folder)?;
    partial.finish().map_err(|error| failed("the backup cannot be given its name", error))?;
    let Counted { sessions, records, damaged, .. } = counted;
    if damaged > 0 {
        warn!(damaged, "the backup has damaged values, as the store has; `longwire store check` names them");
    }
    info!(folder = %folder.display(), sessions, records, bytes, "a backup is complete");
    Ok(BackedUp { folder: folder.to_owned(), sessions, records, bytes })
}

/// Says durably that a folder is a backup; the folder itself is synced by whoever gives it its name.
pub(crate) fn mark(folder: &Path, made_ms: u64) -> std::io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(folder.join(MARK_FILE))?;
    writeln!(file, "made_ms {made_ms}")?;
    file.sync_all()
}

/// When a folder was made that is a backup.
#[must_use]
pub fn made_ms(folder: &Path) -> Option<u64> {
    let mut text = String::new();
    File::open(folder.join(MARK_FILE)).ok()?.take(MARK_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim_end().strip_prefix("made_ms ")?.parse().ok()
}

fn bytes_of(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        bytes += entry?.metadata()?.len();
    }
    Ok(bytes)
}

/// What was found on the way.
#[derive(Debug, Default)]
struct Counted {
    sessions: u64,
    records: u64,
    damaged: u64,
    /// The tables that were copied.
    tables: Vec<String>,
}

struct Copying<'c> {
    shared: &'c Shared,
    source: &'c ReadTransaction,
    target: &'c Database,
    counted: Counted,
}

impl Copying<'_> {
    fn tables(&mut self) -> Result<(), StoreError> {
        let (mut sessions, mut records) = (0, 0);
        self.table(NAMES, |name, value| {
            let found = Name::decode(name, value)?;
            sessions += u64::from(matches!(found, Name::Log(_)) && !name.starts_with(HIDDEN));
            Ok(())
        })?;
        self.table(LOGS, |log, value| {
            let row = LogRow::decode(LogId(log), value)?;
            if !row.name.as_str().starts_with(HIDDEN) {
                records += row.end - row.start;
            }
            Ok(())
        })?;
        (self.counted.sessions, self.counted.records) = (sessions, records);
        self.table(CHUNKS, |(log, base), value| chunks::verify(LogId(log), base, value))?;
        self.table(ROWS, |(log, key), value| rows::decode(LogId(log), key, value).map(drop))?;
        self.table(VALUES, |key, value| values::decode(key, value).map(drop))?;
        self.table(SHARES, |(holder, by), value| shares::verify(holder, by, value))?;
        self.table(ERASING, |(log, from), value| erasing::decode(log, from, value).map(drop))?;
        self.table(DOOMED, |_, _| Ok(()))?;
        self.table(GONE, |log, value| gone::decode(LogId(log), value).map(drop))?;
        self.table(TERMS, |(term, name), value| terms::decode(term, name, value).map(drop))?;
        self.table(CHANGES, |(commit, log), value| changes::verify(commit, LogId(log), value))?;
        self.table(DEADLINES, |(when_ms, log), value| deadlines::verify(when_ms, LogId(log), value))?;
        self.table(META, |_, value| Meta::decode(value).map(drop))?;
        // Zeros of a wipe in progress.
        self.counted.tables.push(FILLER.name().to_owned());
        self.check_complete()
    }

    /// Whether to go on: the broker runs, and no wipe waits for this.
    fn check_wanted(&self) -> Result<(), StoreError> {
        let state = self.shared.state();
        if state.stop != Stop::No {
            return Err(StoreError::Unavailable("the broker is stopping".into()));
        }
        // A wipe begins after half of the time that there is; the last quarter is its own.
        let last = self.shared.tuning.erase_within / 4 * 3;
        if state.wipe_waits && state.erased_since.is_some_and(|since| since.elapsed() >= last) {
            let what = "the backup keeps what was erased meanwhile, which must leave the files by its deadline; make it \
                        again";
            return Err(StoreError::Unavailable(what.into()));
        }
        Ok(())
    }

    /// A table that this file does not know must not be left out in silence.
    fn check_complete(&self) -> Result<(), StoreError> {
        let there = guard(|| Ok(self.source.list_tables()?.map(|table| table.name().to_owned()).collect()));
        let there: Vec<String> = there.map_err(|failure| failed("the database cannot be read", failure))?;
        let known = |name: &String| self.counted.tables.contains(name);
        match there.into_iter().find(|name| !known(name)) {
            Some(_) => Err(StoreError::Unsupported("a backup of a database with tables of another version")),
            None => Ok(()),
        }
    }

    /// Copies a table as it is; `look` says of each entry whether it is sound.
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        definition: TableDefinition<'static, K, V>,
        mut look: impl for<'a> FnMut(K::SelfType<'a>, V::SelfType<'a>) -> Result<(), Damage>,
    ) -> Result<(), StoreError> {
        let name = definition.name().to_owned();
        let read = guard(|| Ok(self.source.open_table(definition)?.range::<K::SelfType<'_>>(..)?));
        let mut entries = read.map_err(|failure| failed("the database cannot be read", failure))?;
        let mut left = true;
        while left {
            self.check_wanted()?;
            let step = self.target.write(|transaction| {
                let mut table = transaction.open_table(definition)?;
                let mut bytes = 0;
                while bytes < STEP_BYTES {
                    let Some(entry) = entries.next() else { return Ok(false) };
                    let (key, value) = entry?;
                    if let Err(damage) = look(key.value(), value.value()) {
                        self.counted.damaged += 1;
                        if self.counted.damaged <= DAMAGED_NAMED {
                            warn!(table = name, key = ?key.value(), %damage, "a damaged value is backed up as it is");
                        }
                    }
                    bytes += K::as_bytes(&key.value()).as_ref().len();
                    bytes += V::as_bytes(&value.value()).as_ref().len();
                    table.insert(key.value(), value.value())?;
                }
                Ok(true)
            });
            left =
                step.map_err(|failure: DatabaseFailure| failed("the copy of the database failed", failure))?;
        }
        self.counted.tables.push(name);
        Ok(())
    }
}
