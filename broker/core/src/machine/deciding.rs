//! What a command comes to: records that are appended to the speculative state, or a refusal.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::meaning::Meaning;
use longwire_proto::meta::Change;
use longwire_proto::record::{PayloadHash, Sender, Stamp, erased, seal_at};

use crate::command::{Command, Description, Meant, Reply};
use crate::entity;
use crate::entity::at::At;
use crate::entity::ended::Ended;
use crate::entity::standing::{BROKER, Writer};
use crate::entity::view::Status;
use crate::machine::{Machine, ends_run, producer_key};
use crate::producer::{Verdict, judge};

impl Machine {
    /// What is not written yet is written as a tombstone; the store makes one of the rest.
    fn erase(&mut self, range: &Range<u64>) {
        let unwritten = range.start.max(self.gathering_from)..range.end;
        for offset in unwritten {
            let index = usize::try_from(offset - self.gathering_from).unwrap_or(usize::MAX);
            if let Some(record) = self.gathering.get_mut(index)
                && let Some(left) = erased(record)
            {
                *record = left;
            }
        }
        let written = range.start..range.end.min(self.gathering_from);
        if !written.is_empty() {
            self.erasing.push(written);
        }
    }

    pub(super) fn decide(&mut self, command: Command, now_ms: u64) -> Result<Reply, Error> {
        let key = producer_key(&command);
        match command {
            Command::Publish { sender, producer, if_end, may_create, records, meant } => {
                let known = match (&producer, key) {
                    (Some(publish), Some(key)) => {
                        let hash = payload_hash(&records);
                        judge(self.state.producer(&key), publish, records.len() as u64, hash)
                    }
                    _ => Ok(Verdict::New),
                };
                if let Ok(Verdict::Duplicate { from, next }) = known {
                    return Ok(self.published(from, next, true));
                }
                // Before anything else is said of it: who has lost its lease is told that.
                if let Some(lease) = &sender.lease {
                    self.check_lease(lease, &sender.principal, now_ms)?;
                }
                known?;
                if !may_create {
                    self.check_exists()?;
                }
                self.check_open()?;
                if let Some(if_end) = if_end.filter(|if_end| *if_end != self.state.end()) {
                    let end = self.state.end();
                    let message = format!(
                        "the session's end is {end}, not {if_end}; read what is new and decide again"
                    );
                    return Err(Error::new(ErrorCode::EndMismatch, message).field("if_end").expected(end));
                }
                let stamp = Stamp { time_ms: self.time(now_ms), sender, producer };
                let Some(meant) = meant else {
                    let (from, next) = self.append(&stamp, &records);
                    return Ok(self.published(from, next, false));
                };
                if let entity::Verdict::Known(offset) = self.judge(&stamp, &meant, now_ms)? {
                    return Ok(self.published(offset, offset + 1, true));
                }
                let (from, next) = self.append_meant(&stamp, &records, &meant, now_ms);
                Ok(self.published(from, next, false))
            }
            Command::Create { sender, meta, update } => {
                if self.exists() && !update {
                    let message = "the session exists already; set `update` to replace its metadata";
                    return Err(Error::new(ErrorCode::SessionExists, message).field("session"));
                }
                self.check_open()?;
                if !self.exists() || self.state.summary().meta != *meta {
                    self.change(sender, &Change::Meta(*meta), now_ms);
                }
                Ok(Reply::Described(Box::new(self.describe())))
            }
            Command::Erase { sender, ranges, of, reason } => {
                self.check_exists()?;
                let (start, end) = (self.state.start(), self.state.end());
                if let Some(beyond) = ranges.iter().find(|range| range.end > end) {
                    let message = format!(
                        "offsets {} to {} cannot be erased: the session ends at {end}",
                        beyond.start, beyond.end
                    );
                    return Err(Error::new(ErrorCode::OutOfRange, message).field("ranges").expected(end));
                }
                let kept = |range: Range<u64>| range.start.max(start)..range.end;
                let ranges: Vec<_> = ranges.into_iter().map(kept).filter(|range| !range.is_empty()).collect();
                let records = ranges.iter().map(|range| range.end - range.start).sum();
                if records > 0 {
                    ranges.iter().for_each(|range| self.erase(range));
                    self.change(sender, &Change::Erase { ranges, sender: of, reason }, now_ms);
                }
                Ok(Reply::Erased { records })
            }
            Command::Import { sender, from, records } => {
                let end = self.state.end();
                let known = end.checked_sub(from).and_then(|known| usize::try_from(known).ok());
                let Some(known) = known else {
                    let message =
                        format!("the import goes on at offset {end}, not {from}: records are missing");
                    return Err(Error::new(ErrorCode::ImportOutOfOrder, message).field("from").expected(end));
                };
                let new = records.get(known..).unwrap_or_default();
                let stamp = Stamp { time_ms: self.time(now_ms), sender, producer: None };
                self.append(&stamp, new);
                Ok(Reply::Imported { next: self.state.end() })
            }
            Command::Adopt { sender, end, session, meta } => {
                let at = self.state.end();
                // The answer was lost, and this is asked again: nothing else goes beyond the end of an import.
                if at == end.saturating_add(1) && !self.state.summary().closed {
                    return Ok(Reply::Described(Box::new(self.describe())));
                }
                if at != end {
                    let message = format!("the import is at offset {at} and cannot be finished before {end}");
                    return Err(Error::new(ErrorCode::ImportOutOfOrder, message)
                        .field("finish")
                        .expected(at));
                }
                if !self.state.summary().closed {
                    self.change(sender, &Change::Origin { session, meta: *meta, imported: true }, now_ms);
                }
                Ok(Reply::Described(Box::new(self.describe())))
            }
            Command::Close { sender, reason } => {
                self.check_exists()?;
                if !self.state.summary().closed {
                    self.close(sender, reason, now_ms);
                }
                Ok(Reply::Described(Box::new(self.describe())))
            }
            Command::Claim { sender, agent, terms, take_over, going_on } => {
                self.claim(sender, &agent, terms, take_over, going_on, now_ms)
            }
            Command::Release { sender, lease } => self.release(&lease, &sender.principal, now_ms),
            Command::Describe => {
                self.check_exists()?;
                Ok(Reply::Described(Box::new(self.describe())))
            }
            Command::DescribeAsk { ask } => {
                self.check_exists()?;
                let (offset, ended) = self.state.entities().describe_ask(&ask)?;
                let resolved = ended.and_then(Ended::resolution).map(Box::new);
                Ok(Reply::Ask { offset, resolved })
            }
            Command::DescribeMessage { message } => {
                self.check_exists()?;
                let (offset, last, bytes) = self.state.entities().describe_message(&message)?;
                Ok(Reply::Message { offset, last, bytes })
            }
            Command::Flush => Ok(Reply::Flushed),
        }
    }

