//! Which publishes wait, in what order they are sent, and under which producer and sequence. Bodies are in the spool.
//!
//! Each lane (a session, and in whose name one publishes to it) has one *writer*: a producer with an epoch and a counter.
//! Invariants:
//! - A pair (producer, epoch, sequence) names one publish for ever: it is resent as it is, and never given to another.
//! - Publishes of a lane are sent in order. After a refusal nothing more is sent for that lane until all that is
//!   under way was answered; then sending begins again with the lowest that is left.
//! - A publish that is refused for good leaves a hole in the sequences. What is left is numbered anew, in order, from 0
//!   under the next epoch, but not before it is certain that none of it was applied: when nothing is left, or when the
//!   broker says that it still waits for what is below all that is left.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use longwire_proto::error::ErrorCode;
use longwire_proto::position::Position;
use longwire_proto::wire;

use crate::backoff::{Backoff, Jitter};
use crate::error::{PublishError, Refusal};
use crate::lane::Lane;
use crate::published::Published;

/// Publishes that may wait for their answer: fewer than the broker's `requests_max` together with calls, and than
/// `producer_window`, so that a repeat is always answered with its original offsets.
pub(crate) const IN_FLIGHT_MAX: usize = 256;
/// Bytes of publishes that may wait for their answer: twice the largest batch, so that one can travel while the next
/// is written.
pub(crate) const IN_FLIGHT_BYTES_MAX: u64 = 8 << 20;
/// Lanes without unacknowledged publishes whose producer is kept. A forgotten one gets a new producer id.
pub(crate) const IDLE_WRITERS_MAX: usize = 4096;

/// Names an entry of the spool.
pub(crate) type Entry = u64;

/// What the spool still had when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// Publishes without an answer, in the order of acceptance.
    pub(crate) entries: Vec<RecoveredEntry>,
    /// The slot of the next publish to each of their lanes. It does not follow from the entries: one that came after
    /// them may have been answered already.
    pub(crate) next: BTreeMap<Lane, Slot>,
}

/// A publish without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecoveredEntry {
    pub(crate) entry: Entry,
    pub(crate) lane: Lane,
    pub(crate) slot: Slot,
    pub(crate) bytes: u64,
}

/// Which publish of which producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) producer: String,
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
}

impl Slot {
    pub(crate) fn to_wire(&self) -> wire::Producer {
        wire::Producer { id: self.producer.clone(), epoch: self.epoch, sequence: self.sequence }
    }
}

/// A publish to send now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) entry: Entry,
    pub(crate) lane: Lane,
    pub(crate) slot: Slot,
}

/// What the outbox decided.
#[derive(Debug)]
pub(crate) enum Decision {
    /// The publish has its answer and leaves the spool.
    Settled { entry: Entry, result: Result<Published, PublishError> },
    /// What the spool still has of the lane is numbered anew: in order, from 0, under this epoch.
    Renumbered { lane: Lane, epoch: u64 },
}

#[derive(Debug)]
struct Pending {
    entry: Entry,
    sequence: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Stall {
    /// What is left needs a new epoch.
    renumber: bool,
    /// It was counted as a refusal: the broker refuses everything that is under way for one reason.
    counted: bool,
    until: Duration,
}

#[derive(Debug)]
struct Writer {
    producer: String,
    epoch: u64,
    next_sequence: u64,
    /// In the order of acceptance.
    pending: VecDeque<Pending>,
    /// Index of the first in `pending` that was not sent on this connection.
    unsent: usize,
    in_flight: usize,
    stall: Option<Stall>,
    /// Whether it is in `Outbox::ready`.
    queued: bool,
    /// Stalls since the last publish that succeeded, of those that the broker asked for.
    refusals: u32,
}

impl Writer {
    fn new(producer: String) -> Self {
        Self {
            producer,
            epoch: 0,
            next_sequence: 0,
            pending: VecDeque::new(),
            unsent: 0,
            in_flight: 0,
            stall: None,
            queued: false,
            refusals: 0,
        }
    }

