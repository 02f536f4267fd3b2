//! The subscriptions of one connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::{FuturesUnordered, StreamExt, unfold};
use longwire_proto::codec::Encoding;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::kind;
use longwire_proto::limits::{PATTERNS_MAX, SUBSCRIPTIONS_MAX};
use longwire_proto::outcome::Outcome;
use longwire_proto::pattern::{InvalidPattern, Pattern};
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use longwire_proto::wire::from::From;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::auth::authorise::authorise;
use crate::auth::guard::Whoever;
use crate::auth::operation::Operation;
use crate::connection::feeds::{Feed, FeedSource, Feeds};
use crate::connection::reply::state;
use crate::cursor::{self, CursorName};
use crate::filter::Filter;
use crate::hub::Hub;
use crate::pattern_subscription::{PatternFrom, PatternSubscription, PatternWish};
use crate::quota::SubscriptionPermit;
use crate::read_view::ReadView;
use crate::rests::{Rest, Rests};
use crate::subscription::{Event, Start, Subscription, resolve};
use crate::tail::{Progress, Tail, TailReader};
use crate::transport::lanes::{LaneId, Lanes, WithRoom};

struct Entry {
    lane: LaneId,
    abort: AbortHandle,
    /// What the client has consumed, when it grants a window.
    consumed_through: Option<watch::Sender<u64>>,
    tail: Option<Arc<Tail>>,
    /// The end that the last heartbeat told.
    told_end: u64,
    is_pattern: bool,
    /// The one session, unless it is a pattern.
    session: Option<SessionId>,
    /// What was delivered through, once it is opened.
    next: Option<u64>,
    permit: Arc<SubscriptionPermit>,
}

struct Opened {
    number: u32,
    lane: LaneId,
    request: u64,
    window_bytes: Option<u64>,
    view: ReadView,
    rollup: Duration,
    result: Result<Source, Error>,
}

/// What a subscription reads.
enum Source {
    Session {
        session: SessionId,
        reader: TailReader,
        progress: Progress,
        start: Start,
        filter: Option<Filter>,
    },
    Pattern {
        pattern: Pattern,
        subscription: Box<PatternSubscription>,
    },
}

/// What a subscription has for the client.
pub(super) enum SubscriptionEvent {
    /// The answer to a subscribe, and the lane that begins with it, unless nothing is subscribed.
    Subscribed(Option<LaneId>, Box<wire::Subscribed>),
    /// The refusal of one subscription.
    Refused {
        /// The client's request.
        request: u64,
        /// The subscription's number.
        subscription: u32,
        /// Why.
        error: Error,
    },
    /// A delivery or an end.
    Delivery {
        /// The subscription's number.
        subscription: u32,
        /// Its lane.
        lane: LaneId,
        /// What it is.
        event: Event,
    },
}

/// The subscriptions of one connection, and what they have for it.
pub(super) struct Subscriptions {
    hub: Arc<Hub>,
    /// Whose they are.
    whoever: Whoever,
    encoding: Encoding,
    entries: HashMap<u32, Entry>,
    /// Those that have ended, and whose lanes hold something that the client has not taken: they have their places still, and
    /// may have lost what allowed them.
    ending: HashMap<u32, Entry>,
    opening: FuturesUnordered<BoxFuture<'static, Opened>>,
    deliveries: Feeds,
    registrations: u64,
    lanes: Option<Lanes>,
    /// Lanes of which nothing more is wanted.
    left: Vec<LaneId>,
    /// Those that rest between deliveries, once one was asked to.
    rests: Option<Rests>,
}

impl Subscriptions {
    pub(super) fn new(hub: Arc<Hub>, whoever: Whoever, encoding: Encoding, lanes: Option<Lanes>) -> Self {
        Self {
            hub,
            whoever,
            encoding,
            entries: HashMap::new(),
            ending: HashMap::new(),
            opening: FuturesUnordered::new(),
            deliveries: Feeds::default(),
            registrations: 0,
            lanes,
            left: Vec::new(),
            rests: None,
        }
    }

