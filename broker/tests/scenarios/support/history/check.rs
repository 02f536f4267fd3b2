//! The checker: every violation of a history, in time that grows with its length (times its logarithm, for sorting).

use std::collections::HashMap;
use std::fmt;

use crate::support::history::{History, Moment, Outcome, Publish, Value};

/// What can be wrong with a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// Acknowledged and not in the log.
    Lost,
    /// In the log twice.
    Duplicate,
    /// Two observations of one offset or of one value differ: acknowledgement, log, delivery or page.
    InconsistentOffset,
    /// Refused for good, and in the log or seen by anyone.
    AbortedRead,
    /// A reader or a page was given a gap, a repeat or another order.
    Gap,
    /// Nobody published it.
    Phantom,
    /// A value or an end was shown to somebody, and is not there.
    SeenAndGone,
    /// A publish that began after something was known to be in the log is before it.
    RealTimeOrder,
    /// Two publishes of one writer are in the log in another order.
    WriterOrder,
    /// An answer to a question that was asked after an acknowledgement does not include what was acknowledged.
    StaleRead,
    /// A reader that stayed to the end did not see a record.
    Unseen,
    /// A publish of several values is in the log in part, or with something in between.
    Torn,
}

/// One violation.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) kind: Kind,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)
    }
}

struct Check<'h> {
    history: &'h History,
    log: &'h [Value],
    /// Where each value of the log is first.
    places: HashMap<Value, u64>,
    publishes: HashMap<Value, &'h Publish>,
    found: Vec<Violation>,
}

pub(crate) fn violations(history: &History, log: &[Value]) -> Vec<Violation> {
    let mut publishes = HashMap::new();
    for publish in &history.publishes {
        publishes.extend(publish.values.clone().map(|value| (value, publish)));
    }
    let mut check = Check { history, log, places: HashMap::new(), publishes, found: Vec::new() };
    check.log_itself();
    check.outcomes();
    check.writer_order();
    check.observations();
    check.readers();
    check.pages();
    check.real_time_order();
    check.stale_reads();
    check.found
}

