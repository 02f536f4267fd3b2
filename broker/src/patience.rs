//! How long an HTTP connection is waited for: it must ask for something soon, and go on asking.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// Counts the requests under way on one connection.
#[derive(Clone, Debug)]
pub(crate) struct Requests(watch::Sender<usize>);

/// A request under way.
#[derive(Debug)]
pub(crate) struct UnderWay(watch::Sender<usize>);

impl Requests {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    pub(crate) fn begin(&self) -> UnderWay {
        self.0.send_modify(|count| *count += 1);
        UnderWay(self.0.clone())
    }

    /// Whether none is under way.
    pub(crate) fn are_none(&self) -> bool {
        *self.0.borrow() == 0
    }

    /// Resolves when no request has begun within `first`, or when there was none for `later` after that.
    pub(crate) async fn cease(&self, first: Duration, later: Duration) {
        let mut changes = self.0.subscribe();
        let mut patience = first;
        loop {
            if *changes.borrow_and_update() == 0 {
                if timeout(patience, changes.changed()).await.is_err() {
                    return;
                }
                patience = later;
            } else {
                // The sender is here.
                drop(changes.changed().await);
            }
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const FIRST: Duration = Duration::from_secs(5);
    const LATER: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn silence_is_waited_for_shortly_and_pauses_longer() {
        let start = Instant::now();
        let requests = Requests::new();
        requests.cease(FIRST, LATER).await;
        assert_eq!(start.elapsed(), FIRST);
        let ceased = tokio::spawn({
            let requests = requests.clone();
            async move { requests.cease(FIRST, LATER).await }
        });
        tokio::task::yield_now().await;
        let under_way = requests.begin();
        tokio::time::sleep(LATER * 3).await;
        assert!(!ceased.is_finished(), "a request takes the time it takes");
        drop(under_way);
        let answered = Instant::now();
        ceased.await.unwrap();
        assert_eq!(answered.elapsed(), LATER);
    }
}
