//! Agents with the SDK: a lease that moves on, input, receipts and a run that is cancelled.

use std::time::Duration;

use longwire::{Client, ErrorCode, From, Mode, PublishError, RequestError};

use crate::support::broker::{Broker, folder};

fn client(broker: &Broker) -> Client {
    let (client, driver) = Client::builder().url(broker.url()).build().unwrap();
    drop(tokio::spawn(driver));
    client
}

#[track_caller]
fn code<T: std::fmt::Debug>(outcome: Result<T, PublishError>) -> Option<ErrorCode> {
    match outcome {
        Err(PublishError::Refused(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_moves_on_with_what_it_has_to_do() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let (first, second, human) = (client(&broker), client(&broker), client(&broker));
    let seen = human.session("acme/chat/1").unwrap();
    seen.publish("begin").await.unwrap();
    assert_eq!(code(seen.send("coder", "hello").await), Some(ErrorCode::AgentUnknown));
    let lease =
        first.session("acme/chat/1").unwrap().claim("coder").ttl(Duration::from_secs(60)).await.unwrap();
    assert_eq!((lease.agent(), lease.generation(), lease.ttl()), ("coder", 1, Duration::from_secs(60)));
    let run = lease.session().start_run("Chat").id("chat").await.unwrap();
    let input = seen.send("coder", "use tabs").mode(Mode::Steer).await.unwrap();
    let other = seen.send("coder", "and then rest").id("later").await.unwrap();
    lease.delivered(input.id()).await.unwrap();
    lease.consumed(input.id(), run.id()).await.unwrap();
    assert_eq!(code(lease.consumed(input.id(), run.id()).await), Some(ErrorCode::InputEnded));
    let mut message = run.open_message("text/plain").await.unwrap();
    message.push("half").await.unwrap();
    message.flush().await.unwrap();

    let session = second.session("acme/chat/1").unwrap();
    match session.claim("coder").await.unwrap_err() {
        RequestError::Refused(refusal) => {
            assert_eq!(refusal.code, Some(ErrorCode::LeaseHeld));
            assert!(refusal.retry_after_ms > 0);
        }
        other => panic!("{other}"),
    }
    // The one that is there goes on, such as after its connection was lost.
    let again = first.session("acme/chat/1").unwrap().claim("coder").generation(1).await.unwrap();
    assert_eq!((again.generation(), again.runs().len(), again.inputs().len()), (1, 1, 1));
    let next = session.claim("coder").take_over().await.unwrap();
    assert_eq!((next.runs()[0].id.as_str(), next.runs()[0].state.as_str()), ("chat", "suspended"));
    assert_eq!((next.inputs()[0].id.as_str(), next.inputs()[0].attempts), (other.id(), 0));
    assert_eq!(code(run.complete().await), Some(ErrorCode::Fenced));
    assert!(
        matches!(lease.release().await, Err(RequestError::Refused(refusal)) if refusal.code == Some(ErrorCode::Fenced))
    );
    next.not_consumed(other.id(), "it is late").await.unwrap();

    // Who does not end what is cancelled is ended.
    let mut leases = seen.subscribe(From::End).kinds([9]).await.unwrap();
    seen.run("chat").cancel(Duration::from_millis(1), "enough").await.unwrap();
    let lapsed = leases.next().await.unwrap().unwrap();
    assert_eq!(lapsed.sender.principal, "~broker");
    assert_eq!(code(next.session().publish("late").await), Some(ErrorCode::Fenced));
    let info = seen.describe().await.unwrap();
    assert_eq!(
        (info.runs[0].state.as_str(), info.agents[0].live, info.inputs.len()),
        ("cancelled", false, 0)
    );
    assert_eq!(code(seen.run("chat").cancel(None, "again").await), Some(ErrorCode::RunEnded));
    let last = session.claim("coder").await.unwrap();
    last.session().publish("as the coder").await.unwrap();
    last.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_a_session_that_nobody_uses_lapses_all_the_same() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let agent = client(&broker);
    let session = agent.session("acme/build/42").unwrap();
    session.publish("begin").await.unwrap();
    let lease = session.claim("coder").ttl(Duration::from_secs(1)).await.unwrap();
    lease.session().start_run("Build").id("build").await.unwrap();
    agent.close().await.unwrap();
    broker.kill();
    let broker = Broker::start(&data);
    let client = client(&broker);
    // A list is read from the store: nobody asks the session.
    let lapsing = async {
        loop {
            let listed = client.sessions("acme/").next_page().await.unwrap().unwrap();
            if listed[0].end > 3 {
                return listed[0].end;
            }
            tokio::task::yield_now().await;
        }
    };
    let end = tokio::time::timeout(Duration::from_secs(60), lapsing).await.unwrap();
    assert_eq!(end, 5, "the lease ends, and the run is suspended");
    let next = client.session("acme/build/42").unwrap().claim("coder").await.unwrap();
    assert_eq!((next.runs()[0].id.as_str(), next.runs()[0].state.as_str()), ("build", "suspended"));
}
