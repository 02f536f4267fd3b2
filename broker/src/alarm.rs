//! One timer for all that a task does at some time.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// See the top of this file. Times that move further away with every frame cost nothing: it looks when the earlier one has come.
pub(crate) struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    /// A timer for this time.
    pub(crate) fn new(at: Instant) -> Self {
        Self(Box::pin(sleep_until(at)))
    }

    /// Whether it is set for a time after this one: then it has to be told before it goes off.
    pub(crate) fn is_later_than(&self, at: Instant) -> bool {
        at < self.0.deadline()
    }

    /// Whether the time has come.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, at: Instant) -> Poll<()> {
        if self.is_later_than(at) {
            self.0.as_mut().reset(at);
        }
        loop {
            ready!(self.0.as_mut().poll(context));
            // What is due "now" is later with every look, and would never come.
            if self.0.deadline() >= at || at <= Instant::now() {
                return Poll::Ready(());
            }
            self.0.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_goes_off_at_the_last_time_that_it_was_told() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut alarm = Alarm::new(at(5));
        // Later, earlier, and later again than what it was set for.
        for seconds in [9, 3, 4] {
            let polled = poll_fn(|context| alarm.poll(context, at(seconds))).now_or_never();
            assert!(polled.is_none(), "{seconds}");
        }
        poll_fn(|context| alarm.poll(context, at(4))).await;
        assert_eq!(Instant::now(), at(4));
        poll_fn(|context| alarm.poll(context, at(6))).await;
        assert_eq!(Instant::now(), at(6));
        poll_fn(|context| alarm.poll(context, at(2))).await;
        assert_eq!(Instant::now(), at(6), "what is over is over");
    }

    #[tokio::test(start_paused = true)]
    async fn now_comes_though_it_is_later_at_every_look() {
        // Timers go off at whole milliseconds.
        tokio::time::advance(Duration::from_micros(500)).await;
        let mut alarm = Alarm::new(Instant::now() + Duration::from_secs(5));
        let mut looks = 0;
        while poll_fn(|context| alarm.poll(context, Instant::now())).now_or_never().is_none() {
            looks += 1;
            assert!(looks < 9, "it never comes");
            tokio::time::advance(Duration::from_millis(1)).await;
        }
    }
}
