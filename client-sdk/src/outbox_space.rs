//! The outbox's bound: publishes wait here while it is full, first come, first served.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;

use crate::error::Closed;

/// Publishes that a memory outbox holds.
pub const OUTBOX_ENTRIES_MAX: u64 = 16_384;
/// Bytes that a memory outbox holds: four of the largest batches.
pub const OUTBOX_BYTES_MAX: u64 = 16 << 20;
/// Publishes that an outbox file holds; memory keeps about 200 bytes for each.
pub const OUTBOX_FILE_ENTRIES_MAX: u64 = 1 << 20;
/// Bytes that an outbox file holds: a day of an agent that writes 12 kB a second.
pub const OUTBOX_FILE_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug)]
pub(crate) struct OutboxSpace {
    entries: Semaphore,
    bytes: Semaphore,
    bytes_max: u64,
    /// What an opened file has above the limits, and must go before anything is freed.
    excess_entries: AtomicU64,
    excess_bytes: AtomicU64,
}

fn permits(count: u64) -> usize {
    usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS)
}

impl OutboxSpace {
    pub(crate) fn new(entries_max: u64, bytes_max: u64, entries: u64, bytes: u64) -> Self {
        Self {
            entries: Semaphore::new(permits(entries_max.saturating_sub(entries))),
            bytes: Semaphore::new(permits(bytes_max.saturating_sub(bytes))),
            bytes_max,
            excess_entries: AtomicU64::new(entries.saturating_sub(entries_max)),
            excess_bytes: AtomicU64::new(bytes.saturating_sub(bytes_max)),
        }
    }

    /// Waits until there is room for a publish of this size.
    pub(crate) async fn acquire(&self, bytes: u64) -> Result<TakenSpace<'_>, Closed> {
        // One that is larger than the whole outbox still goes through, alone.
        let bytes = bytes.min(self.bytes_max).min(u64::from(u32::MAX));
        let entry = self.entries.acquire().await.map_err(|_| Closed::ShutDown)?;
        let count = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.bytes.acquire_many(count).await.map_err(|_| Closed::ShutDown)?.forget();
        entry.forget();
        Ok(TakenSpace { space: self, bytes })
    }

    pub(crate) fn release(&self, bytes: u64) {
        release(&self.entries, &self.excess_entries, 1);
        release(&self.bytes, &self.excess_bytes, bytes);
    }

    pub(crate) fn close(&self) {
        self.entries.close();
        self.bytes.close();
    }
}

fn release(semaphore: &Semaphore, excess: &AtomicU64, count: u64) {
    let mut over = 0;
    let paid = |left: u64| {
        over = left.min(count);
        Some(left - over)
    };
    // The closure never declines, so this cannot fail.
    let _ = excess.fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid);
    semaphore.add_permits(permits(count - over));
}

/// Space that was taken for a publish that the driver does not have yet; given back when it never gets there.
#[derive(Debug)]
pub(crate) struct TakenSpace<'a> {
    space: &'a OutboxSpace,
    bytes: u64,
}

impl TakenSpace<'_> {
    /// The driver has the publish and gives the space back when it is settled.
    pub(crate) fn hand_over(self) -> u64 {
        let bytes = self.bytes;
        std::mem::forget(self);
        bytes
    }
}

impl Drop for TakenSpace<'_> {
    fn drop(&mut self) {
        self.space.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn take(space: &OutboxSpace, bytes: u64) -> Option<Result<u64, Closed>> {
        space.acquire(bytes).now_or_never().map(|taken| taken.map(TakenSpace::hand_over))
    }

    #[test]
    fn waits_when_full_and_honours_what_was_there() {
        let space = OutboxSpace::new(10, 100, 1, 150);
        assert!(take(&space, 10).is_none());
        space.release(60);
        assert_eq!(take(&space, 10), Some(Ok(10)));
        assert!(take(&space, 10).is_none());
        let space = OutboxSpace::new(1, 100, 0, 0);
        assert_eq!(take(&space, 1000), Some(Ok(100)));
        assert!(take(&space, 0).is_none());
        space.release(100);
        drop(space.acquire(1).now_or_never());
        assert_eq!(take(&space, 1), Some(Ok(1)), "what was not handed over is given back");
        space.close();
        assert_eq!(take(&space, 1), Some(Err(Closed::ShutDown)));
    }
}
