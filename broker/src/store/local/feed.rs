//! The change feed and the deadlines of logs.
//!
//! Both are read from a table and from what memory knows beyond it. An entry of a table counts when the log confirms it: the
//! one in memory, or else the row of the database. So what a settling moves meanwhile is told from one side or the other,
//! and what is no more true is not told at all.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use longwire_proto::session_id::SessionId;
use redb::ReadTransaction;
use tracing::warn;

use crate::store::list::is_hidden;
use crate::store::local::database_failure::DatabaseFailure;
use crate::store::local::log::Stage;
use crate::store::local::reader::{blocking, failure};
use crate::store::local::shared::Shared;
use crate::store::local::state::State;
use crate::store::local::table::Damage;
use crate::store::local::table::changes::{self, CHANGES};
use crate::store::local::table::deadlines::{self, DEADLINES};
use crate::store::local::table::gone::{self, GONE};
use crate::store::local::table::logs::{LOGS, LogRow};
use crate::store::local::table::meta::{self, META, Meta};
use crate::store::{Change, Changes, Due, LogId, StoreError};

/// Entries that one transaction looks at: a longer look would keep redb from reusing pages.
const SCAN: usize = 1024;
/// Commits in memory that one call looks at, under the lock of the state: about a millisecond.
const RECENT_MAX: usize = 8192;

/// Logs that changed after a commit.
///
/// # Errors
/// See [`crate::store::Store::changes`].
pub async fn changes(shared: Arc<Shared>, after: u64, limit: usize) -> Result<Changes, StoreError> {
    let recent = {
        let state = shared.state();
        (after >= state.settled.settled_commit).then(|| recent(&state, after, limit))
    };
    let mut told = match recent {
        Some(recent) => recent,
        None => blocking(&shared, move |shared| settled(shared, after, limit)).await?,
    };
    // Looked at last: what was forgotten while this was read is in it.
    told.forgotten = shared.state().forgotten_commit;
    Ok(told)
}

/// What memory knows, which is everything after the settled commit.
fn recent(state: &State, after: u64, limit: usize) -> Changes {
    let mut changes = Vec::new();
    let mut through = after;
    for (looked, (commit, id)) in state.unindexed.changes(after).enumerate() {
        // A commit is told whole, or who goes on after it would miss the rest.
        if commit > through && through > after && (changes.len() >= limit || looked >= RECENT_MAX) {
            return Changes { changes, through, forgotten: 0 };
        }
        through = commit;
        let Some(log) = state.logs.get(&id) else { continue };
        // It is told at its last commit.
        if log.commit != commit || is_hidden(&log.name) {
            continue;
        }
        changes.push(Change {
            commit,
            log: id,
            session: log.name.clone(),
            lineage: log.lineage.clone(),
            start: log.start,
            end: log.durable.end,
            deleted: log.durable.stage == Stage::Deleted,
        });
    }
    Changes { changes, through: after.max(state.durable_commit()), forgotten: 0 }
}

/// What the database knows, and memory after that when there is room.
fn settled(shared: &Shared, after: u64, limit: usize) -> Result<Changes, StoreError> {
    let mut told = Changes { changes: Vec::new(), through: after, forgotten: 0 };
    loop {
        let left = limit.saturating_sub(told.changes.len());
        let read = shared.database.read(|transaction| page(transaction, told.through, left));
        let (page, exhausted) = read.map_err(|error| failure(LogId(0), 0, error))?;
        let again: HashSet<LogId> = page.changes.iter().map(|change| change.log).collect();
        told.changes.retain(|change| !again.contains(&change.log));
        told.changes.extend(page.changes);
        told.through = page.through;
        let state = shared.state();
        // What changed since is told at a later commit, which is above everything that was read.
        let last =
            |change: &Change| state.logs.get(&change.log).is_none_or(|log| log.commit == change.commit);
        told.changes.retain(last);
        let left = limit.saturating_sub(told.changes.len());
        if !exhausted || left == 0 {
            return Ok(told);
        }
        // A settling that went further than what was read has taken what is in between out of memory.
        if state.settled.settled_commit <= told.through {
            let recent = recent(&state, told.through, left);
            told.changes.extend(recent.changes);
            told.through = recent.through;
            return Ok(told);
        }
    }
}

/// One transaction's worth of changes, and whether there are no more in it.
fn page(transaction: &ReadTransaction, after: u64, limit: usize) -> Result<(Changes, bool), DatabaseFailure> {
    let meta = transaction.open_table(META)?;
    let meta = meta.get(meta::KEY)?.ok_or(Damage("it does not say how far it is"))?;
    let settled_commit = Meta::decode(meta.value())?.settled_commit;
    let (logs, gone) = (transaction.open_table(LOGS)?, transaction.open_table(GONE)?);
    let table = transaction.open_table(CHANGES)?;
    let mut page = Changes { changes: Vec::new(), through: after, forgotten: 0 };
    if settled_commit <= after {
        return Ok((page, true));
    }
    // An entry beyond that is damage, and must not carry anyone past what is to come.
    let range = (after + 1, 0)..=(settled_commit, u64::MAX);
    for (looked, entry) in table.range(range)?.enumerate() {
        let (key, value) = entry?;
        let (commit, log) = (key.value().0, LogId(key.value().1));
        if commit > page.through && page.through > after && (page.changes.len() >= limit || looked >= SCAN) {
            return Ok((page, false));
        }
        page.through = commit;
        let live = logs.get(log.0)?.map(|row| LogRow::decode(log, row.value()));
        let (row, deleted) = match live {
            Some(row) => (Some(row), false),
            None => (gone.get(log.0)?.map(|row| gone::decode(log, row.value())), true),
        };
        match row {
            Some(Ok(row)) if row.commit == commit => page.changes.push(Change {
                commit,
                log,
                session: row.name,
                lineage: row.lineage,
                start: row.start,
                end: row.end,
                deleted,
            }),
            // A log that is damaged cannot be opened, and the others go on.
            Some(Err(damage)) => warn!(log = log.0, %damage, "a log is left out of the change feed"),
            _ => changes::verify(commit, log, value.value())?,
        }
    }
    page.through = page.through.max(settled_commit);
    Ok((page, true))
}