    /// Judges the records of a publish, each after those before it. Nothing changes.
    fn judge(&self, stamp: &Stamp, meant: &Meant, now_ms: u64) -> Result<entity::Verdict, Error> {
        let (agent, generation) =
            stamp.sender.lease.as_ref().map_or(("", 0), |lease| (lease.agent.as_str(), lease.generation));
        let by = Writer { principal: &stamp.sender.principal, agent, standing: &meant.standing };
        let entities = self.state.entities();
        if let [meaning] = meant.meanings.as_slice() {
            return entities.judge(meaning, &by, now_ms);
        }
        // Pieces of a message do not depend on each other, and are nearly all that comes in batches.
        let alone =
            |meaning: &Meaning| matches!(meaning, Meaning::None | Meaning::Delta { closes: false, .. });
        let is_alone = meant.meanings.iter().all(alone) && !entities.may_fill(&meant.meanings);
        let mut trial = (!is_alone).then(|| entities.clone());
        for (index, meaning) in (0..).zip(&meant.meanings) {
            let judged = trial.as_ref().unwrap_or(entities).judge(meaning, &by, now_ms);
            let judged = judged.map_err(|mut error| {
                error.message = format!("record {index}: {}", error.message);
                error
            })?;
            if let entity::Verdict::Known(offset) = judged {
                let message = format!(
                    "record {index}: its id was given at offset {offset}; repeat what may have been published alone, to be answered with where it is"
                );
                return Err(Error::new(ErrorCode::IdInUse, message).field("id").expected(offset));
            }
            if let Some(trial) = &mut trial {
                let offset = self.state.end() + index;
                let (time_ms, principal) = (stamp.time_ms, by.principal);
                trial.fold(meaning, &At { offset, time_ms, principal, agent, generation });
            }
        }
        Ok(entity::Verdict::New)
    }

    /// Appends records that mean something, and what follows from them.
    fn append_meant(&mut self, stamp: &Stamp, records: &[Bytes], meant: &Meant, now_ms: u64) -> (u64, u64) {
        let at_bytes = self.at_bytes(&meant.meanings);
        let appended = self.append_at(stamp, records, &at_bytes);
        if meant.meanings.iter().any(ends_run) {
            self.tie_up(appended.0, now_ms);
        }
        appended
    }

