//! The example that does a real job: watched by two people, killed in the middle of a message and of an open ask, taken over, allowed to
//! deploy from a phone by a share link.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use longwire::{
    Body, Client, From, InputState, Mode, Record, Right, RunState, Session, StateValue, Subscription,
};
use longwire_proto::kind;

use crate::page::{Story, browser_is_there};
use crate::support::broker::{example, folder};
use crate::support::tokens::Tokens;
use crate::support::victim::Victim;

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

fn of_type<'log>(log: &'log [Record], wanted: &'static str) -> impl Iterator<Item = &'log Record> {
    log.iter().filter(move |record| record.record_type == wanted)
}

/// What a message says, all of which is in the log.
fn text_of(log: &[Record], message: &str) -> String {
    let parts = log.iter().filter(|record| {
        (record.grows && record.id == message) || (record.kind == kind::DELTA && record.message == message)
    });
    parts.map(|record| record.text().unwrap()).collect()
}

/// The calls of tools by their ids: the command, and the status of every result that has one. Each was made once, and every result is one
/// of a call that was made before, of the same run and tool.
fn calls(log: &[Record]) -> BTreeMap<String, (String, Vec<String>)> {
    let mut calls: BTreeMap<String, (&Record, Vec<String>)> = BTreeMap::new();
    for record in log {
        match record.record_type.as_str() {
            "lw.tool.call" => {
                assert_eq!(record.content_type, "application/json");
                assert!(!record.run.is_empty() && record.headers["tool"] == "shell", "{record:?}");
                let known = calls.insert(record.id.clone(), (record, Vec::new()));
                assert!(known.is_none(), "{} is called twice", record.id);
            }
            "lw.tool.result" => {
                let (call, statuses) = calls.get_mut(&record.reply_to).unwrap();
                assert_eq!((&record.run, &record.headers["tool"]), (&call.run, &call.headers["tool"]));
                assert!(statuses.is_empty(), "{} goes on after its end", record.reply_to);
                statuses.extend(record.headers.get("status").cloned());
            }
            _ => {}
        }
    }
    let command = |call: &Record| {
        let arguments: serde_json::Value = serde_json::from_str(call.text().unwrap()).unwrap();
        arguments["command"].as_str().unwrap().to_owned()
    };
    calls.into_iter().map(|(id, (call, statuses))| (id, (command(call), statuses))).collect()
}

