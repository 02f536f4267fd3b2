//! Taking erased and deleted content out of the files of the folder.
//!
//! What is erased or deleted is soon in no row of the database any more, but its bytes are still in segments of the
//! journal and in free pages. A wipe takes these steps, one after the other, with settling in between; what it wipes is
//! what was erased or deleted before it began:
//! 1. Everything is settled, chunks are rewritten, chunks of deleted logs are removed. From here on no page in use has the
//!    bytes: see `table/shred.rs`.
//! 2. Every segment that there is by now is removed once it is settled, instead of being recycled; the writer takes
//!    another one.
//! 3. Reads and backups that began before have ended, and commits of nothing make free what was freed.
//! 4. Free pages are overwritten: rows of zeros, each of which takes a page, are added until the file grows for one. redb
//!    grows it only when no page is free, so at that moment every page that was free is taken by this transaction or an
//!    earlier one, and what a transaction holds at its commit is written. Pages that the last one took and gave up again
//!    are free once more: they are few, and of the pages that are free redb takes the lowest of the smallest blocks first,
//!    so some more rows take them.
//! 5. The rows are removed, and the commit up to which everything is gone is noted.
//!
//! A crash begins it again: what was to be wiped is known from `meta`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use redb::ReadableTableMetadata as _;
use tracing::{info, warn};

use crate::store::local::database::DatabaseFailure;
use crate::store::local::shared::{BACKOFF_MAX, BACKUPS_MAX, Shared};
use crate::store::local::state::State;
use crate::store::local::table::doomed::DOOMED;
use crate::store::local::table::erasing::ERASING;
use crate::store::local::table::filler::{self, FILLER, STEP_PAGES};
use crate::store::local::table::meta::{KEY, META, Meta};

/// Commits of nothing after which redb has made free what was freed before: one takes the pages of the commit before it,
/// one those of the tables that say so, and one to spare.
const EMPTY_COMMITS: usize = 3;
/// Rows in each of two transactions after the file grew: several times what a commit takes and gives up.
const CLOSING_PAGES: usize = 256;
/// When a wipe looks again whether a backup has ended.
const BACKUP_PAUSE: Duration = Duration::from_millis(500);
/// When a wipe is tried again that found the disk full.
const FULL_PAUSE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing to do.
    Idle,
    /// Step 1.
    Rewriting,
    /// Step 2.
    Journal,
    /// Steps 3 and 4.
    Filling,
    /// Step 5; true when everything before it was done.
    Emptying(bool),
}

/// See the top of this file.
#[derive(Debug)]
pub struct Wipe {
    shared: Arc<Shared>,
    stage: Stage,
    target: u64,
    began: Instant,
    not_before: Instant,
}

