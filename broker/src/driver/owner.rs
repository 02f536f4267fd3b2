//! The owner of a loaded session: one turn, from loading it to a failed write, a delete, or rest.

mod admission;
mod keeping;
mod leases;
mod pruning;
mod resting;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use longwire_core::command::{Command, Reply};
use longwire_core::machine::{Output, Persisted, Ticket};
use longwire_core::summary;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::session_id::SessionId;
use tokio::time::Instant;

use crate::ageing::Ageing;
use crate::alarm::Alarm;
use crate::clock::Clock;
use crate::driver::inbox::Inbox;
use crate::driver::owner::admission::{Admission, Prepared};
use crate::driver::owner::pruning::Pruning;
use crate::driver::pulses::Pulses;
use crate::driver::runs::{Run, Runs};
use crate::driver::trimmer::{Plan, Stage, Trimming};
use crate::driver::{Driver, Loaded, begin, unknown};
use crate::numbered::Numbered;
use crate::request::{Begin, Operation, ReplyTo, Request};
use crate::store::reconcile;
use crate::store::{
    Batch, BatchId, Projection, Reservation, Snapshot, Store, StoreError, StoreFuture, Version,
};
use crate::store_error::in_session;
use crate::tail::{Progress, Tail};

/// How often the retention of one session is looked after at most: each time costs a snapshot.
const RETENTION_PAUSE: Duration = Duration::from_secs(1);
/// How often a session looks at most whether something is due while it is asked without a pause: a look is cheap, and what is due may
/// be late by so much.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// How long a session that is to leave memory waits for its snapshot before it looks again: what a settling takes.
const SNAPSHOT_PAUSE: Duration = Duration::from_secs(1);
/// A timer is not set for longer than this: what it waits for may change.
const LOOK_AGAIN_MS: u64 = 60 * 60 * 1000;
/// Trims that wait for one that is at work.
const TRIMS_MAX: usize = 64;

/// How a turn as owner of a session ended.
pub(super) enum Turn {
    /// Load the session again; then tell who asked what it is like.
    Reload(Option<ReplyTo>),
    /// The session is to leave memory.
    Rest,
    /// The session was deleted, or has another name now.
    Gone,
}

/// What ends a turn once everything before it is durable.
enum Ending {
    Delete,
    Rename(SessionId),
    Begin(Box<Begin>),
    Reload,
}

/// The time of the first retained record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Oldest {
    Unknown,
    None,
    At(u64),
}

/// One turn of owning a session.
pub(super) struct Owner {
    pub(super) session: SessionId,
    store: Arc<dyn Store>,
    pub(super) clock: Clock,
    ageing: Ageing,
    tail: Arc<Tail>,
    idle: Duration,
    pub(super) loaded: Loaded,
    /// Makes batch ids unique across owners and restarts: terms alone begin again with the process.
    nonce: u64,
    batches: u64,
    admission: Option<Admission>,
    /// A prepared request that does not fit into the batch that is gathering any more.
    parked: Option<(Request, Prepared)>,
    /// Room reserved for what the machine gathers.
    reserved: Reservation,
    /// Bytes of it for requests that wait.
    prepaid_bytes: usize,
    append: Option<StoreFuture<Version>>,
    /// What the batch at the store adds to the log, and whether it erases.
    appending: (Run, bool),
    snapshots: VecDeque<(u64, StoreFuture<()>)>,
    tickets: Numbered<Ticket, ReplyTo>,
    next_ticket: Ticket,
    /// When the last event came: the time of all that is decided with it.
    now: Instant,
    /// Decided; carried out when everything before it is durable. Nothing is taken in meanwhile.
    ending: Option<(Ending, Option<ReplyTo>)>,
    /// The ending at the store.
    carried_out: Option<StoreFuture<()>>,
    trimming: Option<Trimming>,
    waiting_trims: VecDeque<(u64, ReplyTo)>,
    pruning: Option<Pruning>,
    /// The start from which on the next round of pruning is worth it.
    prune_from: u64,
    /// Who waits for what a deadline brings.
    woken: Vec<ReplyTo>,
    oldest: Oldest,
    runs: Runs,
    alarm: Alarm,
    look_not_before: Instant,
    pub(super) retention_not_before: Instant,
    pub(super) pulses: Pulses,
    /// It leaves memory as soon as it has done what it was asked.
    is_visit: bool,
    was_asked: bool,
}

