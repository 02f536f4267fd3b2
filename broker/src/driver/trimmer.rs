//! The trimming of one log, step by step: where it is to begin, a snapshot that covers that, the store's trim.

use std::sync::Arc;

use longwire_proto::record::Sealed;
use longwire_proto::retention::Retention;

use crate::driver::runs::{Run, Runs};
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
    /// A time that the record at the new start is not older than, in Unix milliseconds; `None` when there is none.
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

/// Finds out where a log is to begin. What `runs` tell of it is not read; of the rest is read what must go, so the cost is that of
/// what goes. What a policy says of a part of a run waits until no whole one goes: a session that is used much reads nothing, and
/// one that is not is trimmed to the record.
pub(super) async fn plan(
    store: Arc<dyn Store>,
    extent: Extent,
    wish: Wish,
    runs: Runs,
) -> Result<Plan, StoreError> {
    let mut plan = Plan { start: extent.start, freed_bytes: 0, oldest_ms: None };
    while plan.start < extent.end {
        if skip(&mut plan, wish, extent, &runs) && matches!(wish, Wish::Retained { .. }) {
            return Ok(plan);
        }
        let from = plan.start;
        if from >= extent.end {
            break;
        }
        let chunk = retry_read(|| store.read(extent.log, from, PIECE)).await?;
        if chunk.from != from || chunk.records.is_empty() {
            let what = "records are missing".to_owned();
            return Err(StoreError::Corrupt { log: extent.log, offset: from, what });
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
            plan.oldest_ms = None;
            if plan.start == runs.from() {
                break;
            }
        }
    }
    Ok(plan)
}

/// Goes on behind the runs that go as a whole. Whether there were any.
fn skip(plan: &mut Plan, wish: Wish, extent: Extent, runs: &Runs) -> bool {
    let from = plan.start;
    for run in runs.beginning_at(from) {
        if run.until > extent.end || !goes_whole(wish, extent, *plan, run) {
            break;
        }
        plan.start = run.until;
        plan.freed_bytes += run.bytes;
        // The next one is no older; when it is looked at, its own time is found.
        plan.oldest_ms = (run.until < extent.end).then_some(run.last_time_ms);
    }
    plan.start > from
}

