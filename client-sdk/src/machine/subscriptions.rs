//! What is read, up to where, and whether what arrives is exactly what comes next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use longwire_proto::error::ErrorCode;
use longwire_proto::limits::FRAME_BYTES_MAX;
use longwire_proto::outcome::Outcome;
use longwire_proto::position::Position;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;

use crate::backoff::{Backoff, Jitter};
use crate::delivered::{Arrived, Delivered};
use crate::error::{Refusal, SubscriptionError};
use crate::from::From;
use crate::machine::event::{Began, Delivery, Event, Violation};
use crate::machine::phase::Phase;
use crate::machine::watches::{Sought, Watches};

/// Consumption is reported at the latest after this time: late enough to join a burst's, soon enough that a broker that
/// waits for a whole window to be free is not held up.
const CREDIT_DELAY: Duration = Duration::from_millis(20);
/// Consumption is reported at once when this part of the window was consumed.
const CREDIT_PART: u64 = 4;
/// Heartbeats without progress towards a known end, with the window open, after which something is wrong.
const HEARTBEATS_WITHOUT_PROGRESS_MAX: u32 = 2;

/// What the application wants to read.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) session: SessionId,
    pub(crate) from: From,
    /// Instead of `from`, at first: where the principal's cursor of this name is.
    pub(crate) cursor: Option<String>,
    pub(crate) wait: bool,
    pub(crate) window_bytes: u64,
    pub(crate) filter: Option<wire::Filter>,
    pub(crate) folded: bool,
    pub(crate) rollup_ms: u32,
}

impl Wish {
    pub(crate) fn new(session: SessionId, from: From, window_bytes: u64) -> Self {
        let (cursor, filter, wait) = (None, None, false);
        Self { session, from, cursor, wait, window_bytes, filter, folded: false, rollup_ms: 0 }
    }
}

/// What is wanted under a number.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    /// The records of a session.
    Records(Wish),
    /// To know to which sessions something happens.
    Changes(Sought),
}

#[derive(Debug)]
struct Subscription {
    wish: Wish,
    phase: Phase,
    /// Where reading goes on: after what was handed to the application's queue.
    place: Option<Position>,
    /// The session did not exist when it was asked for: all its records are wanted, from this offset.
    awaited: Option<u64>,
    ever_live: bool,
    /// Bytes in the application's queue.
    backlog: u64,
    /// Bytes consumed since the last credit.
    uncredited: u64,
    consumed: Position,
    known_end: Option<Position>,
    progressed: bool,
    idle_heartbeats: u32,
    refusals: u32,
}

impl Subscription {
    /// Whether the application's queue has room for another window: with this rule it never has more than one and a
    /// half, however often the connection breaks.
    fn has_room(&self) -> bool {
        self.backlog <= self.wish.window_bytes / 2
    }

    fn wire_from(&self) -> wire::From {
        match &self.wish.cursor {
            Some(cursor) if self.place.is_none() && self.awaited.is_none() => {
                wire::From { from: Some(wire::from::From::Cursor(cursor.clone())) }
            }
            _ => self.from().to_wire(),
        }
    }