enum Event {
    Appended(Result<Version, StoreError>),
    Snapshotted(u64, Result<(), StoreError>),
    Admitted(Result<Prepared, StoreError>),
    Ended(Result<(), StoreError>),
    Planned(Result<Plan, StoreError>),
    Trimmed(Result<(), StoreError>),
    Pruned(pruning::Step),
    Asked(Request),
    Due,
    Abandoned,
    Idle,
}

impl Owner {
    /// Begins a turn. `asked` is told what the session is like.
    pub(super) fn new(
        driver: &Driver,
        (loaded, progress): (Loaded, Progress),
        nonce: u64,
        asked: Option<ReplyTo>,
    ) -> Self {
        driver.tail.loaded(progress);
        let end = loaded.machine.durable_end();
        let nothing = Run { until: end, bytes: 0, last_time_ms: 0 };
        let mut owner = Self {
            session: driver.session.clone(),
            store: Arc::clone(&driver.store),
            clock: driver.clock,
            ageing: driver.ageing,
            tail: Arc::clone(&driver.tail),
            idle: driver.idle,
            loaded,
            nonce,
            batches: 0,
            admission: None,
            parked: None,
            reserved: Reservation::none(),
            prepaid_bytes: 0,
            append: None,
            appending: (nothing, false),
            snapshots: VecDeque::new(),
            tickets: Numbered::default(),
            next_ticket: Ticket(0),
            now: Instant::now(),
            ending: None,
            carried_out: None,
            trimming: None,
            waiting_trims: VecDeque::new(),
            pruning: None,
            prune_from: 0,
            woken: Vec::new(),
            oldest: Oldest::Unknown,
            runs: Runs::new(end),
            alarm: Alarm::new(Instant::now() + driver.idle),
            look_not_before: Instant::now(),
            retention_not_before: driver.retention_not_before,
            pulses: driver.pulses.clone(),
            is_visit: driver.is_visit,
            was_asked: false,
        };
        owner.begin_leases();
        if let Some(reply_to) = asked {
            owner.command(Command::Describe, reply_to);
        }
        owner
    }

    pub(super) async fn run(&mut self, inbox: &mut Inbox) -> Turn {
        let mut idle_since = Instant::now();
        let (mut abandoned, mut snapshotted, mut pausing) = (false, false, false);
        let mut told_to_rest = false;
        loop {
            self.release();
            if self.loaded.machine.failed() {
                self.refuse_waiting(&unknown("the session is being loaded again"));
                return Turn::Reload(None);
            }
            if matches!(self.ending, Some((Ending::Reload, _))) && self.at_rest() {
                let reply_to = self.ending.take().and_then(|(_, reply_to)| reply_to);
                reply_to.into_iter().for_each(|reply_to| reply_to.answer(Ok(None)));
                return Turn::Reload(None);
            }
            self.cover();
            self.write();
            if let Some((request, prepared)) = self.parked.take() {
                self.handle(request, prepared);
                if self.parked.is_none() {
                    continue;
                }
            }
            if abandoned && self.at_rest() {
                return Turn::Rest;
            }
            told_to_rest |= self.ends_visit(inbox);
            if told_to_rest && self.may_rest() {
                told_to_rest = false;
                idle_since = Instant::now();
                pausing = self.rest(inbox, &mut snapshotted);
            }
            let idle_for = if pausing { self.idle.min(SNAPSHOT_PAUSE) } else { self.idle_time() };
            let idle_at = idle_since + idle_for;
            let event = poll_fn(|context| self.poll_event(context, inbox, idle_at, abandoned)).await;
            self.now = Instant::now();
            match event {
                Event::Appended(outcome) => self.appended(outcome),
                Event::Snapshotted(through, outcome) => self.snapshotted(through, outcome),
                Event::Admitted(prepared) => self.admitted(prepared),
                Event::Ended(outcome) => {
                    self.carried_out = None;
                    if let Some(turn) = self.ended(outcome) {
                        return turn;
                    }
                }
                Event::Planned(outcome) => self.planned(outcome),
                Event::Trimmed(outcome) => {
                    if let Some(turn) = self.trimmed(outcome) {
                        return turn;
                    }
                }
                Event::Pruned(step) => self.pruned(step),
                Event::Asked(Request { operation: Operation::Rest, .. }) => told_to_rest = !snapshotted,
                Event::Asked(request) => {
                    self.was_asked = true;
                    idle_since = self.now;
                    (snapshotted, pausing, told_to_rest) = (false, false, false);
                    self.prepay(&request, inbox);
                    self.admit(request);
                    while self.takes()
                        && let Some(request) = inbox.next_ahead()
                    {
                        // It may have come right behind what made the session live, while that was being loaded.
                        told_to_rest = matches!(request.operation, Operation::Rest);
                        self.admit(request);
                    }
                }
                Event::Due => self.look_after_age(),
                Event::Abandoned => {
                    abandoned = true;
                    self.take_snapshot();
                }
                Event::Idle => {
                    idle_since = self.now;
                    inbox.shrink();
                    pausing = self.may_rest() && self.rest(inbox, &mut snapshotted);
                }
            }
        }
    }

