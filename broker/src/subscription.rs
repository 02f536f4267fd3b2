//! A subscription: one reader's way through a session, from catch-up to live.
//!
//! It reads the shared tail where that has its next offset and the store where it has not. Where it stands is `next` and
//! nothing else, so whatever happens in between, it delivers every record from its start exactly once, in order.

mod folded;

use std::collections::VecDeque;
use std::future::{self, pending};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use longwire_proto::codec::{DeliveryBody, Encoding, FrameBytes, frame_delivered};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::outcome::Outcome;
use longwire_proto::position::{Position, Resume};
use longwire_proto::wire;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::filter::{Filter, Passed};
use crate::ramp::Ramp;
use crate::rests::Rest;
use crate::store::reconcile::retry_read;
use crate::store::{Chunk, Framed, ReadLimit, Store, StoreError};
use crate::store_error::{corrupt, in_session};
use crate::subscription::folded::{Folded, Gathered, gather};
use crate::tail::{Progress, Tail, TailRead, TailReader, TailState};

/// Records of one delivery from the store.
const CATCH_UP_RECORDS: usize = 4096;

/// Where a reader asked to begin, resolved against where the session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// What became of the wish.
    pub outcome: Outcome,
    /// Where deliveries begin.
    pub from: u64,
    /// With [`Outcome::Gap`]: the first of the missing offsets.
    pub gap_from: u64,
}

/// Resolves where to begin.
///
/// # Errors
/// [`ErrorCode::InvalidPosition`].
pub fn resolve(from: Option<&wire::from::From>, progress: &Progress) -> Result<Start, Error> {
    use wire::from::From;
    let (start, end) = (progress.start, progress.end);
    let at = |outcome, from| Start { outcome, from, gap_from: 0 };
    let resumed = |offset| match offset {
        offset if offset > end => at(Outcome::FuturePosition, end),
        offset if offset < start => Start { outcome: Outcome::Gap, from: start, gap_from: offset },
        offset => at(Outcome::Resumed, offset),
    };
    let start = match from {
        Some(From::Start(true)) => at(Outcome::FromStart, start),
        None | Some(From::End(_) | From::Start(false)) => at(Outcome::Resumed, end),
        Some(From::Offset(offset)) => resumed(*offset),
        Some(From::Last(records)) => at(Outcome::Resumed, end.saturating_sub(*records).max(start)),
        // A cursor is looked up before; one that was never committed is the start.
        Some(From::Cursor(_)) => at(Outcome::FromStart, start),
        Some(From::Position(text)) => {
            let position: Position = text
                .parse()
                .map_err(|error| Error::new(ErrorCode::InvalidPosition, format!("{error}")).field("from"))?;
            match progress.lineage.resume(position) {
                Resume::At(offset) => resumed(offset),
                Resume::EpochChanged(offset) => at(Outcome::EpochChanged, offset.clamp(start, end)),
            }
        }
    };
    let read_out = progress.closed && start.from >= end && start.outcome.is_subscribed();
    Ok(if read_out { at(Outcome::Closed, end) } else { start })
}

/// Flow control that the receiver grants.
pub(crate) struct Window {
    bytes_max: u64,
    consumed_through: watch::Receiver<u64>,
    /// Deliveries that are not consumed: the offset after each, and its bytes.
    sent: VecDeque<(u64, u64)>,
    sent_bytes: u64,
    /// Until there is news of what is consumed.
    waiting: Option<BoxFuture<'static, ()>>,
}

impl Window {
    /// A window of so many bytes, of which nothing is used.
    pub(crate) fn new(bytes_max: u64, consumed_through: watch::Receiver<u64>) -> Self {
        Self { bytes_max, consumed_through, sent: VecDeque::new(), sent_bytes: 0, waiting: None }
    }

    /// Waits until something may be sent.
    pub(crate) async fn wait_for_room(&mut self) {
        std::future::poll_fn(|context| self.poll_room(context)).await;
    }

