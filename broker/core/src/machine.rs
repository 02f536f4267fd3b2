//! The decider: commands in, records to persist out, and nothing released before what it reveals is durable.
//!
//! The machine decides against *speculative* state: the durable log plus what is being written. Every output derived
//! from it, refusals included, waits until the last batch that it saw is durable. When a write fails the machine is
//! discarded, never rolled back; its driver loads the session again from what is durable.

mod deciding;
mod leasing;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::meaning::Meaning;
use longwire_proto::run_state::RunState;

use crate::command::{Command, Reply};
use crate::entity::ENDED_RESIDENT_MAX;
use crate::entity::ended::Ended;
use crate::entity::view::View;
use crate::machine::deciding::broker;
use crate::machine::leasing::Leases;
use crate::producer::ProducerKey;
use crate::state::{PRODUCERS_RESIDENT_MAX, State};
use crate::summary::Projection;

/// Records after which a snapshot is due: bounds the replay when the session is loaded.
pub const SNAPSHOT_EVERY_RECORDS: u64 = 8192;
/// Resident producers at which a snapshot is due early, so that those written since the last one stay bounded.
pub const SNAPSHOT_EVERY_PRODUCERS: usize = 4 * PRODUCERS_RESIDENT_MAX;
/// Ended entities that are resident at which a snapshot is due early, for the same reason.
pub const SNAPSHOT_EVERY_ENDED: usize = 4 * ENDED_RESIDENT_MAX;

/// Records after which a snapshot that the store did not take is tried again: a store in trouble is not asked at every
/// command.
pub const SNAPSHOT_RETRY_RECORDS: u64 = 1024;

/// The reason of the close that an expiry is.
pub const EXPIRED: &str = "expired";

/// Names a command to the driver that waits for its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Names a row that a command needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowName {
    /// That of a producer.
    Producer(ProducerKey),
    /// That of an entity that may have ended, by its id.
    Entity(String),
}

impl RowName {
    /// The key of the row.
    #[must_use]
    pub fn row_key(&self) -> Bytes {
        match self {
            Self::Producer(key) => key.row_key(),
            Self::Entity(id) => Ended::row_key(id),
        }
    }
}

/// Records to be persisted atomically.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The offset of the first record.
    pub base: u64,
    /// Sealed records; none when only the projection changed.
    pub records: Vec<Bytes>,
    /// Time of the last record, in Unix milliseconds.
    pub last_time_ms: u64,
    /// What the list of sessions keeps of it, when that changed.
    pub projection: Option<Projection>,
    /// Offsets below `base` whose records become tombstones with this write.
    pub erase: Vec<Range<u64>>,
}

/// What became of a [`Write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Persisted {
    /// It is durable.
    Durable,
    /// It is not known to be, or another owner has written. The error goes to everyone who waits.
    Failed(Error),
}

/// What is safe to release.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Records became durable and may be delivered.
    Extended {
        /// The offset of the first record.
        from: u64,
        /// The records.
        records: Vec<Bytes>,
        /// Whether the session is closed with the last of them.
        closed: bool,
        /// Whether earlier records became tombstones: what was kept of them elsewhere must go.
        erased: bool,
        /// What is open after the last of them.
        view: Arc<View>,
    },
    /// The session has expired, durably: it is to be deleted.
    Expired,
    /// The answer to a command.
    Reply {
        /// Which command.
        ticket: Ticket,
        /// Its answer.
        result: Result<Reply, Error>,
    },
    /// Rows that reflect the log below `through`, all of it durable.
    Snapshot {
        /// The rows reflect every record below this offset.
        through: u64,
        /// Rows to write or remove.
        rows: Vec<(Bytes, Option<Bytes>)>,
    },
}

#[derive(Debug)]
struct InFlight {
    number: u64,
    from: u64,
    records: Vec<Bytes>,
    closed: bool,
    erased: bool,
    view: Arc<View>,
}

