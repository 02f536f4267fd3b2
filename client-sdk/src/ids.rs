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

#[cfg(test)]
mod tests {
    use longwire_proto::short_id::is_short_id;

    use super::*;

    #[test]
    fn no_two_are_alike_and_all_can_name_a_record() {
        let (ours, theirs) = (Ids::new(u64::MAX), Ids::new(1));
        let mut minted = [ours.next(), ours.next(), theirs.next(), theirs.next()];
        assert!(minted.iter().all(|id| is_short_id(id.as_bytes())), "{minted:?}");
        minted.sort();
        assert!(minted.windows(2).all(|pair| pair[0] != pair[1]), "{minted:?}");
    }
}
