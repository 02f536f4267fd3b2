//! The state of a session: a fold over its records.

use std::collections::BTreeMap;

use bytes::Bytes;
use longwire_proto::kind;
use longwire_proto::meaning::Meaning;
use longwire_proto::meta::Change;
use longwire_proto::position::Lineage;
use longwire_proto::record::Sealed;

use crate::entity::Entities;
use crate::entity::at::At;
use crate::entity::ended::Ended;
use crate::producer::{Producer, ProducerKey};
use crate::row::{RowReader, RowWriter};
use crate::summary::Summary;

/// Which fold made a snapshot. A change of the fold raises it and ships the migration from the one before.
///
/// Version 1 knew no entities, and version 2 no agents: no record that they folded was one, so their snapshots have none. Version 3 did
/// not keep which run a message that grows is a part of; those that it left open end without theirs. Version 4 knew no keyed state, and no
/// record that it folded set any.
pub const FOLD_VERSION: u64 = 5;

/// Producers kept resident beyond those written since the last snapshot; colder ones are rows in the store. One
/// producer's window takes at most 24 KiB.
pub const PRODUCERS_RESIDENT_MAX: usize = 64;

/// State of one session. Everything in it follows from the log's lineage and its records alone; which producers are
/// resident is a cache and changes no answer.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    lineage: Lineage,
    start: u64,
    end: u64,
    last_time_ms: u64,
    summary: Summary,
    producers: BTreeMap<ProducerKey, Producer>,
    /// Whether the store may have rows of producers that are not resident.
    cold_producers: bool,
    entities: Entities,
}

impl State {
    /// The state of a log before its first record.
    #[must_use]
    pub fn new(lineage: Lineage) -> Self {
        let own_from = own_from(&lineage);
        Self {
            lineage,
            start: 0,
            end: 0,
            last_time_ms: 0,
            summary: Summary::default(),
            producers: BTreeMap::new(),
            cold_producers: false,
            entities: Entities::new(own_from),
        }
    }

    /// The state of a log that begins at `start` without a snapshot: what is before it belongs to nobody.
    #[must_use]
    pub fn beginning_at(lineage: Lineage, start: u64) -> Self {
        Self { start, end: start, ..Self::new(lineage) }
    }

    /// The records below `start` are gone, and a durable snapshot covers them: producers that have no other records leave
    /// memory.
    pub fn trim(&mut self, start: u64) {
        self.start = self.start.max(start);
        self.cold_producers |= !self.producers.is_empty();
        self.producers.retain(|_, producer| producer.last_offset() >= start);
    }

    /// The key of the row that every snapshot has.
    #[must_use]
    pub fn head_key() -> Bytes {
        Bytes::from_static(b"head")
    }

    /// The state of a snapshot, from its head row; producers are loaded when they are needed. `None` when the row is not
    /// one of this fold.
    #[must_use]
    pub fn from_head(lineage: Lineage, start: u64, head: &[u8]) -> Option<Self> {
        let mut row = RowReader(head);
        let version = row.u64()?;
        if !(1..=FOLD_VERSION).contains(&version) {
            return None;
        }
        let (end, last_time_ms, cold) = (row.u64()?, row.u64()?, row.u64()?);
        let summary = Summary::decode(row.bytes()?)?;
        let mut state = Self::new(lineage);
        (state.start, state.end, state.last_time_ms) = (start, end, last_time_ms);
        (state.summary, state.cold_producers) = (summary, cold != 0);
        if version > 1 {
            let own_from = own_from(&state.lineage);
            state.entities = Entities::decode_open(&mut row, version, own_from)?;
        }
        Some(state)
    }

    /// Rows that make a snapshot of this state, given that producers last written below `since` have theirs.
    #[must_use]
    pub fn rows(&self, since: u64) -> Vec<(Bytes, Option<Bytes>)> {
        let cold = self.cold_producers || !self.producers.is_empty();
        let mut head = RowWriter::default();
        head.u64(FOLD_VERSION).u64(self.end).u64(self.last_time_ms).u64(u64::from(cold));
        head.bytes(&self.summary.encode());
        self.entities.encode_open(&mut head);
        let written = self.producers.iter().filter(|(_, producer)| producer.last_offset() >= since);
        let producers = written.map(|(key, producer)| (key.row_key(), Some(producer.encode())));
        let head = (Self::head_key(), Some(head.finish()));
        std::iter::once(head).chain(producers).chain(self.entities.rows(since)).collect()
    }

    /// Forgets producers whose rows are durable in a snapshot through `through`, down to
    /// [`PRODUCERS_RESIDENT_MAX`], the longest silent first.
    pub fn evict(&mut self, through: u64) {
        self.entities.evict(through);
        self.cold_producers |= !self.producers.is_empty();
        let excess = self.producers.len().saturating_sub(PRODUCERS_RESIDENT_MAX);
        if excess == 0 {
            return;
        }
        let mut coldest: Vec<(u64, ProducerKey)> = self
            .producers
            .iter()
            .map(|(key, producer)| (producer.last_offset(), key.clone()))
            .filter(|(last_offset, _)| *last_offset < through)
            .collect();
        coldest.sort_unstable();
        for (_, key) in coldest.into_iter().take(excess) {
            self.producers.remove(&key);
        }
    }

