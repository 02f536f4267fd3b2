//! The pulse of a connection: when something came from it last. It renews the leases that were claimed on the connection, without any of their
//! sessions being asked.

use std::sync::atomic::{AtomicU64, Ordering};

/// See the top of this file.
#[derive(Debug)]
pub struct Pulse(AtomicU64);

impl Pulse {
    /// The pulse of a connection that something has come from at this time, in Unix milliseconds.
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Self(AtomicU64::new(now_ms))
    }

    /// Something has come. Nothing else is read by it, so no order is needed.
    pub fn beat(&self, now_ms: u64) {
        self.0.store(now_ms, Ordering::Relaxed);
    }

    /// When something came last, in Unix milliseconds.
    #[must_use]
    pub fn last_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
