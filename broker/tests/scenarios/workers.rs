//! Workers that serve the sessions of a pattern, each of them one at a time, through failures of every kind.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use longwire::{
    Client, Context, ErrorCode, From, HandlerError, InputState, Mode, PublishError, Record, RequestError,
    RunState, Session, WorkerError,
};
use longwire_proto::kind;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::support::broker::{Broker, LONGWIRE, folder};
use crate::support::victim::Victim;

/// The time to live of leases of workers that are killed: the shortest that there is.
const TTL: Duration = Duration::from_secs(1);
/// Tells the test binary that it is a worker, of this broker.
const WORKER_URL: &str = "LONGWIRE_TEST_WORKER_URL";
/// And which one.
const WORKER_NAME: &str = "LONGWIRE_TEST_WORKER_NAME";

fn client(url: &str) -> Client {
    Client::connect(url).unwrap()
}

/// A worker of this process.
fn worker<F>(broker: &Broker, handler: impl Fn(Context) -> F + Send + Sync + 'static) -> JoinHandle<()>
where
    F: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    let client = client(&broker.url());
    tokio::spawn(async move {
        client.worker("acme/chat/*", "coder").ttl(TTL).serve(handler).await.unwrap();
    })
}

/// A session that the worker knows by now.
async fn introduced(client: &Client, id: &str) -> Session {
    let session = client.session(id).unwrap();
    let mut leases = session.subscribe(From::Start).wait_for_session().kinds([kind::LEASE]).await.unwrap();
    session.publish("hello").await.unwrap();
    for _ in ["claimed", "released"] {
        leases.next().await.unwrap().unwrap();
    }
    session
}

async fn states(session: &Session, text: &str, mode: Mode) -> Vec<InputState> {
    let mut sent = session.send("coder", text).mode(mode).await.unwrap();
    let mut states = Vec::new();
    while let Some(state) = sent.next().await.unwrap() {
        states.push(state);
    }
    states
}

