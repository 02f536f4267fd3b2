//! Asks, runs and messages that grow: who may answer, one answer that wins, what ends with what, and what a newcomer is told.

use longwire_proto::kind;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::record::Body;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::every_transport::client::{Client, wish};
use crate::every_transport::transport::{Bed, Transport};
use crate::support::tokens::now_ms;
use crate::support::wire_client::{published, record, text};

const SESSION: &str = "acme/1";
/// What an agent may do.
const AGENT: &str = "acme/**:read,publish";
/// What a human may do who is asked.
const HUMAN: &str = "acme/**:read,answer";

fn publish(records: Vec<wire::Record>) -> ClientFrame {
    ClientFrame::Publish(wire::Publish { session: SESSION.into(), records, ..Default::default() })
}

async fn taken(client: &mut Client, record: wire::Record) -> (u64, u64, bool) {
    let wire::Published { from, next, duplicate, .. } =
        published(client.ask(publish(vec![record])).await);
    (from, next, duplicate)
}

async fn refused(client: &mut Client, record: wire::Record) -> wire::Error {
    client.refused(publish(vec![record])).await
}

fn ask(id: &str, ask: wire::Ask) -> wire::Record {
    let options = ["yes", "no"].map(|id| wire::AskOption { id: id.into(), label: String::new() });
    let options = if ask.fields.is_empty() { options.into() } else { Vec::new() };
    let body = Some(Body::Ask(wire::Ask { title: "Deploy?".into(), options, ..ask }));
    wire::Record { kind: kind::ASK, id: id.into(), body, ..Default::default() }
}

fn answer(ask: &str, answer: wire::Answer) -> wire::Record {
    let body = Some(Body::Answer(answer));
    wire::Record { kind: kind::ANSWER, reply_to: ask.into(), body, ..Default::default() }
}

fn option(id: &str) -> wire::Answer {
    wire::Answer { option: id.into(), ..Default::default() }
}

fn run(id: &str, run: &str, change: wire::RunChange) -> wire::Record {
    let body = Some(Body::RunChange(change));
    wire::Record { kind: kind::RUN, id: id.into(), run: run.into(), body, ..Default::default() }
}

fn state(state: &str) -> wire::RunChange {
    wire::RunChange { state: state.into(), ..Default::default() }
}