    /// Ends what is a part of runs that have ended at `since` or later.
    pub(super) fn tie_up(&mut self, since: u64, now_ms: u64) {
        // Each round ends what is a part of what the round before has ended, and what has ended stays so.
        loop {
            let loose = self.state.entities().loose_ends(since);
            if loose.is_empty() {
                break;
            }
            self.append_own(&loose, now_ms);
        }
    }

    /// How many bytes of its message are before each delta.
    fn at_bytes<'meanings>(&self, meanings: &'meanings [Meaning]) -> Vec<u64> {
        let mut grown: BTreeMap<&str, u64> = BTreeMap::new();
        let at_byte = |meaning: &'meanings Meaning| match meaning {
            Meaning::Delta { message, bytes, .. } => {
                let known = || self.state.entities().message_bytes(message).unwrap_or_default();
                let at = grown.entry(message).or_insert_with(known);
                let before = *at;
                *at = at.saturating_add(*bytes);
                before
            }
            Meaning::Opens { id, bytes, .. } => {
                grown.insert(id, *bytes);
                0
            }
            _ => 0,
        };
        meanings.iter().map(at_byte).collect()
    }

    /// Ends what is open, since nobody could afterwards, and takes no more.
    pub(super) fn close(&mut self, sender: Sender, reason: String, now_ms: u64) {
        let ends = self.state.entities().last_ends();
        self.append_own(&ends, now_ms);
        self.drop_ended_leases();
        self.change(sender, &Change::Close { reason }, now_ms);
    }

    /// Appends records of the broker's own.
    pub(super) fn append_own(&mut self, records: &[Bytes], now_ms: u64) {
        self.append_by(broker(), records, now_ms);
    }

    pub(super) fn append_by(&mut self, sender: Sender, records: &[Bytes], now_ms: u64) {
        let stamp = Stamp { time_ms: self.time(now_ms), sender, producer: None };
        // What is no meaning to `fold` is none here.
        let meanings = records.iter().map(|record| Meaning::of(record).unwrap_or(Meaning::None));
        let at_bytes = self.at_bytes(&meanings.collect::<Vec<_>>());
        self.append_at(&stamp, records, &at_bytes);
    }

    pub(super) fn exists(&self) -> bool {
        self.state.end() > 0
    }

    pub(super) fn check_exists(&self) -> Result<(), Error> {
        if self.exists() {
            return Ok(());
        }
        Err(Error::no_such_session())
    }

    pub(super) fn check_open(&self) -> Result<(), Error> {
        if !self.state.summary().closed {
            return Ok(());
        }
        let message = "the session is closed and takes no more publishes; use another session";
        Err(Error::new(ErrorCode::SessionClosed, message).field("session"))
    }

    pub(super) fn time(&self, now_ms: u64) -> u64 {
        self.state.last_time_ms().max(now_ms)
    }

    fn published(&self, from: u64, next: u64, duplicate: bool) -> Reply {
        Reply::Published { epoch: self.state.lineage().epoch(), from, next, duplicate }
    }

    fn describe(&self) -> Description {
        Description {
            epoch: self.state.lineage().epoch(),
            start: self.state.start(),
            end: self.state.end(),
            last_time_ms: self.state.last_time_ms(),
            lineage: self.state.lineage().clone(),
            summary: self.state.summary().clone(),
            view: Arc::clone(self.state.entities().view()),
        }
    }

    fn change(&mut self, sender: Sender, change: &Change, now_ms: u64) {
        let stamp = Stamp { time_ms: self.time(now_ms), sender, producer: None };
        self.append(&stamp, &[change.to_record()]);
        self.projection_changed = true;
    }

    fn append(&mut self, stamp: &Stamp, records: &[Bytes]) -> (u64, u64) {
        self.append_at(stamp, records, &[])
    }

    fn append_at(&mut self, stamp: &Stamp, records: &[Bytes], at_bytes: &[u64]) -> (u64, u64) {
        let from = self.state.end();
        let before = self.shown();
        for record in seal_at(stamp, records, at_bytes) {
            self.state.fold(&record);
            self.gathering_bytes += record.len();
            self.gathering.push(record);
        }
        // The row of the session list is written with the record that creates the session, and when what it says changes.
        self.projection_changed |= from == 0 || before != self.shown();
        (from, self.state.end())
    }

    /// What the row of the session list has of what is open.
    fn shown(&self) -> (Status, Option<u64>) {
        (self.state.summary().status, self.state.entities().deadline_ms())
    }
}

/// Who writes what the broker decides by itself.
pub(super) fn broker() -> Sender {
    Sender { principal: BROKER.to_owned(), ..Sender::default() }
}

fn payload_hash(records: &[Bytes]) -> PayloadHash {
    (0..).zip(records).fold(PayloadHash::default(), |hash, (index, record)| hash.with(index, record))
}
