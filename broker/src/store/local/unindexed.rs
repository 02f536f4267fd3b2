//! What the tables by which logs are found do not say yet: what changed since the last settling, in the orders in which it
//! is looked for. It has the logs of a settling or two, however many are in memory.

use std::collections::{BTreeSet, VecDeque};
use std::iter::Peekable;
use std::ops::Bound;

use longwire_proto::session_id::SessionId;

use crate::store::LogId;

/// Something in the order in which it is found, of the next settling and of the one at work.
#[derive(Debug)]
struct Both<T> {
    dirty: BTreeSet<T>,
    settling: BTreeSet<T>,
}

impl<T> Default for Both<T> {
    fn default() -> Self {
        Self { dirty: BTreeSet::new(), settling: BTreeSet::new() }
    }
}

impl<T: Ord> Both<T> {
    fn plan(&mut self) {
        self.settling = std::mem::take(&mut self.dirty);
    }
}

/// See the top of this file.
#[derive(Debug, Default)]
pub struct Unindexed {
    // By commit, since they come in that order. A log is there once a commit; its last commit counts.
    commits: VecDeque<(u64, LogId)>,
    names: Both<SessionId>,
    deadlines: Both<(u64, LogId)>,
}

impl Unindexed {
    /// A commit changed a log.
    pub fn changed(&mut self, commit: u64, log: LogId) {
        if self.commits.back() != Some(&(commit, log)) {
            self.commits.push_back((commit, log));
        }
    }

    /// A name has another log than before, or a log that is found by other terms.
    pub fn renamed(&mut self, name: SessionId) {
        self.names.dirty.insert(name);
    }

    /// A log has another deadline.
    pub fn postponed(&mut self, log: LogId, before: Option<u64>, after: Option<u64>) {
        if before == after {
            return;
        }
        if let Some(when_ms) = before {
            self.deadlines.dirty.remove(&(when_ms, log));
            self.deadlines.settling.remove(&(when_ms, log));
        }
        self.deadlines.dirty.extend(after.map(|when_ms| (when_ms, log)));
    }

    /// All of it is being settled.
    pub fn plan(&mut self) {
        self.names.plan();
        self.deadlines.plan();
    }

    /// The database has everything up to a commit.
    pub fn settled(&mut self, commit: u64) {
        self.names.settling.clear();
        self.deadlines.settling.clear();
        let done = self.commits.partition_point(|(found, _)| *found <= commit);
        self.commits.drain(..done);
    }

    /// What commits after this one changed, in their order.
    pub fn changes(&self, after: u64) -> impl Iterator<Item = (u64, LogId)> {
        let from = self.commits.partition_point(|(commit, _)| *commit <= after);
        self.commits.range(from..).copied()
    }

    /// Names in order.
    pub fn names(&self, from: Bound<&str>) -> impl Iterator<Item = &SessionId> {
        let range = (from, Bound::Unbounded);
        merge(self.names.dirty.range::<str, _>(range), self.names.settling.range::<str, _>(range))
    }

    /// Deadlines after a place, in order.
    pub fn deadlines(&self, after: Option<(u64, LogId)>) -> impl Iterator<Item = &(u64, LogId)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = (from, Bound::Unbounded);
        merge(self.deadlines.dirty.range(range), self.deadlines.settling.range(range))
    }
}

/// Both in one order, each thing once.
fn merge<'t, T: Ord + 't>(
    one: impl Iterator<Item = &'t T>,
    other: impl Iterator<Item = &'t T>,
) -> impl Iterator<Item = &'t T> {
    let (mut one, mut other): (Peekable<_>, Peekable<_>) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some(first), Some(second)) if first > second => other.next(),
        (Some(first), Some(second)) => {
            if first == second {
                other.next();
            }
            one.next()
        }
        (Some(_), None) => one.next(),
        (None, _) => other.next(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_generations_read_as_one() {
        let mut found = Unindexed::default();
        let name = |text: &str| SessionId::parse(text).unwrap();
        for (commit, text) in [(1, "b"), (2, "a"), (2, "c")] {
            found.renamed(name(text));
            found.changed(commit, LogId(7));
            found.changed(commit, LogId(7));
        }
        found.postponed(LogId(1), None, Some(5));
        found.plan();
        found.renamed(name("b"));
        found.renamed(name("bb"));
        found.changed(3, LogId(8));
        found.postponed(LogId(1), Some(5), Some(4));
        found.postponed(LogId(2), None, Some(5));
        let names = |from| found.names(from).map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(Bound::Unbounded), ["a", "b", "bb", "c"]);
        assert_eq!(names(Bound::Excluded("b")), ["bb", "c"]);
        let changes: Vec<_> = found.changes(1).collect();
        assert_eq!(changes, [(2, LogId(7)), (3, LogId(8))]);
        let deadlines: Vec<_> = found.deadlines(None).copied().collect();
        assert_eq!(deadlines, [(4, LogId(1)), (5, LogId(2))]);
        assert_eq!(found.deadlines(Some((4, LogId(1)))).count(), 1);
        found.settled(2);
        assert_eq!(found.names(Bound::Unbounded).map(SessionId::as_str).collect::<Vec<_>>(), ["b", "bb"]);
        assert_eq!(found.changes(0).collect::<Vec<_>>(), [(3, LogId(8))]);
        assert_eq!(found.deadlines(None).count(), 2);
    }
}