    /// Whether another request is taken in.
    fn takes(&self) -> bool {
        self.admission.is_none() && self.parked.is_none() && self.ending.is_none()
    }

    /// What is next: first what the store has done, then what is asked, and the times last.
    fn poll_event(
        &mut self,
        context: &mut Context<'_>,
        inbox: &mut Inbox,
        idle_at: Instant,
        abandoned: bool,
    ) -> Poll<Event> {
        if let Poll::Ready(outcome) = poll_some(self.append.as_mut(), context) {
            return Poll::Ready(Event::Appended(outcome));
        }
        let prepared = self.admission.as_mut().map(|admission| &mut admission.prepared);
        if let Poll::Ready(prepared) = poll_some(prepared, context) {
            return Poll::Ready(Event::Admitted(prepared));
        }
        if let Poll::Ready(outcome) = poll_some(self.carried_out.as_mut(), context) {
            return Poll::Ready(Event::Ended(outcome));
        }
        if let Poll::Ready(event) = poll_trimming(&mut self.trimming, context) {
            return Poll::Ready(event);
        }
        if let Poll::Ready(step) = pruning::poll_step(&mut self.pruning, context) {
            return Poll::Ready(Event::Pruned(step));
        }
        let takes = self.takes() && !abandoned;
        if takes && self.is_overdue() {
            return Poll::Ready(Event::Due);
        }
        if takes && let Poll::Ready(request) = inbox.poll_next(context) {
            return Poll::Ready(request.map_or(Event::Abandoned, Event::Asked));
        }
        if let Some((through, stored)) = self.snapshots.front_mut()
            && let Poll::Ready(outcome) = stored.as_mut().poll(context)
        {
            return Poll::Ready(Event::Snapshotted(*through, outcome));
        }
        if !takes {
            return Poll::Pending;
        }
        let due_at = self.due_at(Instant::now());
        let at = due_at.map_or(idle_at, |due_at| due_at.min(idle_at));
        ready!(self.alarm.poll(context, at));
        Poll::Ready(if due_at == Some(at) { Event::Due } else { Event::Idle })
    }

    /// Nothing is taken in until this is done; the flush is answered when all before it is durable.
    fn end(&mut self, ending: Ending, reply_to: ReplyTo) {
        self.ending = Some((ending, Some(reply_to)));
        let ticket = self.ticket();
        self.loaded.machine.handle(ticket, Command::Flush, self.clock.now_ms());
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket.0 += 1;
        self.next_ticket
    }

    fn command(&mut self, command: Command, reply_to: ReplyTo) {
        let ticket = self.ticket();
        self.tickets.insert(ticket, reply_to);
        let now_ms = self.clock.at_ms(self.now.into_std());
        self.loaded.machine.handle(ticket, command, now_ms);
    }

