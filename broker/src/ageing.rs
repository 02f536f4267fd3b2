//! Whether the clock is to be trusted with what only time decides: a jump of it must not make things old.

use std::time::Duration;

use tokio::time::Instant;

/// A difference between two looks at the wall clock, across a restart, above which it is not trusted.
pub const JUMP_MS: u64 = 24 * 60 * 60 * 1000;
/// How long nothing grows old after such a jump, unless somebody says that the clock is right.
pub const SUSPENDED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether records and sessions may expire by age.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ageing {
    suspended_until: Option<Instant>,
}

impl Ageing {
    /// What follows from the time that the broker knew last, and from the time now, in Unix milliseconds.
    #[must_use]
    pub fn after(known_ms: Option<u64>, now_ms: u64) -> Self {
        let jumped = known_ms.is_some_and(|known_ms| known_ms.abs_diff(now_ms) > JUMP_MS);
        if jumped { Self::suspended() } else { Self::default() }
    }

    /// Suspended from now on, because nothing is known of the time before.
    #[must_use]
    pub fn suspended() -> Self {
        Self { suspended_until: Some(Instant::now() + SUSPENDED_FOR) }
    }

    /// Whether it is suspended.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspended_until.is_some_and(|until| Instant::now() < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_jump_in_either_direction_suspends_for_a_day_of_uptime() {
        let year_ms = 365 * JUMP_MS;
        for (known, now) in [(10 * year_ms, 20 * year_ms), (20 * year_ms, 10 * year_ms)] {
            let ageing = Ageing::after(Some(known), now);
            assert!(ageing.is_suspended());
            tokio::time::advance(SUSPENDED_FOR).await;
            assert!(!ageing.is_suspended());
        }
        assert!(!Ageing::after(Some(5), 5 + JUMP_MS).is_suspended());
        assert!(!Ageing::after(None, 5).is_suspended());
    }
}
