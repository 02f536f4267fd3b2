//! Tests of the engine on the local disk.

mod agents;
mod alone;
mod backup;
mod beginning;
mod conform;
mod corruption;
mod faults;
pub(crate) mod faulty_disk;
mod fixture;
mod folder;
mod limits;
mod model;
mod rebuild;
mod recovery;
mod renaming;
mod resting;
mod restore;
mod sim;
mod trimming;
mod wiping;

use std::time::Duration;

use crate::store::local::shared::Tuning;

/// Small files, and nothing is settled unless a test asks for it.
pub(crate) fn manual() -> Tuning {
    Tuning {
        settle_age: Duration::from_secs(3600),
        settle_bytes: usize::MAX,
        segment_bytes: 64 << 10,
        spares_after: Duration::ZERO,
        ballast_bytes: 4096,
        cache_bytes: 1 << 20,
        ..Tuning::default()
    }
}

/// A random number generator whose sequence its seed fixes.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}
