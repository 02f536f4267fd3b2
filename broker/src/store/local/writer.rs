//! The thread that writes the journal. It takes whatever waits, makes it one group, writes it with one write and one
//! fdatasync, publishes it and tells the callers; there is no timer, so an idle store commits at once and a busy one in
//! groups as large as what arrives during an fdatasync.
//!
//! A group that fails is written again under its commit number into another segment, until it is durable or the process
//! ends. Nothing later becomes durable first.
//!
//! While nothing waits the writer lies in the state, and who queues something then may write it itself: see `alone.rs`.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use metrics::{counter, histogram};

use crate::store::local::alone::{Alone, Watch};
use crate::store::local::group::{GroupWriter, Seal};
use crate::store::local::health::Part;
use crate::store::local::queued::{Queued, Stop};
use crate::store::local::segment::Segment;
use crate::store::local::shared::{BACKOFF_MAX, BACKOFF_MIN, SETTLE_SEGMENTS, Shared};
use crate::store::local::state::State;

/// Bytes of a group, unless a single batch is longer: more would make the first of the group wait for the disk to take
/// the last, and win nothing.
pub const GROUP_BYTES_MAX: usize = 4 << 20;

/// See the top of this file.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    segment: Option<Segment>,
    group: GroupWriter,
    commit: u64,
    /// The group that is encoded, which somebody could not write.
    unwritten: Option<Vec<Queued>>,
    /// How long the last write took, and when it ended.
    last_write: Option<(Duration, Instant)>,
}

