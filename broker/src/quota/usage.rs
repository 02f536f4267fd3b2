//! What somebody uses at the moment: counters that are taken from and given back to.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::quota::limits::ScopeLimits;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// Connections.
    Connections,
    /// Subscriptions.
    Subscriptions,
    /// Requests that wait for an answer.
    Requests,
    /// Bytes of the requests that wait for an answer.
    RequestBytes,
}

impl Counted {
    pub(super) const ALL: [Self; 4] =
        [Self::Connections, Self::Subscriptions, Self::Requests, Self::RequestBytes];

    /// What it is called in a message.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Subscriptions => "subscriptions",
            Self::Requests => "requests without an answer",
            Self::RequestBytes => "bytes of requests without an answer",
        }
    }

    /// How much of it a scope may use.
    pub(super) fn limit(self, limits: &ScopeLimits) -> u64 {
        let limit = match self {
            Self::Connections => limits.connections,
            Self::Subscriptions => limits.subscriptions,
            Self::Requests => limits.requests,
            Self::RequestBytes => limits.request_bytes,
        };
        limit.map_or(u64::MAX, u64::from)
    }
}

/// The counters of one connection, principal or tenant, or of everybody.
#[derive(Debug, Default)]
pub(super) struct Usage([AtomicU64; Counted::ALL.len()]);

impl Usage {
    /// Takes `amount`, unless that would pass the limit.
    pub(super) fn take(&self, counted: Counted, amount: u64, limit: u64) -> bool {
        let counter = &self.0[counted as usize];
        let taken = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(amount).filter(|sum| *sum <= limit)
        });
        taken.is_ok()
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&self, counted: Counted, amount: u64) {
        self.0[counted as usize].fetch_sub(amount, Ordering::Relaxed);
    }

    /// What is used.
    #[cfg(test)]
    pub(super) fn used(&self, counted: Counted) -> u64 {
        self.0[counted as usize].load(Ordering::Relaxed)
    }
}
