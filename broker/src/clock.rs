//! Wall time that never jumps: the wall clock once, monotonic time after that.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Tells record times.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    started_ms: u64,
}

impl Clock {
    /// A clock that starts at the wall clock's time.
    #[must_use]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::start_at(u64::try_from(wall.as_millis()).unwrap_or(0))
    }

    /// A clock that starts at a time in Unix milliseconds.
    #[must_use]
    pub fn start_at(started_ms: u64) -> Self {
        Self { started: Instant::now(), started_ms }
    }

    /// Unix milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.at_ms(Instant::now())
    }

    /// The Unix milliseconds of a moment, for who has looked at the time already.
    #[must_use]
    pub fn at_ms(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.started);
        self.started_ms + u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX >> 1)
    }
}
