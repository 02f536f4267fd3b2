//! Ids that the client gives to what it begins.

use std::sync::atomic::{AtomicU64, Ordering};

/// Ids that no other client gives: a random number of the client's own, and a count.
#[derive(Debug)]
pub(crate) struct Ids {
    base: u64,
    next: AtomicU64,
}

impl Ids {
    pub(crate) fn new(random: u64) -> Self {
        Self { base: random, next: AtomicU64::new(0) }
    }

    /// The random number that they begin with.
    pub(crate) fn random(&self) -> u64 {
        self.base
    }

    pub(crate) fn next(&self) -> String {
        format!("{:016x}-{}", self.base, self.next.fetch_add(1, Ordering::Relaxed))
    }
}