#[derive(Debug)]
struct Waiting {
    /// The number of the batch that must be durable first.
    after: u64,
    output: Output,
}

/// One session's machine.
#[derive(Debug)]
pub struct Machine {
    state: State,
    /// Records decided and not written yet, from `gathering_from` on.
    gathering: Vec<Bytes>,
    gathering_bytes: usize,
    gathering_from: u64,
    /// Offsets that become tombstones with what is gathering.
    erasing: Vec<Range<u64>>,
    projection_changed: bool,
    /// When the driver wants to look at the session apart from its expiry, such as for its retention.
    wake_ms: Option<u64>,
    leases: Leases,
    /// What is open ends by no time: see [`Machine::hold`].
    is_held: bool,
    /// The expiry was decided; the session takes nothing any more.
    expired: bool,
    /// The number of the batch that is gathering; the one in flight, if any, is the one before.
    next_batch: u64,
    in_flight: Option<InFlight>,
    durable_end: u64,
    waiting: VecDeque<Waiting>,
    ready: VecDeque<Output>,
    /// A snapshot through this offset was released, and is durable when `snapshot_durable` says so.
    snapshot_through: u64,
    snapshot_pending: bool,
    /// No snapshot is due before this end, because the last one failed.
    snapshot_not_before: u64,
    failed: bool,
}

impl Machine {
    /// The machine of a session that was loaded: `state` reflects everything durable, and the last snapshot reflects the
    /// log below `snapshot_through`.
    #[must_use]
    pub fn new(state: State, snapshot_through: u64) -> Self {
        let end = state.end();
        Self {
            state,
            gathering: Vec::new(),
            gathering_bytes: 0,
            gathering_from: end,
            erasing: Vec::new(),
            projection_changed: false,
            wake_ms: None,
            leases: Leases::default(),
            is_held: false,
            expired: false,
            next_batch: 1,
            in_flight: None,
            durable_end: end,
            waiting: VecDeque::new(),
            ready: VecDeque::new(),
            snapshot_through,
            snapshot_pending: false,
            snapshot_not_before: 0,
            failed: false,
        }
    }

    /// Rows that must be loaded before the command is handled.
    #[must_use]
    pub fn keys(&self, command: &Command) -> Vec<RowName> {
        let producer = producer_key(command).filter(|key| self.state.is_cold(key)).map(RowName::Producer);
        let entities = self.state.entities();
        let entity = |id: &str| RowName::Entity(id.to_owned());
        match command {
            Command::Publish { meant: Some(meant), .. } => {
                let named = meant.meanings.iter().flat_map(|meaning| entities.cold_ids(meaning)).map(entity);
                producer.into_iter().chain(named).collect()
            }
            Command::DescribeAsk { ask: id } | Command::DescribeMessage { message: id }
                if entities.is_cold(id) =>
            {
                vec![entity(id)]
            }
            _ => producer.into_iter().collect(),
        }
    }

    /// Takes over what the store has of a row that [`Machine::keys`] named.
    pub fn load(&mut self, name: RowName, row: Option<&[u8]>) {
        match name {
            RowName::Producer(key) => self.state.load(key, row),
            RowName::Entity(id) => self.state.load_entity(&id, row),
        }
    }

    /// Bytes and records that wait to be written: the driver stops feeding commands when the next would pass what one
    /// batch may have.
    #[must_use]
    pub fn gathering(&self) -> (usize, usize) {
        (self.gathering_bytes, self.gathering.len())
    }

    /// Records that the broker may write of its own with a command, beyond what [`Command::records`] says.
    #[must_use]
    pub fn follows(&self, command: &Command) -> usize {
        match command {
            Command::Close { .. } | Command::Claim { .. } | Command::Release { .. } => {
                self.state.entities().open() + 1
            }
            Command::Publish { meant: Some(meant), .. } if meant.meanings.iter().any(ends_run) => {
                self.state.entities().open() + meant.meanings.len()
            }
            _ => 0,
        }
    }

