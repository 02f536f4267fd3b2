//! Claims of patterns: whoever may be an agent of many sessions is given one that calls for it.

use std::collections::BTreeSet;

use longwire_proto::kind;
use longwire_proto::limits::PATTERNS_MAX;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::record::Body;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::every_transport::client::{Client, publish};
use crate::every_transport::transport::{Bed, Transport};
use crate::support::wire_client::{published, record, refusal};

const AGENT: &str = "acme/chat/*:read,publish,lease";
const HUMAN: &str = "acme/**:read,publish,create,control,manage";
/// Longer than anything here takes.
const LONG_MS: u64 = 600_000;

fn claim(pattern: &str, wait_ms: u64) -> ClientFrame {
    let (pattern, agent) = (pattern.to_owned(), "coder".to_owned());
    ClientFrame::Claim(wire::Claim { pattern, agent, wait_ms, ..Default::default() })
}

fn claimed(answer: ServerFrame) -> wire::Claimed {
    match answer {
        ServerFrame::Claimed(claimed) => claimed,
        other => panic!("{:?}", refusal(other)),
    }
}

async fn nothing_calls(client: &mut Client, pattern: &str) {
    let error = client.refused(claim(pattern, 0)).await;
    assert_eq!((error.code.as_str(), error.retryable, error.field.as_str()), ("nothing_calls", true, "pattern"));
}

async fn send(human: &mut Client, session: &str, id: &str) {
    let input = wire::Record { kind: kind::INPUT, id: id.into(), to: vec!["coder".into()], ..record("go on") };
    let publish = wire::Publish { session: session.into(), records: vec![input], ..Default::default() };
    published(human.ask(ClientFrame::Publish(publish)).await);
}

async fn consume(agent: &mut Client, held: &wire::Claimed, input: &str) {
    let body = Some(Body::Receipt(wire::Receipt { state: "consumed".into(), ..Default::default() }));
    let receipt = wire::Record { kind: kind::INPUT, reply_to: input.into(), body, ..Default::default() };
    let lease = Some(wire::Lease { agent: held.agent.clone(), generation: held.generation });
    let (session, records) = (held.session.clone(), vec![receipt]);
    let publish = wire::Publish { session, lease, records, ..Default::default() };
    published(agent.ask(ClientFrame::Publish(publish)).await);
}

async fn release(agent: &mut Client, held: &wire::Claimed) {
    let (session, agent_name, generation) = (held.session.clone(), held.agent.clone(), held.generation);
    let release = wire::ReleaseLease { request: 0, session, agent: agent_name, generation };
    let answer = agent.ask(ClientFrame::ReleaseLease(release)).await;
    assert!(matches!(answer, ServerFrame::Done(_)), "{answer:?}");
}

pub(super) async fn the_claim_of_a_pattern_finds_each_session_that_calls_once(transport: Transport) {
    let mut bed = Bed::new(transport);
    let tokens = bed.tokens.clone();
    let mut human = bed.connect_as(&tokens.token("human", &[HUMAN])).await;
    let mut first = bed.connect_as(&tokens.token("first", &[AGENT])).await;
    let mut second = bed.connect_as(&tokens.token("second", &[AGENT])).await;
    nothing_calls(&mut first, "**").await;
    for session in ["acme/chat/1", "acme/chat/2", "acme/chat/closed", "acme/private"] {
        published(human.ask(publish(session, &["hello"])).await);
    }
    let close = wire::CloseSession { session: "acme/chat/closed".into(), ..Default::default() };
    let closed = human.ask(ClientFrame::CloseSession(close)).await;
    assert!(matches!(closed, ServerFrame::SessionDescription(_)), "{closed:?}");
    // Sessions that nobody was the agent of, each once, whoever asks and however; and none that may not be claimed.
    let one = claimed(first.ask(claim("**", 0)).await);
    let other = claimed(second.ask(claim("acme/*/*", LONG_MS)).await);
    let both = BTreeSet::from([one.session.clone(), other.session.clone()]);
    assert_eq!(both, BTreeSet::from(["acme/chat/1".to_owned(), "acme/chat/2".to_owned()]));
    for client in [&mut first, &mut second] {
        nothing_calls(client, "acme/chat/*").await;
    }
    release(&mut first, &one).await;
    release(&mut second, &other).await;
    nothing_calls(&mut first, "**").await;

    // Whoever waits is given what somebody says, and nobody else is while it acts on it.
    let waiting = first.request(claim("**", LONG_MS)).await;
    send(&mut human, "acme/chat/2", "i").await;
    let held = claimed(first.answer(waiting).await);
    assert_eq!((held.session.as_str(), held.agent.as_str()), ("acme/chat/2", "coder"));
    assert_eq!((held.inputs.len(), held.inputs[0].id.as_str()), (1, "i"));
    nothing_calls(&mut second, "**").await;
    consume(&mut first, &held, "i").await;
    send(&mut human, "acme/chat/2", "j").await;
    // What it leaves is somebody's who waits, also of another life.
    bed.kill();
    bed.start_again();
    let mut human = bed.connect_as(&tokens.token("human", &[HUMAN])).await;
    let mut second = bed.connect_as(&tokens.token("second", &[AGENT])).await;
    let waiting = second.request(claim("acme/chat/*", LONG_MS)).await;
    let mut first = bed.connect_as(&tokens.token("first", &[AGENT])).await;
    release(&mut first, &held).await;
    let next = claimed(second.answer(waiting).await);
    assert_eq!((next.session.as_str(), next.inputs.len(), next.inputs[0].id.as_str()), ("acme/chat/2", 1, "j"));
    assert!(next.generation > held.generation);
    consume(&mut second, &next, "j").await;
    release(&mut second, &next).await;
    let waiting = second.request(claim("acme/chat/*", LONG_MS)).await;
    published(human.ask(publish("acme/chat/new", &["hello"])).await);
    assert_eq!(claimed(second.answer(waiting).await).session, "acme/chat/new");
}

