//! Who may do what, over the real binary: every role, every operation, every state of a session, against a table that knows
//! nothing of the code.

use std::collections::BTreeSet;

use longwire_proto::kind;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as Ask;
use longwire_proto::wire::from::From as Begin;
use longwire_proto::wire::server_frame::Frame as Answer;

use crate::support::broker::{Broker, folder};
use crate::support::tokens::{AUTH, token};
use crate::support::wire_client::{WireClient, published, record, refusal};

/// Where the sessions are that a role's grants are about, seen from the session that is asked for.
const SHAPES: [(&str, bool); 8] = [
    ("itself", true),
    ("its level", true),
    ("its tenant", true),
    ("everything below it", true),
    ("everything", true),
    ("a sibling", false),
    ("another tenant", false),
    ("a tenant whose name begins alike", false),
];

const RIGHTS: [&str; 20] = [
    "read",
    "publish",
    "create",
    "answer",
    "control",
    "lease",
    "state",
    "manage",
    "read,publish",
    "read,create",
    "read,answer",
    "read,control",
    "read,lease",
    "read,state",
    "read,manage",
    "publish,create",
    "publish,manage",
    "create,manage",
    "read,publish,create",
    "read,publish,create,answer,control,lease,state,manage",
];

/// Operations, the rights that they take, and whether they need a session that is there.
const OPERATIONS: [(&str, &str, bool); 28] = [
    ("publish", "publish", false),
    ("publish for somebody else", "publish,manage", false),
    ("subscribe from the start", "read", true),
    ("subscribe from the end", "read", true),
    ("subscribe before it is there", "read", false),
    ("read", "read", true),
    ("describe", "read", true),
    ("create", "create", false),
    ("update", "create,manage", false),
    ("close", "manage", true),
    ("delete", "manage", true),
    ("trim", "manage", true),
    ("erase", "manage", true),
    ("fork from", "read", true),
    ("fork into", "create", false),
    ("import", "publish,create", false),
    ("commit a cursor", "read", true),
    ("share", "manage", false),
    ("ask again", "publish", false),
    ("answer", "answer", true),
    ("describe an ask", "read", true),
    ("read a message", "read", true),
    ("set the state", "state", true),
    ("claim", "lease", true),
    ("take over", "lease,manage", true),
    ("publish as an agent", "publish,lease", true),
    ("send input", "control", true),
    ("cancel a run", "control", true),
];

const STATES: [&str; 4] = ["absent", "open", "closed", "deleted"];
/// Names of sessions that are absent until a role makes one of them.
const ABSENT: usize = 8;

struct Role {
    tenant: String,
    shape: &'static str,
    covers: bool,
    rights: &'static str,
}

impl Role {
    fn has(&self, rights: &str) -> bool {
        self.covers && rights.split(',').all(|right| self.rights.split(',').any(|own| own == right))
    }

    fn names(&self) -> Vec<String> {
        let absent = (0..ABSENT).map(|number| format!("absent-{number}"));
        let names = absent.chain(["open", "closed", "deleted"].map(str::to_owned));
        names.map(|name| format!("{}/a/{name}", self.tenant)).collect()
    }

    fn grants(&self) -> Vec<String> {
        let patterns = match self.shape {
            "itself" => self.names(),
            "its level" => vec![format!("{}/a/*", self.tenant)],
            "its tenant" => vec![format!("{}/**", self.tenant)],
            "everything below it" => self.names().iter().map(|name| format!("{name}/**")).collect(),
            "everything" => vec!["**".to_owned()],
            "a sibling" => vec![format!("{}/b/**", self.tenant), format!("{}/a", self.tenant)],
            "another tenant" => vec!["other/**".to_owned()],
            _ => vec![format!("{}x/**", self.tenant)],
        };
        let granted = patterns.iter().map(|pattern| format!("{pattern}:{}", self.rights));
        granted.chain(["pub/**:read".to_owned(), "pub/into/*:create".to_owned()]).collect()
    }
}

