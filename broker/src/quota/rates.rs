//! The rates of one scope.

use std::hash::Hash;
use std::time::Duration;

use crate::quota::limits::ScopeLimits;
use crate::quota::rate::{Rate, TooFast};
use crate::quota::ticks::Ticks;
use crate::quota::{BATCH_KIB, BATCH_RECORDS, Passing};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// The rates; what is absent is not limited.
#[derive(Debug)]
pub(super) struct Rates<K: Hash + Eq + Clone> {
    records: Option<Rate<K>>,
    kib: Option<Rate<K>>,
    sessions: Option<Rate<K>>,
}

/// Which rate was passed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    /// What was too much.
    pub(super) what: &'static str,
    /// How much of it may be.
    pub(super) limit: u64,
    /// When as much as was asked for is there.
    pub(super) wait: Duration,
}

fn refused(what: &'static str) -> impl Fn(TooFast) -> Refused {
    move |TooFast { per, wait }| Refused { what, limit: u64::from(per.get()), wait }
}

impl<K: Hash + Eq + Clone> Rates<K> {
    pub(super) fn new(limits: &ScopeLimits, ticks: &Ticks) -> Self {
        let rate = |per: Option<_>, time, burst| per.map(|per| Rate::new(per, time, burst, ticks.clone()));
        Self {
            records: rate(limits.publish_records_per_second, SECOND, BATCH_RECORDS),
            kib: rate(limits.publish_kib_per_second, SECOND, BATCH_KIB),
            sessions: rate(limits.sessions_per_minute, MINUTE, 1),
        }
    }

    pub(super) fn take(&self, key: &K, passing: Passing) -> Result<(), Refused> {
        let take = |rate: &Option<Rate<K>>, amount, what| match rate {
            Some(rate) => rate.take(key, amount).map_err(refused(what)),
            None => Ok(()),
        };
        match passing {
            Passing::Publish { records, bytes } => {
                take(&self.kib, bytes.div_ceil(1 << 10), "KiB of records a second")?;
                take(&self.records, records, "records a second")
            }
            Passing::Session => take(&self.sessions, 1, "new sessions a minute"),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Rate<K>> {
        [&self.records, &self.kib, &self.sessions].into_iter().flatten()
    }

    pub(super) fn forget_idle(&self) {
        self.all().for_each(Rate::forget_idle);
    }

    /// The most keys that one of the rates knows.
    pub(super) fn keys(&self) -> usize {
        self.all().map(Rate::keys).max().unwrap_or(0)
    }
}
