//! How the store opens: recovery, then the threads.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tracing::{debug, info};

use crate::store::local::Threads;
use crate::store::local::alone::Watch;
use crate::store::local::ballast::Ballast;
use crate::store::local::database::Database;
use crate::store::local::database_failure::DatabaseFailure;
use crate::store::local::disk::Disk;
use crate::store::local::error::OpenStoreError;
use crate::store::local::folder::{DATABASE_FILE, DataFolder};
use crate::store::local::format::FORMAT_VERSION;
use crate::store::local::group::items;
use crate::store::local::plan::Removal;
use crate::store::local::reader::log_row;
use crate::store::local::recovery::{Found, scan};
use crate::store::local::segment::{JOURNAL_FOLDER, SegmentPool, file_name};
use crate::store::local::settler::{Settler, finish, read_names};
use crate::store::local::shared::{Shared, Tuning};
use crate::store::local::state::State;
use crate::store::local::table::erasing::{self, ERASING};
use crate::store::local::writer::Writer;

/// Brings the database up to what the journal holds.
///
/// # Errors
/// See [`OpenStoreError`].
pub fn open(
    disk: Arc<dyn Disk>,
    mut folder: Option<DataFolder>,
    salt: u64,
    tuning: Tuning,
) -> Result<Shared, OpenStoreError> {
    let root = folder.as_ref().map(|folder| folder.path.clone()).unwrap_or_default();
    let new = folder
        .as_mut()
        .filter(|folder| folder.is_new)
        .map(|folder| Ok((folder.prepare()?, folder)))
        .transpose()?;
    if new.is_some() {
        let begun = begin_anew(disk.as_ref()).and_then(|()| disk.make_folder_now(JOURNAL_FOLDER));
        begun.map_err(io_error("emptying", &root))?;
    }
    let failed = |failure: DatabaseFailure| database_error(&root, failure);
    let is_new = !disk.exists(DATABASE_FILE).map_err(io_error("opening", &root))?;
    let (database, found, pool) = if is_new {
        create(&disk, salt, tuning, &root)?
    } else {
        let database = Database::open(Arc::clone(&disk), tuning.cache_bytes).map_err(failed)?;
        let settled_commit = settled_commit(&database, &root)?;
        let found = scan(disk.as_ref(), salt, tuning.segment_bytes, settled_commit)?;
        let pool = SegmentPool::new(Arc::clone(&disk), tuning.segment_bytes, found.next_number());
        (database, found, pool)
    };
    let new = new.map(|(preparing, folder)| Ok((preparing.wait()?, folder))).transpose()?;
    if is_new {
        database.take_name_now().map_err(failed)?;
    }
    match new {
        Some((prepared, folder)) => folder.mark_ready(prepared)?,
        None if is_new => disk.sync_names(DATABASE_FILE).map_err(io_error("making durable", &root))?,
        None => {}
    }
    let meta = database.meta().map_err(failed)?;
    let mut state = State::new(meta, tuning.logs_max, tuning.resting_max);
    let erasing = database.read(|transaction| erasing::all(&transaction.open_table(ERASING)?));
    for (log, offsets) in erasing.map_err(failed)? {
        state.erasing.add(log, offsets);
    }
    let commits = found.groups.len();
    let segments = replay(&mut state, &database, found, &root)?;
    let shared = Shared::new(Arc::clone(&disk), folder, salt, tuning, database, pool, state);
    settle(&shared, root.join(DATABASE_FILE))?;
    // The first of them: of a small folder these are all.
    read_names(&shared);
    // Only now: until they are settled the segments are all there is.
    for segment in segments {
        let name = file_name(segment);
        disk.remove(&name).map_err(io_error("removing", Path::new(&name)))?;
    }
    info!(commits, "the store is open");
    Ok(shared)
}

/// Starts the threads.
///
/// # Errors
/// [`OpenStoreError::Thread`].
pub(super) fn start(shared: &Arc<Shared>) -> Result<Threads, OpenStoreError> {
    let (writer, watch) = (Writer::new(Arc::clone(shared)), Watch::here());
    let settler = Settler::new(Arc::clone(shared));
    let settler: JoinHandle<bool> = thread::Builder::new()
        .name("store-settler".into())
        .spawn(move || settler.run())
        .map_err(OpenStoreError::Thread)?;
    let writer = thread::Builder::new()
        .name("store-writer".into())
        .spawn(move || writer.run(watch))
        .map_err(OpenStoreError::Thread)?;
    Ok(Threads { writer, settler })
}

