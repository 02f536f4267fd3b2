//! Reading and writing the store's own table, see [`crate::store::table`].

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::store::local::database::Database;
use crate::store::local::database_failure::DatabaseFailure;
use crate::store::local::group::Put;
use crate::store::local::queued::Queued;
use crate::store::local::reader::{blocking, failure};
use crate::store::local::shared::Shared;
use crate::store::local::state::State;
use crate::store::local::table::values::{self, VALUES};
use crate::store::local::values::{Verdict, Writes};
use crate::store::local::{BATCH_OVERHEAD_BYTES, Outcome, durable};
use crate::store::table::check;
use crate::store::{Cas, LogId, StoreError};

/// What a value costs in memory beside key and value.
const VALUE_OVERHEAD_BYTES: usize = 128;
/// Values that one transaction looks at: a longer look would keep redb from reusing pages.
const SCAN_VALUES: usize = 1024;

/// A value.
///
/// # Errors
/// See [`crate::store::Store::get`].
pub async fn get(shared: Arc<Shared>, key: Bytes) -> Result<Option<Bytes>, StoreError> {
    let known = shared.state().values.durable(&key).cloned();
    match known {
        Some(value) => Ok(value),
        None => Ok(read(&shared, vec![key]).await?.pop().flatten()),
    }
}

/// Values in order.
///
/// # Errors
/// See [`crate::store::Store::scan`].
pub async fn scan(
    shared: Arc<Shared>,
    prefix: Bytes,
    after: Option<Bytes>,
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    let mut merged = shared.state().values.range(lower_bound(&prefix, after.as_ref()), &prefix, limit);
    blocking(&shared, move |shared| {
        let mut next = after;
        // Enough of the database for a page, whatever memory adds to it or hides of it.
        let mut values = 0;
        while values < limit {
            let page = scan_page(&shared.database, &prefix, next.as_ref())
                .map_err(|error| failure(LogId(0), 0, error))?;
            next = page.last().map(|(key, _)| key.clone()).filter(|_| page.len() == SCAN_VALUES);
            for (key, value) in page {
                merged.entry(key).or_insert_with(|| {
                    values += 1;
                    Some(value)
                });
            }
            if next.is_none() {
                break;
            }
        }
        Ok(merged.into_iter().filter_map(|(key, value)| Some((key, value?))).take(limit).collect())
    })
    .await
}

fn lower_bound<'a>(prefix: &'a Bytes, after: Option<&'a Bytes>) -> Bound<&'a [u8]> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    }
}

fn scan_page(
    database: &Database,
    prefix: &Bytes,
    after: Option<&Bytes>,
) -> Result<Vec<(Bytes, Bytes)>, DatabaseFailure> {
    database.read(|transaction| {
        let table = transaction.open_table(VALUES)?;
        let mut page = Vec::new();
        for entry in table.range::<&[u8]>((lower_bound(prefix, after), Bound::Unbounded))?.take(SCAN_VALUES) {
            let (key, value) = entry?;
            let key = key.value();
            if !key.starts_with(prefix) {
                break;
            }
            let value = values::decode(key, value.value())?;
            page.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        }
        Ok(page)
    })
}

/// Settled values, in the order of `keys`.
async fn read(shared: &Arc<Shared>, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, StoreError> {
    blocking(shared, move |shared| {
        let read = shared.database.read(|transaction| {
            let table = transaction.open_table(VALUES)?;
            keys.iter()
                .map(|key| match table.get(&key[..])? {
                    Some(value) => Ok(Some(Bytes::copy_from_slice(values::decode(key, value.value())?))),
                    None => Ok(None),
                })
                .collect::<Result<_, DatabaseFailure>>()
        });
        read.map_err(|error| failure(LogId(0), 0, error))
    })
    .await
}

/// Writes values when they are what is expected, and resolves when they are durable.
///
/// # Errors
/// See [`crate::store::Store::cas`].
pub async fn cas(shared: Arc<Shared>, writes: Vec<Cas>) -> Result<(), StoreError> {
    check(&writes)?;
    if writes.is_empty() {
        return Ok(());
    }
    shared.health.check()?;
    let mut known = None;
    loop {
        match attempt(&shared, &writes, known.as_ref())? {
            Attempt::Queued(outcome) => return durable(outcome).await,
            // What a settling moves there meanwhile is noticed by the count, and the database asked again.
            Attempt::Unknown { removals } => {
                let keys = writes.iter().map(|write| write.key.clone()).collect();
                known = Some((read(&shared, keys).await?, removals));
            }
            Attempt::InFlight => {
                let landed = |state: &mut State| (!state.values.in_flight(&writes)).then_some(());
                shared.when(landed).await?;
            }
        }
    }
}

enum Attempt {
    Queued(Outcome),
    InFlight,
    Unknown { removals: u64 },
}

/// Compares and queues at one moment.
fn attempt(
    shared: &Shared,
    writes: &[Cas],
    known: Option<&(Vec<Option<Bytes>>, u64)>,
) -> Result<Attempt, StoreError> {
    let mut state = shared.state();
    match state.values.check(writes, known.map(|(values, removals)| (&values[..], *removals))) {
        Verdict::Expected => Ok(Attempt::Queued(queue(shared, &mut state, writes)?)),
        Verdict::Conflict => Err(StoreError::VersionConflict),
        Verdict::InFlight => Ok(Attempt::InFlight),
        Verdict::Unknown => Ok(Attempt::Unknown { removals: state.values.removals() }),
    }
}

/// Queues writes, whatever is there.
pub(super) fn queue(shared: &Shared, state: &mut State, writes: &[Cas]) -> Result<Outcome, StoreError> {
    state.check_queue()?;
    // Copies: the callers' buffers may be much longer.
    let copy = |value: &Bytes| Bytes::copy_from_slice(value);
    let put = Put {
        writes: writes.iter().map(|write| (copy(&write.key), write.value.as_ref().map(copy))).collect(),
    };
    let bytes = BATCH_OVERHEAD_BYTES + cost(&put.writes);
    let reservation = shared.quota.charge(bytes)?;
    state.values.queue(&put.writes);
    let (reply, outcome) = oneshot::channel();
    state.queue.push_back(Queued::Put { put, reservation, bytes, reply });
    shared.work.notify_one();
    Ok(outcome)
}

fn cost(writes: &Writes) -> usize {
    let writes = writes.iter();
    writes.map(|(key, value)| VALUE_OVERHEAD_BYTES + key.len() + value.as_ref().map_or(0, Bytes::len)).sum()
}