    /// The place of a subscription, for the one that replaces it.
    pub(super) fn place(&self, number: u32) -> Option<Arc<SubscriptionPermit>> {
        let entry = self.entries.get(&number).or_else(|| self.ending.get(&number));
        entry.map(|entry| Arc::clone(&entry.permit))
    }

    /// How many subscribe requests are not answered yet.
    pub(super) fn opening(&self) -> usize {
        self.opening.len()
    }

    /// Begins to open a subscription; it is answered by [`Subscriptions::next`]. With `after_requests` it reflects every
    /// request that was passed on to the session before.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] or [`ErrorCode::TooManySubscriptions`].
    pub(super) fn open(
        &mut self,
        request: u64,
        session: SessionId,
        subscription: wire::Subscription,
        after_requests: bool,
        permit: Arc<SubscriptionPermit>,
    ) -> Result<(), Error> {
        let wire::Subscription { subscription: number, from, window_bytes, wait, .. } = subscription;
        let filter = Filter::from_wire(subscription.filter)?;
        let view = ReadView::parse(&subscription.view)?;
        let rollup = view.rollup(subscription.rollup_ms)?;
        self.remove(number);
        let lane = self.enter(number, Some(session.clone()), permit)?;
        let (hub, principal) = (Arc::clone(&self.hub), self.whoever.borrow().id.clone());
        self.opening.push(Box::pin(async move {
            if after_requests {
                hub.flush(&session).await;
            }
            let result =
                attach(&hub, session, from.and_then(|from| from.from), &principal, wait, filter).await;
            Opened { number, lane, request, window_bytes, view, rollup, result }
        }));
        Ok(())
    }

    /// Begins to open the subscription of a pattern.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidPattern`], [`ErrorCode::InvalidArgument`] or [`ErrorCode::TooManySubscriptions`].
    pub(super) fn open_pattern(
        &mut self,
        request: u64,
        subscription: wire::Subscription,
        permit: Arc<SubscriptionPermit>,
    ) -> Result<(), Error> {
        let wire::Subscription { subscription: number, session, from, window_bytes, wait, .. } = subscription;
        let wire::Subscription { filter, pattern, view, rollup_ms, .. } = subscription;
        let refuse = |field, message: &str| {
            Err(Error::new(ErrorCode::InvalidArgument, message.to_owned()).field(field))
        };
        if !session.is_empty() {
            return refuse("pattern", "a subscription names either a `session` or a `pattern`");
        }
        if wait {
            return refuse("wait", "a pattern needs no `wait`: sessions that are created later join in");
        }
        if rollup_ms > 0 {
            return refuse(
                "rollup_ms",
                "the subscription of a pattern does not roll up; subscribe to the session",
            );
        }
        let view = ReadView::parse(&view)?;
        let pattern: Pattern = pattern.parse().map_err(|error: InvalidPattern| {
            Error::new(ErrorCode::InvalidPattern, error.to_string()).field("pattern")
        })?;
        let from = match from.and_then(|from| from.from) {
            Some(From::Start(true)) => PatternFrom::Start,
            None | Some(From::End(_) | From::Start(false)) => PatternFrom::End,
            Some(From::Cursor(name)) => {
                PatternFrom::Cursor(CursorName::new(&self.whoever.borrow().id, &name)?)
            }
            Some(From::Position(_) | From::Offset(_) | From::Last(_)) => {
                return refuse("from", "a pattern is read from `start`, `end` or a `cursor`");
            }
        };
        let filter = Filter::from_wire(filter)?;
        self.remove(number);
        let patterns = self.entries.values().filter(|entry| entry.is_pattern).count();
        if patterns >= PATTERNS_MAX {
            let message = format!("a connection subscribes to at most {PATTERNS_MAX} patterns");
            return Err(Error::new(ErrorCode::TooManySubscriptions, message).limit(PATTERNS_MAX));
        }
        let lane = self.enter(number, None, permit)?;
        let store = Arc::clone(self.hub.store());
        let (encoding, whoever) = (self.encoding, self.whoever.clone());
        let wish = PatternWish { number, encoding, pattern: pattern.clone(), from, filter, view, whoever };
        let is_worker = wish.filter.as_ref().is_some_and(|filter| filter.asks_for(kind::INPUT));
        let watching = is_worker.then(|| self.hub.watchers().enter(pattern.clone()));
        self.opening.push(Box::pin(async move {
            let opened = PatternSubscription::open(store, wish).await;
            let result = opened.map(|subscription| {
                let subscription = Box::new(subscription.with_watching(watching));
                Source::Pattern { pattern, subscription }
            });
            Opened { number, lane, request, window_bytes, view, rollup: Duration::ZERO, result }
        }));
        Ok(())
    }