    /// Hands the next batch to the store when the last one is done.
    fn write(&mut self) {
        if self.append.is_some() {
            return;
        }
        self.loaded.machine.wake_at(self.wake_ms());
        let Some(write) = self.loaded.machine.poll_write() else {
            // What was decided took none of it: repetitions and refusals write nothing.
            self.reserved = Reservation::none();
            self.prepaid_bytes = 0;
            return;
        };
        let Loaded { log, term, version, .. } = self.loaded;
        self.batches += 1;
        metrics::counter!("longwire_published_records_total").increment(write.records.len() as u64);
        let bytes = write.records.iter().map(|record| record.len() as u64).sum();
        let until = write.base + write.records.len() as u64;
        let run = Run { until, bytes, last_time_ms: write.last_time_ms };
        self.appending = (run, !write.erase.is_empty());
        self.prepaid_bytes = 0;
        let batch = Batch {
            id: BatchId((u128::from(self.nonce) << 64) | u128::from(self.batches)),
            base: write.base,
            last_time_ms: write.last_time_ms,
            records: write.records,
            projection: write.projection.map(projection),
            origin: None,
            erase: write.erase,
            reservation: std::mem::replace(&mut self.reserved, Reservation::none()),
        };
        self.append = Some(reconcile::append(&self.store, log, term, version, batch));
    }

    fn appended(&mut self, outcome: Result<Version, StoreError>) {
        self.append = None;
        let outcome = match outcome {
            Ok(version) => {
                self.loaded.version = version;
                self.loaded.exists = true;
                self.note_appended();
                Persisted::Durable
            }
            Err(error) => Persisted::Failed(unknown(&error.to_string())),
        };
        self.loaded.machine.handle_persisted(outcome);
        if self.oldest == Oldest::None && self.loaded.machine.durable_end() > self.start() {
            self.oldest = Oldest::At(self.loaded.machine.state().last_time_ms());
            self.loaded.machine.handle_timeout(self.now_for_age(), self.wake_ms());
        }
    }

    fn release(&mut self) {
        while let Some(output) = self.loaded.machine.poll_output() {
            match output {
                Output::Extended { from, records, closed, erased, view } => {
                    if erased {
                        self.tail.forget();
                    }
                    self.tail.extend(from, records, closed, view);
                }
                Output::Expired => {
                    tracing::info!(log = self.loaded.log.0, "a session has expired");
                    self.ending = Some((Ending::Delete, None));
                    self.carried_out =
                        Some(reconcile::delete(&self.store, self.loaded.log, self.loaded.term));
                }
                Output::Reply { ticket, result } => self.reply(ticket, result),
                Output::Snapshot { through, rows } => {
                    let snapshot = Snapshot { through, rows };
                    let stored = self.store.put_snapshot(self.loaded.log, self.loaded.term, snapshot);
                    self.snapshots.push_back((through, stored));
                }
            }
        }
    }

    fn snapshotted(&mut self, through: u64, outcome: Result<(), StoreError>) {
        self.snapshots.pop_front();
        match outcome {
            Ok(()) => self.loaded.machine.snapshot_durable(through),
            Err(error) => {
                tracing::debug!(%error, "a snapshot was not taken; it is tried again");
                self.loaded.machine.snapshot_failed();
                if let Some(Trimming { stage: Stage::Covering(_), .. }) = self.trimming {
                    self.trimming_done(Err(in_session(&self.session, &error)));
                }
            }
        }
    }

    fn reply(&mut self, ticket: Ticket, result: Result<Reply, Error>) {
        match (self.tickets.remove(&ticket), result) {
            (Some(mut reply_to), Ok(Reply::Claimed(claimed))) => {
                self.claimed(&claimed, reply_to.pulse.take());
                reply_to.answer(Ok(Some(Reply::Claimed(claimed))));
            }
            // Whoever wanted to know that everything is durable has nothing else to be told.
            (Some(reply_to), Ok(Reply::Flushed)) => reply_to.answer(Ok(None)),
            (Some(reply_to), result) => reply_to.answer(result.map(Some)),
            (None, Ok(_)) => self.carry_out(),
            (None, Err(error)) => {
                let reply_to = self.ending.take().and_then(|(_, reply_to)| reply_to);
                reply_to.into_iter().for_each(|reply_to| reply_to.answer(Err(error.clone())));
            }
        }
    }

