//! How often something may happen: a bucket for each key, which fills again with time (GCRA, by `governor`).

use std::hash::Hash;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::quota::ticks::Ticks;

/// The shortest wait that is asked for: less is not worth a timer.
const WAIT_MIN: Duration = Duration::from_millis(1);

type Buckets<K> = RateLimiter<K, DashMapStateStore<K>, Ticks, NoOpMiddleware<Nanos>>;

/// The buckets of one rate.
#[derive(Debug)]
pub(super) struct Rate<K: Hash + Eq + Clone> {
    buckets: Buckets<K>,
    ticks: Ticks,
    per: NonZeroU32,
    burst: NonZeroU32,
}

/// More than a rate allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooFast {
    /// The rate.
    pub(super) per: NonZeroU32,
    /// When as much as was asked for is there.
    pub(super) wait: Duration,
}

impl<K: Hash + Eq + Clone> Rate<K> {
    /// A rate of `per` in `time`. A bucket holds that much, or `burst_min` when that is more: the largest thing that can be
    /// asked for at once must not be impossible for ever.
    pub(super) fn new(per: NonZeroU32, time: Duration, burst_min: u32, ticks: Ticks) -> Self {
        let burst = per.max(NonZeroU32::new(burst_min).unwrap_or(NonZeroU32::MIN));
        // A rate above one a nanosecond is one a nanosecond.
        let interval = (time / per.get()).max(Duration::from_nanos(1));
        let quota = Quota::with_period(interval).unwrap_or(Quota::per_second(per)).allow_burst(burst);
        let buckets = RateLimiter::new(quota, DashMapStateStore::default(), ticks.clone());
        Self { buckets, ticks, per, burst }
    }

    /// Takes `amount` out of the bucket of a key.
    pub(super) fn take(&self, key: &K, amount: u64) -> Result<(), TooFast> {
        // What is more than a bucket holds takes all of it.
        let amount = u32::try_from(amount).unwrap_or(u32::MAX).min(self.burst.get());
        let Some(amount) = NonZeroU32::new(amount) else { return Ok(()) };
        match self.buckets.check_key_n(key, amount) {
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(not_until)) => {
                let wait = not_until.wait_time_from(governor::clock::Clock::now(&self.ticks)).max(WAIT_MIN);
                Err(TooFast { per: self.per, wait })
            }
        }
    }

    /// Forgets the keys whose bucket is full again: they are as if they had never been.
    pub(super) fn forget_idle(&self) {
        self.buckets.retain_recent();
        self.buckets.shrink_to_fit();
    }

    /// How many keys are known.
    pub(super) fn keys(&self) -> usize {
        self.buckets.len()
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn rate(per: u32, burst_min: u32) -> (Rate<u8>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let ticks = Ticks::Told(clock.clone());
        (Rate::new(NonZeroU32::new(per).unwrap(), Duration::from_secs(1), burst_min, ticks), clock)
    }

    #[test]
    fn a_bucket_empties_fills_again_and_says_when() {
        let (rate, clock) = rate(10, 1);
        assert_eq!(rate.take(&1, 10), Ok(()));
        let refused = rate.take(&1, 2).unwrap_err();
        assert_eq!((refused.per.get(), refused.wait), (10, Duration::from_millis(200)));
        assert_eq!(rate.take(&2, 10), Ok(()), "another key has a bucket of its own");
        clock.advance(refused.wait);
        assert_eq!(rate.take(&1, 2), Ok(()));
        assert!(rate.take(&1, 1).is_err());
    }

    #[test]
    fn the_largest_thing_is_possible_at_the_lowest_rate() {
        let (rate, clock) = rate(1, 1024);
        assert_eq!(rate.take(&1, 1024), Ok(()));
        let refused = rate.take(&1, 1024).unwrap_err();
        clock.advance(refused.wait);
        assert_eq!(rate.take(&1, 1024), Ok(()));
        clock.advance(Duration::from_secs(1024));
        assert_eq!(rate.take(&1, u64::MAX), Ok(()), "as much as there can be");
        assert_eq!(rate.take(&1, 0), Ok(()));
    }

    #[test]
    fn idle_keys_are_forgotten_and_only_they() {
        let (rate, clock) = rate(10, 1);
        for key in 0..100 {
            rate.take(&key, 10).unwrap();
        }
        clock.advance(Duration::from_secs(2));
        rate.take(&7, 10).unwrap();
        rate.forget_idle();
        assert_eq!(rate.keys(), 1);
        assert!(rate.take(&7, 1).is_err(), "what is known is still known");
    }

    #[test]
    fn the_highest_rate_is_one() {
        let (rate, _) = rate(u32::MAX, 1);
        assert_eq!(rate.take(&1, 1), Ok(()));
    }
}
