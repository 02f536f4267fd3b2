//! A connection: one link to one client, the same for every transport.
//!
//! One task owns it. It reads a frame only while it has room for the answer, and waits for a slow client with nothing but
//! cursors: what the client has not taken stays in the store.

mod access;
mod decisions;
mod end;
mod event;
mod hello;
mod lookups;
mod read;
mod reply;
mod request;
mod subscriptions;
mod tokens;
mod witness;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use longwire_core::command::Command;
use longwire_proto::codec::{Encoding, decode_client, encode_server};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::{REQUESTS_MAX, SUBSCRIPTIONS_MAX};
use longwire_proto::raw::client_frame::Frame as ClientFrame;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use longwire_proto::{raw, wire};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::alarm::Alarm;
use crate::audit::Audit;
use crate::auth::guard::Guard;
use crate::auth::operation::Operation as Asks;
use crate::clock::Clock;
use crate::connection::access::{Access, Creation};
use crate::connection::end::{End, Goodbye, link_end, say_goodbye};
use crate::connection::event::{Event, Turn};
use crate::connection::hello::{hello, welcome};
use crate::connection::reply::{Asked, answer, refused};
use crate::connection::subscriptions::{SubscriptionEvent, Subscriptions};
use crate::hub::Hub;
use crate::page_token::PageTokens;
use crate::queue;
use crate::quota::{Quotas, SubscriptionPermit};
use crate::request::{Answer, Operation, ReplyTo, Request};
use crate::subscription::Event as Delivered;
use crate::transport::lanes::{Lane, LaneId};
use crate::transport::{FrameSink, FrameSource, Gone};

/// Bytes that are fed before they are flushed, while there is more to feed: one system call carries many frames.
const FLUSH_BYTES: usize = 256 << 10;
/// How long a client is waited for to take the goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// Subscriptions in one subscribe frame, so that its answers are bounded.
const SUBSCRIBE_MAX: usize = SUBSCRIPTIONS_MAX;

/// Times of a connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionTimes {
    /// A client says hello within this time.
    pub handshake_timeout: Duration,
    /// The broker sends a heartbeat after this time of silence.
    pub heartbeat: Duration,
    /// A client that sends nothing, or takes nothing, for this long is gone.
    pub idle_timeout: Duration,
}

/// Tells connections that the broker shuts down, and when their clients should come back.
pub type DrainReceiver = watch::Receiver<Option<Duration>>;

/// What all connections share.
pub struct ConnectionContext {
    /// The directory of sessions.
    pub hub: Arc<Hub>,
    /// Who is let in.
    pub guard: Arc<Guard>,
    /// What is told of who comes and what they do.
    pub audit: Audit,
    /// Tokens of pages of lists.
    pub page_tokens: Arc<PageTokens>,
    /// What they use, and may use.
    pub quotas: Arc<Quotas>,
    /// Record times.
    pub clock: Clock,
    /// Times of a connection.
    pub times: ConnectionTimes,
    /// The folder of backups, when there is one.
    pub backups: Option<PathBuf>,
    /// The drain.
    pub drain: DrainReceiver,
    /// How many connections there have been: numbers them.
    pub connections: AtomicU64,
}

struct Connection<R, W> {
    context: Arc<ConnectionContext>,
    encoding: Encoding,
    source: R,
    sink: W,
    /// Of the frame that is being handled.
    frame_bytes: usize,
    drain: DrainReceiver,
    /// Resolves when the broker shuts down.
    drained: BoxFuture<'static, ()>,
    access: Access,
    turn: Turn,
    alarm: Alarm,
    answers: queue::Sender<Answer>,
    answered: queue::Receiver<Answer>,
    asked: HashMap<u64, Asked>,
    next_request: u64,
    /// A request that waits for room in its session's queue; nothing is read meanwhile, so order is kept.
    passing: Option<BoxFuture<'static, Result<(), (Error, ReplyTo)>>>,
    /// Lists and pages that are being read; each becomes a whole frame.
    lookups: FuturesUnordered<BoxFuture<'static, Bytes>>,
    subscriptions: Subscriptions,
    /// Counts deliveries: finding the counter costs more than counting.
    deliveries: metrics::Counter,
    fed_bytes: usize,
    received_at: Instant,
    sent_at: Instant,
    heartbeat_at: Instant,
}

