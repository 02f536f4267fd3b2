//! The protocol without IO: inputs and the time go in, frames, results and the next deadline come out.
//!
//! ```text
//! handle(input, now)          an input arrives
//! poll_output() -> Output     what to do, in order
//! poll_publish(now) -> Due    the next publish to send; asked for when the link has room
//! poll_timeout() -> Duration  when `handle(Input::Time)` is due
//! ```
//! Times are durations since the machine was made. Bodies of publishes are not here but in the spool: the machine names
//! entries. Equal inputs give equal outputs; the only randomness is the seed of the jitter.

pub(crate) mod calls;
pub(crate) mod event;
mod greeting;
pub(crate) mod io;
#[cfg(test)]
mod model;
pub(crate) mod outbox;
mod phase;
pub(crate) mod subscriptions;
pub(crate) mod tokens;
pub(crate) mod watches;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use longwire_proto::error::ErrorCode;
use longwire_proto::limits::SUBSCRIPTIONS_MAX;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::backoff::Jitter;
use crate::connection_state::ConnectionState;
use crate::error::{Closed, Refusal, SubscriptionError};
use crate::heard::Heard;
use crate::lane::Lane;
use crate::machine::calls::{Answer, Calls, Ticket};
use crate::machine::event::{Event, Violation};
use crate::machine::io::{Config, Input, Output};
use crate::machine::outbox::{Decision, Due, Entry, Outbox, Slot};
use crate::machine::subscriptions::{Subscriptions, Wanted};
use crate::machine::tokens::{TOKEN_TIMEOUT, Tokens, Verdict};
use crate::token::Token;
use crate::transport::Transport;

/// A broker that accepted the connection must welcome the client within this time.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that lasted this long was a good one: waiting begins anew with the shortest.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// Silence after which the connection is dead, in tenths of the heartbeat interval: one heartbeat may be late.
const SILENCE_HEARTBEAT_TENTHS: u64 = 25;
/// The client pings this many times within the broker's idle timeout.
const PINGS_PER_IDLE_TIMEOUT: u64 = 3;
/// The shortest interval between pings, whatever the broker says.
const PING_INTERVAL_MIN: Duration = Duration::from_millis(10);

#[derive(Debug)]
enum Link {
    /// Until the next try.
    Waiting(Duration),
    /// The next try waits for a token, until then.
    Asking(Duration),
    /// With the subscriptions of the greeting that were left meanwhile.
    Connecting(Vec<u32>),
    /// The greeting was said; everything else may follow at once.
    Open(Open),
    Closed,
}

#[derive(Debug)]
struct Open {
    transport: Transport,
    since: Duration,
    welcomed: bool,
    received: Duration,
    sent: Duration,
    silence_max: Duration,
    ping_interval: Duration,
}

#[derive(Debug)]
enum Awaited {
    Publish(Lane, Entry),
    Call(Ticket),
    Subscribe(Vec<u32>),
    Authenticate,
}

#[derive(Debug)]
pub(crate) struct Machine {
    config: Config,
    link: Link,
    attempt: u32,
    next_request: u64,
    awaited: BTreeMap<u64, Awaited>,
    outbox: Outbox,
    calls: Calls,
    subscriptions: Subscriptions,
    subscriptions_max: u64,
    tokens: Tokens,
    jitter: Jitter,
    outputs: VecDeque<Output>,
}

impl Machine {
    pub(crate) fn new(mut config: Config) -> Self {
        let recovered = std::mem::take(&mut config.recovered);
        let backoff = config.backoff;
        let tokens = Tokens::new(std::mem::take(&mut config.token));
        let mut machine = Self {
            link: Link::Waiting(Duration::ZERO),
            attempt: 0,
            next_request: 1,
            awaited: BTreeMap::new(),
            outbox: Outbox::new(config.producer_base.clone(), backoff, recovered),
            calls: Calls::new(backoff),
            subscriptions: Subscriptions::new(backoff),
            subscriptions_max: SUBSCRIPTIONS_MAX as u64,
            tokens,
            jitter: Jitter::new(config.seed),
            outputs: VecDeque::new(),
            config,
        };
        machine.begin(Duration::ZERO);
        machine
    }

