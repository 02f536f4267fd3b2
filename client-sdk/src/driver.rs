//! The shell around the machine: owns socket, spool and timer, and answers callers.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use longwire_proto::codec::{self, Encoding};
use longwire_proto::position::Position;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::connection_state::ConnectionState;
use crate::error::{Closed, OutboxError, PublishError, RequestError};
use crate::lane::Lane;
use crate::link::{Link, LinkEvent};
use crate::machine::Machine;
use crate::machine::calls::{Answer, Call, Ticket};
use crate::machine::event::Event;
use crate::machine::io::{Input, Output};
use crate::machine::outbox::{Due, Entry};
use crate::machine::subscriptions::Wanted;
use crate::outbox_space::OutboxSpace;
use crate::outbox_status::OutboxStatus;
use crate::publication::EncodedBatch;
use crate::published::Published;
use crate::spool::Spool;
use crate::token::{Asking, Token, TokenCallback};

/// Commands taken before the socket is looked after again.
const COMMANDS_PER_TURN_MAX: usize = 64;
/// Frames read before time is looked at, when a timer and frames are due at once: what arrived is proof of life.
const FRAMES_BEFORE_TIME_MAX: usize = 1024;

/// What handles ask of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Publish {
        lane: Lane,
        batch: EncodedBatch,
        /// What the caller took of the outbox's space.
        bytes: u64,
        accepted: oneshot::Sender<Result<(), PublishError>>,
        settled: oneshot::Sender<Result<Published, PublishError>>,
    },
    Call {
        call: Call,
        answer: oneshot::Sender<Result<Answer, RequestError>>,
    },
    Subscribe {
        number: u32,
        wanted: Wanted,
        /// Bounded by the subscription's window: the machine ends a connection that passes it.
        events: mpsc::UnboundedSender<Event>,
    },
    /// Ends the driver, once the outbox is empty or at once.
    Close {
        drain: bool,
    },
}

/// What subscriptions tell the driver without waiting. At most one `Consumed` for each delivery in a window.
#[derive(Debug)]
pub(crate) enum Feedback {
    Consumed { number: u32, through: Position, bytes: u64 },
    Dropped { number: u32 },
}

/// The work of a [`Client`](crate::Client): poll it for as long as the client is used.
///
/// It ends after [`Client::shutdown`](crate::Client::shutdown) or [`Client::close`](crate::Client::close), when the broker
/// refuses the client for good, or when every handle was dropped. Dropping it closes the client.
#[must_use = "a client does nothing unless its driver is polled"]
pub struct Driver(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Driver {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Box::pin(parts.run()))
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(context)
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Driver")
    }
}

async fn asked(asking: &mut Option<Asking>) -> Result<Token, String> {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

struct InOutbox {
    bytes: u64,
    settled: Option<oneshot::Sender<Result<Published, PublishError>>>,
}

/// What the driver is made of.
pub(crate) struct Parts {
    pub(crate) machine: Machine,
    pub(crate) callback: Option<TokenCallback>,
    pub(crate) link: Link,
    pub(crate) encoding: Encoding,
    pub(crate) spool: Spool,
    pub(crate) space: Arc<OutboxSpace>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) feedback: mpsc::UnboundedReceiver<Feedback>,
    pub(crate) state: watch::Sender<ConnectionState>,
    pub(crate) status: watch::Sender<OutboxStatus>,
    /// Entries and bytes that the spool had when it was opened.
    pub(crate) recovered: Vec<(Entry, u64)>,
}

impl Parts {
    async fn run(self) {
        Running::new(self).run().await;
    }
}

struct Running {
    parts: Parts,
    began: Instant,
    /// A token that was asked for.
    asking: Option<Asking>,
    entries: BTreeMap<Entry, InOutbox>,
    calls: BTreeMap<Ticket, oneshot::Sender<Result<Answer, RequestError>>>,
    next_ticket: Ticket,
    subscriptions: BTreeMap<u32, mpsc::UnboundedSender<Event>>,
    /// Accepted publishes whose callers wait for the write to be safe.
    accepted: Vec<oneshot::Sender<Result<(), PublishError>>>,
    /// Close once the outbox is empty.
    closing: bool,
}

