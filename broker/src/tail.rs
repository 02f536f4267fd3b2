//! The tail of a live session: what its driver shares with everyone who reads it.
//!
//! The driver is the only writer. It keeps the last durable records in memory, as the deliveries that all subscribers
//! share, beside where the session stands; both change under one lock. A reader that finds its offset below the tail reads the
//! store; one that finds it at the end is woken by the next change, for which it registers under that lock; so the hand-over from
//! catch-up to live has no gap to fall into.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::store::LogId;
use bytes::Bytes;
use longwire_core::entity::view::View;
use longwire_proto::codec::{DeliveryBody, Encoding};
use longwire_proto::error::Error;
use longwire_proto::limits::DELIVERY_BYTES_MAX;
use longwire_proto::position::Lineage;
use longwire_proto::session_id::SessionId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of records that the tail of one session keeps. A reader that lags further reads the store.
pub const TAIL_BYTES_MAX: usize = 1 << 20;
/// Bytes of records that all tails keep; above it a session keeps only its last delivery.
pub const TAILS_BYTES_MAX: usize = 256 << 20;

/// Deliveries that are read of the store before they can be sent, by all readers together; each has at most one. A reader beyond
/// them reads its next one when it can be sent.
pub const READ_AHEAD_MAX: usize = 64;

/// Where a session stands, as far as it is durable.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Its name.
    pub session: SessionId,
    /// Its log.
    pub log: LogId,
    /// The log's epochs.
    pub lineage: Arc<Lineage>,
    /// First retained offset.
    pub start: u64,
    /// Next offset to be assigned.
    pub end: u64,
    /// Whether the session takes no more publishes: nothing comes after `end`.
    pub closed: bool,
    /// What is open at `end`.
    pub view: Arc<View>,
}

impl Progress {
    /// The epoch of new records.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.lineage.epoch()
    }

    /// Whether the session exists: it has at least one record.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.end > 0
    }
}

/// The state of a tail.
#[derive(Clone, Debug, Default)]
pub enum TailState {
    /// The session is being loaded.
    #[default]
    Loading,
    /// Records are delivered up to this progress.
    Live(Progress),
    /// Nothing more comes from this tail.
    Ended(Error),
}

/// Consecutive records, encoded once for everyone.
#[derive(Debug)]
pub struct TailBatch {
    epoch: u64,
    from: u64,
    records: Vec<Bytes>,
    bytes: usize,
    bodies: [OnceLock<Result<DeliveryBody, Error>>; Encoding::ALL.len()],
}

impl TailBatch {
    fn new(epoch: u64, from: u64, records: Vec<Bytes>) -> Self {
        let bytes = records.iter().map(Bytes::len).sum();
        Self { epoch, from, records, bytes, bodies: Default::default() }
    }

    /// The offset after the last record.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.from + self.records.len() as u64
    }

    /// The epoch of its records.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The records from `from` on that have at most `bytes_max` bytes together, except that one is always there.
    #[must_use]
    pub fn part(&self, from: u64, bytes_max: usize) -> &[Bytes] {
        let skip = usize::try_from(from.saturating_sub(self.from)).unwrap_or(usize::MAX);
        let rest = &self.records[skip.min(self.records.len())..];
        if self.bytes <= bytes_max {
            return rest;
        }
        let mut bytes = 0;
        let fitting = rest.iter().take_while(|record| {
            bytes += record.len();
            bytes <= bytes_max
        });
        &rest[..fitting.count().max(1).min(rest.len())]
    }

    /// The delivery of a part that begins at `from`: the shared one when that is all of it.
    ///
    /// # Errors
    /// As [`DeliveryBody::new`].
    pub fn body(&self, encoding: Encoding, from: u64, part: &[Bytes]) -> Result<DeliveryBody, Error> {
        if part.len() == self.records.len() {
            let slot = &self.bodies[encoding as usize];
            return slot
                .get_or_init(|| DeliveryBody::new(encoding, self.epoch, self.from, &self.records))
                .clone();
        }
        DeliveryBody::new(encoding, self.epoch, from, part)
    }
}

