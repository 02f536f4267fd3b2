//! Agents that are woken by webhooks, through failures of every kind.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use longwire::{Client, Context, From, HandlerError, InputState, Mode, Session, WorkerGroup};
use longwire_proto::kind;
use serde_json::Value;

use crate::support::broker::{Broker, folder, longwire};
use crate::support::certificates::{Authority, Time};
use crate::support::receiver::{HOSTS, Receiver, SECRET};

const GROUP: &str = "acme/chat/coders";

fn client(broker: &Broker) -> Client {
    Client::connect(&broker.url()).unwrap()
}

fn group(receiver: &Receiver) -> WorkerGroup {
    WorkerGroup::new(GROUP, "acme/chat/*", "coder").webhook(receiver.url(), SECRET)
}

/// A session whose agent somebody was once.
async fn introduced(client: &Client, id: &str) -> Session {
    let session = client.session(id).unwrap();
    session.publish("hello").await.unwrap();
    session.claim("coder").await.unwrap().release().await.unwrap();
    session
}

/// Takes every input there is.
async fn consume(ctx: Context) -> Result<(), HandlerError> {
    while let Some(input) = ctx.next_input().await? {
        input.done().await?;
    }
    Ok(())
}

/// What is in a session of a group so far: of records with this type, what they say.
async fn told(client: &Client, session: &str, wanted: &str) -> Vec<Value> {
    let session = client.session(session).unwrap();
    let mut records = session.subscribe(From::Start).until_end().await.unwrap();
    let (mut found, mut last) = (Vec::new(), String::new());
    while let Some(record) = records.next().await {
        let record = record.unwrap();
        if record.record_type == wanted && record.id != last {
            last.clone_from(&record.id);
            found.push(serde_json::from_str(record.text().unwrap()).unwrap());
        }
    }
    found
}

/// A session of a group as it goes on.
struct Told {
    records: longwire::Subscription,
    /// The id of the last record: what is not known to be written is written again, under its id.
    last: String,
}

impl Told {
    async fn follow(client: &Client, session: &str, from: From) -> Self {
        let session = client.session(session).unwrap();
        Self { records: session.subscribe(from).await.unwrap(), last: String::new() }
    }

