//! Finding sessions: a page of names, or of the names that have some terms.
//!
//! The database gives candidates, in order; then memory has the word about every log that it holds, and the row of the log
//! about the others, which is read after memory was looked at: so what was acknowledged before the call is in the page.
//! What the names and terms of the database do not have yet is in [`crate::store::local::unindexed`].

use std::collections::BTreeMap;
use std::ops::Bound;

use longwire_proto::session_id::SessionId;
use redb::ReadOnlyTable;

use crate::store::batch::TERMS_MAX;
use crate::store::list::{HIDDEN, is_hidden};
use crate::store::local::database::Database;
use crate::store::local::database_failure::DatabaseFailure;
use crate::store::local::log::{Log, Stage};
use crate::store::local::reader::failure;
use crate::store::local::shared::Shared;
use crate::store::local::table::Damage;
use crate::store::local::table::logs::{LOGS, LogRow};
use crate::store::local::table::names::{NAMES, Name};
use crate::store::local::table::terms::{self, TERMS};
use crate::store::{ListPage, ListQuery, Listed, LogId, StoreError};

/// Candidates that one transaction looks at: a longer look would keep redb from reusing pages.
const SCAN: usize = 1024;
/// Entries of the database that one page looks at, so that one which finds nothing takes some 10 ms at most.
const CANDIDATES_MAX: usize = 8192;
/// Names that the database does not know that one page looks at, under the lock of the state: about a millisecond.
const UNINDEXED_MAX: usize = 4096;

/// What was found of names: none where there is no such session.
type Found = BTreeMap<SessionId, Option<Listed>>;

/// A name that the database may have a session for.
#[derive(Debug)]
struct Candidate {
    name: String,
    log: LogId,
    /// Whether the entry that led to it is sound.
    sound: bool,
}

/// Candidates of one transaction.
#[derive(Debug, Default)]
struct Candidates {
    found: Vec<Candidate>,
    /// How many entries were looked at.
    looked: usize,
    /// Everything up to here was looked at; none when there is nothing left.
    through: Option<String>,
}

/// A page of sessions. Blocks.
///
/// # Errors
/// See [`crate::store::Store::list`].
pub fn page(shared: &Shared, query: &ListQuery) -> Result<ListPage, StoreError> {
    if query.terms.len() > TERMS_MAX {
        return Ok(ListPage::default());
    }
    // One more than asked for says whether there are more.
    let wanted = query.limit.saturating_add(1);
    let (mut found, end) = unindexed(shared, query, wanted);
    let corrupt = |error| failure(LogId(0), 0, error);
    let (mut listed, mut looked) = (0, 0);
    let mut after = query.after.as_ref().map(|after| after.as_str().to_owned());
    let end = loop {
        let page = candidates(&shared.database, query, after.as_deref()).map_err(corrupt)?;
        let mut candidates = page.found;
        candidates.retain(|candidate| !found.contains_key(candidate.name.as_str()));
        for session in resolve(shared, query, candidates).map_err(corrupt)? {
            listed += 1;
            found.insert(session.session.clone(), Some(session));
        }
        looked += page.looked;
        after = page.through;
        let enough = listed >= wanted || looked >= CANDIDATES_MAX;
        let beyond = after.as_deref() >= end.as_ref().map(SessionId::as_str);
        match &after {
            None => break end,
            Some(_) if end.is_some() && beyond => break end,
            Some(through) if enough => {
                let through = SessionId::parse(through).map_err(|_| corrupt(NOT_AN_ID.into()))?;
                break Some(through);
            }
            Some(_) => {}
        }
    };
    let inside = |name: &SessionId| end.as_ref().is_none_or(|end| name <= end);
    let mut sessions: Vec<Listed> = found
        .into_iter()
        .filter(|(name, _)| inside(name))
        .filter_map(|(_, listed)| listed)
        .take(wanted)
        .collect();
    let more = sessions.len() > query.limit;
    sessions.truncate(query.limit);
    let last = sessions.last().filter(|_| more).map(|last| last.session.clone());
    Ok(ListPage { sessions, more_after: last.or(end) })
}

const NOT_AN_ID: Damage = Damage("a name is not a session id");

fn lower_bound<'a>(prefix: &'a str, after: Option<&'a str>) -> Bound<&'a str> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    }
}

