//! A data folder that a broker of this format left, killed in the middle of its work, is kept in `tests/fixtures`. Every
//! later broker must find in it what is listed here. It is one file: the parts of the folder's files that are not zero.
//!
//! `cargo test -p longwire-broker --lib -- --ignored writes_the_fixture` makes it anew, which is right only while the
//! format has not been released.
#![allow(clippy::single_range_in_vec_init, reason = "what is erased is a list of ranges, often of one")]

use std::fs;
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes};
use longwire_proto::session_id::SessionId;

use crate::store::conformance::erasure::{sealed, tombstone};
use crate::store::conformance::lifecycle::{beginning, lineage};
use crate::store::conformance::{ALL, Session, batch, id};
use crate::store::local::LocalStore;
use crate::store::local::shared::Tuning;
use crate::store::local::tests::manual;
use crate::store::{Batch, ListQuery, LogId, Projection, Snapshot, Store};

const BLOCK: usize = 512;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store-2/folder.bin")
}

fn tuning() -> Tuning {
    Tuning { segment_bytes: 32 << 10, ballast_bytes: 4096, ..manual() }
}

async fn fork(store: &LocalStore, name: &str, start: u64, base: u64, shares: LogId) -> Session {
    let mut session = Session::open(store, name).await;
    let first = beginning(start, base, Some(shares), lineage(&[(0, 0), (1, base)]), &[]);
    let first = Batch { records: vec![sealed(base + 1, "own")], ..first };
    let (log, term) = (session.opened.log, session.opened.term);
    session.version = store.append(log, term, session.version, first).await.unwrap();
    session.end = base + 1;
    session
}

async fn rows(store: &LocalStore, session: &Session, rows: &[(&'static str, &'static str)]) {
    let rows = rows.iter().map(|(key, row)| (Bytes::from(*key), Some(Bytes::from(*row)))).collect();
    let snapshot = Snapshot { through: session.end, rows };
    let durable = store.put_snapshot(session.opened.log, session.opened.term, snapshot);
    store.settle().await.unwrap();
    durable.await.unwrap();
}

/// Works in a folder, and leaves the store open, with something that is not settled.
async fn fill(folder: &Path) -> LocalStore {
    let store = LocalStore::open_tuned(folder.into(), tuning()).unwrap();
    let mut plain = Session::open(&store, "acme/plain").await;
    plain.publish(&store, &["zero", "one", "two"], &[]).await.unwrap();
    rows(&store, &plain, &[("producer", "ada"), ("state", "idle")]).await;
    let fork_of_plain = fork(&store, "acme/fork", 1, 3, plain.opened.log).await;
    drop(fork(&store, "acme/fork-of-fork", 2, 4, fork_of_plain.opened.log).await);
    let mut parent = Session::open(&store, "acme/parent").await;
    parent.publish(&store, &["p0", "p1", "p2", "p3"], &[]).await.unwrap();
    drop(fork(&store, "acme/orphan", 1, 3, parent.opened.log).await);
    let mut trimmed = Session::open(&store, "acme/trimmed").await;
    trimmed.publish(&store, &["t0", "t1", "t2", "t3", "t4"], &[]).await.unwrap();
    rows(&store, &trimmed, &[("k", "v")]).await;
    store.trim(trimmed.opened.log, trimmed.opened.term, 3, 30).await.unwrap();
    let mut erased = Session::open(&store, "acme/erased").await;
    erased.publish(&store, &["e0", "e1", "e2", "e3"], &[]).await.unwrap();
    erased.publish(&store, &["e4"], &[1..2]).await.unwrap();
    let mut deleted = Session::open(&store, "acme/deleted").await;
    deleted.publish(&store, &["gone"], &[]).await.unwrap();
    store.delete(deleted.opened.log, deleted.opened.term).await.unwrap();
    let mut late = Session::open(&store, "acme/late").await;
    late.publish(&store, &["late"], &[]).await.unwrap();
    store.settle().await.unwrap();
    // Rewritten, and not wiped: whoever opens it goes on with that.
    while !store.shared.state().erasing.is_empty() {
        tokio::task::yield_now().await;
    }
    // From here on nothing is settled.
    plain.publish(&store, &["three"], &[]).await.unwrap();
    let projection = Projection { row: "a row".into(), ..Projection::default() };
    let batch = Batch { projection: Some(projection), ..batch(1 << 90, plain.end, &[]) };
    store.append(plain.opened.log, plain.opened.term, plain.version, batch).await.unwrap();
    erased.publish(&store, &["e5"], &[2..3]).await.unwrap();
    store.delete(parent.opened.log, parent.opened.term).await.unwrap();
    store.delete(late.opened.log, late.opened.term).await.unwrap();
    let hidden = store.open(&SessionId::reserved("~import/1").unwrap()).await.unwrap();
    let first = beginning(7, 7, None, lineage(&[(0, 0), (3, 7)]), &[]);
    let first = Batch { records: vec![sealed(8, "seven")], ..first };
    store.append(hidden.log, hidden.term, hidden.version, first).await.unwrap();
    store.rename(hidden.log, hidden.term, id("acme/import")).await.unwrap();
    store
}

