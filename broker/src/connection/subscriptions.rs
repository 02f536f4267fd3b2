//! The subscriptions of one connection.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::{BoxStream, FuturesUnordered, SelectAll, StreamExt, unfold};
use longwire_proto::codec::Encoding;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::SUBSCRIPTIONS_MAX;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use tokio::sync::watch;

use crate::cursor::{self, CursorName};
use crate::filter::Filter;
use crate::hub::Hub;
use crate::subscription::{Event, Start, Subscription, resolve};
use crate::tail::{Progress, Tail, TailReader};

/// Which registration of a number: a later one replaces an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Generation(u64);

struct Entry {
    generation: Generation,
    abort: AbortHandle,
    consumed_through: watch::Sender<u64>,
    tail: Option<Arc<Tail>>,
    /// The end that the last heartbeat told.
    told_end: u64,
}

struct Opened {
    number: u32,
    generation: Generation,
    request: u64,
    session: SessionId,
    result: Result<(TailReader, Progress, Start), Error>,
    window_bytes: Option<u64>,
    filter: Option<Filter>,
}

/// What a subscription has for the client.
pub(super) enum SubscriptionEvent {
    /// The answer to a subscribe.
    Subscribed(Box<wire::Subscribed>),
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
        /// What it is.
        event: Event,
    },
}

/// The subscriptions of one connection, and what they have for it.
pub(super) struct Subscriptions {
    hub: Arc<Hub>,
    /// Whose cursors are meant.
    principal: String,
    encoding: Encoding,
    entries: HashMap<u32, Entry>,
    opening: FuturesUnordered<BoxFuture<'static, Opened>>,
    deliveries: SelectAll<BoxStream<'static, (u32, Generation, Event)>>,
    generations: u64,
}

impl Subscriptions {
    pub(super) fn new(hub: Arc<Hub>, principal: String, encoding: Encoding) -> Self {
        Self {
            hub,
            principal,
            encoding,
            entries: HashMap::new(),
            opening: FuturesUnordered::new(),
            deliveries: SelectAll::new(),
            generations: 0,
        }
    }

    /// How many subscribe requests are not answered yet.
    pub(super) fn opening(&self) -> usize {
        self.opening.len()
    }

    /// Begins to open a subscription; it is answered by [`Subscriptions::next`]. With `after_requests` it reflects every
    /// request that was passed on to the session before.
    ///
    /// # Errors
    /// [`ErrorCode::TooManySubscriptions`].
    pub(super) fn open(
        &mut self,
        request: u64,
        session: SessionId,
        subscription: wire::Subscription,
        after_requests: bool,
    ) -> Result<(), Error> {
        let wire::Subscription { subscription: number, from, window_bytes, wait, filter, .. } = subscription;
        let filter = Filter::from_wire(filter)?;
        self.remove(number);
        if self.entries.len() >= SUBSCRIPTIONS_MAX {
            let message =
                format!("a connection has at most {SUBSCRIPTIONS_MAX} subscriptions; open another one");
            return Err(Error::new(ErrorCode::TooManySubscriptions, message).limit(SUBSCRIPTIONS_MAX));
        }
        self.generations += 1;
        let generation = Generation(self.generations);
        let (abort, _) = AbortHandle::new_pair();
        let entry =
            Entry { generation, abort, consumed_through: watch::Sender::new(0), tail: None, told_end: 0 };
        self.entries.insert(number, entry);
        let (hub, principal) = (Arc::clone(&self.hub), self.principal.clone());
        self.opening.push(Box::pin(async move {
            if after_requests {
                hub.flush(&session).await;
            }
            let result = attach(&hub, &session, from.and_then(|from| from.from), &principal, wait).await;
            Opened { number, generation, request, session, result, window_bytes, filter }
        }));
        Ok(())
    }

    /// Ends a subscription; false when there is none with the number.
    pub(super) fn remove(&mut self, number: u32) -> bool {
        let entry = self.entries.remove(&number);
        if let Some(entry) = &entry {
            entry.abort.abort();
        }
        entry.is_some()
    }