/// Serves a link until it ends, and gives its halves back: some transports have to see it off.
pub async fn serve<R: FrameSource, W: FrameSink>(
    context: Arc<ConnectionContext>,
    encoding: Encoding,
    mut source: R,
    mut sink: W,
    remote: Option<SocketAddr>,
) -> (R, W) {
    let number = context.connections.fetch_add(1, Ordering::Relaxed);
    let _counted = Counted::begin();
    let end = match hello(&context, encoding, &mut source, number, remote).await {
        Ok(access) => {
            let principal = access.principal();
            tracing::debug!(connection = number, principal = principal.id, "connected");
            let mut connection = Connection::new(context, encoding, source, sink, access);
            let end = connection.run(number).await;
            (source, sink) = (connection.source, connection.sink);
            end
        }
        Err(end) => end,
    };
    if let End::Goodbye(goodbye) = end {
        tracing::debug!(connection = number, error = %goodbye.error, "goodbye");
        // The client may be gone by now; then nobody is left to be told.
        drop(timeout(GOODBYE_TIMEOUT, say_goodbye(&mut sink, encoding, goodbye)).await);
    }
    (source, sink)
}

/// A connection that is counted while it is served, also when whoever serves it drops it in the middle.
struct Counted;

impl Counted {
    fn begin() -> Self {
        metrics::gauge!("longwire_connections").increment(1.0);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("longwire_connections").decrement(1.0);
    }
}

impl<R: FrameSource, W: FrameSink> Connection<R, W> {
    fn new(context: Arc<ConnectionContext>, encoding: Encoding, source: R, sink: W, access: Access) -> Self {
        let (hub, whoever) = (Arc::clone(&context.hub), access.whoever());
        let subscriptions = Subscriptions::new(hub, whoever, encoding, sink.lanes());
        let (answers, answered) = queue::queue(REQUESTS_MAX);
        let now = Instant::now();
        let (drain, mut drained) = (context.drain.clone(), context.drain.clone());
        let heartbeat_at = now + context.times.heartbeat;
        Self {
            encoding,
            source,
            sink,
            frame_bytes: 0,
            drain,
            // Who shuts down without a word has gone.
            drained: Box::pin(async move { drop(drained.wait_for(Option::is_some).await) }),
            access,
            turn: Turn::Frames,
            alarm: Alarm::new(heartbeat_at),
            answers,
            answered,
            asked: HashMap::new(),
            next_request: 0,
            passing: None,
            lookups: FuturesUnordered::new(),
            subscriptions,
            deliveries: metrics::counter!("longwire_deliveries_total"),
            fed_bytes: 0,
            received_at: now,
            sent_at: now,
            heartbeat_at,
            context,
        }
    }

    async fn run(&mut self, number: u64) -> End {
        match self.exchange(number).await {
            Ok(goodbye) => End::Goodbye(goodbye),
            Err(end) => end,
        }
    }

    async fn exchange(&mut self, number: u64) -> Result<Goodbye, End> {
        self.feed(welcome(&self.context, &self.access, number)).await?;
        loop {
            self.flush().await?;
            let mut event = self.event().await;
            loop {
                if let Some(goodbye) = self.handle(event).await? {
                    return Ok(goodbye);
                }
                self.leave_lanes();
                if self.fed_bytes >= FLUSH_BYTES {
                    break;
                }
                match self.event().now_or_never() {
                    Some(next) => event = next,
                    None => break,
                }
            }
        }
    }

    fn leave_lanes(&mut self) {
        for lane in self.subscriptions.take_left() {
            self.sink.leave(lane);
        }
    }