async fn describe(client: &mut Client) -> wire::Session {
    let describe = wire::DescribeSession { request: 0, session: SESSION.into() };
    match client.ask(ClientFrame::DescribeSession(describe)).await {
        ServerFrame::SessionDescription(description) => description.session.unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn resolution(client: &mut Client, ask: &str) -> Option<wire::Resolution> {
    let describe = wire::DescribeAsk { request: 0, session: SESSION.into(), ask: ask.into() };
    match client.ask(ClientFrame::DescribeAsk(describe)).await {
        ServerFrame::AskDescription(description) => description.resolved,
        other => panic!("{other:?}"),
    }
}

pub(super) async fn an_ask_has_one_answer_of_somebody_who_is_asked(transport: Transport) {
    let mut bed = Bed::new(transport);
    let tokens = bed.tokens.clone();
    let mut agent = bed.connect_as(&tokens.token("agent", &[AGENT])).await;
    let to = vec!["bob".to_owned()];
    let asked = ask("deploy-42", wire::Ask { roles: vec!["approver".into()], ..Default::default() });
    let asked = wire::Record { to, ..asked };
    assert_eq!(taken(&mut agent, record("before")).await, (0, 1, false));
    assert_eq!(taken(&mut agent, asked.clone()).await, (1, 2, false));
    assert_eq!(taken(&mut agent, asked.clone()).await, (1, 2, true), "it is asked once");

    // Whoever comes is told what is asked.
    let mut bob = bed.connect_as(&tokens.token("bob", &[HUMAN])).await;
    let told = bob.subscribe(wish(1, SESSION, From::End(true))).await.state.unwrap();
    assert_eq!((told.status.as_str(), told.asks.len()), ("input_required", 1));
    let open = &told.asks[0];
    assert_eq!((open.id.as_str(), open.offset, open.principal.as_str()), ("deploy-42", 1, "agent"));
    assert_eq!(open.ask.as_ref().unwrap().roles, ["approver"]);
    assert_eq!(resolution(&mut agent, "deploy-42").await, None);

    // What is not right leaves it open.
    let forbidden = refused(&mut agent, answer("deploy-42", option("yes"))).await;
    assert_eq!(forbidden.code, "forbidden", "an agent does not answer itself");
    let mut eve = bed.connect_as(&tokens.token("eve", &[HUMAN])).await;
    let stranger = refused(&mut eve, answer("deploy-42", option("yes"))).await;
    assert_eq!((stranger.code.as_str(), stranger.field.as_str()), ("not_addressed", "reply_to"));
    assert_eq!(refused(&mut bob, answer("deploy-42", option("maybe"))).await.code, "invalid_answer");
    assert_eq!(refused(&mut bob, answer("deploy-43", option("yes"))).await.code, "ask_not_found");
    let expired = wire::Answer { outcome: "expired".into(), ..Default::default() };
    assert_eq!(refused(&mut bob, answer("deploy-42", expired)).await.code, "invalid_answer");
    let cancelled = wire::Answer { outcome: "cancelled".into(), ..Default::default() };
    assert_eq!(refused(&mut agent, answer("none", cancelled)).await.code, "ask_not_found");
    assert_eq!(refused(&mut bob, record("x")).await.code, "forbidden", "who answers does not write");

    // A role is enough; the second one learns whose the first was.
    let mut carol = bed.connect_as(&tokens.of_role("carol", &[HUMAN], "approver")).await;
    let noted = wire::Answer { note: "go".into(), ..option("yes") };
    assert_eq!(taken(&mut carol, answer("deploy-42", noted)).await, (2, 3, false));
    for life in 0..2 {
        let late = refused(&mut bob, answer("deploy-42", option("no"))).await;
        assert_eq!(late.code, "already_resolved", "life {life}");
        let resolved = late.resolved.unwrap();
        assert_eq!((resolved.outcome.as_str(), resolved.by.as_str(), resolved.offset), ("answered", "carol", 2));
        let value = resolved.answer.clone().unwrap();
        assert_eq!((value.option.as_str(), value.note.as_str()), ("yes", "go"));
        assert_eq!(resolution(&mut bob, "deploy-42").await, Some(*resolved));
        // An agent that crashed asks again, and is answered where it was.
        assert_eq!(taken(&mut agent, asked.clone()).await, (1, 2, true));
        assert_eq!(refused(&mut bob, answer("deploy-43", option("yes"))).await.code, "ask_not_found");
        if life == 0 {
            bed.kill();
            bed.start_again();
            agent = bed.connect_as(&tokens.token("agent", &[AGENT])).await;
            bob = bed.connect_as(&tokens.token("bob", &[HUMAN])).await;
        }
    }
    assert_eq!(describe(&mut bob).await.status, "idle");
}

pub(super) async fn what_nobody_answers_expires_and_what_is_not_asked_is_cancelled(transport: Transport) {
    let bed = Bed::new(transport);
    let mut agent = bed.connect_as(&bed.tokens.token("agent", &[AGENT])).await;
    let mut bob = bed.connect_as(&bed.tokens.token("bob", &[HUMAN])).await;
    agent.subscribe(wire::Subscription { wait: true, ..wish(1, SESSION, From::Start(true)) }).await;
    let soon = ask("soon", wire::Ask { expires_at_ms: now_ms() + 1, ..Default::default() });
    taken(&mut agent, soon).await;
    agent.take(1, 0, 1).await;
    let [end] = agent.take(1, 1, 2).await.try_into().unwrap();
    assert_eq!((end.kind, end.reply_to.as_str()), (kind::ANSWER, "soon"));
    assert_eq!(end.sender.unwrap().principal, "~broker");
    let resolved = refused(&mut bob, answer("soon", option("yes"))).await.resolved.unwrap();
    assert_eq!((resolved.outcome.as_str(), resolved.by.as_str()), ("expired", "~broker"));

    taken(&mut agent, ask("declined", wire::Ask::default())).await;
    let denied = wire::Answer { outcome: "denied".into(), ..Default::default() };
    taken(&mut bob, answer("declined", denied)).await;
    assert_eq!(resolution(&mut agent, "declined").await.unwrap().outcome, "denied");

    taken(&mut agent, ask("forgotten", wire::Ask::default())).await;
    let cancelled = wire::Answer { outcome: "cancelled".into(), ..Default::default() };
    let mut publisher = bed.connect_as(&bed.tokens.token("other", &[AGENT])).await;
    let foreign = refused(&mut publisher, answer("forgotten", cancelled.clone())).await;
    assert_eq!(foreign.code, "not_owner");
    taken(&mut agent, answer("forgotten", cancelled)).await;
    assert_eq!(resolution(&mut agent, "forgotten").await.unwrap().outcome, "cancelled");

    // What is open is ended before a session takes no more.
    taken(&mut agent, ask("last", wire::Ask::default())).await;
    let mut owner = bed.connect().await;
    let close = wire::CloseSession { request: 0, session: SESSION.into(), reason: String::new() };
    let ServerFrame::SessionDescription(closed) = owner.ask(ClientFrame::CloseSession(close)).await else {
        panic!("it closes")
    };
    let closed = closed.session.unwrap();
    assert_eq!((closed.status.as_str(), closed.state), ("closed", None));
    assert_eq!(resolution(&mut agent, "last").await.unwrap().outcome, "cancelled");
}

pub(super) async fn a_form_is_filled_in_as_it_asks(transport: Transport) {
    let bed = Bed::new(transport);
    let mut agent = bed.connect_as(&bed.tokens.token("agent", &[AGENT])).await;
    let mut bob = bed.connect_as(&bed.tokens.token("bob", &[HUMAN])).await;
    let field = |name: &str, of: &str| wire::FormField { name: name.into(), r#type: of.into(), ..Default::default() };
    let values = ["eu", "us"].map(|id| wire::AskOption { id: id.into(), label: String::new() }).into();
    let fields = vec![
        wire::FormField { required: true, values, ..field("region", "enum") },
        wire::FormField { minimum: Some(1.0), maximum: Some(9.0), ..field("count", "integer") },
        field("force", "boolean"),
    ];
    taken(&mut agent, ask("where", wire::Ask { fields: fields.clone(), ..Default::default() })).await;
    let broken = wire::Ask { fields: vec![field("when", "date")], ..Default::default() };
    assert_eq!(refused(&mut agent, ask("broken", broken)).await.code, "invalid_ask");
    let bomb = wire::Ask { description: "x".repeat(33 << 10), ..Default::default() };
    assert_eq!(refused(&mut agent, ask("bomb", bomb)).await.code, "invalid_ask");
    let filled = |values: Vec<(&str, wire::value::Value)>| {
        let value = |value| wire::Value { value: Some(value) };
        let values = values.into_iter().map(|(name, it)| (name.to_owned(), value(it))).collect();
        answer("where", wire::Answer { values, ..Default::default() })
    };
    use wire::value::Value::{Boolean, Number, String as Text};
    assert_eq!(refused(&mut bob, filled(vec![("count", Number(2.0))])).await.code, "invalid_answer");
    let mars = refused(&mut bob, filled(vec![("region", Text("mars".into()))])).await;
    assert_eq!((mars.code.as_str(), mars.field.as_str()), ("invalid_answer", "values"));
    let whole = vec![("region", Text("eu".into())), ("count", Number(2.0)), ("force", Boolean(true))];
    taken(&mut bob, filled(whole)).await;
    let values = resolution(&mut agent, "where").await.unwrap().answer.unwrap().values;
    assert_eq!(values["count"].value, Some(Number(2.0)));
    assert_eq!(values["region"].value, Some(Text("eu".into())));
}

pub(super) async fn a_run_ends_with_all_that_is_a_part_of_it(transport: Transport) {
    let bed = Bed::new(transport);
    let mut agent = bed.connect_as(&bed.tokens.token("agent", &[AGENT])).await;
    let start = |id: &str, parent: &str| {
        run(id, "", wire::RunChange { title: id.to_uppercase(), parent: parent.into(), ..Default::default() })
    };
    assert_eq!(refused(&mut agent, start("part", "whole")).await.code, "run_not_found");
    taken(&mut agent, start("whole", "")).await;
    assert!(taken(&mut agent, start("whole", "")).await.2, "it is started once");
    taken(&mut agent, start("part", "whole")).await;
    taken(&mut agent, start("piece", "part")).await;
    let asked = wire::Record { run: "piece".into(), ..ask("a", wire::Ask::default()) };
    taken(&mut agent, asked).await;
    let progress = wire::RunChange {
        fraction: Some(0.4),
        note: "12 of 30".into(),
        counters: [("tokens".to_owned(), 1200.0)].into(),
        ..Default::default()
    };
    taken(&mut agent, run("", "part", progress)).await;
    let mut stranger = bed.connect_as(&bed.tokens.token("other", &[AGENT])).await;
    assert_eq!(refused(&mut stranger, run("", "part", state("failed"))).await.code, "not_owner");
    assert_eq!(refused(&mut agent, run("", "none", state("failed"))).await.code, "run_not_found");

    let told = describe(&mut agent).await.state.unwrap();
    let states: Vec<_> = told.runs.iter().map(|run| (run.id.as_str(), run.state.as_str())).collect();
    assert_eq!(states, [("part", "working"), ("piece", "input_required"), ("whole", "working")]);
    let part = &told.runs[0];
    assert_eq!((part.title.as_str(), part.parent.as_str(), part.fraction), ("PART", "whole", Some(0.4)));
    assert_eq!((part.note.as_str(), part.counters["tokens"]), ("12 of 30", 1200.0));

    // One batch: nobody sees half of it.
    let end = run("", "whole", state("cancelled"));
    let ended = published(agent.ask(publish(vec![end, record("and that was it")])).await);
    agent.subscribe(wish(1, SESSION, From::Offset(ended.from))).await;
    let records = agent.take(1, ended.from, ended.next + 3).await;
    assert_eq!(text(&records[1]), "and that was it");
    let told = describe(&mut agent).await;
    assert_eq!((told.status.as_str(), told.end), ("idle", ended.next + 3));
    let states: Vec<_> = told.state.unwrap().runs.into_iter().map(|run| (run.id, run.state)).collect();
    let cancelled = |id: &str| (id.to_owned(), "cancelled".to_owned());
    assert_eq!(states, [cancelled("whole"), cancelled("part"), cancelled("piece")]);
    assert_eq!(resolution(&mut agent, "a").await.unwrap().outcome, "cancelled");
    assert_eq!(refused(&mut agent, run("", "part", state("failed"))).await.code, "run_ended");
    assert_eq!(refused(&mut agent, start("late", "part")).await.code, "run_ended");
}

pub(super) async fn a_message_grows_until_it_is_closed(transport: Transport) {
    let bed = Bed::new(transport);
    let mut agent = bed.connect_as(&bed.tokens.token("agent", &[AGENT])).await;
    let delta = |piece: &str| wire::Record { kind: kind::DELTA, message: "m".into(), ..record(piece) };
    assert_eq!(refused(&mut agent, delta("x")).await.code, "message_not_found");
    let opens = wire::Record { id: "m".into(), grows: true, ..record("To be") };
    taken(&mut agent, opens.clone()).await;
    assert_eq!(refused(&mut agent, opens).await.code, "id_in_use");
    assert_eq!(describe(&mut agent).await.status, "working");
    let pieces = vec![delta(", or"), record("meanwhile"), delta(" not"), delta(" to be")];
    published(agent.ask(publish(pieces)).await);
    let mut stranger = bed.connect_as(&bed.tokens.token("other", &[AGENT])).await;
    assert_eq!(refused(&mut stranger, delta("!")).await.code, "not_owner");
    // A batch is taken as a whole: one piece after the end is one too many.
    let last = wire::Record { close: "complete".into(), ..delta(".") };
    let late = agent.refused(publish(vec![delta("?"), last.clone(), delta("!")])).await;
    assert_eq!(late.code, "message_closed");
    taken(&mut agent, last).await;
    assert_eq!(refused(&mut agent, delta("!")).await.code, "message_closed");
    assert_eq!(describe(&mut agent).await.status, "idle");
    agent.subscribe(wish(1, SESSION, From::Start(true))).await;
    let records = agent.take(1, 0, 6).await;
    let (mut whole, mut bytes) = (text(&records[0]).to_owned(), 5);
    for record in records.iter().filter(|record| record.message == "m") {
        assert_eq!((record.kind, record.at_byte), (kind::DELTA, bytes));
        whole.push_str(text(record));
        bytes = whole.len() as u64;
    }
    assert_eq!(whole, "To be, or not to be.");
}
