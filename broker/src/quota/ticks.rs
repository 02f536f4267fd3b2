//! The clock of rates: the time since the broker started, or what a test says it is.

use std::time::Instant;

use governor::clock::Clock;
use governor::nanos::Nanos;

/// The clock.
#[derive(Clone, Debug)]
pub(super) enum Ticks {
    /// Monotonic time since a moment.
    Since(Instant),
    /// A time that goes on when it is told to.
    #[cfg(test)]
    Told(governor::clock::FakeRelativeClock),
}

impl Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        match self {
            Self::Since(start) => Nanos::from(start.elapsed()),
            #[cfg(test)]
            Self::Told(clock) => clock.now(),
        }
    }
}
