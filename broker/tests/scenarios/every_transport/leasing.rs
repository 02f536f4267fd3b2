//! Agents: one live holder, what it leaves to the next one, input that is done once, and runs that are cancelled.

use longwire_proto::kind;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::record::Body;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::every_transport::client::{Client, wish};
use crate::every_transport::transport::{Bed, Transport};
use crate::support::wire_client::{published, record, refusal};

const SESSION: &str = "acme/1";
/// What an agent may do.
const AGENT: &str = "acme/**:read,publish,lease";
/// What a human may do who watches it.
const HUMAN: &str = "acme/**:read,publish,control";
const SUPERVISOR: &str = "acme/**:read,publish,lease,manage";
/// The shortest time after which a lease lapses.
const TTL_MS: u64 = 1000;

fn claim_of(claim: wire::Claim) -> ClientFrame {
    ClientFrame::Claim(wire::Claim { session: SESSION.into(), agent: "coder".into(), ..claim })
}

async fn claimed(client: &mut Client, claim: wire::Claim) -> wire::Claimed {
    match client.ask(claim_of(claim)).await {
        ServerFrame::Claimed(claimed) => claimed,
        other => panic!("{:?}", refusal(other)),
    }
}

fn lease(generation: u64) -> Option<wire::Lease> {
    Some(wire::Lease { agent: "coder".into(), generation })
}

fn publish(lease: Option<wire::Lease>, records: Vec<wire::Record>) -> ClientFrame {
    ClientFrame::Publish(wire::Publish { session: SESSION.into(), lease, records, ..Default::default() })
}

async fn taken(client: &mut Client, lease: Option<wire::Lease>, record: wire::Record) -> u64 {
    published(client.ask(publish(lease, vec![record])).await).from
}

async fn refused(client: &mut Client, lease: Option<wire::Lease>, record: wire::Record) -> String {
    client.refused(publish(lease, vec![record])).await.code
}

fn run(id: &str, run: &str, state: &str) -> wire::Record {
    let body = Some(Body::RunChange(wire::RunChange { state: state.into(), ..Default::default() }));
    wire::Record { kind: kind::RUN, id: id.into(), run: run.into(), body, ..Default::default() }
}

fn input(id: &str, mode: &str) -> wire::Record {
    let to = vec!["coder".to_owned()];
    wire::Record { kind: kind::INPUT, id: id.into(), to, mode: mode.into(), ..record("use tabs") }
}

fn receipt(input: &str, state: &str) -> wire::Record {
    let body = Some(Body::Receipt(wire::Receipt { state: state.into(), ..Default::default() }));
    wire::Record { kind: kind::INPUT, reply_to: input.into(), body, ..Default::default() }
}

fn cancel(run: &str, deadline_ms: u64) -> wire::Record {
    let body = Some(Body::Cancel(wire::Cancel { deadline_ms, reason: "enough".into() }));
    wire::Record { kind: kind::CANCEL, run: run.into(), body, ..Default::default() }
}

fn ask(id: &str) -> wire::Record {
    let options = vec![wire::AskOption { id: "yes".into(), label: String::new() }];
    let body = Some(Body::Ask(wire::Ask { title: "Deploy?".into(), options, ..Default::default() }));
    wire::Record { kind: kind::ASK, id: id.into(), body, ..Default::default() }
}

fn change(record: &wire::Record) -> &wire::LeaseChange {
    match &record.body {
        Some(Body::LeaseChange(change)) => change,
        other => panic!("{other:?}"),
    }
}

