//! The first batch of a log that takes another one's records over.

use longwire_core::state::State;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::LINEAGE_ENTRIES_MAX;
use longwire_proto::position::{COUNTER_MAX, Lineage, LineageEntry};
use longwire_proto::record::{Stamp, seal};

use crate::request::Begin;
use crate::store::{Batch, BatchId, Origin, Projection, Reservation};

/// The batch. `vacant` is the first epoch that the name has free.
///
/// # Errors
/// [`ErrorCode::OutOfRange`] when the epochs of what is taken over are none of a log.
pub(super) fn batch(begin: &Begin, vacant: u64, id: BatchId, now_ms: u64) -> Result<Batch, Error> {
    let lineage = lineage(begin, vacant.max(begin.vacant))?;
    let time_ms = begin.last_time_ms.max(now_ms);
    let stamp = Stamp { time_ms, sender: begin.sender.clone(), producer: None };
    let records = seal(&stamp, &begin.records);
    let mut state = State::beginning_at(lineage.clone(), begin.base);
    records.iter().for_each(|record| state.fold(record));
    // What is taken over may be too old already.
    let ages = state.summary().meta.retention.age_ms.map(|_| 0);
    let wake_ms = ages.or(begin.wake_after_ms.map(|after_ms| now_ms.saturating_add(after_ms)));
    let projection = state.summary().projection(time_ms, wake_ms);
    Ok(Batch {
        id,
        base: begin.base,
        records,
        last_time_ms: time_ms,
        projection: Some(Projection {
            row: projection.row,
            terms: projection.terms,
            deadline_ms: projection.deadline_ms,
        }),
        origin: Some(Origin { lineage, start: begin.start, shares: begin.shares }),
        erase: Vec::new(),
        reservation: Reservation::none(),
    })
}

fn lineage(begin: &Begin, vacant: u64) -> Result<Lineage, Error> {
    let refuse = |what: &str| Error::new(ErrorCode::OutOfRange, what.to_owned()).field("lineage");
    if vacant > 0 {
        return Ok(Lineage::beginning(vacant));
    }
    let mut entries = begin.lineage.clone();
    if entries.len() >= LINEAGE_ENTRIES_MAX {
        return Err(
            refuse("the log has been forked, imported and restored too often").limit(LINEAGE_ENTRIES_MAX)
        );
    }
    let epoch = entries.last().map_or(0, |last| last.epoch.saturating_add(1));
    if epoch >= COUNTER_MAX {
        return Err(refuse("the epochs of the log are used up"));
    }
    entries.push(LineageEntry { epoch, from_offset: begin.epoch_from });
    Lineage::from_entries(entries).ok_or_else(|| refuse("epochs and offsets must rise, from offset 0 on"))
}
