//! A reader that has read everything and waits is told of the next record, however the two come to meet.
#![allow(clippy::unwrap_used)] // tests: a panic is their failure

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use longwire_broker::store::LogId;
use longwire_broker::tail::{Progress, Tail, TailRead};
use longwire_proto::position::Lineage;
use longwire_proto::session_id::SessionId;

/// How often reader and writer meet.
const ROUNDS: u64 = 50_000;
/// Spins of the writer before a record: it comes while the reader looks, or while it goes to sleep, or later.
const SPINS_MAX: u64 = 400;
/// A hang is a failure; nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

fn live() -> Arc<Tail> {
    let tail = Arc::new(Tail::new(Arc::default()));
    let lineage = Arc::new(Lineage::beginning(0));
    tail.loaded(Progress {
        session: SessionId::parse("a").unwrap(),
        log: LogId(1),
        lineage,
        start: 0,
        end: 0,
        closed: false,
        view: Arc::default(),
    });
    tail
}

/// Counts how often somebody is woken.
#[derive(Default)]
struct Woken(AtomicU64);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Between looking and waiting a reader does other things. What changes meanwhile wakes it.
#[test]
fn a_change_between_looking_and_waiting_is_told() {
    let (tail, woken) = (live(), Arc::new(Woken::default()));
    let waker = Waker::from(Arc::clone(&woken));
    let (context, times) = (Context::from_waker(&waker), || woken.0.load(Ordering::Relaxed));
    let mut reader = tail.attach().unwrap();
    assert!(matches!(reader.read(0, &context), TailRead::AtEnd(_)));
    assert_eq!(times(), 0, "nothing has changed");
    assert!(matches!(reader.read(0, &context), TailRead::AtEnd(_)));
    tail.extend(0, vec![Bytes::from_static(b"record")], false, Arc::default());
    assert_eq!(times(), 1, "the record is not told, or twice");
    assert!(matches!(reader.read(0, &context), TailRead::Batch(_)));
    tail.extend(1, vec![Bytes::from_static(b"record")], false, Arc::default());
    assert_eq!(times(), 1, "it does not wait");
}

/// The writer makes one record as soon as the reader has seen the one before, which is when the reader looks again,
/// finds nothing and begins to wait. A change that it takes for seen without having looked leaves both waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_escapes_a_reader_that_begins_to_wait() {
    let tail = live();
    let mut reader = tail.attach().unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let writer = std::thread::spawn({
        let (tail, seen) = (Arc::clone(&tail), Arc::clone(&seen));
        move || {
            for offset in 0..ROUNDS {
                while seen.load(Ordering::Acquire) < offset {
                    std::hint::spin_loop();
                }
                for _ in 0..offset * 7 % SPINS_MAX {
                    std::hint::spin_loop();
                }
                tail.extend(offset, vec![Bytes::from_static(b"record")], false, Arc::default());
            }
        }
    });
    let mut next = 0;
    while next < ROUNDS {
        let read = poll_fn(|context| match reader.read(next, context) {
            TailRead::AtEnd(_) => Poll::Pending,
            read => Poll::Ready(read),
        });
        let Ok(read) = tokio::time::timeout(PATIENCE, read).await else {
            // Or the writer would spin for ever.
            seen.store(ROUNDS, Ordering::Release);
            panic!("the reader at {next} was not told that there is more");
        };
        match read {
            TailRead::Batch(batch) => {
                assert_eq!(batch.part(next, usize::MAX).len() as u64, batch.next() - next);
                next = batch.next();
                seen.store(next, Ordering::Release);
            }
            TailRead::AtEnd(_) => unreachable!("it is waited for"),
            TailRead::Behind(end) => panic!("{next} is not kept, and the end is {end}"),
        }
    }
    writer.join().unwrap();
}
