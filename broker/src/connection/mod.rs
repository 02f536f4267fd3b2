//! A connection: one link to one client, the same for every transport.
//!
//! One task owns it. It reads a frame only while it has room for the answer, and waits for a slow client with nothing but
//! cursors: what the client has not taken stays in the store.

mod access;
mod counted;
mod decisions;
mod end;
mod event;
mod feeds;
mod hello;
mod leases;
mod lookups;
mod publishing;
mod read;
mod reply;
mod request;
mod seeking;
mod subscriptions;
mod tokens;
mod witness;
mod worker_groups;

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
use longwire_proto::codec::{Encoding, FrameBytes, decode_client, encode_server};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::{REQUESTS_MAX, SUBSCRIPTIONS_MAX};
use longwire_proto::raw::client_frame::Frame as ClientFrame;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::alarm::Alarm;
use crate::audit::Audit;
use crate::auth::guard::Guard;
use crate::auth::operation::Operation as Asks;
use crate::bell::Bell;
use crate::clock::Clock;
use crate::connection::access::{Access, Creation};
use crate::connection::counted::Counted;
use crate::connection::end::{End, Goodbye, link_end, say_goodbye};
use crate::connection::event::{Event, Turn};
use crate::connection::hello::{hello, welcome};
use crate::connection::reply::{Asked, answer, refused};
use crate::connection::seeking::Seekers;
use crate::connection::subscriptions::{SubscriptionEvent, Subscriptions};
use crate::hub::Hub;
use crate::numbered::Numbered;
use crate::page_token::PageTokens;
use crate::pulse::Pulse;
use crate::queue;
use crate::quota::{Quotas, SubscriptionPermit};
use crate::request::{Answer, Operation, ReplyTo, Request};
use crate::subscription::Event as Delivered;
use crate::transport::lanes::{Lane, LaneId};
use crate::transport::{FrameSink, FrameSource, Gone};
use crate::worker_groups::groups::Groups;

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
    /// Whose agents are woken.
    pub groups: Arc<Groups>,
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
    /// Rung by what is waited for all the time and comes rarely.
    bell: Bell,
    /// Nothing was ready when it was last looked, and whatever becomes ready wakes this task: there is no need to look again before.
    is_quiet: bool,
    answers: queue::Sender<Answer>,
    answered: queue::Receiver<Answer>,
    asked: Numbered<u64, Asked>,
    next_request: u64,
    /// A request that waits for room in its session's queue; nothing is read meanwhile, so order is kept.
    passing: Option<BoxFuture<'static, Result<(), (Error, ReplyTo)>>>,
    /// Lists and pages that are being read; each becomes a whole frame.
    lookups: FuturesUnordered<BoxFuture<'static, Bytes>>,
    subscriptions: Subscriptions,
    /// What is to be fed. There is hardly ever more than one.
    said: Option<(Lane, FrameBytes)>,
    said_after: Vec<(Lane, FrameBytes)>,
    /// Nothing follows on this lane.
    last_said: Option<LaneId>,
    /// Counts deliveries: finding the counter costs more than counting.
    deliveries: metrics::Counter,
    fed_bytes: usize,
    /// When it was looked what is next.
    looked_at: Instant,
    received_at: Instant,
    /// Once a lease was claimed here: what its session goes by.
    pulse: Option<Arc<Pulse>>,
    /// Once a pattern was claimed here.
    seekers: Seekers,
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
    // Boxed, like all that is over soon or comes at the end: a connection has room for what it waits in.
    let end = match Box::pin(hello(&context, encoding, &mut source, number, remote)).await {
        Ok(access) => {
            let principal = access.principal();
            tracing::debug!(connection = number, principal = principal.id, "connected");
            let mut connection = Box::new(Connection::new(context, encoding, source, sink, access));
            let end = connection.run(number).await;
            let Connection { source: from, sink: to, .. } = *connection;
            (source, sink) = (from, to);
            end
        }
        Err(end) => end,
    };
    if let End::Goodbye(goodbye) = end {
        tracing::debug!(connection = number, error = %goodbye.error, "goodbye");
        // The client may be gone by now; then nobody is left to be told.
        drop(Box::pin(timeout(GOODBYE_TIMEOUT, say_goodbye(&mut sink, encoding, goodbye))).await);
    }
    (source, sink)
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
            bell: Bell::default(),
            is_quiet: false,
            answers,
            answered,
            asked: Numbered::default(),
            next_request: 0,
            passing: None,
            lookups: FuturesUnordered::new(),
            subscriptions,
            said: None,
            said_after: Vec::new(),
            last_said: None,
            deliveries: metrics::counter!("longwire_deliveries_total"),
            fed_bytes: 0,
            looked_at: now,
            received_at: now,
            pulse: None,
            seekers: Seekers::default(),
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
        self.say(welcome(&self.context, &self.access, number));
        self.feed_said().await?;
        loop {
            let Some(event) = self.event().await else {
                self.flush().await?;
                continue;
            };
            if matches!(event, Event::Drain) {
                return Box::pin(self.finish()).await;
            }
            let goodbye = self.handle(event)?;
            self.feed_said().await?;
            if let Some(goodbye) = goodbye {
                return Ok(goodbye);
            }
            self.leave_lanes();
            if self.fed_bytes >= FLUSH_BYTES {
                self.flush().await?;
            }
        }
    }

    fn leave_lanes(&mut self) {
        for lane in self.subscriptions.take_left() {
            self.sink.leave(lane);
        }
    }

    fn handle(&mut self, event: Event) -> Result<Option<Goodbye>, End> {
        match event {
            // See [`Connection::finish`].
            Event::Drain => {}
            Event::Frame(frame) => {
                self.received_at = self.looked_at;
                if let Some(pulse) = &self.pulse {
                    pulse.beat(self.context.clock.now_ms());
                }
                let frame = frame.map_err(link_end)?;
                self.frame_bytes = frame.len();
                let frame =
                    decode_client(self.encoding, frame).map_err(|error| End::Goodbye(error.into()))?;
                return Ok(self.frame(frame));
            }
            Event::Answer(answer) => self.answer(answer),
            Event::Passed(outcome) => {
                self.passing = None;
                if let Err((error, reply_to)) = outcome {
                    reply_to.answer(Err(error));
                }
            }
            Event::LookedUp(frame) => self.say_bytes(Lane::Control, frame.into()),
            Event::Subscription(event) => self.subscription(event),
            Event::Driven(over) => self.subscriptions.remove_lane(over?),
            Event::AccessDue => {
                if let Err(error) = self.access.check() {
                    return Ok(Some(error.into()));
                }
            }
            Event::Heartbeat => self.heartbeat(),
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
            self.answer(answer);
            self.feed_said().await?;
        }
        Ok(Goodbye::drained(&self.drain))
    }

    fn frame(&mut self, frame: ClientFrame) -> Option<Goodbye> {
        match frame {
            ClientFrame::Hello(_) => {
                let error = Error::new(ErrorCode::HelloRepeated, "`hello` is sent once, as the first frame");
                return Some(error.into());
            }
            ClientFrame::Ping(ping) => {
                let pong = wire::Pong { token: ping.token, time_ms: self.context.clock.now_ms() };
                self.say(ServerFrame::Pong(pong));
            }
            ClientFrame::Publish(publish) => self.publish(publish),
            ClientFrame::DescribeSession(describe) => {
                let session = self.access.session(Asks::Describe, &describe.session);
                self.ask(describe.request, session, Ok(Operation::Command(Command::Describe)));
            }
            ClientFrame::CreateSession(create) => {
                let asks = if create.update { Asks::Update } else { Asks::Create };
                let (number, session) = (create.request, self.access.session(asks, &create.session));
                let command = request::create(self.access.sender(), create).map(Operation::Command);
                let count = |access: &mut Access| access.count_creation().map(|()| Creation::None);
                self.ask_with(number, session, command, count);
            }
            ClientFrame::CloseSession(close) => {
                let (number, session) = (close.request, self.access.session(Asks::Close, &close.session));
                let command = request::close(self.access.sender(), close);
                self.ask(number, session, command.map(Operation::Command));
            }
            ClientFrame::DeleteSession(delete) => {
                let session = self.access.session(Asks::Delete, &delete.session);
                self.ask(delete.request, session, Ok(Operation::Delete));
            }
            ClientFrame::TrimSession(trim) => {
                let session = self.access.session(Asks::Trim, &trim.session);
                let before = request::position("before", &trim.before);
                self.ask(trim.request, session, before.map(Operation::Trim));
            }
            ClientFrame::DescribeAsk(describe) => self.describe_ask(describe),
            ClientFrame::ReadMessage(read) => self.read_message(read),
            ClientFrame::Claim(claim) => self.claim(claim),
            ClientFrame::ReleaseLease(release) => self.release_lease(release),
            ClientFrame::SetWorkerGroup(set) => self.set_worker_group(set),
            ClientFrame::ListWorkerGroups(list) => self.list_worker_groups(list),
            ClientFrame::RemoveWorkerGroup(remove) => self.remove_worker_group(remove),
            ClientFrame::ListSessions(list) => self.list(list),
            ClientFrame::Read(read) => self.read(read),
            ClientFrame::EraseRecords(erase) => self.erase(erase),
            ClientFrame::ForkSession(fork) => self.fork(fork),
            ClientFrame::ImportRecords(import) => self.import(*import),
            ClientFrame::CommitCursor(commit) => self.commit_cursor(commit),
            ClientFrame::DescribeCursor(describe) => self.describe_cursor(describe),
            ClientFrame::BackUp(back_up) => self.back_up(back_up),
            ClientFrame::Authenticate(authenticate) => self.authenticate(authenticate),
            ClientFrame::ShareSession(share) => self.share(share),
            ClientFrame::RevokeToken(revoke) => self.revoke(revoke),
            ClientFrame::Subscribe(subscribe) => self.subscribe(subscribe),
            ClientFrame::Unsubscribe(unsubscribe) => {
                let wire::Unsubscribe { request, subscription } = unsubscribe;
                let frame = if self.subscriptions.remove(subscription) {
                    ServerFrame::Done(wire::Done { request })
                } else {
                    let message = format!("there is no subscription {subscription}");
                    let error = Error::new(ErrorCode::SubscriptionNotFound, message).field("subscription");
                    refused(request, subscription, &error)
                };
                self.say(frame);
            }
            ClientFrame::Credit(credit) => self.subscriptions.credit(credit),
        }
        None
    }

    fn ask(&mut self, number: u64, session: Result<SessionId, Error>, operation: Result<Operation, Error>) {
        self.ask_with(number, session, operation, |_| Ok(Creation::None));
    }

    /// Asks a session. Rates are counted last: who is refused for anything else has used up nothing of them.
    fn ask_with(
        &mut self,
        number: u64,
        session: Result<SessionId, Error>,
        operation: Result<Operation, Error>,
        count: impl FnOnce(&mut Access) -> Result<Creation, Error>,
    ) {
        let admitted = session.and_then(|session| {
            let (operation, permit) = (operation?, self.access.begin_request(self.frame_bytes)?);
            Ok((session, operation, permit, count(&mut self.access)?))
        });
        let (session, mut operation, permit, creation) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => return self.say(refused(number, 0, &error)),
        };
        if let Operation::Command(Command::Publish { may_create, .. }) = &mut operation {
            *may_create &= !matches!(creation, Creation::Refused(_));
        }
        let request = self.next_request;
        self.next_request += 1;
        let managed = operation.asks().unwrap_or(Asks::Describe);
        let management = self.access.managing(managed, session.as_str());
        let asked =
            Asked { request: number, session: session.clone(), creation, management, _permit: permit };
        self.asked.insert(request, asked);
        let reply_to = ReplyTo { request, answers: self.answers.clone(), pulse: self.pulse_of(&operation) };
        if let Some(back) = self.context.hub.try_send(&session, Request { operation, reply_to }) {
            let hub = Arc::clone(&self.context.hub);
            self.passing = Some(Box::pin(hub.send(session, back)));
        }
    }

    fn answer(&mut self, answered: Answer) {
        let Some(asked) = self.asked.remove(&answered.request) else { return };
        let result = self.access.end_creation(&asked.creation, answered.result);
        asked.management.done(result.as_ref().map(drop));
        if let Err(error) = &result
            && error.resolved.as_ref().is_some_and(|resolved| resolved.answer.is_none())
        {
            return self.refuse_with_answer(asked, error.clone());
        }
        self.say(answer(&asked, result));
    }

    fn subscribe(&mut self, subscribe: wire::Subscribe) {
        let wire::Subscribe { request, subscriptions } = subscribe;
        if subscriptions.is_empty() || subscriptions.len() > SUBSCRIBE_MAX {
            let message = format!("a subscribe names 1 to {SUBSCRIBE_MAX} subscriptions");
            let error =
                Error::new(ErrorCode::InvalidArgument, message).field("subscriptions").limit(SUBSCRIBE_MAX);
            return self.say(refused(request, 0, &error));
        }
        for subscription in subscriptions {
            let number = subscription.subscription;
            if !subscription.pattern.is_empty() {
                let opened = self.subscription_place(number);
                let opened =
                    opened.and_then(|permit| self.subscriptions.open_pattern(request, subscription, permit));
                if let Err(error) = opened {
                    self.say(refused(request, number, &error));
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
                self.say(refused(request, number, &error));
            }
        }
    }

    /// One that replaces another has its place: it is not one more.
    fn subscription_place(&self, number: u32) -> Result<Arc<SubscriptionPermit>, Error> {
        match self.subscriptions.place(number) {
            Some(place) => Ok(place),
            None => self.access.begin_subscription().map(Arc::new),
        }
    }

    fn subscription(&mut self, event: SubscriptionEvent) {
        let (subscription, lane, event) = match event {
            SubscriptionEvent::Subscribed(lane, subscribed) => {
                let lane = lane.map_or(Lane::Control, Lane::Subscription);
                return self.say_to(lane, ServerFrame::Subscribed(*subscribed));
            }
            SubscriptionEvent::Refused { request, subscription, error } => {
                return self.say(refused(request, subscription, &error));
            }
            SubscriptionEvent::Delivery { subscription, lane, event } => (subscription, lane, event),
        };
        match event {
            Delivered::Delivery { frame, next: _ } => {
                self.deliveries.increment(1);
                self.say_bytes(Lane::Subscription(lane), frame);
            }
            Delivered::Frame(frame) => self.say_to(Lane::Subscription(lane), *frame),
            Delivered::Ended { epoch, next, error } => {
                let (error, session) = (Some(error.to_wire()), String::new());
                let ended = wire::SubscriptionEnded { subscription, epoch, next, error, session };
                self.say_to(Lane::Subscription(lane), ServerFrame::SubscriptionEnded(ended));
                self.last_said = Some(lane);
            }
        }
    }

    fn heartbeat(&mut self) {
        // What a crowd of requests took is given back when there is none.
        self.answered.shrink();
        if self.asked.is_empty() {
            self.asked = Numbered::default();
        }
        let ends = self.subscriptions.changed_ends();
        let quiet = self.sent_at.elapsed() >= self.context.times.heartbeat;
        self.heartbeat_at = Instant::now() + self.context.times.heartbeat;
        if !ends.is_empty() || quiet {
            let time_ms = self.context.clock.now_ms();
            self.say(ServerFrame::Heartbeat(wire::Heartbeat { time_ms, ends }));
        }
    }

    /// Has something to say: it is fed once what happened is handled.
    fn say(&mut self, frame: ServerFrame) {
        self.say_to(Lane::Control, frame);
    }

    fn say_to(&mut self, lane: Lane, frame: ServerFrame) {
        self.say_bytes(lane, encode_server(self.encoding, frame).into());
    }

    fn say_bytes(&mut self, lane: Lane, frame: FrameBytes) {
        match &self.said {
            None => self.said = Some((lane, frame)),
            Some(_) => self.said_after.push((lane, frame)),
        }
    }

    async fn feed_said(&mut self) -> Result<(), End> {
        if let Some((lane, frame)) = self.said.take() {
            self.feed_bytes(lane, frame).await?;
        }
        for (lane, frame) in std::mem::take(&mut self.said_after) {
            self.feed_bytes(lane, frame).await?;
        }
        if let Some(lane) = self.last_said.take() {
            self.sink.finish(lane);
        }
        Ok(())
    }

    async fn feed_bytes(&mut self, lane: Lane, frame: FrameBytes) -> Result<(), End> {
        self.fed_bytes += frame.len();
        let mut feeding = pin!(self.sink.feed(lane, frame));
        // Most frames find room; only who waits is timed.
        if let Some(fed) = feeding.as_mut().now_or_never() {
            return Ok(fed?);
        }
        taken(feeding, &mut self.access, self.context.times.idle_timeout).await
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
        // Who woke this task meanwhile is not known any more.
        self.is_quiet = false;
        taken(flushing, &mut self.access, self.context.times.idle_timeout).await
    }
}

/// Waits until the client has taken what is sent, for as long as it may be connected and does not take too long. Boxed: it is rare, and
/// every connection would have room for it.
fn taken<'a>(
    sending: impl Future<Output = Result<(), Gone>> + Send + 'a,
    access: &'a mut Access,
    idle_timeout: Duration,
) -> BoxFuture<'a, Result<(), End>> {
    Box::pin(async move {
        tokio::select! {
            biased;
            sent = timeout(idle_timeout, sending) => Ok(sent.map_err(|_| Gone)??),
            error = access.ends() => Err(End::Goodbye(error.into())),
        }
    })
}