async fn state(client: &mut Client) -> wire::SessionState {
    let describe = wire::DescribeSession { request: 0, session: SESSION.into() };
    match client.ask(ClientFrame::DescribeSession(describe)).await {
        ServerFrame::SessionDescription(description) => *description.session.unwrap().state.unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn release(client: &mut Client, generation: u64) -> ServerFrame {
    let (session, agent) = (SESSION.to_owned(), "coder".to_owned());
    client.ask(ClientFrame::ReleaseLease(wire::ReleaseLease { request: 0, session, agent, generation })).await
}

pub(super) async fn an_agent_has_one_holder_and_the_next_one_finds_what_it_left(transport: Transport) {
    let mut bed = Bed::new(transport);
    let tokens = bed.tokens.clone();
    let mut first = bed.connect_as(&tokens.token("first", &[AGENT])).await;
    let absent = refusal(first.ask(claim_of(wire::Claim::default())).await);
    assert_eq!(absent.code, "session_not_found", "a claim makes no session");
    taken(&mut first, None, record("before")).await;
    let held = claimed(&mut first, wire::Claim { ttl_ms: 600_000, ..Default::default() }).await;
    assert_eq!((held.agent.as_str(), held.generation, held.ttl_ms), ("coder", 1, 600_000));
    assert!(held.runs.is_empty() && held.asks.is_empty() && held.inputs.is_empty());
    // It is stamped, so that every reader knows.
    let lease = || lease(1);
    let said = taken(&mut first, lease(), record("as the coder")).await;
    taken(&mut first, lease(), run("build", "", "")).await;
    taken(&mut first, lease(), wire::Record { run: "build".into(), ..ask("deploy") }).await;
    let opens = wire::Record { id: "m".into(), grows: true, ..record("To be") };
    taken(&mut first, lease(), opens).await;
    let mut watcher = bed.connect_as(&tokens.token("watcher", &[HUMAN])).await;
    watcher.subscribe(wish(1, SESSION, From::Offset(1))).await;
    assert_eq!(said, 2);
    let seen = watcher.take(1, 1, 6).await;
    assert_eq!((seen[0].kind, seen[0].sender.as_ref().unwrap().principal.as_str()), (kind::LEASE, "first"));
    assert_eq!((change(&seen[0]).state.as_str(), change(&seen[0]).ttl_ms), ("claimed", 600_000));
    let sender = seen[1].sender.as_ref().unwrap();
    assert_eq!((sender.agent.as_str(), sender.generation), ("coder", 1));

    // Nobody else is it, and what is the agent's is nobody else's: not even its holder's without the lease.
    let mut second = bed.connect_as(&tokens.token("second", &[AGENT])).await;
    let busy = refusal(second.ask(claim_of(wire::Claim::default())).await);
    assert_eq!((busy.code.as_str(), busy.retryable, busy.field.as_str()), ("lease_held", true, "agent"));
    assert!((1..=600_000).contains(&busy.retry_after_ms) && busy.message.contains("first"), "{busy:?}");
    let over = wire::Claim { take_over: true, ..Default::default() };
    assert_eq!(refusal(second.ask(claim_of(over.clone())).await).code, "forbidden");
    assert_eq!(refused(&mut second, lease(), record("x")).await, "fenced");
    assert_eq!(refused(&mut second, None, run("", "build", "failed")).await, "not_owner");
    assert_eq!(refused(&mut first, None, run("", "build", "failed")).await, "not_owner");
    let delta = |piece: &str| wire::Record { kind: kind::DELTA, message: "m".into(), ..record(piece) };
    assert_eq!(refused(&mut first, None, delta("!")).await, "not_owner");
    let later = wire::Claim { generation: 2, ..Default::default() };
    assert_eq!(refusal(second.ask(claim_of(later)).await).code, "fenced");

    // The same holder goes on with it, over another connection and in another life of the broker.
    for life in 0..2 {
        let same = claimed(&mut first, wire::Claim { generation: 1, ..Default::default() }).await;
        assert_eq!((same.generation, same.runs.len(), same.asks.len()), (1, 1, 1), "life {life}");
        assert_eq!((same.runs[0].state.as_str(), same.runs[0].agent.as_str()), ("working", "coder"));
        taken(&mut first, lease(), delta(", or")).await;
        if life == 0 {
            bed.kill();
            bed.start_again();
            first = bed.connect_as(&tokens.token("first", &[AGENT])).await;
        }
    }
    let mut watcher = bed.connect_as(&tokens.token("watcher", &[HUMAN])).await;
    let told = watcher.subscribe(wish(1, SESSION, From::End(true))).await;
    let (end, told) = (told.end, told.state.unwrap());
    let agent = &told.agents[0];
    assert_eq!((agent.agent.as_str(), agent.principal.as_str(), agent.live), ("coder", "first", true));

    // Somebody who manages the session takes it: all that follows is one batch, and what comes late is fenced.
    let mut boss = bed.connect_as(&tokens.token("boss", &[SUPERVISOR])).await;
    let taken_over = claimed(&mut boss, over).await;
    let seen = watcher.take(1, end, end + 4).await;
    let lapsed = change(&seen[0]);
    assert_eq!((lapsed.state.as_str(), lapsed.generation, seen[0].sender.as_ref().unwrap().principal.as_str()), ("lapsed", 1, "~broker"));
    assert_eq!((seen[1].message.as_str(), seen[1].close.as_str()), ("m", "abandoned"));
    assert_eq!((seen[2].kind, seen[2].run.as_str()), (kind::RUN, "build"));
    assert_eq!((change(&seen[3]).state.as_str(), taken_over.generation), ("claimed", end + 3));
    let left = &taken_over.runs[0];
    assert_eq!((left.id.as_str(), left.state.as_str()), ("build", "suspended"));
    assert_eq!(taken_over.asks[0].id, "deploy", "what was asked is still asked");
    for late in [record("x"), delta("!"), run("", "build", "failed"), run("more", "", ""), ask("late"), receipt("i", "consumed")] {
        assert_eq!(refused(&mut first, lease(), late).await, "fenced");
    }
    let producer = Some(wire::Producer { id: "p".into(), epoch: 3, sequence: 9 });
    let batch = wire::Publish { session: SESSION.into(), lease: lease(), producer, records: vec![record("a"), record("b")], ..Default::default() };
    assert_eq!(first.refused(ClientFrame::Publish(batch)).await.code, "fenced", "before anything else is said");
    assert_eq!(refusal(release(&mut first, 1).await).code, "fenced");
    let lease = || Some(wire::Lease { agent: "coder".into(), generation: taken_over.generation });
    taken(&mut boss, lease(), run("", "build", "working")).await;
    taken(&mut boss, lease(), run("", "build", "completed")).await;
    assert!(matches!(release(&mut boss, taken_over.generation).await, ServerFrame::Done(_)));
    assert_eq!(refused(&mut boss, lease(), record("x")).await, "fenced");
    let mut second = bed.connect_as(&tokens.token("second", &[AGENT])).await;
    let third = claimed(&mut second, wire::Claim::default()).await;
    assert!(third.generation > taken_over.generation && third.runs.is_empty());
    // Closing ends it.
    let close = wire::CloseSession { request: 0, session: SESSION.into(), reason: String::new() };
    assert!(matches!(boss.ask(ClientFrame::CloseSession(close)).await, ServerFrame::SessionDescription(_)));
    assert!(!state(&mut boss).await.agents[0].live);
    let late = second.refused(publish(Some(wire::Lease { agent: "coder".into(), generation: third.generation }), vec![record("x")])).await;
    assert_eq!(late.code, "session_closed");
    assert_eq!(refusal(second.ask(claim_of(wire::Claim::default())).await).code, "session_closed");
}

pub(super) async fn whoever_is_heard_keeps_a_lease_and_whoever_is_silent_loses_it(transport: Transport) {
    let bed = Bed::new(transport);
    let tokens = bed.tokens.clone();
    let mut agent = bed.connect_as(&tokens.token("agent", &[AGENT])).await;
    let mut watcher = bed.connect_as(&tokens.token("watcher", &[HUMAN])).await;
    taken(&mut agent, None, record("before")).await;
    let mut generation = 0;
    // Where nothing could be heard for too long, because the machine was busy, the lease may have lapsed: then once more.
    for attempt in 0.. {
        assert!(attempt < 20, "this machine is never fast enough");
        let held = claimed(&mut agent, wire::Claim { ttl_ms: TTL_MS, ..Default::default() }).await;
        generation = held.generation;
        let (began, mut last, mut silent) = (agent.ping(0).await, 0, false);
        let mut now = began;
        while now < began + 3 * TTL_MS {
            last = now;
            now = agent.ping(now).await;
            silent |= now - last >= TTL_MS / 2;
        }
        let goes_on = agent.ask(claim_of(wire::Claim { generation, ..Default::default() })).await;
        if matches!(goes_on, ServerFrame::Claimed(_)) {
            break;
        }
        assert!(silent, "it was heard at {last}, and at {now}");
    }
    taken(&mut agent, lease(generation), run("build", "", "")).await;
    let end = watcher.subscribe(wish(1, SESSION, From::End(true))).await.end;
    // Nobody gives anything up by leaving, and nobody is waited for longer than was said.
    let spoke = agent.ping(1).await;
    agent.abort();
    let seen = watcher.take(1, end, end + 2).await;
    let lapsed = change(&seen[0]);
    assert_eq!((lapsed.state.as_str(), lapsed.generation), ("lapsed", generation));
    assert!(seen[0].time_ms >= spoke + TTL_MS, "{} is early", seen[0].time_ms);
    assert_eq!((seen[1].kind, seen[1].run.as_str()), (kind::RUN, "build"));
    let mut next = bed.connect_as(&tokens.token("next", &[AGENT])).await;
    let terms = wire::Claim { adopt_timeout_ms: 1000, ..Default::default() };
    let held = claimed(&mut next, terms).await;
    assert_eq!((held.runs[0].id.as_str(), held.runs[0].state.as_str()), ("build", "suspended"));
    // What nobody goes on with ends.
    assert!(matches!(release(&mut next, held.generation).await, ServerFrame::Done(_)));
    let seen = watcher.take(1, end + 2, end + 5).await;
    assert_eq!(change(&seen[0]).state, "claimed");
    assert_eq!(change(&seen[1]).state, "released");
    assert!(seen[2].time_ms >= seen[1].time_ms + 1000);
    assert_eq!(state(&mut watcher).await.runs[0].state, "abandoned");
}

pub(super) async fn an_input_is_done_by_one_live_holder(transport: Transport) {
    let mut bed = Bed::new(transport);
    let tokens = bed.tokens.clone();
    let mut agent = bed.connect_as(&tokens.token("agent", &[AGENT])).await;
    let mut human = bed.connect_as(&tokens.token("human", &[HUMAN])).await;
    taken(&mut agent, None, record("before")).await;
    assert_eq!(refused(&mut human, None, input("i", "steer")).await, "agent_unknown");
    let first = claimed(&mut agent, wire::Claim::default()).await.generation;
    let at = taken(&mut human, None, input("i", "steer")).await;
    let again = published(human.ask(publish(None, vec![input("i", "steer")])).await);
    assert_eq!((again.from, again.duplicate), (at, true), "it is sent once");
    taken(&mut human, None, input("j", "")).await;
    let forbidden = agent.refused(publish(None, vec![input("k", "")])).await;
    assert_eq!(forbidden.code, "forbidden", "who works controls nobody");
    let told = state(&mut human).await.inputs;
    let shown: Vec<_> = told.iter().map(|one| (one.id.as_str(), one.mode.as_str(), one.state.as_str(), one.attempts)).collect();
    assert_eq!(shown, [("i", "steer", "accepted", 0), ("j", "followup", "accepted", 0)]);
    assert_eq!((told[0].principal.as_str(), told[0].agent.as_str(), told[0].offset), ("human", "coder", at));

    assert_eq!(refused(&mut agent, None, receipt("i", "consumed")).await, "not_owner", "without its lease");
    assert_eq!(refused(&mut human, None, receipt("i", "consumed")).await, "not_owner");
    assert_eq!(refused(&mut agent, lease(first), receipt("x", "consumed")).await, "input_not_found");
    taken(&mut agent, lease(first), receipt("i", "delivered")).await;
    taken(&mut agent, lease(first), receipt("i", "delivered")).await;
    taken(&mut agent, lease(first), receipt("j", "delivered")).await;
    taken(&mut agent, lease(first), run("build", "", "")).await;
    let body = wire::Receipt { state: "consumed".into(), run: "build".into(), ..Default::default() };
    let consumed = wire::Record { body: Some(Body::Receipt(body)), ..receipt("i", "") };
    taken(&mut agent, lease(first), consumed).await;
    assert_eq!(refused(&mut agent, lease(first), receipt("i", "consumed")).await, "input_ended");
    // Whoever comes next is told what was not done, also in another life.
    bed.kill();
    bed.start_again();
    let mut boss = bed.connect_as(&tokens.token("boss", &[SUPERVISOR])).await;
    let mut agent = bed.connect_as(&tokens.token("agent", &[AGENT])).await;
    let over = wire::Claim { take_over: true, ..Default::default() };
    let mut held = claimed(&mut boss, over.clone()).await;
    assert_eq!((held.inputs.len(), held.inputs[0].id.as_str(), held.inputs[0].attempts), (1, "j", 1));
    assert_eq!(refused(&mut agent, lease(first), receipt("j", "consumed")).await, "fenced");
    // One that ends every holder is given up.
    for attempt in 2..=5 {
        taken(&mut boss, lease(held.generation), receipt("j", "delivered")).await;
        assert_eq!(state(&mut boss).await.inputs[0].attempts, attempt);
        held = claimed(&mut boss, over.clone()).await;
    }
    assert!(held.inputs.is_empty());
    assert_eq!(refused(&mut boss, lease(held.generation), receipt("j", "consumed")).await, "input_ended");
}

pub(super) async fn a_run_that_does_not_end_when_it_is_cancelled_is_ended_with_the_lease(transport: Transport) {
    let bed = Bed::new(transport);
    let tokens = bed.tokens.clone();
    let mut agent = bed.connect_as(&tokens.token("agent", &[AGENT])).await;
    let mut human = bed.connect_as(&tokens.token("human", &[HUMAN])).await;
    taken(&mut agent, None, record("before")).await;
    let generation = claimed(&mut agent, wire::Claim::default()).await.generation;
    taken(&mut agent, lease(generation), run("polite", "", "")).await;
    taken(&mut agent, lease(generation), run("build", "", "")).await;
    let part = wire::RunChange { parent: "build".into(), ..Default::default() };
    let part = wire::Record { body: Some(Body::RunChange(part)), ..run("part", "", "") };
    taken(&mut agent, lease(generation), part).await;
    assert_eq!(refused(&mut human, None, cancel("none", 0)).await, "run_not_found");
    assert_eq!(agent.refused(publish(None, vec![cancel("build", 0)])).await.code, "forbidden");
    // One that ends by itself is not ended.
    taken(&mut human, None, cancel("polite", 0)).await;
    let told = state(&mut agent).await.runs;
    let polite = told.iter().find(|run| run.id == "polite").unwrap();
    assert_eq!((polite.state.as_str(), polite.cancelled_by.as_str()), ("working", "human"));
    assert_eq!(polite.cancel_at_ms, polite.cancelled_ms + 30_000);
    taken(&mut agent, lease(generation), run("", "polite", "cancelled")).await;
    assert_eq!(refused(&mut human, None, cancel("polite", 0)).await, "run_ended");
    let end = taken(&mut human, None, cancel("build", 3_600_000)).await;
    taken(&mut human, None, cancel("build", 1)).await;
    human.subscribe(wish(1, SESSION, From::Offset(end))).await;
    let seen = human.take(1, end, end + 6).await;
    assert_eq!((seen[0].kind, seen[1].kind), (kind::CANCEL, kind::CANCEL));
    assert_eq!((change(&seen[2]).state.as_str(), change(&seen[2]).generation), ("lapsed", generation));
    assert!(seen[2].time_ms > seen[1].time_ms);
    let states: Vec<_> = state(&mut human).await.runs.into_iter().map(|run| (run.id, run.state)).collect();
    let cancelled = |id: &str| (id.to_owned(), "cancelled".to_owned());
    assert_eq!(states, [cancelled("polite"), cancelled("build"), cancelled("part")]);
    assert_eq!(refused(&mut agent, lease(generation), run("", "build", "completed")).await, "fenced");
}

pub(super) async fn what_is_wrong_about_leases_is_refused(transport: Transport) {
    let bed = Bed::new(transport);
    let mut agent = bed.connect_as(&bed.tokens.token("agent", &[AGENT, HUMAN])).await;
    taken(&mut agent, None, record("before")).await;
    for (claim, field) in [
        (wire::Claim { agent: "no spaces".into(), ..Default::default() }, "agent"),
        (wire::Claim { agent: "a".into(), ttl_ms: 999, ..Default::default() }, "ttl_ms"),
        (wire::Claim { agent: "a".into(), ttl_ms: 600_001, ..Default::default() }, "ttl_ms"),
        (wire::Claim { agent: "a".into(), adopt_timeout_ms: 1, ..Default::default() }, "adopt_timeout_ms"),
    ] {
        let claim = ClientFrame::Claim(wire::Claim { session: SESSION.into(), ..claim });
        let error = agent.refused(claim).await;
        assert_eq!((error.code.as_str(), error.field.as_str()), ("invalid_argument", field));
    }
    assert_eq!(refusal(release(&mut agent, 1).await).code, "fenced", "nobody is it");
    assert_eq!(refused(&mut agent, lease(1), record("x")).await, "fenced");
    let nameless = Some(wire::Lease { agent: String::new(), generation: 1 });
    assert_eq!(refused(&mut agent, nameless, record("x")).await, "invalid_argument");
    let generation = claimed(&mut agent, wire::Claim::default()).await.generation;
    assert_eq!(refused(&mut agent, lease(generation + 1), record("x")).await, "fenced");
    let nobody = wire::Record { to: Vec::new(), ..input("i", "") };
    let two = wire::Record { to: vec!["coder".into(), "tester".into()], ..input("i", "") };
    let body = Some(Body::LeaseChange(wire::LeaseChange::default()));
    let forged = wire::Record { kind: kind::LEASE, ..Default::default() };
    for (record, code, field) in [
        (nobody, "invalid_record", "to"),
        (two, "invalid_record", "to"),
        (input("i", "shout"), "invalid_record", "mode"),
        (input("", "steer"), "invalid_record", "id"),
        (receipt("", "consumed"), "invalid_record", "reply_to"),
        (receipt("i", "lost"), "invalid_record", "state"),
        (cancel("", 1), "invalid_record", "run"),
        (cancel("r", 3_600_001), "invalid_record", "deadline_ms"),
        (wire::Record { kind: kind::CANCEL, run: "r".into(), ..Default::default() }, "invalid_record", "cancel"),
        (forged, "kind_reserved", "kind"),
        (wire::Record { body, ..Default::default() }, "field_reserved", "lease_change"),
    ] {
        let error = agent.refused(publish(None, vec![record])).await;
        assert_eq!((error.code.as_str(), error.field.as_str()), (code, field));
    }
    assert_eq!(state(&mut agent).await.agents[0].generation, generation, "nothing of that was done");
}
