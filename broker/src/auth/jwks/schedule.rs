//! When the keys of one issuer are fetched, and how long those are good that were.

use std::time::Duration;

use tokio::time::Instant;

/// The first try after one that failed; each later one waits for twice as long.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest wait after a failure, unless keys are fetched more often than that anyway.
const RETRY_LAST: Duration = Duration::from_secs(5 * 60);
/// However short an answer says that it is good: one request this often is enough.
const FRESH_MIN: Duration = Duration::from_secs(30);

/// See the top of this file.
#[derive(Debug)]
pub(super) struct Schedule {
    refresh: Duration,
    keep: Duration,
    due: Instant,
    under_way: bool,
    failures: u32,
    /// When the keys that are in use were fetched.
    fetched: Option<Instant>,
}

impl Schedule {
    /// Fetches at once, then after each `refresh`; keys that cannot be fetched again are good for `keep`.
    pub(super) fn new(refresh: Duration, keep: Duration, now: Instant) -> Self {
        Self { refresh, keep, due: now, under_way: false, failures: 0, fetched: None }
    }

    /// Whether to fetch now. When it is, that is under way until it succeeded or failed.
    pub(super) fn begin(&mut self, now: Instant) -> bool {
        let begins = !self.under_way && self.due <= now;
        self.under_way |= begins;
        begins
    }

    /// The keys were fetched, and are said to be good for so long. It shortens the time to the next request, and never
    /// prolongs it: a key that an issuer gives up must not stay.
    pub(super) fn succeeded(&mut self, max_age: Option<Duration>, now: Instant) {
        let fresh = max_age.map_or(self.refresh, |age| age.max(FRESH_MIN).min(self.refresh));
        (self.under_way, self.failures) = (false, 0);
        (self.due, self.fetched) = (now + fresh, Some(now));
    }

    /// The keys could not be fetched.
    pub(super) fn failed(&mut self, now: Instant) {
        let wait = RETRY_FIRST.saturating_mul(1 << self.failures.min(16));
        (self.under_way, self.failures) = (false, self.failures.saturating_add(1));
        self.due = now + wait.min(RETRY_LAST).min(self.refresh);
    }

    /// Somebody has a token of a key that nobody knows: fetches earlier.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.failures == 0 {
            self.due = self.due.min(now);
        }
    }

    /// Whether the keys in use are too old. They are told so once.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let expired = self.fetched.is_some_and(|fetched| now >= fetched + self.keep);
        if expired {
            self.fetched = None;
        }
        expired
    }

    /// When something is to be done next.
    pub(super) fn next(&self) -> Option<Instant> {
        let due = (!self.under_way).then_some(self.due);
        let expires = self.fetched.map(|fetched| fetched + self.keep);
        due.into_iter().chain(expires).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(60 * 60);

    #[tokio::test(start_paused = true)]
    async fn an_answer_shortens_the_time_to_the_next_within_bounds() {
        let start = Instant::now();
        for (said, waits) in [
            (None, 10 * MINUTE),
            (Some(MINUTE), MINUTE),
            (Some(Duration::ZERO), FRESH_MIN),
            (Some(1000 * HOUR), 10 * MINUTE),
        ] {
            let mut schedule = Schedule::new(10 * MINUTE, HOUR, start);
            assert!(schedule.begin(start) && !schedule.begin(start));
            schedule.succeeded(said, start);
            assert_eq!(schedule.next(), Some(start + waits), "{said:?}");
            assert!(!schedule.begin(start + waits - Duration::from_millis(1)));
            assert!(schedule.begin(start + waits));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_tried_again_more_and_more_slowly_and_keys_do_not_stay_for_ever() {
        let start = Instant::now();
        let mut schedule = Schedule::new(10 * MINUTE, HOUR, start);
        assert!(schedule.begin(start));
        schedule.succeeded(None, start);
        let (mut now, mut waits) = (start + 10 * MINUTE, Vec::new());
        for _ in 0..11 {
            assert!(schedule.begin(now));
            schedule.failed(now);
            let next = schedule.due;
            waits.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        // Whoever makes up keys does not get past that.
        schedule.hurry(now - Duration::from_secs(1));
        assert!(!schedule.begin(now - Duration::from_secs(1)));
        assert!(!schedule.expire(start + HOUR - Duration::from_millis(1)));
        assert!(schedule.expire(start + HOUR) && !schedule.expire(start + HOUR));
        assert!(schedule.begin(start + HOUR));
        schedule.succeeded(None, start + HOUR);
        assert!(!schedule.expire(start + HOUR));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hurry_is_no_second_request() {
        let start = Instant::now();
        let mut schedule = Schedule::new(10 * MINUTE, HOUR, start);
        assert!(schedule.begin(start));
        schedule.hurry(start);
        assert!(!schedule.begin(start));
        schedule.succeeded(None, start);
        assert!(!schedule.begin(start + MINUTE));
        schedule.hurry(start + MINUTE);
        assert!(schedule.begin(start + MINUTE));
    }
}
