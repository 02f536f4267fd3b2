//! What was erased and deleted in a store, to be done again in one that is restored from an older backup.
//!
//! An erasure names its records by epoch and offset, and a deletion the epochs that it ended, so that what another history
//! of the session has there is not touched.

use std::ops::Range;
use std::sync::Arc;

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::kind;
use longwire_proto::limits::{ERASE_RANGES_MAX, LINEAGE_ENTRIES_MAX};
use longwire_proto::meta::Change;
use longwire_proto::position::Lineage;
use longwire_proto::record::{Sealed, Sender};
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use serde::{Deserialize, Serialize};

use crate::hub::Hub;
use crate::life::erase::erase;
use crate::life::progress;
use crate::request::Operation;
use crate::store::local::LocalStore;
use crate::store::{ListQuery, Listed, ReadLimit, Store, StoreError};
use crate::tail::Progress;

/// Sessions listed at a time.
const SESSIONS_AT_A_TIME: usize = 1000;
/// Records read at a time.
const PIECE: ReadLimit = ReadLimit { records: 8192, bytes: 1 << 20 };
/// What the record of an erasure that is done again says.
const REASON: &str = "erased before the restore";

/// Records of one epoch of a session that were erased by one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erasure {
    /// The session.
    pub session: String,
    /// The epoch that the records are of.
    pub epoch: u64,
    /// Their offsets, from the first to the one after the last.
    pub ranges: Vec<(u64, u64)>,
}

/// A session of this name was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deletion {
    /// The session.
    pub session: String,
    /// Every epoch below this one had ended with it.
    pub deleted_below: u64,
}

/// What is to be gone from a restore: a line of `longwire store erasures`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Gone {
    /// Records.
    Erased(Erasure),
    /// A session.
    Deleted(Deletion),
}

