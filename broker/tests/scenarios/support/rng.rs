//! Randomness with a seed that a failing test prints.

/// A small generator (splitmix64) with a printable seed.
#[derive(Clone, Debug)]
pub(crate) struct Rng {
    state: u64,
}

/// How often: from the variable, for a longer run than that of the test command.
pub(crate) fn repetitions(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|count| count.parse().ok()).unwrap_or(default)
}

impl Rng {
    /// The seed of `LONGWIRE_TEST_SEED`, or `default`; printed, so that a failure shows it.
    pub(crate) fn from_env(default: u64) -> Self {
        let seed =
            std::env::var("LONGWIRE_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(default);
        println!("seed {seed}; repeat with LONGWIRE_TEST_SEED={seed}");
        Self { state: seed }
    }

    /// Another one, for a task of its own.
    pub(crate) fn split(&mut self) -> Self {
        Self { state: self.next() }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}
