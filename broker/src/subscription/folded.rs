//! The folded view of a subscription: deliveries that cover as much as they may, and rest in between when they are asked to.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use longwire_proto::codec::DeliveryBody;
use longwire_proto::delta::Delta;
use longwire_proto::limits::DELIVERY_BYTES_MAX;
use tokio::time::Instant;

use crate::filter::{Filter, Passed};
use crate::fold::Folding;
use crate::rests::Rest;
use crate::store::reconcile::retry_read;
use crate::store::{Chunk, LogId, ReadLimit, Store, StoreError};
use crate::subscription::{CATCH_UP_RECORDS, Event, Subscription};
use crate::tail::{TailBatch, TailRead, TailState};

/// Chunks that one delivery is made of at most: a reader sees that it comes ahead, and what is read is not thrown away for ever
/// while records are erased.
const CHUNKS_MAX: usize = 64;

/// How a subscription folds.
pub(super) struct Folded {
    /// How long it rests after a delivery, and where; none when it never does.
    rollup: Option<(Duration, Rest)>,
    until: Option<Instant>,
    /// What is below was looked at while it rests: it can wait.
    looked: u64,
}

impl Folded {
    pub(super) fn new(rollup: Option<(Duration, Rest)>) -> Self {
        Self { rollup, until: None, looked: 0 }
    }

    /// A delivery has come to the end of what there is.
    fn begin_rest(&mut self) {
        self.until = self.rollup.as_ref().map(|(rollup, _)| Instant::now() + *rollup);
    }

    fn end_rest(&mut self) {
        self.until = None;
        if let Some((_, rest)) = &self.rollup {
            rest.end();
        }
    }
}

/// What was read and folded.
pub(super) struct Gathered {
    pub(super) from: u64,
    pub(super) next: u64,
    pub(super) passed: Passed,
}

/// Whether a record can wait: a delta with which nothing ends.
fn can_wait(record: &[u8]) -> bool {
    Delta::parse(record).is_some_and(|delta| !delta.is_erased && delta.close.is_empty())
}

impl Subscription {
    /// The delivery that begins with this batch of the tail, and has what is behind it as far as it may; none while it rests.
    pub(super) fn poll_folded(&mut self, first: Arc<TailBatch>, context: &mut Context<'_>) -> Poll<Event> {
        if self.rests(context) {
            return Poll::Pending;
        }
        let (from, bytes_max) = (self.next, self.ramp.bytes_max());
        let mut folding = Folding::default();
        let (mut batch, mut batches, mut next) = (Arc::clone(&first), 1, from);
        let is_all = loop {
            next = folding.take(next, batch.part(next, usize::MAX), self.filter.as_ref(), bytes_max);
            if next < batch.next() {
                break false;
            }
            // What the tail keeps is bounded, and so is this.
            match self.reader.read(next, context) {
                TailRead::Batch(more) if more.epoch() == first.epoch() => batch = more,
                TailRead::AtEnd(_) => break true,
                TailRead::Batch(_) | TailRead::Behind(_) => break false,
            }
            batches += 1;
        };
        if let Some(folded) = self.folded.as_mut().filter(|_| is_all) {
            folded.begin_rest();
        }
        if batches == 1 && is_all && folding.is_plain() && self.filter.is_none() {
            // As it is, and as others have it.
            let part = first.part(from, usize::MAX);
            let bytes = part.iter().map(Bytes::len).sum();
            self.ramp.given(bytes);
            return Poll::Ready(self.deliver(first.body(self.encoding, from, part), next, bytes));
        }
        let passed = folding.finish();
        self.ramp.given(passed.records.iter().map(Bytes::len).sum());
        Poll::Ready(self.deliver_folded(Gathered { from, next, passed }, first.epoch()))
    }

    /// Whether nothing is to be delivered yet. It is not asked again before the time has come, or more is there.
    fn rests(&mut self, context: &mut Context<'_>) -> bool {
        let Some(folded) = &mut self.folded else { return false };
        let (Some(until), Some((_, rest))) = (folded.until, &folded.rollup) else { return false };
        if Instant::now() < until {
            loop {
                folded.looked = folded.looked.max(self.next);
                match self.reader.read(folded.looked, context) {
                    TailRead::Batch(batch) => {
                        let passes =
                            |record: &Bytes| self.filter.as_ref().is_none_or(|filter| filter.passes(record));
                        let part = batch.part(folded.looked, usize::MAX);
                        if part.iter().any(|record| !can_wait(record) && passes(record)) {
                            break;
                        }
                        folded.looked = batch.next();
                    }
                    TailRead::AtEnd(TailState::Live(progress)) if progress.end == folded.looked => {
                        rest.until(until, context.waker());
                        return true;
                    }
                    TailRead::AtEnd(_) | TailRead::Behind(_) => break,
                }
            }
        }
        folded.end_rest();
        false
    }

    /// A delivery of its own.
    pub(super) fn deliver_folded(&mut self, gathered: Gathered, epoch: u64) -> Event {
        let Gathered { from, next, passed: Passed { records, offsets } } = gathered;
        let bytes = records.iter().map(Bytes::len).sum();
        let is_dense = records.len() as u64 == next - from;
        let offsets = if is_dense { Vec::new() } else { offsets };
        let body = DeliveryBody::sparse(self.encoding, epoch, from..next, &records, offsets);
        self.deliver(body, next, bytes)
    }
}

/// Reads `[from, until)` of the store chunk by chunk, for as long as what it folds to fits into a delivery. A chunk that begins
/// elsewhere, or has nothing, is for the caller to tell about, now or the next time.
pub(super) async fn gather(
    store: Arc<dyn Store>,
    log: LogId,
    (from, until): (u64, u64),
    filter: Option<Filter>,
    bytes_max: usize,
) -> Result<Result<Gathered, Chunk>, StoreError> {
    let (mut folding, mut next) = (Folding::default(), from);
    for _ in 0..CHUNKS_MAX {
        let records = usize::try_from(until - next).unwrap_or(usize::MAX).min(CATCH_UP_RECORDS);
        let limit = ReadLimit { records, bytes: DELIVERY_BYTES_MAX };
        let chunk = match retry_read(|| store.read(log, next, limit)).await {
            Ok(chunk) => chunk,
            Err(error) if next == from => return Err(error),
            Err(_) => break,
        };
        if chunk.from != next || chunk.records.is_empty() {
            if next == from {
                return Ok(Err(chunk));
            }
            break;
        }
        next = folding.take(next, &chunk.records, filter.as_ref(), bytes_max);
        if next < chunk.next() || next >= until {
            break;
        }
        // A store that has it in memory would keep others from their turns.
        tokio::task::yield_now().await;
    }
    Ok(Ok(Gathered { from, next, passed: folding.finish() }))
}
