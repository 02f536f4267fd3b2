//! How long one settling takes: an append in each of some sessions of many, moved into the database.
//!
//! `cargo bench -p longwire-benches --bench settling`

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use longwire_broker::store::local::{LocalConfig, LocalStore};
use longwire_broker::store::{Batch, BatchId, Opened, Projection, Reservation, Store, StoreError, Version};
use tokio::runtime::Runtime;

/// Sessions in the store.
const SESSIONS: usize = 20_000;
/// Sessions that a settling is about, spread evenly.
const CHANGED: usize = 1000;
/// Settlings measured.
const ROUNDS: usize = 40;

type Failure = Box<dyn std::error::Error>;

struct Session {
    opened: Opened,
    version: Version,
    end: u64,
}

async fn append(
    store: &LocalStore,
    session: &mut Session,
    projection: Option<Projection>,
) -> Result<(), StoreError> {
    let batch = Batch {
        id: BatchId(u128::from(session.end)),
        base: session.end,
        last_time_ms: 0,
        records: vec![Bytes::from(vec![7; 256])],
        projection,
        origin: None,
        erase: Vec::new(),
        reservation: Reservation::none(),
    };
    session.version = store.append(session.opened.log, session.opened.term, session.version, batch).await?;
    session.end += 1;
    Ok(())
}

fn main() -> Result<(), Failure> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let runtime = Runtime::new()?;
    let store = LocalStore::open(LocalConfig::new(folder.path()))?;
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        let opened = runtime.block_on(store.open(&format!("bench/{number}").parse()?))?;
        sessions.push(Session { version: opened.version, end: opened.end, opened });
    }
    for some in sessions.chunks_mut(CHANGED) {
        let row = Projection { row: vec![b'r'; 200].into(), ..Projection::default() };
        runtime.block_on(try_join_all(some.iter_mut().map(|one| append(&store, one, Some(row.clone())))))?;
    }
    runtime.block_on(store.settle())?;
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let changed = sessions.iter_mut().skip(round).step_by(SESSIONS / CHANGED);
        runtime.block_on(try_join_all(changed.map(|one| append(&store, one, None))))?;
        let started = Instant::now();
        runtime.block_on(store.settle())?;
        times.push(started.elapsed());
    }
    times.sort();
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "settling {CHANGED} of {SESSIONS} sessions: median {:.2} ms ({:.2}–{:.2})",
        millis(times[times.len() / 2]),
        millis(times[0]),
        millis(times[times.len() - 1])
    );
    Ok(())
}