    /// Whether a producer must be loaded with [`State::load`] before a publish of it is decided or folded.
    #[must_use]
    pub fn is_cold(&self, key: &ProducerKey) -> bool {
        self.cold_producers && !self.producers.contains_key(key)
    }

    /// Takes over what the store has of a producer. The store has checked the row's bytes; one that is none of this fold
    /// counts as absent, and the producer is asked to begin anew.
    pub fn load(&mut self, key: ProducerKey, row: Option<&[u8]>) {
        if let Some(producer) = row.and_then(Producer::decode) {
            self.producers.entry(key).or_insert(producer);
        }
    }

    /// Whether producers may have rows that are not resident.
    #[must_use]
    pub fn has_cold_producers(&self) -> bool {
        self.cold_producers
    }

    /// Whether there may be rows of producers or of what has ended that are not resident.
    #[must_use]
    pub fn has_cold_rows(&self) -> bool {
        self.cold_producers || self.entities.has_cold()
    }

    /// Whether a row is of a producer, a run or a message that has no retained record any more, and is not resident. How an ask ended is
    /// known for as long as its session exists.
    #[must_use]
    pub fn is_past(&self, key: &[u8], row: &[u8]) -> bool {
        if let Some(id) = Ended::of_row(key) {
            return self.entities.is_past(id, row, self.start);
        }
        let past = Producer::decode(row).is_some_and(|producer| producer.last_offset() < self.start);
        past && ProducerKey::of_row(key).is_some_and(|key| !self.producers.contains_key(&key))
    }

    /// The producer that a record was written by.
    #[must_use]
    pub fn producer_of(record: &[u8]) -> Option<ProducerKey> {
        let sealed = Sealed::parse(record).ok()?;
        let producer = sealed.producer?;
        Some(ProducerKey { principal: sealed.principal.to_owned(), id: producer.id.to_owned() })
    }

    /// Takes the next record over. Total, and depends on the record alone.
    pub fn fold(&mut self, record: &[u8]) {
        let offset = self.end;
        self.end += 1;
        let Ok(sealed) = Sealed::parse(record) else { return };
        self.last_time_ms = self.last_time_ms.max(sealed.time_ms);
        if offset == self.start && self.summary.created_ms == 0 {
            self.summary.created_ms = sealed.time_ms;
        }
        if sealed.kind == kind::SESSION
            && let Some(change) = Change::from_body(sealed.body)
        {
            match &change {
                Change::Origin { .. } => self.summary.created_ms = sealed.time_ms,
                Change::Erase { ranges, .. } => {
                    let at = at(offset, &sealed);
                    self.entities.erase(ranges, &at);
                    let erase =
                        |producer: &mut Producer| ranges.iter().for_each(|range| producer.erase(range));
                    self.producers.values_mut().for_each(erase);
                }
                Change::Meta(_) | Change::Close { .. } => {}
            }
            self.summary.apply(change);
        }
        if sealed.has_meaning
            && let Ok(meaning) = Meaning::of(record)
        {
            self.entities.fold(&meaning, &at(offset, &sealed));
        }
        self.summary.status = self.entities.view().status();
        if let Some(publish) = &sealed.producer {
            let key = ProducerKey { principal: sealed.principal.to_owned(), id: publish.id.to_owned() };
            let producer = self.producers.entry(key).or_insert_with(|| Producer::new(publish.epoch));
            producer.fold(publish, offset, record, sealed.kind == kind::TOMBSTONE);
        }
    }

    /// The log's epochs.
    #[must_use]
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// First retained offset.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The next offset to be assigned.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Time of the last record.
    #[must_use]
    pub fn last_time_ms(&self) -> u64 {
        self.last_time_ms
    }

    /// Metadata, creation and close.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// What is resident of a producer.
    #[must_use]
    pub fn producer(&self, key: &ProducerKey) -> Option<&Producer> {
        self.producers.get(key)
    }

    /// What is open, and what has ended.
    #[must_use]
    pub fn entities(&self) -> &Entities {
        &self.entities
    }

    /// Takes over what the store has of an entity that has ended.
    pub fn load_entity(&mut self, id: &str, row: Option<&[u8]>) {
        self.entities.load(id, row);
    }

    /// How many producers are resident.
    #[must_use]
    pub fn producers_resident(&self) -> usize {
        self.producers.len()
    }
}

fn at<'a>(offset: u64, sealed: &Sealed<'a>) -> At<'a> {
    let Sealed { time_ms, principal, agent, generation, .. } = *sealed;
    At { offset, time_ms, principal, agent, generation }
}

/// The offset at which the last epoch of a log begins.
fn own_from(lineage: &Lineage) -> u64 {
    lineage.entries().last().map_or(0, |entry| entry.from_offset)
}