pub(super) async fn claims_of_patterns_wait_beside_each_other_and_are_bounded(transport: Transport) {
    let bed = Bed::new(transport);
    let tokens = bed.tokens.clone();
    let mut human = bed.connect_as(&tokens.token("human", &[HUMAN])).await;
    let mut agent = bed.connect_as(&tokens.token("agent", &[AGENT])).await;
    let mut waiting = BTreeSet::new();
    for _ in 0..PATTERNS_MAX {
        waiting.insert(agent.request(claim("acme/chat/*", LONG_MS)).await);
    }
    let error = agent.refused(claim("acme/chat/*", LONG_MS)).await;
    assert_eq!((error.code.as_str(), error.limit), ("too_many_requests", PATTERNS_MAX as u64));
    // Whoever waits is heard, and hears, all the while.
    agent.ping(7).await;
    published(agent.ask(publish("acme/chat/0", &["hello"])).await);
    let mut sessions = BTreeSet::new();
    for number in 0..PATTERNS_MAX {
        if number > 0 {
            published(human.ask(publish(&format!("acme/chat/{number}"), &["hello"])).await);
        }
        let is_claimed = |frame: &ServerFrame| matches!(frame, ServerFrame::Claimed(_));
        let held = claimed(agent.next("a claim is answered", is_claimed).await);
        assert!(waiting.remove(&held.request), "{held:?}");
        sessions.insert(held.session);
    }
    assert_eq!((waiting.len(), sessions.len()), (0, PATTERNS_MAX), "each claim has a session of its own");
}

pub(super) async fn what_is_wrong_about_claims_of_patterns_is_refused(transport: Transport) {
    let bed = Bed::new(transport);
    let mut agent = bed.connect_as(&bed.tokens.token("agent", &[AGENT])).await;
    published(agent.ask(publish("acme/chat/1", &["hello"])).await);
    let base = || wire::Claim { pattern: "acme/chat/*".into(), agent: "coder".into(), ..Default::default() };
    for (claim, code, field) in [
        (wire::Claim { pattern: "a//b".into(), ..base() }, "invalid_pattern", "pattern"),
        (wire::Claim { pattern: "acme/c*".into(), ..base() }, "invalid_pattern", "pattern"),
        (wire::Claim { session: "acme/chat/1".into(), ..base() }, "invalid_argument", "pattern"),
        (wire::Claim { take_over: true, ..base() }, "invalid_argument", "take_over"),
        (wire::Claim { generation: 1, ..base() }, "invalid_argument", "generation"),
        (wire::Claim { wait_ms: 3_600_001, ..base() }, "invalid_argument", "wait_ms"),
        (wire::Claim { agent: "no spaces".into(), ..base() }, "invalid_argument", "agent"),
        (wire::Claim { ttl_ms: 999, ..base() }, "invalid_argument", "ttl_ms"),
        (wire::Claim { adopt_timeout_ms: 1, ..base() }, "invalid_argument", "adopt_timeout_ms"),
        (wire::Claim { session: "acme/chat/1".into(), pattern: String::new(), wait_ms: 1, ..base() }, "invalid_argument", "wait_ms"),
        (wire::Claim { pattern: String::new(), ..base() }, "invalid_session_id", "session"),
    ] {
        let error = agent.refused(ClientFrame::Claim(claim)).await;
        assert_eq!((error.code.as_str(), error.field.as_str()), (code, field), "{error:?}");
    }
    assert_eq!(claimed(agent.ask(claim("acme/chat/*", 0)).await).session, "acme/chat/1", "nothing of that was done");
}