    /// Publishes that have no answer yet.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.outbox.len()
    }

    /// Whether the machine is closed for good.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.link, Link::Closed)
    }

    /// The slot for the next publish of the lane. Write the publish to the spool, then give [`Input::Accepted`].
    pub(crate) fn reserve(&mut self, lane: &Lane) -> Slot {
        self.outbox.reserve(lane)
    }

    pub(crate) fn handle(&mut self, now: Duration, input: Input) {
        match input {
            Input::Token(token) => self.token(now, token),
            Input::Connected(transport) => self.connected(now, transport),
            Input::ConnectFailed { fatal: Some(reason), .. } => self.close(&reason),
            Input::ConnectFailed { error, fatal: None } | Input::Disconnected { error } => {
                self.disconnected(now, error)
            }
            Input::Frame(heard, bytes) => self.heard(now, *heard, bytes),
            Input::Time => {}
            Input::Accepted { entry, lane, bytes } => self.outbox.accept(&lane, entry, bytes),
            Input::Lost { due, error } => {
                self.awaited
                    .retain(|_, awaited| !matches!(awaited, Awaited::Publish(_, e) if *e == due.entry));
                self.outbox.lost(now, &due.lane, due.entry, error);
            }
            Input::Call { ticket, call } => match &self.link {
                Link::Closed => {
                    self.outputs.push_back(Output::Answer { ticket, result: Err(Closed::ShutDown.into()) });
                }
                _ => self.calls.add(ticket, call),
            },
            Input::Subscribe { number, wanted } => self.subscribe(number, wanted),
            Input::Unsubscribe { number } => self.unsubscribe(now, number),
            Input::Consumed { number, through, bytes } => {
                self.subscriptions.consumed(now, number, through, bytes)
            }
            Input::Close(reason) => self.close(&reason),
        }
        self.timeouts(now);
        self.pump(now);
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The next publish to send, with its request number. Call it when [`Self::poll_output`] has nothing.
    pub(crate) fn poll_publish(&mut self, now: Duration) -> Option<(u64, Due)> {
        let Link::Open(open) = &mut self.link else { return None };
        let due = self.outbox.poll_send()?;
        open.sent = now;
        let request = self.request(Awaited::Publish(due.lane.clone(), due.entry));
        Some((request, due))
    }

    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        match &self.link {
            Link::Waiting(until) | Link::Asking(until) => Some(*until),
            Link::Connecting(_) | Link::Closed => None,
            Link::Open(open) => {
                let silence = open.received + open.silence_max;
                let ping = open.sent + open.ping_interval;
                let others = [
                    self.outbox.poll_timeout(),
                    self.calls.poll_timeout(),
                    self.subscriptions.poll_timeout(),
                    self.tokens.poll_timeout(),
                ];
                others.into_iter().flatten().chain([silence, ping]).min()
            }
        }
    }

    fn request(&mut self, awaited: Awaited) -> u64 {
        let request = self.next_request;
        self.next_request += 1;
        self.awaited.insert(request, awaited);
        request
    }

    fn send(&mut self, now: Duration, frame: ClientFrame) {
        if let Link::Open(open) = &mut self.link {
            open.sent = now;
            self.outputs.push_back(Output::Send(frame));
        }
    }

    fn state(&mut self, state: ConnectionState) {
        self.outputs.push_back(Output::State(state));
    }

    /// Begins a try to connect.
    fn begin(&mut self, now: Duration) {
        if self.tokens.are_asked_for() {
            self.link = Link::Asking(now + TOKEN_TIMEOUT);
            self.outputs.push_back(Output::AskToken);
        } else {
            self.connect(now);
        }
    }

    fn token(&mut self, now: Duration, token: Result<Token, String>) {
        match (&self.link, token) {
            (Link::Asking(_), Ok(token)) => match self.tokens.take(token) {
                Ok(()) => self.connect(now),
                Err(closed) => self.close(&closed),
            },
            (Link::Asking(_), Err(error)) => self.disconnected(now, format!("there is no token: {error}")),
            (Link::Open(_), Ok(token)) => {
                if let Some(token) = self.tokens.newer(now, token, &mut self.jitter) {
                    let request = self.request(Awaited::Authenticate);
                    let token = token.reveal();
                    self.send(now, ClientFrame::Authenticate(wire::Authenticate { request, token }));
                }
            }
            (Link::Open(_), Err(_)) => {
                self.tokens.failed(now, Duration::ZERO, self.config.backoff, &mut self.jitter);
            }
            (Link::Waiting(_) | Link::Connecting(_) | Link::Closed, _) => {}
        }
    }

    fn connected(&mut self, now: Duration, transport: Transport) {
        let Link::Connecting(left) = &mut self.link else { return };
        let left = std::mem::take(left);
        self.link = Link::Open(Open {
            transport,
            since: now,
            welcomed: false,
            received: now,
            sent: now,
            silence_max: WELCOME_TIMEOUT,
            ping_interval: WELCOME_TIMEOUT,
        });
        for number in left {
            self.leave(now, number);
        }
        if self.tokens.are_asked_for() {
            // The pong tells the broker's time, and with it for how long the token is valid.
            self.send(now, ClientFrame::Ping(wire::Ping { token: 0 }));
        }
    }

    fn disconnected(&mut self, now: Duration, error: String) {
        self.disconnected_with(now, error, None);
    }

    fn disconnected_with(&mut self, now: Duration, error: String, code: Option<ErrorCode>) {
        if let Link::Open(open) = &self.link
            && open.welcomed
            && now.saturating_sub(open.since) >= STABLE_AFTER
        {
            self.attempt = 0;
        }
        if !matches!(self.link, Link::Open(_) | Link::Connecting(_) | Link::Asking(_)) {
            return;
        }
        let retry_in = self.config.backoff.delay(self.attempt, &mut self.jitter);
        self.attempt = self.attempt.saturating_add(1);
        self.forget_connection(now);
        self.link = Link::Waiting(now + retry_in);
        self.state(ConnectionState::Reconnecting { attempt: self.attempt, error, code, retry_in });
    }

    fn forget_connection(&mut self, now: Duration) {
        self.awaited.clear();
        self.outbox.disconnected(now);
        self.calls.disconnected();
        self.subscriptions.disconnected();
        self.tokens.disconnected();
        // What was to be said on it would be said to the next one.
        self.outputs.retain(|output| !matches!(output, Output::Send(_)));
    }

    fn violation(&mut self, now: Duration, violation: Violation) {
        self.outputs.push_back(Output::Disconnect);
        self.disconnected(now, format!("the broker broke the protocol: {}", violation.0));
    }

    fn close(&mut self, reason: &Closed) {
        if matches!(self.link, Link::Closed) {
            return;
        }
        let calls: Vec<Ticket> = self.calls.tickets();
        for ticket in calls {
            self.calls.answered(ticket);
            self.outputs.push_back(Output::Answer { ticket, result: Err(reason.clone().into()) });
        }
        self.subscriptions.close(&SubscriptionError::Closed(reason.clone()));
        self.link = Link::Closed;
        self.outputs
            .retain(|output| !matches!(output, Output::Send(_) | Output::Connect(_) | Output::AskToken));
        self.outputs.push_back(Output::Disconnect);
        self.state(ConnectionState::Closed(reason.clone()));
    }

    fn subscribe(&mut self, number: u32, wanted: Wanted) {
        let error = if matches!(self.link, Link::Closed) {
            SubscriptionError::Closed(Closed::ShutDown)
        } else if self.subscriptions.len() as u64 >= self.subscriptions_max {
            SubscriptionError::TooMany(self.subscriptions_max)
        } else {
            return self.subscriptions.add(number, wanted);
        };
        self.outputs.push_back(Output::Event { number, event: Event::Failed(error) });
        self.outputs.push_back(Output::Event { number, event: Event::Ended });
    }

    fn unsubscribe(&mut self, now: Duration, number: u32) {
        if self.subscriptions.remove(number) {
            self.subscription_over(number);
            match &mut self.link {
                Link::Connecting(left) => left.push(number),
                _ => self.leave(now, number),
            }
        }
    }

    fn heard(&mut self, now: Duration, heard: Heard, bytes: u64) {
        let Link::Open(open) = &mut self.link else { return };
        open.received = now;
        let checked = match heard {
            Heard::Delivery(delivery) => self.subscriptions.delivery(delivery, bytes),
            Heard::Frame(frame) => self.frame(now, frame, bytes),
        };
        if let Err(violation) = checked {
            self.violation(now, violation);
        }
    }

    fn frame(&mut self, now: Duration, frame: ServerFrame, bytes: u64) -> Result<(), Violation> {
        match frame {
            ServerFrame::Welcome(welcome) => {
                self.welcome(now, welcome);
                Ok(())
            }
            ServerFrame::Pong(pong) => {
                self.tokens.clock(now, pong.time_ms, &mut self.jitter);
                Ok(())
            }
            ServerFrame::Authenticated(authenticated) => {
                if let Some(Awaited::Authenticate) = self.awaited.remove(&authenticated.request) {
                    self.tokens.authenticated(now, authenticated.expires_ms, &mut self.jitter);
                }
                Ok(())
            }
            ServerFrame::Published(published) => {
                if let Some(Awaited::Publish(lane, entry)) = self.awaited.remove(&published.request) {
                    self.outbox.published(now, &lane, entry, &published);
                }
                Ok(())
            }
            ServerFrame::Subscribed(subscribed) => {
                self.subscription_answered(subscribed.request, subscribed.subscription);
                self.subscriptions.subscribed(&subscribed)
            }
            ServerFrame::Delivery(delivery) => self.subscriptions.delivery(delivery.into(), bytes),
            ServerFrame::SubscriptionEnded(ended) => {
                // On QUIC it can overtake the answer, or come instead of it.
                self.subscription_over(ended.subscription);
                self.subscriptions.ended(now, ended, &mut self.jitter)
            }
            ServerFrame::Refused(refused) => {
                self.refused(now, refused);
                Ok(())
            }
            ServerFrame::Heartbeat(heartbeat) => {
                self.tokens.clock(now, heartbeat.time_ms, &mut self.jitter);
                self.subscriptions.heartbeat(&heartbeat.ends)
            }
            ServerFrame::Goodbye(goodbye) => {
                self.goodbye(now, goodbye);
                Ok(())
            }
            answer => {
                if let Some((request, answer)) = Answer::of(answer) {
                    self.answer(request, answer);
                }
                Ok(())
            }
        }
    }

    fn welcome(&mut self, now: Duration, welcome: wire::Welcome) {
        let Link::Open(open) = &mut self.link else { return };
        self.tokens.welcomed(now, welcome.expires_ms, &mut self.jitter);
        open.welcomed = true;
        let heartbeat_ms = welcome.heartbeat_ms.max(1);
        open.silence_max = Duration::from_millis(heartbeat_ms.saturating_mul(SILENCE_HEARTBEAT_TENTHS) / 10);
        let ping_ms = heartbeat_ms.min(welcome.idle_timeout_ms / PINGS_PER_IDLE_TIMEOUT);
        open.ping_interval = Duration::from_millis(ping_ms).max(PING_INTERVAL_MIN);
        let (transport, principal) = (open.transport, welcome.principal);
        let limits = welcome.limits.unwrap_or_default();
        if limits.subscriptions_max > 0 {
            self.subscriptions_max = limits.subscriptions_max;
        }
        self.state(ConnectionState::Connected { principal, limits, transport });
    }

    /// Whatever asked for it waits for nothing any more.
    fn subscription_over(&mut self, number: u32) {
        let waits = |awaited: &Awaited| matches!(awaited, Awaited::Subscribe(all) if all.contains(&number));
        let request = self.awaited.iter().find_map(|(request, awaited)| waits(awaited).then_some(*request));
        if let Some(request) = request {
            self.subscription_answered(request, number);
        }
    }

    fn subscription_answered(&mut self, request: u64, number: u32) {
        if let Some(Awaited::Subscribe(numbers)) = self.awaited.get_mut(&request) {
            numbers.retain(|waiting| *waiting != number);
            if numbers.is_empty() {
                self.awaited.remove(&request);
            }
        }
    }

    fn answer(&mut self, request: u64, answer: Answer) {
        if let Some(Awaited::Call(ticket)) = self.awaited.remove(&request) {
            self.calls.answered(ticket);
            self.outputs.push_back(Output::Answer { ticket, result: Ok(answer) });
        }
    }

    fn refused(&mut self, now: Duration, refused: wire::Refused) {
        let refusal = Refusal::from(refused.error);
        if refused.subscription != 0 {
            self.subscription_answered(refused.request, refused.subscription);
            self.subscriptions.refused(now, refused.subscription, refusal, &mut self.jitter);
            return;
        }
        match self.awaited.remove(&refused.request) {
            Some(Awaited::Publish(lane, entry)) => {
                self.outbox.refused(now, &lane, entry, refusal, &mut self.jitter);
            }
            Some(Awaited::Call(ticket)) => {
                if let Some(result) = self.calls.refused(now, ticket, refusal, &mut self.jitter) {
                    self.outputs.push_back(Output::Answer { ticket, result });
                }
            }
            Some(Awaited::Subscribe(numbers)) => {
                for number in numbers {
                    self.subscriptions.refused(now, number, refusal.clone(), &mut self.jitter);
                }
            }
            Some(Awaited::Authenticate) if refusal.retryable => {
                let wait = Duration::from_millis(refusal.retry_after_ms);
                self.tokens.failed(now, wait, self.config.backoff, &mut self.jitter);
            }
            // Such as one that allows more: what a connection may do never grows, and another one's may be different.
            Some(Awaited::Authenticate) => {
                self.outputs.push_back(Output::Disconnect);
                self.disconnected(now, format!("the broker refuses the newer token here: {refusal}"));
            }
            None => {}
        }
    }

    fn goodbye(&mut self, now: Duration, goodbye: wire::Goodbye) {
        let refusal = Refusal::from(goodbye.error);
        match self.tokens.goodbye(&refusal) {
            Some(Verdict::Close(closed)) => return self.close(&closed),
            Some(Verdict::Again) => {
                self.outputs.push_back(Output::Disconnect);
                return self.disconnected_with(now, refusal.to_string(), refusal.code);
            }
            None => {}
        }
        let defect = matches!(refusal.code, Some(ErrorCode::Internal | ErrorCode::DataCorrupt));
        if !refusal.retryable && !defect {
            return self.close(&Closed::Refused(refusal.to_string()));
        }
        self.outputs.push_back(Output::Disconnect);
        if refusal.code != Some(ErrorCode::Draining) {
            return self.disconnected_with(now, refusal.to_string(), refusal.code);
        }
        // The broker chose the time so that not all its clients come at once; a restart is not a failure.
        let reconnect_in = Duration::from_millis(goodbye.reconnect_after_ms);
        self.forget_connection(now);
        self.link = Link::Waiting(now + reconnect_in);
        self.state(ConnectionState::Draining { reconnect_in });
    }

    fn timeouts(&mut self, now: Duration) {
        match &self.link {
            Link::Waiting(until) if *until <= now => self.begin(now),
            Link::Asking(until) if *until <= now => {
                let error = format!("no token came within {} s", TOKEN_TIMEOUT.as_secs());
                self.disconnected(now, error);
            }
            Link::Open(open) if open.received + open.silence_max <= now => {
                self.outputs.push_back(Output::Disconnect);
                self.disconnected(now, "nothing came from the broker for too long".to_owned());
            }
            Link::Open(open) if open.sent + open.ping_interval <= now => {
                self.send(now, ClientFrame::Ping(wire::Ping { token: 0 }));
            }
            _ => {}
        }
        if matches!(self.link, Link::Open(_)) && self.tokens.is_due(now) {
            self.outputs.push_back(Output::AskToken);
        }
        self.outbox.timeout(now);
        self.subscriptions.timeout(now);
    }

    /// Turns what is due into outputs.
    fn pump(&mut self, now: Duration) {
        while let Some(decision) = self.outbox.poll_decision() {
            self.outputs.push_back(match decision {
                Decision::Settled { entry, result } => Output::Settled { entry, result },
                Decision::Renumbered { lane, epoch } => Output::Renumbered { lane, epoch },
            });
        }
        if matches!(self.link, Link::Open(_)) {
            if let Some(subscribe) = self.poll_subscribe(now) {
                self.send(now, subscribe);
            }
            while let Some((ticket, frame)) = self.calls.poll_send(now, self.next_request) {
                self.request(Awaited::Call(ticket));
                self.send(now, frame);
            }
            while let Some(credit) = self.subscriptions.poll_credit() {
                self.send(now, ClientFrame::Credit(credit));
            }
        }
        while let Some((number, event)) = self.subscriptions.poll_event() {
            self.outputs.push_back(Output::Event { number, event });
        }
    }
}