    fn find(&self, entry: Entry) -> Option<usize> {
        self.pending.binary_search_by_key(&entry, |pending| pending.entry).ok()
    }

    fn remove(&mut self, entry: Entry) -> bool {
        let Some(index) = self.find(entry) else { return false };
        self.pending.remove(index);
        if index < self.unsent {
            self.unsent -= 1;
        }
        true
    }
}

#[derive(Debug)]
pub(crate) struct Outbox {
    producer_base: String,
    minted: u64,
    backoff: Backoff,
    writers: BTreeMap<Lane, Writer>,
    ready: VecDeque<Lane>,
    stalled: BTreeSet<Lane>,
    in_flight: BTreeMap<Entry, u64>,
    in_flight_bytes: u64,
    entries: usize,
    decisions: VecDeque<Decision>,
}

impl Outbox {
    pub(crate) fn new(producer_base: String, backoff: Backoff, recovered: Recovered) -> Self {
        let mut outbox = Self {
            producer_base,
            minted: 0,
            backoff,
            writers: BTreeMap::new(),
            ready: VecDeque::new(),
            stalled: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            in_flight_bytes: 0,
            entries: recovered.entries.len(),
            decisions: VecDeque::new(),
        };
        for RecoveredEntry { entry, lane, slot, bytes } in recovered.entries {
            let writer =
                outbox.writers.entry(lane.clone()).or_insert_with(|| Writer::new(slot.producer.clone()));
            writer.epoch = slot.epoch;
            writer.next_sequence = slot.sequence + 1;
            writer.pending.push_back(Pending { entry, sequence: slot.sequence, bytes });
            outbox.make_ready(&lane);
        }
        for (lane, slot) in recovered.next {
            if let Some(writer) = outbox.writers.get_mut(&lane) {
                (writer.epoch, writer.next_sequence) = (slot.epoch, slot.sequence);
            }
        }
        outbox
    }

    /// Publishes without an answer.
    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    pub(crate) fn poll_decision(&mut self) -> Option<Decision> {
        self.decisions.pop_front()
    }

    /// The slot that the next publish of the lane gets; the spool writes it down with the publish.
    pub(crate) fn reserve(&mut self, lane: &Lane) -> Slot {
        if !self.writers.contains_key(lane) {
            if self.writers.len() >= IDLE_WRITERS_MAX {
                self.writers.retain(|_, writer| !writer.pending.is_empty() || writer.stall.is_some());
            }
            let producer = format!("{}-{}", self.producer_base, self.minted);
            self.minted += 1;
            self.writers.insert(lane.clone(), Writer::new(producer));
        }
        let writer = &self.writers[lane];
        Slot { producer: writer.producer.clone(), epoch: writer.epoch, sequence: writer.next_sequence }
    }

    /// A publish was written to the spool under the slot that [`Self::reserve`] gave.
    pub(crate) fn accept(&mut self, lane: &Lane, entry: Entry, bytes: u64) {
        let Some(writer) = self.writers.get_mut(lane) else { return };
        writer.pending.push_back(Pending { entry, sequence: writer.next_sequence, bytes });
        writer.next_sequence += 1;
        self.entries += 1;
        self.make_ready(lane);
    }

    fn make_ready(&mut self, lane: &Lane) {
        let Some(writer) = self.writers.get_mut(lane) else { return };
        if writer.stall.is_none() && !writer.queued && writer.unsent < writer.pending.len() {
            writer.queued = true;
            self.ready.push_back(lane.clone());
        }
    }

