//! Tables by numbers that the broker counts itself. No client chooses them, so none can make them collide, and the hash that a table
//! needs against that would cost more than what the table is looked at for.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A table by such a number.
pub type Numbered<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// 2^64 divided by the golden ratio: multiplied by it, numbers that follow each other are far apart in all bits.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(SPREAD);
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn finish(&self) -> u64 {
        // A table takes the place from the low bits, which the product has mixed least.
        self.0 ^ self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::hash::{BuildHasher as _, BuildHasherDefault};

    use super::*;

    #[test]
    fn numbers_that_follow_each_other_have_places_of_their_own() {
        let hasher = BuildHasherDefault::<NumberHasher>::default();
        for step in [1_u64, 2, 64, 1 << 20] {
            let hashes: Vec<u64> = (0..256).map(|number| hasher.hash_one(number * step)).collect();
            let (low, high): (BTreeSet<u64>, BTreeSet<u64>) =
                hashes.iter().map(|hash| (hash & 0xff, hash >> 57)).unzip();
            assert!(low.len() > 128 && high.len() > 64, "by {step}: {} and {}", low.len(), high.len());
        }
    }
}