/// Finds every deletion that the names of a store tell of: of those that are free, and of those that were taken again.
///
/// # Errors
/// Those of reading the names.
pub async fn deletions(store: &LocalStore, mut found: impl FnMut(Gone)) -> Result<(), StoreError> {
    let mut tell = |session: &SessionId, deleted_below| {
        found(Gone::Deleted(Deletion { session: session.as_str().to_owned(), deleted_below }));
    };
    let mut after = None;
    loop {
        let names = store.deleted_names(after, SESSIONS_AT_A_TIME).await?;
        names.iter().for_each(|(session, next_epoch)| tell(session, *next_epoch));
        after = names.into_iter().next_back().map(|(session, _)| session);
        if after.is_none() {
            break;
        }
    }
    let mut after = None;
    loop {
        let page = store.list(ListQuery { after, limit: SESSIONS_AT_A_TIME, ..ListQuery::default() }).await?;
        for session in page.sessions {
            let epochs = session.lineage.entries();
            // One with as many epochs as there can be may have forgotten its first.
            if epochs[0].epoch > 0 && epochs.len() < LINEAGE_ENTRIES_MAX {
                tell(&session.session, epochs[0].epoch);
            }
        }
        after = page.more_after;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Finds every erasure that the logs of a store tell of. Answers the sessions that are damaged, each with what does not fit:
/// what they tell behind that place is missing.
///
/// # Errors
/// Those of listing the sessions.
pub async fn collect(
    store: &Arc<dyn Store>,
    mut found: impl FnMut(Gone),
) -> Result<Vec<(SessionId, StoreError)>, StoreError> {
    let (mut damaged, mut after) = (Vec::new(), None);
    loop {
        let query = ListQuery { after, limit: SESSIONS_AT_A_TIME, ..ListQuery::default() };
        let page = store.list(query).await?;
        for session in page.sessions {
            match collect_one(store, &session, &mut found).await {
                Ok(()) | Err(StoreError::Deleted | StoreError::NotFound) => {}
                Err(error) => damaged.push((session.session, error)),
            }
        }
        after = page.more_after;
        if after.is_none() {
            return Ok(damaged);
        }
    }
}

async fn collect_one(
    store: &Arc<dyn Store>,
    session: &Listed,
    found: &mut impl FnMut(Gone),
) -> Result<(), StoreError> {
    let mut next = session.start;
    while next < session.end {
        let chunk = store.read(session.log, next, PIECE).await?;
        if chunk.records.is_empty() {
            let what = "records are missing".to_owned();
            return Err(StoreError::Corrupt { log: session.log, offset: next, what });
        }
        next = chunk.next();
        for record in &chunk.records {
            let Ok(sealed) = Sealed::parse(record) else { continue };
            if sealed.kind != kind::SESSION {
                continue;
            }
            if let Some(Change::Erase { ranges, .. }) = Change::from_body(sealed.body) {
                let told = by_epoch(&session.lineage, &ranges, session.session.as_str());
                told.map(Gone::Erased).for_each(&mut *found);
            }
        }
    }
    Ok(())
}

/// The offsets of each epoch of a lineage.
fn epochs(lineage: &Lineage) -> impl Iterator<Item = (u64, Range<u64>)> {
    let entries = lineage.entries();
    let ends = entries.iter().skip(1).map(|next| next.from_offset).chain([u64::MAX]);
    entries.iter().zip(ends).map(|(entry, end)| (entry.epoch, entry.from_offset..end))
}

/// What ranges have in common with another one.
fn within(ranges: &[Range<u64>], whole: &Range<u64>) -> Vec<Range<u64>> {
    let common = |range: &Range<u64>| range.start.max(whole.start)..range.end.min(whole.end);
    ranges.iter().map(common).filter(|range| !range.is_empty()).collect()
}

fn by_epoch(lineage: &Lineage, ranges: &[Range<u64>], session: &str) -> impl Iterator<Item = Erasure> {
    epochs(lineage).filter_map(move |(epoch, offsets)| {
        let ranges: Vec<_> =
            within(ranges, &offsets).into_iter().map(|range| (range.start, range.end)).collect();
        (!ranges.is_empty()).then(|| Erasure { session: session.to_owned(), epoch, ranges })
    })
}

impl Gone {
    /// The session that it is of.
    #[must_use]
    pub fn session(&self) -> &str {
        match self {
            Self::Erased(erasure) => &erasure.session,
            Self::Deleted(deletion) => &deletion.session,
        }
    }
}

/// What was done again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repeated {
    /// Records erased.
    pub erased: u64,
    /// Sessions deleted.
    pub deleted: u64,
}

/// Erases or deletes again in a store that was just restored, as far as it has what that names: nothing, when there is
/// no such session or epoch.
///
/// # Errors
/// [`ErrorCode::InvalidSessionId`], and those of erasing and deleting.
pub async fn repeat(hub: &Arc<Hub>, asker: &Sender, gone: &Gone) -> Result<Repeated, Error> {
    let session = SessionId::parse(gone.session()).map_err(|error| {
        Error::new(ErrorCode::InvalidSessionId, format!("`{}`: {error}", gone.session())).field("session")
    })?;
    let known = match progress(hub, &session).await {
        Ok(known) => known,
        Err(error) if error.code == ErrorCode::SessionNotFound => return Ok(Repeated::default()),
        Err(error) => return Err(error),
    };
    match gone {
        Gone::Erased(erasure) => {
            let erased = erase_again(hub, asker, &session, &known, erasure).await?;
            Ok(Repeated { erased, deleted: 0 })
        }
        Gone::Deleted(deletion) => {
            // The last one began with the restore.
            let epochs = known.lineage.entries();
            let backed_up = epochs[epochs.len().saturating_sub(2)].epoch;
            if backed_up >= deletion.deleted_below {
                return Ok(Repeated::default());
            }
            hub.ask(&session, Operation::Delete).await?;
            Ok(Repeated { erased: 0, deleted: 1 })
        }
    }
}

async fn erase_again(
    hub: &Arc<Hub>,
    asker: &Sender,
    session: &SessionId,
    known: &Progress,
    erasure: &Erasure,
) -> Result<u64, Error> {
    let Some((_, offsets)) = epochs(&known.lineage).find(|(epoch, _)| *epoch == erasure.epoch) else {
        return Ok(0);
    };
    let there = offsets.start.max(known.start)..offsets.end.min(known.end);
    let ranges: Vec<_> = erasure.ranges.iter().map(|(from, next)| *from..*next).collect();
    let mut records = 0;
    for ranges in within(&ranges, &there).chunks(ERASE_RANGES_MAX) {
        let range = |range: &Range<u64>| wire::OffsetRange { from: range.start, next: range.end };
        let request = wire::EraseRecords {
            ranges: ranges.iter().map(range).collect(),
            reason: REASON.to_owned(),
            ..Default::default()
        };
        records += erase(hub, asker.clone(), session, request).await?;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use longwire_proto::position::LineageEntry;

    use super::*;

    #[test]
    fn an_erasure_is_told_epoch_by_epoch() {
        let entry = |epoch, from_offset| LineageEntry { epoch, from_offset };
        let lineage = Lineage::from_entries(vec![entry(2, 0), entry(5, 10), entry(7, 10)]).unwrap();
        let told: Vec<_> = by_epoch(&lineage, &[3..5, 8..12, 20..21], "a").collect();
        let erasure =
            |epoch, ranges: &[(u64, u64)]| Erasure { session: "a".into(), epoch, ranges: ranges.into() };
        assert_eq!(told, [erasure(2, &[(3, 5), (8, 10)]), erasure(7, &[(10, 12), (20, 21)])]);
        let line = serde_json::to_string(&told[0]).unwrap();
        assert_eq!(line, r#"{"session":"a","epoch":2,"ranges":[[3,5],[8,10]]}"#);
        assert_eq!(serde_json::from_str::<Erasure>(&line).unwrap(), told[0]);
        assert_eq!(serde_json::from_str::<Gone>(&line).unwrap(), Gone::Erased(told[0].clone()));
        let deletion = Gone::Deleted(Deletion { session: "a".into(), deleted_below: 3 });
        let line = serde_json::to_string(&deletion).unwrap();
        assert_eq!(line, r#"{"session":"a","deleted_below":3}"#);
        assert_eq!(serde_json::from_str::<Gone>(&line).unwrap(), deletion);
        for wrong in [r#"{"session":"a","epoch":2,"ranges":[],"all":1}"#, r#"{"session":"a"}"#] {
            assert!(serde_json::from_str::<Gone>(wrong).is_err());
        }
    }
}