    /// Takes a place for a subscription.
    fn enter(
        &mut self,
        number: u32,
        session: Option<SessionId>,
        permit: Arc<SubscriptionPermit>,
    ) -> Result<LaneId, Error> {
        if self.entries.len() + self.ending.len() >= SUBSCRIPTIONS_MAX {
            let message =
                format!("a connection has at most {SUBSCRIPTIONS_MAX} subscriptions; open another one");
            return Err(Error::new(ErrorCode::TooManySubscriptions, message).limit(SUBSCRIPTIONS_MAX));
        }
        self.registrations += 1;
        let lane = LaneId(self.registrations);
        let (abort, _) = AbortHandle::new_pair();
        let is_pattern = session.is_none();
        let (consumed_through, tail, told_end, next) = (None, None, 0, None);
        let entry =
            Entry { lane, abort, consumed_through, tail, told_end, is_pattern, session, next, permit };
        self.entries.insert(number, entry);
        Ok(lane)
    }

    /// Ends a subscription; false when there is none with the number.
    pub(super) fn remove(&mut self, number: u32) -> bool {
        let entry = self.entries.remove(&number);
        let there_was = entry.is_some();
        for entry in entry.into_iter().chain(self.ending.remove(&number)) {
            self.leave(&entry);
        }
        there_was
    }

    fn leave(&mut self, entry: &Entry) {
        entry.abort.abort();
        if self.lanes.is_some() {
            self.left.push(entry.lane);
        }
    }

    /// Ends the subscription whose lane it is, which is over.
    pub(super) fn remove_lane(&mut self, lane: LaneId) {
        for (_, entry) in self.entries.extract_if(|_, entry| entry.lane == lane) {
            entry.abort.abort();
        }
        self.ending.retain(|_, entry| entry.lane != lane);
    }

    /// The lanes of which nothing more is wanted, since the last call.
    pub(super) fn take_left(&mut self) -> Vec<LaneId> {
        std::mem::take(&mut self.left)
    }

    /// Takes over what a client consumed. Unknown numbers are credit that crossed an end on its way.
    pub(super) fn credit(&mut self, credit: wire::Credit) {
        let entry = self.entries.get(&credit.subscription);
        if let Some(consumed_through) = entry.and_then(|entry| entry.consumed_through.as_ref()) {
            consumed_through.send_if_modified(|consumed| {
                let rises = credit.consumed_through > *consumed;
                *consumed = credit.consumed_through.max(*consumed);
                rises
            });
        }
    }

    /// The ends that changed since the last call.
    pub(super) fn changed_ends(&mut self) -> Vec<wire::SubscriptionProgress> {
        let mut ends = Vec::new();
        for (number, entry) in &mut self.entries {
            let Some(progress) = entry.tail.as_ref().and_then(|tail| tail.progress()) else { continue };
            if progress.end != entry.told_end {
                entry.told_end = progress.end;
                let (epoch, end) = (progress.epoch(), progress.end);
                ends.push(wire::SubscriptionProgress { subscription: *number, epoch, end });
            }
        }
        ends
    }