    /// The next publish to send; lanes take turns.
    pub(crate) fn poll_send(&mut self) -> Option<Due> {
        if self.in_flight.len() >= IN_FLIGHT_MAX || self.in_flight_bytes >= IN_FLIGHT_BYTES_MAX {
            return None;
        }
        while let Some(lane) = self.ready.pop_front() {
            let Some(writer) = self.writers.get_mut(&lane) else { continue };
            writer.queued = false;
            if writer.stall.is_some() {
                continue;
            }
            let Some(pending) = writer.pending.get(writer.unsent) else { continue };
            let (entry, sequence, bytes) = (pending.entry, pending.sequence, pending.bytes);
            let slot = Slot { producer: writer.producer.clone(), epoch: writer.epoch, sequence };
            writer.unsent += 1;
            writer.in_flight += 1;
            self.in_flight.insert(entry, bytes);
            self.in_flight_bytes += bytes;
            self.make_ready(&lane);
            return Some(Due { entry, lane, slot });
        }
        None
    }

    /// The answer to something under way came; gives the writer when it still waits for it.
    fn landed(&mut self, lane: &Lane, entry: Entry) -> Option<&mut Writer> {
        let bytes = self.in_flight.remove(&entry)?;
        self.in_flight_bytes -= bytes;
        let writer = self.writers.get_mut(lane)?;
        writer.in_flight = writer.in_flight.saturating_sub(1);
        Some(writer)
    }

    fn settle(&mut self, lane: &Lane, entry: Entry, result: Result<Published, PublishError>) {
        if self.writers.get_mut(lane).is_some_and(|writer| writer.remove(entry)) {
            self.entries -= 1;
            self.decisions.push_back(Decision::Settled { entry, result });
        }
    }

    pub(crate) fn published(&mut self, now: Duration, lane: &Lane, entry: Entry, answer: &wire::Published) {
        let Some(writer) = self.landed(lane, entry) else { return };
        writer.refusals = 0;
        let published = Published {
            from: Position { epoch: answer.epoch, offset: answer.from },
            next: Position { epoch: answer.epoch, offset: answer.next },
            duplicate: answer.duplicate,
        };
        self.settle(lane, entry, Ok(published));
        self.resume_if_quiet(now, lane);
    }

    pub(crate) fn refused(
        &mut self,
        now: Duration,
        lane: &Lane,
        entry: Entry,
        refusal: Refusal,
        jitter: &mut Jitter,
    ) {
        let Some(writer) = self.landed(lane, entry) else { return };
        let Some(index) = writer.find(entry) else { return self.resume_if_quiet(now, lane) };
        let lowest = writer.pending[0].sequence;
        match refusal.code {
            _ if refusal.retryable => self.back_off(now, lane, &refusal, jitter),
            // What the broker waits for was refused, or it was restored and knows less than it acknowledged: nothing
            // fills that hole, and nothing behind it was applied.
            Some(ErrorCode::SequenceGap) if refusal.expected < lowest => self.stall(lane, true, now),
            // The session was deleted, or the broker restored: nothing of what is left was applied.
            Some(ErrorCode::ProducerUnknown) if lowest > 0 => self.stall(lane, true, now),
            // One before this was refused, and is sent again first.
            Some(ErrorCode::SequenceGap | ErrorCode::ProducerUnknown) if index > 0 => {
                self.stall(lane, false, now);
            }
            // The lowest of ours is not the next that the broker wants: it contradicts itself. Ask again, slowly.
            Some(ErrorCode::SequenceGap) => self.back_off(now, lane, &refusal, jitter),
            Some(ErrorCode::Duplicate) => {
                self.settle(lane, entry, Err(PublishError::AlreadyPublished));
            }
            Some(ErrorCode::ProducerFenced) => {
                let epoch = refusal.expected;
                self.fail_from(lane, 0, || PublishError::Fenced { epoch });
                self.abandon(lane);
            }
            Some(ErrorCode::SessionClosed) => {
                self.fail_from(lane, index, || PublishError::SessionClosed);
                self.skip_hole(lane);
            }
            Some(ErrorCode::EndMismatch) => {
                self.settle(lane, entry, Err(PublishError::EndMismatch { end: refusal.expected }));
                self.skip_hole(lane);
            }
            _ => {
                self.settle(lane, entry, Err(PublishError::Refused(refusal)));
                self.skip_hole(lane);
            }
        }
        self.resume_if_quiet(now, lane);
    }

