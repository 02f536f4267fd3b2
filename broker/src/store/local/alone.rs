//! Whoever queues something while nobody else does writes it to the journal itself. Handing it to the writer's thread, and being woken by
//! it, takes longer than some disks take for the write.
//!
//! That keeps one of the threads that serve waiting for the disk. So it is done only where another one can serve meanwhile, with a disk
//! that was quick the last time, and while the writer's thread watches: when a write takes longer than that, it wakes another one.

use std::sync::{Condvar, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::store::local::group::BLOCK_BYTES;
use crate::store::local::shared::Shared;
use crate::store::local::state::State;
use crate::store::local::writer::Writer;

/// Bytes of what somebody writes alone. More comes of many records, and the next ones can be read while they are written.
const BYTES_MAX: usize = BLOCK_BYTES;
/// A write that took longer is none to wait for: what the thread costs is little beside it.
const WRITE_MAX: Duration = Duration::from_micros(500);
/// Who comes sooner after a write has been waiting for it, and is not alone. An answer does not lead to the next request as fast.
const GAP_MIN: Duration = Duration::from_micros(20);
/// Groups of one that make up for one that had more, or for who came during a write.
const CROWD_GROUPS: u32 = 16;
/// How often the thread looks whether a write takes long.
const WATCH: Duration = Duration::from_millis(10);
/// Looks without a write after which it does not look any more: about a second.
const QUIET_LOOKS: u32 = 100;

/// The writer while nobody writes, and what is known of who is alone.
#[derive(Debug, Default)]
pub struct Alone {
    writer: Option<Box<Writer>>,
    /// The thread was told that there is something to do.
    is_called: bool,
    is_watched: bool,
    /// Groups of one until somebody may be alone.
    crowd: u32,
    /// Writes that did without the thread.
    writes: u64,
}

impl Alone {
    /// Nobody writes any more.
    pub fn lay_down(&mut self, writer: Box<Writer>) {
        self.writer = Some(writer);
    }

    /// The writer, when its thread is needed.
    pub fn take_needed(state: &mut State) -> Option<Box<Writer>> {
        let is_needed = state.alone.writer.as_ref().is_some_and(|writer| writer.is_needed(state));
        state.alone.is_called &= !is_needed;
        if is_needed { state.alone.writer.take() } else { None }
    }

    /// The writer, for who has just queued so many bytes and is alone.
    pub fn take(state: &mut State, bytes: usize) -> Option<Box<Writer>> {
        let (alone, queued) = (&mut state.alone, state.queue.len());
        // What somebody could not write is the thread's, and goes first.
        let free = alone.writer.as_ref().filter(|writer| queued == 1 && !writer.has_unwritten());
        let Some(writer) = free else {
            alone.crowd = CROWD_GROUPS;
            return None;
        };
        let (took, ended) = writer.last_write()?;
        if ended.elapsed() < GAP_MIN {
            alone.crowd = CROWD_GROUPS;
        }
        let may = alone.is_watched && alone.crowd == 0 && bytes <= BYTES_MAX && took <= WRITE_MAX;
        alone.writes += u64::from(may);
        if may { alone.writer.take() } else { None }
    }

    /// A group of so many was written.
    pub fn wrote(&mut self, items: usize) {
        self.crowd = if items > 1 { CROWD_GROUPS } else { self.crowd.saturating_sub(1) };
    }

    /// Tells the thread, unless it finds out by itself: whoever writes looks afterwards whether there is more.
    pub fn call(&mut self, work: &Condvar) {
        if self.writer.is_some() && !self.is_called {
            self.is_called = true;
            work.notify_one();
        }
    }

    /// Writes that did without the thread.
    #[cfg(test)]
    pub fn writes(&self) -> u64 {
        self.writes
    }
}

/// How the writer's thread waits: it sees to it that nobody else waits long for a write.
#[derive(Debug)]
pub struct Watch {
    /// Who serves meanwhile, if there is somebody.
    others: Option<Handle>,
    seen: u64,
    quiet: u32,
}

impl Watch {
    /// Over those who run this.
    #[must_use]
    pub fn here() -> Self {
        let others = Handle::try_current().ok().filter(|runtime| {
            runtime.runtime_flavor() == RuntimeFlavor::MultiThread && runtime.metrics().num_workers() > 1
        });
        Self { others, seen: 0, quiet: 0 }
    }

    /// There was something to write, so there may be more.
    pub fn begin(&mut self, state: &mut State) {
        state.alone.is_watched = self.others.is_some();
        (self.seen, self.quiet) = (state.alone.writes, 0);
    }

    /// Waits to be called.
    pub fn wait<'s>(&mut self, shared: &'s Shared, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        if !state.alone.is_watched {
            return shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let waited = shared.work.wait_timeout(state, WATCH);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if !waited.timed_out() {
            return state;
        }
        let has_written = state.alone.writes != self.seen;
        self.seen = state.alone.writes;
        self.quiet = if has_written { 0 } else { self.quiet + 1 };
        if let (None, false, Some(others)) = (&state.alone.writer, has_written, &self.others) {
            // A thread that has nothing to do waits for the sockets once it was woken, if nobody does.
            drop(others.spawn(async {}));
        } else if self.quiet >= QUIET_LOOKS {
            state.alone.is_watched = false;
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::time::sleep;

    use super::*;
    use crate::store::conformance::{Session, batch};
    use crate::store::local::tests::faulty_disk::{Faults, FaultyDisk, SALT};
    use crate::store::local::tests::manual;
    use crate::store::local::{LocalStore, opening};
    use crate::store::{Store, Version};

    /// Without threads, so that what the one of the writer does comes when it is told.
    #[tokio::test]
    async fn what_somebody_could_not_write_goes_before_what_comes_next() {
        let disk = FaultyDisk::new();
        let shared = opening::open(Arc::new(disk.clone()), None, SALT, manual()).unwrap();
        let store = LocalStore { shared: Arc::new(shared), threads: Arc::new(Mutex::new(None)) };
        let (a, b) = (Session::open(&store, "a").await, Session::open(&store, "b").await);
        let append = |session: &Session, version, base: u64| {
            let batch = batch(u128::from(base) + 1, base, &[&format!("record {base}")]);
            store.append(session.opened.log, session.opened.term, version, batch)
        };
        let mut writer = Box::new(Writer::new(Arc::clone(&store.shared)));
        let first = append(&a, a.version, 0);
        assert!(writer.step());
        let version: Version = first.await.unwrap();
        {
            let mut state = store.shared.state();
            state.alone.lay_down(writer);
            (state.alone.is_watched, state.alone.crowd) = (true, 0);
        }
        disk.set_faults(Faults { fail_sync: Some(("journal/", 0, 1)), room: None });
        sleep(2 * GAP_MIN).await;
        let failed = append(&a, version, 1);
        assert_eq!((disk.failures(), store.shared.state().alone.writes()), (1, 1));
        sleep(2 * GAP_MIN).await;
        let next = append(&b, b.version, 0);
        let mut writer = Alone::take_needed(&mut store.shared.state()).unwrap();
        assert_eq!(store.shared.state().alone.writes(), 1, "it is not alone");
        assert!(writer.step() && writer.step());
        failed.await.unwrap();
        next.await.unwrap();
        let recovered = disk.after_power_cut(|| false).store(manual());
        let read = async |name| Session::open(&recovered, name).await.read(&recovered).await;
        assert_eq!(read("a").await, ["record 0", "record 1"]);
        assert_eq!(read("b").await, ["record 0"]);
    }
}
