//! Which names the database may know. Most sessions that begin have a name that was never there, and looking each of them up costs more
//! than all else that is done for it in memory; so this says of a name "never" or "perhaps", and only the latter is looked up.
//!
//! It never says "never" of a name that has a row: every name that is settled is added when its settling is planned, while the session is
//! still in memory, and those of earlier lives are read from the database, some at a time, before it says anything at all.

use std::ops::Bound;

use xxhash_rust::xxh3::xxh3_64;

use crate::store::local::database::Database;
use crate::store::local::database_failure::DatabaseFailure;
use crate::store::local::table::Damage;
use crate::store::local::table::names::{NAMES, Name, OTHERS, others};

/// Names that are known, at two bytes each. When there are more, every name is looked up.
const NAMES_MAX: usize = 1 << 20;
/// Names of the first layer; each later one has room for twice as many as the one before it.
const LAYER_NAMES_MIN: usize = 1 << 15;
/// Names that are read of the database in one transaction.
const STEP: usize = 4096;

/// Words of a block: one line of the processor's cache, in which a name has all of its bits.
const BLOCK_WORDS: usize = 8;
/// Names of a block that is full: 16 bits for each, so that one name in a thousand or so is looked up for nothing.
const BLOCK_NAMES: usize = 32;
/// Bits of a name.
const BITS: usize = 5;

type Block = [u64; BLOCK_WORDS];

/// A Bloom filter in blocks.
#[derive(Debug)]
struct Layer {
    blocks: Vec<Block>,
    room: usize,
}

impl Layer {
    fn new(names: usize) -> Self {
        Self { blocks: vec![[0; BLOCK_WORDS]; names / BLOCK_NAMES], room: names }
    }

    /// The block of a name: the upper half of its hash says which.
    fn block(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.blocks.len() as u128) >> 64) as usize
    }

    fn has(&self, hash: u64) -> bool {
        let block = &self.blocks[self.block(hash)];
        bits(hash).all(|(word, bit)| block[word] & bit != 0)
    }

    fn add(&mut self, hash: u64) {
        let index = self.block(hash);
        let block = &mut self.blocks[index];
        bits(hash).for_each(|(word, bit)| block[word] |= bit);
        self.room -= 1;
    }
}