    /// The spool could not give the publish back.
    pub(crate) fn lost(&mut self, now: Duration, lane: &Lane, entry: Entry, error: PublishError) {
        if self.landed(lane, entry).is_some() {
            self.settle(lane, entry, Err(error));
            self.resume_if_quiet(now, lane);
        }
    }

    /// When nothing is left behind a hole, the next publish begins a new epoch; otherwise the broker's answers to what
    /// is left decide.
    fn skip_hole(&mut self, lane: &Lane) {
        let Some(writer) = self.writers.get_mut(lane) else { return };
        if writer.pending.is_empty() {
            writer.epoch += 1;
            writer.next_sequence = 0;
        }
    }

    fn fail_from(&mut self, lane: &Lane, index: usize, error: impl Fn() -> PublishError) {
        let Some(writer) = self.writers.get_mut(lane) else { return };
        let failed: Vec<Entry> = writer.pending.iter().skip(index).map(|pending| pending.entry).collect();
        for entry in failed {
            self.settle(lane, entry, Err(error()));
        }
    }

    /// Later publishes of the lane get a new producer.
    fn abandon(&mut self, lane: &Lane) {
        if let Some(writer) = self.writers.get_mut(lane) {
            writer.producer = format!("{}-{}", self.producer_base, self.minted);
            self.minted += 1;
            (writer.epoch, writer.next_sequence) = (0, 0);
        }
    }

    /// Stalls for as long as the broker says, and for longer each time that this happens. Further refusals of what was
    /// under way belong to the same time.
    fn back_off(&mut self, now: Duration, lane: &Lane, refusal: &Refusal, jitter: &mut Jitter) {
        let asked = Duration::from_millis(refusal.retry_after_ms);
        self.stall(lane, false, now + asked);
        let Some(writer) = self.writers.get_mut(lane) else { return };
        if let Some(stall) = writer.stall.as_mut().filter(|stall| !stall.counted) {
            stall.counted = true;
            stall.until = stall.until.max(now + self.backoff.delay(writer.refusals, jitter));
            writer.refusals = writer.refusals.saturating_add(1);
        }
    }

    fn stall(&mut self, lane: &Lane, renumber: bool, until: Duration) {
        let Some(writer) = self.writers.get_mut(lane) else { return };
        let stall = writer.stall.get_or_insert_default();
        stall.renumber |= renumber;
        stall.until = stall.until.max(until);
        self.stalled.insert(lane.clone());
    }

    /// Ends a stall whose time has come, once nothing of the lane is under way.
    fn resume_if_quiet(&mut self, now: Duration, lane: &Lane) {
        let Some(writer) = self.writers.get_mut(lane) else { return };
        if writer.in_flight > 0 || writer.stall.as_ref().is_none_or(|stall| stall.until > now) {
            return;
        }
        if writer.stall.take().is_some_and(|stall| stall.renumber) {
            writer.epoch += 1;
            for (sequence, pending) in (0..).zip(&mut writer.pending) {
                pending.sequence = sequence;
            }
            writer.next_sequence = writer.pending.len() as u64;
            if !writer.pending.is_empty() {
                let epoch = writer.epoch;
                self.decisions.push_back(Decision::Renumbered { lane: lane.clone(), epoch });
            }
        }
        writer.unsent = 0;
        self.stalled.remove(lane);
        self.make_ready(lane);
    }

    pub(crate) fn disconnected(&mut self, now: Duration) {
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        let lanes: Vec<Lane> = self.writers.keys().cloned().collect();
        for lane in lanes {
            if let Some(writer) = self.writers.get_mut(&lane) {
                writer.in_flight = 0;
                writer.unsent = 0;
            }
            self.resume_if_quiet(now, &lane);
            self.make_ready(&lane);
        }
    }