    /// Takes over what a client consumed. Unknown numbers are credit that crossed an end on its way.
    pub(super) fn credit(&mut self, credit: wire::Credit) {
        if let Some(entry) = self.entries.get(&credit.subscription) {
            entry.consumed_through.send_if_modified(|consumed| {
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

    /// What the subscriptions have next. Waits for ever while there is nothing. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> SubscriptionEvent {
        loop {
            tokio::select! {
                Some(opened) = self.opening.next(), if !self.opening.is_empty() => {
                    if let Some(event) = self.opened(opened) {
                        return event;
                    }
                }
                Some((subscription, generation, event)) = self.deliveries.next(), if !self.deliveries.is_empty() => {
                    if self.is_current(subscription, generation) {
                        if let Event::Ended { .. } = event {
                            self.remove(subscription);
                        }
                        return SubscriptionEvent::Delivery { subscription, event };
                    }
                }
                else => std::future::pending().await,
            }
        }
    }

    fn is_current(&self, number: u32, generation: Generation) -> bool {
        self.entries.get(&number).is_some_and(|entry| entry.generation == generation)
    }

    fn opened(&mut self, opened: Opened) -> Option<SubscriptionEvent> {
        let Opened { number, generation, request, session, result, window_bytes, filter } = opened;
        if !self.is_current(number, generation) {
            let message = "the subscription was replaced or ended before it was opened";
            let error = Error::new(ErrorCode::SubscriptionNotFound, message).field("subscription");
            return Some(SubscriptionEvent::Refused { request, subscription: number, error });
        }
        let (reader, progress, start) = match result {
            Ok(opened) => opened,
            Err(error) => {
                self.remove(number);
                return Some(SubscriptionEvent::Refused { request, subscription: number, error });
            }
        };
        let subscribed = wire::Subscribed {
            request,
            subscription: number,
            session: session.to_string(),
            exists: progress.exists(),
            epoch: progress.epoch(),
            start: progress.start,
            end: progress.end,
            outcome: start.outcome.as_str().to_owned(),
            from: start.from,
            gap_from: start.gap_from,
            pattern: String::new(),
        };
        if start.outcome.is_subscribed() {
            let subscription = self.subscription(number, reader, progress, start.from).with_filter(filter);
            self.follow(generation, subscription, window_bytes);
        } else {
            self.remove(number);
        }
        Some(SubscriptionEvent::Subscribed(Box::new(subscribed)))
    }

    fn subscription(&self, number: u32, reader: TailReader, progress: Progress, from: u64) -> Subscription {
        let store = Arc::clone(self.hub.store());
        Subscription::new(number, self.encoding, store, reader, progress, from)
    }

    fn follow(&mut self, generation: Generation, mut subscription: Subscription, window_bytes: Option<u64>) {
        let number = subscription.number();
        let Some(entry) = self.entries.get_mut(&number) else { return };
        let (abort, registration) = AbortHandle::new_pair();
        entry.abort = abort;
        entry.tail = Some(Arc::clone(subscription.tail()));
        entry.told_end = subscription.known_end();
        if let Some(window_bytes) = window_bytes {
            subscription = subscription.with_window(window_bytes, entry.consumed_through.subscribe());
        }
        let events = unfold(subscription, move |mut subscription| async move {
            subscription.next().await.map(|event| ((number, generation, event), subscription))
        });
        self.deliveries.push(Box::pin(Abortable::new(events, registration)));
    }
}

async fn attach(
    hub: &Arc<Hub>,
    session: &SessionId,
    mut from: Option<wire::from::From>,
    principal: &str,
    wait: bool,
) -> Result<(TailReader, Progress, Start), Error> {
    let mut reader = hub.attach(session).await?;
    let progress = reader.loaded().await?;
    if !progress.exists() && !wait {
        let message = "there is no such session; a publish creates it, and `wait` subscribes before that";
        return Err(Error::new(ErrorCode::SessionNotFound, message).field("session"));
    }
    if let Some(wire::from::From::Cursor(name)) = &from {
        let cursor = CursorName::new(principal, name)?;
        if let Some(position) = cursor::position(&**hub.store(), &cursor, progress.log).await? {
            from = Some(wire::from::From::Position(position.to_string()));
        }
    }
    let start = resolve(from.as_ref(), &progress)?;
    Ok((reader, progress, start))
}
