//! The driver: the task that owns one live session. It moves requests into the machine, what the machine wrote into the
//! store, and what became durable to the tail and to those who wait.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longwire_core::command::{Command, Reply};
use longwire_core::machine::{Machine, Output, Persisted, Ticket};
use longwire_core::producer::ProducerKey;
use longwire_core::state::State;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::session_id::SessionId;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::request::{Operation, ReplyTo, Request};
use crate::store::{
    Batch, BatchId, LogId, Opened, Projection, ReadLimit, Reservation, Snapshot, Store, StoreError,
    StoreFuture, Term, Version,
};
use crate::tail::{Progress, Tail};

/// Records read at once while a session is loaded.
const REPLAY_LIMIT: ReadLimit = ReadLimit { records: 4096, bytes: 1 << 20 };
/// How long a store that could not be read is left alone before the next request tries it again.
const RELOAD_AFTER_MS: u64 = 1000;
/// Bytes that sealing and storing add to one record at most: principal, device, producer, time and frame. Counted into
/// reservations and into what a batch may have.
const RECORD_OVERHEAD_BYTES: usize = 512;

/// The task that owns one session.
pub struct Driver {
    session: SessionId,
    store: Arc<dyn Store>,
    clock: Clock,
    tail: Arc<Tail>,
    inbox: mpsc::Receiver<Request>,
    idle: Duration,
}

/// A request on its way into the machine: room is being reserved and rows are being read for it.
struct Admission {
    request: Request,
    prepared: Pin<Box<dyn Future<Output = Result<Prepared, StoreError>> + Send>>,
}

struct Prepared {
    reservation: Reservation,
    row: Option<(ProducerKey, Option<Bytes>)>,
}

/// What a loaded session consists of.
struct Loaded {
    log: LogId,
    term: Term,
    version: Version,
    machine: Machine,
}

/// How a turn as owner of a session ended.
enum Turn {
    /// A write failed: load the session again.
    Reload,
    /// The session is to leave memory.
    Rest,
    /// The session was deleted.
    Deleted,
}

impl Driver {
    /// A driver for a session that is not loaded yet.
    #[must_use]
    pub fn new(
        session: SessionId,
        store: Arc<dyn Store>,
        clock: Clock,
        tail: Arc<Tail>,
        inbox: mpsc::Receiver<Request>,
        idle: Duration,
    ) -> Self {
        Self { session, store, clock, tail, inbox, idle }
    }

    /// Owns the session until nobody uses it.
    pub async fn run(mut self) {
        loop {
            let loaded = match load(&*self.store, &self.session).await {
                Ok(loaded) => loaded,
                Err(error) => return self.give_up(to_error(&error)),
            };
            let nonce = match getrandom::u64() {
                Ok(nonce) => nonce,
                Err(error) => {
                    let message = format!("the system has no randomness: {error}");
                    return self.give_up(Error::new(ErrorCode::Internal, message));
                }
            };
            let mut turn = Owner::new(&self, loaded, nonce);
            match turn.run(&mut self.inbox).await {
                Turn::Reload => {
                    tracing::warn!(session = %self.session, "a write failed; loading the session again")
                }
                Turn::Rest => return,
                Turn::Deleted => {
                    let error = Error::new(ErrorCode::SessionDeleted, "the session was deleted");
                    // Requests that came after the delete are for a session of the same name that begins anew; askers
                    // repeat a retryable refusal.
                    let later =
                        Error::new(ErrorCode::OutcomeUnknown, "the session was deleted meanwhile; try again");
                    self.tail.end(error);
                    return self.leave(&later);
                }
            }
        }
    }

    fn give_up(mut self, error: Error) {
        tracing::error!(session = %self.session, %error, "the session cannot be loaded");
        self.tail.end(error.clone());
        self.leave(&error);
    }

    fn leave(&mut self, error: &Error) {
        self.tail.retire_now();
        self.inbox.close();
        while let Ok(request) = self.inbox.try_recv() {
            request.reply_to.answer(Err(error.clone()));
        }
    }
}

