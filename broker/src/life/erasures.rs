//! What was erased in a store, to be erased again in one that is restored from an older backup.
//!
//! An erasure names its records by epoch and offset, so that what another history of the session has there is not touched.

use std::ops::Range;
use std::sync::Arc;

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::ERASE_RANGES_MAX;
use longwire_proto::meta::Change;
use longwire_proto::position::Lineage;
use longwire_proto::record::{Sealed, Sender, kind};
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use serde::{Deserialize, Serialize};

use crate::hub::Hub;
use crate::life::erase::erase;
use crate::life::progress;
use crate::store::{ListQuery, Listed, ReadLimit, Store, StoreError};

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

/// Finds every erasure that the logs of a store tell of. Answers the sessions that are damaged, each with what does not fit:
/// what they tell behind that place is missing.
///
/// # Errors
/// Those of listing the sessions.
pub async fn collect(
    store: &Arc<dyn Store>,
    mut found: impl FnMut(Erasure),
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
    found: &mut impl FnMut(Erasure),
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
                by_epoch(&session.lineage, &ranges, session.session.as_str()).for_each(&mut *found);
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

/// Does an erasure again, as far as the session has its records. Answers how many those are: none, when there is no such
/// session or epoch.
///
/// # Errors
/// [`ErrorCode::InvalidSessionId`], and those of [`erase`].
pub async fn repeat(hub: &Arc<Hub>, asker: &Sender, erasure: &Erasure) -> Result<u64, Error> {
    let session = SessionId::parse(&erasure.session).map_err(|error| {
        Error::new(ErrorCode::InvalidSessionId, format!("`{}`: {error}", erasure.session)).field("session")
    })?;
    let known = match progress(hub, &session).await {
        Ok(known) => known,
        Err(error) if error.code == ErrorCode::SessionNotFound => return Ok(0),
        Err(error) => return Err(error),
    };
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
        records += erase(hub, asker.clone(), &session, request).await?;
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
        assert!(serde_json::from_str::<Erasure>(r#"{"session":"a","epoch":2,"ranges":[],"all":1}"#).is_err());
    }
}