    /// What the subscriptions have next.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<SubscriptionEvent> {
        while !self.opening.is_empty()
            && let Poll::Ready(Some(opened)) = self.opening.poll_next_unpin(context)
        {
            if let Some(event) = self.opened(opened) {
                return Poll::Ready(event);
            }
        }
        while let Poll::Ready(Some((subscription, lane, event))) = self.deliveries.poll_next(context) {
            if !self.is_current(subscription, lane) {
                continue;
            }
            match &event {
                // Its end is on its way, behind everything else there is on its lane.
                Event::Ended { .. } => self.ended(subscription),
                Event::Delivery { next, .. } => self.delivered(subscription, *next),
                Event::Frame(_) => {}
            }
            return Poll::Ready(SubscriptionEvent::Delivery { subscription, lane, event });
        }
        Poll::Pending
    }

    fn ended(&mut self, number: u32) {
        let entry = self.entries.remove(&number);
        if let Some(entry) = entry.filter(|_| self.lanes.is_some()) {
            self.ending.insert(number, entry);
        }
    }

    fn delivered(&mut self, number: u32, next: u64) {
        if let Some(entry) = self.entries.get_mut(&number) {
            entry.next = Some(next);
        }
    }

    /// Ends what may not be read any more; patterns look after themselves, and what is not opened yet is refused then.
    /// What their lanes hold does not go out.
    pub(super) fn narrow(&mut self) -> Vec<wire::SubscriptionEnded> {
        let mut ended = Vec::new();
        for (number, entry) in self.entries.iter().chain(&self.ending) {
            let (Some(session), Some(next)) = (&entry.session, entry.next) else { continue };
            let principal = self.whoever.borrow();
            if let Err(error) = authorise(&principal, Operation::SubscribeReplay, session) {
                let progress = entry.tail.as_ref().and_then(|tail| tail.progress());
                let epoch = progress.map_or(0, |progress| progress.lineage.epoch_at(next));
                let (subscription, error) = (*number, Some(error.to_wire()));
                let session = String::new();
                ended.push(wire::SubscriptionEnded { subscription, epoch, next, error, session });
            }
        }
        for one in &ended {
            self.remove(one.subscription);
        }
        ended
    }

    fn is_current(&self, number: u32, lane: LaneId) -> bool {
        self.entries.get(&number).is_some_and(|entry| entry.lane == lane)
    }

    fn opened(&mut self, opened: Opened) -> Option<SubscriptionEvent> {
        let Opened { number, lane, request, window_bytes, view, rollup, result } = opened;
        if !self.is_current(number, lane) {
            let message = "the subscription was replaced or ended before it was opened";
            let error = Error::new(ErrorCode::SubscriptionNotFound, message).field("subscription");
            return Some(SubscriptionEvent::Refused { request, subscription: number, error });
        }
        // It may have been opened in the name of somebody who may do less by now.
        let allowed = match &self.entries.get(&number).and_then(|entry| entry.session.as_ref()) {
            Some(session) => authorise(&self.whoever.borrow(), Operation::SubscribeReplay, *session),
            None => Ok(()),
        };
        let (lane, subscribed) = match allowed.and(result) {
            Ok(Source::Session { session, reader, progress, start, filter }) => {
                let subscribed = subscribed(request, number, &session, &progress, start);
                let lane = start.outcome.is_subscribed().then_some(lane);
                if let Some(lane) = lane {
                    let store = Arc::clone(self.hub.store());
                    let mut subscription =
                        Subscription::new(number, self.encoding, store, reader, progress, start.from);
                    if view == ReadView::Folded {
                        subscription = subscription.folded(self.rollup(lane, rollup));
                    }
                    self.follow(lane, subscription.with_filter(filter), window_bytes);
                } else {
                    self.remove(number);
                }
                (lane, subscribed)
            }
            Ok(Source::Pattern { pattern, subscription }) => {
                self.follow_pattern(number, lane, *subscription, window_bytes);
                let (outcome, pattern) = (Outcome::Resumed.as_str().to_owned(), pattern.to_string());
                let subscribed = wire::Subscribed {
                    request,
                    subscription: number,
                    outcome,
                    pattern,
                    ..Default::default()
                };
                (Some(lane), subscribed)
            }
            Err(error) => {
                self.remove(number);
                return Some(SubscriptionEvent::Refused { request, subscription: number, error });
            }
        };
        Some(SubscriptionEvent::Subscribed(lane, Box::new(subscribed)))
    }

    fn rollup(&mut self, lane: LaneId, rollup: Duration) -> Option<(Duration, Rest)> {
        (!rollup.is_zero()).then(|| (rollup, self.rests.get_or_insert_default().place(lane.0)))
    }

    /// When the first of those that rest goes on.
    pub(super) fn rest_until(&self) -> Option<Instant> {
        self.rests.as_ref()?.next()
    }

    /// Wakes those that have rested.
    pub(super) fn end_rests(&self, now: Instant) {
        if let Some(rests) = &self.rests {
            rests.wake(now);
        }
    }

    fn follow(&mut self, lane: LaneId, mut subscription: Subscription, window_bytes: Option<u64>) {
        let number = subscription.number();
        let Some(entry) = self.entries.get_mut(&number) else { return };
        let (abort, registration) = AbortHandle::new_pair();
        entry.abort = abort;
        entry.tail = Some(Arc::clone(subscription.tail()));
        entry.told_end = subscription.known_end();
        entry.next = Some(subscription.next_offset());
        if let Some(window_bytes) = window_bytes {
            let consumed_through = entry.consumed_through.insert(watch::Sender::new(0));
            subscription = subscription.with_window(window_bytes, consumed_through.subscribe());
        }
        let room = self.lanes.as_ref().map(|lanes| lanes.room(lane));
        let events = Feed { number, lane, source: FeedSource::Session(Box::new(subscription)) };
        self.deliveries.push(Abortable::new(WithRoom::new(events, room), registration));
    }

    fn follow_pattern(
        &mut self,
        number: u32,
        lane: LaneId,
        mut subscription: PatternSubscription,
        window_bytes: Option<u64>,
    ) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        let (abort, registration) = AbortHandle::new_pair();
        entry.abort = abort;
        if let Some(window_bytes) = window_bytes {
            let consumed_through = entry.consumed_through.insert(watch::Sender::new(0));
            subscription = subscription.with_window(window_bytes, consumed_through.subscribe());
        }
        let room = self.lanes.as_ref().map(|lanes| lanes.room(lane));
        // Each step moves it into a future and back.
        let events = unfold(Box::new(subscription), |mut subscription| async move {
            subscription.next().await.map(|event| (event, subscription))
        });
        let events = Feed { number, lane, source: FeedSource::Pattern(Box::pin(events)) };
        self.deliveries.push(Abortable::new(WithRoom::new(events, room), registration));
    }
}

