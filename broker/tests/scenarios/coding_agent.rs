//! The example that does a real job: watched by two people, killed in the middle of a message and of an open ask, taken over, allowed to
//! deploy from a phone by a share link.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use longwire::{Body, Client, From, InputState, Mode, Record, Right, RunState, Session, Subscription};
use longwire_proto::kind;

use crate::page::{Story, browser_is_there};
use crate::support::broker::folder;
use crate::support::tokens::Tokens;
use crate::support::victim::Victim;

/// The example, which the build of the tests has made.
fn example() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join("examples/coding_agent");
    assert!(path.exists(), "{} is missing: cargo build -p longwire-examples --examples", path.display());
    path
}

async fn until(records: &mut Subscription, mut wanted: impl FnMut(&Record) -> bool) -> Record {
    loop {
        let record = records.next().await.unwrap().unwrap();
        if wanted(&record) {
            return record;
        }
    }
}

fn ended(record: &Record, run: &str) -> bool {
    let Body::RunChange(change) = &record.body else { return false };
    record.run == run && change.state == "completed"
}

async fn all(session: &Session) -> Vec<Record> {
    let mut records = session.subscribe(From::Start).until_end().await.unwrap();
    let mut all = Vec::new();
    while let Some(record) = records.next().await {
        all.push(record.unwrap());
    }
    all
}

/// Lets the compiler compile the project once the gate is there, and everything else at once.
const COMPILER: &str = r#"#!/bin/sh
case "$*" in *"--crate-name said"*) while [ ! -e "$GATE" ]; do sleep 0.05; done ;; esac
exec "$@"
"#;

fn compiler(folder: &std::path::Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let script = folder.join("compiler");
    std::fs::write(&script, COMPILER).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_does_a_job_through_two_kills_and_deploys_once_somebody_allowed_it() {
    let (_folder, data) = folder();
    let (_work, work) = folder();
    std::fs::create_dir_all(&work).unwrap();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    // Written once: while it is begun somewhere, nobody can write it.
    let (gate, compiler) = (work.join("gate"), compiler(&work));
    let agent_token = tokens.token("agent", &["demo/**:read,publish,lease"]);
    let start = || {
        let mut command = Command::new(example());
        command.arg("demo/code/*").env("LONGWIRE_URL", broker.url()).env("LONGWIRE_TOKEN", &agent_token);
        command.env("CODING_AGENT_FOLDER", &work).env("RUSTC_WRAPPER", &compiler).env("GATE", &gate);
        Victim::start(command.stdin(Stdio::null()))
    };
    let human = |name: &str, url: String| {
        let token = tokens.token(name, &["demo/**:read,publish,control,answer,manage"]);
        let (client, driver) = Client::builder().url(url).token(token).build().unwrap();
        drop(tokio::spawn(driver));
        client
    };
    let ada = human("ada", broker.url()).session("demo/code/hello").unwrap();
    let bob = human("bob", broker.url().replace("ws://", "grpc://")).session("demo/code/hello").unwrap();
    ada.publish("let us build something").await.unwrap();
    let mut seen = ada.subscribe(From::Start).await.unwrap();
    let mut watched = bob.subscribe(From::Start).await.unwrap();

    let first = start();
    until(
        &mut seen,
        |record| matches!(&record.body, Body::LeaseChange(change) if change.state == "released"),
    )
    .await;
    let mut sent = ada.send("coder", "hello, world").await.unwrap();
    let compiling = |record: &Record| {
        record.kind == kind::DELTA && record.text().is_some_and(|text| text.contains("Compiling"))
    };
    let delta = until(&mut seen, compiling).await;
    first.kill();

    // The next one goes on where the first one was.
    let second = start();
    let closed = until(&mut seen, |record| record.message == delta.message && !record.close.is_empty()).await;
    assert_eq!(closed.close, "abandoned");
    until(&mut seen, |record| record.text() == Some("I go on with what was begun")).await;
    let mut steered = ada.send("coder", "release").mode(Mode::Steer).await.unwrap();
    std::fs::write(&gate, "").unwrap();
    let asked = until(&mut seen, |record| record.kind == kind::ASK).await;
    while let Some(state) = steered.next().await.unwrap() {
        assert!(!matches!(state, InputState::NotConsumed { .. }), "{state:?}");
    }
    let id = sent.id().to_owned();
    let step = |name: &str| format!("{id}-{name}");
    assert_eq!(asked.id, step("deploy"));
    second.kill();

    // And the third once somebody has allowed it, whom both see.
    let _third = start();
    let by_phone = if browser_is_there() {
        let share = ada.share(Right::Read | Right::Answer, None).await.unwrap();
        let page = |token: &str| {
            format!("{}/#/s/demo/code/hello?token={token}", broker.url().replace("ws://", "http://"))
        };
        let mut story = Story::tell("allowed", &broker.url(), &["demo/code/hello"]);
        story.told(&page(&tokens.token("ada", &["demo/**:read,publish,answer"]))).await;
        story.told(&page(&share.token)).await;
        story.says("answered").await;
        story.says("ok").await;
        true
    } else {
        bob.answer(&asked.id).option("yes").await.unwrap();
        false
    };
    let answer = until(&mut seen, |record| record.kind == kind::ANSWER).await;
    assert_eq!(answer.sender.principal.starts_with("guest-"), by_phone, "{:?}", answer.sender);
    let mut last = None;
    while let Some(state) = sent.next().await.unwrap() {
        last = Some(state);
    }
    let Some(InputState::Consumed { run }) = last else { panic!("{last:?}") };
    until(&mut seen, |record| ended(record, &run)).await;
    let deployed = work.join(format!("longwire-coding-agent-{id}")).join("deployed");
    let said = Command::new(&deployed).output().unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "hello, world\n");

    // The log tells the whole story, to both alike.
    let log = all(&ada).await;
    for name in ["write", "test", "build", "copy"] {
        assert_eq!(log.iter().filter(|record| ended(record, &step(name))).count(), 1, "{name}");
    }
    assert_eq!(log.iter().filter(|record| record.kind == kind::ANSWER).count(), 1);
    let lapsed =
        |record: &&Record| matches!(&record.body, Body::LeaseChange(change) if change.state == "lapsed");
    // One for each that was killed; a machine that stood still for long enough has more.
    assert!(log.iter().filter(lapsed).count() >= 2);
    assert!(log.iter().any(|record| record.run == step("build")
        && record.text().is_some_and(|text| text.contains("--profile release"))));
    for record in &log {
        assert_eq!(&watched.next().await.unwrap().unwrap(), record);
    }
    let runs = ada.describe().await.unwrap().runs;
    assert!(runs.iter().all(|run| RunState::parse(&run.state).is_some_and(RunState::has_ended)), "{runs:?}");
}
