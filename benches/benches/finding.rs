//! How long it takes to find sessions among very many: pages of the list at any place, with terms and without, pages of the
//! change feed, deadlines.
//!
//! `cargo bench -p longwire-benches --bench finding`

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use longwire_broker::store::local::{LocalConfig, LocalStore};
use longwire_broker::store::{Batch, BatchId, ListQuery, Opened, Projection, Reservation, Store, StoreError};
use longwire_proto::session_id::SessionId;
use tokio::runtime::Runtime;

/// Sessions in the store, unless `LONGWIRE_BENCH_SESSIONS` says otherwise.
const SESSIONS: usize = 1_000_000;
/// Sessions made at a time.
const AT_A_TIME: usize = 2000;
/// Sessions of a page.
const PAGE: usize = 1000;
/// One session of so many has the rare term, the other term, and a deadline.
const RARE: usize = 1000;
const OTHER: usize = 2;
const DUE: usize = 100;

type Failure = Box<dyn std::error::Error>;

fn name(number: usize) -> Result<SessionId, Failure> {
    Ok(format!("acme/team-{:02}/session-{number:07}", number % 50).parse()?)
}

async fn create(store: &LocalStore, number: usize, opened: Opened) -> Result<(), StoreError> {
    let mut terms = vec![Bytes::from_static(b"all")];
    if number.is_multiple_of(OTHER) {
        terms.push(Bytes::from_static(b"other"));
    }
    if number.is_multiple_of(RARE) {
        terms.push(Bytes::from_static(b"rare"));
    }
    let deadline_ms = number.is_multiple_of(DUE).then_some(number as u64);
    let batch = Batch {
        id: BatchId(1),
        base: 0,
        last_time_ms: 0,
        records: vec![Bytes::from(vec![7; 100])],
        projection: Some(Projection { row: vec![b'r'; 200].into(), terms, deadline_ms }),
        origin: None,
        erase: Vec::new(),
        reservation: store.reserve(opened.log, 1000).await.unwrap_or_else(|_| Reservation::none()),
    };
    store.append(opened.log, opened.term, opened.version, batch).await.map(|_| ())
}

struct Bench {
    runtime: Runtime,
    store: LocalStore,
}

impl Bench {
    /// Pages of a query from a few places on, and how long they take.
    fn list(&self, what: &str, prefix: &str, terms: &[&'static str], sessions: usize) -> Result<(), Failure> {
        let mut times = Vec::new();
        let (mut found, mut pages) = (0, 0);
        for place in 0..10 {
            let mut after = Some(name(sessions / 10 * place)?);
            for _ in 0..5 {
                let terms = terms.iter().map(|term| Bytes::from_static(term.as_bytes())).collect();
                let query = ListQuery { prefix: prefix.into(), after, terms, limit: PAGE };
                let started = Instant::now();
                let page = self.runtime.block_on(self.store.list(query))?;
                times.push(started.elapsed());
                found += page.sessions.len();
                pages += 1;
                after = page.more_after;
                if after.is_none() {
                    break;
                }
            }
        }
        print(what, &format!("{found} in {pages} pages"), times);
        Ok(())
    }
}

fn print(what: &str, found: &str, mut times: Vec<Duration>) {
    times.sort();
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("| {what} | {found} | {:.2} ms | {:.2} ms |", millis(median), millis(longest));
}

fn main() -> Result<(), Failure> {
    let sessions = match std::env::var("LONGWIRE_BENCH_SESSIONS") {
        Ok(text) => text.parse()?,
        Err(_) => SESSIONS,
    };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let bench = Bench { runtime: Runtime::new()?, store: LocalStore::open(LocalConfig::new(folder.path()))? };
    let Bench { runtime, store } = &bench;
    let started = Instant::now();
    for first in (0..sessions).step_by(AT_A_TIME) {
        let some: Vec<usize> = (first..sessions.min(first + AT_A_TIME)).collect();
        let names = some.iter().map(|number| name(*number)).collect::<Result<Vec<_>, _>>()?;
        let opened = runtime.block_on(try_join_all(names.iter().map(|name| store.open(name))))?;
        runtime.block_on(try_join_all(some.into_iter().zip(opened).map(|(n, o)| create(store, n, o))))?;
    }
    runtime.block_on(store.settle())?;
    println!("{sessions} sessions made in {:.1} s", started.elapsed().as_secs_f64());
    println!("| what | found | median | longest |\n|---|---|---|---|");
    bench.list("names", "", &[], sessions)?;
    bench.list("names of one team", "acme/team-07/", &[], sessions)?;
    bench.list("a term of all", "", &["all"], sessions)?;
    bench.list("a rare term", "", &["rare"], sessions)?;
    bench.list("a rare term and one of all", "", &["all", "rare"], sessions)?;
    bench.list("one of all and one of half", "", &["all", "other"], sessions)?;
    let (mut times, mut after, mut told) = (Vec::new(), 0, 0);
    for _ in 0..50 {
        let started = Instant::now();
        let page = runtime.block_on(store.changes(after, PAGE))?;
        times.push(started.elapsed());
        told += page.changes.len();
        after = page.through;
    }
    print("changes from 0", &told.to_string(), times);
    let (mut times, mut place, mut found) = (Vec::new(), None, 0);
    for _ in 0..10 {
        let started = Instant::now();
        let due = runtime.block_on(store.due(u64::MAX, place, PAGE))?;
        times.push(started.elapsed());
        found += due.len();
        place = due.last().map(|last| (last.when_ms, last.log));
    }
    print("deadlines", &found.to_string(), times);
    Ok(())
}