/// What a tail has for a reader.
#[derive(Debug)]
pub enum TailRead {
    /// The batch that has the reader's offset.
    Batch(Arc<TailBatch>),
    /// The reader is at the end of a tail in this state.
    AtEnd(TailState),
    /// The reader is below what the tail keeps: it reads the store, up to this end. The store may have more already; the
    /// session's driver has not taken note of that.
    Behind(u64),
}

#[derive(Debug, Default)]
struct Kept {
    state: TailState,
    batches: VecDeque<Arc<TailBatch>>,
    bytes: usize,
    end: u64,
    /// Who is to be woken: a place for each reader.
    waiting: Vec<Option<Waker>>,
    /// The places that no reader has.
    free: Vec<usize>,
    retired: bool,
}

impl Kept {
    fn readers(&self) -> usize {
        self.waiting.len() - self.free.len()
    }

    /// Whoever waits, to be woken once the lock is given back.
    fn take_waiting(&mut self) -> Vec<Waker> {
        self.waiting.iter_mut().filter_map(Option::take).collect()
    }

    fn enter(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.waiting.push(None);
            self.waiting.len() - 1
        })
    }

    /// What is given back is for dropping once the lock is given back.
    fn leave(&mut self, place: usize) -> Option<Waker> {
        let waker = self.waiting[place].take();
        self.free.push(place);
        if self.readers() == 0 {
            (self.waiting, self.free) = (Vec::new(), Vec::new());
        }
        waker
    }

    fn wait(&mut self, place: usize, context: &Context<'_>) {
        let waker = &mut self.waiting[place];
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
    }
}

/// What all tails keep, and what their readers have read ahead.
#[derive(Debug)]
pub struct TailBudget {
    bytes: AtomicUsize,
    ahead: Arc<Semaphore>,
}

impl Default for TailBudget {
    fn default() -> Self {
        Self { bytes: AtomicUsize::new(0), ahead: Arc::new(Semaphore::new(READ_AHEAD_MAX)) }
    }
}

/// The tail of one live session.
#[derive(Debug)]
pub struct Tail {
    kept: Mutex<Kept>,
    rewrites: AtomicU64,
    budget: Arc<TailBudget>,
}

impl Tail {
    /// The tail of a session that is being loaded.
    #[must_use]
    pub fn new(budget: Arc<TailBudget>) -> Self {
        Self { kept: Mutex::default(), rewrites: AtomicU64::new(0), budget }
    }

    /// How often records were replaced by others: who has read of the store before that may have the former ones.
    #[must_use]
    pub fn rewrites(&self) -> u64 {
        self.rewrites.load(Ordering::Acquire)
    }

    /// The permit to read a delivery before it can be sent; it is given back when that is taken.
    #[must_use]
    pub fn may_read_ahead(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.budget.ahead).try_acquire_owned().ok()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics while it is held; were that to change, what is kept is still whole between statements.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says where the session stands after it was loaded. What was kept is dropped: readers go by the store.
    pub fn loaded(&self, progress: Progress) {
        let mut kept = self.kept();
        self.drop_batches(&mut kept, 0);
        kept.end = progress.end;
        kept.state = TailState::Live(progress);
        wake(kept);
    }

    /// Adds records that became durable.
    pub fn extend(&self, from: u64, records: Vec<Bytes>, closed: bool, view: Arc<View>) {
        let mut kept = self.kept();
        let end = from + records.len() as u64;
        let TailState::Live(progress) = &mut kept.state else { return };
        progress.end = end;
        progress.closed |= closed;
        progress.view = view;
        let epoch = progress.epoch();
        kept.end = end;
        if kept.readers() > 0 {
            for batch in deliveries(epoch, from, records) {
                kept.bytes += batch.bytes;
                self.budget.bytes.fetch_add(batch.bytes, Ordering::Relaxed);
                kept.batches.push_back(Arc::new(batch));
            }
            let over = self.budget.bytes.load(Ordering::Relaxed) > TAILS_BYTES_MAX;
            self.drop_batches(&mut kept, if over { DELIVERY_BYTES_MAX } else { TAIL_BYTES_MAX });
        } else {
            self.drop_batches(&mut kept, 0);
        }
        wake(kept);
    }

