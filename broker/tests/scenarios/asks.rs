//! A question that reaches a human and an answer that comes back, with the SDK and with the command line.

use std::process::{Child, Command, Output, Stdio};

use longwire::{AskOutcome, Client, ErrorCode, From, MessageEnd, PublishError, RunState};

use crate::support::broker::{Broker, LONGWIRE, folder};

fn client(broker: &Broker) -> Client {
    let (client, driver) = Client::builder().url(broker.url()).build().unwrap();
    drop(tokio::spawn(driver));
    client
}

fn longwire(broker: &Broker, arguments: &[&str]) -> Command {
    let mut command = Command::new(LONGWIRE);
    command.args(arguments).env("LONGWIRE_URL", broker.url()).env_remove("LONGWIRE_SESSION");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn output(broker: &Broker, arguments: &[&str]) -> Output {
    longwire(broker, arguments).output().unwrap()
}

/// Asks in another process, and waits until that is durable.
async fn asking(broker: &Broker, client: &Client, session: &str, arguments: &[&str]) -> Child {
    let session = client.session(session).unwrap();
    let mut asks = session.subscribe(From::End).wait_for_session().kinds([3]).await.unwrap();
    let id = session.id().to_string();
    let child =
        longwire(broker, &[&["ask", "Deploy?", "--session", &id], arguments].concat()).spawn().unwrap();
    asks.next().await.unwrap().unwrap();
    child
}

fn status(child: Child) -> (i32, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_exits_as_it_was_answered() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let client = client(&broker);
    for (name, arguments, code, printed) in [
        ("yes", &["yes"][..], 0, "yes\n"),
        ("no", &["no"], 1, "no\n"),
        ("denied", &["--deny"], 1, ""),
        ("cancelled", &["--cancel"], 4, ""),
    ] {
        let session = format!("acme/{name}");
        let child = asking(&broker, &client, &session, &["--id", "d", "--options", "yes,no"]).await;
        let shown = output(&broker, &["answer", &session]);
        let text = String::from_utf8(shown.stdout).unwrap();
        assert!(text.contains("Deploy?") && text.contains("yes"), "{text}");
        assert!(output(&broker, &[&["answer", &session, "d"], arguments].concat()).status.success());
        assert_eq!(status(child), (code, printed.to_owned()), "{name}");
        // Whoever comes second is told, and changes nothing.
        let late = output(&broker, &["answer", &session, "d", "yes"]);
        assert_eq!(late.status.code(), Some(1));
        assert!(String::from_utf8(late.stderr).unwrap().contains("before"));
    }
    let expired = asking(&broker, &client, "acme/expired", &["--expires", "10ms"]).await;
    assert_eq!(status(expired), (3, String::new()));
    assert_eq!(output(&broker, &["ask", "Where?"]).status.code(), Some(2), "no session");
    assert_eq!(output(&broker, &["ask", "?", "--session", "a", "--risk", "huge"]).status.code(), Some(2));
    let nobody =
        longwire(&broker, &["ask", "?", "--session", "a"]).env("LONGWIRE_URL", "ws://127.0.0.1:1").output();
    assert_eq!(nobody.unwrap().status.code(), Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_within_a_run_asks_and_goes_on() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let client = client(&broker);
    let session = client.session("demo").unwrap();
    let mut asks = session.subscribe(From::Start).wait_for_session().kinds([3]).await.unwrap();
    let script = format!("echo built && {LONGWIRE} ask 'Deploy?' --options yes,no && echo deployed");
    let spool = data.join("spool");
    let mut run =
        longwire(&broker, &["run", "demo", "--spool", spool.to_str().unwrap(), "--", "sh", "-c", &script]);
    let run = run.spawn().unwrap();
    let asked = asks.next().await.unwrap().unwrap();
    session.answer(&asked.id).option("yes").await.unwrap();
    let (code, printed) = status(run);
    assert_eq!((code, printed.as_str()), (0, "built\nyes\ndeployed\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_killed_is_told_the_answer_of_meanwhile() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let human = client(&broker);
    let mut agent = asking(&broker, &human, "acme/1", &["--id", "deploy-42"]).await;
    agent.kill().unwrap();
    agent.wait().unwrap();
    let session = human.session("acme/1").unwrap();
    assert_eq!(session.ask_state("deploy-42").await.unwrap(), None);
    session.answer("deploy-42").option("yes").note("go").await.unwrap();
    // The broker, too.
    broker.kill();
    let broker = Broker::start(&data);
    let again =
        longwire(&broker, &["ask", "Deploy?", "--session", "acme/1", "--id", "deploy-42"]).spawn().unwrap();
    assert_eq!(status(again), (0, "yes\n".to_owned()));
    let client = client(&broker);
    let session = client.session("acme/1").unwrap();
    let answered = session.ask("Deploy?").id("deploy-42").options(["yes", "no"]).await.unwrap();
    assert!(answered.is("yes") && !answered.is("no"));
    assert_eq!((answered.outcome, answered.note.as_str()), (AskOutcome::Answered, "go"));
    match session.answer("deploy-42").option("no").await.unwrap_err() {
        PublishError::Refused(refusal) => {
            assert_eq!(refusal.code, Some(ErrorCode::AlreadyResolved));
            assert_eq!(*refusal.resolved.unwrap(), answered);
        }
        other => panic!("{other}"),
    }
    // What is refused holds nothing up.
    assert_eq!(session.publish("after").await.unwrap().from.offset, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_reports_asks_and_writes() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let (agent, human) = (client(&broker), client(&broker));
    let session = agent.session("acme/build/42").unwrap();
    let run = session.start_run("Upgrade deps").header("traceparent", "none").await.unwrap();
    run.progress(0.4, "12 of 30").await.unwrap();
    run.counters([("tokens", 1200.0)]).await.unwrap();
    let named = run.open_message("text/markdown").id("said").record_type("lw.tool.result");
    let named = named.header("tool", "shell").reply_to("call-1").replaces("said-before");
    let mut message = named.clone().await.unwrap();
    assert_eq!(message.id(), "said");
    match named.await {
        Err(PublishError::Refused(refusal)) => assert_eq!(refusal.code, Some(ErrorCode::IdInUse)),
        other => panic!("{other:?}"),
    }
    for piece in ["Up", "gra", "ded."] {
        message.push(piece).await.unwrap();
    }
    message.close().await.unwrap();
    let part = run.start_run("Test").id("test").await.unwrap();
    assert_eq!(part.id(), "test");
    let waiting =
        tokio::spawn(async move { part.ask("Deploy?").options(["yes", "no"]).to("anonymous").await });
    let seen = human.session("acme/build/42").unwrap();
    let mut asks = seen.subscribe(From::Start).kinds([3]).await.unwrap();
    let asked = asks.next().await.unwrap().unwrap();
    let info = seen.describe().await.unwrap();
    assert_eq!((info.status.as_str(), info.asks.len(), info.runs.len()), ("input_required", 1, 2));
    let states: Vec<_> = info.runs.iter().map(|run| (run.title.as_str(), run.state.as_str())).collect();
    assert!(states.contains(&("Test", "input_required")) && states.contains(&("Upgrade deps", "working")));
    let listed = human.sessions("acme/").status("input_required").next_page().await.unwrap().unwrap();
    assert_eq!(listed.len(), 1);
    let tree = output(&broker, &["runs", "acme/build/42"]);
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(tree.starts_with("▶ Upgrade deps  40 %  12 of 30  tokens=1200  (working)\n└─ ? Test"), "{tree}");
    seen.answer(&asked.id).option("yes").await.unwrap();
    assert!(waiting.await.unwrap().unwrap().is("yes"));
    run.complete().await.unwrap();
    let info = seen.describe().await.unwrap();
    assert_eq!(info.status, "idle");
    let ended = run.set_state(RunState::Working, "again").await;
    assert!(
        matches!(ended, Err(PublishError::Refused(refusal)) if refusal.code == Some(ErrorCode::RunEnded))
    );
    let mut left = session.open_message("").await.unwrap();
    left.push("half").await.unwrap();
    left.end(MessageEnd::Superseded).await.unwrap();
    let mut records = seen.subscribe(From::Start).until_end().await.unwrap();
    let (mut text, mut closes) = (String::new(), Vec::new());
    while let Some(record) = records.next().await {
        let record = record.unwrap();
        if record.id == "said" {
            let names =
                [&record.record_type, &record.reply_to, &record.replaces, &record.run].map(String::as_str);
            assert_eq!(names, ["lw.tool.result", "call-1", "said-before", run.id()]);
            assert_eq!(
                (record.headers["tool"].as_str(), record.content_type.as_str()),
                ("shell", "text/markdown")
            );
        }
        assert_eq!(record.headers.contains_key("traceparent"), record.id == run.id());
        if record.kind == 1 {
            text.push_str(record.text().unwrap());
            closes.extend(Some(record.close).filter(|close| !close.is_empty()));
        }
    }
    assert_eq!(
        (text.as_str(), closes),
        ("Upgraded.half", vec!["complete".to_owned(), "superseded".to_owned()])
    );
}