/// The first words of the command and the status of the call of this name that nothing has taken the place of.
fn only_told<'calls>(
    calls: &'calls BTreeMap<String, (String, Vec<String>)>,
    replaced: &BTreeSet<&str>,
    name: &str,
) -> (&'calls str, &'calls str) {
    let current = |id: &String| id.starts_with(name) && !replaced.contains(id.as_str());
    let mut found = calls.iter().filter(|(id, _)| current(id)).map(|(_, told)| told);
    let (Some((command, statuses)), None) = (found.next(), found.next()) else { panic!("{name}: {calls:?}") };
    let [status] = statuses.as_slice() else { panic!("{name}: {statuses:?}") };
    let (words, _) = command.split_once(" -").or_else(|| command.split_once(' ')).unwrap();
    (words, status)
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
    let agent_token = tokens.token("agent", &["demo/**:read,publish,lease,state"]);
    let start = || {
        let mut command = Command::new(example("coding_agent"));
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

    // What cannot be built is no reason to try for ever: the next job fails, and whoever sent it is told.
    let mut failing = ada.send("coder", "").await.unwrap();
    let mut last = None;
    while let Some(state) = failing.next().await.unwrap() {
        last = Some(state);
    }
    let Some(InputState::NotConsumed { reason }) = last else { panic!("{last:?}") };
    assert_eq!(reason, "it failed: Test it");
    let failed = format!("{}-test", failing.id());
    // Its steps are named after it; the run that they are parts of is not.
    until(&mut seen, |record| ended(record, &record.run) && !record.run.starts_with(failing.id())).await;

    // The log tells the whole story, to both alike.
    let log = all(&ada).await;
    let calls = calls(&log);
    let replaced: BTreeSet<&str> =
        log.iter().map(|record| record.replaces.as_str()).filter(|id| !id.is_empty()).collect();
    for (command, of) in [("cargo test", "test-call"), ("cargo build", "build-call"), ("cp", "copy-call")] {
        assert_eq!(only_told(&calls, &replaced, &step(of)), (command, "ok"));
    }
    assert_eq!(only_told(&calls, &replaced, &format!("{failed}-call")), ("cargo test", "error"));
    // Who was killed in the middle of a call cannot say how it ended: it was made again.
    assert_eq!(delta.message, step("test-call-1-output"));
    assert_eq!(calls[&step("test-call-1")].1, Vec::<String>::new());
    let again = log.iter().find(|record| record.replaces == step("test-call-1")).unwrap();
    assert_eq!((&again.id, again.record_type.as_str()), (&step("test-call-2"), "lw.tool.call"));
    // Whoever answers is shown what would be done.
    let Body::Ask(ask) = &asked.body else { panic!("{asked:?}") };
    assert_eq!((&ask.subject, &ask.description), (&step("copy-call"), &calls[&step("copy-call")].0));
    let thoughts: Vec<_> = of_type(&log, "lw.reasoning").map(|record| record.id.clone()).collect();
    assert_eq!(thoughts, [step("thought"), format!("{}-thought", failing.id())]);
    let thought = text_of(&log, &thoughts[0]);
    assert!(thought.contains("\"hello, world\"") && thought.ends_with("deploy it."), "{thought}");
    let citations: Vec<_> = of_type(&log, "lw.citation").collect();
    assert_eq!((citations.len(), &citations[0].reply_to), (1, &step("deployed")));
    let said = text_of(&log, &citations[0].reply_to);
    let (from, to) = citations[0].headers["range"].split_once('-').unwrap();
    assert_eq!(&said[from.parse().unwrap()..to.parse().unwrap()], "`release`");
    assert!(said.starts_with(&format!("deployed to {}", deployed.display())), "{said}");
    assert!(citations[0].headers["url"].ends_with("#release") && citations[0].text().unwrap().len() > 20);
    for name in ["write", "test", "build", "copy"] {
        assert_eq!(log.iter().filter(|record| ended(record, &step(name))).count(), 1, "{name}");
    }
    assert_eq!(log.iter().filter(|record| record.kind == kind::ANSWER).count(), 1);
    let lapsed =
        |record: &&Record| matches!(&record.body, Body::LeaseChange(change) if change.state == "lapsed");
    // One for each that was killed; a machine that stood still for long enough has more.
    assert!(log.iter().filter(lapsed).count() >= 2);
    assert!(calls[&step("build-call-1")].0.contains("--profile release"), "{calls:?}");
    for record in &log {
        assert_eq!(&watched.next().await.unwrap().unwrap(), record);
    }
    let runs = ada.describe().await.unwrap().runs;
    assert!(runs.iter().all(|run| RunState::parse(&run.state).is_some_and(RunState::has_ended)), "{runs:?}");

    // What is allowed for good is asked once, and kept where whoever works here later finds it.
    let asks = |log: &[Record]| log.iter().filter(|record| record.kind == kind::ASK).count();
    for always in [true, false] {
        let mut sent = ada.send("coder", "hello again").await.unwrap();
        if always {
            let deploy = format!("{}-deploy", sent.id());
            until(&mut seen, |record| record.kind == kind::ASK && record.id == deploy).await;
            bob.answer(&deploy).option("always").await.unwrap();
        }
        let mut last = None;
        while let Some(state) = sent.next().await.unwrap() {
            last = Some(state);
        }
        assert!(matches!(last, Some(InputState::Consumed { .. })), "{last:?}");
        assert_eq!(asks(&all(&ada).await), 2);
    }
    let kept = ada.get("lw.permission/deploy").await.unwrap().unwrap();
    assert_eq!((kept.agent.as_str(), kept.value), ("coder", Some(StateValue::Text("always".into()))));
}
