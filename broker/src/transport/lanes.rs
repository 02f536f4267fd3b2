//! The lanes of a link: what keeps a reader who does not read from holding up anybody else.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::Notify;

/// Bytes that the lanes of one connection hold together while there is room on any: sixteen of the largest deliveries that
/// nobody takes. Above that its readers wait for each other, as they do where there are no lanes.
pub const LANES_BYTES_MAX: usize = 4 << 20;

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
    async fn wait(&self) {
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

/// What a subscription has next, read while there is room for it and not before: each time anew, because what others have fed since
/// it was last asked may have taken the room.
pub struct WithRoom<S> {
    stream: S,
    room: Option<Arc<Room>>,
    waiting: Option<BoxFuture<'static, ()>>,
}

impl<S> WithRoom<S> {
    /// Without a room it is the stream as it is.
    pub fn new(stream: S, room: Option<Room>) -> Self {
        Self { stream, room: room.map(Arc::new), waiting: None }
    }
}

impl<S: Stream + Unpin> Stream for WithRoom<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let Self { stream, room, waiting } = self.get_mut();
        if let Some(room) = room {
            while waiting.is_some() || !room.is_there() {
                let room = Arc::clone(room);
                let wait = waiting.get_or_insert_with(|| async move { room.wait().await }.boxed());
                ready!(wait.as_mut().poll(context));
                *waiting = None;
            }
        }
        Pin::new(stream).poll_next(context)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream::{StreamExt, repeat};

    use super::*;

    #[tokio::test]
    async fn who_had_room_when_it_began_to_wait_looks_again() {
        let lanes = Lanes::default();
        let (tell, told) = tokio::sync::oneshot::channel();
        let stream = Box::pin(futures_util::stream::once(told));
        let mut gated = WithRoom::new(stream, Some(lanes.room(LaneId(1))));
        assert!(gated.next().now_or_never().is_none(), "there is room, and nothing to read");
        lanes.hold(LaneId(2), LANES_BYTES_MAX);
        tell.send(7).unwrap();
        assert!(gated.next().now_or_never().is_none(), "there is something to read, and no room");
        lanes.release(LaneId(2), 1);
        assert_eq!(gated.next().await, Some(Ok(7)));
        assert_eq!(WithRoom::new(repeat(1), None).next().await, Some(1));
    }

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
