//! The thread that settles: it moves what is durable in the journal into the database, in large commits, recycles the
//! segments after that, and removes, rewrites and wipes step by step.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use metrics::{counter, gauge, histogram};
use tracing::{debug, warn};

use crate::store::local::ballast::Ballast;
use crate::store::local::health::Part;
use crate::store::local::known_names;
use crate::store::local::plan::{Plan, Removal};
use crate::store::local::queued::Stop;
use crate::store::local::shared::{BACKOFF_MAX, BACKOFF_MIN, SETTLE_SEGMENTS, Shared};
use crate::store::local::state::FORGET_STEP;
use crate::store::local::table::doomed;
use crate::store::local::table::erasing::{self, ERASING};
use crate::store::local::wipe::Wipe;

/// The pause between steps of removing and rewriting, so that settling and reads come in between.
const STEP_PAUSE: Duration = Duration::from_millis(50);
/// The pause between steps of a wipe that somebody waits for: what it waits for itself may take a moment.
const ASKED_PAUSE: Duration = Duration::from_millis(1);
/// How often settling is tried while the store stops. What is left is settled at the next start.
const STOPPING_ATTEMPTS: u32 = 3;
/// How long a spare segment that a busy journal needed is kept when it is not needed any more: several settlings.
const SPARE_PAUSE: Duration = Duration::from_secs(2);
/// How often the spares, the ballast and the quota are looked after while nothing is settled.
const IDLE_PAUSE: Duration = Duration::from_secs(30);

/// See the top of this file.
#[derive(Debug)]
pub struct Settler {
    shared: Arc<Shared>,
    ballast: Ballast,
    // When spares and ballast are made.
    spares_at: Instant,
    // When spares are given back that nobody needs.
    give_back_at: Instant,
    doomed: bool,
    erasing: bool,
    // It is tried again with the next settling, or when nothing is to be settled for a while.
    erasing_failed: bool,
    wipe: Wipe,
}