/// Words and bits of a name within its block: the lower half of its hash, nine bits for each.
fn bits(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    (0..BITS).map(move |number| {
        let place = (hash >> (9 * number)) as usize % (64 * BLOCK_WORDS);
        (place / 64, 1 << (place % 64))
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// Of the database's names those up to this one were read.
    Reading(Option<String>),
    /// All are there. A name that has no row begins with this epoch.
    Complete(u64),
    /// There are too many, or they cannot be read.
    Never,
}

/// See the top of this file.
#[derive(Debug)]
pub struct KnownNames {
    layers: Vec<Layer>,
    stage: Stage,
    names_max: usize,
}

impl Default for KnownNames {
    fn default() -> Self {
        Self { layers: Vec::new(), stage: Stage::Reading(None), names_max: NAMES_MAX }
    }
}

/// Some names of the database, and what is next.
#[derive(Debug)]
pub struct Step {
    hashes: Vec<u64>,
    stage: Stage,
}

impl Step {
    /// The names after those that were read.
    ///
    /// # Errors
    /// Those of redb, or that the row of all others is damaged.
    fn read(database: &Database, after: Option<&str>) -> Result<Self, DatabaseFailure> {
        database.read(|transaction| {
            let names = transaction.open_table(NAMES)?;
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let mut hashes = Vec::new();
            let mut last = None;
            for entry in names.range::<&str>((from, Bound::Unbounded))?.take(STEP) {
                let (key, _) = entry?;
                hashes.push(xxh3_64(key.value().as_bytes()));
                last = Some(key).filter(|_| hashes.len() == STEP);
            }
            let stage = match (last, others(&names)?) {
                (Some(last), _) => Stage::Reading(Some(last.value().to_owned())),
                (None, Name::Deleted { next_epoch }) => Stage::Complete(next_epoch),
                (None, Name::Log(_)) => return Err(Damage("no session has the empty name").into()),
            };
            Ok(Self { hashes, stage })
        })
    }

    /// The next step. Names that cannot be read are as good as too many.
    #[must_use]
    pub fn next(database: &Database, after: Option<&str>) -> Self {
        Self::read(database, after).unwrap_or(Self { hashes: Vec::new(), stage: Stage::Never })
    }
}

impl KnownNames {
    /// The first epoch of a session of this name, when the database has no row of it for certain.
    #[must_use]
    pub fn vacant(&self, name: &str) -> Option<u64> {
        let Stage::Complete(epoch) = self.stage else { return None };
        (name != OTHERS && !self.has(xxh3_64(name.as_bytes()))).then_some(epoch)
    }

    /// A name will have a row.
    pub fn add(&mut self, name: &str) {
        self.insert(xxh3_64(name.as_bytes()));
    }

    /// After which name names are to be read; `None` when none are.
    #[must_use]
    pub fn reads_after(&self) -> Option<Option<String>> {
        match &self.stage {
            Stage::Reading(after) => Some(after.clone()),
            Stage::Complete(_) | Stage::Never => None,
        }
    }

    /// Names were read.
    pub fn take(&mut self, step: Step) {
        step.hashes.into_iter().for_each(|hash| self.insert(hash));
        if self.stage != Stage::Never {
            self.stage = step.stage;
        }
        if self.stage == Stage::Never {
            self.layers = Vec::new();
        }
    }

    fn has(&self, hash: u64) -> bool {
        self.layers.iter().any(|layer| layer.has(hash))
    }

    fn insert(&mut self, hash: u64) {
        if self.stage == Stage::Never || self.has(hash) {
            return;
        }
        if self.layers.last().is_none_or(|layer| layer.room == 0) {
            let names = LAYER_NAMES_MIN << self.layers.len();
            if 2 * names - LAYER_NAMES_MIN > self.names_max {
                (self.layers, self.stage) = (Vec::new(), Stage::Never);
                return;
            }
            self.layers.push(Layer::new(names));
        }
        if let Some(layer) = self.layers.last_mut() {
            layer.add(hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(names_max: usize) -> KnownNames {
        KnownNames { stage: Stage::Complete(7), names_max, ..KnownNames::default() }
    }

    #[test]
    fn what_was_added_is_never_vacant_and_most_of_what_was_not_is() {
        let mut known = complete(NAMES_MAX);
        let count = 5 * LAYER_NAMES_MIN;
        for number in 0..count {
            known.add(&format!("a/{number}"));
            known.add(&format!("a/{}", number / 2));
        }
        assert!((0..count).all(|number| known.vacant(&format!("a/{number}")).is_none()));
        let vacant = (0..count).filter(|number| known.vacant(&format!("b/{number}")) == Some(7)).count();
        assert!(vacant > count - count / 100, "{vacant} of {count}");
        assert_eq!(known.layers.len(), 3, "what is there already takes no room");
        assert!(known.vacant(OTHERS).is_none());
    }

    #[test]
    fn nothing_is_said_before_all_are_read_and_when_there_are_too_many() {
        let mut known = KnownNames::default();
        assert!(known.vacant("a").is_none());
        let hashes = vec![xxh3_64(b"b")];
        known.take(Step { hashes, stage: Stage::Reading(Some("b".into())) });
        known.add("d");
        assert!(known.vacant("a").is_none());
        assert_eq!(known.reads_after(), Some(Some("b".into())));
        known.take(Step { hashes: vec![xxh3_64(b"c")], stage: Stage::Complete(3) });
        assert_eq!(known.vacant("a"), Some(3));
        assert!(["b", "c", "d"].iter().all(|name| known.vacant(name).is_none()));

        let mut known = complete(LAYER_NAMES_MIN);
        for number in 0..=2 * LAYER_NAMES_MIN {
            known.add(&number.to_string());
        }
        assert!(known.layers.is_empty() && known.vacant("a").is_none());
        known.add("a");
        known.take(Step { hashes: Vec::new(), stage: Stage::Complete(0) });
        assert!(known.vacant("b").is_none(), "what was forgotten is not known again");
    }
}