    /// Whether something may be sent; who was told that nothing may is woken when it is worth to look again.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let consumed = *self.consumed_through.borrow_and_update();
            while let Some((_, bytes)) = self.sent.front().copied().filter(|(next, _)| *next <= consumed) {
                self.sent.pop_front();
                self.sent_bytes -= bytes;
            }
            if self.sent_bytes < self.bytes_max || self.sent.is_empty() {
                self.waiting = None;
                return Poll::Ready(());
            }
            let waiting = self.waiting.get_or_insert_with(|| {
                let mut consumed_through = self.consumed_through.clone();
                Box::pin(async move {
                    if consumed_through.changed().await.is_err() {
                        // The connection that grants credit has gone; so will this subscription.
                        pending::<()>().await;
                    }
                })
            });
            ready!(waiting.as_mut().poll(context));
            self.waiting = None;
        }
    }

    /// So many bytes were sent, which are consumed when `next` is.
    pub(crate) fn sent(&mut self, next: u64, bytes: usize) {
        self.sent.push_back((next, bytes as u64));
        self.sent_bytes += bytes as u64;
    }
}

/// What a subscription has for its connection.
#[derive(Debug)]
pub enum Event {
    /// A whole delivery frame.
    Delivery {
        /// The frame.
        frame: FrameBytes,
        /// The offset after the last record in it.
        next: u64,
    },
    /// A frame that is no delivery: news of one session of a pattern.
    Frame(Box<wire::server_frame::Frame>),
    /// Nothing more comes.
    Ended {
        /// The epoch of the offset.
        epoch: u64,
        /// Everything below was delivered.
        next: u64,
        /// Why.
        error: Error,
    },
}

/// Records of the store.
enum Came {
    /// One by one, for who looks at them.
    Records(Chunk),
    /// As they are delivered.
    Framed(Framed),
    /// Folded.
    Gathered(Gathered),
}

impl Came {
    fn from(&self) -> u64 {
        match self {
            Self::Records(chunk) => chunk.from,
            Self::Framed(framed) => framed.from,
            Self::Gathered(gathered) => gathered.from,
        }
    }

    fn next(&self) -> u64 {
        match self {
            Self::Records(chunk) => chunk.next(),
            Self::Framed(framed) => framed.next(),
            Self::Gathered(gathered) => gathered.next,
        }
    }

    fn bytes(&self) -> usize {
        let sum = |records: &[Bytes]| records.iter().map(Bytes::len).sum();
        match self {
            Self::Records(chunk) => sum(&chunk.records),
            Self::Framed(framed) => framed.record_bytes,
            Self::Gathered(gathered) => sum(&gathered.passed.records),
        }
    }
}

/// What is being read of the store.
struct Reading {
    came: BoxFuture<'static, Result<Came, StoreError>>,
    /// The tail's count when it began.
    rewrites: u64,
    /// Kept for as long as it is ahead.
    _permit: Option<OwnedSemaphorePermit>,
}

/// One reader's way through a session.
pub struct Subscription {
    number: u32,
    encoding: Encoding,
    store: Arc<dyn Store>,
    reader: TailReader,
    progress: Progress,
    next: u64,
    ramp: Ramp,
    window: Option<Window>,
    filter: Option<Filter>,
    /// Of the folded view.
    folded: Option<Box<Folded>>,
    reading: Option<Reading>,
    ended: bool,
}

impl Subscription {
    /// A subscription that begins at `next`.
    #[must_use]
    pub fn new(
        number: u32,
        encoding: Encoding,
        store: Arc<dyn Store>,
        reader: TailReader,
        progress: Progress,
        next: u64,
    ) -> Self {
        Self {
            number,
            encoding,
            store,
            reader,
            progress,
            next,
            ramp: Ramp::default(),
            window: None,
            filter: None,
            folded: None,
            reading: None,
            ended: false,
        }
    }

