//! Pages of a session, in both directions, against the list of its records.
#![allow(clippy::unwrap_used)] // a test: a panic is its failure

use std::sync::Arc;

use bytes::Bytes;
use longwire_broker::filter::Filter;
use longwire_broker::log_reader::LogReader;
use longwire_broker::page::{Page, PageReader, Unit};
use longwire_broker::read_view::ReadView;
use longwire_broker::store::memory::MemoryStore;
use longwire_broker::store::{Batch, BatchId, Reservation, Store};
use longwire_proto::limits::{DELIVERY_BYTES_MAX, READ_SCAN_MAX};
use longwire_proto::record::{Sender, Stamp, seal};
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use proptest::prelude::*;
use prost::Message;

fn record(name: &str, bytes: usize) -> Bytes {
    let body = Some(wire::record::Body::Text("x".repeat(bytes)));
    let record = wire::Record { r#type: name.into(), body, ..Default::default() };
    let stamp = Stamp { time_ms: 1, sender: Sender::default(), producer: None };
    seal(&stamp, &[Bytes::from(record.encode_to_vec())]).remove(0)
}

async fn log_of(records: &[Bytes]) -> LogReader {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let session = SessionId::parse("s").unwrap();
    let opened = store.open(&session).await.unwrap();
    let (mut version, mut base) = (opened.version, 0);
    for some in records.chunks(1000) {
        let batch = Batch {
            id: BatchId(u128::from(base)),
            base,
            last_time_ms: 1,
            records: some.to_vec(),
            projection: None,
            origin: None,
            erase: Vec::new(),
            reservation: Reservation::none(),
        };
        version = store.append(opened.log, opened.term, version, batch).await.unwrap();
        base += some.len() as u64;
    }
    LogReader { store, session, log: opened.log }
}

fn filter(name: &str) -> Option<Filter> {
    Filter::from_wire(Some(wire::Filter { types: vec![name.into()], ..Default::default() })).unwrap()
}

fn check(page: &Page, limit: usize) {
    assert!(page.records.len() <= limit);
    let bytes: usize = page.records.iter().map(|(_, record)| record.len()).sum();
    assert!(bytes <= DELIVERY_BYTES_MAX || page.records.len() == 1);
    assert!(page.records.iter().all(|(offset, _)| (page.from..page.next).contains(offset)));
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Pages from any place on, in either direction, join and show exactly what passes.
    #[test]
    fn pages_join_and_show_what_passes(
        lengths in prop::collection::vec(prop_oneof![9 => 0..50usize, 1 => 30_000..300_000usize], 1..150),
        filtered in any::<bool>(),
        limit in 1..40usize,
        place in 0.0..1.0f64,
    ) {
        let names = ["a", "b", "b"];
        let records: Vec<Bytes> =
            lengths.iter().enumerate().map(|(index, bytes)| record(names[index % 3], *bytes)).collect();
        let end = records.len() as u64;
        let passes = |offset: u64| !filtered || offset.is_multiple_of(3);
        let place = (place * end as f64) as u64;
        run(async {
            let log = log_of(&records).await;
            let pages = PageReader { log, filter: filtered.then(|| filter("a")).flatten(), limit, unit: Unit::Records, view: ReadView::Raw };
            let (mut next, mut seen) = (place, Vec::new());
            while next < end {
                let page = pages.forwards(next, end).await.unwrap();
                assert_eq!(page.from, next);
                assert!(page.next > next, "a page goes on");
                check(&page, limit);
                seen.extend(page.records);
                next = page.next;
            }
            let expected = |range: std::ops::Range<u64>| -> Vec<(u64, Bytes)> {
                range.filter(|offset| passes(*offset)).map(|o| (o, records[o as usize].clone())).collect()
            };
            assert_eq!(seen, expected(place..end));
            let (mut before, mut seen) = (place, Vec::new());
            while before > 0 {
                let page = pages.backwards(0, before).await.unwrap();
                assert_eq!(page.next, before);
                assert!(page.from < before, "a page goes on");
                check(&page, limit);
                seen.splice(0..0, page.records);
                before = page.from;
            }
            assert_eq!(seen, expected(0..place));
        });
    }
}

#[test]
fn a_filter_that_nothing_passes_gives_short_pages_and_not_long_waits() {
    let records = vec![record("a", 1); READ_SCAN_MAX * 2 + 10];
    let end = records.len() as u64;
    run(async {
        let log = log_of(&records).await;
        let pages =
            PageReader { log, filter: filter("none"), limit: 10, unit: Unit::Records, view: ReadView::Raw };
        let forwards = pages.forwards(0, end).await.unwrap();
        let backwards = pages.backwards(0, end).await.unwrap();
        assert!(forwards.next < end && forwards.next >= READ_SCAN_MAX as u64);
        assert!(backwards.from > 0 && end - backwards.from >= READ_SCAN_MAX as u64);
        assert!(forwards.records.is_empty() && backwards.records.is_empty());
    });
}