async fn load(store: &dyn Store, session: &SessionId) -> Result<(Loaded, Progress), StoreError> {
    let opened = store.open(session).await?;
    let Opened { log, term, version, lineage, start, end, snapshot_through, .. } = opened;
    let head = match snapshot_through {
        Some(_) => store.rows(log, vec![State::head_key()]).await?.pop().flatten(),
        None => None,
    };
    let snapshot = head.and_then(|head| State::from_head(lineage.clone(), start, &head));
    if snapshot.is_none() && start > 0 {
        let what = "the snapshot that trimming relies on is missing".to_owned();
        return Err(StoreError::Corrupt { log, offset: 0, what });
    }
    let mut state = snapshot.unwrap_or_else(|| State::new(lineage.clone()));
    let through = state.end();
    while state.end() < end {
        let chunk = store.read(log, state.end(), REPLAY_LIMIT).await?;
        if chunk.from != state.end() || chunk.records.is_empty() {
            return Err(StoreError::Corrupt {
                log,
                offset: state.end(),
                what: "records are missing".to_owned(),
            });
        }
        for record in &chunk.records {
            if let Some(key) = State::producer_of(record).filter(|key| state.is_cold(key)) {
                let row = store.rows(log, vec![key.row_key()]).await?.pop().flatten();
                state.load(key, row.as_deref());
            }
            state.fold(record);
        }
    }
    let closed = state.summary().closed;
    let progress = Progress { log, lineage: Arc::new(lineage), start, end, closed };
    Ok((Loaded { log, term, version, machine: Machine::new(state, through) }, progress))
}

/// One turn of owning the session: from loading it to a failed write, a delete, or rest.
struct Owner {
    store: Arc<dyn Store>,
    clock: Clock,
    tail: Arc<Tail>,
    idle: Duration,
    loaded: Loaded,
    /// Makes batch ids unique across owners and restarts: terms alone begin again with the process.
    nonce: u64,
    batches: u64,
    admission: Option<Admission>,
    /// A prepared request that does not fit into the batch that is gathering any more.
    parked: Option<(Request, Prepared)>,
    /// Room reserved for what the machine gathers.
    reserved: Reservation,
    append: Option<StoreFuture<Version>>,
    snapshots: VecDeque<(u64, StoreFuture<()>)>,
    tickets: HashMap<Ticket, ReplyTo>,
    next_ticket: u64,
    deleting: Option<ReplyTo>,
    delete: Option<StoreFuture<()>>,
}

enum Event {
    Appended(Result<Version, StoreError>),
    Snapshotted(u64, Result<(), StoreError>),
    Admitted(Result<Prepared, StoreError>),
    Deleted(Result<(), StoreError>),
    Asked(Request),
    Abandoned,
    Idle,
}

impl Owner {
    fn new(driver: &Driver, (loaded, progress): (Loaded, Progress), nonce: u64) -> Self {
        driver.tail.loaded(progress);
        Self {
            store: Arc::clone(&driver.store),
            clock: driver.clock,
            tail: Arc::clone(&driver.tail),
            idle: driver.idle,
            loaded,
            nonce,
            batches: 0,
            admission: None,
            parked: None,
            reserved: Reservation::none(),
            append: None,
            snapshots: VecDeque::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
            deleting: None,
            delete: None,
        }
    }

    async fn run(&mut self, inbox: &mut mpsc::Receiver<Request>) -> Turn {
        let mut last_used = Instant::now();
        let mut abandoned = false;
        loop {
            self.release();
            if self.loaded.machine.failed() {
                self.refuse_admission(&unknown("the session is being loaded again"));
                return Turn::Reload;
            }
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
            let event = self.event(inbox, last_used + self.idle, abandoned).await;
            match event {
                Event::Appended(outcome) => self.appended(outcome),
                Event::Snapshotted(through, outcome) => {
                    self.snapshots.pop_front();
                    match outcome {
                        Ok(()) => self.loaded.machine.snapshot_durable(through),
                        Err(error) => {
                            tracing::debug!(%error, "a snapshot was not taken; it is tried again");
                            self.loaded.machine.snapshot_failed();
                        }
                    }
                }
                Event::Admitted(prepared) => self.admitted(prepared),
                Event::Deleted(outcome) => {
                    self.delete = None;
                    if let Some(turn) = self.deleted(outcome) {
                        return turn;
                    }
                }
                Event::Asked(request) => {
                    last_used = Instant::now();
                    self.admit(request);
                }
                Event::Abandoned => {
                    abandoned = true;
                    self.loaded.machine.request_snapshot();
                }
                Event::Idle => {
                    last_used = Instant::now();
                    if self.at_rest() && self.tail.retire() {
                        // What was sent before this is still received, then the end.
                        inbox.close();
                    }
                }
            }
        }
    }