/// What memory knows of names that the database does not, and up to where; none when that is all of it.
fn unindexed(shared: &Shared, query: &ListQuery, wanted: usize) -> (Found, Option<SessionId>) {
    let state = shared.state();
    let from = lower_bound(&query.prefix, query.after.as_ref().map(SessionId::as_str));
    let mut found = Found::new();
    let mut sessions = 0;
    for name in state.unindexed.names(from) {
        if !name.as_str().starts_with(&query.prefix) || is_hidden(name) {
            break;
        }
        let log = state.names.get(name).and_then(|id| Some((*id, state.logs.get(id)?)));
        let session = log.and_then(|(id, log)| listed(id, log, query, name.as_str()));
        sessions += usize::from(session.is_some());
        found.insert(name.clone(), session);
        if sessions >= wanted || found.len() >= UNINDEXED_MAX {
            return (found, Some(name.clone()));
        }
    }
    (found, None)
}

/// A log in memory, when it is what is looked for.
fn listed(id: LogId, log: &Log, query: &ListQuery, name: &str) -> Option<Listed> {
    let matches =
        log.durable.stage == Stage::Live && log.name.as_str() == name && log.projection.has(&query.terms);
    matches.then(|| Listed {
        session: log.name.clone(),
        log: id,
        lineage: log.lineage.clone(),
        start: log.start,
        end: log.durable.end,
        last_time_ms: log.durable.last_time_ms,
        projection: log.projection.row(),
    })
}

/// The sessions of candidates, in order: from memory, and from rows that are read after memory was looked at.
fn resolve(
    shared: &Shared,
    query: &ListQuery,
    candidates: Vec<Candidate>,
) -> Result<Vec<Listed>, DatabaseFailure> {
    let mut sessions = Vec::with_capacity(candidates.len());
    let mut settled = Vec::new();
    {
        let state = shared.state();
        for candidate in candidates {
            match state.logs.get(&candidate.log) {
                Some(log) => sessions.extend(listed(candidate.log, log, query, &candidate.name)),
                None => settled.push(candidate),
            }
        }
    }
    if settled.is_empty() {
        return Ok(sessions);
    }
    let rows = shared.database.read(|transaction| {
        let logs = transaction.open_table(LOGS)?;
        let mut names = None;
        let mut rows = Vec::with_capacity(settled.len());
        for Candidate { name, log, sound } in &settled {
            let row = logs.get(log.0)?.map(|row| LogRow::decode(*log, row.value())).transpose()?;
            let matches =
                row.as_ref().is_some_and(|row| row.name.as_str() == name && row.projection.has(&query.terms));
            match row {
                Some(row) if matches => rows.push(from_row(*log, row)),
                _ if !sound => return Err(Damage("an entry that leads to a session is damaged").into()),
                Some(_) => {}
                None => {
                    // Deleted since the candidates were found, unless its name is still there.
                    let names = match &names {
                        Some(names) => names,
                        None => names.insert(transaction.open_table(NAMES)?),
                    };
                    if name_of(names, name)? == Some(*log) {
                        return Err(Damage("the row of a listed session is missing").into());
                    }
                }
            }
        }
        Ok(rows)
    })?;
    sessions.extend(rows);
    Ok(sessions)
}

fn from_row(log: LogId, row: LogRow) -> Listed {
    Listed {
        session: row.name,
        log,
        lineage: row.lineage,
        start: row.start,
        end: row.end,
        last_time_ms: row.last_time_ms,
        projection: row.projection.row(),
    }
}

fn name_of(
    names: &ReadOnlyTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<LogId>, DatabaseFailure> {
    Ok(match names.get(name)?.map(|value| Name::decode(name, value.value())).transpose()? {
        Some(Name::Log(log)) => Some(log),
        _ => None,
    })
}

/// One transaction's worth of candidates.
fn candidates(
    database: &Database,
    query: &ListQuery,
    after: Option<&str>,
) -> Result<Candidates, DatabaseFailure> {
    let from = lower_bound(&query.prefix, after);
    database.read(|transaction| {
        let names = transaction.open_table(NAMES)?;
        if query.terms.is_empty() {
            by_name(&names, query, from)
        } else {
            by_terms(&names, &transaction.open_table(TERMS)?, query, from)
        }
    })
}

fn by_name(
    names: &ReadOnlyTable<&'static str, &'static [u8]>,
    query: &ListQuery,
    from: Bound<&str>,
) -> Result<Candidates, DatabaseFailure> {
    let mut candidates = Candidates::default();
    for entry in names.range::<&str>((from, Bound::Unbounded))? {
        let (key, value) = entry?;
        let name = key.value();
        if !name.starts_with(&query.prefix) || name.starts_with(HIDDEN) {
            break;
        }
        if let Name::Log(log) = Name::decode(name, value.value())? {
            candidates.found.push(Candidate { name: name.to_owned(), log, sound: true });
        }
        candidates.looked += 1;
        if candidates.looked >= SCAN || candidates.found.len() > query.limit {
            candidates.through = Some(name.to_owned());
            return Ok(candidates);
        }
    }
    Ok(candidates)
}

/// The sessions of one term, in order.
struct Leg<'q> {
    term: &'q [u8],
    range: redb::Range<'static, (&'static [u8], &'static str), &'static [u8]>,
}

