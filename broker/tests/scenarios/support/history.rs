//! The history checker: what writers were told and what readers saw, against what the log has.

use std::collections::{BTreeMap, BTreeSet};

/// What became of a publish of one unique value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Acknowledged at this offset.
    Acknowledged(u64),
    /// Not known: it may be in the log, once.
    Unknown,
}

/// Everything that happened to one session.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// By writer, in the order of publishing: the value and what became of it.
    pub(crate) published: BTreeMap<String, Vec<(String, Outcome)>>,
    /// By reader: offset and value, in the order of delivery.
    pub(crate) read: BTreeMap<String, Vec<(u64, String)>>,
}

impl History {
    /// Every violation, against the final log: offset is the index.
    pub(crate) fn violations(&self, log: &[String]) -> Vec<String> {
        let mut found = Vec::new();
        let mut place = BTreeMap::new();
        for (offset, value) in (0u64..).zip(log) {
            if let Some(first) = place.insert(value.as_str(), offset) {
                found.push(format!("duplicate: {value} is at {first} and at {offset}"));
            }
        }
        let mut known = BTreeSet::new();
        for (writer, values) in &self.published {
            let mut last = None;
            for (value, outcome) in values {
                known.insert(value.as_str());
                let at = place.get(value.as_str()).copied();
                match (outcome, at) {
                    (Outcome::Acknowledged(offset), None) => {
                        found.push(format!("lost: {value} of {writer}, acknowledged at {offset}"));
                    }
                    (Outcome::Acknowledged(offset), Some(at)) if *offset != at => {
                        found.push(format!(
                            "inconsistent offset: {value} acknowledged at {offset} is at {at}"
                        ));
                    }
                    _ => {}
                }
                if let Some(at) = at {
                    if last.is_some_and(|last| at <= last) {
                        found.push(format!(
                            "inversion: {value} of {writer} is before an earlier publish of it"
                        ));
                    }
                    last = Some(at);
                }
            }
        }
        found.extend(
            log.iter().filter(|value| !known.contains(value.as_str())).map(|v| format!("phantom: {v}")),
        );
        for (reader, seen) in &self.read {
            for (index, (offset, value)) in seen.iter().enumerate() {
                if seen[0].0 + index as u64 != *offset {
                    found.push(format!("gap or repeat: {reader} saw {offset} as its {index}th record"));
                }
                if log.get(usize::try_from(*offset).unwrap()) != Some(value) {
                    found.push(format!("seen and gone: {reader} saw {value} at {offset}"));
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(values: &[&str]) -> Vec<String> {
        values.iter().map(ToString::to_string).collect()
    }

    fn check(published: &[(&str, Outcome)], read: &[(u64, &str)], values: &[&str]) -> String {
        let published = published.iter().map(|(value, outcome)| ((*value).to_owned(), *outcome)).collect();
        let read = read.iter().map(|(offset, value)| (*offset, (*value).to_owned())).collect();
        let history = History {
            published: [("w".to_owned(), published)].into(),
            read: [("r".to_owned(), read)].into(),
        };
        history.violations(&log(values)).join("; ")
    }

    #[test]
    fn the_checker_sees_each_kind_of_violation_and_nothing_else() {
        use Outcome::{Acknowledged as Ack, Unknown};
        assert_eq!(check(&[("a", Ack(0)), ("b", Unknown)], &[(0, "a")], &["a"]), "");
        assert_eq!(check(&[("a", Ack(0)), ("b", Unknown)], &[(0, "a"), (1, "b")], &["a", "b"]), "");
        assert!(check(&[("a", Ack(0))], &[], &[]).starts_with("lost"));
        assert!(check(&[("a", Ack(0))], &[], &["a", "a"]).starts_with("duplicate"));
        assert!(check(&[("a", Ack(1)), ("b", Unknown)], &[], &["a", "b"]).starts_with("inconsistent"));
        assert!(check(&[("a", Unknown), ("b", Unknown)], &[], &["b", "a"]).starts_with("inversion"));
        assert!(check(&[], &[], &["a"]).starts_with("phantom"));
        let both = [("a", Ack(0)), ("b", Ack(1))];
        assert!(check(&both, &[(1, "b"), (0, "a")], &["a", "b"]).starts_with("gap"));
        assert!(check(&both, &[(0, "a"), (0, "a")], &["a", "b"]).starts_with("gap"));
        assert!(check(&both, &[(0, "b")], &["a", "b"]).starts_with("seen and gone"));
    }
}
