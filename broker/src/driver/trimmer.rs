//! The trimming of one log, step by step: where it is to begin, a snapshot that covers that, the store's trim.

use std::sync::Arc;

use longwire_proto::record::Sealed;
use longwire_proto::retention::Retention;

use crate::request::ReplyTo;
use crate::store::reconcile::retry_read;
use crate::store::{LogId, ReadLimit, Store, StoreError, StoreFuture};

/// Records read at a time while it is found out where a log is to begin.
const PIECE: ReadLimit = ReadLimit { records: 4096, bytes: 1 << 20 };

/// Where a log is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The new start.
    pub(super) start: u64,
    /// Bytes of the log's own records below it.
    pub(super) freed_bytes: u64,
    /// The time of the record at the new start, in Unix milliseconds; `None` when there is none.
    pub(super) oldest_ms: Option<u64>,
}

/// What a log is trimmed to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish {
    /// This offset, and no further.
    Before(u64),
    /// What a policy keeps, seen from this time.
    Retained {
        /// The policy.
        retention: Retention,
        /// In Unix milliseconds. `None` while the clock is not to be trusted: then nothing is too old.
        now_ms: Option<u64>,
    },
}

/// A log as it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// The log.
    pub(super) log: LogId,
    /// Its first offset.
    pub(super) start: u64,
    /// Its end.
    pub(super) end: u64,
    /// The first offset that is its own.
    pub(super) own_from: u64,
    /// Bytes of its own records.
    pub(super) bytes: u64,
}

/// Where a trimming is.
pub(super) enum Stage {
    /// It is being found out where the log is to begin.
    Planning(StoreFuture<Plan>),
    /// A snapshot must be durable that needs nothing of what goes.
    Covering(Plan),
    /// The store drops the records.
    Storing(Plan, StoreFuture<()>),
}

/// A trimming at work.
pub(super) struct Trimming {
    /// Where it is.
    pub(super) stage: Stage,
    /// Who waits for it; nobody for one of the retention.
    pub(super) reply_to: Option<ReplyTo>,
}

/// Finds out where a log is to begin: reads from its start what must go, so the cost is that of what goes.
pub(super) async fn plan(store: Arc<dyn Store>, extent: Extent, wish: Wish) -> Result<Plan, StoreError> {
    let mut plan = Plan { start: extent.start, freed_bytes: 0, oldest_ms: None };
    while plan.start < extent.end {
        let chunk = retry_read(|| store.read(extent.log, plan.start, PIECE)).await?;
        if chunk.from != plan.start || chunk.records.is_empty() {
            let what = "records are missing".to_owned();
            return Err(StoreError::Corrupt { log: extent.log, offset: plan.start, what });
        }
        for record in &chunk.records {
            let time_ms = Sealed::parse(record).map(|sealed| sealed.time_ms).unwrap_or_default();
            if plan.start >= extent.end || !goes(wish, extent, plan, time_ms) {
                plan.oldest_ms = Some(time_ms);
                return Ok(plan);
            }
            if plan.start >= extent.own_from {
                plan.freed_bytes += record.len() as u64;
            }
            plan.start += 1;
        }
    }
    Ok(plan)
}

/// Whether the record at the start of what is left, of this time, goes.
fn goes(wish: Wish, extent: Extent, left: Plan, time_ms: u64) -> bool {
    match wish {
        Wish::Before(offset) => left.start < offset,
        Wish::Retained { retention: Retention { age_ms, bytes, records }, now_ms } => {
            let age = now_ms.map_or(0, |now_ms| now_ms.saturating_sub(time_ms));
            let kept_bytes = extent.bytes.saturating_sub(left.freed_bytes);
            age_ms.is_some_and(|age_ms| age > age_ms)
                || records.is_some_and(|records| extent.end - left.start > records)
                || bytes.is_some_and(|bytes| kept_bytes > bytes && left.start + 1 < extent.end)
        }
    }
}
