//! The values of the store's own table that the database does not know yet. They flow as records do: queued, durable,
//! being settled, gone from memory when the commit that has them is visible.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::store::{Cas, Reservation};

/// What is there afterwards, by key; none where something is removed.
pub type Writes = BTreeMap<Bytes, Option<Bytes>>;

/// What there is to say about a conditional write, from memory and what was read of the database.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every value is the expected one.
    Expected,
    /// One is not.
    Conflict,
    /// One is not, but that one is not durable yet: nobody may be told of it before it is.
    InFlight,
    /// The database must be asked.
    Unknown,
}

/// See the top of this file.
#[derive(Debug, Default)]
pub struct Values {
    // What the last queued write of a key leaves, and how many are queued.
    queued: BTreeMap<Bytes, (Option<Bytes>, usize)>,
    dirty: Writes,
    settling: Arc<Writes>,
    reservations: Vec<Reservation>,
    removals: u64,
}

impl Values {
    /// The durable value of a key; `None` when the database has the word.
    #[must_use]
    pub fn durable(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        self.dirty.get(key).or_else(|| self.settling.get(key))
    }

    /// Counts removals of values from memory, so that who looked into the database meanwhile looks again.
    #[must_use]
    pub fn removals(&self) -> u64 {
        self.removals
    }

    /// Whether writes of one of these keys are queued and not durable.
    #[must_use]
    pub fn in_flight(&self, writes: &[Cas]) -> bool {
        writes.iter().any(|write| self.queued.contains_key(&write.key))
    }

    /// Compares what is expected with what is there after everything that is queued. `read` is what the database had, and
    /// the removals before it was asked.
    #[must_use]
    pub fn check(&self, writes: &[Cas], read: Option<(&[Option<Bytes>], u64)>) -> Verdict {
        let read = read.filter(|(_, removals)| *removals == self.removals);
        let mut verdict = Verdict::Expected;
        for (index, write) in writes.iter().enumerate() {
            let queued = self.queued.get(&write.key);
            let known = queued
                .map(|(value, _)| value)
                .or_else(|| self.durable(&write.key))
                .or_else(|| read.and_then(|(values, _)| values.get(index)));
            match known {
                Some(value) if *value == write.expected => {}
                Some(_) if queued.is_some() => verdict = Verdict::InFlight,
                Some(_) => return Verdict::Conflict,
                None if verdict == Verdict::Expected => verdict = Verdict::Unknown,
                None => {}
            }
        }
        verdict
    }

    /// Takes writes that wait to become durable.
    pub fn queue(&mut self, writes: &Writes) {
        for (key, value) in writes {
            let queued = self.queued.entry(key.clone()).or_default();
            queued.0.clone_from(value);
            queued.1 += 1;
        }
    }

    /// Writes are durable.
    pub fn apply(&mut self, writes: Writes, reservation: Reservation) {
        for (key, value) in writes {
            // Replaying goes without a queue.
            if let Some((_, count)) = self.queued.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.queued.remove(&key);
                }
            }
            self.dirty.insert(key, value);
        }
        self.reservations.push(reservation);
    }

    /// What is durable and not settled, to be settled, and what that holds of the quota.
    pub fn plan(&mut self) -> (Arc<Writes>, Vec<Reservation>) {
        self.settling = Arc::new(std::mem::take(&mut self.dirty));
        (Arc::clone(&self.settling), std::mem::take(&mut self.reservations))
    }

    /// The plan's commit is visible.
    pub fn settled(&mut self) {
        if !self.settling.is_empty() {
            self.settling = Arc::default();
            self.removals += 1;
        }
    }

    /// Durable values of a range in order, none where one was removed, up to the one that makes `limit` values.
    #[must_use]
    pub fn range(&self, from: Bound<&[u8]>, prefix: &[u8], limit: usize) -> Writes {
        let mut found = Writes::new();
        let mut values = 0;
        let mut newer = self.dirty.range::<[u8], _>((from, Bound::Unbounded)).peekable();
        let mut older = self.settling.range::<[u8], _>((from, Bound::Unbounded)).peekable();
        while values < limit {
            let next = match (newer.peek(), older.peek()) {
                (Some((new, _)), Some((old, _))) if new > old => older.next(),
                (Some((new, _)), Some((old, _))) if new == old => {
                    older.next();
                    newer.next()
                }
                (Some(_), _) => newer.next(),
                (None, _) => older.next(),
            };
            let Some((key, value)) = next.filter(|(key, _)| key.starts_with(prefix)) else { break };
            values += usize::from(value.is_some());
            found.insert(key.clone(), value.clone());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(expected: Option<&'static str>) -> [Cas; 1] {
        [Cas { key: "k".into(), expected: expected.map(Bytes::from), value: None }]
    }

    #[test]
    fn what_was_read_before_a_settling_proves_nothing() {
        let mut values = Values::default();
        let old = [Some(Bytes::from("old"))];
        let before = values.removals();
        assert_eq!(values.check(&write(Some("old")), None), Verdict::Unknown);
        assert_eq!(values.check(&write(Some("old")), Some((&old, before))), Verdict::Expected);
        let new = Writes::from([("k".into(), Some("new".into()))]);
        values.queue(&new);
        assert_eq!(values.check(&write(Some("new")), None), Verdict::Expected, "behind what is queued");
        // Nobody is told of what is not durable yet.
        assert_eq!(values.check(&write(Some("old")), Some((&old, before))), Verdict::InFlight);
        assert!(values.in_flight(&write(None)) && values.durable(b"k").is_none());
        values.apply(new, Reservation::none());
        assert_eq!(values.check(&write(Some("old")), Some((&old, before))), Verdict::Conflict);
        drop(values.plan());
        assert_eq!(values.check(&write(Some("old")), Some((&old, before))), Verdict::Conflict);
        values.settled();
        // Memory has forgotten the new one, and the old one was read before it was there.
        assert_eq!(values.check(&write(Some("old")), Some((&old, before))), Verdict::Unknown);
        let read = [Some(Bytes::from("new"))];
        let now = values.removals();
        assert_eq!(values.check(&write(Some("old")), Some((&read, now))), Verdict::Conflict);
        assert_eq!(values.check(&write(Some("new")), Some((&read, now))), Verdict::Expected);
    }
}
