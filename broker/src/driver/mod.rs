//! The driver: the task that owns one live session. It moves requests into the machine, what the machine wrote into the
//! store, and what became durable to the tail and to those who wait.

mod begin;
mod inbox;
pub mod nonce;
mod owner;
mod pulses;
mod runs;
mod trimmer;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longwire_core::machine::Machine;
use longwire_core::state::State;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::session_id::SessionId;
use tokio::time::Instant;

use crate::ageing::Ageing;
use crate::clock::Clock;
use crate::driver::inbox::Inbox;
use crate::driver::nonce::Nonces;
use crate::driver::owner::{Owner, Turn};
use crate::driver::pulses::Pulses;
use crate::queue::Receiver;
use crate::request::{ReplyTo, Request};
use crate::store::reconcile::{self, retry_read};
use crate::store::{LogId, Opened, ReadLimit, Store, StoreError, Term, Version};
use crate::store_error::in_session;
use crate::tail::{Progress, Tail};

/// How long an import that nobody goes on with is kept, in milliseconds: a day, in which somebody may notice.
pub const UNFINISHED_MS: u64 = 24 * 60 * 60 * 1000;
/// Records read at once while a session is loaded.
const REPLAY_LIMIT: ReadLimit = ReadLimit { records: 4096, bytes: 1 << 20 };
/// Bytes that sealing and storing add to one record at most: principal, device, producer, time and frame. Counted into
/// reservations and into what a batch may have.
const RECORD_OVERHEAD_BYTES: usize = 512;

/// What all drivers have in common.
#[derive(Clone)]
pub struct Common {
    /// Where sessions are kept.
    pub store: Arc<dyn Store>,
    /// Record times.
    pub clock: Clock,
    /// Whether anything grows old.
    pub ageing: Ageing,
    /// Tells owners apart.
    pub nonces: Arc<Nonces>,
    /// A session without readers and requests for so long leaves memory.
    pub idle: Duration,
}

/// The task that owns one session.
pub struct Driver {
    session: SessionId,
    store: Arc<dyn Store>,
    clock: Clock,
    ageing: Ageing,
    tail: Arc<Tail>,
    inbox: Inbox,
    nonces: Arc<Nonces>,
    idle: Duration,
    /// When the retention is looked after again at the earliest: a trim that fails leads to the next turn.
    retention_not_before: Instant,
    /// By which the holders of leases are heard.
    pulses: Pulses,
    /// See [`Driver::new`].
    is_visit: bool,
}

/// What a loaded session consists of.
struct Loaded {
    log: LogId,
    term: Term,
    version: Version,
    /// Whether the log exists; it may have no record.
    exists: bool,
    /// The first offset that is the log's own.
    own_from: u64,
    /// Bytes of its own records.
    bytes: u64,
    machine: Machine,
}

impl Driver {
    /// A driver for a session that is not loaded yet. On a visit it leaves memory as soon as it has done what it was asked, unless it has
    /// a reader.
    #[must_use]
    pub fn new(
        session: SessionId,
        common: Common,
        tail: Arc<Tail>,
        inbox: Receiver<Request>,
        is_visit: bool,
    ) -> Self {
        let Common { store, clock, ageing, nonces, idle } = common;
        let retention_not_before = Instant::now();
        let inbox = Inbox::new(inbox);
        let pulses = Pulses::default();
        Self {
            session,
            store,
            clock,
            ageing,
            tail,
            inbox,
            nonces,
            idle,
            retention_not_before,
            pulses,
            is_visit,
        }
    }

    /// Owns the session until nobody uses it.
    pub async fn run(mut self) {
        let mut asked_next: Option<ReplyTo> = None;
        loop {
            let loaded = match load(&*self.store, &self.session).await {
                Ok(loaded) => loaded,
                Err(error) => {
                    let error = in_session(&self.session, &error);
                    if let Some(reply_to) = asked_next {
                        reply_to.answer(Err(error.clone()));
                    }
                    return self.give_up(error);
                }
            };
            let nonce = match self.nonces.next() {
                Ok(nonce) => nonce,
                Err(error) => {
                    let message = format!("the system has no randomness: {error}");
                    return self.give_up(Error::new(ErrorCode::Internal, message));
                }
            };
            let mut turn = Owner::new(&self, loaded, nonce, asked_next.take());
            match turn.run(&mut self.inbox).await {
                Turn::Reload(ask_next) => {
                    self.retention_not_before = turn.retention_not_before;
                    self.pulses = turn.take_pulses();
                    tracing::debug!(session = %self.session, "loading the session again");
                    asked_next = ask_next;
                }
                Turn::Rest => return turn.leave(),
                Turn::Gone => {
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
        while let Some(request) = self.inbox.try_next() {
            request.reply_to.answer(Err(error.clone()));
        }
    }
}

async fn load(store: &dyn Store, session: &SessionId) -> Result<(Loaded, Progress), StoreError> {
    let opened = reconcile::open(store, session).await?;
    let (state, through) = replay(store, &opened).await?;
    let Opened { log, exists, term, version, lineage, start, end, own_from, bytes, .. } = opened;
    let (closed, view) = (state.summary().closed, Arc::clone(state.entities().view()));
    let lineage = Arc::new(lineage);
    let progress = Progress { session: session.clone(), log, lineage, start, end, closed, view };
    let machine = Machine::new(state, through);
    Ok((Loaded { log, term, version, exists, own_from, bytes, machine }, progress))
}

/// The state of a log: its last snapshot, and the records after that. Answers up to where the snapshot was, too.
///
/// # Errors
/// Those of reading it.
pub(crate) async fn replay(store: &dyn Store, opened: &Opened) -> Result<(State, u64), StoreError> {
    let Opened { log, start, end, born, snapshot_through, .. } = *opened;
    let lineage = opened.lineage.clone();
    let head = match snapshot_through {
        Some(_) => row(store, log, State::head_key()).await?,
        None => None,
    };
    let snapshot = head.and_then(|head| State::from_head(lineage.clone(), start, &head));
    if snapshot.is_none() && start > born {
        let what = "the snapshot that trimming relies on is missing".to_owned();
        return Err(StoreError::Corrupt { log, offset: 0, what });
    }
    let mut state = snapshot.unwrap_or_else(|| State::beginning_at(lineage, born));
    let through = state.end();
    while state.end() < end {
        let chunk = retry_read(|| store.read(log, state.end(), REPLAY_LIMIT)).await?;
        if chunk.from != state.end() || chunk.records.is_empty() {
            return Err(StoreError::Corrupt {
                log,
                offset: state.end(),
                what: "records are missing".to_owned(),
            });
        }
        for record in &chunk.records {
            if let Some(key) = State::producer_of(record).filter(|key| state.is_cold(key)) {
                let row = row(store, log, key.row_key()).await?;
                state.load(key, row.as_deref());
            }
            state.fold(record);
        }
    }
    Ok((state, through))
}

async fn row(store: &dyn Store, log: LogId, key: Bytes) -> Result<Option<Bytes>, StoreError> {
    Ok(retry_read(|| store.rows(log, vec![key.clone()])).await?.pop().flatten())
}

fn unknown(why: &str) -> Error {
    let message =
        format!("whether this was carried out is not known: {why}; repeat it under the same sequence");
    Error::new(ErrorCode::OutcomeUnknown, message)
}
