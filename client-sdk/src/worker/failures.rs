//! Sessions in which something failed, and when each is tried again.

use std::collections::BTreeMap;
use std::time::Duration;

use longwire_proto::session_id::SessionId;
use tokio::time::Instant;

use crate::backoff::{Backoff, Jitter};

/// Waiting after a failure: it was most likely not the fault of the moment.
const RETRY: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(60) };
/// Sessions that fail at a time. When there are as many, what they need is missing: no other session is begun before one of them
/// has gone well.
const FAILURES_MAX: usize = 1024;

#[derive(Debug)]
struct Failing {
    /// How often in a row.
    times: u32,
    /// When it is tried again; `None` while it is.
    at: Option<Instant>,
}

/// See the top of this file.
#[derive(Debug)]
pub(crate) struct Failures {
    failing: BTreeMap<SessionId, Failing>,
    jitter: Jitter,
}

impl Failures {
    pub(crate) fn new(jitter: Jitter) -> Self {
        Self { failing: BTreeMap::new(), jitter }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.failing.len() >= FAILURES_MAX
    }

    /// Whether a session has failed, and not gone well since.
    pub(crate) fn has(&self, session: &SessionId) -> bool {
        self.failing.contains_key(session)
    }

    /// It failed, once more.
    pub(crate) fn add(&mut self, session: SessionId, now: Instant) {
        let failing = self.failing.entry(session).or_insert(Failing { times: 0, at: None });
        failing.at = Some(now + RETRY.delay(failing.times, &mut self.jitter));
        failing.times = failing.times.saturating_add(1);
    }

    /// It went well.
    pub(crate) fn remove(&mut self, session: &SessionId) {
        self.failing.remove(session);
    }

    /// When the next one is to be tried again.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.failing.values().filter_map(|failing| failing.at).min()
    }

    /// The next one, which is being tried from now on.
    pub(crate) fn take_next(&mut self) -> Option<SessionId> {
        let waiting = self.failing.iter_mut().filter(|(_, failing)| failing.at.is_some());
        let (session, failing) = waiting.min_by_key(|(_, failing)| failing.at)?;
        failing.at = None;
        Some(session.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_tried_again_in_its_time_once() {
        let id = |text: &str| SessionId::parse(text).unwrap();
        let (mut failures, now) = (Failures::new(Jitter::new(1)), Instant::now());
        for name in ["z", "a"] {
            failures.add(id(name), now);
        }
        let mut taken = Vec::new();
        while let Some(at) = failures.next_at() {
            assert!(at <= now + RETRY.base);
            taken.push((at, failures.take_next().unwrap()));
        }
        assert!(taken.is_sorted_by_key(|(at, _)| *at) && taken.len() == 2, "{taken:?}");
        assert!(failures.take_next().is_none() && failures.has(&id("a")), "they are being tried");
        failures.remove(&id("a"));
        failures.add(id("z"), now);
        assert!(!failures.has(&id("a")) && failures.next_at().unwrap() <= now + 2 * RETRY.base);
    }

    #[test]
    fn waiting_grows_to_its_longest_and_no_more_begin_than_have_room() {
        let (mut failures, now) = (Failures::new(Jitter::new(7)), Instant::now());
        let mut longest = Duration::ZERO;
        for _ in 0..200 {
            failures.add(SessionId::parse("a").unwrap(), now);
            longest = longest.max(failures.next_at().unwrap() - now);
        }
        assert!(longest > RETRY.cap / 2 && longest <= RETRY.cap, "{longest:?}");
        for number in 1..FAILURES_MAX {
            assert!(!failures.is_full());
            failures.add(SessionId::parse(&format!("a/{number}")).unwrap(), now);
        }
        assert!(failures.is_full());
    }
}