    fn from(&self) -> From {
        match self.place {
            Some(place) => From::Position(place),
            None if self.awaited.is_some() && !matches!(self.wish.from, From::Position(_)) => From::Start,
            None => self.wish.from,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Subscriptions {
    backoff: Backoff,
    all: BTreeMap<u32, Subscription>,
    watches: Watches,
    /// Those in `Phase::Wanted`.
    wanted: BTreeSet<u32>,
    /// Those with consumption to report, and when.
    dirty: BTreeSet<u32>,
    credit_at: Option<Duration>,
    credits: VecDeque<wire::Credit>,
    events: VecDeque<(u32, Event)>,
}

impl Subscriptions {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            all: BTreeMap::new(),
            watches: Watches::new(backoff),
            wanted: BTreeSet::new(),
            dirty: BTreeSet::new(),
            credit_at: None,
            credits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len() + self.watches.len()
    }

    pub(crate) fn poll_event(&mut self) -> Option<(u32, Event)> {
        self.events.pop_front().or_else(|| self.watches.poll_event())
    }

    pub(crate) fn poll_credit(&mut self) -> Option<wire::Credit> {
        self.credits.pop_front()
    }

    pub(crate) fn add(&mut self, number: u32, wanted: Wanted) {
        let wish = match wanted {
            Wanted::Records(wish) => wish,
            Wanted::Changes(sought) => return self.watches.add(number, sought),
        };
        let subscription = Subscription {
            wish,
            phase: Phase::Wanted(Duration::ZERO),
            place: None,
            awaited: None,
            ever_live: false,
            backlog: 0,
            uncredited: 0,
            consumed: Position::default(),
            known_end: None,
            progressed: false,
            idle_heartbeats: 0,
            refusals: 0,
        };
        self.all.insert(number, subscription);
        self.wanted.insert(number);
    }

    /// Forgets a subscription; says whether the broker knows of it.
    pub(crate) fn remove(&mut self, number: u32) -> bool {
        if self.watches.has(number) {
            return self.watches.remove(number);
        }
        self.wanted.remove(&number);
        self.dirty.remove(&number);
        self.all.remove(&number).is_some_and(|subscription| !matches!(subscription.phase, Phase::Wanted(_)))
    }

    /// Everything that can be subscribed now, for one frame.
    pub(crate) fn poll_subscribe(&mut self, now: Duration) -> Vec<wire::Subscription> {
        let mut frame: Vec<_> = self.watches.poll_subscribe(now).collect();
        for number in self.wanted.clone() {
            let Some(subscription) = self.all.get_mut(&number) else { continue };
            if !matches!(subscription.phase, Phase::Wanted(not_before) if not_before <= now) {
                continue;
            }
            if !subscription.has_room() {
                continue;
            }
            subscription.phase = Phase::Asked;
            subscription.uncredited = 0;
            self.wanted.remove(&number);
            frame.push(wire::Subscription {
                subscription: number,
                session: subscription.wish.session.as_str().to_owned(),
                from: Some(subscription.wire_from()),
                window_bytes: Some(subscription.wish.window_bytes),
                wait: subscription.wish.wait,
                filter: subscription.wish.filter.clone(),
                pattern: String::new(),
                view: if subscription.wish.folded { "folded" } else { "" }.to_owned(),
                rollup_ms: subscription.wish.rollup_ms,
            });
        }
        frame
    }

    pub(crate) fn subscribed(&mut self, answer: &wire::Subscribed) -> Result<(), Violation> {
        let number = answer.subscription;
        let Some(subscription) = self.all.get_mut(&number) else { return self.watches.subscribed(answer) };
        let outcome = Outcome::parse(&answer.outcome)
            .ok_or_else(|| Violation(format!("outcome `{}` is unknown", answer.outcome)))?;
        let place = Position { epoch: answer.epoch, offset: answer.from };
        let began = Began {
            outcome,
            exists: answer.exists,
            epoch: answer.epoch,
            start: answer.start,
            end: answer.end,
            from: answer.from,
        };
        let first = !subscription.ever_live;
        let wanted = subscription.place;
        subscription.phase = Phase::Live;
        subscription.ever_live = true;
        subscription.refusals = 0;
        subscription.idle_heartbeats = 0;
        subscription.known_end = None;
        if first {
            self.events.push_back((number, Event::Began(began)));
        }
        match outcome {
            Outcome::Resumed | Outcome::FromStart if !answer.exists => {
                subscription.awaited = Some(answer.from)
            }
            Outcome::Resumed | Outcome::FromStart => {
                if let Some(wanted) = wanted.filter(|wanted| wanted.offset != place.offset) {
                    return Err(Violation(format!("reading was to resume at {wanted}, not at {place}")));
                }
                subscription.place = Some(place);
            }
            Outcome::Gap => {
                let error = SubscriptionError::Gap { from: answer.gap_from, next: answer.from };
                self.events.push_back((number, Event::Failed(error)));
                subscription.place = Some(place);
            }
            Outcome::EpochChanged => {
                let error = SubscriptionError::EpochChanged { resume: place };
                self.events.push_back((number, Event::Failed(error)));
                subscription.place = Some(place);
            }
            Outcome::FuturePosition => {
                let end = Position { epoch: answer.epoch, offset: answer.end };
                self.end(number, Some(SubscriptionError::FuturePosition { end }));
            }
            Outcome::Closed => self.end(number, None),
        }
        Ok(())
    }

    fn end(&mut self, number: u32, error: Option<SubscriptionError>) {
        if let Some(error) = error {
            self.events.push_back((number, Event::Failed(error)));
        }
        self.events.push_back((number, Event::Ended));
        self.remove(number);
    }

    pub(crate) fn delivery(&mut self, delivery: Arrived, bytes: u64) -> Result<(), Violation> {
        let number = delivery.subscription;
        let Some(subscription) = self.all.get_mut(&number) else {
            // Of a pattern, or one that was dropped a moment ago. A delivery can cover offsets and have nothing to show of them.
            let has_some = delivery.records.len() > 0;
            return if has_some { self.watches.touch(number, &delivery.session) } else { Ok(()) };
        };
        // What was under way when the subscription was ended on this connection.
        if subscription.phase != Phase::Live {
            return Err(Violation(format!("a delivery for subscription {number} before its answer")));
        }
        let from = Position { epoch: delivery.epoch, offset: delivery.from };
        let begins = Position { epoch: delivery.epoch, offset: subscription.awaited.unwrap_or(0) };
        let expected = subscription.place.unwrap_or(begins);
        // The epoch rises where a log was forked, imported or restored; its offsets go on.
        let goes_on = from.offset == expected.offset && from.epoch >= expected.epoch;
        if !goes_on || delivery.next < delivery.from {
            return Err(Violation(format!("a delivery begins at {from} where {expected} comes next")));
        }
        let records = match delivery.offsets.len() {
            0 if delivery.from + delivery.records.len() as u64 == delivery.next => {
                Delivered::dense(delivery.from, delivery.records)
            }
            given if given == delivery.records.len() && (given > 0 || delivery.next > delivery.from) => {
                let offsets = delivery.offsets;
                let ordered = offsets.windows(2).all(|pair| pair[0] < pair[1]);
                let within = offsets.iter().all(|offset| (delivery.from..delivery.next).contains(offset));
                if !ordered || !within {
                    return Err(Violation(format!(
                        "a delivery at {from} has offsets outside its range or out of order"
                    )));
                }
                let delivered = if subscription.wish.folded { Delivered::folded } else { Delivered::sparse };
                delivered(offsets, delivery.records)
            }
            _ => {
                return Err(Violation(format!(
                    "a delivery at {from} does not say which offsets its records have"
                )));
            }
        };
        subscription.backlog += bytes;
        if subscription.backlog > 2 * subscription.wish.window_bytes + FRAME_BYTES_MAX as u64 {
            return Err(Violation(format!("subscription {number} got more than its window")));
        }
        subscription.place = Some(Position { epoch: delivery.epoch, offset: delivery.next });
        subscription.progressed = true;
        let delivery = Delivery { epoch: delivery.epoch, next: delivery.next, bytes, records };
        self.events.push_back((number, Event::Delivery(delivery)));
        Ok(())
    }

    /// The application consumed everything below `through`.
    pub(crate) fn consumed(&mut self, now: Duration, number: u32, through: Position, bytes: u64) {
        let Some(subscription) = self.all.get_mut(&number) else { return self.watches.consumed(number) };
        subscription.backlog = subscription.backlog.saturating_sub(bytes);
        subscription.consumed = through;
        if subscription.phase != Phase::Live {
            return;
        }
        subscription.uncredited += bytes;
        if subscription.uncredited >= subscription.wish.window_bytes / CREDIT_PART {
            self.credit(number);
        } else {
            self.dirty.insert(number);
            self.credit_at.get_or_insert(now + CREDIT_DELAY);
        }
    }

    fn credit(&mut self, number: u32) {
        self.dirty.remove(&number);
        let Some(subscription) = self.all.get_mut(&number) else { return };
        subscription.uncredited = 0;
        // What was consumed of an earlier history says nothing about this one.
        let same = subscription.place.is_some_and(|place| place.epoch == subscription.consumed.epoch);
        if same && subscription.phase == Phase::Live {
            let consumed_through = subscription.consumed.offset;
            self.credits.push_back(wire::Credit { subscription: number, consumed_through });
        }
    }

    pub(crate) fn ended(
        &mut self,
        now: Duration,
        ended: wire::SubscriptionEnded,
        jitter: &mut Jitter,
    ) -> Result<(), Violation> {
        let number = ended.subscription;
        let refusal = Refusal::from(ended.error);
        let Some(subscription) = self.all.get_mut(&number) else {
            // A session that is gone is none to look at.
            if ended.session.is_empty() {
                self.watches.refused(now, number, refusal, jitter);
            }
            return Ok(());
        };
        let next = Position { epoch: ended.epoch, offset: ended.next };
        match refusal.code {
            Some(ErrorCode::SessionClosed) => {
                if subscription.place.is_some_and(|place| place != next) {
                    return Err(Violation(format!("subscription {number} ended at {next} before its end")));
                }
                self.end(number, None);
            }
            Some(ErrorCode::SessionDeleted) => self.end(number, Some(SubscriptionError::Deleted)),
            // A newer token allows less. What is gone would have been `session_deleted`.
            Some(ErrorCode::SessionNotFound | ErrorCode::Forbidden) => {
                self.end(number, Some(SubscriptionError::NotAllowed(refusal)));
            }
            // Such as a read of the disk that failed, or a drain: reading resumes here, or on the next connection.
            _ if refusal.retryable => self.refused(now, number, refusal, jitter),
            _ => self.end(number, Some(SubscriptionError::Refused(refusal))),
        }
        Ok(())
    }

    pub(crate) fn refused(&mut self, now: Duration, number: u32, refusal: Refusal, jitter: &mut Jitter) {
        let Some(subscription) = self.all.get_mut(&number) else {
            return self.watches.refused(now, number, refusal, jitter);
        };
        if refusal.retryable {
            let delay = self.backoff.delay(subscription.refusals, jitter);
            let until = now + delay.max(Duration::from_millis(refusal.retry_after_ms));
            subscription.refusals = subscription.refusals.saturating_add(1);
            subscription.phase = Phase::Wanted(until);
            self.wanted.insert(number);
            return;
        }
        let error = match refusal.code {
            Some(ErrorCode::SessionNotFound) if subscription.ever_live => SubscriptionError::Deleted,
            Some(ErrorCode::SessionNotFound) => {
                SubscriptionError::NotFound(subscription.wish.session.as_str().to_owned())
            }
            Some(ErrorCode::Forbidden) => SubscriptionError::NotAllowed(refusal),
            Some(ErrorCode::TooManySubscriptions) => SubscriptionError::TooMany(refusal.limit),
            _ => SubscriptionError::Refused(refusal),
        };
        self.end(number, Some(error));
    }

    /// Checks the ends that a heartbeat carries against what was read.
    pub(crate) fn heartbeat(&mut self, ends: &[wire::SubscriptionProgress]) -> Result<(), Violation> {
        for progress in ends {
            let Some(subscription) = self.all.get_mut(&progress.subscription) else { continue };
            if subscription.phase == Phase::Live {
                subscription.known_end = Some(Position { epoch: progress.epoch, offset: progress.end });
            }
        }
        for (number, subscription) in &mut self.all {
            let Some(end) = subscription.known_end else { continue };
            let begins = subscription.awaited.map(|offset| Position { epoch: end.epoch, offset });
            let Some(place) = subscription.place.or(begins) else { continue };
            // An end below the place proves nothing: it can have been read before the last delivery.
            let behind = end.epoch == place.epoch && end.offset > place.offset;
            let idle = behind && subscription.backlog == 0 && !subscription.progressed;
            subscription.progressed = false;
            subscription.idle_heartbeats = if idle { subscription.idle_heartbeats + 1 } else { 0 };
            if subscription.idle_heartbeats > HEARTBEATS_WITHOUT_PROGRESS_MAX {
                return Err(Violation(format!(
                    "subscription {number} stands at {place}, and the end is {end}"
                )));
            }
        }
        Ok(())
    }

    pub(crate) fn disconnected(&mut self) {
        for (number, subscription) in &mut self.all {
            subscription.phase = Phase::Wanted(Duration::ZERO);
            subscription.known_end = None;
            self.wanted.insert(*number);
        }
        self.watches.disconnected();
        self.dirty.clear();
        self.credits.clear();
        self.credit_at = None;
    }

    /// The client is closed: every stream ends with this error.
    pub(crate) fn close(&mut self, error: &SubscriptionError) {
        for number in self.all.keys().copied().collect::<Vec<_>>() {
            self.end(number, Some(error.clone()));
        }
        self.watches.close(error);
    }

    pub(crate) fn timeout(&mut self, now: Duration) {
        if self.credit_at.is_some_and(|at| at <= now) {
            self.credit_at = None;
            for number in self.dirty.clone() {
                self.credit(number);
            }
        }
    }

    /// The next moment at which something is due, while connected.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        let wanted = self.wanted.iter().filter_map(|number| self.all.get(number));
        let retries =
            wanted.filter(|subscription| subscription.has_room()).filter_map(
                |subscription| match subscription.phase {
                    Phase::Wanted(at) if at < Duration::MAX => Some(at),
                    _ => None,
                },
            );
        retries.chain(self.credit_at).chain(self.watches.poll_timeout()).min()
    }
}
