//! The command line as its users run it: real commands in durable sessions, watched over kill -9 of the broker.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::broker::{Broker, LONGWIRE, folder};
use crate::support::proxy::Proxy;

/// The binary, pointed at a broker, with a spool folder of its own.
fn command(url: &str, spool: &Path) -> Command {
    let mut command = Command::new(LONGWIRE);
    command.env("LONGWIRE_URL", url).env("XDG_STATE_HOME", spool).stdin(Stdio::null());
    command
}

fn piped(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the wrapped command itself wrote: without what the wrapper says.
fn own_lines(stderr: &[u8]) -> String {
    text(stderr).split_inclusive('\n').filter(|line| !line.starts_with("longwire: ")).collect()
}

fn lines_with(whole: &str, prefix: &str) -> String {
    whole.split_inclusive('\n').filter(|line| line.starts_with(prefix)).collect()
}

fn tail_raw(url: &str, spool: &Path, session: &str) -> Child {
    piped(command(url, spool).args(["tail", session, "--from", "start", "--raw"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_watched_over_two_kills_of_the_broker() {
    const ROUNDS: usize = 3;
    const LINES: usize = 400;
    let (folder, data) = folder();
    let spool = folder.path().join("state");
    let mut broker = Broker::start(&data);
    let proxy = Proxy::start(broker.address()).await;
    let url = proxy.url();
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // Two watchers before there is a session, one in the middle.
    let mut watchers = vec![tail_raw(&url, &spool, "demo/job"), tail_raw(&url, &spool, "demo/job")];
    let script = "while read n; do echo \"out $n\"; echo \"err $n\" >&2; done < \"$0\"";
    let mut run = command(&url, &spool);
    let run = piped(
        run.args(["run", "--close", "demo/job", "--title", "A job", "--", "sh", "-c", script]).arg(&fifo),
    );
    let mut feed = File::options().write(true).open(&fifo).unwrap();
    for round in 0..ROUNDS {
        for line in 0..LINES {
            writeln!(feed, "{}", round * LINES + line).unwrap();
        }
        if round == 1 {
            // One watcher stops and is started again; what it has seen is seen again, from the start.
            let mut stopped = watchers.remove(0);
            stopped.kill().unwrap();
            stopped.wait().unwrap();
            watchers.push(tail_raw(&url, &spool, "demo/job"));
        }
        if round < ROUNDS - 1 {
            broker.kill();
            proxy.set_upstream(None);
            broker = Broker::start(&data);
            proxy.set_upstream(Some(broker.address()));
        }
    }
    drop(feed);
    let run = tokio::task::spawn_blocking(move || run.wait_with_output().unwrap()).await.unwrap();
    assert!(run.status.success(), "{}", text(&run.stderr));
    let expected =
        |kind: &str| (0..ROUNDS * LINES).map(|line| format!("{kind} {line}\n")).collect::<String>();
    assert_eq!(text(&run.stdout), expected("out"));
    assert_eq!(own_lines(&run.stderr), expected("err"));
    let mut seen = Vec::new();
    for watcher in watchers {
        let output = tokio::task::spawn_blocking(move || watcher.wait_with_output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        seen.push(text(&output.stdout));
    }
    assert_eq!(lines_with(&seen[0], "out"), expected("out"));
    assert_eq!(lines_with(&seen[0], "err"), expected("err"));
    assert_eq!(seen[0].len(), expected("out").len() + expected("err").len());
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_ends_while_the_broker_is_away_and_nothing_of_it_is_lost() {
    let (folder, data) = folder();
    let spool = folder.path().join("state");
    let broker = Broker::start(&data);
    let proxy = Proxy::start(broker.address()).await;
    broker.kill();
    proxy.set_upstream(None);
    let ended = folder.path().join("ended");
    let script = "seq 5000; touch \"$0\"; exit 4";
    let mut run = command(&proxy.url(), &spool);
    let run = piped(run.args(["run", "s", "--", "sh", "-c", script]).arg(&ended));
    let run = tokio::task::spawn_blocking(move || run.wait_with_output().unwrap());
    // The command does not wait for the broker; only its wrapper does.
    while !ended.exists() {
        tokio::task::yield_now().await;
    }
    let broker = Broker::start(&data);
    proxy.set_upstream(Some(broker.address()));
    let run = run.await.unwrap();
    assert_eq!(run.status.code(), Some(4), "{}", text(&run.stderr));
    let tail =
        output(command(&proxy.url(), &spool).args(["tail", "s", "--from", "start", "--raw", "--no-follow"]));
    assert_eq!(text(&tail.stdout), (1..=5000).map(|line| format!("{line}\n")).collect::<String>());
    // The run came late, too, and ended as the command did.
    let runs = text(&output(command(&proxy.url(), &spool).args(["runs", "s"])).stdout);
    assert!(runs.starts_with("✗ sh -c seq 5000") && runs.ends_with("exit status 4  (failed)\n"), "{runs}");
}

#[test]
fn a_session_that_is_not_there_yet_is_waited_for_and_said_so() {
    let (folder, data) = folder();
    let spool = folder.path().join("state");
    let broker = Broker::start(&data);
    let mut tail = tail_raw(&broker.url(), &spool, "later");
    let mut stderr = BufReader::new(tail.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("no session later yet") {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
    }
    let now = |arguments: &[&str]| output(command(&broker.url(), &spool).args(arguments)).status.success();
    assert!(now(&["pub", "later", "at last"]) && now(&["session", "close", "later"]));
    assert_eq!(text(&tail.wait_with_output().unwrap().stdout), "at last\n");
}

#[test]
fn bytes_are_kept_exactly_whatever_the_lines_are() {
    let (folder, data) = folder();
    let spool = folder.path().join("state");
    let broker = Broker::start(&data);
    let mut bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    bytes.extend(vec![b'x'; 2_500_000]);
    bytes.extend(b"\n\n\r\n\xff\xfe\nno newline at the end");
    let file = folder.path().join("bytes");
    std::fs::write(&file, &bytes).unwrap();
    let run = output(command(&broker.url(), &spool).args(["run", "s", "--", "cat"]).arg(&file));
    assert!(run.status.success() && run.stdout == bytes, "{}", text(&run.stderr));
    let tail =
        output(command(&broker.url(), &spool).args(["tail", "s", "--from", "start", "--raw", "--no-follow"]));
    assert!(tail.stdout == bytes, "{} bytes instead of {}", tail.stdout.len(), bytes.len());
}

#[test]
fn the_wrapper_is_transparent_to_exit_codes_signals_and_the_environment() {
    let (folder, data) = folder();
    let spool = folder.path().join("state");
    let broker = Broker::start(&data);
    let url = broker.url();
    let status = |script: &str| {
        let run = output(command(&url, &spool).args(["run", "codes", "--", "sh", "-c", script]));
        run.status.code()
    };
    assert_eq!(status("exit 0"), Some(0));
    assert_eq!(status("exit 42"), Some(42));
    assert_eq!(status("kill -9 $$"), Some(137));
    let environment = output(command(&url, &spool).args([
        "run",
        "a/b",
        "--",
        "sh",
        "-c",
        "echo $LONGWIRE_URL $LONGWIRE_SESSION",
    ]));
    assert_eq!(text(&environment.stdout), format!("{url} a/b\n"));
    let missing = output(command(&url, &spool).args(["run", "never", "--", "no-such-command"]));
    assert_eq!(missing.status.code(), Some(127));
    assert!(text(&missing.stderr).contains("no-such-command"), "{}", text(&missing.stderr));
    let never = output(command(&url, &spool).args(["session", "show", "never"]));
    assert!(!never.status.success(), "nothing was published");
    // SIGTERM reaches the command, which decides what becomes of it.
    let script = "trap 'echo stopping; exit 7' TERM; echo ready; while :; do sleep 0.02; done";
    let mut run = piped(command(&url, &spool).args(["run", "signals", "--", "sh", "-c", script]));
    let mut stdout = BufReader::new(run.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
    line.clear();
    stdout.read_to_string(&mut line).unwrap();
    assert_eq!((line.as_str(), run.wait().unwrap().code()), ("stopping\n", Some(7)));
    let exit = ["--json", "tail", "signals", "--from", "start", "--type", "longwire.exit", "--no-follow"];
    let exit = output(command(&url, &spool).args(exit));
    let exit: serde_json::Value = serde_json::from_slice(&exit.stdout).unwrap();
    assert_eq!(exit["headers"]["longwire-exit-status"], "7", "{exit}");
    let runs = output(command(&url, &spool).args(["--json", "runs", "signals"]));
    let run: serde_json::Value = serde_json::from_slice(&runs.stdout).unwrap();
    assert_eq!((&run["state"], &run["note"]), (&"failed".into(), &"exit status 7".into()), "{run}");
    assert_eq!(exit["run"], run["id"], "{exit}");
}

#[test]
fn messages_reach_the_standard_input_of_the_command() {
    let (folder, data) = folder();
    let spool = folder.path().join("state");
    let broker = Broker::start(&data);
    let url = broker.url();
    let script = "echo ready; read a; echo \"got $a\"; read b; echo \"and $b\"";
    let mut run = piped(command(&url, &spool).args(["run", "--stdin", "talk", "--", "sh", "-c", script]));
    let mut stdout = BufReader::new(run.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        line
    };
    let say =
        |words: &str| assert!(output(command(&url, &spool).args(["pub", "talk", words])).status.success());
    assert_eq!(next(), "ready\n");
    say("hello");
    assert_eq!(next(), "got hello\n");
    say("bye");
    assert_eq!(next(), "and bye\n");
    assert!(run.wait().unwrap().success());
    let tail =
        output(command(&url, &spool).args(["tail", "talk", "--from", "start", "--raw", "--no-follow"]));
    // What the command says is on its way while others speak, so only its own order is certain.
    let mut said: Vec<String> = text(&tail.stdout).lines().map(str::to_owned).collect();
    let own: Vec<_> =
        said.iter().filter(|line| !["hello", "bye"].contains(&line.as_str())).cloned().collect();
    assert_eq!(own, ["ready", "got hello", "and bye"]);
    said.sort();
    assert_eq!(said, ["and bye", "bye", "got hello", "hello", "ready"]);
}

#[test]
fn sessions_are_listed_shown_created_closed_and_deleted() {
    let (folder, data) = folder();
    let spool = folder.path().join("state");
    let broker = Broker::start(&data);
    let url = broker.url();
    let run = |arguments: &[&str]| output(command(&url, &spool).args(arguments));
    let json = |arguments: &[&str]| -> serde_json::Value {
        let output = run(&[&["--json"], arguments].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {output:?}"))
    };
    assert!(run(&["session", "create", "a/b", "--title", "Build"]).status.success());
    let mut publish = command(&url, &spool);
    let mut publish = piped(publish.args(["pub", "a/c", "-"]).stdin(Stdio::piped()));
    publish.stdin.take().unwrap().write_all(b"one\ntwo\nthree").unwrap();
    assert!(publish.wait().unwrap().success());
    let list = run(&["session", "list"]);
    assert!(
        text(&list.stdout).contains("a/b") && text(&list.stdout).contains("Build"),
        "{}",
        text(&list.stdout)
    );
    assert_eq!(json(&["session", "show", "a/c"])["end"], 3);
    assert!(run(&["pub", "a/d", "noise"]).status.success());
    assert!(run(&["pub", "a/d", "signal", "--type", "note"]).status.success());
    assert!(run(&["pub", "a/d", "noise"]).status.success());
    let notes = run(&["tail", "a/d", "--from", "start", "--type", "note", "--raw", "--no-follow"]);
    assert_eq!(text(&notes.stdout), "signal\n");
    assert!(run(&["session", "close", "a/c"]).status.success());
    let late = run(&["pub", "a/c", "late"]);
    assert!(late.status.code() == Some(1) && text(&late.stderr).contains("closed"), "{}", text(&late.stderr));
    let tail = run(&["tail", "a/c", "--from", "start", "--raw"]);
    assert_eq!(text(&tail.stdout), "one\ntwo\nthree\n", "a closed session's tail ends by itself");
    assert!(run(&["session", "delete", "a/c"]).status.success());
    let gone = run(&["session", "show", "a/c"]);
    assert!(gone.status.code() == Some(1) && text(&gone.stderr).contains("a/c"), "{}", text(&gone.stderr));
}

#[test]
fn wrong_usage_is_named() {
    let (folder, data) = folder();
    let spool = folder.path().join("state");
    let broker = Broker::start(&data);
    let run = |arguments: &[&str]| {
        let output = output(command(&broker.url(), &spool).args(arguments));
        (output.status.code(), text(&output.stderr))
    };
    for (arguments, part) in [
        (&["tail", "a b"][..], "' '"),
        (&["tail", "a", "--from", "yesterday"], "yesterday"),
        (&["pub", "a//b", "x"], "segment 2"),
        (&["run", "--"], "COMMAND"),
        (&["--url", "http://here", "pub", "a", "x"], "ws://"),
        (&["fly"], "fly"),
    ] {
        let (code, stderr) = run(arguments);
        assert!(code == Some(2) && stderr.contains(part), "{arguments:?}: {code:?} {stderr}");
    }
    assert!(output(command(&broker.url(), &spool).args(["pub", "a", "x"])).status.success());
    let (code, stderr) = run(&["tail", "a", "--from", "99"]);
    assert!(code == Some(1) && stderr.contains("beyond"), "{code:?} {stderr}");
    let (code, stderr) = run(&["--url", "ws://127.0.0.1:1", "pub", "a", "x"]);
    assert!(code == Some(5) && stderr.contains("127.0.0.1:1"), "{code:?} {stderr}");
}
