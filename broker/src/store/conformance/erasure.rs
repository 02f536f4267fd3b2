//! Erasure: what reads give from the moment on at which it is durable.
#![allow(clippy::single_range_in_vec_init, reason = "what is erased is a list of ranges, often of one")]

use bytes::Bytes;
use longwire_proto::kind;
use longwire_proto::record::{Sealed, Sender, Stamp, erased, seal};

use crate::store::conformance::{ALL, Session, batch, id, read};
use crate::store::{Batch, ReadLimit, Store, StoreError};

/// A record as the broker keeps it.
pub(crate) fn sealed(time_ms: u64, text: &str) -> Bytes {
    let stamp =
        Stamp { time_ms, sender: Sender { principal: "ada".into(), ..Sender::default() }, producer: None };
    // Field 18 is the text.
    let mut record = vec![0x92, 0x01];
    let mut length = text.len();
    while length >= 0x80 {
        record.push(length as u8 | 0x80);
        length >>= 7;
    }
    record.push(length as u8);
    record.extend_from_slice(text.as_bytes());
    seal(&stamp, &[record.into()]).remove(0)
}

/// What is left of [`sealed`].
pub(crate) fn tombstone(time_ms: u64) -> Bytes {
    erased(&sealed(time_ms, "")).unwrap()
}

impl Session {
    /// Appends texts as records whose times are their offsets, and erases.
    pub(crate) async fn publish(
        &mut self,
        store: &impl Store,
        texts: &[&str],
        erase: &[std::ops::Range<u64>],
    ) -> Result<(), StoreError> {
        let records = (self.end..).zip(texts).map(|(offset, text)| sealed(offset + 1, text)).collect();
        let batch = Batch {
            records,
            erase: erase.to_vec(),
            ..batch(u128::from(self.end) << 8 | 1 << 100, self.end, &[])
        };
        self.version = store.append(self.opened.log, self.opened.term, self.version, batch).await?;
        self.end += texts.len() as u64;
        Ok(())
    }

    /// The bodies from `from` on, read in pieces of `records`; `-` for an erased one.
    pub(crate) async fn bodies(&self, store: &impl Store, from: u64, records: usize) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let next = from + all.len() as u64;
            let chunk = read(store, self.opened.log, next, ReadLimit { records, ..ALL }).await;
            assert_eq!(chunk.from, next);
            if chunk.records.is_empty() {
                return all;
            }
            for (offset, record) in (next..).zip(&chunk.records) {
                let view = Sealed::parse(record).unwrap();
                assert_eq!((view.time_ms, view.principal), (offset + 1, "ada"));
                if view.kind == kind::TOMBSTONE {
                    assert_eq!(*record, tombstone(offset + 1));
                    all.push("-".into());
                } else {
                    all.push(String::from_utf8(view.body.to_vec()).unwrap());
                }
            }
        }
    }
}