    async fn event(
        &mut self,
        inbox: &mut mpsc::Receiver<Request>,
        idle_at: Instant,
        abandoned: bool,
    ) -> Event {
        let takes =
            self.admission.is_none() && self.parked.is_none() && self.deleting.is_none() && !abandoned;
        tokio::select! {
            biased;
            outcome = pending_or(self.append.as_mut()) => Event::Appended(outcome),
            prepared = pending_or(self.admission.as_mut().map(|admission| &mut admission.prepared)) =>
                Event::Admitted(prepared),
            outcome = pending_or(self.delete.as_mut()) => Event::Deleted(outcome),
            request = inbox.recv(), if takes => request.map_or(Event::Abandoned, Event::Asked),
            (through, outcome) = front_snapshot(&mut self.snapshots) => Event::Snapshotted(through, outcome),
            () = tokio::time::sleep_until(idle_at), if takes => Event::Idle,
        }
    }

    /// Whether a command still fits into the batch that is gathering. Alone it always does: what a client may publish at
    /// once is below what the store takes at once.
    fn fits(&self, command: &Command) -> bool {
        let (bytes, records) = self.loaded.machine.gathering();
        let capabilities = self.store.capabilities();
        let adds = command.bytes() + command.records() * RECORD_OVERHEAD_BYTES;
        records == 0
            || adds == 0
            || (bytes + adds <= capabilities.batch_bytes_max
                && records + command.records() <= capabilities.batch_records_max)
    }

    fn at_rest(&self) -> bool {
        self.loaded.machine.is_idle()
            && self.append.is_none()
            && self.admission.is_none()
            && self.parked.is_none()
            && self.deleting.is_none()
            && self.snapshots.is_empty()
    }

    /// Prepares a request for the machine. What needs no preparation, or is prepared at once, goes straight in.
    fn admit(&mut self, request: Request) {
        let command = match &request.operation {
            Operation::Delete => &Command::Flush,
            Operation::Command(command) => command,
        };
        let bytes = match command.records() {
            0 => 0,
            records => command.bytes() + records * RECORD_OVERHEAD_BYTES,
        };
        let key = self.loaded.machine.key(command);
        if bytes == 0 && key.is_none() {
            return self.handle(request, Prepared { reservation: Reservation::none(), row: None });
        }
        let (store, log) = (Arc::clone(&self.store), self.loaded.log);
        let prepared = Box::pin(async move {
            let reservation =
                if bytes == 0 { Reservation::none() } else { store.reserve(log, bytes).await? };
            let row = match key {
                None => None,
                Some(key) => {
                    let row = store.rows(log, vec![key.row_key()]).await?.pop().flatten();
                    Some((key, row))
                }
            };
            Ok(Prepared { reservation, row })
        });
        self.admission = Some(Admission { request, prepared });
    }

    fn admitted(&mut self, prepared: Result<Prepared, StoreError>) {
        let Some(Admission { request, .. }) = self.admission.take() else { return };
        match prepared {
            Ok(prepared) => self.handle(request, prepared),
            Err(error) => request.reply_to.answer(Err(to_error(&error))),
        }
    }

    fn handle(&mut self, request: Request, prepared: Prepared) {
        if let Operation::Command(command) = &request.operation
            && !self.fits(command)
        {
            self.parked = Some((request, prepared));
            return;
        }
        if let Some((key, row)) = prepared.row {
            self.loaded.machine.load(key, row.as_deref());
        }
        self.reserved.absorb(prepared.reservation);
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let command = match request.operation {
            Operation::Command(command) => {
                self.tickets.insert(ticket, request.reply_to);
                command
            }
            Operation::Delete => {
                // Nothing is taken in until the delete is done; the flush is answered when all before it is durable.
                self.deleting = Some(request.reply_to);
                Command::Flush
            }
        };
        self.loaded.machine.handle(ticket, command, self.clock.now_ms());
    }

