//! `longwire run` as an agent: the real binary with real commands, which ask, are cancelled, killed and cut off.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use longwire::{Body, Client, From, Record, RunInfo, RunState, Session, Subscription};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::broker::{Broker, LONGWIRE, folder};
use crate::support::proxy::Proxy;
use crate::support::tokens::Tokens;

const DELTA: u32 = 1;
const RUN: u32 = 2;
const ASK: u32 = 3;
const LEASE: u32 = 9;
/// Whose records the broker makes by itself.
const BROKER: &str = "~broker";

/// A broker, and a folder to work in.
struct Place {
    folder: TempDir,
    broker: Broker,
    url: String,
    token: String,
}

impl Place {
    fn new() -> Self {
        let (folder, data) = folder();
        let broker = Broker::start(&data);
        let url = broker.url();
        Self { folder, broker, url, token: String::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn client(&self) -> Client {
        let (client, driver) =
            Client::builder().url(self.broker.url()).token(self.token.as_str()).build().unwrap();
        drop(tokio::spawn(driver));
        client
    }

    fn session(&self, id: &str) -> Session {
        self.client().session(id).unwrap()
    }

    /// The binary, which scripts find by its name, with nothing of the environment that these tests may run in.
    fn longwire(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(LONGWIRE);
        let tools = Path::new(LONGWIRE).parent().unwrap().to_str().unwrap();
        let path = format!("{tools}:{}", std::env::var("PATH").unwrap_or_default());
        command.args(arguments).current_dir(self.folder.path()).env("PATH", path);
        command.env("LONGWIRE_URL", &self.url).env("XDG_STATE_HOME", self.path("state"));
        command.env_remove("LONGWIRE_SESSION").env_remove("LONGWIRE_RUN").env("LONGWIRE_TOKEN", &self.token);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.longwire(arguments).output().unwrap()
    }

    /// Runs a script in a session.
    fn run(&self, options: &[&str], session: &str, script: &str) -> Child {
        let arguments = [&["run"], options, &[session, "--", "sh", "-c", script]].concat();
        self.longwire(&arguments).spawn().unwrap()
    }

    /// What the messages of a session say, as they are shown exactly.
    fn said(&self, session: &str) -> String {
        text(&self.output(&["tail", session, "--from", "start", "--raw", "--no-follow"]).stdout)
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn fifo(&self, name: &str) -> PathBuf {
        let fifo = self.path(name);
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        fifo
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn ended(child: Child) -> (Option<i32>, String, String) {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The next line that a command says.
fn line(stdout: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    line
}

async fn records(session: &Session, kinds: &[u32]) -> Subscription {
    let kinds = kinds.iter().copied();
    session.subscribe(From::Start).wait_for_session().kinds(kinds).await.unwrap()
}

async fn next(records: &mut Subscription, wanted: impl Fn(&Record) -> bool) -> Record {
    loop {
        let record = records.next().await.unwrap().unwrap();
        if wanted(&record) {
            return record;
        }
    }
}

fn is_state(record: &Record, state: &str) -> bool {
    matches!(&record.body, Body::RunChange(change) if change.state == state)
}

fn is_lease(record: &Record, state: &str) -> bool {
    matches!(&record.body, Body::LeaseChange(change) if change.state == state)
}

async fn all(session: &Session) -> Vec<Record> {
    let mut records = session.subscribe(From::Start).until_end().await.unwrap();
    let mut found = Vec::new();
    while let Some(record) = records.next().await {
        found.push(record.unwrap());
    }
    found
}

async fn only_run(session: &Session) -> RunInfo {
    let mut runs = session.describe().await.unwrap().runs;
    assert_eq!(runs.len(), 1, "{runs:?}");
    runs.remove(0)
}

/// How each message that grew ended, and who said so.
fn closes(records: &[Record]) -> Vec<(&str, &str)> {
    let closes = records.iter().filter(|record| !record.close.is_empty());
    closes.map(|record| (record.close.as_str(), record.sender.principal.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shortest_form_builds_asks_and_deploys_on_the_first_option() {
    const COMMAND: &str = "./build.sh && longwire ask \"Deploy?\" --options yes,no && ./deploy.sh";
    for (answer, code, printed, ends_as) in [
        ("yes", 0, "compiling\nlinking\nyes\ndeployed\n", "completed"),
        ("no", 1, "compiling\nlinking\nno\n", "failed"),
    ] {
        let place = Place::new();
        place.script("build.sh", "#!/bin/sh\necho compiling\necho linking\n");
        place.script("deploy.sh", "#!/bin/sh\ntouch was-deployed\necho deployed\n");
        let session = place.session("demo");
        let mut asks = records(&session, &[ASK]).await;
        let run = place.run(&[], "demo", COMMAND);
        let asked = next(&mut asks, |_| true).await;
        let info = session.describe().await.unwrap();
        assert_eq!((info.status.as_str(), info.asks.len()), ("input_required", 1));
        let working = only_run(&session).await;
        assert_eq!((working.id.as_str(), working.state.as_str()), (asked.run.as_str(), "input_required"));
        let tree = text(&place.output(&["runs", "demo"]).stdout);
        assert_eq!(tree, format!("? sh -c {COMMAND}  (input_required)\n"));
        assert!(!place.path("was-deployed").exists());
        let shown = text(&place.output(&["answer", "demo"]).stdout);
        assert!(shown.contains("Deploy?") && shown.contains(&asked.id), "{shown}");
        assert!(place.output(&["answer", "demo", &asked.id, answer]).status.success());
        let (status, stdout, stderr) = ended(run).await;
        assert_eq!((status, stdout.as_str()), (Some(code), printed), "{stderr}");
        assert_eq!(place.path("was-deployed").exists(), answer == "yes");
        // And afterwards the session says all of that.
        let info = session.describe().await.unwrap();
        assert_eq!((info.status.as_str(), info.asks.len()), ("idle", 0));
        assert_eq!(only_run(&session).await.state, ends_as);
        let tree = text(&place.output(&["runs", "demo"]).stdout);
        assert!(tree.ends_with(&format!("({ends_as})\n")), "{tree}");
        let said = place.said("demo");
        let own: String = said.split_inclusive('\n').filter(|line| !line.starts_with("longwire: ")).collect();
        assert_eq!(own, printed, "beside what `longwire ask` says: {said}");
        let log = text(&place.output(&["tail", "demo", "--from", "start", "--no-follow"]).stdout);
        let answered = format!("answers {}: {answer}", asked.id);
        let exit = format!("(exit)     exit status {code}");
        // What is asked comes over another connection than what is said, so between them there is no order before the answer.
        for parts in [
            &["stdout     compiling", "stdout     linking", &answered, &exit, ends_as][..],
            &["started: sh -c", "Deploy?", &answered, &exit],
        ] {
            let mut rest = log.as_str();
            for part in parts {
                let found = rest.split_once(*part);
                rest = found.unwrap_or_else(|| panic!("{part} is not where it belongs in\n{log}")).1;
            }
        }
        let found = all(&session).await;
        assert_eq!(closes(&found), [("complete", "anonymous"); 2]);
        assert!(found.iter().all(|record| record.kind != DELTA || record.run == working.id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_command_is_asked_to_end_and_killed_before_the_deadline() {
    let place = Place::new();
    for (name, script, code) in [
        ("deaf", "trap '' TERM; echo ready; echo oops >&2; while :; do sleep 0.05; done", 137),
        (
            "tidy",
            "trap 'echo stopping; exit 7' TERM; echo ready; echo oops >&2; while :; do sleep 0.05; done",
            7,
        ),
        // What it started holds its output open, and is as deaf.
        ("parent", "(trap '' TERM; echo ready; echo oops >&2; while :; do sleep 0.05; done) & wait", 143),
    ] {
        let session = place.session(name);
        let mut runs = records(&session, &[RUN]).await;
        let mut run = place.run(&[], name, script);
        let mut stdout = BufReader::new(run.stdout.take().unwrap());
        assert_eq!(line(&mut stdout), "ready\n");
        let working = next(&mut runs, |_| true).await.id;
        // Somebody waits for an answer as a part of it, and is not told to end.
        let mut asks = records(&session, &[ASK]).await;
        let ask = place.longwire(&["ask", "Go on?", "--session", name, "--run", &working]).spawn().unwrap();
        next(&mut asks, |_| true).await;
        assert!(place.output(&["cancel", name, "--deadline", "4s", "--reason", "enough"]).status.success());
        let (status, _, stderr) = ended(run).await;
        assert_eq!(status, Some(code), "{name}: {stderr}");
        assert_eq!(ended(ask).await.0, Some(4), "{name}");
        let ended = only_run(&session).await;
        assert_eq!((ended.state.as_str(), ended.cancelled_by.as_str()), ("cancelled", "anonymous"), "{name}");
        let found = all(&session).await;
        assert_eq!(closes(&found), [("cancelled", "anonymous"); 2], "{name}: one for each stream");
        let end = found.iter().find(|record| is_state(record, "cancelled")).unwrap();
        assert_eq!(end.sender.agent, "run", "{name}: the broker was not needed");
        assert!(found.iter().any(|record| is_lease(record, "released")), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_wrapper_leaves_is_suspended_and_ends_with_its_run() {
    let place = Place::new();
    let session = place.session("demo");
    let mut runs = records(&session, &[RUN]).await;
    let mut run = place.run(&["--ttl", "1s"], "demo", "echo $$; exec sleep 600");
    let mut stdout = BufReader::new(run.stdout.take().unwrap());
    let command: i32 = line(&mut stdout).trim().parse().unwrap();
    let working = next(&mut runs, |_| true).await.id;
    let mut said = session.subscribe(From::Start).kinds([0]).await.unwrap();
    let opened = next(&mut said, |record| record.grows).await;
    assert_eq!(
        (opened.run.as_str(), opened.headers["longwire-stream"].as_str()),
        (working.as_str(), "stdout")
    );
    run.kill().unwrap();
    run.wait().unwrap();
    kill_process(Pid::from_raw(command).unwrap(), Signal::KILL).unwrap();
    next(&mut runs, |record| is_state(record, "suspended")).await;
    assert_eq!(session.describe().await.unwrap().status, "working");
    // A command elsewhere is another agent: whoever held the lease may come back to it.
    assert_eq!(ended(place.run(&["--spool", "elsewhere"], "demo", "true")).await.0, Some(0));
    let agents = session.describe().await.unwrap().agents;
    let names: Vec<&str> = agents.iter().map(|agent| agent.agent.as_str()).collect();
    assert_eq!(names, ["run", "run-2"]);
    assert_eq!(session.describe().await.unwrap().status, "working");
    session.run(&working).set_state(RunState::Abandoned, "nobody comes back").await.unwrap();
    assert_eq!(closes(&all(&session).await), [("abandoned", BROKER)]);
    assert_eq!(session.describe().await.unwrap().status, "idle");
    // By its name it is the same agent, and what that has left ends.
    let mut killed = place.run(&["--ttl", "1s", "--agent", "night"], "night", "echo $$; exec sleep 600");
    let command: i32 = line(&mut BufReader::new(killed.stdout.take().unwrap())).trim().parse().unwrap();
    let night = place.session("night");
    let mut runs = records(&night, &[RUN]).await;
    let first = next(&mut runs, |_| true).await.id;
    killed.kill().unwrap();
    killed.wait().unwrap();
    kill_process(Pid::from_raw(command).unwrap(), Signal::KILL).unwrap();
    next(&mut runs, |record| is_state(record, "suspended")).await;
    assert_eq!(ended(place.run(&["--agent", "night"], "night", "true")).await.0, Some(0));
    let states: Vec<(bool, String)> =
        night.describe().await.unwrap().runs.into_iter().map(|run| (run.id == first, run.state)).collect();
    assert_eq!(states, [(true, "abandoned".to_owned()), (false, "completed".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_lapsed_is_claimed_again_and_the_run_goes_on() {
    let mut place = Place::new();
    let proxy = Proxy::start(place.broker.address()).await;
    place.url = proxy.url();
    let fifo = place.fifo("fifo");
    let session = place.session("demo");
    let mut leases = records(&session, &[LEASE, RUN]).await;
    let run = place.run(&["--ttl", "1s"], "demo", "while read n; do echo \"out $n\"; done < fifo");
    let mut feed = File::options().write(true).open(&fifo).unwrap();
    writeln!(feed, "1").unwrap();
    next(&mut leases, |record| record.kind == RUN).await;
    proxy.set_upstream(None);
    proxy.cut();
    writeln!(feed, "2").unwrap();
    next(&mut leases, |record| is_lease(record, "lapsed")).await;
    assert_eq!(only_run(&session).await.state, "suspended");
    writeln!(feed, "3").unwrap();
    proxy.set_upstream(Some(place.broker.address()));
    let mut runs = records(&session, &[RUN]).await;
    next(&mut runs, |record| is_state(record, "working")).await;
    writeln!(feed, "4").unwrap();
    drop(feed);
    let (status, _, stderr) = ended(run).await;
    assert_eq!(status, Some(0), "{stderr}");
    assert_eq!(only_run(&session).await.state, "completed");
    assert_eq!(place.said("demo"), "out 1\nout 2\nout 3\nout 4\n");
    assert!(!stderr.contains("refused"), "{stderr}");
    assert_eq!(session.describe().await.unwrap().status, "idle");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_while_cut_off_is_kept_though_the_run_was_ended_meanwhile() {
    let mut place = Place::new();
    let proxy = Proxy::start(place.broker.address()).await;
    place.url = proxy.url();
    let fifo = place.fifo("fifo");
    let session = place.session("demo");
    let mut runs = records(&session, &[RUN]).await;
    let mut run = place.run(&[], "demo", "while read n; do echo \"out $n\"; done < fifo");
    let mut stdout = BufReader::new(run.stdout.take().unwrap());
    let mut feed = File::options().write(true).open(&fifo).unwrap();
    let working = next(&mut runs, |_| true).await.id;
    let mut said = records(&session, &[0]).await;
    writeln!(feed, "1").unwrap();
    next(&mut said, |record| record.grows).await;
    assert_eq!(line(&mut stdout), "out 1\n");
    proxy.set_upstream(None);
    proxy.cut();
    // The wrapper is told by what it says of the outbox when the connection is gone: nothing is under way then.
    wait_until_away(&proxy).await;
    for number in 2..50 {
        writeln!(feed, "{number}").unwrap();
        assert_eq!(line(&mut stdout), format!("out {number}\n"));
    }
    session.run(&working).set_state(RunState::Abandoned, "it does not come back").await.unwrap();
    proxy.set_upstream(Some(place.broker.address()));
    drop(feed);
    let (status, _, stderr) = ended(run).await;
    assert_eq!(status, Some(0), "{stderr}");
    assert!(!stderr.contains("refused") && stderr.contains("somebody else has ended the run"), "{stderr}");
    assert_eq!(place.said("demo"), (1..50).map(|number| format!("out {number}\n")).collect::<String>());
    assert_eq!(closes(&all(&session).await), [("abandoned", BROKER), ("complete", "anonymous")]);
    assert_eq!(session.describe().await.unwrap().status, "idle");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_wrapper_could_not_send_is_sent_by_the_next_one() {
    let mut place = Place::new();
    let proxy = Proxy::start(place.broker.address()).await;
    proxy.set_upstream(None);
    place.url = proxy.url();
    let script = "seq 1000; echo oops >&2; echo $$; exec sleep 600";
    let mut run = place.run(&["--spool", "spool"], "demo", script);
    let mut stdout = BufReader::new(run.stdout.take().unwrap());
    let last = (0..=1000).map(|_| line(&mut stdout)).last().unwrap();
    let command: i32 = last.trim().parse().unwrap();
    let spool = place.path("spool");
    let in_spool = |text: &str| {
        let folders = fs::read_dir(&spool).into_iter().flatten().flatten();
        let files = folders.flat_map(|folder| fs::read_dir(folder.path()).unwrap().flatten());
        { files }.any(|file| {
            let bytes = fs::read(file.path()).unwrap_or_default();
            bytes.windows(text.len()).any(|found| found == text.as_bytes())
        })
    };
    // What was read of the command is a moment later in the file.
    while !(in_spool(&last) && in_spool("oops")) {
        tokio::task::yield_now().await;
    }
    run.kill().unwrap();
    run.wait().unwrap();
    kill_process(Pid::from_raw(command).unwrap(), Signal::KILL).unwrap();
    proxy.set_upstream(Some(place.broker.address()));
    let next = place.run(&["--spool", "spool"], "other", "echo next");
    let (status, _, stderr) = ended(next).await;
    assert_eq!(status, Some(0), "{stderr}");
    assert!(stderr.contains("that an earlier run left") && !stderr.contains("refused"), "{stderr}");
    let session = place.session("demo");
    let found = all(&session).await;
    let of = |stream: &str| -> String {
        let said = found.iter().filter(|record| format!("{}{}", record.id, record.message).contains(stream));
        said.map(|record| record.text().unwrap()).collect()
    };
    let expected: String = (1..=1000).map(|number| format!("{number}\n")).collect();
    assert_eq!((of("stdout"), of("stderr").as_str()), (expected + &last, "oops\n"));
    // Nobody goes on with them, and nobody has a run that they could end with.
    assert_eq!(closes(&found), [("abandoned", "anonymous"); 2]);
    assert_eq!(session.describe().await.unwrap().status, "idle");
    let files =
        fs::read_dir(&spool).unwrap().flatten().flat_map(|folder| fs::read_dir(folder.path()).unwrap());
    assert_eq!(files.count(), 0, "and the spool is empty");
}

/// Whoever was connected has tried to connect again since.
async fn wait_until_away(proxy: &Proxy) {
    let before = proxy.connections();
    // Both of its clients, and more than once.
    while proxy.connections() < before + 4 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_one_session_are_agents_of_their_own() {
    let place = Place::new();
    let session = place.session("demo");
    let mut runs = records(&session, &[RUN]).await;
    let fifos = ["first", "second", "third"].map(|name| place.fifo(name));
    let first = place.run(&[], "demo", "read line < first; echo \"first $line\"");
    next(&mut runs, |_| true).await;
    let second = place.run(&[], "demo", "read line < second; echo \"second $line\"");
    next(&mut runs, |_| true).await;
    let named = place.run(&["--agent", "coder"], "demo", "read line < third; echo \"named $line\"");
    next(&mut runs, |_| true).await;
    let info = session.describe().await.unwrap();
    let names: Vec<&str> = info.agents.iter().map(|agent| agent.agent.as_str()).collect();
    assert_eq!((names, info.runs.len()), (vec!["coder", "run", "run-2"], 3));
    // Who wants to be somebody that is there goes on without, and says so.
    let fifo = place.fifo("fourth");
    let mut twice = place.run(&["--agent", "coder"], "demo", "echo twice; read line < fourth");
    let mut said = String::new();
    let mut stderr = BufReader::new(twice.stderr.take().unwrap());
    while !said.contains("becomes an agent of demo later") {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
    }
    assert!(said.contains("coder"), "{said}");
    writeln!(File::options().write(true).open(fifo).unwrap(), "end").unwrap();
    stderr.read_to_string(&mut said).unwrap();
    let (status, stdout, _) = ended(twice).await;
    assert_eq!(
        (status, stdout.as_str(), said.contains("there was no run")),
        (Some(0), "twice\n", true),
        "{said}"
    );
    for fifo in fifos {
        writeln!(File::options().write(true).open(fifo).unwrap(), "done").unwrap();
        next(&mut runs, |record| is_state(record, "completed")).await;
    }
    for child in [first, second, named] {
        let (status, stdout, stderr) = ended(child).await;
        assert!(status == Some(0) && stdout.ends_with(" done\n"), "{stdout} {stderr}");
    }
    assert!(session.describe().await.unwrap().runs.iter().all(|run| run.state == "completed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_within_another_one_is_a_part_of_its_run() {
    let place = Place::new();
    let inner = "longwire run demo -- echo inside";
    let (status, stdout, stderr) = ended(place.run(&["--title", "Outside"], "demo", inner)).await;
    assert_eq!((status, stdout.as_str()), (Some(0), "inside\n"), "{stderr}");
    let tree = text(&place.output(&["runs", "demo"]).stdout);
    assert_eq!(tree, "✓ Outside  (completed)\n└─ ✓ echo inside  (completed)\n");
    // In another session it is a run of its own.
    let (status, _, stderr) = ended(place.run(&[], "one", "longwire run another -- echo inside")).await;
    assert_eq!(status, Some(0), "{stderr}");
    assert_eq!(only_run(&place.session("another")).await.parent, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_says_belongs_to_the_trace_that_it_is_a_part_of() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let place = Place::new();
    let run = |session: &str, trace: &str, script: &str| {
        let mut command = place.longwire(&["run", session, "--", "sh", "-c", script]);
        let output = command.env("TRACEPARENT", trace).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        (text(&output.stdout), text(&output.stderr))
    };
    let script = "echo \"$TRACEPARENT\"; echo oops >&2; longwire run demo -- echo inside";
    let (stdout, stderr) = run("demo", TRACE, script);
    assert_eq!(stdout, format!("{TRACE}\ninside\n"));
    assert!(!stderr.contains("TRACEPARENT"), "{stderr}");
    let found = all(&place.session("demo")).await;
    let of = |is_it: &dyn Fn(&Record) -> bool| -> Vec<Option<&str>> {
        let those = found.iter().filter(|record| is_it(record));
        those.map(|record| record.headers.get("traceparent").map(String::as_str)).collect()
    };
    // Both commands, the one within the other, and all that they said.
    assert_eq!(of(&|record| record.kind == RUN && !record.id.is_empty()), [Some(TRACE); 2]);
    assert_eq!(of(&|record| record.record_type == "longwire.exit"), [Some(TRACE); 2]);
    let streams = of(&|record| record.grows);
    assert!(streams.len() >= 3 && streams.iter().all(|trace| *trace == Some(TRACE)), "{streams:?}");
    // What is none is told, carried by nothing, and the command's all the same.
    let (stdout, stderr) = run("none", "00-0af7-b7ad-01", "echo \"$TRACEPARENT\"");
    assert_eq!(stdout, "00-0af7-b7ad-01\n");
    assert!(stderr.contains("longwire: TRACEPARENT is ignored: `00-0af7-b7ad-01`"), "{stderr}");
    let found = all(&place.session("none")).await;
    assert!(found.len() >= 3 && found.iter().all(|record| !record.headers.contains_key("traceparent")));
}

#[tokio::test(flavor = "multi_thread")]
async fn input_to_the_agent_is_read_by_the_command() {
    let place = Place::new();
    let session = place.session("talk");
    let mut runs = records(&session, &[RUN]).await;
    let script = "read a; echo \"got $a\"; read b; echo \"and $b\"";
    let run = place.run(&["--stdin"], "talk", script);
    next(&mut runs, |_| true).await;
    let sent = place.output(&["send", "talk", "hello\nthere"]);
    assert_eq!((sent.status.code(), text(&sent.stdout).contains("consumed")), (Some(0), true), "{sent:?}");
    let sent = place.output(&["send", "talk", "--to", "run", "bye", "--no-wait"]);
    assert!(sent.status.success(), "{sent:?}");
    let (status, stdout, _) = ended(run).await;
    assert_eq!((status, stdout.as_str()), (Some(0), "got hello there\nand bye\n"));
    assert_eq!(session.describe().await.unwrap().inputs, []);
    // A command that reads nothing says so.
    let fifo = place.fifo("fifo");
    let deaf = place.run(&[], "deaf", "read line < fifo");
    next(&mut records(&place.session("deaf"), &[RUN]).await, |_| true).await;
    let sent = place.output(&["send", "deaf", "hello"]);
    assert_eq!((sent.status.code(), text(&sent.stdout).contains("--stdin")), (Some(1), true), "{sent:?}");
    writeln!(File::options().write(true).open(fifo).unwrap(), "end").unwrap();
    assert_eq!(ended(deaf).await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_has_a_token_for_its_session_and_nothing_else() {
    let (folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let token = tokens.token("ada", &["acme/**:read,publish,create,lease,answer,manage"]);
    let url = broker.url();
    let mut place = Place { folder, broker, url, token };
    let script = "printf %s \"$LONGWIRE_TOKEN\" > token; longwire pub \"$LONGWIRE_SESSION\" mine; echo \"own $?\"; \
                  longwire pub acme/other theirs; echo \"other $?\"; longwire tail acme/secret --no-follow; echo \"read $?\"; \
                  longwire ask 'Go on?' --options yes,no";
    place.session("acme/secret").publish("secret").await.unwrap();
    let session = place.session("acme/own");
    let mut asks = records(&session, &[ASK]).await;
    let run = place.run(&[], "acme/own", script);
    let asked = next(&mut asks, |_| true).await;
    assert_eq!(only_run(&session).await.id, asked.run);
    session.answer(&asked.id).option("yes").await.unwrap();
    let (status, stdout, stderr) = ended(run).await;
    assert_eq!((status, stdout.as_str()), (Some(0), "own 0\nother 1\nread 1\nyes\n"), "{stderr}");
    let given = fs::read_to_string(place.path("token")).unwrap();
    assert!(given.split('.').count() == 3 && given != place.token, "a token of its own");
    assert!(!stderr.contains(&given) && !place.said("acme/own").contains(&given));
    assert!(all(&session).await.iter().any(|record| record.text() == Some("mine")));
    // Who may not share gives what it has; who may not hold leases says so, and records all the same.
    let reads = tokens.token("eve", &["acme/**:read"]);
    for (name, rights, has_run) in [
        ("a", "read,publish,lease", true),
        ("b", "read,publish", false),
        // An agent is told what others want of it.
        ("c", "publish,create,lease", false),
    ] {
        place.token = tokens.token("bob", &[&format!("acme/**:{rights}")]);
        let id = format!("acme/bob/{name}");
        let (status, stdout, stderr) =
            ended(place.run(&[], &id, "printf %s \"$LONGWIRE_TOKEN\" > token; echo said")).await;
        assert_eq!((status, stdout.as_str()), (Some(0), "said\n"), "{stderr}");
        assert_eq!(fs::read_to_string(place.path("token")).unwrap(), place.token);
        place.token.clone_from(&reads);
        assert_eq!(place.said(&id), "said\n");
        let runs = place.session(&id).describe().await.unwrap().runs;
        assert_eq!(runs.len(), usize::from(has_run), "{stderr}");
        assert_eq!(stderr.contains("goes on without being an agent"), !has_run, "{stderr}");
    }
}