impl Settler {
    /// A settler, which looks for deleted logs of an earlier life first.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        let ballast = Ballast::new(Arc::clone(&shared.disk), shared.tuning.ballast_bytes);
        let wipe = Wipe::new(Arc::clone(&shared));
        let spares_at = Instant::now() + shared.tuning.spares_after;
        let give_back_at = spares_at + SPARE_PAUSE;
        Self {
            shared,
            ballast,
            spares_at,
            give_back_at,
            doomed: true,
            erasing: true,
            erasing_failed: false,
            wipe,
        }
    }

    /// Settles until the store stops. True when everything durable is settled.
    pub fn run(mut self) -> bool {
        self.look_after_disk();
        loop {
            let (stop, plan) = self.next_plan();
            if stop == Stop::Abandon {
                return false;
            }
            if let Some(plan) = plan {
                if !self.settle(plan) {
                    return false;
                }
            } else if stop == Stop::Drain {
                return true;
            } else {
                self.erasing |= self.erasing_failed;
            }
            // What was acknowledged during the last settling goes before the niceties.
            if stop == Stop::No {
                self.look_after_disk();
                self.rewrite_erased();
                self.remove_doomed();
                read_names(&self.shared);
                self.wipe();
                self.shared.quota.sweep();
            }
        }
    }

    fn next_plan(&self) -> (Stop, Option<Plan>) {
        let mut state = self.shared.state();
        let woken = Instant::now();
        loop {
            let age = state.unsettled_since.map(|since| since.elapsed());
            let wait = match state.stop {
                Stop::Abandon => return (Stop::Abandon, None),
                Stop::Drain if state.writer_done => return (Stop::Drain, state.plan()),
                Stop::Drain => IDLE_PAUSE,
                Stop::No => {
                    let due = state.settle_now
                        || state.unsettled_bytes >= self.shared.tuning.settle_bytes
                        || self.shared.pool.retired() >= SETTLE_SEGMENTS && age.is_some()
                        || age.is_some_and(|age| age >= self.shared.tuning.settle_age);
                    if due {
                        let plan = state.plan();
                        if plan.is_none() {
                            // Who asked for it waits for a settling that there is no need for.
                            self.shared.settled.send_modify(|_| {});
                        }
                        return (Stop::No, plan);
                    }
                    let asked = state.wipe_asked > state.settled.wiped_commit;
                    let busy = self.doomed || self.erasing || state.known.reads_after().is_some();
                    let pause = match busy {
                        true if asked => Duration::ZERO,
                        true => STEP_PAUSE,
                        false => IDLE_PAUSE,
                    };
                    let wipe = self.wipe.due(&state);
                    let least = if asked { ASKED_PAUSE } else { STEP_PAUSE };
                    let pause = pause.min(wipe.map_or(IDLE_PAUSE, |wipe| wipe.max(least)));
                    let spares = self.spares_at.checked_duration_since(woken);
                    let mut pause = pause.min(spares.unwrap_or(IDLE_PAUSE));
                    if self.shared.pool.has_surplus() {
                        pause = pause.min(self.give_back_at.saturating_duration_since(woken));
                    }
                    let pause = pause.saturating_sub(woken.elapsed());
                    if pause.is_zero() {
                        return (Stop::No, None);
                    }
                    age.map_or(pause, |age| pause.min(self.shared.tuning.settle_age.saturating_sub(age)))
                }
            };
            state = self.shared.settle.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Settles a plan, however often it takes. False when the store stops before that.
    pub(super) fn settle(&mut self, plan: Plan) -> bool {
        let mut backoff = BACKOFF_MIN;
        let mut stopping = 0;
        let started = Instant::now();
        let erases = !plan.erase.is_empty();
        let mut removal = Removal::Now;
        while let Err(failure) = plan.apply(&self.shared.database, removal) {
            if plan.is_applied(&self.shared.database) {
                break;
            }
            // It may be what is to go that cannot be read.
            removal = Removal::Later;
            counter!("longwire_store_settle_failures_total").increment(1);
            let what = format!("settling into the database failed: {failure}");
            self.shared.health.trouble(Part::Database, what);
            if failure.is_full() {
                self.shared.pool.release_spares();
                self.ballast.release();
            }
            match self.wait(backoff) {
                Stop::No => backoff = (backoff * 2).min(BACKOFF_MAX),
                Stop::Drain if stopping + 1 < STOPPING_ATTEMPTS => stopping += 1,
                Stop::Drain | Stop::Abandon => return false,
            }
        }
        finish(&self.shared, plan);
        self.forget_resting();
        self.shared.health.well(Part::Database);
        self.doomed = true;
        self.erasing |= erases || self.erasing_failed;
        histogram!("longwire_store_settle_seconds").record(started.elapsed().as_secs_f64());
        true
    }

    /// What is settled need not stay in memory, when nobody has it open. In steps, as others wait for the state.
    fn forget_resting(&self) {
        let resting = self.shared.state().resting();
        for _ in 0..resting.div_ceil(FORGET_STEP) {
            let forgotten = self.shared.state().forget_resting(FORGET_STEP);
            drop(forgotten);
        }
    }

    pub(super) fn look_after_disk(&mut self) {
        if Instant::now() < self.spares_at {
            return;
        }
        self.ballast.restore();
        if Instant::now() >= self.give_back_at {
            self.shared.pool.give_back();
            self.give_back_at = Instant::now() + SPARE_PAUSE;
        }
        if let Err(error) = self.shared.pool.top_up() {
            debug!(%error, "no spare journal segment could be made");
        }
    }

    pub(super) fn remove_doomed(&mut self) {
        if !self.doomed {
            return;
        }
        let none = self.shared.database.read(|transaction| {
            use redb::ReadableTableMetadata as _;
            Ok(transaction.open_table(doomed::DOOMED)?.is_empty()?)
        });
        if !matches!(none, Ok(true)) {
            // Said before it is so: a reader of the change feed that does not find a deletion any more knows of it.
            let mut state = self.shared.state();
            state.forgotten_commit = state.settled.settled_commit;
        }
        self.doomed = match none {
            Ok(true) => false,
            _ => match self.shared.database.write(doomed::step) {
                Ok(left) => left,
                Err(error) => {
                    warn!(%error, "part of a log that nobody shows could not be removed; it is tried again");
                    false
                }
            },
        };
    }

    /// Rewrites a few chunks that hold erased records.
    pub(super) fn rewrite_erased(&mut self) {
        if !self.erasing {
            return;
        }
        let database = &self.shared.database;
        let none = database.read(|transaction| {
            use redb::ReadableTableMetadata as _;
            Ok(transaction.open_table(ERASING)?.is_empty()?)
        });
        if matches!(none, Ok(true)) {
            self.erasing = false;
            return;
        }
        let mut step = None;
        let result = database.write(|transaction| erasing::step(transaction, &mut step));
        let done = match (&result, &step) {
            (Ok(_), _) => true,
            (Err(_), Some(step)) => database
                .read(|transaction| erasing::is_done(&transaction.open_table(ERASING)?, step))
                .unwrap_or(false),
            (Err(_), None) => false,
        };
        match step.filter(|_| done) {
            Some(step) => self.shared.state().rewritten(&step),
            None => {
                self.erasing = false;
                self.erasing_failed = result.is_err();
            }
        }
        if let Err(error) = result {
            warn!(%error, "chunks that hold erased records could not be rewritten; it is tried again");
        }
    }

    /// Takes erased content out of the files, a bounded part of it.
    pub(super) fn wipe(&mut self) -> bool {
        self.wipe.step()
    }

    /// For the text of a failure.
    #[cfg(test)]
    pub(super) fn wiping(&self) -> String {
        format!("{:?}", self.wipe)
    }

    fn wait(&self, time: Duration) -> Stop {
        let until = Instant::now() + time;
        let mut state = self.shared.state();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.stop == Stop::Abandon {
                return state.stop;
            }
            state = self.shared.settle.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Reads some of the database's names, when not all of them are known.
pub fn read_names(shared: &Shared) {
    let after = shared.state().known.reads_after();
    if let Some(after) = after {
        let step = known_names::Step::next(&shared.database, after.as_deref());
        shared.state().known.take(step);
    }
}

/// After a plan's commit: frees the memory, recycles the segments, tells who waits.
pub fn finish(shared: &Shared, plan: Plan) {
    let (garbage, unsettled, erasing, unwiped) = {
        let mut state = shared.state();
        let unwiped = state.erased_since.map(|since| since.elapsed()).unwrap_or_default();
        (state.settled(&plan), state.unsettled_bytes, state.erasing.len(), unwiped)
    };
    let Plan { meta, replies, reservations, .. } = plan;
    drop(garbage);
    drop(reservations);
    shared.pool.recycle(meta.settled_commit);
    for reply in replies {
        // Who dropped the future does not care.
        let _ = reply.send(Ok(()));
    }
    shared.settled.send_replace(meta.settle);
    counter!("longwire_store_settlings_total").increment(1);
    gauge!("longwire_store_unsettled_bytes").set(unsettled as f64);
    gauge!("longwire_store_erasing_ranges").set(erasing as f64);
    gauge!("longwire_store_unwiped_seconds").set(unwiped.as_secs_f64());
}