    pub(crate) fn timeout(&mut self, now: Duration) {
        let lanes: Vec<Lane> = self.stalled.iter().cloned().collect();
        for lane in lanes {
            self.resume_if_quiet(now, &lane);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        let stalls = self.stalled.iter().filter_map(|lane| self.writers.get(lane));
        stalls
            .filter(|writer| writer.in_flight == 0)
            .filter_map(|writer| Some(writer.stall.as_ref()?.until))
            .min()
    }
}

#[cfg(test)]
mod tests {
    use longwire_proto::error::Error;
    use longwire_proto::session_id::SessionId;

    use super::*;

    const PIPELINE: usize = 64;

    fn session() -> Lane {
        SessionId::parse("s").unwrap().into()
    }

    fn refusal(code: ErrorCode, expected: u64, retry_after_ms: u64) -> Refusal {
        Refusal::from(Some(
            Error::new(code, "no").expected(expected).retry_after_ms(retry_after_ms).to_wire(),
        ))
    }

    fn outbox(publishes: usize) -> Outbox {
        let mut outbox = Outbox::new("p".into(), Backoff::default(), Recovered::default());
        for entry in 0..publishes as Entry {
            outbox.reserve(&session());
            outbox.accept(&session(), entry, 1);
        }
        outbox
    }

    fn send_all(outbox: &mut Outbox) -> Vec<Due> {
        std::iter::from_fn(|| outbox.poll_send()).collect()
    }

    /// Everything is sent and refused as a broker does that loads the session again; gives the time of the next try.
    fn fail_pipeline(outbox: &mut Outbox, now: Duration, jitter: &mut Jitter) -> Duration {
        let sent = send_all(outbox);
        assert_eq!(sent.len(), PIPELINE);
        for due in sent {
            outbox.refused(now, &session(), due.entry, refusal(ErrorCode::OutcomeUnknown, 0, 0), jitter);
        }
        let until = outbox.poll_timeout().unwrap();
        outbox.timeout(until);
        until
    }

    #[test]
    fn waiting_rises_once_with_each_stall_and_begins_anew_after_a_success() {
        let backoff = Backoff::default();
        for seed in 0..100 {
            let (mut outbox, jitter) = (outbox(PIPELINE), &mut Jitter::new(seed));
            let mut now = Duration::ZERO;
            for stall in 0..12 {
                let until = fail_pipeline(&mut outbox, now, jitter);
                let ceiling = backoff.base.saturating_mul(1 << stall).min(backoff.cap);
                assert!(until - now <= ceiling, "seed {seed}: {:?} at stall {stall}", until - now);
                now = until;
            }
            assert_eq!(outbox.writers[&session()].refusals, 12);
            let first = outbox.poll_send().unwrap();
            outbox.published(
                now,
                &session(),
                first.entry,
                &wire::Published { next: 1, ..Default::default() },
            );
            outbox.reserve(&session());
            outbox.accept(&session(), PIPELINE as Entry, 1);
            let until = fail_pipeline(&mut outbox, now, jitter);
            assert!(until - now <= backoff.base, "seed {seed}: {:?} after a success", until - now);
        }
    }

    #[test]
    fn a_stall_lasts_as_long_as_the_last_refusal_of_it_wants() {
        let (mut outbox, jitter) = (outbox(3), &mut Jitter::new(1));
        let sent = send_all(&mut outbox);
        let now = Duration::from_secs(5);
        // A gap before what is lowest of ours does not count; the broker's trouble does, once.
        outbox.refused(now, &session(), sent[1].entry, refusal(ErrorCode::SequenceGap, 0, 0), jitter);
        assert_eq!(outbox.writers[&session()].refusals, 0);
        outbox.refused(now, &session(), sent[0].entry, refusal(ErrorCode::Overloaded, 0, 0), jitter);
        outbox.refused(
            now,
            &session(),
            sent[2].entry,
            refusal(ErrorCode::StorageUnavailable, 0, 60_000),
            jitter,
        );
        assert_eq!(outbox.writers[&session()].refusals, 1);
        assert_eq!(outbox.poll_timeout(), Some(now + Duration::from_secs(60)));
    }
}
