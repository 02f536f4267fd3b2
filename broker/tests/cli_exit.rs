//! What `longwire` says and exits with when there is no broker, no command or no sense in what was asked.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

/// An address at which nobody listens: a free port could be taken by another test meanwhile.
const NOBODY: &str = "ws://127.0.0.1:1";

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// A state folder of its own.
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn longwire(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longwire"));
        command.args(arguments).env("LONGWIRE_URL", NOBODY).env("XDG_STATE_HOME", self.folder.path());
        command.stdin(std::process::Stdio::null()).output().unwrap()
    }

    fn files(&self) -> usize {
        let spool = self.folder.path().join("longwire/spool");
        let brokers = std::fs::read_dir(spool).into_iter().flatten().flatten();
        brokers.map(|broker| std::fs::read_dir(broker.path()).unwrap().count()).sum()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_command_that_cannot_be_run_exits_as_in_a_shell_and_leaves_nothing() {
    let place = Place::new();
    let output = place.longwire(&["run", "a", "--", "/no/such/command"]);
    assert_eq!(output.status.code(), Some(127));
    assert!(said(&output).contains("command not found"), "{}", said(&output));
    let output = place.longwire(&["run", "a", "--", "/dev/null"]);
    assert_eq!(output.status.code(), Some(126));
    assert!(said(&output).contains("cannot be run"), "{}", said(&output));
    assert_eq!(place.files(), 0);
}

#[test]
fn one_shot_commands_say_that_the_broker_is_unreachable() {
    let place = Place::new();
    for arguments in [
        &["pub", "a", "text"][..],
        &["session", "list"],
        &["session", "show", "a"],
        &["tail", "a", "--no-follow"],
    ] {
        let output = place.longwire(arguments);
        assert_eq!(output.status.code(), Some(5), "{arguments:?}");
        assert!(said(&output).contains("longwire serve"), "{}", said(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn wrong_usage_exits_with_2_and_names_what_is_wrong() {
    let place = Place::new();
    for (arguments, named) in [
        (&["run", "a"][..], "COMMAND"),
        (&["pub", "no spaces", "x"], "' '"),
        (&["tail", "a", "--from", "yesterday"], "yesterday"),
        (&["dance"], "dance"),
        (&["session", "list", "--url", "http://box"], "wss://"),
        (&["session", "list", "--url", "ws://box", "--ca", "f"], "wss://"),
    ] {
        let output = place.longwire(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(said(&output).contains(named), "{}", said(&output));
    }
    let output = place.longwire(&["session", "list", "--url", "wss://box", "--ca", "/nowhere/ca.pem"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("/nowhere/ca.pem"), "{}", said(&output));
}