fn subscribed(
    request: u64,
    subscription: u32,
    session: &SessionId,
    progress: &Progress,
    start: Start,
) -> wire::Subscribed {
    wire::Subscribed {
        request,
        subscription,
        session: session.to_string(),
        exists: progress.exists(),
        epoch: progress.lineage.epoch_at(start.from),
        start: progress.start,
        end: progress.end,
        outcome: start.outcome.as_str().to_owned(),
        from: start.from,
        gap_from: start.gap_from,
        pattern: String::new(),
        state: state(&progress.view, progress.closed),
    }
}

async fn attach(
    hub: &Arc<Hub>,
    session: SessionId,
    mut from: Option<From>,
    principal: &str,
    wait: bool,
    filter: Option<Filter>,
) -> Result<Source, Error> {
    let mut reader = hub.attach(&session).await?;
    let progress = reader.loaded().await?;
    if !progress.exists() && !wait {
        return Err(Error::no_such_session());
    }
    if let Some(From::Cursor(name)) = &from {
        let cursor = CursorName::new(principal, name)?;
        if let Some(position) = cursor::position(&**hub.store(), &cursor, progress.log).await? {
            from = Some(From::Position(position.to_string()));
        }
    }
    let start = resolve(from.as_ref(), &progress)?;
    Ok(Source::Session { session, reader, progress, start, filter })
}
