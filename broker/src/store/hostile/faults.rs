//! Which faults the hostile engine has, and how often.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A delayed answer comes within this time: long enough for answers of other logs to overtake it, short enough for tests.
const DELAY_MAX: Duration = Duration::from_millis(4);

/// Each happens once in so many calls that can have it, by chance; 0 for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A write is carried out and its answer does not come.
    pub lost_answers: u64,
    /// A write does not arrive.
    pub lost_requests: u64,
    /// A batch is given up for lost, and carried out after that.
    pub late_appends: u64,
    /// Another owner has opened the log before the batch arrives.
    pub takeovers: u64,
    /// A read fails, and the next one does not.
    pub failed_reads: u64,
    /// A read returns less than it could.
    pub short_reads: u64,
    /// An answer takes its time.
    pub delays: u64,
    /// Nobody is told of a commit.
    pub lost_hints: u64,
    /// The store takes nothing for now.
    pub refusals: u64,
}

impl Faults {
    /// No fault: what is left are the manners.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// What an engine does to an owner that nobody competes with: everything but [`Faults::takeovers`] and
    /// [`Faults::refusals`].
    #[must_use]
    pub fn of_an_engine() -> Self {
        Self { failed_reads: 8, takeovers: 0, refusals: 0, ..Self::all() }
    }

    /// Everything, as often as clients that wait in between can stand. Of the answers to writes a fifth is lost, so that an
    /// owner who asks nine times does not hear anything once in three million writes.
    #[must_use]
    pub fn all() -> Self {
        Self {
            lost_answers: 12,
            lost_requests: 16,
            late_appends: 24,
            takeovers: 100,
            failed_reads: 200,
            short_reads: 2,
            delays: 4,
            lost_hints: 3,
            refusals: 200,
        }
    }
}

/// Chance, from a seed.
#[derive(Debug)]
pub(super) struct Dice(Mutex<u64>);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        // Zero is the one state that xorshift never leaves.
        Self(Mutex::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&self, bound: u64) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 16) % bound
    }

    /// Whether what happens once in `one_in` calls happens now.
    pub(super) fn happens(&self, one_in: u64) -> bool {
        one_in > 0 && self.below(one_in) == 0
    }

    /// How long an answer takes.
    pub(super) fn delay(&self) -> Duration {
        let micros = u64::try_from(DELAY_MAX.as_micros()).unwrap_or(1);
        Duration::from_micros(self.below(micros))
    }
}