impl Check<'_> {
    fn violated(&mut self, kind: Kind, what: String) {
        self.found.push(Violation { kind, what });
    }

    fn end(&self) -> u64 {
        self.log.len() as u64
    }

    fn outcome(&self, value: Value) -> Option<Outcome> {
        self.publishes.get(&value).map(|publish| publish.outcome)
    }

    fn log_itself(&mut self) {
        for (offset, &value) in (0..).zip(self.log) {
            if let Some(first) = self.places.get(&value).copied() {
                self.violated(Kind::Duplicate, format!("{value} is at {first} and at {offset}"));
                continue;
            }
            self.places.insert(value, offset);
            match self.outcome(value) {
                None => self.violated(Kind::Phantom, format!("{value} is at {offset}")),
                Some(Outcome::Failed) => {
                    self.violated(Kind::AbortedRead, format!("{value} was refused and is at {offset}"));
                }
                Some(Outcome::Ok(_) | Outcome::Unknown) => {}
            }
        }
    }

    fn outcomes(&mut self) {
        for publish in &self.history.publishes {
            let Publish { writer, values, outcome, .. } = publish;
            match *outcome {
                Outcome::Ok(from) => {
                    for (offset, value) in (from..).zip(values.clone()) {
                        let told = format!("{value} of {writer}, acknowledged at {offset}");
                        match self.places.get(&value) {
                            None => self.violated(Kind::Lost, told),
                            Some(at) if *at != offset => {
                                let what = format!("{told}, is at {at}");
                                self.violated(Kind::InconsistentOffset, what);
                            }
                            Some(_) => {}
                        }
                    }
                }
                Outcome::Unknown => {
                    let first = self.places.get(&values.start).copied();
                    let whole = (0..).zip(values.clone()).all(|(index, value)| {
                        self.places.get(&value).copied() == first.map(|first| first + index)
                    });
                    if !whole {
                        self.violated(Kind::Torn, format!("{values:?} of {writer} is there in part"));
                    }
                }
                Outcome::Failed => {}
            }
        }
    }

    fn writer_order(&mut self) {
        let mut in_log: Vec<(Moment, u64, &Publish)> = Vec::new();
        for publish in &self.history.publishes {
            let place = self.places.get(&publish.values.start);
            in_log.extend(place.map(|place| (publish.began, *place, publish)));
        }
        in_log.sort_unstable_by_key(|(began, ..)| *began);
        let mut last: HashMap<&str, u64> = HashMap::new();
        for (_, place, Publish { writer, values, .. }) in in_log {
            if let Some(before) = last.insert(writer, place).filter(|before| *before > place) {
                let what = format!("{} of {writer} is at {place}, an earlier one at {before}", values.start);
                self.violated(Kind::WriterOrder, what);
            }
        }
    }

    /// Every record that anybody was shown.
    fn observations(&mut self) {
        let history = self.history;
        for reader in &history.readers {
            for (_, offset, value) in &reader.seen {
                self.observation(&reader.name, *offset, *value);
            }
        }
        for look in &history.looks {
            for (offset, value) in look.page.iter().flat_map(|page| &page.records) {
                self.observation("a page", *offset, *value);
            }
            if look.end > self.end() {
                let what = format!("{:?} told the end {} and the log has {}", look.by, look.end, self.end());
                self.violated(Kind::SeenAndGone, what);
            }
        }
    }

    fn observation(&mut self, who: &str, offset: u64, value: Value) {
        let seen = format!("{who} saw {value} at {offset}");
        match (self.outcome(value), self.places.get(&value)) {
            (None, _) => self.violated(Kind::Phantom, seen),
            (Some(Outcome::Failed), _) => self.violated(Kind::AbortedRead, seen),
            (Some(_), None) => self.violated(Kind::SeenAndGone, seen),
            (Some(_), Some(at)) if *at != offset => {
                let what = format!("{seen}, it is at {at}");
                self.violated(Kind::InconsistentOffset, what);
            }
            (Some(_), Some(_)) => {}
        }
    }

    fn readers(&mut self) {
        for reader in &self.history.readers {
            let mut next = reader.from;
            for (_, offset, _) in &reader.seen {
                if *offset != next {
                    let what = format!("{} was given {offset} when {next} was due", reader.name);
                    self.violated(Kind::Gap, what);
                }
                next = offset + 1;
            }
            if reader.stayed && next < self.end() {
                let what = format!("{} saw nothing from {next} to {}", reader.name, self.end());
                self.violated(Kind::Unseen, what);
            }
        }
    }

    fn pages(&mut self) {
        for look in &self.history.looks {
            let Some(page) = &look.page else { continue };
            let covered = page.records.iter().map(|(offset, _)| *offset).eq(page.from..page.next);
            if !covered || page.next > look.end {
                let given: Vec<u64> = page.records.iter().map(|(offset, _)| *offset).collect();
                let what = format!("a page of {}..{} has {given:?}", page.from, page.next);
                self.violated(Kind::Gap, what);
            }
        }
    }

    /// What the log was known to reach, and since when: in the order of time, never falling.
    fn known(&self, acknowledged_only: bool) -> Vec<(Moment, u64)> {
        let mut known: Vec<(Moment, u64)> = Vec::new();
        for publish in &self.history.publishes {
            if let Outcome::Ok(from) = publish.outcome {
                known.push((publish.ended, from + (publish.values.end - publish.values.start)));
            }
        }
        if !acknowledged_only {
            for reader in &self.history.readers {
                known.extend(reader.seen.iter().map(|(at, offset, _)| (*at, offset + 1)));
            }
            known.extend(self.history.looks.iter().map(|look| (look.ended, look.end)));
        }
        known.sort_unstable();
        let mut reached = 0;
        for (_, end) in &mut known {
            reached = reached.max(*end);
            *end = reached;
        }
        known
    }

    fn real_time_order(&mut self) {
        let known = self.known(false);
        for publish in &self.history.publishes {
            let Some(place) = self.places.get(&publish.values.start).copied() else { continue };
            let reached = reached_before(&known, publish.began);
            if place < reached {
                let Publish { writer, values, .. } = publish;
                let what = format!(
                    "{} of {writer} is at {place}, and began after {reached} records were known",
                    values.start
                );
                self.violated(Kind::RealTimeOrder, what);
            }
        }
    }

    fn stale_reads(&mut self) {
        // Acknowledgements alone: a list may show what is durable a moment before the session's owner takes note of it.
        let acknowledged = self.known(true);
        for look in &self.history.looks {
            let reached = reached_before(&acknowledged, look.began);
            if look.end < reached {
                let by = look.by;
                let what = format!("{by:?} told the end {} after {reached} was acknowledged", look.end);
                self.violated(Kind::StaleRead, what);
            }
        }
    }
}

fn reached_before(known: &[(Moment, u64)], moment: Moment) -> u64 {
    let before = known.partition_point(|(at, _)| *at < moment);
    before.checked_sub(1).map_or(0, |last| known[last].1)
}
