//! The way of a session out of memory.

use std::time::Duration;

use tokio::time::Instant;

use crate::driver::inbox::Inbox;
use crate::driver::owner::{Ending, Owner};

/// Records behind the last snapshot with which a session still leaves memory without another one: reading so few takes about as long as
/// reading a snapshot's rows, and a snapshot each time would write more than the records of a session that is used now and then.
const REST_REPLAY_MAX: u64 = 16;
/// How long a session that does not exist stays in memory after somebody asked for it: long enough for a publish that creates it,
/// and too short for anybody to fill the directory with names.
const ABSENT_TIME: Duration = Duration::from_secs(1);

impl Owner {
    /// Goes on the way out of memory: first a snapshot, when one is worth it, then nobody is let in any more. Whether it waits for the
    /// snapshot.
    pub(super) fn rest(&mut self, inbox: &mut Inbox, snapshotted: &mut bool) -> bool {
        // Taken while requests are: whoever comes after the inbox is closed waits until the session has left.
        if !*snapshotted && self.take_snapshot() {
            *snapshotted = true;
            return true;
        }
        if self.tail.retire() {
            // What was sent before this is still received, then the end.
            inbox.close();
        }
        false
    }

    /// Tells the store that nobody uses the log any more.
    pub(in crate::driver) fn leave(&self) {
        self.store.release(self.loaded.log, self.loaded.term);
    }

    /// How long nobody asks for anything before the session leaves memory.
    pub(super) fn idle_time(&self) -> Duration {
        if self.loaded.exists { self.idle } else { self.idle.min(ABSENT_TIME) }
    }

    /// Whether it may leave memory: not while somebody holds a lease, since nobody would hear them.
    pub(super) fn may_rest(&self) -> bool {
        self.at_rest() && !self.loaded.machine.has_leases()
    }

    pub(super) fn at_rest(&self) -> bool {
        self.loaded.machine.is_idle()
            && self.append.is_none()
            && self.admission.is_none()
            && self.parked.is_none()
            && self.carried_out.is_none()
            && !matches!(self.ending, Some((Ending::Delete | Ending::Rename(_) | Ending::Begin(_), _)))
            && self.trimming.is_none()
            && self.waiting_trims.is_empty()
            && self.snapshots.is_empty()
    }

    /// Whether a visit has come to its end: everything is answered, nobody asks for more, and there is nothing that would be done in the
    /// idle time.
    pub(super) fn ends_visit(&mut self, inbox: &Inbox) -> bool {
        if !self.is_visit
            || !self.was_asked
            || !self.may_rest()
            || self.pruning.is_some()
            || !inbox.is_empty()
        {
            return false;
        }
        let now = Instant::now();
        let ends = self.due_at(now).is_none_or(|due_at| due_at >= now + self.idle);
        // It goes once: who stays because somebody reads it is like any other.
        self.is_visit = !ends;
        ends
    }

    /// Begins a snapshot before the session leaves memory, when loading it would take long without. Whether it did.
    pub(super) fn take_snapshot(&mut self) -> bool {
        let machine = &mut self.loaded.machine;
        if machine.state().end().saturating_sub(machine.snapshot_through()) <= REST_REPLAY_MAX {
            return false;
        }
        machine.request_snapshot();
        self.release();
        !self.snapshots.is_empty()
    }
}