fn roles() -> Vec<Role> {
    let shapes = SHAPES.iter().flat_map(|shape| RIGHTS.map(|rights| (shape, rights)));
    let role = |(number, (shape, rights)): (usize, (&(&'static str, bool), &'static str))| Role {
        tenant: format!("t{number}"),
        shape: shape.0,
        covers: shape.1,
        rights,
    };
    shapes.enumerate().map(role).collect()
}

/// A question to everybody who may answer.
fn asking() -> wire::Record {
    let options = vec![wire::AskOption { id: "yes".into(), label: String::new() }];
    let ask = wire::Ask { title: "?".into(), options, ..Default::default() };
    let body = Some(wire::record::Body::Ask(ask));
    wire::Record { kind: kind::ASK, id: "question".into(), body, ..Default::default() }
}

fn answering() -> wire::Record {
    let answer = wire::Answer { option: "yes".into(), ..Default::default() };
    let body = Some(wire::record::Body::Answer(answer));
    wire::Record { kind: kind::ANSWER, reply_to: "question".into(), body, ..Default::default() }
}

fn ask(operation: &str, session: &str, number: u64) -> Ask {
    let session = session.to_owned();
    let subscribe = |from: Begin, wait: bool| {
        let from = Some(wire::From { from: Some(from) });
        let session = session.clone();
        let one = wire::Subscription { subscription: 1, session, from, wait, ..Default::default() };
        Ask::Subscribe(wire::Subscribe { request: number, subscriptions: vec![one] })
    };
    let publish = |act_as: &str| {
        let (act_as, session) = (act_as.to_owned(), session.clone());
        let publish = wire::Publish {
            request: number,
            session,
            records: vec![record("x")],
            act_as,
            ..Default::default()
        };
        Ask::Publish(publish)
    };
    let publish_one = |record: wire::Record| {
        let (records, session) = (vec![record], session.clone());
        Ask::Publish(wire::Publish { request: number, session, records, ..Default::default() })
    };
    let create = |update: bool| {
        let meta = Some(wire::SessionMeta::default());
        Ask::CreateSession(wire::CreateSession { request: number, session: session.clone(), meta, update })
    };
    let fork = |session: String, from_session: String| {
        Ask::ForkSession(wire::ForkSession { request: number, session, from_session, ..Default::default() })
    };
    match operation {
        "publish" => publish(""),
        "publish for somebody else" => publish("bob"),
        "subscribe from the start" => subscribe(Begin::Start(true), false),
        "subscribe from the end" => subscribe(Begin::End(true), false),
        "subscribe before it is there" => subscribe(Begin::Start(true), true),
        "read" => Ask::Read(wire::Read { request: number, session, ..Default::default() }),
        "describe" => Ask::DescribeSession(wire::DescribeSession { request: number, session }),
        "create" => create(false),
        "update" => create(true),
        "close" => Ask::CloseSession(wire::CloseSession { request: number, session, reason: String::new() }),
        "delete" => Ask::DeleteSession(wire::DeleteSession { request: number, session }),
        "trim" => {
            let before = "0000000000000000_0000000000000001".to_owned();
            Ask::TrimSession(wire::TrimSession { request: number, session, before })
        }
        "erase" => {
            let ranges = vec![wire::OffsetRange { from: 1, next: 2 }];
            Ask::EraseRecords(wire::EraseRecords { request: number, session, ranges, ..Default::default() })
        }
        "fork from" => fork(format!("pub/into/{number}"), session),
        "fork into" => fork(session, "pub/source".to_owned()),
        "import" => {
            let lineage = vec![wire::LineageEntry::default()];
            let begin =
                wire::ImportBegin { end: 1, lineage, session: "elsewhere".into(), ..Default::default() };
            Ask::ImportRecords(wire::ImportRecords {
                request: number,
                session,
                import: format!("i{number}"),
                begin: Some(begin),
                records: vec![record("x")],
                finish: true,
                ..Default::default()
            })
        }
        "commit a cursor" => {
            let (cursor, position) = ("c".to_owned(), "0000000000000000_0000000000000000".to_owned());
            Ask::CommitCursor(wire::CommitCursor { request: number, session, cursor, position })
        }
        "ask again" => publish_one(asking()),
        "answer" => publish_one(answering()),
        "begin a message" => publish_one(wire::Record { id: "grown".into(), grows: true, ..record("x") }),
        "read a message" => Ask::ReadMessage(wire::ReadMessage {
            request: number,
            session,
            message: "grown".into(),
            ..Default::default()
        }),
        "describe an ask" => {
            Ask::DescribeAsk(wire::DescribeAsk { request: number, session, ask: "question".into() })
        }
        "claim" | "take over" => Ask::Claim(wire::Claim {
            request: number,
            session,
            agent: "worker".into(),
            take_over: operation == "take over",
            ..Default::default()
        }),
        "publish as an agent" => {
            let (records, lease) = (vec![record("x")], wire::Lease { agent: "worker".into(), generation: 1 });
            let publish = wire::Publish { request: number, session, records, ..Default::default() };
            Ask::Publish(wire::Publish { lease: Some(lease), ..publish })
        }
        "set the state" => {
            let value = Some(wire::state_change::Value::Text("x".into()));
            let change = wire::StateChange { key: "k".into(), value, if_revision: None };
            let body = Some(wire::record::Body::StateChange(change));
            publish_one(wire::Record { kind: kind::STATE, body, ..Default::default() })
        }
        "send input" => publish_one(wire::Record {
            kind: kind::INPUT,
            id: "i".into(),
            to: vec!["worker".into()],
            ..record("x")
        }),
        "cancel a run" => {
            let body = Some(wire::record::Body::Cancel(wire::Cancel::default()));
            publish_one(wire::Record { kind: kind::CANCEL, run: "r".into(), body, ..Default::default() })
        }
        "share" => {
            // Nothing can be shared that one has not: this is had by whoever may share.
            let rights = vec!["manage".to_owned()];
            Ask::ShareSession(wire::ShareSession { request: number, session, rights, ttl_ms: 0 })
        }
        other => panic!("{other}"),
    }
}

/// Asks, and takes the one answer; what a subscription brings besides is of no interest.
async fn answer(client: &mut WireClient, frame: Ask) -> Result<(), wire::Error> {
    let subscribes = matches!(frame, Ask::Subscribe(_));
    client.send(frame).await;
    let outcome = loop {
        match client.receive().await {
            Answer::Delivery(_) | Answer::SubscriptionEnded(_) => {}
            Answer::Refused(refused) => break Err(refused.error.unwrap()),
            _ => break Ok(()),
        }
    };
    if subscribes && outcome.is_ok() {
        client.send(Ask::Unsubscribe(wire::Unsubscribe { request: u64::MAX >> 11, subscription: 1 })).await;
        // A subscription of a closed session has ended by then.
        while !matches!(client.receive().await, Answer::Done(_) | Answer::Refused(_)) {}
    }
    outcome
}

/// The administrator's hand: a session in this state, whatever it was before.
async fn put(admin: &mut WireClient, session: &str, state: &str) {
    let mut number = 1;
    let mut steps = vec!["delete"];
    match state {
        "open" => steps.extend(["create", "publish", "publish", "ask again", "begin a message"]),
        "closed" => steps.extend(["create", "publish", "publish", "ask again", "begin a message", "close"]),
        _ => steps.extend(["create", "delete"]),
    }
    for step in steps {
        number += 1;
        let outcome = answer(admin, ask(step, session, number)).await;
        assert!(outcome.is_ok() || step == "delete", "{step} {session}: {outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_can_do_what_is_written_down_and_nothing_else() {
    let (_folder, data) = folder();
    let admin_token = token(&data, "admin", &["**:read,publish,create,answer,control,lease,state,manage"]);
    let broker = Broker::start_with(&data, &[AUTH]);
    let mut admin = WireClient::connect_as(broker.address(), &admin_token).await;
    put(&mut admin, "pub/source", "open").await;
    // What is said of a session that is not there, to somebody who may know that.
    let absent = answer(&mut admin, ask("describe", "pub/absent", 1)).await.unwrap_err();
    assert_eq!(absent.code, "session_not_found");
    let (mut decisions, mut number) = (0, 1000);
    for role in roles() {
        let who = format!("{} with {}", role.shape, role.rights);
        let granted = token(&data, &role.tenant, &role.grants());
        let mut client = WireClient::connect_as(broker.address(), &granted).await;
        for state in ["open", "closed", "deleted"] {
            put(&mut admin, &format!("{}/a/{state}", role.tenant), state).await;
        }
        let mut made = 0;
        for (operation, rights, needs) in OPERATIONS {
            for state in STATES {
                number += 1;
                decisions += 1;
                let name = if state == "absent" { format!("absent-{made}") } else { state.to_owned() };
                let session = format!("{}/a/{name}", role.tenant);
                let found = answer(&mut client, ask(operation, &session, number)).await;
                let what = format!("{who}: {operation}, {state}");
                let is_there = state == "open" || state == "closed";
                match (role.has(rights), found) {
                    (true, Ok(())) => {
                        assert!(is_there || !needs, "{what}");
                        if state == "absent" {
                            made +=
                                usize::from(answer(&mut admin, ask("describe", &session, 1)).await.is_ok());
                        } else {
                            put(&mut admin, &session, state).await;
                        }
                    }
                    (true, Err(error)) => match (state, operation) {
                        // Whoever asked first has the id.
                        ("open", "ask again") => assert_eq!(error.code, "id_in_use", "{what}"),
                        // Who holds no lease, and what is not there, is told so only to whom that may be.
                        ("open", "publish as an agent") => assert_eq!(error.code, "fenced", "{what}"),
                        ("open", "send input") => assert_eq!(error.code, "agent_unknown", "{what}"),
                        ("open", "cancel a run") => assert_eq!(error.code, "run_not_found", "{what}"),
                        // It was allowed, and is refused for what the session is.
                        ("open" | "closed", "create" | "fork into" | "import") => {
                            assert_eq!(error.code, "session_exists", "{what}");
                        }
                        // The position is of the first session of this name.
                        ("open" | "closed", "trim" | "commit a cursor") => {
                            assert_eq!(error.code, "foreign_position", "{what}");
                        }
                        ("closed", _) => assert_eq!(error.code, "session_closed", "{what}"),
                        ("absent" | "deleted", _) if needs => {
                            assert!(
                                error.code == "session_not_found" || error.code == "session_deleted",
                                "{what}"
                            );
                        }
                        _ => panic!("{what}: {error:?}"),
                    },
                    (false, Ok(())) => panic!("{what}: it was allowed"),
                    (false, Err(error)) if role.has("read") => {
                        assert_eq!(error.code, "forbidden", "{what}: {error:?}");
                    }
                    (false, Err(error)) => {
                        let field = if operation == "fork from" { "from_session" } else { "session" };
                        assert_eq!(error, wire::Error { field: field.into(), ..absent.clone() }, "{what}");
                    }
                }
            }
        }
        assert!(made <= ABSENT, "{who}");
        decisions += everything(&mut client, &broker, &granted, &role, &who).await;
        decisions += grouped(&mut client, &role, &who).await;
        decisions += called(&mut client, &role, &who).await;
        decisions += seen(&mut client, &mut admin, &role, &who).await;
    }
    println!("{decisions} decisions: {} roles, {} operations", roles().len(), OPERATIONS.len() + 9);
}

/// What is about every session takes a grant of every session.
async fn everything(client: &mut WireClient, broker: &Broker, token: &str, role: &Role, who: &str) -> usize {
    let allowed = role.shape == "everything" && role.has("manage");
    let code = |outcome: Result<(), wire::Error>| outcome.err().map_or(String::new(), |error| error.code);
    let backup = Ask::BackUp(wire::BackUp { request: 1, name: "b".into() });
    let expected = if allowed { "not_configured" } else { "forbidden" };
    assert_eq!(code(answer(client, backup).await), expected, "{who}: back up");
    let revoke =
        Ask::RevokeToken(wire::RevokeToken { request: 1, id: "no-such".into(), ..Default::default() });
    let expected = if allowed { "" } else { "forbidden" };
    assert_eq!(code(answer(client, revoke).await), expected, "{who}: revoke");
    let status = broker.get_bearer(token, "/metrics").0;
    assert_eq!(status, if allowed { 200 } else { 403 }, "{who}: metrics");
    3
}

/// Worker groups take everything in their folder, to be read and to be managed.
async fn grouped(client: &mut WireClient, role: &Role, who: &str) -> usize {
    let may = role.has("read,manage");
    // What each shape has all of, of the folders that groups can be in.
    for (folder, has) in [
        (role.tenant.clone(), matches!(role.shape, "its tenant" | "everything")),
        (format!("{}/a", role.tenant), matches!(role.shape, "its tenant" | "everything")),
        (format!("{}/a/open", role.tenant), role.covers && !matches!(role.shape, "itself" | "its level")),
    ] {
        let (group, secret) =
            (format!("{folder}/group"), "whsec_Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5".to_owned());
        let remove = Ask::RemoveWorkerGroup(wire::RemoveWorkerGroup { request: 1, group: group.clone() });
        let (pattern, agent, url) =
            (format!("{folder}/**"), "coder".to_owned(), "https://hooks.invalid/".to_owned());
        let group =
            wire::SetWorkerGroup { request: 1, group, pattern, agent, url, secret, ..Default::default() };
        let code = |outcome: Result<(), wire::Error>| outcome.err().map_or(String::new(), |error| error.code);
        let set = code(answer(client, Ask::SetWorkerGroup(group)).await);
        assert_eq!(set, if may && has { "" } else { "session_not_found" }, "{who}: set {folder}");
        client.send(Ask::ListWorkerGroups(wire::ListWorkerGroups { request: 1 })).await;
        let Answer::WorkerGroupList(list) = client.receive().await else { panic!("{who}: no list") };
        assert_eq!(list.groups.len(), usize::from(may && has), "{who}: list {folder}");
        let removed = code(answer(client, remove).await);
        assert_eq!(removed, if may && has { "" } else { "session_not_found" }, "{who}: remove {folder}");
    }
    3
}

/// The claim of a pattern finds exactly what may be claimed.
async fn called(client: &mut WireClient, role: &Role, who: &str) -> usize {
    let open = format!("{}/a/open", role.tenant);
    for (agent, pattern) in [("one", open.clone()), ("other", open.replace("/a/", "/*/"))] {
        // A session that nobody ever was this agent of calls for it.
        let claim = wire::Claim { request: 6, agent: agent.into(), pattern, ..Default::default() };
        client.send(Ask::Claim(claim)).await;
        let found = match client.receive().await {
            Answer::Claimed(claimed) => Ok(claimed.session),
            Answer::Refused(refused) => Err(refused.error.unwrap().code),
            other => panic!("{who}: {other:?}"),
        };
        let expected = if role.has("lease") { Ok(open.clone()) } else { Err("nothing_calls".to_owned()) };
        assert_eq!(found, expected, "{who}: claim of a pattern");
    }
    2
}

/// Lists and patterns show exactly what may be read: to look for it, everything is asked for.
async fn seen(client: &mut WireClient, admin: &mut WireClient, role: &Role, who: &str) -> usize {
    let own = format!("{}/", role.tenant);
    let all = list(admin).await;
    let visible = |session: &String| {
        let wide = role.shape == "everything" && role.has("read");
        session.starts_with("pub/") || wide || (session.starts_with(&own) && role.has("read"))
    };
    let expected: BTreeSet<String> = all.into_iter().filter(visible).collect();
    assert_eq!(list(client).await, expected, "{who}: list");
    let from = Some(wire::From { from: Some(Begin::Start(true)) });
    let one = wire::Subscription { subscription: 9, pattern: "**".into(), from, ..Default::default() };
    client.send(Ask::Subscribe(wire::Subscribe { request: 5, subscriptions: vec![one] })).await;
    // Published last, so everything else has been told of when it comes.
    let last = format!("the last of {}", role.tenant);
    published(admin.publish("pub/source", &[&last]).await);
    let mut told = BTreeSet::new();
    loop {
        match client.receive().await {
            Answer::Subscribed(subscribed) if subscribed.session.is_empty() => {}
            Answer::Subscribed(subscribed) => drop(told.insert(subscribed.session)),
            Answer::Delivery(delivery) => {
                told.insert(delivery.session.clone());
                if delivery.records.iter().any(|one| one.body == record(&last).body) {
                    break;
                }
            }
            Answer::SubscriptionEnded(_) => {}
            other => panic!("{who}: {other:?}"),
        }
    }
    assert_eq!(told, expected, "{who}: pattern");
    2
}

async fn list(client: &mut WireClient) -> BTreeSet<String> {
    let (mut found, mut page) = (BTreeSet::new(), String::new());
    loop {
        client
            .send(Ask::ListSessions(wire::ListSessions { request: 3, page, limit: 50, ..Default::default() }))
            .await;
        match client.receive().await {
            Answer::SessionList(list) => {
                found.extend(list.sessions.into_iter().map(|session| session.session));
                page = list.next_page;
            }
            other => panic!("{:?}", refusal(other)),
        }
        if page.is_empty() {
            return found;
        }
    }
}