    /// The next wake that is told.
    async fn next(&mut self) -> Value {
        loop {
            let record = self.records.next().await.unwrap().unwrap();
            if record.kind == kind::MESSAGE && !record.id.is_empty() && record.id != self.last {
                self.last.clone_from(&record.id);
                return serde_json::from_str(record.text().unwrap()).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_agent_is_woken_by_one_signed_webhook_and_whoever_it_starts_does_the_rest() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[HOSTS]);
    let lw = client(&broker);
    let mut receiver = Receiver::start(|_| 202).await;
    // There before the group is.
    let early = introduced(&lw, "acme/chat/early").await;
    early.send("coder", "first").await.unwrap();
    let elsewhere = introduced(&lw, "acme/other/1").await;
    elsewhere.send("coder", "nobody listens").await.unwrap();
    lw.set_worker_group(group(&receiver)).await.unwrap();
    let webhook = receiver.next().await;
    assert_eq!((webhook.session.as_str(), webhook.agent.as_str()), ("acme/chat/early", "coder"));
    let session = introduced(&lw, "acme/chat/1").await;
    let mut sent = session.send("coder", "hi").await.unwrap();
    let webhook = receiver.next().await;
    assert_eq!((webhook.session.as_str(), webhook.agent.as_str()), ("acme/chat/1", "coder"));
    let end = session.describe().await.unwrap().end;
    assert_eq!(webhook.position, format!("{:016}_{end:016}", 0), "the input is before it");
    // What the receiver does.
    let worker = client(&broker);
    let served = tokio::spawn(async move { worker.worker("acme/chat/*", "coder").serve(consume).await });
    assert_eq!(sent.next().await.unwrap(), Some(InputState::Delivered));
    assert!(matches!(sent.next().await.unwrap(), Some(InputState::Consumed { .. })));
    served.abort();
    let wakes = told(&lw, "~/workers/acme/chat/coders", "wake").await;
    let of_it: Vec<&Value> = wakes.iter().filter(|wake| wake["session"] == "acme/chat/1").collect();
    assert_eq!(of_it.len(), 1, "{wakes:?}");
    let wake = of_it[0];
    assert_eq!(
        (wake["wake"].as_str(), wake["outcome"].as_str()),
        (Some(webhook.id.as_str()), Some("accepted"))
    );
    assert_eq!((wake["attempt"].as_u64(), wake["status"].as_u64()), (Some(1), Some(202)));
    assert_eq!(wake["position"].as_str(), Some(webhook.position.as_str()));
    assert!(receiver.try_next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_fails_is_tried_again_under_its_id_until_it_is_accepted() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[HOSTS]);
    let lw = client(&broker);
    let mut receiver = Receiver::start(|times| if times < 2 { 500 } else { 200 }).await;
    lw.set_worker_group(group(&receiver)).await.unwrap();
    let mut history = Told::follow(&lw, "~/workers/acme/chat/coders", From::End).await;
    let session = introduced(&lw, "acme/chat/1").await;
    session.send("coder", "hi").await.unwrap();
    let first = receiver.next().await;
    for _ in 0..2 {
        let again = receiver.next().await;
        assert_eq!(
            (again.id, again.session, again.position),
            (first.id.clone(), first.session.clone(), first.position.clone())
        );
    }
    for (attempt, outcome, status) in [(1, "failed", 500), (2, "failed", 500), (3, "accepted", 200)] {
        let wake = history.next().await;
        assert_eq!(
            (wake["attempt"].as_u64(), wake["outcome"].as_str()),
            (Some(attempt), Some(outcome)),
            "{wake}"
        );
        assert_eq!((wake["status"].as_u64(), wake["wake"].as_str()), (Some(status), Some(first.id.as_str())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_always_fails_becomes_a_dead_letter_until_something_else_calls() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[HOSTS]);
    let lw = client(&broker);
    for (status, tries) in [(503, 2), (410, 1)] {
        let mut receiver = Receiver::start(move |_| status).await;
        lw.set_worker_group(group(&receiver).attempts_max(2)).await.unwrap();
        let mut dead = Told::follow(&lw, "~/dead/acme/chat/coders", From::End).await;
        let session = introduced(&lw, &format!("acme/chat/{status}")).await;
        session.send("coder", "hi").await.unwrap();
        let first = receiver.next().await;
        for _ in 1..tries {
            assert_eq!(receiver.next().await.id, first.id);
        }
        let letter = dead.next().await;
        assert_eq!(
            (letter["wake"].as_str(), letter["attempt"].as_u64()),
            (Some(first.id.as_str()), Some(tries))
        );
        assert_eq!(
            (letter["session"].as_str(), letter["outcome"].as_str()),
            (Some(session.id().as_str()), Some("dead"))
        );
        assert_eq!(letter["why"].as_str(), Some(format!("it answers with status {status}").as_str()));
        // What happens besides is no reason, and another input is.
        session.publish("by the way").await.unwrap();
        session.send("coder", "are you there?").mode(Mode::Steer).await.unwrap();
        let next = receiver.next().await;
        assert!(next.id != first.id && next.session == first.session, "{next:?}");
        assert!(next.position > first.position);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_forgets_nobody_who_is_to_be_woken_by_a_webhook() {
    const SESSIONS: usize = 5;
    let (_folder, data) = folder();
    // Nothing is accepted before the broker was killed.
    let (accepts, accepting) = tokio::sync::watch::channel(false);
    let mut receiver = Receiver::start(move |_| if *accepting.borrow() { 200 } else { 500 }).await;
    let mut broker = Broker::start_with(&data, &[HOSTS]);
    client(&broker).set_worker_group(group(&receiver)).await.unwrap();
    let mut ids = BTreeMap::new();
    for round in 0..3 {
        let lw = client(&broker);
        for number in 0..SESSIONS {
            let session = introduced(&lw, &format!("acme/chat/{round}-{number}")).await;
            session.send("coder", "hi").await.unwrap();
        }
        if round == 1 {
            // In the middle of what it does about them.
            let webhook = receiver.next().await;
            ids.insert(webhook.session, webhook.id);
        }
        broker.kill();
        broker = Broker::start_with(&data, &[HOSTS]);
    }
    accepts.send_replace(true);
    let wanted: Vec<String> = (0..3)
        .flat_map(|round| (0..SESSIONS).map(move |number| format!("acme/chat/{round}-{number}")))
        .collect();
    let lw = client(&broker);
    let mut history = Told::follow(&lw, "~/workers/acme/chat/coders", From::Start).await;
    let mut accepted = BTreeMap::new();
    while accepted.len() < wanted.len() {
        let wake = history.next().await;
        if wake["outcome"] == "accepted" {
            accepted.insert(
                wake["session"].as_str().unwrap().to_owned(),
                wake["wake"].as_str().unwrap().to_owned(),
            );
        }
    }
    assert!(accepted.keys().eq(&wanted), "{accepted:?}");
    while let Some(webhook) = receiver.try_next() {
        let id = ids.entry(webhook.session.clone()).or_insert(webhook.id.clone());
        assert_eq!(*id, webhook.id, "one wake has one id, in whatever life of the broker");
    }
    assert!(ids.iter().all(|(session, id)| accepted[session] == *id));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_connected_is_not_told_by_a_webhook_and_who_waits_for_an_answer_is_not_woken() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[HOSTS]);
    let lw = client(&broker);
    let mut receiver = Receiver::start(|_| 200).await;
    // It waits for an answer.
    let waiting = introduced(&lw, "acme/chat/waiting").await;
    let lease = waiting.claim("coder").await.unwrap();
    let run = lease.session().start_run("Deploy").await.unwrap();
    run.ask("Deploy?").id("deploy").options(["yes", "no"]).send().await.unwrap();
    lease.release().await.unwrap();
    let (worker, connected) = (client(&broker), introduced(&lw, "acme/chat/1").await);
    let served = tokio::spawn(async move {
        worker.worker("acme/chat/*", "coder").ttl(Duration::from_secs(60)).serve(consume).await
    });
    for text in ["before the group", "after it"] {
        let mut sent = connected.send("coder", text).await.unwrap();
        while let Some(state) = sent.next().await.unwrap() {
            assert!(!matches!(state, InputState::NotConsumed { .. }), "{state:?}");
        }
        lw.set_worker_group(group(&receiver)).await.unwrap();
    }
    served.abort();
    drop(served.await);
    // By then nobody is connected, and what was before has been looked at.
    waiting.answer("deploy").option("yes").await.unwrap();
    let woken = receiver.next().await;
    assert_eq!(woken.session, "acme/chat/waiting");
    assert!(receiver.try_next().is_none());
    let wakes = told(&lw, "~/workers/acme/chat/coders", "wake").await;
    assert!(wakes.iter().all(|wake| wake["session"] == "acme/chat/waiting"), "{wakes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_goes_by_https_to_whom_the_host_of_the_broker_trusts() {
    let (folder, data) = folder();
    let (known, stranger) =
        (Authority::new(folder.path(), "known"), Authority::new(folder.path(), "stranger"));
    let trusted = known.issue("trusted", &["localhost"], Time::Valid);
    let unknown = stranger.issue("unknown", &["localhost"], Time::Valid);
    let wrong_name = known.issue("wrong-name", &["elsewhere.example"], Time::Valid);
    let mut program = Command::new("env");
    program.args(["-u", "SSL_CERT_DIR"]).arg(format!("SSL_CERT_FILE={}", known.file().display()));
    let broker = Broker::start_under(program, &data, &[("WEBHOOK_HOSTS", r#"["localhost"]"#)]);
    let lw = client(&broker);
    let session = introduced(&lw, "acme/chat/1").await;
    for files in [unknown, wrong_name] {
        let receiver = Receiver::start_secure(&files, |_| 200).await;
        lw.set_worker_group(group(&receiver).attempts_max(1)).await.unwrap();
        let mut dead = Told::follow(&lw, "~/dead/acme/chat/coders", From::End).await;
        session.send("coder", "hi").await.unwrap();
        let letter = dead.next().await;
        let why = letter["why"].as_str().unwrap();
        assert!(why.starts_with("TLS with it failed: ") && !why.contains("canary"), "{why}");
    }
    let mut receiver = Receiver::start_secure(&trusted, |_| 200).await;
    lw.set_worker_group(group(&receiver)).await.unwrap();
    session.send("coder", "hi").await.unwrap();
    assert_eq!(receiver.next().await.session, "acme/chat/1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_manages_worker_groups_and_no_log_has_the_secret_of_a_webhook() {
    let (folder, data) = folder();
    let log = folder.path().join("log");
    let broker = Broker::start_traced(&data, &[HOSTS], &log);
    let lw = client(&broker);
    let mut receiver = Receiver::start(|times| if times == 0 { 500 } else { 200 }).await;
    let secret = folder.path().join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let (broker_url, secret, hook) = (broker.url(), secret.to_str().unwrap().to_owned(), receiver.url());
    let run = |arguments: &[&str]| {
        let output = longwire(&[&["--url", &broker_url], arguments].concat());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let set = ["workers", "set", GROUP, "--pattern", "acme/chat/*", "--agent", "coder", "--attempts", "3"];
    let (code, _, said) = run(&[&set[..], &["--webhook", &hook, "--secret-file", "/nowhere"]].concat());
    assert!(code == 2 && said.contains("/nowhere"), "{said}");
    assert_eq!(run(&[&set[..], &["--webhook", &hook, "--secret-file", &secret]].concat()).0, 0);
    let (code, listed, _) = run(&["workers", "list"]);
    let origin = hook.split("/hooks").next().unwrap();
    assert_eq!((code, listed.as_str()), (0, format!("{GROUP}  coder of acme/chat/*  {origin}\n").as_str()));
    let session = introduced(&lw, "acme/chat/1").await;
    session.send("coder", "hi").await.unwrap();
    let (first, second) = (receiver.next().await, receiver.next().await);
    assert_eq!(first.id, second.id);
    let (code, tailed, _) =
        run(&["tail", "~/workers/acme/chat/coders", "--from", "start", "--no-follow", "--raw"]);
    assert!(code == 0 && tailed.contains(&first.id), "{tailed}");
    let metrics = broker.get("/metrics").1;
    assert!(metrics.contains("longwire_wakes_total{outcome=\"failed\"} 1"), "{metrics}");
    assert_eq!(run(&["workers", "remove", GROUP]).0, 0);
    let (code, _, said) = run(&["workers", "remove", GROUP]);
    assert!(code == 1 && said.contains("there is no worker group `acme/chat/coders`"), "{said}");
    assert_eq!(run(&["--json", "workers", "list"]), (0, String::new(), String::new()));
    assert!(broker.terminate());
    let logged = std::fs::read_to_string(&log).unwrap();
    for text in [&logged, &tailed, &metrics, &listed] {
        assert!(!text.contains("canary") && !text.contains(&SECRET["whsec_".len()..]), "a secret is shown");
    }
}