/// Where a leg is: a name, its log, and whether the entry is sound.
type Step = (String, Result<LogId, Damage>);

impl<'q> Leg<'q> {
    fn new(
        table: &ReadOnlyTable<(&'static [u8], &'static str), &'static [u8]>,
        term: &'q [u8],
        from: Bound<&str>,
    ) -> Result<Self, DatabaseFailure> {
        let range = (from.map(|name| (term, name)), Bound::Unbounded);
        Ok(Self { term, range: table.range::<(&[u8], &str)>(range)? })
    }

    /// The next name; none at the end of the term or of what begins with `prefix`.
    fn next(&mut self, prefix: &str) -> Result<Option<Step>, DatabaseFailure> {
        let Some(entry) = self.range.next() else { return Ok(None) };
        let (key, value) = entry?;
        let (term, name) = key.value();
        if term != self.term || !name.starts_with(prefix) {
            return Ok(None);
        }
        Ok(Some((name.to_owned(), terms::decode(term, name, value.value()))))
    }
}

/// Names that every term has: whichever is behind catches up with the one that is ahead, so a rare term decides how much
/// is looked at.
fn by_terms(
    names: &ReadOnlyTable<&'static str, &'static [u8]>,
    table: &ReadOnlyTable<(&'static [u8], &'static str), &'static [u8]>,
    query: &ListQuery,
    from: Bound<&str>,
) -> Result<Candidates, DatabaseFailure> {
    let mut candidates = Candidates::default();
    let mut legs = Vec::with_capacity(query.terms.len());
    for term in &query.terms {
        let mut leg = Leg::new(table, term, from)?;
        let Some(step) = leg.next(&query.prefix)? else { return Ok(candidates) };
        legs.push((leg, step));
    }
    candidates.looked = legs.len();
    loop {
        let Some(ahead) = legs.iter().map(|(_, (name, _))| name).max().cloned() else {
            return Ok(candidates);
        };
        let mut passed: Option<String> = None;
        let mut exhausted = false;
        for (leg, step) in legs.iter_mut().filter(|(_, (name, _))| *name < ahead) {
            let mut next = leg.next(&query.prefix)?;
            candidates.looked += 1;
            if next.as_ref().is_some_and(|(name, _)| *name < ahead) {
                // Far behind: a search costs less than walking there.
                *leg = Leg::new(table, leg.term, Bound::Included(&ahead))?;
                next = leg.next(&query.prefix)?;
                candidates.looked += 1;
            }
            match next {
                Some(next) => passed = passed.max(Some(std::mem::replace(step, next).0)),
                None => exhausted = true,
            }
        }
        if exhausted {
            return Ok(candidates);
        }
        if passed.is_none() {
            // All of them are there.
            let mut logs = legs.iter().map(|(_, (_, log))| log.as_ref());
            let sound = logs.clone().all(|log| log.is_ok());
            let log = match logs.find_map(Result::ok) {
                Some(log) => Some(*log),
                None => name_of(names, &ahead)?,
            };
            let log = log.ok_or(Damage("an entry of a term is damaged"))?;
            candidates.found.push(Candidate { name: ahead.clone(), log, sound });
            for (leg, step) in &mut legs {
                candidates.looked += 1;
                match leg.next(&query.prefix)? {
                    Some(next) => *step = next,
                    None => return Ok(candidates),
                }
            }
            passed = Some(ahead);
        }
        if candidates.looked >= SCAN || candidates.found.len() > query.limit {
            candidates.through = passed;
            return Ok(candidates);
        }
    }
}
