//! Reads: memory for what is not settled, the database for the rest.
//!
//! Memory is looked at first and the database after that. A record leaves memory only when the commit that has it is
//! visible, so what memory did not have any more is found; and a read goes on in memory only at the very offset at which
//! the database left off.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use longwire_proto::session_id::SessionId;

use crate::store::local::database::Database;
use crate::store::local::database_failure::DatabaseFailure;
use crate::store::local::erasing::mask;
use crate::store::local::log::{Rows, Stage};
use crate::store::local::lookups::Lookup;
use crate::store::local::place::{Extent, Place};
use crate::store::local::shared::Shared;
use crate::store::local::table::Damage;
use crate::store::local::table::chunks::{CHUNKS, Packed, Unpacked};
use crate::store::local::table::logs::{LOGS, LogRow};
use crate::store::local::table::names::{self, NAMES, Name};
use crate::store::local::table::rows::{self, ROWS};
use crate::store::{Chunk, LogId, ReadLimit, StoreError};

/// Runs `work` on a thread that may block, when one of the bounded number is free.
///
/// # Errors
/// What `work` answers.
pub async fn blocking<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    if shared.tuning.reads_block {
        return work(shared);
    }
    let permit = Arc::clone(&shared.readers).acquire_owned().await;
    let shared = Arc::clone(shared);
    let done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work(&shared)
    });
    done.await.unwrap_or_else(|error| Err(StoreError::Read(error.to_string())))
}

/// What a failure of the database means to a caller who asked for a log at an offset.
pub fn failure(log: LogId, offset: u64, failure: DatabaseFailure) -> StoreError {
    match failure {
        DatabaseFailure::Damage(damage) => StoreError::Corrupt { log, offset, what: damage.to_string() },
        DatabaseFailure::Redb(redb::Error::Corrupted(what)) => StoreError::Corrupt { log, offset, what },
        DatabaseFailure::Panic => StoreError::Corrupt { log, offset, what: failure.to_string() },
        DatabaseFailure::Redb(error) => StoreError::Read(error.to_string()),
    }
}

/// The row of a log; `None` when there is no such log.
///
/// # Errors
/// Those of the database.
pub fn log_row(database: &Database, log: LogId) -> Result<Option<LogRow>, DatabaseFailure> {
    database.read(|transaction| match transaction.open_table(LOGS)?.get(log.0)? {
        Some(value) => Ok(Some(LogRow::decode(log, value.value())?)),
        None => Ok(None),
    })
}

/// What the database knows about sessions, each for itself.
pub fn look_up(database: &Database, sessions: &[SessionId]) -> Vec<Result<Lookup, StoreError>> {
    // In one transaction: a name may be given up or deleted meanwhile.
    let found = database.read(|transaction| {
        let (names, logs) = (transaction.open_table(NAMES)?, transaction.open_table(LOGS)?);
        let mut others = None;
        let mut find = |session: &SessionId| {
            let name = match (names::of(&names, session.as_str())?, others) {
                (Some(name), _) | (None, Some(name)) => name,
                (None, None) => *others.insert(names::others(&names)?),
            };
            let log = match name {
                Name::Deleted { next_epoch } => return Ok(Ok(Lookup::Vacant(next_epoch))),
                Name::Log(log) => log,
            };
            let row = match logs.get(log.0)? {
                Some(value) => LogRow::decode(log, value.value()),
                None => Err(Damage("its row is missing")),
            };
            let row = row.and_then(|row| {
                let same = row.name == *session;
                if same { Ok(Box::new(row)) } else { Err(Damage("its row is of another session")) }
            });
            Ok(row.map(|row| Lookup::Found(log, row)).map_err(|damage| failure(log, 0, damage.into())))
        };
        let each = |session: &SessionId| match find(session) {
            // It is one name's, and the others are as they are.
            Err(DatabaseFailure::Damage(damage)) => Ok(Err(failure(LogId(0), 0, damage.into()))),
            found => found,
        };
        sessions.iter().map(each).collect::<Result<Vec<_>, DatabaseFailure>>()
    });
    match found {
        Ok(found) => found,
        Err(error) if sessions.len() > 1 => {
            // What failed may be one name's alone: the others are not to suffer for it.
            drop(error);
            sessions.iter().flat_map(|session| look_up(database, std::slice::from_ref(session))).collect()
        }
        Err(error) => vec![Err(failure(LogId(0), 0, error))],
    }
}

