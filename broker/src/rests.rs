//! Subscriptions of one connection that rest: what they gather is delivered when their time has come. They have no timers: the
//! connection's own one wakes them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::time::Instant;

type Resting = BTreeMap<u64, (Instant, Waker)>;

/// See the top of this file. There is at most one entry for each place.
#[derive(Clone, Debug, Default)]
pub struct Rests(Arc<Mutex<Resting>>);

impl Rests {
    // Nothing panics while it is held; were that to change, an entry is there or not.
    fn resting(&self) -> MutexGuard<'_, Resting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of one subscription, which is its own for as long as it lives.
    #[must_use]
    pub fn place(&self, place: u64) -> Rest {
        Rest { rests: self.clone(), place }
    }

    /// When the first of them goes on.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.resting().values().map(|(at, _)| *at).min()
    }

    /// Wakes those whose time has come.
    pub fn wake(&self, now: Instant) {
        let due: Vec<_> = self.resting().extract_if(.., |_, (at, _)| *at <= now).collect();
        due.into_iter().for_each(|(_, (_, waker))| waker.wake());
    }
}

/// Where one subscription rests.
#[derive(Debug)]
pub struct Rest {
    rests: Rests,
    place: u64,
}

impl Rest {
    /// Is woken at this time, unless it says otherwise before.
    pub fn until(&self, at: Instant, waker: &Waker) {
        let former = self.rests.resting().insert(self.place, (at, waker.clone()));
        drop(former);
    }

    /// Is woken no more.
    pub fn end(&self) {
        let former = self.rests.resting().remove(&self.place);
        drop(former);
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.end();
    }
}