impl Wipe {
    /// A wipe that first removes what an earlier life has left of one.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        let now = Instant::now();
        Self { shared, stage: Stage::Emptying(false), target: 0, began: now, not_before: now }
    }

    /// How long until there is something to do; `None` when there is nothing.
    #[must_use]
    pub fn due(&self, state: &State) -> Option<Duration> {
        let wait = self.not_before.saturating_duration_since(Instant::now());
        let since = match self.stage {
            Stage::Idle => state.erased_since?,
            _ => return Some(wait),
        };
        // Half of the time is for the wipe itself.
        let asked = state.wipe_asked > state.settled.wiped_commit;
        let within = if asked { Duration::ZERO } else { self.shared.tuning.erase_within / 2 };
        Some(wait.max(within.saturating_sub(since.elapsed())))
    }

    /// Does a bounded part of the work, when it is time. False when there is nothing to do now.
    pub fn step(&mut self) -> bool {
        if self.due(&self.shared.state()).is_none_or(|wait| !wait.is_zero()) {
            return false;
        }
        match self.advance() {
            Ok(more) => more,
            Err(failure) => {
                counter!("longwire_store_wipe_failures_total").increment(1);
                warn!(%failure, "erased content could not be wiped from the files yet; it is tried again");
                let full = failure.is_full();
                if full && self.stage == Stage::Filling {
                    // What the rows occupy is better given back.
                    self.stage = Stage::Emptying(false);
                }
                self.not_before = Instant::now() + if full { FULL_PAUSE } else { BACKOFF_MAX };
                false
            }
        }
    }

    fn advance(&mut self) -> Result<bool, DatabaseFailure> {
        match self.stage {
            Stage::Idle => return Ok(self.begin()),
            Stage::Rewriting => {
                if !self.is_rewritten()? {
                    return Ok(false);
                }
                self.shared.pool.condemn();
                self.shared.work.notify_one();
                self.stage = Stage::Journal;
            }
            Stage::Journal => {
                let settled = self.shared.state().settled.settled_commit;
                self.shared.pool.recycle(settled);
                if self.shared.pool.has_condemned() {
                    self.shared.state().settle_now = true;
                    return Ok(false);
                }
                // The pages of its moment, which may have what was rewritten since, are kept for it.
                let waits = self.shared.backups.available_permits() < BACKUPS_MAX;
                self.shared.state().wipe_waits = waits;
                if waits {
                    self.not_before = Instant::now() + BACKUP_PAUSE;
                    return Ok(false);
                }
                self.shared.database.wait_for_readers();
                for _ in 0..EMPTY_COMMITS {
                    self.commit(|meta| meta)?;
                }
                self.stage = Stage::Filling;
            }
            Stage::Filling => {
                if self.fill(STEP_PAGES)? {
                    for _ in 0..2 {
                        self.fill(CLOSING_PAGES)?;
                    }
                    self.stage = Stage::Emptying(true);
                }
            }
            Stage::Emptying(done) => {
                let rows = self
                    .shared
                    .database
                    .read(|transaction| Ok(!transaction.open_table(FILLER)?.is_empty()?))?;
                if rows {
                    self.shared.database.write(filler::empty)?;
                    return Ok(true);
                }
                if done {
                    self.finish()?;
                }
                self.stage = Stage::Idle;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn begin(&mut self) -> bool {
        let state = self.shared.state();
        if state.erased_commit <= state.settled.wiped_commit {
            return false;
        }
        self.target = state.erased_commit;
        self.stage = Stage::Rewriting;
        self.began = Instant::now();
        true
    }

    /// Whether everything that is to be wiped is settled, and in no chunk any more.
    fn is_rewritten(&self) -> Result<bool, DatabaseFailure> {
        {
            let mut state = self.shared.state();
            if state.settled.settled_commit < self.target {
                state.settle_now = true;
                return Ok(false);
            }
        }
        self.shared.database.read(|transaction| {
            let erasing = transaction.open_table(ERASING)?.is_empty()?;
            Ok(erasing && transaction.open_table(DOOMED)?.is_empty()?)
        })
    }

    /// Overwrites free pages. True when none was left.
    fn fill(&self, pages: usize) -> Result<bool, DatabaseFailure> {
        let database = &self.shared.database;
        let before = database.growths();
        let grown = std::cell::Cell::new(false);
        database.write(|transaction| {
            // What a commit takes beside single pages may make the file grow too: that says nothing about those.
            filler::fill(transaction, pages, || {
                grown.set(database.growths() != before);
                grown.get()
            })
        })?;
        Ok(grown.get())
    }

    fn commit(&self, change: impl Fn(Meta) -> Meta) -> Result<Meta, DatabaseFailure> {
        let meta = change(self.shared.state().settled);
        self.shared.database.write(|transaction| {
            transaction.open_table(META)?.insert(KEY, meta.encode().as_slice())?;
            Ok(meta)
        })
    }

    fn finish(&mut self) -> Result<(), DatabaseFailure> {
        let target = self.target;
        let meta = self.commit(|meta| Meta { wiped_commit: target, ..meta })?;
        self.shared.state().wiped(meta.wiped_commit);
        self.shared.wiped.send_replace(target);
        histogram!("longwire_store_wipe_seconds").record(self.began.elapsed().as_secs_f64());
        info!(seconds = self.began.elapsed().as_secs_f64(), "erased content is in no file any more");
        Ok(())
    }
}