pub(crate) async fn erases(store: impl Store) {
    let mut session = Session::open(&store, "a").await;
    let refused = session.publish(&store, &["x"], &[0..0]).await;
    assert!(matches!(refused, Err(StoreError::OutOfRange(_))), "{refused:?}");
    session.publish(&store, &["zero", "one", "two"], &[]).await.unwrap();
    session.publish(&store, &["three"], &[1..2]).await.unwrap();
    assert_eq!(session.bodies(&store, 0, 9).await, ["zero", "-", "two", "three"]);
    for range in [4..5, 3..5, 0..u64::MAX] {
        let refused = session.publish(&store, &["x"], &[range]).await;
        assert!(matches!(refused, Err(StoreError::OutOfRange(_))), "{refused:?}");
    }
    // Again, over each other, and nothing at all.
    session.publish(&store, &[], &[0..2, 3..4, 2..2]).await.unwrap();
    session.publish(&store, &["four"], &[0..1, 0..2]).await.unwrap();
    for records in [1, 2, 9] {
        assert_eq!(session.bodies(&store, 0, records).await, ["-", "-", "two", "-", "four"]);
        assert_eq!(session.bodies(&store, 1, records).await, ["-", "two", "-", "four"]);
    }
    // Settled by now, since snapshots are.
    session.snapshot(&store).await;
    session.publish(&store, &["five"], &[2..3]).await.unwrap();
    session.snapshot(&store).await;
    assert_eq!(session.bodies(&store, 0, 3).await, ["-", "-", "-", "-", "four", "five"]);
    // A change of the session itself stays.
    let change = Bytes::from_static(&[0x48, 10, 0x92, 0x01, 1, b'x']);
    let batch = Batch { records: vec![change.clone()], ..batch(77, session.end, &[]) };
    session.version =
        store.append(session.opened.log, session.opened.term, session.version, batch).await.unwrap();
    session.end += 1;
    session.publish(&store, &["seven"], &[5..7]).await.unwrap();
    let chunk = store.read(session.opened.log, 5, ALL).await.unwrap();
    assert_eq!(chunk.records, [tombstone(6), change, sealed(8, "seven")]);
    // Its bytes are corrected in the background.
    let left = [sealed(5, "four"), sealed(8, "seven")].map(|record| record.len() as u64);
    let bytes = 5 * tombstone(1).len() as u64 + 6 + left.iter().sum::<u64>();
    session.snapshot(&store).await;
    while store.open(&id("a")).await.unwrap().bytes != bytes {
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn erases_what_others_show(store: impl Store) {
    let mut parent = Session::open(&store, "parent").await;
    parent.publish(&store, &["p0", "p1", "p2", "p3"], &[]).await.unwrap();
    let shared = parent.opened.log;
    let mut fork = Session::open(&store, "fork").await;
    let mut low = Session::open(&store, "low").await;
    for (session, start, base) in [(&mut fork, 0, 3), (&mut low, 1, 2)] {
        let epochs = super::lifecycle::lineage(&[(0, 0), (1, base)]);
        let first = super::lifecycle::beginning(start, base, Some(shared), epochs, &[]);
        let first = Batch { records: vec![sealed(base + 1, "own")], ..first };
        let (log, term) = (session.opened.log, session.opened.term);
        session.version = store.append(log, term, session.version, first).await.unwrap();
        session.end = base + 1;
    }
    let refused = fork.publish(&store, &["x"], &[2..4]).await;
    assert!(
        matches!(&refused, Err(StoreError::OutOfRange(text)) if text.contains(&shared.0.to_string())),
        "{refused:?}"
    );
    parent.publish(&store, &["p4"], &[1..2]).await.unwrap();
    assert_eq!(fork.bodies(&store, 0, 9).await, ["p0", "-", "p2", "own"]);
    assert_eq!(low.bodies(&store, 1, 9).await, ["-", "own"]);
    fork.publish(&store, &["f4"], &[3..4]).await.unwrap();
    assert_eq!(fork.bodies(&store, 0, 9).await, ["p0", "-", "p2", "-", "f4"]);
    assert_eq!(low.bodies(&store, 1, 9).await, ["-", "own"]);
    // What the parent has trimmed is nobody's but theirs who show it.
    parent.snapshot(&store).await;
    store.trim(shared, parent.opened.term, 1, 0).await.unwrap();
    let refused = fork.publish(&store, &["x"], &[0..1, 2..3]).await;
    assert!(matches!(&refused, Err(StoreError::OutOfRange(text)) if text.contains("2 ")), "{refused:?}");
    store.check_erase(fork.opened.log, vec![0..1]).await.unwrap();
    fork.publish(&store, &[], &[0..1]).await.unwrap();
    assert_eq!(fork.bodies(&store, 0, 9).await, ["-", "-", "p2", "-", "f4"]);
    store.delete(shared, parent.opened.term).await.unwrap();
    low.publish(&store, &["l3"], &[]).await.unwrap();
    fork.publish(&store, &["f5"], &[0..1, 2..4]).await.unwrap();
    assert_eq!(fork.bodies(&store, 0, 9).await, ["-", "-", "-", "-", "f4", "f5"]);
    assert_eq!(low.bodies(&store, 1, 9).await, ["-", "own", "l3"]);
    store.delete(fork.opened.log, fork.opened.term).await.unwrap();
    low.publish(&store, &["l4"], &[1..3]).await.unwrap();
    assert_eq!(low.bodies(&store, 1, 9).await, ["-", "-", "l3", "l4"]);
    let opened = store.open(&id("low")).await.unwrap();
    assert_eq!((opened.start, opened.end), (1, 5));
}
