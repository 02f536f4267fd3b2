//! A client in another language, written from docs/protocol.md alone.

use std::path::Path;
use std::process::Command;

use crate::support::broker::{Broker, folder};

/// The interpreter that `scripts/test` set up; `None` where it did not, which is said loudly and is an error in CI.
pub(crate) fn interpreter() -> Option<String> {
    let python = std::env::var("LONGWIRE_TEST_PYTHON").ok();
    if python.is_none() {
        let message = "SKIPPED: the client in Python is not tested; run ./scripts/test, which sets it up";
        assert!(std::env::var("CI").is_err(), "{message}");
        eprintln!("{message}");
    }
    python
}

fn story(python: &str, arguments: &[&str]) {
    let story = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/story.py");
    let output = Command::new(python).arg(story).args(arguments).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stdout.trim_end().ends_with("ok"), "{stdout}\n{stderr}");
}

#[test]
fn a_client_written_from_the_specification_does_everything() {
    let Some(python) = interpreter() else { return };
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    story(&python, &[&broker.url()]);
    assert!(broker.terminate());
}

#[test]
fn what_it_published_is_there_after_kill_9() {
    let Some(python) = interpreter() else { return };
    let (folder, data) = folder();
    let state = folder.path().join("state.json");
    let state = state.to_str().unwrap();
    let broker = Broker::start(&data);
    story(&python, &[&broker.url(), "--phase", "publish", "--state", state]);
    broker.kill();
    let broker = Broker::start(&data);
    story(&python, &[&broker.url(), "--phase", "verify", "--state", state]);
}