/// Records of a log from `from` on, from memory or the database, from the logs that hold them.
///
/// # Errors
/// See [`crate::store::Store::read`].
pub async fn read(shared: Arc<Shared>, log: LogId, from: u64, limit: ReadLimit) -> Result<Chunk, StoreError> {
    let mut chunk = Chunk { from, records: Vec::new() };
    let mut left = limit;
    let mut settled: Option<Extent> = None;
    loop {
        let first = chunk.records.is_empty();
        let erased;
        let place = {
            let state = shared.state();
            let extent = state.extent(log)?;
            let place = extent
                .as_ref()
                .or(settled.as_ref())
                .map(|extent| state.place(log, extent, chunk.next(), left));
            // Looked up before the database is read: what is rewritten meanwhile was found either way.
            erased = match &place {
                Some(place) if !state.erasing.is_empty() => state.erased(place),
                _ => Vec::new(),
            };
            place
        };
        let (mut more, last) = match place {
            None => {
                settled = Some(settled_extent(&shared, log).await?);
                continue;
            }
            Some(Place::Memory { chunk, holder }) => (chunk, holder == log),
            Some(Place::Database { holder, offsets }) => {
                let (wanted, end) = (offsets.start, offsets.end);
                let read = blocking(&shared, move |shared| {
                    read_settled(&shared.database, holder, wanted, end, left)
                });
                match read.await {
                    Ok(more) => (more, false),
                    // What was read before the damage is sound; the next read finds the damage again.
                    Err(_) if !first => return Ok(chunk),
                    Err(error) => {
                        // A log that loses its chunks because it is deleted or trimmed is not damaged.
                        let resident = shared.state().extent(log)?;
                        let now = match resident {
                            Some(extent) => extent,
                            None => settled_extent(&shared, log).await?,
                        };
                        if now.start <= wanted {
                            return Err(error);
                        }
                        settled = Some(now);
                        continue;
                    }
                }
            }
        };
        if first {
            chunk.from = more.from;
        } else if more.records.first().is_some_and(|record| record.len() > left.bytes) {
            // One record is always returned, but here there is one already.
            return Ok(chunk);
        }
        let bytes: usize = more.records.iter().map(Bytes::len).sum();
        mask(&erased, more.from, &mut more.records);
        left.bytes = left.bytes.saturating_sub(bytes);
        left.records = left.records.saturating_sub(more.records.len());
        let at_end = last || more.records.is_empty();
        if first {
            chunk.records = more.records;
        } else {
            chunk.records.extend(more.records);
        }
        if at_end || left.bytes == 0 || left.records == 0 {
            return Ok(chunk);
        }
    }
}

/// What the database knows about where the records of a log are.
async fn settled_extent(shared: &Arc<Shared>, log: LogId) -> Result<Extent, StoreError> {
    let row = blocking(shared, move |shared| {
        log_row(&shared.database, log).map_err(|error| failure(log, 0, error))
    });
    row.await?.map(Extent::from).ok_or(StoreError::NotFound)
}

/// Settled records, chunk by chunk, each in a transaction of its own.
fn read_settled(
    database: &Database,
    log: LogId,
    from: u64,
    end: u64,
    limit: ReadLimit,
) -> Result<Chunk, StoreError> {
    let mut chunk = Chunk { from, records: Vec::new() };
    let mut left = limit;
    while chunk.next() < end {
        let wanted = chunk.next();
        // What is behind the end may be in the same chunk, and is not this reader's.
        left.records = left.records.min(usize::try_from(end - wanted).unwrap_or(usize::MAX));
        let read = database.read(|transaction| {
            let chunks = transaction.open_table(CHUNKS)?;
            let Some(entry) = chunks.range((log.0, 0)..=(log.0, wanted))?.next_back() else {
                return Err(Damage("its chunk is missing").into());
            };
            let (key, value) = entry?;
            let packed = Packed::parse(log, key.value().1, value.value())?;
            if packed.end() <= wanted {
                return Err(Damage("its chunk is missing").into());
            }
            Ok(packed.unpack(wanted, left))
        });
        let Unpacked { records, damaged } = match read {
            Ok(unpacked) => unpacked,
            Err(_) if !chunk.records.is_empty() => return Ok(chunk),
            Err(error) => return Err(failure(log, wanted, error)),
        };
        if let (Some(offset), true, true) = (damaged, records.is_empty(), chunk.records.is_empty()) {
            let what = "the checksum of the record does not fit".into();
            return Err(StoreError::Corrupt { log, offset, what });
        }
        let bytes: usize = records.iter().map(Bytes::len).sum();
        if !chunk.records.is_empty() && bytes > left.bytes {
            // The one record that is always returned came from an earlier chunk.
            return Ok(chunk);
        }
        left.bytes = left.bytes.saturating_sub(bytes);
        left.records = left.records.saturating_sub(records.len());
        chunk.records.extend(records);
        if damaged.is_some() || left.bytes == 0 || left.records == 0 {
            break;
        }
    }
    Ok(chunk)
}