    async fn handle(&mut self, event: Event) -> Result<Option<Goodbye>, End> {
        match event {
            Event::Drain => return self.finish().await.map(Some),
            Event::Frame(frame) => {
                self.received_at = Instant::now();
                let frame = frame.map_err(link_end)?;
                self.frame_bytes = frame.len();
                let frame =
                    decode_client(self.encoding, frame).map_err(|error| End::Goodbye(error.into()))?;
                return self.frame(frame).await;
            }
            Event::Answer(answer) => self.answer(answer).await?,
            Event::Passed(outcome) => {
                self.passing = None;
                if let Err((error, reply_to)) = outcome {
                    reply_to.answer(Err(error));
                }
            }
            Event::LookedUp(frame) => self.feed_bytes(Lane::Control, frame).await?,
            Event::Subscription(event) => self.subscription(event).await?,
            Event::Driven(over) => self.subscriptions.remove_lane(over?),
            Event::AccessDue => {
                if let Err(error) = self.access.check() {
                    return Ok(Some(error.into()));
                }
            }
            Event::Heartbeat => self.heartbeat().await?,
            Event::Idle => {
                let message = format!("no frame came for {} ms", self.context.times.idle_timeout.as_millis());
                return Ok(Some(Error::new(ErrorCode::IdleTimeout, message).into()));
            }
        }
        Ok(None)
    }

    /// Everything that was asked before the drain is answered, then the client is sent elsewhere.
    async fn finish(&mut self) -> Result<Goodbye, End> {
        if let Some(passing) = self.passing.take()
            && let Err((error, reply_to)) = passing.await
        {
            reply_to.answer(Err(error));
        }
        while !self.asked.is_empty() {
            let Some(answer) = self.answered.recv().await else { break };
            self.answer(answer).await?;
        }
        Ok(Goodbye::drained(&self.drain))
    }

    async fn frame(&mut self, frame: ClientFrame) -> Result<Option<Goodbye>, End> {
        match frame {
            ClientFrame::Hello(_) => {
                let error = Error::new(ErrorCode::HelloRepeated, "`hello` is sent once, as the first frame");
                return Ok(Some(error.into()));
            }
            ClientFrame::Ping(ping) => {
                let pong = wire::Pong { token: ping.token, time_ms: self.context.clock.now_ms() };
                self.feed(ServerFrame::Pong(pong)).await?;
            }
            ClientFrame::Publish(publish) => self.publish(publish).await?,
            ClientFrame::DescribeSession(describe) => {
                let session = self.access.session(Asks::Describe, &describe.session);
                self.ask(describe.request, session, Ok(Operation::Command(Command::Describe))).await?;
            }
            ClientFrame::CreateSession(create) => {
                let asks = if create.update { Asks::Update } else { Asks::Create };
                let (number, session) = (create.request, self.access.session(asks, &create.session));
                let command = request::create(self.access.sender(), create).map(Operation::Command);
                let count = |access: &mut Access| access.count_creation().map(|()| Creation::None);
                self.ask_with(number, session, command, count).await?;
            }
            ClientFrame::CloseSession(close) => {
                let (number, session) = (close.request, self.access.session(Asks::Close, &close.session));
                let command = request::close(self.access.sender(), close);
                self.ask(number, session, command.map(Operation::Command)).await?;
            }
            ClientFrame::DeleteSession(delete) => {
                let session = self.access.session(Asks::Delete, &delete.session);
                self.ask(delete.request, session, Ok(Operation::Delete)).await?;
            }
            ClientFrame::TrimSession(trim) => {
                let session = self.access.session(Asks::Trim, &trim.session);
                let before = request::position("before", &trim.before);
                self.ask(trim.request, session, before.map(Operation::Trim)).await?;
            }
            ClientFrame::ListSessions(list) => self.list(list).await?,
            ClientFrame::Read(read) => self.read(read).await?,
            ClientFrame::EraseRecords(erase) => self.erase(erase).await?,
            ClientFrame::ForkSession(fork) => self.fork(fork).await?,
            ClientFrame::ImportRecords(import) => self.import(*import).await?,
            ClientFrame::CommitCursor(commit) => self.commit_cursor(commit).await?,
            ClientFrame::DescribeCursor(describe) => self.describe_cursor(describe).await?,
            ClientFrame::BackUp(back_up) => self.back_up(back_up).await?,
            ClientFrame::Authenticate(authenticate) => self.authenticate(authenticate).await?,
            ClientFrame::ShareSession(share) => self.share(share).await?,
            ClientFrame::RevokeToken(revoke) => self.revoke(revoke),
            ClientFrame::Subscribe(subscribe) => self.subscribe(subscribe).await?,
            ClientFrame::Unsubscribe(unsubscribe) => {
                let wire::Unsubscribe { request, subscription } = unsubscribe;
                let frame = if self.subscriptions.remove(subscription) {
                    ServerFrame::Done(wire::Done { request })
                } else {
                    let message = format!("there is no subscription {subscription}");
                    let error = Error::new(ErrorCode::SubscriptionNotFound, message).field("subscription");
                    refused(request, subscription, &error)
                };
                self.feed(frame).await?;
            }
            ClientFrame::Credit(credit) => self.subscriptions.credit(credit),
        }
        Ok(None)
    }