    /// Hands the next batch to the store when the last one is done.
    fn write(&mut self) {
        if self.append.is_some() {
            return;
        }
        let Some(write) = self.loaded.machine.poll_write() else { return };
        let Loaded { log, term, version, .. } = self.loaded;
        self.batches += 1;
        metrics::counter!("longwire_published_records_total").increment(write.records.len() as u64);
        let batch = Batch {
            id: BatchId((u128::from(self.nonce) << 64) | u128::from(self.batches)),
            base: write.base,
            last_time_ms: write.last_time_ms,
            records: write.records,
            projection: write.projection.map(|row| Projection { row, ..Projection::default() }),
            origin: None,
            erase: Vec::new(),
            reservation: std::mem::replace(&mut self.reserved, Reservation::none()),
        };
        self.append = Some(self.store.append(log, term, version, batch));
    }

    fn appended(&mut self, outcome: Result<Version, StoreError>) {
        self.append = None;
        let outcome = match outcome {
            Ok(version) => {
                self.loaded.version = version;
                Persisted::Durable
            }
            Err(error) => Persisted::Failed(unknown(&error.to_string())),
        };
        self.loaded.machine.handle_persisted(outcome);
    }

    fn release(&mut self) {
        while let Some(output) = self.loaded.machine.poll_output() {
            match output {
                Output::Extended { from, records, closed } => self.tail.extend(from, records, closed),
                Output::Reply { ticket, result } => self.reply(ticket, result),
                Output::Snapshot { through, rows } => {
                    let snapshot = Snapshot { through, rows };
                    let stored = self.store.put_snapshot(self.loaded.log, self.loaded.term, snapshot);
                    self.snapshots.push_back((through, stored));
                }
            }
        }
    }

    fn reply(&mut self, ticket: Ticket, result: Result<Reply, Error>) {
        match (self.tickets.remove(&ticket), result) {
            (Some(reply_to), result) => reply_to.answer(result.map(Some)),
            (None, Ok(Reply::Flushed)) if self.loaded.machine.durable_end() > 0 => {
                self.delete = Some(self.store.delete(self.loaded.log, self.loaded.term));
            }
            (None, result) => {
                let not_found =
                    Error::new(ErrorCode::SessionNotFound, "there is no such session").field("session");
                if let Some(reply_to) = self.deleting.take() {
                    reply_to.answer(Err(result.err().unwrap_or(not_found)));
                }
            }
        }
    }

    fn deleted(&mut self, outcome: Result<(), StoreError>) -> Option<Turn> {
        let reply_to = self.deleting.take()?;
        let (answer, turn) = match outcome {
            Ok(()) => (Ok(None), Turn::Deleted),
            Err(error) => (Err(to_error(&error)), Turn::Reload),
        };
        reply_to.answer(answer);
        Some(turn)
    }

    fn refuse_admission(&mut self, error: &Error) {
        let admitted = self.admission.take().map(|admission| admission.request);
        let parked = self.parked.take().map(|(request, _)| request);
        for request in admitted.into_iter().chain(parked) {
            request.reply_to.answer(Err(error.clone()));
        }
    }
}

async fn pending_or<F: Future + Unpin>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn front_snapshot(snapshots: &mut VecDeque<(u64, StoreFuture<()>)>) -> (u64, Result<(), StoreError>) {
    match snapshots.front_mut() {
        Some((through, stored)) => (*through, stored.await),
        None => std::future::pending().await,
    }
}

fn unknown(why: &str) -> Error {
    let message =
        format!("whether this was carried out is not known: {why}; repeat it under the same sequence");
    Error::new(ErrorCode::OutcomeUnknown, message)
}

/// The store's errors as clients see them.
#[must_use]
pub fn to_error(error: &StoreError) -> Error {
    let (code, retry_after_ms) = match error {
        StoreError::Overloaded { .. } => (ErrorCode::Overloaded, 100),
        StoreError::Unavailable(_) | StoreError::Read(_) => (ErrorCode::StorageUnavailable, RELOAD_AFTER_MS),
        StoreError::Corrupt { .. } => (ErrorCode::DataCorrupt, 0),
        StoreError::Deleted => (ErrorCode::SessionDeleted, 0),
        StoreError::NotFound => (ErrorCode::SessionNotFound, 0),
        StoreError::Fenced | StoreError::VersionConflict | StoreError::Unknown(_) => {
            (ErrorCode::OutcomeUnknown, 0)
        }
        StoreError::BatchTooLarge { .. } | StoreError::OutOfRange(_) | StoreError::Unsupported(_) => {
            (ErrorCode::Internal, 0)
        }
        StoreError::AlreadyExists => (ErrorCode::SessionExists, 0),
    };
    Error::new(code, error.to_string()).retry_after_ms(retry_after_ms)
}