    /// Keeps at most `bytes_max` bytes of records that were sent and not consumed; one delivery may pass it.
    #[must_use]
    pub fn with_window(mut self, bytes_max: u64, consumed_through: watch::Receiver<u64>) -> Self {
        self.window = Some(Window::new(bytes_max, consumed_through));
        self
    }

    /// Folds deltas. With a roll-up it rests after each delivery while it follows, unless something else than a delta waits.
    #[must_use]
    pub fn folded(mut self, rollup: Option<(Duration, Rest)>) -> Self {
        self.folded = Some(Box::new(Folded::new(rollup)));
        self
    }

    /// Its number on the connection.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The tail that it reads.
    #[must_use]
    pub fn tail(&self) -> &Arc<Tail> {
        self.reader.tail()
    }

    /// The session's end when it was opened.
    #[must_use]
    pub fn known_end(&self) -> u64 {
        self.progress.end
    }

    /// The offset of the next record that it delivers.
    #[must_use]
    pub fn next_offset(&self) -> u64 {
        self.next
    }

    /// Delivers only what passes; every delivery still covers all offsets of its range.
    #[must_use]
    pub fn with_filter(mut self, filter: Option<Filter>) -> Self {
        self.filter = filter;
        self
    }

    /// The next delivery, or the end; `None` after the end. Who was told that there is none yet is woken when it is worth to look again.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        while !self.ended {
            if let Some(window) = &mut self.window {
                ready!(window.poll_room(context));
            }
            match self.reader.read(self.next, context) {
                TailRead::Batch(batch) if self.folded.is_some() => {
                    self.reading = None;
                    return self.poll_folded(batch, context).map(Some);
                }
                TailRead::Batch(batch) => {
                    self.reading = None;
                    let part = batch.part(self.next, self.ramp.bytes_max());
                    let next = self.next + part.len() as u64;
                    let bytes = part.iter().map(Bytes::len).sum();
                    self.ramp.given(bytes);
                    return Poll::Ready(Some(match &self.filter {
                        None => self.deliver(batch.body(self.encoding, self.next, part), next, bytes),
                        Some(filter) => {
                            let passed = filter.apply(self.next, part);
                            self.deliver_passed(next, passed)
                        }
                    }));
                }
                TailRead::Behind(end) => match self.reader.tail().progress() {
                    Some(progress) if progress.log != self.progress.log => {
                        if let Some(ended) = self.another_log(progress) {
                            return Poll::Ready(Some(ended));
                        }
                    }
                    _ => {
                        if let Some(event) = ready!(self.poll_catch_up(end, context)) {
                            return Poll::Ready(Some(event));
                        }
                    }
                },
                TailRead::AtEnd(state) => {
                    self.reading = None;
                    return match self.end_reached(state) {
                        Some(ended) => Poll::Ready(Some(ended)),
                        None => Poll::Pending,
                    };
                }
            }
        }
        Poll::Ready(None)
    }

    fn end_reached(&mut self, state: TailState) -> Option<Event> {
        match state {
            TailState::Ended(error) => Some(self.end(error)),
            TailState::Live(progress) if progress.log != self.progress.log => self.another_log(progress),
            TailState::Live(progress) if progress.closed && progress.end == self.next => Some(self.end(
                Error::new(ErrorCode::SessionClosed, "the session is closed; this was its last record"),
            )),
            TailState::Live(progress) if progress.end < self.next => {
                let what = format!("and ends at {}, before offset {}", progress.end, self.next);
                Some(self.end(corrupt(&progress.session, what)))
            }
            TailState::Live(_) | TailState::Loading => None,
        }
    }

    /// The name has another log now.
    fn another_log(&mut self, progress: Progress) -> Option<Event> {
        if self.progress.exists() {
            let message = "the session was deleted and created again";
            return Some(self.end(Error::new(ErrorCode::SessionDeleted, message)));
        }
        // What was waited for is there: imported, with offsets that its first reader must be told.
        if progress.start > self.next {
            let message = format!("the session begins at {}", progress.start);
            return Some(self.end(Error::new(ErrorCode::Trimmed, message)));
        }
        self.progress = progress;
        None
    }

    /// The delivery that the store has next, up to this end; `None` when it must be looked for again.
    fn poll_catch_up(&mut self, end: u64, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.reading.is_none() {
            self.reading = Some(self.read_up_to(end, None));
        }
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        let read = ready!(reading.came.as_mut().poll(context));
        let is_stale = reading.rewrites != self.reader.tail().rewrites();
        self.reading = None;
        if is_stale {
            return Poll::Ready(None);
        }
        let event = self.caught_up(read);
        self.read_ahead(end);
        Poll::Ready(Some(event))
    }

    /// Has the next delivery read while this one is on its way. Where the log shows another one's records, what becomes of
    /// those is not known here, so they are read when they can be sent.
    fn read_ahead(&mut self, end: u64) {
        if self.ended || self.next >= end || self.progress.lineage.until(self.next).is_some() {
            return;
        }
        let Some(permit) = self.reader.tail().may_read_ahead() else { return };
        let mut reading = self.read_up_to(end, Some(permit));
        // It begins when it is polled; whoever wants what it came to polls it again.
        if let Poll::Ready(came) = reading.came.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            reading.came = Box::pin(future::ready(came));
        }
        self.reading = Some(reading);
    }

    fn read_up_to(&self, end: u64, permit: Option<OwnedSemaphorePermit>) -> Reading {
        // A delivery is of one epoch: a reader makes positions of it.
        let until = self.progress.lineage.until(self.next).map_or(end, |until| until.min(end));
        let records = usize::try_from(until - self.next).unwrap_or(usize::MAX);
        let limit = ReadLimit { records: records.min(CATCH_UP_RECORDS), bytes: self.ramp.bytes_max() };
        let (store, log, next) = (Arc::clone(&self.store), self.progress.log, self.next);
        if self.folded.is_some() {
            let gathering = gather(store, log, (next, until), self.filter.clone(), limit.bytes);
            let came = async move { Ok(gathering.await?.map_or_else(Came::Records, Came::Gathered)) };
            return Reading {
                came: Box::pin(came),
                rewrites: self.reader.tail().rewrites(),
                _permit: permit,
            };
        }
        let is_framed = self.encoding == Encoding::Proto && self.filter.is_none();
        let came = async move {
            if is_framed {
                retry_read(|| store.read_framed(log, next, limit)).await.map(Came::Framed)
            } else {
                retry_read(|| store.read(log, next, limit)).await.map(Came::Records)
            }
        };
        Reading { came: Box::pin(came), rewrites: self.reader.tail().rewrites(), _permit: permit }
    }

    fn caught_up(&mut self, read: Result<Came, StoreError>) -> Event {
        let came = match read {
            Ok(came) => came,
            Err(error) => return self.end(in_session(&self.progress.session, &error)),
        };
        let (from, next, bytes) = (came.from(), came.next(), came.bytes());
        if from > self.next {
            let message = format!("records up to {from} were trimmed before they could be delivered");
            return self.end(Error::new(ErrorCode::Trimmed, message));
        }
        if from != self.next || next == from {
            let what = format!("at offset {}: records are missing", self.next);
            return self.end(corrupt(&self.progress.session, what));
        }
        let epoch = self.progress.lineage.epoch_at(next);
        self.ramp.given(bytes);
        match (came, &self.filter) {
            (Came::Gathered(gathered), _) => self.deliver_folded(gathered, epoch),
            (Came::Framed(framed), _) => {
                let frame = frame_delivered(self.number, epoch, from..next, framed.fields);
                self.delivered(frame, next, bytes)
            }
            (Came::Records(chunk), Some(filter)) => {
                let passed = filter.apply(from, &chunk.records);
                self.deliver_passed(next, passed)
            }
            (Came::Records(chunk), None) => {
                let body = DeliveryBody::new(self.encoding, epoch, from, &chunk.records);
                self.deliver(body, next, bytes)
            }
        }
    }

    /// A delivery of its own: what passes a filter is not shared with others.
    fn deliver_passed(&mut self, next: u64, passed: Passed) -> Event {
        let Passed { records, offsets } = passed;
        let bytes = records.iter().map(Bytes::len).sum();
        let epoch = self.progress.lineage.epoch_at(next);
        let body = DeliveryBody::sparse(self.encoding, epoch, self.next..next, &records, offsets);
        self.deliver(body, next, bytes)
    }

    fn deliver(&mut self, body: Result<DeliveryBody, Error>, next: u64, bytes: usize) -> Event {
        match body {
            Ok(body) => self.delivered(body.frame(self.number, None), next, bytes),
            Err(error) => {
                let what = format!("at or after offset {}: {error}", self.next);
                self.end(corrupt(&self.progress.session, what))
            }
        }
    }

    fn delivered(&mut self, frame: FrameBytes, next: u64, bytes: usize) -> Event {
        self.next = next;
        if let Some(window) = &mut self.window {
            window.sent(next, bytes);
        }
        Event::Delivery { frame, next }
    }

    fn end(&mut self, error: Error) -> Event {
        self.ended = true;
        self.reading = None;
        Event::Ended { epoch: self.progress.lineage.epoch_at(self.next), next: self.next, error }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use longwire_proto::codec::decode_server;
    use longwire_proto::kind;
    use longwire_proto::position::Lineage;
    use longwire_proto::record::{Sealed, Sender, Stamp, seal};
    use longwire_proto::session_id::SessionId;

    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::{Batch, BatchId, LogId, Reservation};
    use wire::from::From;
    use wire::server_frame::Frame;

    fn progress(closed: bool) -> Progress {
        Progress {
            session: SessionId::parse("a").unwrap(),
            log: LogId(1),
            lineage: Arc::new(Lineage::beginning(2)),
            start: 10,
            end: 20,
            closed,
            view: Arc::default(),
        }
    }

    fn start(from: From) -> (Outcome, u64, u64) {
        let start = resolve(Some(&from), &progress(false)).unwrap();
        (start.outcome, start.from, start.gap_from)
    }

    #[test]
    fn every_wish_has_a_typed_outcome() {
        let position = |epoch, offset| From::Position(Position { epoch, offset }.to_string());
        assert_eq!(start(From::Start(true)), (Outcome::FromStart, 10, 0));
        assert_eq!(start(From::End(true)), (Outcome::Resumed, 20, 0));
        assert_eq!(start(From::Last(3)), (Outcome::Resumed, 17, 0));
        assert_eq!(start(From::Last(99)), (Outcome::Resumed, 10, 0));
        assert_eq!(start(From::Offset(15)), (Outcome::Resumed, 15, 0));
        assert_eq!(start(From::Offset(20)), (Outcome::Resumed, 20, 0));
        assert_eq!(start(From::Offset(21)), (Outcome::FuturePosition, 20, 0));
        assert_eq!(start(From::Offset(4)), (Outcome::Gap, 10, 4));
        assert_eq!(start(position(2, 12)), (Outcome::Resumed, 12, 0));
        assert_eq!(start(position(2, 4)), (Outcome::Gap, 10, 4));
        assert_eq!(start(position(2, 99)), (Outcome::FuturePosition, 20, 0));
        assert_eq!(start(position(1, 12)), (Outcome::EpochChanged, 10, 0));
        assert_eq!(start(position(9, 0)), (Outcome::EpochChanged, 10, 0));
        assert_eq!(resolve(None, &progress(false)).unwrap().from, 20);
        let bad = resolve(Some(&From::Position("12".into())), &progress(false)).unwrap_err();
        assert_eq!(bad.code, ErrorCode::InvalidPosition);
    }

    /// More than a first delivery has room for, so each comes by itself.
    const RECORD_BYTES: usize = 5000;
    const RECORDS: u64 = 3;

    fn record(time_ms: u64) -> Bytes {
        let stamp = Stamp { time_ms, sender: Sender::default(), producer: None };
        let text = wire::Record {
            body: Some(wire::record::Body::Text("x".repeat(RECORD_BYTES))),
            ..wire::Record::default()
        };
        seal(&stamp, &[prost::Message::encode_to_vec(&text).into()]).remove(0)
    }

    fn batch(base: u64, records: Vec<Bytes>, erase: Vec<std::ops::Range<u64>>) -> Batch {
        Batch {
            id: BatchId(u128::from(base)),
            base,
            last_time_ms: base,
            records,
            projection: None,
            origin: None,
            erase,
            reservation: Reservation::none(),
        }
    }

    /// The kinds of the next delivery's records, from this offset on.
    async fn kinds(subscription: &mut Subscription, from: u64) -> Vec<u32> {
        match poll_fn(|context| subscription.poll_next(context)).await {
            Some(Event::Delivery { frame, next }) => {
                let decoded = decode_server(Encoding::Proto, frame.into_bytes()).unwrap();
                let Frame::Delivery(delivery) = decoded else { panic!("{decoded:?}") };
                assert_eq!((delivery.from, delivery.next), (from, next));
                delivery.records.iter().map(|record| record.kind).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_was_read_ahead_is_what_the_store_has_when_it_is_delivered() {
        let store = MemoryStore::new();
        let opened = store.open(&SessionId::parse("a").unwrap()).await.unwrap();
        let (log, term) = (opened.log, opened.term);
        let records = (0..RECORDS).map(record).collect();
        let version = store.append(log, term, opened.version, batch(0, records, Vec::new())).await.unwrap();
        let tail = Arc::new(Tail::new(Arc::default()));
        let lineage = Arc::new(opened.lineage);
        let progress = Progress { log, lineage, start: 0, end: RECORDS, ..progress(false) };
        tail.loaded(progress.clone());
        let subscribe = || {
            let (store, reader) = (Arc::new(store.clone()), tail.attach().unwrap());
            Subscription::new(1, Encoding::Proto, store, reader, progress.clone(), 0)
        };
        let (mut subscription, mut other) = (subscribe(), subscribe());
        assert_eq!(kinds(&mut subscription, 0).await, [kind::MESSAGE]);
        assert!(subscription.reading.is_some(), "the next one is being read");
        let erased = batch(RECORDS, Vec::new(), std::iter::once(1..2).collect());
        store.append(log, term, version, erased).await.unwrap();
        tail.forget();
        assert_eq!(kinds(&mut subscription, 1).await, [kind::TOMBSTONE]);
        let tombstone = store.read(log, 1, ReadLimit { records: 1, bytes: 1 }).await.unwrap();
        assert_eq!(Sealed::parse(&tombstone.records[0]).unwrap().kind, kind::TOMBSTONE);

        let permits: Vec<_> = std::iter::from_fn(|| tail.may_read_ahead()).collect();
        assert!(!permits.is_empty(), "and the last one is being read ahead");
        assert_eq!(kinds(&mut other, 0).await, [kind::MESSAGE]);
        assert!(other.reading.is_none(), "no more are read ahead than there are permits");
        assert_eq!(kinds(&mut other, 1).await, [kind::TOMBSTONE]);
        assert_eq!(kinds(&mut subscription, 2).await, [kind::MESSAGE]);
        assert!(subscription.reading.is_none() && tail.may_read_ahead().is_some(), "it gave its permit back");
    }

    #[test]
    fn a_closed_session_read_to_its_end_is_told() {
        assert_eq!(resolve(None, &progress(true)).unwrap().outcome, Outcome::Closed);
        let before = resolve(Some(&From::Offset(19)), &progress(true)).unwrap();
        assert_eq!((before.outcome, before.from), (Outcome::Resumed, 19));
    }
}
