//! Worker groups: made, listed and removed by whoever manages their folder, and by nobody else.

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::every_transport::client::{Client, assert_told, wish};
use crate::every_transport::transport::{Bed, Transport};

const SECRET: &str = "whsec_Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5";
const MANAGER: &str = "acme/chat/**:read,manage";

fn group(name: &str) -> wire::SetWorkerGroup {
    wire::SetWorkerGroup {
        group: name.into(),
        pattern: "acme/chat/*".into(),
        agent: "coder".into(),
        url: "https://hooks.invalid/canary?key=canary".into(),
        secret: SECRET.into(),
        ..Default::default()
    }
}

fn remove(name: &str) -> ClientFrame {
    ClientFrame::RemoveWorkerGroup(wire::RemoveWorkerGroup { request: 0, group: name.into() })
}

async fn groups(client: &mut Client) -> Vec<wire::WorkerGroup> {
    match client.ask(ClientFrame::ListWorkerGroups(wire::ListWorkerGroups { request: 0 })).await {
        ServerFrame::WorkerGroupList(list) => list.groups,
        other => panic!("{other:?}"),
    }
}

async fn done(client: &mut Client, frame: ClientFrame) {
    let answer = client.ask(frame).await;
    assert!(matches!(answer, ServerFrame::Done(_)), "{answer:?}");
}

pub(super) async fn a_worker_group_is_made_told_removed_and_never_shows_its_secret(transport: Transport) {
    let bed = Bed::new(transport);
    let tokens = bed.tokens.clone();
    let mut manager = bed.connect_as(&tokens.token("ada", &[MANAGER])).await;
    let mut stranger =
        bed.connect_as(&tokens.token("bob", &["acme/chat/*:read,manage", "acme/**:read"])).await;
    assert_eq!(groups(&mut manager).await, []);
    let (name, history) = ("acme/chat/coders", "~/workers/acme/chat/coders");
    done(&mut manager, ClientFrame::SetWorkerGroup(group(name))).await;
    let more = wire::SetWorkerGroup { attempts_max: 3, in_flight_max: 2, ..group(name) };
    done(&mut manager, ClientFrame::SetWorkerGroup(more)).await;
    let expected = wire::WorkerGroup {
        group: name.into(),
        pattern: "acme/chat/*".into(),
        agent: "coder".into(),
        webhook: "https://hooks.invalid".into(),
        in_flight_max: 2,
        attempts_max: 3,
        session: history.into(),
        dead_letters: "~/dead/acme/chat/coders".into(),
    };
    assert_eq!(groups(&mut manager).await, [expected]);
    // It is a session that can be read, and that the broker alone writes.
    let subscribed = manager.subscribe(wish(1, history, From::Start(true))).await;
    assert_eq!((subscribed.exists, subscribed.end), (true, 3));
    let records = manager.take(1, 0, 3).await;
    for (record, numbers) in records[1..].iter().zip([("16", "10"), ("2", "3")]) {
        assert_eq!((record.r#type.as_str(), record.sender.as_ref().unwrap().principal.as_str()), ("worker_group", "ada"));
        let shown = format!("{record:?}");
        assert!(!shown.contains("canary") && !shown.contains("Y2FuYXJ5"), "{shown}");
        assert!(shown.contains("https://hooks.invalid") && shown.contains(numbers.0) && shown.contains(numbers.1), "{shown}");
    }
    let refusal = manager.refused(super::client::publish(history, &["mine"])).await;
    assert_eq!(refusal.code, "forbidden");
    // Who does not manage all of its folder cannot tell it from one that is not there.
    for other in [name, "acme/chat/absent"] {
        let absent = Error::no_such_session().field("group");
        assert_told(&stranger.refused(ClientFrame::SetWorkerGroup(group(other))).await, &absent);
        assert_told(&stranger.refused(remove(other)).await, &absent);
        let describe = wire::DescribeSession { request: 0, session: format!("~/workers/{other}") };
        let refused = stranger.refused(ClientFrame::DescribeSession(describe)).await;
        assert_told(&refused, &Error::no_such_session());
    }
    assert_eq!(groups(&mut stranger).await, []);
    done(&mut manager, remove(name)).await;
    assert_eq!(groups(&mut manager).await, []);
    let missing = Error::new(ErrorCode::WorkerGroupNotFound, format!("there is no worker group `{name}`"));
    assert_told(&manager.refused(remove(name)).await, &missing.field("group"));
    let describe = wire::DescribeSession { request: 0, session: history.into() };
    let gone = manager.refused(ClientFrame::DescribeSession(describe)).await;
    assert_eq!(gone.code, "session_not_found");
}

pub(super) async fn what_is_no_worker_group_is_refused(transport: Transport) {
    let bed = Bed::new(transport);
    let tokens = bed.tokens.clone();
    let mut manager = bed.connect_as(&tokens.token("ada", &["acme/**:read,manage"])).await;
    let name = "acme/chat/coders";
    let with = |change: fn(&mut wire::SetWorkerGroup)| {
        let mut wish = group(name);
        change(&mut wish);
        wish
    };
    for (wish, code, field) in [
        (group("acme"), "invalid_argument", "group"),
        (group("acme//coders"), "invalid_argument", "group"),
        (group("other/coders"), "session_not_found", "group"),
        (with(|wish| wish.pattern = "acme/**".into()), "invalid_pattern", "pattern"),
        (with(|wish| wish.pattern = "other/**".into()), "invalid_pattern", "pattern"),
        (with(|wish| wish.pattern = "**".into()), "invalid_pattern", "pattern"),
        (with(|wish| wish.pattern = String::new()), "invalid_pattern", "pattern"),
        (with(|wish| wish.agent = "a b".into()), "invalid_argument", "agent"),
        (with(|wish| wish.url = String::new()), "invalid_argument", "url"),
        (with(|wish| wish.url = "http://hooks.invalid/".into()), "invalid_argument", "url"),
        (with(|wish| wish.url = "https://127.0.0.1/".into()), "invalid_argument", "url"),
        (with(|wish| wish.url = "https://169.254.169.254/".into()), "invalid_argument", "url"),
        (with(|wish| wish.url = "https://me:you@hooks.invalid/".into()), "invalid_argument", "url"),
        (with(|wish| wish.secret = String::new()), "invalid_argument", "secret"),
        (with(|wish| wish.secret = "whsec_c2hvcnQ=".into()), "invalid_argument", "secret"),
        (with(|wish| wish.in_flight_max = 257), "invalid_argument", "in_flight_max"),
        (with(|wish| wish.attempts_max = 33), "invalid_argument", "attempts_max"),
    ] {
        let shown = format!("{wish:?}");
        let refused = manager.refused(ClientFrame::SetWorkerGroup(wish)).await;
        assert_eq!((refused.code.as_str(), refused.field.as_str()), (code, field), "{shown}");
        assert!(!refused.retryable && !refused.message.contains("canary"), "{refused:?}");
    }
    assert_eq!(groups(&mut manager).await, []);
}