    /// Drops what is kept: readers go by the store, which has other bytes now.
    pub fn forget(&self) {
        let mut kept = self.kept();
        self.rewrites.fetch_add(1, Ordering::Release);
        self.drop_batches(&mut kept, 0);
    }

    /// The records below `start` are gone.
    pub fn trimmed(&self, start: u64) {
        let mut kept = self.kept();
        if let TailState::Live(progress) = &mut kept.state {
            progress.start = progress.start.max(start);
        }
        wake(kept);
    }

    /// Ends the tail for every reader, after what they have not read yet.
    pub fn end(&self, error: Error) {
        let mut kept = self.kept();
        kept.state = TailState::Ended(error);
        wake(kept);
    }

    /// Where the session stands; `None` when it is not loaded or has ended.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        match &self.kept().state {
            TailState::Live(progress) => Some(progress.clone()),
            TailState::Loading | TailState::Ended(_) => None,
        }
    }

    /// Marks the tail as left by its driver, unless somebody reads it. Nobody can begin to read it after that.
    pub fn retire(&self) -> bool {
        let mut kept = self.kept();
        kept.retired |= kept.readers() == 0;
        kept.retired
    }

    /// Ends the tail for new readers even while it has some.
    pub fn retire_now(&self) {
        self.kept().retired = true;
    }

    /// How many read it.
    #[must_use]
    pub fn readers(&self) -> usize {
        self.kept().readers()
    }

    /// Begins to read; `None` when the driver has left.
    #[must_use]
    pub fn attach(self: &Arc<Self>) -> Option<TailReader> {
        let mut kept = self.kept();
        if kept.retired {
            return None;
        }
        let place = kept.enter();
        Some(TailReader { tail: Arc::clone(self), place })
    }

    fn drop_batches(&self, kept: &mut Kept, limit: usize) {
        while kept.bytes > limit && (limit == 0 || kept.batches.len() > 1) {
            let Some(batch) = kept.batches.pop_front() else { break };
            kept.bytes -= batch.bytes;
            self.budget.bytes.fetch_sub(batch.bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let mut kept = std::mem::take(&mut *self.kept());
        self.drop_batches(&mut kept, 0);
    }
}

/// Gives the lock back, and wakes whoever waits for a change.
fn wake(mut kept: MutexGuard<'_, Kept>) {
    let waiting = kept.take_waiting();
    drop(kept);
    waiting.into_iter().for_each(Waker::wake);
}

fn deliveries(epoch: u64, mut from: u64, records: Vec<Bytes>) -> Vec<TailBatch> {
    let (mut batches, mut gathered, mut bytes) = (Vec::new(), Vec::new(), 0);
    for record in records {
        if bytes + record.len() > DELIVERY_BYTES_MAX && !gathered.is_empty() {
            let batch = TailBatch::new(epoch, from, std::mem::take(&mut gathered));
            from = batch.next();
            batches.push(batch);
            bytes = 0;
        }
        bytes += record.len();
        gathered.push(record);
    }
    if !gathered.is_empty() {
        batches.push(TailBatch::new(epoch, from, gathered));
    }
    batches
}

/// One reader of a tail. The session stays resident while it lives.
#[derive(Debug)]
pub struct TailReader {
    tail: Arc<Tail>,
    place: usize,
}

impl TailReader {
    /// What the tail has at `next`. Who is at the end is woken when that changes.
    pub fn read(&mut self, next: u64, context: &Context<'_>) -> TailRead {
        let mut kept = self.tail.kept();
        if next >= kept.end {
            kept.wait(self.place, context);
            return TailRead::AtEnd(kept.state.clone());
        }
        let index = kept.batches.partition_point(|batch| batch.next() <= next);
        match kept.batches.get(index) {
            Some(batch) if batch.from <= next => TailRead::Batch(Arc::clone(batch)),
            _ => TailRead::Behind(kept.end),
        }
    }

    /// Waits until the session is loaded.
    ///
    /// # Errors
    /// Why it could not be.
    pub async fn loaded(&mut self) -> Result<Progress, Error> {
        poll_fn(|context| {
            let mut kept = self.tail.kept();
            match &kept.state {
                TailState::Live(progress) => Poll::Ready(Ok(progress.clone())),
                TailState::Ended(error) => Poll::Ready(Err(error.clone())),
                TailState::Loading => {
                    kept.wait(self.place, context);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The tail that is read.
    #[must_use]
    pub fn tail(&self) -> &Arc<Tail> {
        &self.tail
    }
}

impl Drop for TailReader {
    fn drop(&mut self) {
        let waker = self.tail.kept().leave(self.place);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(end: u64) -> Arc<Tail> {
        let tail = Arc::new(Tail::new(Arc::default()));
        let lineage = Arc::new(Lineage::beginning(0));
        tail.loaded(Progress {
            session: SessionId::parse("a").unwrap(),
            log: LogId(1),
            lineage,
            start: 0,
            end,
            closed: false,
            view: Arc::default(),
        });
        tail
    }

    fn read(reader: &mut TailReader, next: u64) -> TailRead {
        reader.read(next, &Context::from_waker(Waker::noop()))
    }

    /// Counts how often somebody was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_is_at_the_end_is_woken_once_by_a_change_and_nobody_else_is() {
        let tail = live(5);
        let woken: [Arc<Woken>; 3] = Default::default();
        let mut readers = woken.each_ref().map(|_| tail.attach().unwrap());
        let look = |reader: &mut TailReader, woken: &Arc<Woken>, next| {
            reader.read(next, &Context::from_waker(&Waker::from(Arc::clone(woken))))
        };
        let times = || woken.each_ref().map(|woken| woken.0.load(Ordering::Relaxed));
        for (reader, woken) in readers.iter_mut().zip(&woken).take(2) {
            assert!(matches!(look(reader, woken, 5), TailRead::AtEnd(_)));
            assert!(matches!(look(reader, woken, 5), TailRead::AtEnd(_)));
        }
        assert!(matches!(look(&mut readers[2], &woken[2], 4), TailRead::Behind(_)));
        tail.extend(5, records(1, 10), false, Arc::default());
        assert_eq!(times(), [1, 1, 0]);
        tail.extend(6, records(1, 10), false, Arc::default());
        assert_eq!(times(), [1, 1, 0], "they have not looked since");
        let [first, second, third] = readers;
        drop((first, third));
        let mut again = tail.attach().unwrap();
        assert!(matches!(look(&mut again, &woken[2], 7), TailRead::AtEnd(_)));
        tail.trimmed(3);
        assert_eq!(times(), [1, 1, 1], "a place that was left is another reader's");
        assert_eq!(tail.readers(), 2);
        drop((second, again));
        assert!(tail.retire());
    }

    fn records(count: usize, bytes: usize) -> Vec<Bytes> {
        vec![Bytes::from(vec![0; bytes]); count]
    }

    #[test]
    fn a_reader_finds_its_batch_its_end_or_the_store() {
        let tail = live(5);
        let mut reader = tail.attach().unwrap();
        assert!(matches!(read(&mut reader, 4), TailRead::Behind(_)));
        assert!(matches!(read(&mut reader, 5), TailRead::AtEnd(TailState::Live(_))));
        tail.extend(5, records(3, 10), false, Arc::default());
        tail.extend(8, records(1, 10), false, Arc::default());
        let TailRead::Batch(batch) = read(&mut reader, 6) else { panic!("offset 6 is kept") };
        assert_eq!((batch.from, batch.next()), (5, 8));
        assert!(matches!(read(&mut reader, 8), TailRead::Batch(batch) if batch.from == 8));
        assert!(matches!(read(&mut reader, 9), TailRead::AtEnd(TailState::Live(_))));
        assert!(matches!(read(&mut reader, 4), TailRead::Behind(_)));
    }

    #[test]
    fn the_bytes_of_a_delivery_are_made_once_for_everyone() {
        let tail = live(0);
        let mut readers = [tail.attach().unwrap(), tail.attach().unwrap()];
        tail.extend(0, vec![Bytes::from_static(&[0x92, 0x01, 0x01, b'x']); 3], false, Arc::default());
        for encoding in Encoding::ALL {
            let shared = readers.each_mut().map(|reader| match read(reader, 0) {
                TailRead::Batch(batch) => {
                    batch.body(encoding, 0, batch.part(0, usize::MAX)).unwrap().shared().as_ptr()
                }
                other => panic!("{other:?}"),
            });
            assert_eq!(shared[0], shared[1]);
        }
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let budget = Arc::new(TailBudget::default());
        let tail = Arc::new(Tail::new(Arc::clone(&budget)));
        let lineage = Arc::new(Lineage::beginning(0));
        tail.loaded(Progress {
            session: SessionId::parse("a").unwrap(),
            log: LogId(1),
            lineage,
            start: 0,
            end: 0,
            closed: false,
            view: Arc::default(),
        });
        let mut reader = tail.attach().unwrap();
        for round in 0..100 {
            tail.extend(round * 10, records(10, 10_000), false, Arc::default());
            assert!(budget.bytes.load(Ordering::Relaxed) <= TAIL_BYTES_MAX);
        }
        assert!(matches!(read(&mut reader, 0), TailRead::Behind(_)));
        assert!(matches!(read(&mut reader, 999), TailRead::Batch(_)));
        drop(reader);
        tail.extend(1000, records(1, 10), false, Arc::default());
        assert_eq!(budget.bytes.load(Ordering::Relaxed), 0, "nobody reads: nothing is kept");
    }

    #[test]
    fn large_batches_are_delivered_in_parts() {
        let tail = live(0);
        let mut reader = tail.attach().unwrap();
        tail.extend(0, records(10, DELIVERY_BYTES_MAX / 4), false, Arc::default());
        let TailRead::Batch(batch) = read(&mut reader, 9) else { panic!("the last part is kept") };
        assert_eq!((batch.from, batch.next()), (8, 10));
    }

    #[test]
    fn a_batch_is_taken_in_parts_by_who_wants_it_small() {
        let tail = live(0);
        let mut reader = tail.attach().unwrap();
        tail.extend(0, records(10, 100), false, Arc::default());
        let TailRead::Batch(batch) = read(&mut reader, 0) else { panic!("the batch is kept") };
        let parts = [(0, 1000), (3, 1000), (0, 999), (0, 350), (8, 350), (0, 1), (9, 1)];
        let lengths = parts.map(|(from, bytes_max)| batch.part(from, bytes_max).len());
        assert_eq!(lengths, [10, 7, 9, 3, 2, 1, 1]);
        let body = batch.body(Encoding::Proto, 3, batch.part(3, 350)).unwrap();
        assert_eq!(body.frame(1, None), {
            let whole = DeliveryBody::new(Encoding::Proto, 0, 3, &records(3, 100)).unwrap();
            whole.frame(1, None)
        });
    }

    #[test]
    fn a_tail_retires_only_when_nobody_reads_it() {
        let tail = live(0);
        let reader = tail.attach().unwrap();
        assert!(!tail.retire());
        drop(reader);
        assert!(tail.retire());
        assert!(tail.attach().is_none());
    }
}
