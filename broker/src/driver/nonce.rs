//! Numbers that no other owner of a log has, in this life of the broker or another one: terms alone begin again with the process.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the top of this file. Randomness is asked for once: what follows is counted from there.
#[derive(Debug, Default)]
pub struct Nonces {
    first: OnceLock<u64>,
    given: AtomicU64,
}

impl Nonces {
    /// The next one.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn next(&self) -> Result<u64, getrandom::Error> {
        let first = match self.first.get() {
            Some(first) => *first,
            None => {
                let random = getrandom::u64()?;
                *self.first.get_or_init(|| random)
            }
        };
        Ok(first.wrapping_add(self.given.fetch_add(1, Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn none_is_given_twice_and_each_life_begins_elsewhere() {
        let (one, other) = (Nonces::default(), Nonces::default());
        let given: HashSet<u64> =
            (0..1000).flat_map(|_| [one.next().unwrap(), other.next().unwrap()]).collect();
        assert_eq!(given.len(), 2000);
    }
}
