//! The storage simulator: journal and database on one disk in memory, cut off at every operation of a workload. Each disk
//! that a power cut could leave is opened by the real recovery and must hold what was acknowledged, and nothing else.
//!
//! `LONGWIRE_TEST_SEED` gives another run, `LONGWIRE_SIM_IMAGES` a longer one. A seed gives the same run on every machine.

mod disk;
mod oracle;
mod rng;
mod workload;

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hasher as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use tokio::runtime::Runtime;

use crate::store::local::disk::Disk as _;
use crate::store::local::folder::DATABASE_FILE;
use crate::store::local::opening::begin_anew;
use crate::store::local::tests::sim::disk::{Content, Does, Mark, Op, SimDisk, Tear};
use crate::store::local::tests::sim::oracle::{Allowed, check, check_again, wipe, work_on};
use crate::store::local::tests::sim::rng::Rng;
use crate::store::local::tests::sim::workload::Trace;

/// Images of one test, of which the test command has four: every class has some, whatever the seed.
const IMAGES: u64 = 25_000;
/// Images of one workload.
const PER_WORKLOAD: u64 = 5_000;
/// One image of so many is recovered again and again; one of so many is worked on.
const AGAIN: usize = 8;
const WORK_ON: usize = 16;
/// Of the operations of a wipe, one of so many has images.
const FILLED: usize = 24;
/// Of those that were cut off in a wipe, the first and one of so many are wiped again, and looked through.
const WIPE: usize = 8;
/// What images must cover.
const CLASSES: [&str; 25] = [
    "settling",
    "settling a delete",
    "appending during a settling",
    "removing a deleted log",
    "recycling",
    "growth",
    "truncation",
    "delete",
    "trim",
    "fork",
    "erase",
    "rename",
    "wiping",
    "wiped after a crash",
    "writing a value",
    "settling values",
    "names",
    "creation",
    "creation that is complete",
    "torn bytes",
    "headers only",
    "second crash in recovery",
    "killed, then a power cut",
    "power cut after recovery",
    "worked on",
];

type Counts = BTreeMap<&'static str, u64>;

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

#[test]
fn no_power_cut_loses_what_was_acknowledged() {
    run(0);
}

/// As the first, so that a second core has something to do, with the next seed.
#[test]
fn no_power_cut_loses_what_was_acknowledged_2() {
    run(1);
}

#[test]
fn no_power_cut_loses_what_was_acknowledged_3() {
    run(2);
}

#[test]
fn no_power_cut_loses_what_was_acknowledged_4() {
    run(3);
}

fn run(later: u64) {
    let seed = from_env("LONGWIRE_TEST_SEED", 1) + later;
    let images = from_env("LONGWIRE_SIM_IMAGES", IMAGES);
    println!(
        "seed {seed}; repeat the first of these with LONGWIRE_TEST_SEED={seed} LONGWIRE_SIM_IMAGES={images}"
    );
    let mut counts = Counts::new();
    let mut workloads = 0;
    while counts.get("images").is_none_or(|count| *count < images) {
        let missing = images - counts.get("images").copied().unwrap_or(0);
        let first = workloads;
        workloads += missing.div_ceil(PER_WORKLOAD);
        let per_workload = missing.div_ceil(workloads - first);
        for (what, count) in simulate(seed, first..workloads, per_workload) {
            *counts.entry(what).or_default() += count;
        }
    }
    println!("{workloads} workloads: {counts:?}");
    if images >= IMAGES {
        for class in CLASSES {
            assert!(counts.contains_key(class), "no image of the class {class:?}: {counts:?}");
        }
    }
}