/// Everything that must be in the folder.
async fn check(store: &LocalStore) {
    let sessions: [(&str, u64, u64, &[&str]); 7] = [
        ("acme/erased", 0, 0, &["e0", "-", "-", "e3", "e4", "e5"]),
        ("acme/fork", 1, 1, &["one", "two", "own"]),
        ("acme/fork-of-fork", 2, 1, &["two", "own", "own"]),
        ("acme/import", 7, 3, &["seven"]),
        ("acme/orphan", 1, 1, &["p1", "p2", "own"]),
        ("acme/plain", 0, 0, &["zero", "one", "two", "three"]),
        ("acme/trimmed", 3, 0, &["t3", "t4"]),
    ];
    let listed = store.list(ListQuery { limit: 99, ..ListQuery::default() }).await.unwrap().sessions;
    let found: Vec<_> =
        listed.iter().map(|listed| (listed.session.as_str(), listed.start, listed.epoch())).collect();
    let expected = sessions.map(|(name, start, epoch, _)| (name, start, epoch));
    assert_eq!(found, expected);
    for (listed, (name, start, epoch, bodies)) in listed.iter().zip(sessions) {
        let session = Session::open(store, name).await;
        let opened = &session.opened;
        let born = if name == "acme/trimmed" { 0 } else { start };
        assert_eq!((opened.start, opened.born, opened.lineage.epoch()), (start, born, epoch), "{name}");
        assert_eq!((opened.end, listed.end), (start + bodies.len() as u64, opened.end), "{name}");
        let chunk = store.read(listed.log, 0, ALL).await.unwrap();
        assert_eq!(chunk.from, start, "{name}");
        for (offset, body) in (start..).zip(bodies) {
            let record = &store.read(listed.log, offset, ALL).await.unwrap().records[0];
            let expected = if *body == "-" { tombstone(offset + 1) } else { sealed(offset + 1, body) };
            assert_eq!(*record, expected, "{name} {offset}");
        }
    }
    let plain = store.open(&id("acme/plain")).await.unwrap();
    assert_eq!((plain.snapshot_through, plain.version.0), (Some(3), 3));
    let scanned = store.scan_rows(plain.log, Bytes::new(), None, 9).await.unwrap();
    assert_eq!(scanned, [("producer".into(), "ada".into()), ("state".into(), "idle".into())]);
    assert_eq!(listed[5].projection, "a row");
    let trimmed = store.open(&id("acme/trimmed")).await.unwrap();
    assert_eq!(store.rows(trimmed.log, vec!["k".into()]).await.unwrap(), [Some("v".into())]);
    for (name, epoch) in [("acme/deleted", 1), ("acme/parent", 1), ("acme/late", 1), ("acme/never", 0)] {
        let opened = store.open(&id(name)).await.unwrap();
        assert_eq!((opened.exists, opened.lineage.epoch()), (false, epoch), "{name}");
    }
    assert!(!store.open(&SessionId::reserved("~import/1").unwrap()).await.unwrap().exists);
}

/// The files below a folder, by their paths in it.
fn files(folder: &Path, below: &str) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder.join(below)).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{below}{}", entry.file_name().into_string().unwrap());
        if entry.path().is_dir() {
            found.extend(files(folder, &format!("{name}/")));
        } else {
            found.push((name, fs::read(entry.path()).unwrap()));
        }
    }
    found.sort();
    found
}

/// Of each file: name (u8 length, bytes), length u64, count u32 of blocks; of each block that is not zero: number u32, and
/// u8 0 with its bytes, or u8 1 with the one byte that it consists of.
fn pack(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut packed = Vec::new();
    for (name, bytes) in files {
        packed.put_u8(name.len() as u8);
        packed.put_slice(name.as_bytes());
        packed.put_u64_le(bytes.len() as u64);
        let blocks = bytes.chunks(BLOCK).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != 0));
        let blocks: Vec<(usize, &[u8])> = blocks.collect();
        packed.put_u32_le(blocks.len() as u32);
        for (number, block) in blocks {
            packed.put_u32_le(number as u32);
            let same = block.iter().all(|byte| *byte == block[0]);
            packed.put_u8(u8::from(same));
            packed.put_slice(if same { &block[..1] } else { block });
        }
    }
    packed
}

fn unpack(mut packed: &[u8], folder: &Path) {
    while packed.has_remaining() {
        let length = packed.get_u8() as usize;
        let path = folder.join(String::from_utf8(packed.copy_to_bytes(length).to_vec()).unwrap());
        let mut bytes = vec![0; packed.get_u64_le() as usize];
        for _ in 0..packed.get_u32_le() {
            let at = packed.get_u32_le() as usize * BLOCK;
            let until = bytes.len().min(at + BLOCK);
            if packed.get_u8() == 1 {
                bytes[at..until].fill(packed.get_u8());
            } else {
                packed.copy_to_slice(&mut bytes[at..until]);
            }
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

async fn opens(packed: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    unpack(packed, folder.path());
    // As it was left, again after everything is settled and wiped, and once more.
    for _ in 0..2 {
        let store = LocalStore::open_tuned(folder.path().into(), tuning()).unwrap();
        check(&store).await;
        store.erased().await.unwrap();
        check(&store).await;
        store.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_this_format_is_found_whole() {
    opens(&fs::read(fixture()).unwrap()).await;
}

/// The list above is what the folder has, whether or not the one that is kept is of today.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fixture_can_be_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let store = fill(folder.path()).await;
    let packed = pack(&files(folder.path(), ""));
    check(&store).await;
    drop(store);
    opens(&packed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "makes the fixture anew, which changes what later brokers must be able to read"]
async fn writes_the_fixture() {
    let folder = tempfile::tempdir().unwrap();
    let store = fill(folder.path()).await;
    let packed = pack(&files(folder.path(), ""));
    drop(store);
    fs::create_dir_all(fixture().parent().unwrap()).unwrap();
    fs::write(fixture(), &packed).unwrap();
    println!("{} bytes", packed.len());
}
