//! What happened to one session, as its clients saw it, in the order of one logical clock: material for the checker.

mod check;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) use check::Kind;
use check::Violation;

/// A moment of the test process. What began after something else had ended has a higher one; wall time plays no part.
pub(crate) type Moment = u64;
/// A value that is published once, or again only by its own writer as the same publish.
pub(crate) type Value = u64;

/// Violations that a failure shows; one cause often has thousands.
const SHOWN: usize = 20;

static MOMENTS: AtomicU64 = AtomicU64::new(0);
static VALUES: AtomicU64 = AtomicU64::new(0);

/// Now.
pub(crate) fn moment() -> Moment {
    MOMENTS.fetch_add(1, Ordering::SeqCst)
}

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Acknowledged from this offset on.
    Ok(u64),
    /// Refused for good: no value of it may ever be seen.
    Failed,
    /// Not known: its values are in the log, all of them once, or none is.
    Unknown,
}

/// A publish of values that are consecutive numbers.
#[derive(Clone, Debug)]
pub(crate) struct Publish {
    pub(crate) writer: Arc<str>,
    pub(crate) values: Range<Value>,
    pub(crate) began: Moment,
    pub(crate) ended: Moment,
    pub(crate) outcome: Outcome,
}

/// Who told where a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Describe,
    List,
    Page,
    Subscribed,
    /// The actual end that a refusal of a conditional publish names.
    Refusal,
}

/// The records of `[from, next)`, by offset.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub(crate) from: u64,
    pub(crate) next: u64,
    pub(crate) records: Vec<(u64, Value)>,
}

/// One answer about a session: where it ends, and perhaps a page of it.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    pub(crate) by: By,
    pub(crate) began: Moment,
    pub(crate) ended: Moment,
    pub(crate) end: u64,
    pub(crate) page: Option<Page>,
}

/// A reader that resumes where it was, across any number of connections.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(crate) name: String,
    pub(crate) from: u64,
    /// In the order of delivery.
    pub(crate) seen: Vec<(Moment, u64, Value)>,
    /// Whether it stayed until there was nothing more to see.
    pub(crate) stayed: bool,
}

/// Everything that happened to one session.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) publishes: Vec<Publish>,
    pub(crate) looks: Vec<Look>,
    pub(crate) readers: Vec<Reader>,
}

impl History {
    /// Every violation, against the final log: offset is the index.
    pub(crate) fn violations(&self, log: &[Value]) -> Vec<Violation> {
        check::violations(self, log)
    }
}

/// A publish that was begun.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    index: usize,
    /// The values to publish.
    pub(crate) values: Range<Value>,
}

/// A history that is being made by many tasks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Arc<Mutex<History>>);

impl Recorder {
    fn with<T>(&self, change: impl FnOnce(&mut History) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    /// Begins a publish of so many new values. To be called before anything is sent.
    pub(crate) fn publish(&self, writer: &Arc<str>, count: u64) -> Invocation {
        let first = VALUES.fetch_add(count, Ordering::SeqCst);
        let (writer, values) = (Arc::clone(writer), first..first + count);
        self.with(|history| {
            let publish = Publish {
                writer,
                values: values.clone(),
                began: moment(),
                ended: Moment::MAX,
                outcome: Outcome::Unknown,
            };
            history.publishes.push(publish);
            Invocation { index: history.publishes.len() - 1, values }
        })
    }

    /// It was acknowledged, or refused for good. To be called after the answer was received.
    pub(crate) fn ended(&self, invocation: &Invocation, outcome: Outcome) {
        self.with(|history| {
            let publish = &mut history.publishes[invocation.index];
            publish.outcome = outcome;
            publish.ended = moment();
        });
    }

    /// Somebody was told where the session ends; the question was asked after `began`.
    pub(crate) fn look(&self, by: By, began: Moment, end: u64, page: Option<Page>) {
        self.with(|history| history.looks.push(Look { by, began, ended: moment(), end, page }));
    }

    /// A reader begins at an offset.
    pub(crate) fn reader(&self, name: String, from: u64) -> usize {
        self.with(|history| {
            history.readers.push(Reader { name, from, seen: Vec::new(), stayed: false });
            history.readers.len() - 1
        })
    }

    /// It was delivered these.
    pub(crate) fn saw(&self, reader: usize, records: impl IntoIterator<Item = (u64, Value)>) {
        self.with(|history| {
            let now = moment();
            let seen = records.into_iter().map(|(offset, value)| (now, offset, value));
            history.readers[reader].seen.extend(seen);
        });
    }

    /// It stayed until there was nothing more.
    pub(crate) fn stayed(&self, reader: usize) {
        self.with(|history| history.readers[reader].stayed = true);
    }

    /// How often each outcome came, and how many answers and deliveries there were: a history without them shows nothing.
    pub(crate) fn sizes(&self) -> Sizes {
        self.with(|history| {
            let of = |outcome: fn(&Outcome) -> bool| {
                history.publishes.iter().filter(|publish| outcome(&publish.outcome)).count() as u64
            };
            Sizes {
                ok: of(|outcome| matches!(outcome, Outcome::Ok(_))),
                failed: of(|outcome| *outcome == Outcome::Failed),
                unknown: of(|outcome| *outcome == Outcome::Unknown),
                looks: history.looks.len() as u64,
                readers: history.readers.len() as u64,
            }
        })
    }

    /// Panics with the violations, if there are any.
    #[track_caller]
    pub(crate) fn check(&self, what: &str, log: &[Value]) {
        let found = self.with(|history| history.violations(log));
        let mut kinds: HashMap<Kind, usize> = HashMap::new();
        for violation in &found {
            *kinds.entry(violation.kind).or_default() += 1;
        }
        let shown: Vec<String> = found.iter().take(SHOWN).map(ToString::to_string).collect();
        assert!(found.is_empty(), "{what}: {kinds:?}\n{}", shown.join("\n"));
    }
}

/// See [`Recorder::sizes`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    pub(crate) unknown: u64,
    pub(crate) looks: u64,
    pub(crate) readers: u64,
}