    /// Everything before the ending is durable.
    fn carry_out(&mut self) {
        let Loaded { log, term, version, exists, .. } = self.loaded;
        let Some((ending, _)) = &mut self.ending else { return };
        let refused = match ending {
            Ending::Delete if exists => {
                self.carried_out = Some(reconcile::delete(&self.store, log, term));
                return;
            }
            Ending::Rename(to) if exists => {
                let (from, to) = (self.session.clone(), to.clone());
                self.carried_out = Some(reconcile::rename(&self.store, log, term, from, to));
                return;
            }
            Ending::Begin(begin) if !exists => {
                let vacant = self.loaded.machine.state().lineage().epoch();
                self.batches += 1;
                let id = BatchId((u128::from(self.nonce) << 64) | u128::from(self.batches));
                match begin::batch(begin, vacant, id, self.clock.now_ms()) {
                    Ok(batch) => {
                        let appended = reconcile::append(&self.store, log, term, version, batch);
                        self.carried_out = Some(Box::pin(async move { appended.await.map(drop) }));
                        return;
                    }
                    Err(error) => error,
                }
            }
            Ending::Begin(_) => {
                Error::new(ErrorCode::SessionExists, "there is a session of this name already")
                    .field("session")
            }
            Ending::Reload => return,
            Ending::Delete | Ending::Rename(_) => Error::no_such_session(),
        };
        let reply_to = self.ending.take().and_then(|(_, reply_to)| reply_to);
        reply_to.into_iter().for_each(|reply_to| reply_to.answer(Err(refused.clone())));
    }

    fn ended(&mut self, outcome: Result<(), StoreError>) -> Option<Turn> {
        let (ending, reply_to) = self.ending.take()?;
        let gone = Error::new(ErrorCode::SessionDeleted, "the session was deleted").field("session");
        Some(match (outcome, ending) {
            (Ok(()), Ending::Begin(_)) => {
                self.refuse_waiting(&unknown("the session is being loaded again"));
                Turn::Reload(reply_to)
            }
            (Ok(()), _) => {
                self.refuse_waiting(&gone);
                reply_to.into_iter().for_each(|reply_to| reply_to.answer(Ok(None)));
                Turn::Gone
            }
            (Err(error), _) => {
                self.refuse_waiting(&unknown("the session is being loaded again"));
                reply_to
                    .into_iter()
                    .for_each(|reply_to| reply_to.answer(Err(in_session(&self.session, &error))));
                Turn::Reload(None)
            }
        })
    }

    fn refuse_waiting(&mut self, error: &Error) {
        let admitted = self.admission.take().map(|admission| admission.request.reply_to);
        let parked = self.parked.take().map(|(request, _)| request.reply_to);
        let trimming = self.trimming.take().and_then(|trimming| trimming.reply_to);
        let trims = self.waiting_trims.drain(..).map(|(_, reply_to)| reply_to);
        let ending = self.ending.take().and_then(|(_, reply_to)| reply_to);
        let woken = self.woken.drain(..);
        // Who waits for a batch that is on its way; the next turn knows nothing of them.
        let tickets = self.tickets.drain().map(|(_, reply_to)| reply_to);
        let waiting =
            admitted.into_iter().chain(parked).chain(trimming).chain(trims).chain(ending).chain(woken);
        waiting.chain(tickets).for_each(|reply_to| reply_to.answer(Err(error.clone())));
    }
}

fn projection(projection: summary::Projection) -> Projection {
    let summary::Projection { row, terms, deadline_ms } = projection;
    Projection { row, terms, deadline_ms }
}

fn poll_some<F: Future + Unpin>(future: Option<&mut F>, context: &mut Context<'_>) -> Poll<F::Output> {
    match future {
        Some(future) => Pin::new(future).poll(context),
        None => Poll::Pending,
    }
}

fn poll_trimming(trimming: &mut Option<Trimming>, context: &mut Context<'_>) -> Poll<Event> {
    match trimming.as_mut().map(|trimming| &mut trimming.stage) {
        Some(Stage::Planning(plan)) => plan.as_mut().poll(context).map(Event::Planned),
        Some(Stage::Storing(_, stored)) => stored.as_mut().poll(context).map(Event::Trimmed),
        Some(Stage::Covering(_)) | None => Poll::Pending,
    }
}