    /// Whether a write failed: the machine must be discarded.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Whether nothing is being written and nobody waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_none()
            && self.gathering.is_empty()
            && self.waiting.is_empty()
            && self.ready.is_empty()
    }

    /// The end of what is durable.
    #[must_use]
    pub fn durable_end(&self) -> u64 {
        self.durable_end
    }

    /// Decides a command. `now_ms` is wall time in Unix milliseconds.
    pub fn handle(&mut self, ticket: Ticket, command: Command, now_ms: u64) {
        let result = if self.failed { Err(failed_before()) } else { self.decide(command, now_ms) };
        self.release_after_seen(Output::Reply { ticket, result });
        self.snapshot_when_due();
    }

    /// The next batch to persist, when none is being persisted. Must be answered with [`Machine::handle_persisted`].
    pub fn poll_write(&mut self) -> Option<Write> {
        let nothing = self.gathering.is_empty() && !self.projection_changed;
        if self.in_flight.is_some() || nothing || self.failed {
            return None;
        }
        let records = std::mem::take(&mut self.gathering);
        let from = std::mem::replace(&mut self.gathering_from, self.state.end());
        self.gathering_bytes = 0;
        let erase = std::mem::take(&mut self.erasing);
        let last_time_ms = self.state.last_time_ms();
        let summary = self.state.summary();
        let projection = std::mem::take(&mut self.projection_changed)
            .then(|| summary.projection(last_time_ms, self.wakes_ms()));
        let (closed, erased) = (summary.closed, !erase.is_empty());
        let (number, view) = (self.next_batch, Arc::clone(self.state.entities().view()));
        self.in_flight = Some(InFlight { number, from, records: records.clone(), closed, erased, view });
        self.next_batch += 1;
        Some(Write { base: from, records, last_time_ms, projection, erase })
    }

    /// Takes the outcome of the write over and releases what waited for it.
    pub fn handle_persisted(&mut self, outcome: Persisted) {
        let Some(written) = self.in_flight.take() else { return };
        match outcome {
            Persisted::Durable => {
                self.durable_end = written.from + written.records.len() as u64;
                let InFlight { number, from, records, closed, erased, view } = written;
                if !records.is_empty() {
                    self.ready.push_back(Output::Extended { from, records, closed, erased, view });
                }
                while self.waiting.front().is_some_and(|waiting| waiting.after <= number) {
                    self.ready.extend(self.waiting.pop_front().map(|waiting| waiting.output));
                }
            }
            Persisted::Failed(error) => self.fail(&error),
        }
    }

    /// The next output that is safe to release.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.ready.pop_front()
    }

    /// Asks for a snapshot of everything decided so far, when the last one does not have it; for a session that is put
    /// to rest.
    pub fn request_snapshot(&mut self) {
        if !self.snapshot_pending && !self.failed && self.snapshot_through < self.state.end() {
            self.snapshot_pending = true;
            let output =
                Output::Snapshot { through: self.state.end(), rows: self.state.rows(self.snapshot_through) };
            self.release_after_seen(output);
        }
    }

    /// The offset below which the last durable snapshot reflects the log.
    #[must_use]
    pub fn snapshot_through(&self) -> u64 {
        self.snapshot_through
    }

    /// How much of the log is kept, and where it stands.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The records below `start` are gone, durably.
    pub fn trimmed(&mut self, start: u64) {
        self.state.trim(start);
    }

    /// The next deadline that is data of the session: when it expires, or one of its asks, or a run is to be ended.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let deadlines = [self.expires_ms(), self.entities_due_ms()].into_iter().flatten();
        deadlines.min().filter(|_| self.exists() && !self.expired && !self.failed)
    }

    /// What is open ends by no time until the session is loaded again: its records come from elsewhere, and more of them will.
    pub fn hold(&mut self) {
        self.is_held = true;
    }

    fn entities_due_ms(&self) -> Option<u64> {
        self.state.entities().deadline_ms().filter(|_| !self.is_held)
    }

    fn expires_ms(&self) -> Option<u64> {
        self.state.summary().meta.expiry.deadline_ms(self.state.last_time_ms())
    }

    /// Says when the driver wants to look at the session again apart from its expiry, for the next write that changes what
    /// the list of sessions has of it.
    pub fn wake_at(&mut self, wake_ms: Option<u64>) {
        self.wake_ms = wake_ms;
    }

    /// When the session must be looked at apart from its expiry.
    fn wakes_ms(&self) -> Option<u64> {
        [self.wake_ms, self.entities_due_ms(), self.leases.lapses_ms()].into_iter().flatten().min()
    }

    /// Looks whether the deadline has come, and decides what follows. `wake_ms` is when the driver wants to look again
    /// apart from that; what the list of sessions has as the deadline is brought up to date.
    pub fn handle_timeout(&mut self, now_ms: u64, wake_ms: Option<u64>) {
        self.wake_ms = wake_ms;
        if !self.exists() || self.expired || self.failed {
            return;
        }
        let due = self.state.entities().due(now_ms);
        if !due.is_empty() && !self.is_held {
            let since = self.state.end();
            self.append_own(&due, now_ms);
            self.tie_up(since, now_ms);
            self.drop_ended_leases();
        }
        if self.expires_ms().is_none_or(|due| now_ms < due) {
            self.projection_changed = true;
            return;
        }
        if !self.state.summary().closed {
            self.close(broker(), EXPIRED.to_owned(), now_ms);
        }
        self.expired = true;
        self.release_after_seen(Output::Expired);
    }

    /// The snapshot through this offset is durable: what only it needs may leave memory.
    pub fn snapshot_durable(&mut self, through: u64) {
        self.snapshot_pending = false;
        self.snapshot_through = through;
        self.state.evict(through);
    }

    /// The snapshot that was released is not durable and will not be: another one is tried later.
    pub fn snapshot_failed(&mut self) {
        self.snapshot_pending = false;
        self.snapshot_not_before = self.state.end() + SNAPSHOT_RETRY_RECORDS;
    }

    fn release_after_seen(&mut self, output: Output) {
        let after = match (&self.in_flight, self.gathering.is_empty() && !self.projection_changed) {
            (_, false) => self.next_batch,
            (Some(in_flight), true) => in_flight.number,
            (None, true) => {
                self.ready.push_back(output);
                return;
            }
        };
        self.waiting.push_back(Waiting { after, output });
    }

    fn snapshot_when_due(&mut self) {
        let records = self.state.end().saturating_sub(self.snapshot_through);
        let due = records >= SNAPSHOT_EVERY_RECORDS
            || self.state.producers_resident() >= SNAPSHOT_EVERY_PRODUCERS
            || self.state.entities().ended_resident() >= SNAPSHOT_EVERY_ENDED;
        if due && self.state.end() >= self.snapshot_not_before {
            self.request_snapshot();
        }
    }

    fn fail(&mut self, error: &Error) {
        self.failed = true;
        self.gathering.clear();
        for waiting in self.waiting.drain(..) {
            if let Output::Reply { ticket, .. } = waiting.output {
                self.ready.push_back(Output::Reply { ticket, result: Err(error.clone()) });
            }
        }
    }
}

fn producer_key(command: &Command) -> Option<ProducerKey> {
    match command {
        Command::Publish { sender, producer: Some(producer), .. } => {
            Some(ProducerKey { principal: sender.principal.clone(), id: producer.id.clone() })
        }
        _ => None,
    }
}

fn ends_run(meaning: &Meaning) -> bool {
    match meaning {
        Meaning::RunChange { change, .. } => change.state.is_some_and(RunState::has_ended),
        _ => false,
    }
}

fn failed_before() -> Error {
    Error::new(ErrorCode::OutcomeUnknown, "the session is being loaded again; repeat the request")
}
