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

fn longwire_in(folder: &std::path::Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longwire"));
    command.current_dir(folder).args(arguments).env("LONGWIRE_URL", NOBODY).env_remove("LONGWIRE_TOKEN");
    command.envs(variables.iter().copied()).stdin(std::process::Stdio::null()).output().unwrap()
}

#[test]
fn tokens_and_keys_say_what_is_wrong_with_what_was_given() {
    let place = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| longwire_in(place.path(), arguments, &[]);
    let create = |more: &[&'static str]| {
        [&["token", "create", "--data", "d", "--sub", "ada", "--grant", "a/**:read"][..], more].concat()
    };
    for (arguments, code, named) in [
        (create(&[]), 1, "--data"),
        (vec!["key", "show"], 1, "longwire-data"),
        (vec!["key", "rotate"], 1, "longwire-data"),
        (vec!["token", "create", "--sub", "ada"], 2, "--grant"),
        (vec!["token", "create", "--sub", "ada", "--grant", "a/**/b:read"], 2, "a/**/b:read"),
        (vec!["token", "create", "--sub", "ada", "--grant", "a/**:read", "--ttl", "soon"], 2, "soon"),
        (vec!["token", "create", "--sub", "ada", "--grant", "a/**:read", "--kind", "cat"], 2, "human"),
        (vec!["token", "inspect"], 2, "empty"),
        (vec!["token", "inspect", "-"], 2, "empty"),
        (vec!["token", "inspect", "what"], 1, "base64url"),
        (vec!["token", "revoke"], 2, "TOKEN"),
        (vec!["token", "revoke", "-"], 2, "empty"),
        (vec!["token", "revoke", "a.b.c"], 5, "longwire serve"),
    ] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?} {}", said(&output));
        assert!(said(&output).contains(named), "{arguments:?} {}", said(&output));
        assert!(output.stdout.is_empty());
    }
    // What is wrong with the folder's keys is theirs, not that of a folder without any.
    std::fs::create_dir(place.path().join("d")).unwrap();
    std::fs::write(place.path().join("d/signing-keys.json"), "{}").unwrap();
    assert!(said(&run(&create(&[]))).contains("others"));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(place.path().join("d/signing-keys.json"), mode).unwrap();
    assert!(said(&run(&create(&[]))).contains("damaged"));
    std::fs::remove_file(place.path().join("d/signing-keys.json")).unwrap();
    longwire_broker::auth::signing_keys::SigningKeys::load_or_make(&place.path().join("d/signing-keys.json"))
        .unwrap();
    for (more, named) in [
        (&["--ttl", "1ms"][..], "milliseconds"),
        (&["--ttl", "999d"], "milliseconds"),
        (&["--device", "my phone"], "device"),
        (&["--sub", "a/b"], "cannot be used multiple times"),
    ] {
        assert!(said(&run(&create(more))).contains(named), "{more:?} {}", said(&run(&create(more))));
    }
    let made = run(&create(&[]));
    assert_eq!(made.status.code(), Some(0));
    // What is captured is the token alone.
    let token = String::from_utf8(made.stdout).unwrap();
    assert_eq!((token.lines().count(), token.split('.').count()), (1, 3));
}

#[test]
fn issuers_that_cannot_be_used_keep_the_broker_from_starting_and_are_named() {
    let place = tempfile::tempdir().unwrap();
    let serve = |issuer: &str| {
        let config = place.path().join("longwire.toml");
        let bounds = "bounds = ['acme/**:read']";
        let head = format!(
            "[[issuers]]\nname = 'https://id.example'\naudience = 'longwire'\nnamespace = 'id'\n{bounds}\n"
        );
        std::fs::write(&config, head + issuer).unwrap();
        let output = longwire_in(
            place.path(),
            &["serve", "--listen", "127.0.0.1:0", "--config", "longwire.toml"],
            &[("LONGWIRE_LOG", "error")],
        );
        assert_eq!(output.status.code(), Some(1), "{issuer}");
        assert!(output.stdout.is_empty(), "{issuer}");
        said(&output)
    };
    std::fs::write(place.path().join("empty.json"), "{\"keys\":[]}").unwrap();
    for (issuer, named) in [
        ("", "exactly one of `keys`"),
        ("keys = 'a'\njwks_url = 'https://id.example/'", "exactly one of `keys`"),
        ("keys = 'absent.json'", "absent.json"),
        ("keys = 'empty.json'", "there is no key"),
        ("jwks_url = 'http://id.example/jwks'", "https://"),
        ("jwks_url = 'https://id.example/jwks'\nca = 'absent.pem'", "absent.pem"),
        ("jwks_url = 'https://id.example/jwks'\nca = 'empty.json'", "no certificate"),
        ("jwks_url = 'https://id.example/jwks'\nrefresh_ms = 5", "refresh_ms"),
        ("keys = 'empty.json'\nallow_private = true", "allow_private"),
    ] {
        let said = serve(issuer);
        assert!(said.contains(named) && said.contains("https://id.example"), "{issuer}: {said}");
    }
    assert!(serve("key = 'a'").contains("unknown field"));
}
