//! The lanes of a link: what keeps a reader who does not read from holding up anybody else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Bytes that the lanes of one connection hold together while there is room on any: sixty-four of the largest deliveries that
/// nobody takes. Above that its readers wait for each other, as they do where there are no lanes.
const LANES_BYTES_MAX: usize = 16 << 20;

/// One registration of a subscription: a later one replaces an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaneId(pub u64);

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// That of everything that is not a subscription's own.
    Control,
    /// That of one registration.
    Subscription(LaneId),
}

/// What the lanes of one connection hold.
#[derive(Clone, Debug, Default)]
pub struct Lanes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    held: AtomicUsize,
    fell: Notify,
    fills: Mutex<HashMap<LaneId, Arc<Fill>>>,
}

#[derive(Debug, Default)]
struct Fill {
    held: AtomicUsize,
    emptied: Notify,
}

impl Lanes {
    // Nothing panics while it holds the lock.
    fn fills(&self) -> MutexGuard<'_, HashMap<LaneId, Arc<Fill>>> {
        self.0.fills.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self, lane: LaneId) -> Arc<Fill> {
        Arc::clone(self.fills().entry(lane).or_default())
    }

    /// Who waits for room on the lane.
    #[must_use]
    pub fn room(&self, lane: LaneId) -> Room {
        Room { lanes: self.clone(), fill: self.fill(lane) }
    }

    /// The lane holds more.
    pub(super) fn hold(&self, lane: LaneId, bytes: usize) {
        self.fill(lane).held.fetch_add(bytes, Ordering::Relaxed);
        self.0.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The lane holds less.
    pub(super) fn release(&self, lane: LaneId, bytes: usize) {
        self.less(&self.fill(lane), bytes);
    }

    /// There is no such lane any more.
    pub(super) fn remove(&self, lane: LaneId) {
        let removed = self.fills().remove(&lane);
        if let Some(fill) = removed {
            let held = fill.held.load(Ordering::Relaxed);
            self.less(&fill, held);
        }
    }

    fn less(&self, fill: &Fill, bytes: usize) {
        if fill.held.fetch_sub(bytes, Ordering::Relaxed) == bytes {
            fill.emptied.notify_waiters();
        }
        let held = self.0.held.fetch_sub(bytes, Ordering::Relaxed);
        if held >= LANES_BYTES_MAX && held - bytes < LANES_BYTES_MAX {
            self.0.fell.notify_waiters();
        }
    }
}

/// The room on one lane.
#[derive(Debug)]
pub struct Room {
    lanes: Lanes,
    fill: Arc<Fill>,
}

impl Room {
    fn is_there(&self) -> bool {
        self.fill.held.load(Ordering::Relaxed) == 0
            && self.lanes.0.held.load(Ordering::Relaxed) < LANES_BYTES_MAX
    }

    /// Waits until one more frame may be fed.
    pub async fn wait(&self) {
        while !self.is_there() {
            // Both listen from here on, so that nothing that changes after the second look is missed.
            let (emptied, fell) = (self.fill.emptied.notified(), self.lanes.0.fell.notified());
            if self.is_there() {
                return;
            }
            tokio::select! {
                () = emptied => {}
                () = fell => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_full_lane_holds_up_itself_alone_until_all_together_hold_too_much() {
        let lanes = Lanes::default();
        let (full, other) = (lanes.room(LaneId(1)), lanes.room(LaneId(2)));
        lanes.hold(LaneId(1), LANES_BYTES_MAX - 1);
        assert!(full.wait().now_or_never().is_none());
        other.wait().await;
        lanes.hold(LaneId(3), 1);
        let mut waiting = Box::pin(other.wait());
        assert!((&mut waiting).now_or_never().is_none());
        lanes.release(LaneId(3), 1);
        waiting.await;
        let mut waiting = Box::pin(full.wait());
        assert!((&mut waiting).now_or_never().is_none());
        lanes.release(LaneId(1), 1);
        assert!((&mut waiting).now_or_never().is_none());
        lanes.release(LaneId(1), LANES_BYTES_MAX - 2);
        waiting.await;
    }

    #[tokio::test]
    async fn what_a_lane_held_leaves_with_it() {
        let lanes = Lanes::default();
        lanes.hold(LaneId(1), LANES_BYTES_MAX);
        let room = lanes.room(LaneId(2));
        assert!(room.wait().now_or_never().is_none());
        lanes.remove(LaneId(1));
        room.wait().await;
    }
}
