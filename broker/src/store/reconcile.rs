//! What the owner of a log does about an answer that was lost: it asks again, until it knows what became of its write.
//!
//! Each of these is the call of [`Store`] of the same name, under an opening that is the caller's. They end with
//! [`StoreError::Unknown`] only when the store has not answered for many times.

use std::sync::Arc;
use std::time::Duration;

use longwire_proto::session_id::SessionId;

use crate::store::{Batch, Cas, ListQuery, LogId, Opened, Store, StoreError, StoreFuture, Term, Version};

/// Times that a write is tried again. Whoever waits for it is told `outcome_unknown` after that.
pub const TRIES_MAX: u32 = 8;
/// The pause before a write is tried again the first time; each later one is twice as long, half a second in all.
const PAUSE_MIN: Duration = Duration::from_millis(2);

/// How often something was tried, with a pause that grows.
struct Tries(u32);

impl Tries {
    /// Waits before the next try; false when there is none.
    async fn next(&mut self) -> bool {
        if self.0 >= TRIES_MAX {
            return false;
        }
        tokio::time::sleep(PAUSE_MIN * (1 << self.0)).await;
        self.0 += 1;
        true
    }
}

/// [`Store::open`], and again when it could not be read.
///
/// # Errors
/// As [`Store::open`].
pub async fn open(store: &dyn Store, session: &SessionId) -> Result<Opened, StoreError> {
    retry_read(|| store.open(session)).await
}

/// Reads again what could not be read: an engine that is somewhere else misses an answer now and then.
///
/// # Errors
/// Those of the read.
pub async fn retry_read<T>(mut read: impl FnMut() -> StoreFuture<T>) -> Result<T, StoreError> {
    let mut tries = Tries(0);
    loop {
        match read().await {
            Err(StoreError::Read(_)) if tries.next().await => {}
            outcome => return outcome,
        }
    }
}

/// [`Store::append`]. It is queued when this is called.
#[must_use]
pub fn append(
    store: &Arc<dyn Store>,
    log: LogId,
    term: Term,
    version: Version,
    batch: Batch,
) -> StoreFuture<Version> {
    let again = batch.again();
    let (first, store) = (store.append(log, term, version, batch), Arc::clone(store));
    Box::pin(async move {
        let (mut outcome, mut tries) = (first.await, Tries(0));
        while matches!(outcome, Err(StoreError::Unknown(_))) && tries.next().await {
            outcome = store.append(log, term, version, again.again()).await;
        }
        outcome
    })
}

/// [`Store::delete`] of a log that exists.
#[must_use]
pub fn delete(store: &Arc<dyn Store>, log: LogId, term: Term) -> StoreFuture<()> {
    let (first, store) = (store.delete(log, term), Arc::clone(store));
    Box::pin(async move {
        let (mut outcome, mut tries) = (first.await, Tries(0));
        while matches!(outcome, Err(StoreError::Unknown(_))) && tries.next().await {
            outcome = match store.delete(log, term).await {
                // Nobody else deletes it under this term.
                Err(StoreError::NotFound) => Ok(()),
                outcome => outcome,
            };
        }
        outcome
    })
}

/// [`Store::trim`]. Doing it twice does nothing the second time.
#[must_use]
pub fn trim(store: &Arc<dyn Store>, log: LogId, term: Term, start: u64, freed_bytes: u64) -> StoreFuture<()> {
    let (first, store) = (store.trim(log, term, start, freed_bytes), Arc::clone(store));
    Box::pin(async move {
        let (mut outcome, mut tries) = (first.await, Tries(0));
        while matches!(outcome, Err(StoreError::Unknown(_))) && tries.next().await {
            outcome = store.trim(log, term, start, freed_bytes).await;
        }
        outcome
    })
}

/// [`Store::rename`] of a log that has the name `from`.
#[must_use]
pub fn rename(
    store: &Arc<dyn Store>,
    log: LogId,
    term: Term,
    from: SessionId,
    to: SessionId,
) -> StoreFuture<()> {
    let (first, store) = (store.rename(log, term, to.clone()), Arc::clone(store));
    Box::pin(async move {
        let (mut outcome, mut tries) = (first.await, Tries(0));
        while matches!(outcome, Err(StoreError::Unknown(_))) && tries.next().await {
            outcome = match store.rename(log, term, to.clone()).await {
                Err(StoreError::AlreadyExists)
                    if from != to && is_renamed(&*store, log, &from, &to).await? =>
                {
                    Ok(())
                }
                outcome => outcome,
            };
        }
        outcome
    })
}

/// Whether a log that had one of two names has the other one now. At most one of them is the broker's own, which is in no list.
async fn is_renamed(
    store: &dyn Store,
    log: LogId,
    from: &SessionId,
    to: &SessionId,
) -> Result<bool, StoreError> {
    let name = if to.is_reserved() { from } else { to };
    let query = ListQuery { prefix: name.to_string(), limit: 1, ..ListQuery::default() };
    let page = retry_read(|| store.list(query.clone())).await?;
    let has_it = page.sessions.first().is_some_and(|listed| listed.session == *name && listed.log == log);
    Ok(has_it != to.is_reserved())
}

/// [`Store::cas`]. When it must be tried again and does not find what it expects, what it wanted to write is enough.
///
/// # Errors
/// As [`Store::cas`].
pub async fn cas(store: &dyn Store, writes: Vec<Cas>) -> Result<(), StoreError> {
    let (mut outcome, mut tries) = (store.cas(writes.clone()).await, Tries(0));
    while matches!(outcome, Err(StoreError::Unknown(_))) && tries.next().await {
        outcome = store.cas(writes.clone()).await;
        if outcome == Err(StoreError::VersionConflict) && is_written(store, &writes).await? {
            outcome = Ok(());
        }
    }
    outcome
}

async fn is_written(store: &dyn Store, writes: &[Cas]) -> Result<bool, StoreError> {
    for write in writes {
        if retry_read(|| store.get(write.key.clone())).await? != write.value {
            return Ok(false);
        }
    }
    Ok(true)
}