/// A seed gives the same operations, or a failure could not be repeated.
#[test]
fn a_seed_gives_the_same_operations() {
    let runtime = runtime();
    let [one, other] = [(); 2].map(|()| format!("{:?}", workload::run(&runtime, 7, 0).ops));
    assert!(one == other);
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

fn simulate(seed: u64, workloads: std::ops::Range<u64>, images: u64) -> Counts {
    let counts = Mutex::new(Counts::new());
    let next = AtomicU64::new(workloads.start);
    let work = || {
        let runtime = runtime();
        loop {
            let index = next.fetch_add(1, Ordering::SeqCst);
            if index >= workloads.end {
                return;
            }
            let found = Simulation::new(&runtime, seed, index).run(images);
            for (what, count) in found {
                *counts.lock().unwrap().entry(what).or_default() += count;
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for thread in running {
            thread.join().unwrap();
        }
    });
    counts.into_inner().unwrap()
}

/// The images of one workload.
struct Simulation<'r> {
    runtime: &'r Runtime,
    trace: Arc<Trace>,
    rng: Rng,
    seed: u64,
    index: u64,
    counts: Counts,
}

/// Where a walk along the operations is.
#[derive(Clone, Copy, Debug, Default)]
struct At {
    ready: bool,
    acknowledged: usize,
    /// The group being written, and what it does.
    group: Option<Does>,
    settled: usize,
    /// The settling at work, and whether it deletes.
    settling: Option<bool>,
    removing: bool,
    wiping: bool,
}

impl At {
    fn pass(&mut self, mark: Mark) {
        match mark {
            Mark::Ready => self.ready = true,
            Mark::Group(does) => self.group = Some(does),
            Mark::Acknowledged => {
                self.acknowledged += 1;
                self.group = None;
            }
            Mark::Settling { deletes } => self.settling = Some(deletes),
            Mark::Settled => {
                self.settled += 1;
                self.settling = None;
            }
            Mark::Removing { begins } => self.removing = begins,
            Mark::Wiping { begins } => self.wiping = begins,
        }
    }
}

impl<'r> Simulation<'r> {
    fn new(runtime: &'r Runtime, seed: u64, index: u64) -> Self {
        let trace = workload::run(runtime, seed, index);
        let rng = Rng::new(seed, index ^ 1 << 32);
        Self { runtime, trace: Arc::new(trace), rng, seed, index, counts: Counts::new() }
    }

    fn run(mut self, images: u64) -> Counts {
        let mut content = self.trace.before.clone();
        let mut at = At::default();
        let mut seen = HashSet::new();
        let trace = Arc::clone(&self.trace);
        let ops = &trace.ops;
        for (place, op) in ops.iter().enumerate() {
            content.apply(op);
            match op {
                Op::Mark(mark) => at.pass(*mark),
                Op::Sync(_) | Op::SyncNames(_) => seen.clear(),
                _ => {}
            }
            // A wipe writes very many pages, one like the other.
            if at.wiping && self.rng.below(FILLED) > 0 {
                continue;
            }
            // Every operation has its images; what one has too few of, the later ones have more.
            let made = |counts: &Counts| counts.get("images").copied().unwrap_or(0);
            let left = images.saturating_sub(made(&self.counts));
            let due = left.div_ceil((ops.len() - place) as u64);
            let enough = made(&self.counts) + due;
            let fixed = [Tear::Nothing, Tear::Everything].into_iter();
            let chance = std::iter::repeat_with(|| None).take(4 * due as usize);
            for tear in fixed.map(Some).chain(chance) {
                if made(&self.counts) >= enough {
                    break;
                }
                let tear = tear.unwrap_or_else(|| Tear::any(&mut self.rng));
                self.image(&content, at, tear, place, &mut seen);
            }
        }
        self.counts
    }

    fn count(&mut self, what: &'static str, really: bool) {
        if really {
            *self.counts.entry(what).or_default() += 1;
        }
    }

    /// Counts one more image, which came of another.
    fn tell(&mut self, what: &'static str) {
        self.count("images", true);
        self.count(what, true);
    }

    /// Checks an image, unless there was the same one before.
    fn image(&mut self, content: &Content, at: At, tear: Tear, place: usize, seen: &mut HashSet<u64>) {
        let mut decisions = DefaultHasher::new();
        let image =
            content.after_power_cut(tear, &mut self.rng, &mut |decision| decisions.write_u64(decision));
        decisions.write_usize(at.acknowledged);
        decisions.write_usize(at.settled);
        if !seen.insert(decisions.finish()) {
            return;
        }
        let flight = content.in_flight();
        self.count("images", true);
        self.count("creation", !at.ready);
        self.count("settling", at.settling.is_some());
        self.count("settling a delete", at.settling == Some(true) && flight.anything);
        self.count("appending during a settling", at.settling.is_some() && at.group.is_some());
        self.count("removing a deleted log", at.removing && flight.anything);
        self.count("recycling", flight.recycled);
        self.count("growth", flight.growth);
        self.count("truncation", flight.truncation);
        self.count("names", flight.names);
        let does = at.group.filter(|_| flight.anything).unwrap_or_default();
        self.count("delete", does.deletes);
        self.count("trim", does.trims);
        self.count("fork", does.forks);
        self.count("erase", does.erases);
        self.count("rename", does.renames);
        self.count("wiping", at.wiping && flight.anything);
        let values = |commit: usize| self.trace.models.get(commit).map(|model| &model.values);
        let puts = at.group.is_some() && values(at.acknowledged) != values(at.acknowledged + 1);
        let settles =
            at.settling.is_some() && values(at.acknowledged).is_some_and(|values| !values.is_empty());
        self.count("writing a value", puts && flight.anything);
        self.count("settling values", settles && flight.anything);
        self.count("torn bytes", matches!(tear, Tear::Sectors { torn: true, .. } | Tear::Prefix));
        self.count("headers only", tear == Tear::Headers && flight.anything);
        let result = catch_unwind(AssertUnwindSafe(|| {
            if at.ready { self.recover(content, &image, at) } else { self.begin(&image) }
        }));
        let result = result.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
        });
        if let Err(what) = result {
            let (seed, index) = (self.seed, self.index);
            panic!(
                "seed {seed}, workload {index}, after operation {place}, {tear:?}, {at:?}, {flight:?}:\n{what}"
            );
        }
    }

    /// Before the store was ready nothing was acknowledged: it begins anew, or goes on with what is complete.
    fn begin(&mut self, image: &Content) -> Result<(), String> {
        let disk = SimDisk::new(image.clone());
        let complete = disk.exists(DATABASE_FILE).map_err(|error| error.to_string())?;
        self.count("creation that is complete", complete);
        if !complete {
            begin_anew(&disk).map_err(|error| error.to_string())?;
        }
        let allowed =
            Allowed { models: &self.trace.models, acknowledged: 0, at_most: 0, rows: &self.trace.rows[..1] };
        let (store, _) = check(self.runtime, &disk, &allowed)?;
        disk.next_life();
        drop(store);
        Ok(())
    }

    fn recover(&mut self, content: &Content, image: &Content, at: At) -> Result<(), String> {
        let trace = Arc::clone(&self.trace);
        let rows = at.settled..=at.settled + usize::from(at.settling.is_some());
        let allowed = Allowed {
            models: &trace.models,
            acknowledged: at.acknowledged,
            at_most: at.acknowledged + usize::from(at.group.is_some()),
            rows: &trace.rows[rows],
        };
        let disk = SimDisk::new(image.clone());
        let (store, observed) = check(self.runtime, &disk, &allowed)?;
        let cut = disk.content().after_power_cut(Tear::Nothing, &mut self.rng, &mut |_| {});
        let choice = self.rng.below(AGAIN * WORK_ON);
        if choice.is_multiple_of(WORK_ON) {
            work_on(self.runtime, &disk, &store, observed.clone(), &mut self.rng)
                .map_err(|what| format!("worked on: {what}"))?;
            self.tell("worked on");
        }
        let wipes = choice.is_multiple_of(WIPE) || !self.counts.contains_key("wiped after a crash");
        // A store that was worked on has another writer, which holds a segment.
        if at.wiping && wipes && !choice.is_multiple_of(WORK_ON) {
            let dead = &trace.dead[usize::try_from(observed.commit()).unwrap()];
            wipe(self.runtime, &disk, &store, dead).map_err(|what| format!("wiped: {what}"))?;
            self.tell("wiped after a crash");
        }
        disk.next_life();
        drop(store);
        if !choice.is_multiple_of(AGAIN) {
            return Ok(());
        }
        check_again(self.runtime, &cut, &observed).map_err(|what| format!("again: {what}"))?;
        self.tell("power cut after recovery");
        // A crash during the recovery of the image, and one during the recovery after a process that merely died.
        for (what, before) in [("second crash in recovery", image), ("killed, then a power cut", content)] {
            let disk = SimDisk::new(before.clone());
            let (store, observed) = check(self.runtime, &disk, &allowed)?;
            let ops = disk.ops();
            let cut = disk.content().after_power_cut(Tear::Nothing, &mut self.rng, &mut |_| {});
            disk.next_life();
            drop(store);
            check_again(self.runtime, &cut, &observed).map_err(|error| format!("{what}: {error}"))?;
            self.tell("power cut after recovery");
            let stop = self.rng.below(ops.len() + 1);
            let mut during = before.clone();
            ops.iter().take(stop).for_each(|op| during.apply(op));
            let tear = Tear::any(&mut self.rng);
            let twice = during.after_power_cut(tear, &mut self.rng, &mut |_| {});
            let disk = SimDisk::new(twice);
            let (store, _) = check(self.runtime, &disk, &allowed)
                .map_err(|error| format!("{what}, after operation {stop} of it, {tear:?}: {error}"))?;
            disk.next_life();
            drop(store);
            self.tell(what);
        }
        Ok(())
    }
}
