//! How long to wait before the next try: exponential, with full jitter.

use std::time::Duration;

/// The first try waits at most this long: a broker that restarts is back within a second.
pub const BACKOFF_BASE: Duration = Duration::from_millis(100);
/// No try waits longer than this, as `docs/protocol.md` says to every client: what a human who fixed the network is willing to
/// wait; and 10,000 clients that wait for a broker are a thousand tries a second, which it bears.
pub const BACKOFF_CAP: Duration = Duration::from_secs(10);

/// Bounds of the waiting time between tries.
///
/// The n-th try waits a random time between nothing and `min(cap, base × 2ⁿ)`, so that many clients of one broker do
/// not return at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest wait before the first try.
    pub base: Duration,
    /// The longest wait before any try.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: BACKOFF_BASE, cap: BACKOFF_CAP }
    }
}

impl Backoff {
    /// The wait before try number `attempt` (from 0).
    pub(crate) fn delay(self, attempt: u32, jitter: &mut Jitter) -> Duration {
        let ceiling = self.base.saturating_mul(1u32 << attempt.min(20)).min(self.cap);
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(jitter.below(nanos.saturating_add(1)))
    }
}

/// A small seeded generator (splitmix64): the machine must give equal outputs for equal inputs.
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`; 0 when that is 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let wide = u128::from(z ^ (z >> 31)) * u128::from(limit);
        u64::try_from(wide >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_within_the_ceiling_and_vary() {
        let backoff = Backoff::default();
        let mut jitter = Jitter::new(7);
        for attempt in 0..64 {
            let ceiling = BACKOFF_BASE.saturating_mul(1 << attempt.min(20)).min(BACKOFF_CAP);
            assert!(backoff.delay(attempt, &mut jitter) <= ceiling);
        }
        let waits: std::collections::BTreeSet<_> = (0..100).map(|_| backoff.delay(9, &mut jitter)).collect();
        assert!(waits.len() > 90);
    }
}