/// Logs whose deadline has come. Blocks.
///
/// # Errors
/// See [`crate::store::Store::due`].
pub fn due(
    shared: &Shared,
    until_ms: u64,
    after: Option<(u64, LogId)>,
    limit: usize,
) -> Result<Vec<Due>, StoreError> {
    let mut found: BTreeMap<(u64, LogId), SessionId> = BTreeMap::new();
    {
        let state = shared.state();
        for (when_ms, log) in state.unindexed.deadlines(after) {
            if *when_ms > until_ms || found.len() >= limit {
                break;
            }
            found.extend(confirmed(&state, *when_ms, *log).flatten().map(|name| ((*when_ms, *log), name)));
        }
    }
    let corrupt = |error| failure(LogId(0), 0, error);
    let (mut settled, mut after) = (0, after);
    while settled < limit {
        let read = shared.database.read(|transaction| entries(transaction, until_ms, after));
        let page = read.map_err(corrupt)?;
        after = page.last().map(|entry| (entry.when_ms, entry.log)).filter(|_| page.len() == SCAN);
        for due in confirm(shared, page).map_err(corrupt)? {
            settled += 1;
            found.insert((due.when_ms, due.log), due.session);
        }
        if after.is_none() {
            break;
        }
    }
    let due = found.into_iter().take(limit);
    Ok(due.map(|((when_ms, log), session)| Due { when_ms, log, session }).collect())
}

/// An entry of the table of deadlines.
#[derive(Clone, Copy, Debug)]
struct Entry {
    when_ms: u64,
    log: LogId,
    sound: bool,
}

/// The session whose deadline this is, according to memory: none when it is not, or no more, and nothing at all when the
/// database has the word.
fn confirmed(state: &State, when_ms: u64, log: LogId) -> Option<Option<SessionId>> {
    let log = state.logs.get(&log)?;
    let is_so = log.durable.stage == Stage::Live && log.projection.deadline_ms() == Some(when_ms);
    Some(is_so.then(|| log.name.clone()))
}

/// One transaction's worth of entries.
fn entries(
    transaction: &ReadTransaction,
    until_ms: u64,
    after: Option<(u64, LogId)>,
) -> Result<Vec<Entry>, DatabaseFailure> {
    use std::ops::Bound;
    let table = transaction.open_table(DEADLINES)?;
    let from = after.map_or(Bound::Unbounded, |(when_ms, log)| Bound::Excluded((when_ms, log.0)));
    let mut found = Vec::new();
    for entry in table.range::<(u64, u64)>((from, Bound::Included((until_ms, u64::MAX))))?.take(SCAN) {
        let (key, value) = entry?;
        let (when_ms, log) = (key.value().0, LogId(key.value().1));
        let sound = deadlines::verify(when_ms, log, value.value()).is_ok();
        found.push(Entry { when_ms, log, sound });
    }
    Ok(found)
}

/// The entries that are so: according to memory, or to rows that are read after memory was looked at.
fn confirm(shared: &Shared, entries: Vec<Entry>) -> Result<Vec<Due>, DatabaseFailure> {
    let mut due = Vec::with_capacity(entries.len());
    let mut settled = Vec::new();
    {
        let state = shared.state();
        for entry in entries {
            let Entry { when_ms, log, .. } = entry;
            match confirmed(&state, when_ms, log) {
                Some(session) => due.extend(session.map(|session| Due { when_ms, log, session })),
                None => settled.push(entry),
            }
        }
    }
    if settled.is_empty() {
        return Ok(due);
    }
    due.extend(shared.database.read(|transaction| {
        let logs = transaction.open_table(LOGS)?;
        let mut due = Vec::with_capacity(settled.len());
        for Entry { when_ms, log, sound } in settled.iter().copied() {
            match logs.get(log.0)?.map(|row| LogRow::decode(log, row.value())) {
                Some(Ok(row)) if row.projection.deadline_ms() == Some(when_ms) => {
                    due.push(Due { when_ms, log, session: row.name });
                }
                // A log that is damaged cannot be opened, and the others go on.
                Some(Err(damage)) => warn!(log = log.0, %damage, "a deadline is left out"),
                _ if !sound => return Err(Damage("an entry of a deadline is damaged").into()),
                _ => {}
            }
        }
        Ok(due)
    })?);
    Ok(due)
}