async fn records(session: &Session) -> Vec<Record> {
    let mut records = session.subscribe(From::Start).until_end().await.unwrap();
    let mut all = Vec::new();
    while let Some(record) = records.next().await {
        all.push(record.unwrap());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_answers_what_it_is_sent() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let lw = client(&broker.url());
    // Before anybody serves it.
    let unknown = lw.session("acme/chat/1").unwrap();
    unknown.publish("hello").await.unwrap();
    let refused = unknown.send("coder", "x").await.unwrap_err();
    let PublishError::Refused(refusal) = refused else { panic!("{refused}") };
    assert_eq!(refusal.code, Some(ErrorCode::AgentUnknown));
    let served = worker(&broker, |ctx| async move {
        while let Some(input) = ctx.next_input().await? {
            let text = input.text().to_owned();
            if text == "refuse" {
                input.refuse("not me").await?;
                continue;
            }
            ctx.session().publish(format!("you said {text}")).await?;
            input.done().await?;
        }
        Ok(())
    });
    for number in 1..=2 {
        let session = introduced(&lw, &format!("acme/chat/{number}")).await;
        let states = states(&session, "hi", Mode::Followup).await;
        let [InputState::Delivered, InputState::Consumed { run }] = &states[..] else { panic!("{states:?}") };
        let said: Vec<_> = records(&session).await;
        assert!(
            said.iter().any(|record| record.text() == Some("you said hi") && record.sender.agent == "coder")
        );
        let ended = wait_for_run(&session, run).await;
        assert_eq!(ended, RunState::Completed);
    }
    let session = lw.session("acme/chat/2").unwrap();
    let refused = states(&session, "refuse", Mode::Followup).await;
    assert_eq!(refused[1], InputState::NotConsumed { reason: "not me".to_owned() });
    served.abort();
}

/// How a run has ended.
async fn wait_for_run(session: &Session, run: &str) -> RunState {
    let mut changes = session.subscribe(From::Start).kinds([kind::RUN]).await.unwrap();
    loop {
        let record = changes.next().await.unwrap().unwrap();
        if record.run == run
            && let longwire::Body::RunChange(change) = &record.body
            && let Some(state) = RunState::parse(&change.state).filter(|state| state.has_ended())
        {
            return state;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_steers_comes_before_what_follows_and_what_preempts_stops_what_is_done() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let lw = client(&broker.url());
    let (took, mut taken) = mpsc::unbounded_channel();
    let served = worker(&broker, move |ctx| {
        let took = took.clone();
        async move {
            while let Some(input) = ctx.next_input().await? {
                took.send(input.text().to_owned())?;
                if input.text() == "first" {
                    // In the middle of it, and while another one waits.
                    let steering = ctx.steering().await?;
                    took.send(steering.text().to_owned())?;
                    steering.done().await?;
                }
                if input.text() == "long" {
                    input.stopped().cancelled().await;
                    input.refuse("preempted").await?;
                    continue;
                }
                input.done().await?;
            }
            Ok(())
        }
    });
    let session = introduced(&lw, "acme/chat/1").await;
    session.send("coder", "first").await.unwrap();
    assert_eq!(taken.recv().await.unwrap(), "first");
    session.send("coder", "followup").await.unwrap();
    let mut long = session.send("coder", "long").await.unwrap();
    session.send("coder", "steer").mode(Mode::Steer).await.unwrap();
    for expected in ["steer", "followup", "long"] {
        assert_eq!(taken.recv().await.unwrap(), expected);
    }
    assert_eq!(long.next().await.unwrap(), Some(InputState::Delivered));
    assert_eq!(states(&session, "now", Mode::Preempt).await.len(), 2);
    assert_eq!(long.next().await.unwrap(), Some(InputState::NotConsumed { reason: "preempted".to_owned() }));
    served.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_is_told_and_one_that_does_not_listen_is_ended() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let lw = client(&broker.url());
    let served = worker(&broker, |ctx| async move {
        let Some(input) = ctx.next_input().await? else { return Ok(()) };
        if input.text() == "listens" {
            ctx.cancelled().cancelled().await;
            input.refuse("cancelled").await?;
        } else {
            std::future::pending::<()>().await;
        }
        Ok(())
    });
    for (text, deadline) in [("listens", Duration::from_secs(600)), ("does not", Duration::from_millis(1))] {
        let session = introduced(&lw, &format!("acme/chat/{}", text.len())).await;
        let mut runs = session.subscribe(From::End).kinds([kind::RUN]).await.unwrap();
        let sent = session.send("coder", text).await.unwrap();
        let run = runs.next().await.unwrap().unwrap().id;
        session.run(&run).cancel(deadline, "enough").await.unwrap();
        assert_eq!(wait_for_run(&session, &run).await, RunState::Cancelled, "{text}");
        drop(sent);
        let again = session.run(&run).cancel(None, "").await.unwrap_err();
        assert!(matches!(again, PublishError::Refused(refusal) if refusal.code == Some(ErrorCode::RunEnded)));
    }
    served.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_fails_or_panics_is_tried_again_and_given_up() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let lw = client(&broker.url());
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let served = worker(&broker, move |ctx| {
        let try_number = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let Some(input) = ctx.next_input().await? else { return Ok(()) };
            if input.text() == "fails once" && try_number > 0 {
                input.done().await?;
                return Ok(());
            }
            if try_number.is_multiple_of(2) {
                return Err("no luck".into());
            }
            panic!("no luck at all");
        }
    });
    let session = introduced(&lw, "acme/chat/1").await;
    let once = states(&session, "fails once", Mode::Followup).await;
    assert!(
        matches!(&once[..], [InputState::Delivered, InputState::Delivered, InputState::Consumed { .. }]),
        "{once:?}"
    );
    let notes: Vec<_> =
        session.describe().await.unwrap().runs.into_iter().map(|run| (run.state, run.note)).collect();
    assert!(notes.contains(&("failed".to_owned(), "no luck".to_owned())), "{notes:?}");
    served.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_suspended_is_woken_by_an_answer_and_by_an_input_and_by_nothing_else() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let lw = client(&broker.url());
    let (called, mut calls) = mpsc::unbounded_channel();
    let served = worker(&broker, move |ctx| {
        let called = called.clone();
        async move {
            called.send((ctx.run().id().to_owned(), ctx.is_resumed()))?;
            let input = ctx.next_input().await?;
            let text = input.as_ref().map(|input| input.text().to_owned());
            if let Some(input) = input {
                input.done().await?;
            }
            match text.as_deref() {
                Some("ask") => drop(ctx.ask("Deploy?").id("deploy").options(["yes", "no"]).send().await?),
                Some("rest") => {}
                _ => return Ok(()),
            }
            ctx.suspend().await?;
            Ok(())
        }
    });
    let session = introduced(&lw, "acme/chat/1").await;
    // The records of leases say when it is looked at, and that it is left alone.
    let mut leases = session.subscribe(From::End).kinds([kind::LEASE]).await.unwrap();
    let mut last = String::new();
    for (text, state) in [("ask", "input_required"), ("rest", "input_required")] {
        session.send("coder", text).await.unwrap();
        let (run, resumed) = calls.recv().await.unwrap();
        assert!(!resumed && run != last, "{run}");
        for expected in ["claimed", "released"] {
            let record = leases.next().await.unwrap().unwrap();
            let longwire::Body::LeaseChange(change) = record.body else { panic!("{record:?}") };
            assert_eq!(change.state, expected, "{text}");
        }
        let found = session.describe().await.unwrap();
        let waiting = found.runs.iter().find(|found| found.id == run).unwrap();
        assert_eq!((waiting.state.as_str(), found.agents[0].live), (state, false), "{text}");
        // It is no reason to look at it.
        session.publish("by the way").await.unwrap();
        if text == "ask" {
            session.answer("deploy").option("yes").await.unwrap();
        } else {
            session.send("coder", "go on").await.unwrap();
        }
        assert_eq!(calls.recv().await.unwrap(), (run.clone(), true), "{text}");
        assert_eq!(wait_for_run(&session, &run).await, RunState::Completed);
        for _ in ["claimed", "released"] {
            leases.next().await.unwrap().unwrap();
        }
        last = run;
    }
    assert!(calls.try_recv().is_err(), "it was called for nothing");
    served.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_refused_what_it_would_ask_again_ends_with_that() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let lw = client(&broker.url());
    lw.session("acme/chat/1").unwrap().publish("hello").await.unwrap();
    let serving = lw.worker("acme/chat/*", "coder").ttl(Duration::from_millis(1)).serve(|_| async { Ok(()) });
    let error = serving.await.unwrap_err();
    let WorkerError::Request(RequestError::Refused(refusal)) = &error else { panic!("{error}") };
    assert_eq!((refusal.code, refusal.field.as_str()), (Some(ErrorCode::InvalidArgument), "ttl_ms"));
}

/// The worker of another process, until it is killed.
#[test]
#[ignore = "the half of another test that is killed"]
fn a_worker_process() {
    let (Ok(url), Ok(name)) = (std::env::var(WORKER_URL), std::env::var(WORKER_NAME)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let client = client(&url);
        let handler = move |ctx: Context| {
            let name = name.clone();
            async move {
                while let Some(input) = ctx.next_input().await? {
                    ctx.session().publish(format!("{name} {}", input.text())).await?;
                    input.done().await?;
                }
                Ok(())
            }
        };
        client.worker("acme/chat/*", "coder").ttl(TTL).serve(handler).await.unwrap();
    });
}

fn worker_process(broker: &Broker, name: &str) -> Victim {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "workers::a_worker_process", "--ignored", "--nocapture"]);
    command.env(WORKER_URL, broker.url()).env(WORKER_NAME, name);
    Victim::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_is_taken_over_and_no_input_is_lost_or_done_by_two() {
    const SESSIONS: usize = 4;
    const INPUTS: usize = 40;
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let lw = client(&broker.url());
    let mut first = Some(worker_process(&broker, "first"));
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        sessions.push(introduced(&lw, &format!("acme/chat/{number}")).await);
    }
    let _second = worker_process(&broker, "second");
    let mut sent = Vec::new();
    for number in 0..INPUTS {
        let session = &sessions[number % SESSIONS];
        sent.push(session.send("coder", number.to_string()).await.unwrap());
        if number == INPUTS / 2 {
            first.take().unwrap().kill();
        }
    }
    for input in &mut sent {
        let mut last = None;
        while let Some(state) = input.next().await.unwrap() {
            last = Some(state);
        }
        assert!(matches!(last, Some(InputState::Consumed { .. })), "{}: {last:?}", input.id());
    }
    for session in &sessions {
        // By the log: each input is consumed once, and only by who holds the lease then.
        let mut holder = 0;
        let mut consumed: BTreeMap<String, u32> = BTreeMap::new();
        for record in records(session).await {
            match &record.body {
                longwire::Body::LeaseChange(change) if change.state == "claimed" => {
                    assert_eq!(holder, 0, "claimed while somebody has it");
                    holder = record.offset;
                }
                longwire::Body::LeaseChange(change) => {
                    assert_eq!(std::mem::take(&mut holder), change.generation);
                }
                longwire::Body::Receipt(receipt) => {
                    assert_eq!(record.sender.generation, holder, "{receipt:?}");
                    if receipt.state == "consumed" {
                        *consumed.entry(record.reply_to.clone()).or_default() += 1;
                    }
                }
                _ => {}
            }
        }
        assert_eq!(consumed.len(), INPUTS / SESSIONS);
        assert!(consumed.values().all(|times| *times == 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_sends_and_cancels() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let lw = client(&broker.url());
    let longwire = |arguments: &[&str]| {
        let mut command = Command::new(LONGWIRE);
        command.args(arguments).env("LONGWIRE_URL", broker.url()).stdin(Stdio::null());
        let output = command.output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap(),
        )
    };
    lw.session("acme/chat/1").unwrap().publish("hello").await.unwrap();
    let (code, said) = longwire(&["send", "acme/chat/1", "hi"]);
    assert!(code == 2 && said.contains("which agent?"), "{code} {said}");
    let served = worker(&broker, |ctx| async move {
        let Some(input) = ctx.next_input().await? else { return Ok(()) };
        if input.text() == "wait" {
            ctx.cancelled().cancelled().await;
            input.refuse("it was cancelled").await?;
        } else {
            input.done().await?;
        }
        Ok(())
    });
    let session = introduced(&lw, "acme/chat/1").await;
    let (code, said) = longwire(&["send", "acme/chat/1", "hi"]);
    assert!(code == 0 && said.starts_with("accepted\ndelivered\nconsumed: "), "{code} {said}");
    let mut runs = session.subscribe(From::End).kinds([kind::RUN]).await.unwrap();
    let (code, said) = longwire(&["send", "acme/chat/1", "wait", "--to", "coder", "--no-wait", "--id", "w"]);
    assert_eq!((code, said.as_str()), (0, "accepted\n"));
    while runs.next().await.unwrap().unwrap().id.is_empty() {}
    assert_eq!(longwire(&["cancel", "acme/chat/1", "--deadline", "10m"]).0, 0);
    let (code, said) = longwire(&["--json", "send", "acme/chat/1", "wait", "--id", "w"]);
    assert!(
        code == 1 && said.contains(r#""state":"not_consumed""#) && said.contains("it was cancelled"),
        "{code} {said}"
    );
    served.abort();
}

/// Claims whatever calls, says and does what it was sent, and gives it up; one that is `mortal` goes away with the first input in its hands.
async fn claim_and_do(lw: Client, mortal: bool) {
    loop {
        let claimed = lw.claim("acme/chat/*", "coder").wait(Duration::from_secs(600)).ttl(TTL).await.unwrap();
        let Some(lease) = claimed else { continue };
        for input in lease.inputs() {
            if mortal {
                return;
            }
            lease.session().publish(format!("did {}", input.id)).await.unwrap();
            lease.consumed(&input.id, "").await.unwrap();
        }
        lease.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_claims_a_pattern_shares_its_sessions_with_others() {
    const SESSIONS: usize = 30;
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let lw = client(&broker.url());
    for number in 0..SESSIONS {
        lw.session(&format!("acme/chat/{number}")).unwrap().publish("hello").await.unwrap();
    }
    let mut introduced = 0;
    while let Some(lease) = lw.claim("acme/chat/*", "coder").await.unwrap() {
        assert!(lease.inputs().is_empty());
        lease.release().await.unwrap();
        introduced += 1;
    }
    assert_eq!(introduced, SESSIONS, "each was nobody's, once");
    // One that dies of the first input that it is given; two on one client, and one on another.
    let dying = tokio::spawn(claim_and_do(client(&broker.url()), true));
    let other = client(&broker.url());
    let claiming = [lw.clone(), lw.clone(), other].map(|lw| tokio::spawn(claim_and_do(lw, false)));
    let mut sent = Vec::new();
    for round in 0..3 {
        for number in 0..SESSIONS {
            let session = lw.session(&format!("acme/chat/{number}")).unwrap();
            let input = session.send("coder", "go on").id(format!("i-{number}-{round}")).await.unwrap();
            sent.push((session, input));
        }
    }
    for (session, mut input) in sent {
        let mut last = None;
        while let Some(state) = input.next().await.unwrap() {
            last = Some(state);
        }
        assert_eq!(last, Some(InputState::Consumed { run: String::new() }), "{}", input.id());
        let said = format!("did {}", input.id());
        let times = records(&session).await.iter().filter(|one| one.text() == Some(&said)).count();
        assert_eq!(times, 1, "{said}");
    }
    dying.await.unwrap();
    claiming.iter().for_each(JoinHandle::abort);
}