/// Rows of a log's snapshot.
///
/// # Errors
/// See [`crate::store::Store::rows`].
pub async fn rows(
    shared: Arc<Shared>,
    log: LogId,
    keys: Vec<Bytes>,
) -> Result<Vec<Option<Bytes>>, StoreError> {
    let mut found: Vec<Option<Option<Bytes>>> = vec![None; keys.len()];
    {
        let state = shared.state();
        if let Some(log) = state.logs.get(&log) {
            if log.durable.stage == Stage::Deleted {
                return Err(StoreError::Deleted);
            }
            for (key, found) in keys.iter().zip(&mut found) {
                *found = log.row_in_memory(key).or_else(|| log.settled.is_none().then_some(None));
            }
        }
    }
    if found.iter().all(Option::is_some) {
        return Ok(found.into_iter().flatten().collect());
    }
    blocking(&shared, move |shared| {
        shared
            .database
            .read(|transaction| {
                let table = transaction.open_table(ROWS)?;
                let row = |key: &Bytes| match table.get((log.0, &key[..]))? {
                    Some(value) => Ok(Some(Bytes::copy_from_slice(rows::decode(log, key, value.value())?))),
                    None => Ok(None),
                };
                keys.iter()
                    .zip(&found)
                    .map(|(key, found)| found.clone().map_or_else(|| row(key), Ok))
                    .collect::<Result<_, DatabaseFailure>>()
            })
            .map_err(|error| failure(log, 0, error))
    })
    .await
}

/// Rows of a log's snapshot whose keys begin with `prefix` and sort after `after`.
///
/// # Errors
/// See [`crate::store::Store::scan_rows`].
pub async fn scan_rows(
    shared: Arc<Shared>,
    log: LogId,
    prefix: Bytes,
    after: Option<Bytes>,
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    let (memory, settled) = match shared.state().logs.get(&log) {
        Some(found) if found.durable.stage == Stage::Deleted => return Err(StoreError::Deleted),
        Some(found) => (found.rows_in_memory(&prefix, after.as_ref()), found.settled.is_some()),
        None => (Rows::new(), true),
    };
    if !settled {
        let rows = memory.into_iter().filter_map(|(key, row)| Some((key, row?)));
        return Ok(rows.take(limit).collect());
    }
    blocking(&shared, move |shared| {
        shared
            .database
            .read(|transaction| {
                let table = transaction.open_table(ROWS)?;
                let from = match &after {
                    Some(after) if **after >= *prefix => Bound::Excluded((log.0, &after[..])),
                    _ => Bound::Included((log.0, &prefix[..])),
                };
                let mut memory = memory.iter().peekable();
                let mut found = Vec::new();
                for entry in table.range::<(u64, &[u8])>((from, Bound::Unbounded))? {
                    let (key, value) = entry?;
                    let (of, key) = key.value();
                    if of != log.0 || !key.starts_with(&prefix) || found.len() >= limit {
                        break;
                    }
                    while let Some((before, row)) = memory.next_if(|(before, _)| before[..] < *key) {
                        found.extend(row.clone().map(|row| (before.clone(), row)));
                    }
                    match memory.next_if(|(same, _)| same[..] == *key) {
                        Some((same, row)) => found.extend(row.clone().map(|row| (same.clone(), row))),
                        None => {
                            let row = Bytes::copy_from_slice(rows::decode(log, key, value.value())?);
                            found.push((Bytes::copy_from_slice(key), row));
                        }
                    }
                }
                found.extend(memory.filter_map(|(key, row)| Some((key.clone(), row.clone()?))));
                found.truncate(limit);
                Ok(found)
            })
            .map_err(|error| failure(log, 0, error))
    })
    .await
}
