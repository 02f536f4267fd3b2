//! Whose turn it is: so many a second, a few at once, and nobody waits for long.

use std::time::Duration;

use tokio::time::Instant;

/// How far ahead of an even pace a crowd may be: few clients never wait, and a tenth of a second has little more than a
/// tenth of what a second may have.
const AHEAD: Duration = Duration::from_millis(20);
/// The longest wait. Who comes and goes all the time uses up turns, and must not keep others waiting for longer.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Who is later than this was kept by a busy machine, together with others, and takes another turn instead of making the
/// crowd that turns are to prevent.
const LATE_MAX: Duration = Duration::from_millis(20);

/// Whether a turn is to be taken again by who asked first at `asked`, and got to it at `now`.
pub(crate) fn is_missed(asked: Instant, turn: Instant, now: Instant) -> bool {
    now.saturating_duration_since(turn) > LATE_MAX && now.saturating_duration_since(asked) < WAIT_MAX
}

/// The turns.
#[derive(Debug)]
pub(crate) struct Turns {
    interval: Duration,
    next: Instant,
}

impl Turns {
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        Self { interval: Duration::from_secs(1) / per_second.max(1), next: now }
    }

    /// When it is the turn of who asks now.
    pub(crate) fn take(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(AHEAD).unwrap_or(now);
        let turn = self.next.clamp(earliest, now + WAIT_MAX);
        self.next = turn + self.interval;
        turn.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of those who come at `arrivals` have their turn in the fullest tenth of a second.
    fn fullest(per_second: u32, start: Instant, arrivals: impl Iterator<Item = Instant>) -> usize {
        let mut turns = Turns::new(per_second, start);
        let given: Vec<Instant> = arrivals.map(|now| turns.take(now)).collect();
        assert!(given.is_sorted());
        let within = |from: Instant| {
            given.iter().filter(|at| (from..from + Duration::from_millis(100)).contains(*at)).count()
        };
        given.iter().map(|at| within(*at)).max().unwrap()
    }

    #[test]
    fn a_crowd_is_spread_and_few_never_wait() {
        let start = Instant::now() + Duration::from_secs(1000);
        assert!(fullest(2000, start, (0..10_000).map(|_| start)) <= 500);
        let mut turns = Turns::new(2000, start);
        let later = start + Duration::from_secs(1);
        assert!((0..40).all(|_| turns.take(later) == later));
    }

    #[test]
    fn who_is_late_takes_another_turn_but_not_for_ever() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        assert!(!is_missed(start, after(100), after(115)));
        assert!(is_missed(start, after(100), after(150)));
        assert!(!is_missed(start, after(100), start + WAIT_MAX));
    }

    #[test]
    fn nobody_waits_for_long() {
        let start = Instant::now() + Duration::from_secs(1000);
        let mut turns = Turns::new(10, start);
        for _ in 0..1000 {
            assert!(turns.take(start) <= start + WAIT_MAX);
        }
    }
}
