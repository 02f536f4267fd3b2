//! Forking: a session whose log begins as that of another one, without copying it.

use std::sync::Arc;

use longwire_core::command::{Description, Reply};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::meta::{Change, Meta};
use longwire_proto::position::LineageEntry;
use longwire_proto::record::{Sealed, Sender};
use longwire_proto::session_id::SessionId;
use longwire_proto::state_set::set_record;
use longwire_proto::wire;

use crate::hub::Hub;
use crate::life::{describe, offset, progress};
use crate::request::{Begin, Operation};
use crate::store::ReadLimit;
use crate::store::reconcile::retry_read;
use crate::store_error::in_session;
use crate::tail::Progress;

/// Forks a session, and answers what the new one is like.
///
/// # Errors
/// [`ErrorCode::SessionNotFound`], [`ErrorCode::SessionExists`], [`ErrorCode::InvalidPosition`],
/// [`ErrorCode::ForeignPosition`], [`ErrorCode::OutOfRange`], and those of the metadata.
pub async fn fork(
    hub: &Arc<Hub>,
    sender: Sender,
    session: &SessionId,
    request: wire::ForkSession,
) -> Result<Description, Error> {
    let wire::ForkSession { request: _, session: _, from_session, at, meta } = request;
    let parent = SessionId::parse(&from_session).map_err(|error| {
        Error::new(ErrorCode::InvalidSessionId, format!("`from_session`: {error}")).field("from_session")
    })?;
    let meta = meta.map(Meta::from_wire).transpose()?;
    let known = progress(hub, &parent).await.map_err(|error| error.field("from_session"))?;
    let base = if at.is_empty() { known.end } else { offset(&at, "at", &known)? };
    let parent = describe(hub, &parent).await?;
    let meta = meta.unwrap_or_else(|| parent.summary.meta.clone());
    let change = Change::Origin { session: from_session, meta, imported: false };
    // What was set by records that are no longer there, and by none since.
    let kept = parent.view.state.iter().filter(|(_, entry)| entry.revision < known.start);
    let kept = kept.map(|(key, entry)| set_record(key, &entry.value));
    let records = std::iter::once(change.to_record()).chain(kept).collect();
    let begin = Begin {
        lineage: lineage_below(known.lineage.entries(), base),
        start: known.start,
        base,
        epoch_from: base,
        vacant: 0,
        shares: (known.start < base).then_some(known.log),
        sender,
        records,
        last_time_ms: time_before(hub, &known, base).await?,
        wake_after_ms: None,
    };
    match hub.ask(session, Operation::Begin(Box::new(begin))).await? {
        Some(Reply::Described(description)) => Ok(*description),
        _ => Err(Error::new(ErrorCode::Internal, "the session did not describe itself")),
    }
}

/// The epochs of what is below an offset.
fn lineage_below(entries: &[LineageEntry], base: u64) -> Vec<LineageEntry> {
    let within = |(index, entry): &(usize, &LineageEntry)| *index == 0 || entry.from_offset < base;
    entries.iter().enumerate().filter(within).map(|(_, entry)| *entry).collect()
}

/// The time of the last record below an offset; 0 when there is none.
async fn time_before(hub: &Arc<Hub>, known: &Progress, base: u64) -> Result<u64, Error> {
    if base <= known.start {
        return Ok(0);
    }
    let one = ReadLimit { records: 1, bytes: usize::MAX };
    let chunk = retry_read(|| hub.store().read(known.log, base - 1, one)).await;
    let chunk = chunk.map_err(|error| in_session(&known.session, &error))?;
    let last = chunk.records.first().and_then(|record| Sealed::parse(record).ok());
    Ok(last.map_or(0, |sealed| sealed.time_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_inherits_the_epochs_below_it() {
        let entry = |epoch, from_offset| LineageEntry { epoch, from_offset };
        let entries = [entry(2, 0), entry(5, 10), entry(7, 20)];
        assert_eq!(lineage_below(&entries, 0), [entry(2, 0)]);
        assert_eq!(lineage_below(&entries, 10), [entry(2, 0)]);
        assert_eq!(lineage_below(&entries, 11), [entry(2, 0), entry(5, 10)]);
        assert_eq!(lineage_below(&entries, 99), entries);
    }
}
