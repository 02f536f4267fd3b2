//! How many bytes of its records a live session has appended where, so that it knows where to trim without reading them.

use std::collections::VecDeque;

/// Runs of one session: a retention by bytes is kept to within a hundredth of them without a read, for 3 KiB of memory.
const RUNS_MAX: usize = 128;
/// Bytes that a run has at least before another one begins, at first: the fewer, the nearer a trim comes to what is wished for.
const GRAIN_BYTES_MIN: u64 = 4 << 10;

/// Consecutive records of a log's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The offset behind its last record.
    pub(super) until: u64,
    /// Bytes of its records.
    pub(super) bytes: u64,
    /// The time of its last record, in Unix milliseconds.
    pub(super) last_time_ms: u64,
}

/// The runs up to the end of a log, a bounded number of them: more make each of them longer.
#[derive(Clone, Debug)]
pub(super) struct Runs {
    /// The first offset that is in one.
    from: u64,
    runs: VecDeque<Run>,
    /// Bytes of all of them.
    bytes: u64,
    /// A run that has so many bytes is not made longer.
    grain: u64,
}

impl Runs {
    /// Nothing is known of what is below `end`.
    pub(super) fn new(end: u64) -> Self {
        Self { from: end, runs: VecDeque::new(), bytes: 0, grain: GRAIN_BYTES_MIN }
    }

    /// The first offset of which something is known.
    pub(super) fn from(&self) -> u64 {
        self.from
    }

    /// The runs from the one that begins at this offset on; none when none begins there.
    pub(super) fn beginning_at(&self, offset: u64) -> impl Iterator<Item = Run> + '_ {
        let runs = (offset == self.from).then_some(&self.runs);
        runs.into_iter().flatten().copied()
    }

    /// Records were appended behind the last ones.
    pub(super) fn appended(&mut self, run: Run) {
        if run.until <= self.runs.back().map_or(self.from, |last| last.until) {
            return;
        }
        self.bytes += run.bytes;
        match self.runs.back_mut().filter(|last| last.bytes < self.grain) {
            Some(last) => *last = last.and(run),
            None => self.runs.push_back(run),
        }
        if self.runs.len() > RUNS_MAX {
            self.grain *= 2;
            let mut runs = std::mem::take(&mut self.runs).into_iter();
            while let Some(run) = runs.next() {
                self.runs.push_back(runs.next().map_or(run, |next| run.and(next)));
            }
        }
    }

    /// The log begins at `start` now, and has so many bytes of its own.
    pub(super) fn trimmed(&mut self, start: u64, bytes: u64) {
        while let Some(gone) = self.runs.pop_front_if(|run| run.until <= start) {
            self.bytes -= gone.bytes;
            self.from = gone.until;
        }
        if let Some(first) = self.runs.front_mut().filter(|_| start > self.from) {
            let others = self.bytes - first.bytes;
            first.bytes = bytes.saturating_sub(others).min(first.bytes);
            self.bytes = others + first.bytes;
            self.from = start;
        }
        // What is kept may have become less.
        if self.runs.len() < RUNS_MAX / 4 {
            self.grain = (self.grain / 2).max(GRAIN_BYTES_MIN);
        }
    }
}

impl Run {
    fn and(self, next: Self) -> Self {
        Self { bytes: self.bytes + next.bytes, ..next }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Append(Vec<u64>),
        Trim(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            9 => prop::collection::vec(prop_oneof![1..300_u64, 1..30_000_u64], 0..5).prop_map(Step::Append),
            1 => any::<prop::sample::Index>().prop_map(Step::Trim),
        ]
    }

    proptest! {
        /// Against a list of all records.
        #[test]
        fn runs_say_what_their_records_have(
            begin in 0..5_u64,
            steps in prop::collection::vec(step(), 1..700),
        ) {
            let mut runs = Runs::new(begin);
            // Bytes by offset, from 0 on; those before the beginning are not known.
            let mut records = vec![7_u64; begin as usize];
            let mut start = 0;
            for step in steps {
                match step {
                    Step::Append(bytes) => {
                        records.extend(&bytes);
                        let until = records.len() as u64;
                        let run = Run { until, bytes: bytes.iter().sum(), last_time_ms: 10 * until };
                        runs.appended(run);
                    }
                    Step::Trim(to) => {
                        start += to.index(records.len() - start + 1);
                        runs.trimmed(start as u64, records[start..].iter().sum());
                    }
                }
                let mut from = runs.from();
                prop_assert_eq!(from, begin.max(start as u64));
                prop_assert!(runs.beginning_at(from + 1).next().is_none());
                let all: Vec<Run> = runs.beginning_at(from).collect();
                prop_assert!(all.len() <= RUNS_MAX);
                for run in &all {
                    prop_assert!(run.until > from && run.last_time_ms == 10 * run.until);
                    prop_assert_eq!(run.bytes, records[from as usize..run.until as usize].iter().sum::<u64>());
                    from = run.until;
                }
                prop_assert_eq!(from, records.len() as u64);
                prop_assert_eq!(runs.bytes, all.iter().map(|run| run.bytes).sum::<u64>());
            }
        }
    }

    #[test]
    fn a_trim_comes_within_a_few_hundredths_however_much_is_kept() {
        for kept in [1_u64 << 20, 64 << 20, 1 << 20] {
            let mut runs = Runs::new(0);
            for until in 1..=4 * kept / 300 {
                runs.appended(Run { until, bytes: 300, last_time_ms: 0 });
                if runs.bytes > kept + kept / 8 {
                    let first = runs.runs[0];
                    runs.trimmed(first.until, runs.bytes - first.bytes);
                }
            }
            let longest = runs.runs.iter().map(|run| run.bytes).max().unwrap();
            assert!(longest < kept / 20, "{longest} of {kept}");
        }
    }
}