    async fn publish(&mut self, publish: raw::Publish) -> Result<(), End> {
        let number = publish.request;
        let session = self.access.session(Asks::Publish, &publish.session);
        let command = session.as_ref().map_err(Clone::clone).and_then(|session| {
            let sender = self.access.publisher(&publish.act_as, session)?;
            request::publish(sender, publish)
        });
        let (records, bytes) =
            command.as_ref().map_or((0, 0), |publish| (publish.records(), publish.bytes()));
        let count = |access: &mut Access| {
            access.count_publish(records, bytes)?;
            Ok(access.begin_creation())
        };
        self.ask_with(number, session, command.map(Operation::Command), count).await
    }

    async fn ask(
        &mut self,
        number: u64,
        session: Result<SessionId, Error>,
        operation: Result<Operation, Error>,
    ) -> Result<(), End> {
        self.ask_with(number, session, operation, |_| Ok(Creation::None)).await
    }

    /// Asks a session. Rates are counted last: who is refused for anything else has used up nothing of them.
    async fn ask_with(
        &mut self,
        number: u64,
        session: Result<SessionId, Error>,
        operation: Result<Operation, Error>,
        count: impl FnOnce(&mut Access) -> Result<Creation, Error>,
    ) -> Result<(), End> {
        let admitted = session.and_then(|session| {
            let (operation, permit) = (operation?, self.access.begin_request(self.frame_bytes)?);
            Ok((session, operation, permit, count(&mut self.access)?))
        });
        let (session, mut operation, permit, creation) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => return self.feed(refused(number, 0, &error)).await,
        };
        if let Operation::Command(Command::Publish { may_create, .. }) = &mut operation {
            *may_create = !matches!(creation, Creation::Refused(_));
        }
        let request = self.next_request;
        self.next_request += 1;
        let managed = operation.asks().unwrap_or(Asks::Describe);
        let management = self.access.managing(managed, session.as_str());
        let asked =
            Asked { request: number, session: session.clone(), creation, management, _permit: permit };
        self.asked.insert(request, asked);
        let reply_to = ReplyTo { request, answers: self.answers.clone() };
        if let Some(back) = self.context.hub.try_send(&session, Request { operation, reply_to }) {
            let hub = Arc::clone(&self.context.hub);
            self.passing = Some(Box::pin(hub.send(session, back)));
        }
        Ok(())
    }

    async fn answer(&mut self, answered: Answer) -> Result<(), End> {
        let Some(asked) = self.asked.remove(&answered.request) else { return Ok(()) };
        let result = self.access.end_creation(&asked.creation, answered.result);
        asked.management.done(result.as_ref().map(drop));
        self.feed(answer(&asked, result)).await
    }

    async fn subscribe(&mut self, subscribe: wire::Subscribe) -> Result<(), End> {
        let wire::Subscribe { request, subscriptions } = subscribe;
        if subscriptions.is_empty() || subscriptions.len() > SUBSCRIBE_MAX {
            let message = format!("a subscribe names 1 to {SUBSCRIBE_MAX} subscriptions");
            let error =
                Error::new(ErrorCode::InvalidArgument, message).field("subscriptions").limit(SUBSCRIBE_MAX);
            return self.feed(refused(request, 0, &error)).await;
        }
        for subscription in subscriptions {
            let number = subscription.subscription;
            if !subscription.pattern.is_empty() {
                let opened = self.subscription_place(number);
                let opened =
                    opened.and_then(|permit| self.subscriptions.open_pattern(request, subscription, permit));
                if let Err(error) = opened {
                    self.feed(refused(request, number, &error)).await?;
                }
                continue;
            }
            let opened =
                self.access.session(Asks::SubscribeReplay, &subscription.session).and_then(|session| {
                    let after_requests = self.asked.values().any(|asked| asked.session == session);
                    let permit = self.subscription_place(number)?;
                    self.subscriptions.open(request, session, subscription, after_requests, permit)
                });
            if let Err(error) = opened {
                self.feed(refused(request, number, &error)).await?;
            }
        }
        Ok(())
    }

    /// One that replaces another has its place: it is not one more.
    fn subscription_place(&self, number: u32) -> Result<Arc<SubscriptionPermit>, Error> {
        match self.subscriptions.place(number) {
            Some(place) => Ok(place),
            None => self.access.begin_subscription().map(Arc::new),
        }
    }

    async fn subscription(&mut self, event: SubscriptionEvent) -> Result<(), End> {
        let (subscription, lane, event) = match event {
            SubscriptionEvent::Subscribed(lane, subscribed) => {
                let lane = lane.map_or(Lane::Control, Lane::Subscription);
                return self.feed_to(lane, ServerFrame::Subscribed(*subscribed)).await;
            }
            SubscriptionEvent::Refused { request, subscription, error } => {
                return self.feed(refused(request, subscription, &error)).await;
            }
            SubscriptionEvent::Delivery { subscription, lane, event } => (subscription, lane, event),
        };
        match event {
            Delivered::Delivery { frame, next: _ } => {
                self.deliveries.increment(1);
                self.feed_bytes(Lane::Subscription(lane), frame).await
            }
            Delivered::Frame(frame) => self.feed_to(Lane::Subscription(lane), *frame).await,
            Delivered::Ended { epoch, next, error } => {
                let (error, session) = (Some(error.to_wire()), String::new());
                let ended = wire::SubscriptionEnded { subscription, epoch, next, error, session };
                self.feed_last(lane, ServerFrame::SubscriptionEnded(ended)).await
            }
        }
    }

    async fn heartbeat(&mut self) -> Result<(), End> {
        // What a crowd of requests took is given back when there is none.
        self.answered.shrink();
        if self.asked.is_empty() {
            self.asked = HashMap::new();
        }
        let ends = self.subscriptions.changed_ends();
        let quiet = self.sent_at.elapsed() >= self.context.times.heartbeat;
        self.heartbeat_at = Instant::now() + self.context.times.heartbeat;
        if ends.is_empty() && !quiet {
            return Ok(());
        }
        self.feed(ServerFrame::Heartbeat(wire::Heartbeat { time_ms: self.context.clock.now_ms(), ends }))
            .await
    }

    async fn feed(&mut self, frame: ServerFrame) -> Result<(), End> {
        self.feed_to(Lane::Control, frame).await
    }

    async fn feed_to(&mut self, lane: Lane, frame: ServerFrame) -> Result<(), End> {
        self.feed_bytes(lane, encode_server(self.encoding, frame)).await
    }

    async fn feed_last(&mut self, lane: LaneId, frame: ServerFrame) -> Result<(), End> {
        self.feed_to(Lane::Subscription(lane), frame).await?;
        self.sink.finish(lane);
        Ok(())
    }

    async fn feed_bytes(&mut self, lane: Lane, frame: Bytes) -> Result<(), End> {
        self.fed_bytes += frame.len();
        let mut feeding = pin!(self.sink.feed(lane, frame));
        // Most frames find room; only who waits is timed.
        if let Some(fed) = feeding.as_mut().now_or_never() {
            return Ok(fed?);
        }
        tokio::select! {
            biased;
            fed = timeout(self.context.times.idle_timeout, feeding) => Ok(fed.map_err(|_| Gone)??),
            error = self.access.ends() => Err(End::Goodbye(error.into())),
        }
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.fed_bytes == 0 {
            return Ok(());
        }
        self.fed_bytes = 0;
        self.sent_at = Instant::now();
        let mut flushing = pin!(self.sink.flush());
        if let Some(flushed) = flushing.as_mut().now_or_never() {
            return Ok(flushed?);
        }
        tokio::select! {
            biased;
            flushed = timeout(self.context.times.idle_timeout, flushing) => Ok(flushed.map_err(|_| Gone)??),
            error = self.access.ends() => Err(End::Goodbye(error.into())),
        }
    }
}