/// Whether all records of the run at the start of what is left go: whether the last one does, of which the others are the elders.
fn goes_whole(wish: Wish, extent: Extent, left: Plan, run: Run) -> bool {
    match wish {
        Wish::Before(offset) => run.until <= offset,
        Wish::Retained { retention: Retention { age_ms, bytes, records }, now_ms } => {
            let age = now_ms.map_or(0, |now_ms| now_ms.saturating_sub(run.last_time_ms));
            let kept = extent.end - run.until;
            let kept_bytes = extent.bytes.saturating_sub(left.freed_bytes + run.bytes);
            age_ms.is_some_and(|age_ms| age > age_ms)
                || records.is_some_and(|records| kept >= records)
                || bytes.is_some_and(|bytes| kept_bytes >= bytes && kept > 0)
        }
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::conformance::Session;
    use crate::store::memory::MemoryStore;

    /// A log whose first records were there before, and whose others were appended batch by batch.
    #[derive(Clone, Debug)]
    struct Log {
        before: Vec<usize>,
        batches: Vec<Vec<usize>>,
        trimmed: prop::sample::Index,
    }

    fn log() -> impl Strategy<Value = Log> {
        let bytes = || prop_oneof![1..400_usize, 1..9_000_usize];
        let before = prop::collection::vec(bytes(), 0..6);
        let batches = prop::collection::vec(prop::collection::vec(bytes(), 0..6), 0..40);
        (before, batches, any::<prop::sample::Index>()).prop_map(|(before, batches, trimmed)| Log {
            before,
            batches,
            trimmed,
        })
    }

    /// Where a list of records is to begin, looked at one by one.
    fn naive(records: &[usize], mut extent: Extent, wish: Wish) -> (u64, u64) {
        let start = extent.start;
        while extent.start < extent.end
            && goes(wish, extent, Plan { start: extent.start, freed_bytes: 0, oldest_ms: None }, 0)
        {
            extent.bytes -= records[extent.start as usize] as u64;
            extent.start += 1;
        }
        (extent.start, records[start as usize..extent.start as usize].iter().sum::<usize>() as u64)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(120))]

        /// A plan never trims more than is wished for, and once there is nothing more to plan all of that is gone.
        #[test]
        fn plans_come_to_what_looking_at_every_record_does(
            log in log(),
            bytes in prop::option::of(0..60_000_u64),
            records in prop::option::of(1..90_u64),
            before in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let store = Arc::new(MemoryStore::default());
                let mut session = Session::open(&*store, "a").await;
                let mut lengths = Vec::new();
                let mut runs = Runs::new(log.before.len() as u64);
                for (number, batch) in [&log.before].into_iter().chain(&log.batches).enumerate() {
                    let texts: Vec<String> = batch.iter().map(|bytes| "x".repeat(*bytes)).collect();
                    session.append(&*store, &texts.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
                    lengths.extend(batch);
                    if number > 0 {
                        let bytes = batch.iter().sum::<usize>() as u64;
                        runs.appended(Run { until: session.end, bytes, last_time_ms: 0 });
                    }
                }
                let bytes_from = |start: u64| lengths[start as usize..].iter().sum::<usize>() as u64;
                let end = lengths.len() as u64;
                let start = log.trimmed.index(lengths.len() + 1) as u64;
                runs.trimmed(start, bytes_from(start));
                let bytes_kept = bytes_from(start);
                let mut extent =
                    Extent { log: session.opened.log, start, end, own_from: 0, bytes: bytes_kept };
                let wish = match before {
                    Some(before) => Wish::Before(start + before.index((end - start) as usize + 1) as u64),
                    None => Wish::Retained { retention: Retention { age_ms: None, bytes, records }, now_ms: None },
                };
                let (wished, freed) = naive(&lengths, extent, wish);
                let mut freed_bytes = 0;
                loop {
                    let plan = plan(Arc::clone(&store) as Arc<dyn Store>, extent, wish, runs.clone()).await.unwrap();
                    prop_assert!(plan.start <= wished);
                    prop_assert_eq!(plan.freed_bytes, bytes_from(extent.start) - bytes_from(plan.start));
                    prop_assert_eq!(plan.oldest_ms.is_some(), plan.start < end);
                    if plan.start == extent.start {
                        break;
                    }
                    freed_bytes += plan.freed_bytes;
                    extent = Extent { start: plan.start, bytes: bytes_from(plan.start), ..extent };
                    runs.trimmed(plan.start, extent.bytes);
                    if matches!(wish, Wish::Before(_)) {
                        prop_assert_eq!(plan.start, wished, "what somebody asks for is not put off");
                    }
                }
                prop_assert_eq!((extent.start, freed_bytes), (wished, freed));
                Ok(())
            })?;
        }
    }

    /// Nothing can be read of a log that the store does not know.
    #[tokio::test]
    async fn what_a_busy_session_appended_is_not_read() {
        let mut runs = Runs::new(0);
        for until in 1..=1000 {
            runs.appended(Run { until, bytes: 300, last_time_ms: until });
        }
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let extent = Extent { log: LogId(77), start: 0, end: 1000, own_from: 0, bytes: 300_000 };
        let by = |retention, now_ms| Wish::Retained { retention, now_ms };
        let bytes = Retention { bytes: Some(100_000), ..Retention::default() };
        let records = Retention { records: Some(500), ..Retention::default() };
        let age = Retention { age_ms: Some(500), ..Retention::default() };
        for (wish, most) in [(by(bytes, None), 666), (by(records, None), 500), (by(age, Some(1200)), 699)] {
            let plan = plan(Arc::clone(&store), extent, wish, runs.clone()).await.unwrap();
            assert!(plan.start <= most && plan.start + 20 > most, "{wish:?}: {plan:?}");
            assert_eq!((plan.freed_bytes, plan.oldest_ms), (300 * plan.start, Some(plan.start)));
        }
        let unknown = plan(store, extent, by(bytes, None), Runs::new(1000)).await;
        assert!(unknown.is_err(), "what is not known is read");
    }
}
