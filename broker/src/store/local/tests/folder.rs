//! The engine in a real folder.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::store::Store;
use crate::store::conformance::Session;
use crate::store::local::error::OpenStoreError;
use crate::store::local::tests::manual;
use crate::store::local::{LocalConfig, LocalStore};

fn files(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let mode = fs::metadata(&folder).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{}", folder.display());
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
                found.insert(path.clone(), (mode, fs::read(path).unwrap()));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_for_the_user_alone() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("data");
    let store = LocalStore::open_tuned(folder.clone(), manual()).unwrap();
    let mut session = Session::open(&store, "a").await;
    session.append(&store, &["x"]).await.unwrap();
    store.shutdown().await.unwrap();
    drop(store);
    let files = files(&folder);
    for name in ["LOCK", "FORMAT", "sessions.redb", "ballast"] {
        assert!(files.contains_key(&folder.join(name)), "{name}");
    }
    assert!(files.keys().any(|path| path.starts_with(folder.join("journal"))));
    for (path, (mode, _)) in files {
        assert_eq!(mode, 0o600, "{}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_broker_and_a_newer_format_are_refused_untouched() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("data");
    let store = LocalStore::open_tuned(folder.clone(), manual()).unwrap();
    let mut session = Session::open(&store, "a").await;
    session.append(&store, &["x"]).await.unwrap();
    let error = LocalStore::open(LocalConfig::new(&folder)).unwrap_err();
    assert!(matches!(&error, OpenStoreError::InUse(found) if *found == folder));
    session.append(&store, &["y"]).await.unwrap();
    drop(store);
    let format = fs::read_to_string(folder.join("FORMAT")).unwrap();
    fs::write(folder.join("FORMAT"), format.replace("longwire-store 2", "longwire-store 7")).unwrap();
    let before = files(&folder);
    let error = LocalStore::open(LocalConfig::new(&folder)).unwrap_err();
    assert!(matches!(error, OpenStoreError::NewerFormat { found: 7, .. }));
    assert_eq!(files(&folder), before);
    fs::write(folder.join("FORMAT"), format.replace("longwire-store 2", "longwire-store 1")).unwrap();
    let before = files(&folder);
    let error = LocalStore::open(LocalConfig::new(&folder)).unwrap_err();
    assert!(matches!(error, OpenStoreError::OlderFormat { found: 1, .. }), "{error}");
    assert_eq!(files(&folder), before);
    fs::write(folder.join("FORMAT"), format).unwrap();
    let store = LocalStore::open_tuned(folder, manual()).unwrap();
    assert_eq!(Session::open(&store, "a").await.read(&store).await, ["x", "y"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_creation_begins_again() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("data");
    drop(LocalStore::open_tuned(folder.clone(), manual()).unwrap());
    let format = fs::read_to_string(folder.join("FORMAT")).unwrap();
    fs::write(folder.join("FORMAT"), format.replace("state ready", "state new")).unwrap();
    fs::write(folder.join("sessions.redb"), "half").unwrap();
    let store = LocalStore::open_tuned(folder, manual()).unwrap();
    Session::open(&store, "a").await.append(&store, &["x"]).await.unwrap();
}