impl Writer {
    /// A writer that goes on after the last durable commit.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        let commit = shared.state().durable_commit();
        let group = GroupWriter::default();
        Self { shared, segment: None, group, commit, unwritten: None, last_write: None }
    }

    /// Writes until the store stops. With the `watch` others may write meanwhile.
    pub fn run(self, mut watch: Watch) {
        let shared = Arc::clone(&self.shared);
        let mut writer = Box::new(self);
        loop {
            writer = writer.lend(&mut watch);
            if !writer.step() {
                break;
            }
        }
        let mut state = shared.state();
        // Who waits for these is told that the outcome is unknown.
        let abandoned = std::mem::take(&mut state.queue);
        state.writer_done = true;
        shared.settle.notify_one();
        drop(state);
        drop((abandoned, writer));
    }

    /// Waits for something to do. Until then whoever is alone may write.
    fn lend(self: Box<Self>, watch: &mut Watch) -> Box<Self> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state();
        state.alone.lay_down(self);
        watch.begin(&mut state);
        loop {
            if let Some(writer) = Alone::take_needed(&mut state) {
                return writer;
            }
            state = watch.wait(&shared, state);
        }
    }

    /// Whether there is something to do for its thread.
    pub(super) fn is_needed(&self, state: &State) -> bool {
        !state.queue.is_empty() || state.stop != Stop::No || self.unwritten.is_some() || self.is_condemned()
    }

    /// Waits for a group, makes it durable and tells the callers, or gives up a segment that is to be removed. False when
    /// the store stops.
    pub(super) fn step(&mut self) -> bool {
        let items = match self.unwritten.take() {
            Some(items) => items,
            None => {
                let Some(items) = self.next_items() else { return false };
                if items.is_empty() {
                    self.give_up_condemned();
                    return true;
                }
                self.encode(&items);
                items
            }
        };
        if !self.persist() {
            return false;
        }
        self.publish(items);
        true
    }

    /// Writes what its caller has queued alone, and puts the writer back. What cannot be written is left to the thread.
    pub(super) fn write_alone(mut self: Box<Self>) {
        let shared = Arc::clone(&self.shared);
        if let Some(items) = self.next_items().filter(|items| !items.is_empty()) {
            self.encode(&items);
            if self.write_once() {
                self.publish(items);
            } else {
                self.unwritten = Some(items);
            }
        }
        let mut state = shared.state();
        let is_needed = self.is_needed(&state);
        state.alone.lay_down(self);
        if is_needed {
            state.alone.call(&shared.work);
        }
    }

    /// Whether there is a group that somebody could not write.
    pub(super) fn has_unwritten(&self) -> bool {
        self.unwritten.is_some()
    }

    /// How long the last write took, and when it ended.
    pub(super) fn last_write(&self) -> Option<(Duration, Instant)> {
        self.last_write
    }

    /// Makes a durable group visible and tells its callers.
    fn publish(&self, items: Vec<Queued>) {
        let count = items.len();
        let replies = {
            let mut state = self.shared.state();
            let was_clean = state.unsettled_since.is_none();
            let replies = state.publish(self.commit, items);
            state.alone.wrote(count);
            let full = state.unsettled_bytes >= self.shared.tuning.settle_bytes
                || self.shared.pool.retired() >= SETTLE_SEGMENTS;
            if was_clean || full {
                self.shared.settle.notify_one();
            }
            replies
        };
        self.shared.durable.send_replace(self.commit);
        for reply in replies {
            // Who dropped the future does not care.
            let _ = reply.send(Ok(()));
        }
        counter!("longwire_store_groups_total").increment(1);
        histogram!("longwire_store_group_batches").record(count as f64);
    }

    fn next_items(&self) -> Option<Vec<Queued>> {
        let mut state = self.shared.state();
        while state.queue.is_empty() && state.stop == Stop::No {
            if self.is_condemned() {
                return Some(Vec::new());
            }
            state = self.shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stop == Stop::Abandon || state.queue.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let mut items = Vec::new();
        while let Some(first) = state.queue.front() {
            bytes += first.cost();
            if bytes > GROUP_BYTES_MAX && !items.is_empty() {
                break;
            }
            items.extend(state.queue.pop_front());
        }
        Some(items)
    }

    fn encode(&mut self, items: &[Queued]) {
        self.group.clear();
        let mut records = 0;
        for item in items {
            match item {
                Queued::Append { create, append, .. } => {
                    if let Some(create) = create {
                        self.group.create(create);
                    }
                    self.group.append(append);
                    records += append.records.len();
                }
                Queued::Delete { delete, .. } => self.group.delete(delete),
                Queued::Put { put, .. } => self.group.put(put),
                Queued::Trim { trim, .. } => self.group.trim(trim),
                Queued::Rename { rename, .. } => self.group.rename(rename),
            }
        }
        counter!("longwire_store_records_total").increment(records as u64);
    }

    /// Makes the group durable, however often it takes. False when the store stops before that.
    fn persist(&mut self) -> bool {
        let mut backoff = BACKOFF_MIN;
        while !self.write_once() {
            if !self.wait(backoff) {
                return false;
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        true
    }

    /// Makes the group durable, if that can be done now.
    fn write_once(&mut self) -> bool {
        let commit = self.commit + 1;
        match self.write(commit) {
            Ok(()) => {
                self.commit = commit;
                self.shared.health.well(Part::Journal);
                true
            }
            Err(error) => {
                counter!("longwire_store_journal_failures_total").increment(1);
                if error.kind() == std::io::ErrorKind::StorageFull {
                    self.shared.pool.release_spares();
                    // Settled segments are the room that the journal can win back.
                    self.shared.settle_soon();
                }
                self.shared.health.trouble(Part::Journal, format!("writing the journal failed: {error}"));
                false
            }
        }
    }

    fn write(&mut self, commit: u64) -> std::io::Result<()> {
        let seal = Seal { salt: self.shared.salt, segment: 0, commit, durable: self.commit };
        let bytes = self.group.seal(seal).len();
        self.give_up_condemned();
        let mut segment = match self.segment.take() {
            Some(segment) if segment.fits(bytes) && !self.is_replaceable(&segment) => segment,
            full => {
                if let Some(segment) = full {
                    self.shared.pool.retire(segment, true);
                }
                self.shared.pool.take(bytes)?
            }
        };
        let started = Instant::now();
        let result = segment.write(commit, self.group.seal(Seal { segment: segment.number(), ..seal }));
        let ended = Instant::now();
        let took = ended - started;
        self.last_write = Some((took, ended));
        histogram!("longwire_store_fdatasync_seconds").record(took.as_secs_f64());
        counter!("longwire_store_journal_bytes_total").increment(bytes as u64);
        match result {
            Ok(()) => self.segment = Some(segment),
            Err(_) => self.shared.pool.retire(segment, false),
        }
        result
    }

    /// Whether a makeshift has served its time.
    fn is_replaceable(&self, segment: &Segment) -> bool {
        segment.is_makeshift() && self.shared.pool.has_spare()
    }

    fn is_condemned(&self) -> bool {
        self.segment.as_ref().is_some_and(|segment| self.shared.pool.is_condemned(segment))
    }

    pub(super) fn give_up_condemned(&mut self) {
        if self.is_condemned()
            && let Some(segment) = self.segment.take()
        {
            self.shared.pool.retire(segment, true);
            // Who waits for it to go is the settler.
            self.shared.settle.notify_one();
        }
    }

    /// False when the store stops.
    fn wait(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut state = self.shared.state();
        loop {
            if state.stop != Stop::No {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            state = self.shared.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