impl Running {
    fn new(parts: Parts) -> Self {
        let recovered = parts.recovered.iter();
        let entries =
            recovered.map(|(entry, bytes)| (*entry, InOutbox { bytes: *bytes, settled: None })).collect();
        Self {
            parts,
            began: Instant::now(),
            asking: None,
            entries,
            calls: BTreeMap::new(),
            next_ticket: 0,
            subscriptions: BTreeMap::new(),
            accepted: Vec::new(),
            closing: false,
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    async fn run(mut self) {
        loop {
            self.drain();
            if self.closing && self.parts.machine.unacknowledged() == 0 {
                self.input(Input::Close(Closed::ShutDown));
                self.drain();
            }
            if self.parts.machine.is_closed() {
                break;
            }
            self.turn().await;
        }
        self.parts.link.close().await;
        self.finish();
    }

    /// Waits for one thing to happen and gives it to the machine.
    async fn turn(&mut self) {
        let deadline = self.parts.machine.poll_timeout().map(|timeout| self.began + timeout);
        let timer = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = self.parts.link.next() => self.link_event(event),
            command = self.parts.commands.recv() => match command {
                Some(command) => self.commands(command),
                None => self.input(Input::Close(Closed::ShutDown)),
            },
            Some(feedback) = self.parts.feedback.recv() => self.feedback(feedback),
            token = asked(&mut self.asking) => {
                self.asking = None;
                self.input(Input::Token(token));
            }
            () = timer => {
                for _ in 0..FRAMES_BEFORE_TIME_MAX {
                    let Some(event) = self.parts.link.next().now_or_never() else { break };
                    self.link_event(event);
                    self.drain();
                }
                self.input(Input::Time);
            }
        }
    }

    fn input(&mut self, input: Input) {
        let now = self.now();
        self.parts.machine.handle(now, input);
    }

    fn link_event(&mut self, event: LinkEvent) {
        self.input(match event {
            LinkEvent::Connected(transport) => Input::Connected(transport),
            LinkEvent::ConnectFailed(failure) => {
                Input::ConnectFailed { error: failure.error, fatal: failure.fatal }
            }
            LinkEvent::Frame(frame, bytes) => Input::Frame(frame, bytes),
            LinkEvent::Disconnected(error) => Input::Disconnected { error },
        });
    }

    fn feedback(&mut self, feedback: Feedback) {
        match feedback {
            Feedback::Consumed { number, through, bytes } => {
                self.input(Input::Consumed { number, through, bytes });
            }
            Feedback::Dropped { number } => {
                self.subscriptions.remove(&number);
                self.input(Input::Unsubscribe { number });
            }
        }
    }

    fn commands(&mut self, first: Command) {
        self.command(first);
        for _ in 1..COMMANDS_PER_TURN_MAX {
            let Ok(command) = self.parts.commands.try_recv() else { break };
            self.command(command);
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Publish { lane, batch, bytes, accepted, settled } => {
                let slot = self.parts.machine.reserve(&lane);
                match self.parts.spool.append(&lane, &slot, batch) {
                    Ok(entry) => {
                        self.entries.insert(entry, InOutbox { bytes, settled: Some(settled) });
                        self.accepted.push(accepted);
                        self.input(Input::Accepted { entry, lane, bytes });
                        self.report(|status| {
                            status.entries += 1;
                            status.bytes += bytes;
                        });
                    }
                    Err(error) => {
                        self.parts.space.release(bytes);
                        // A caller that is gone wants no answer.
                        drop(accepted.send(Err(error.into())));
                    }
                }
            }
            Command::Call { call, answer } => {
                let ticket = self.next_ticket;
                self.next_ticket += 1;
                self.calls.insert(ticket, answer);
                self.input(Input::Call { ticket, call });
            }
            Command::Subscribe { number, wanted, events } => {
                self.subscriptions.insert(number, events);
                self.input(Input::Subscribe { number, wanted });
            }
            Command::Close { drain: true } => self.closing = true,
            Command::Close { drain: false } => self.input(Input::Close(Closed::ShutDown)),
        }
    }

    fn report(&self, change: impl FnOnce(&mut OutboxStatus)) {
        self.parts.status.send_modify(change);
    }

    /// Does what the machine says until it has nothing more to say.
    fn drain(&mut self) {
        loop {
            while let Some(output) = self.parts.machine.poll_output() {
                self.output(output);
            }
            // A renumbering was written before this, or the spool takes nothing more.
            if !self.parts.link.has_room() {
                break;
            }
            let now = self.now();
            let Some((request, due)) = self.parts.machine.poll_publish(now) else { break };
            self.publish(request, due);
        }
        self.settle_spool();
    }

    fn settle_spool(&mut self) {
        if let Err(error) = self.parts.spool.flush() {
            self.report(|status| status.last_error = Some(error.to_string()));
        }
        if self.accepted.is_empty() {
            return;
        }
        let synced = self.parts.spool.sync();
        for accepted in self.accepted.drain(..) {
            drop(accepted.send(synced.clone().map_err(PublishError::from)));
        }
    }

    fn publish(&mut self, request: u64, due: Due) {
        let encoding = self.parts.encoding;
        let frame = match self.parts.spool.read(due.entry) {
            Ok(Some(batch)) => {
                batch.frame(encoding, request, due.slot.to_wire()).map_err(PublishError::Invalid)
            }
            Ok(None) => return,
            Err(error) => Err(error.into()),
        };
        match frame {
            Ok(frame) => self.parts.link.send(frame),
            Err(error) => self.input(Input::Lost { due, error }),
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::AskToken => self.asking = self.parts.callback.as_ref().map(TokenCallback::ask),
            Output::Connect(greeting) => {
                let encoding = self.parts.encoding;
                let greeting = greeting.into_iter().map(|frame| codec::encode_client(encoding, frame));
                self.parts.link.connect(greeting.collect());
            }
            Output::Disconnect if self.parts.machine.is_closed() => {}
            Output::Disconnect => self.parts.link.disconnect(),
            Output::Send(frame) => self.parts.link.send(codec::encode_client(self.parts.encoding, frame)),
            Output::Settled { entry, result } => self.settled(entry, result),
            Output::Renumbered { lane, epoch } => {
                if let Err(error) = self.parts.spool.renumber(&lane, epoch) {
                    self.report(|status| status.last_error = Some(error.to_string()));
                }
            }
            Output::Answer { ticket, result } => {
                if let Some(answer) = self.calls.remove(&ticket) {
                    drop(answer.send(result));
                }
            }
            Output::Event { number, event } => {
                let ended = matches!(event, Event::Ended);
                if let Some(events) = self.subscriptions.get(&number) {
                    // A subscription that is being dropped says so by itself.
                    drop(events.send(event));
                }
                if ended {
                    self.subscriptions.remove(&number);
                }
            }
            Output::State(state) => drop(self.parts.state.send_replace(state)),
        }
    }

    fn settled(&mut self, entry: Entry, result: Result<Published, PublishError>) {
        self.parts.spool.remove(entry);
        let Some(InOutbox { bytes, settled }) = self.entries.remove(&entry) else { return };
        self.parts.space.release(bytes);
        let error = result.as_ref().err().map(ToString::to_string);
        self.report(|status| {
            status.entries = status.entries.saturating_sub(1);
            status.bytes = status.bytes.saturating_sub(bytes);
            if let Some(error) = error {
                status.refused += 1;
                status.last_error = Some(error);
            }
        });
        if let Some(settled) = settled {
            drop(settled.send(result));
        }
    }

    /// Tells those who still wait that nothing more comes.
    fn finish(mut self) {
        let reason = match &*self.parts.state.borrow() {
            ConnectionState::Closed(reason) => reason.clone(),
            _ => Closed::ShutDown,
        };
        self.parts.commands.close();
        self.parts.space.close();
        for entry in std::mem::take(&mut self.entries).into_values() {
            if let Some(settled) = entry.settled {
                drop(settled.send(Err(reason.clone().into())));
            }
        }
        while let Ok(command) = self.parts.commands.try_recv() {
            match command {
                Command::Publish { accepted, .. } => drop(accepted.send(Err(reason.clone().into()))),
                Command::Call { answer, .. } => drop(answer.send(Err(reason.clone().into()))),
                Command::Subscribe { events, .. } => {
                    let error = crate::error::SubscriptionError::Closed(reason.clone());
                    drop(events.send(Event::Failed(error)));
                }
                Command::Close { .. } => {}
            }
        }
        let flushed: Result<(), OutboxError> = self.parts.spool.flush();
        drop(flushed);
    }
}
