//! How long it takes until records are durable: the journal against the alternatives, interleaved in one run, because the
//! speed of a disk drifts by more than the alternatives differ.
//!
//! `cargo bench -p longwire-benches --bench storage`

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use longwire_broker::store::local::{LocalConfig, LocalStore};
use longwire_broker::store::{Batch, BatchId, Opened, Reservation, Store, StoreError, Version};
use redb::{Database, TableDefinition};
use tokio::runtime::Runtime;

/// Bytes of a record.
const RECORD_BYTES: usize = 256;
/// Records made durable at a time, each of another session, and how often a round does it.
const GROUPS: [(usize, usize); 3] = [(1, 400), (64, 200), (1000, 60)];
/// Rounds; every alternative runs in each.
const ROUNDS: usize = 7;
/// Bytes that a preallocated file has; it is written from the start again when it is full.
const PREALLOCATED_BYTES: u64 = 64 << 20;

const BLOBS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("journal");
const ROWS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("rows");

type Failure = Box<dyn std::error::Error>;

/// One way of making records durable.
trait Way {
    fn name(&self) -> &'static str;
    /// Makes one record in each of `records` sessions durable.
    fn commit(&mut self, records: usize) -> Result<(), Failure>;
}

struct Raw {
    name: &'static str,
    file: File,
    at: u64,
    wrap: u64,
}

impl Raw {
    fn new(name: &'static str, path: &Path, preallocated: u64) -> Result<Self, Failure> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let zeros = vec![0; 1 << 20];
        for at in (0..preallocated).step_by(zeros.len()) {
            file.write_all_at(&zeros, at)?;
        }
        file.sync_all()?;
        Ok(Self { name, file, at: 0, wrap: if preallocated > 0 { preallocated } else { u64::MAX } })
    }
}

impl Way for Raw {
    fn name(&self) -> &'static str {
        self.name
    }

    fn commit(&mut self, records: usize) -> Result<(), Failure> {
        let bytes = vec![7; records * RECORD_BYTES];
        if self.at + bytes.len() as u64 > self.wrap {
            self.at = 0;
        }
        self.file.write_all_at(&bytes, self.at)?;
        self.file.sync_data()?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

struct Session {
    opened: Opened,
    version: Version,
    end: u64,
}

struct Journal {
    name: &'static str,
    /// Whether the records go to one session as one batch, or to as many sessions as there are.
    together: bool,
    runtime: Runtime,
    store: LocalStore,
    sessions: Vec<Session>,
}

impl Journal {
    fn new(name: &'static str, folder: &Path, together: bool) -> Result<Self, Failure> {
        let runtime = Runtime::new()?;
        let store = LocalStore::open(LocalConfig::new(folder))?;
        let mut sessions = Vec::new();
        for number in 0..GROUPS[2].0 {
            let opened = runtime.block_on(store.open(&format!("bench/{number}").parse()?))?;
            sessions.push(Session { version: opened.version, end: opened.end, opened });
        }
        Ok(Self { name, together, runtime, store, sessions })
    }
}

async fn append(store: &LocalStore, session: &mut Session, records: usize) -> Result<(), StoreError> {
    let reservation: Reservation = store.reserve(session.opened.log, records * RECORD_BYTES).await?;
    let batch = Batch {
        id: BatchId(u128::from(session.end)),
        base: session.end,
        last_time_ms: 0,
        records: (0..records).map(|_| Bytes::from(vec![7; RECORD_BYTES])).collect(),
        projection: None,
        origin: None,
        erase: Vec::new(),
        reservation,
    };
    session.version = store.append(session.opened.log, session.opened.term, session.version, batch).await?;
    session.end += records as u64;
    Ok(())
}

impl Way for Journal {
    fn name(&self) -> &'static str {
        self.name
    }

    fn commit(&mut self, records: usize) -> Result<(), Failure> {
        let Self { runtime, store, sessions, .. } = self;
        if self.together {
            return Ok(runtime.block_on(append(store, &mut sessions[0], records))?);
        }
        let appends = sessions[..records].iter_mut().map(|session| append(store, session, 1));
        runtime.block_on(try_join_all(appends))?;
        Ok(())
    }
}

struct Redb {
    name: &'static str,
    database: Database,
    commits: u64,
    blobs: bool,
}

impl Redb {
    fn new(name: &'static str, path: &Path, blobs: bool) -> Result<Self, Failure> {
        let database = Database::builder().set_cache_size(64 << 20).create(path)?;
        Ok(Self { name, database, commits: 0, blobs })
    }
}

impl Way for Redb {
    fn name(&self) -> &'static str {
        self.name
    }

    fn commit(&mut self, records: usize) -> Result<(), Failure> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_quick_repair(true);
        if self.blobs {
            let blob = vec![7; records * RECORD_BYTES];
            transaction.open_table(BLOBS)?.insert(self.commits, blob.as_slice())?;
        } else {
            let mut rows = transaction.open_table(ROWS)?;
            for log in 0..records as u64 {
                rows.insert((log, self.commits), [7; RECORD_BYTES].as_slice())?;
            }
        }
        transaction.commit()?;
        self.commits += 1;
        Ok(())
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn main() -> Result<(), Failure> {
    // On the disk of the target folder: the system's folder for temporary files may be memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let path = |name: &str| folder.path().join(name);
    let mut ways: Vec<Box<dyn Way>> = vec![
        Box::new(Raw::new("append + fdatasync, preallocated", &path("preallocated"), PREALLOCATED_BYTES)?),
        Box::new(Raw::new("append + fdatasync, growing", &path("growing"), 0)?),
        Box::new(Journal::new("the store, a record each in as many sessions", &path("spread"), false)?),
        Box::new(Journal::new("the store, one batch in one session", &path("together"), true)?),
        Box::new(Redb::new("redb, one blob a commit", &path("blobs"), true)?),
        Box::new(Redb::new("redb, (log, offset) rows", &path("rows"), false)?),
    ];
    let mut medians = vec![vec![Vec::new(); ways.len()]; GROUPS.len()];
    for _ in 0..ROUNDS {
        for (group, (records, times)) in GROUPS.iter().enumerate() {
            for (index, way) in ways.iter_mut().enumerate() {
                let mut taken = Vec::with_capacity(*times);
                for _ in 0..*times {
                    let started = Instant::now();
                    way.commit(*records)?;
                    taken.push(started.elapsed());
                }
                medians[group][index].push(median(taken));
            }
        }
    }
    println!("| records | way | median of {ROUNDS} rounds (range) | against preallocated | records/s |");
    println!("|---|---|---|---|---|");
    for (group, (records, _)) in GROUPS.iter().enumerate() {
        let base = median(medians[group][0].clone()).as_secs_f64();
        for (way, rounds) in ways.iter().zip(&medians[group]) {
            let time = median(rounds.clone()).as_secs_f64();
            let millis = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
            println!(
                "| {records} | {} | {:.3} ms ({:.3}–{:.3}) | {:.2}x | {:.0} |",
                way.name(),
                time * 1e3,
                millis(rounds.iter().min()),
                millis(rounds.iter().max()),
                time / base,
                *records as f64 / time
            );
        }
    }
    Ok(())
}