fn io_error<'p>(
    what: &'static str,
    path: &'p Path,
) -> impl FnOnce(std::io::Error) -> OpenStoreError + use<'p> {
    move |source| OpenStoreError::Io { what, path: path.into(), source }
}

/// Removes what an interrupted creation left.
pub(super) fn begin_anew(disk: &dyn Disk) -> std::io::Result<()> {
    disk.remove(DATABASE_FILE)?;
    for name in disk.list(JOURNAL_FOLDER)? {
        disk.remove(&format!("{JOURNAL_FOLDER}/{name}"))?;
    }
    Ok(())
}

fn database_error(root: &Path, failure: DatabaseFailure) -> OpenStoreError {
    let path = root.join(DATABASE_FILE);
    match failure {
        DatabaseFailure::Redb(redb::Error::Io(error)) => io_error("opening", &path)(error),
        failure => OpenStoreError::DamagedDatabase { path, what: failure.to_string() },
    }
}

/// How far the database is, when it has the format that this is.
fn settled_commit(database: &Database, root: &Path) -> Result<u64, OpenStoreError> {
    let meta = database.meta().map_err(|failure| database_error(root, failure))?;
    match meta.format.cmp(&FORMAT_VERSION) {
        Ordering::Less => Err(OpenStoreError::OlderFormat { path: root.into(), found: meta.format }),
        Ordering::Equal => Ok(meta.settled_commit),
        Ordering::Greater => Err(OpenStoreError::NewerFormat { path: root.into(), found: meta.format }),
    }
}

/// Makes a database and a segment for the first group, both at a time, because the disk then flushes its cache once for both.
/// The database has no name yet.
fn create(
    disk: &Arc<dyn Disk>,
    salt: u64,
    tuning: Tuning,
    root: &Path,
) -> Result<(Database, Found, SegmentPool), OpenStoreError> {
    let found = scan(disk.as_ref(), salt, tuning.segment_bytes, 0)?;
    let pool = SegmentPool::new(Arc::clone(disk), tuning.segment_bytes, found.next_number());
    let segment = || {
        if let Err(error) = pool.prepare() {
            debug!(%error, "no journal segment could be made yet; the first group makes one");
        }
    };
    let make = || Database::create(Arc::clone(disk), tuning.cache_bytes);
    let database = if tuning.reads_block {
        segment();
        make()
    } else {
        thread::scope(|scope| {
            // A thread that cannot be had is no reason to fail: the first group makes a segment.
            drop(thread::Builder::new().name("store-segment".into()).spawn_scoped(scope, segment));
            make()
        })
    };
    Ok((database.map_err(|failure| database_error(root, failure))?, found, pool))
}

fn replay(
    state: &mut State,
    database: &Database,
    found: Found,
    root: &Path,
) -> Result<Vec<u64>, OpenStoreError> {
    let damaged = |what: String| OpenStoreError::DamagedDatabase { path: root.join(DATABASE_FILE), what };
    for (commit, payload) in found.groups {
        state.replays(commit);
        let misfit = || damaged(format!("commit {commit} of the journal does not follow what it holds"));
        for item in items(payload).ok_or_else(misfit)? {
            let load =
                |log| log_row(database, log).map_err(|failure| damaged(format!("log {}: {failure}", log.0)));
            state.replay(item, load)?.ok_or_else(misfit)?;
        }
        state.committed(commit);
    }
    Ok(found.segments)
}

/// Settles what was replayed. When the disk is full, the ballast makes room. `database` is the file's name for people.
fn settle(shared: &Shared, database: PathBuf) -> Result<(), OpenStoreError> {
    let Some(plan) = shared.state().plan() else { return Ok(()) };
    let mut result = plan.apply(&shared.database, Removal::Later);
    if result.as_ref().is_err_and(DatabaseFailure::is_full) {
        Ballast::new(Arc::clone(&shared.disk), shared.tuning.ballast_bytes).release();
        result = plan.apply(&shared.database, Removal::Later);
    }
    match result {
        Err(failure) if !plan.is_applied(&shared.database) => Err(if failure.is_damage() {
            let what = format!("what the journal holds cannot be settled into it: {failure}");
            OpenStoreError::DamagedDatabase { path: database, what }
        } else {
            OpenStoreError::Settle(failure.to_string())
        }),
        _ => {
            finish(shared, plan);
            Ok(())
        }
    }
}
