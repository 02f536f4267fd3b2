//! The keyed state: what was set last, by whom, on what condition, and what becomes of it with its records.

use longwire_proto::kind;
use longwire_proto::limits::{STATE_KEY_BYTES_MAX, STATE_VALUE_BYTES_MAX};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::record::Body;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use longwire_proto::wire::state_change::Value;

use crate::every_transport::client::{Client, publish, wish};
use crate::every_transport::transport::{Bed, Transport};
use crate::support::wire_client::{published, record, refusal};

const SESSION: &str = "acme/1";
const ALL: &str = "acme/**:read,publish,create,state,lease,manage";

fn change(key: &str, value: Option<Value>, if_revision: Option<u64>) -> wire::Record {
    let body = Some(Body::StateChange(wire::StateChange { key: key.into(), value, if_revision }));
    wire::Record { kind: kind::STATE, body, ..Default::default() }
}

fn text(key: &str, value: &str) -> wire::Record {
    change(key, Some(Value::Text(value.into())), None)
}

fn frame(lease: Option<wire::Lease>, records: Vec<wire::Record>) -> ClientFrame {
    ClientFrame::Publish(wire::Publish { session: SESSION.into(), records, lease, ..Default::default() })
}

async fn set(client: &mut Client, record: wire::Record) -> u64 {
    published(client.ask(frame(None, vec![record])).await).from
}

async fn described(client: &mut Client, session: &str) -> wire::Session {
    let describe = wire::DescribeSession { request: 0, session: session.into() };
    match client.ask(ClientFrame::DescribeSession(describe)).await {
        ServerFrame::SessionDescription(description) => description.session.unwrap(),
        other => panic!("{:?}", refusal(other)),
    }
}

/// Keys, revisions and values.
async fn entries(client: &mut Client, session: &str) -> Vec<(String, u64, Option<wire::state_entry::Value>)> {
    let state = described(client, session).await.state.unwrap_or_default();
    state.entries.into_iter().map(|entry| (entry.key, entry.revision, entry.value)).collect()
}

fn entry(key: &str, revision: u64, value: &str) -> (String, u64, Option<wire::state_entry::Value>) {
    (key.into(), revision, Some(wire::state_entry::Value::Text(value.into())))
}

pub(super) async fn a_state_has_what_was_set_last_and_a_condition_is_one(transport: Transport) {
    let mut bed = Bed::new(transport);
    let tokens = bed.tokens.clone();
    let mut ada = bed.connect_as(&tokens.token("ada", &[ALL])).await;
    let mut bob = bed.connect_as(&tokens.token("bob", &["acme/**:read,publish"])).await;
    assert_eq!(ada.refused(frame(None, vec![text("k", "x")])).await.code, "session_not_found");
    published(ada.ask(publish(SESSION, &["hello"])).await);
    bob.subscribe(wish(1, SESSION, From::Offset(1))).await;
    assert_eq!(bob.refused(frame(None, vec![text("k", "x")])).await.code, "forbidden", "writing is not setting");
    assert_eq!(set(&mut ada, text("branch", "main")).await, 1);
    let data = change("blob", Some(Value::Data(vec![0xff, 0].into())), Some(0));
    assert_eq!(set(&mut ada, data).await, 2);
    let blob = ("blob".to_owned(), 2, Some(wire::state_entry::Value::Data(vec![0xff, 0].into())));
    assert_eq!(entries(&mut bob, SESSION).await, [blob.clone(), entry("branch", 1, "main")]);

    // Of two who have read the same, one changes it, and the other is told.
    let next = |value: &str| change("branch", Some(Value::Text(value.into())), Some(1));
    assert_eq!(set(&mut ada, next("topic")).await, 3);
    let late = ada.refused(frame(None, vec![next("other")])).await;
    assert_eq!((late.code.as_str(), late.expected, late.field.as_str()), ("revision_mismatch", 3, "if_revision"));
    let absent = ada.refused(frame(None, vec![change("gone", None, Some(7))])).await;
    assert_eq!((absent.code.as_str(), absent.expected), ("revision_mismatch", 0));
    // A batch is taken as a whole; its records see each other.
    let batch = vec![text("a", "1"), change("a", None, Some(4)), change("branch", None, Some(1))];
    assert_eq!(ada.refused(frame(None, batch)).await.code, "revision_mismatch");
    let batch = vec![text("a", "1"), change("a", Some(Value::Text("2".into())), Some(4)), change("blob", None, None)];
    published(ada.ask(frame(None, batch)).await);
    let after = [entry("a", 5, "2"), entry("branch", 3, "topic")];
    assert_eq!(entries(&mut bob, SESSION).await, after);
    // Every change is in the log, for those who follow.
    let seen = bob.take(1, 1, 7).await;
    let key = |record: &wire::Record| match &record.body {
        Some(Body::StateChange(change)) => (change.key.clone(), change.value.is_some()),
        other => panic!("{other:?}"),
    };
    let keys: Vec<_> = seen.iter().map(key).collect();
    let expected = [("branch", true), ("blob", true), ("branch", true), ("a", true), ("a", true), ("blob", false)];
    assert_eq!(keys, expected.map(|(key, is_set)| (key.to_owned(), is_set)));

    bed.kill();
    bed.start_again();
    let mut ada = bed.connect_as(&tokens.token("ada", &[ALL])).await;
    let told = ada.subscribe(wish(1, SESSION, From::End(true))).await;
    assert_eq!(entries(&mut ada, SESSION).await, after);
    assert_eq!(told.state.unwrap().entries.len(), 2, "whoever comes is told");
    // It is no work: the session is idle.
    assert_eq!(described(&mut ada, SESSION).await.status, "idle");
}

pub(super) async fn a_state_outlives_what_set_it_unless_that_is_erased(transport: Transport) {
    let mut bed = Bed::new(transport);
    let tokens = bed.tokens.clone();
    let mut ada = bed.connect_as(&tokens.token("ada", &[ALL])).await;
    published(ada.ask(publish(SESSION, &["hello"])).await);
    set(&mut ada, text("old", "kept")).await;
    let claim = wire::Claim { session: SESSION.into(), agent: "coder".into(), ..Default::default() };
    let generation = match ada.ask(ClientFrame::Claim(claim)).await {
        ServerFrame::Claimed(claimed) => claimed.generation,
        other => panic!("{:?}", refusal(other)),
    };
    let lease = |generation| Some(wire::Lease { agent: "coder".into(), generation });
    let stale = ada.refused(frame(lease(generation + 1), vec![text("mine", "x")])).await;
    assert_eq!(stale.code, "fenced");
    published(ada.ask(frame(lease(generation), vec![text("mine", "x"), text("secret", "canary")])).await);
    let state = described(&mut ada, SESSION).await.state.unwrap();
    let by: Vec<_> = state.entries.iter().map(|entry| (entry.key.as_str(), entry.principal.as_str(), entry.agent.as_str())).collect();
    assert_eq!(by, [("mine", "ada", "coder"), ("old", "ada", ""), ("secret", "ada", "coder")]);

    let before = "0000000000000000_0000000000000003".to_owned();
    let trimmed = ada.ask(ClientFrame::TrimSession(wire::TrimSession { request: 0, session: SESSION.into(), before })).await;
    assert!(matches!(trimmed, ServerFrame::SessionDescription(_)), "{trimmed:?}");
    let ranges = vec![wire::OffsetRange { from: 4, next: 5 }];
    let erase = wire::EraseRecords { session: SESSION.into(), ranges, ..Default::default() };
    let erased = ada.ask(ClientFrame::EraseRecords(erase)).await;
    assert!(matches!(erased, ServerFrame::Erased(_)), "{erased:?}");
    let left = [entry("mine", 3, "x"), entry("old", 1, "kept")];
    assert_eq!(entries(&mut ada, SESSION).await, left);
    bed.kill();
    bed.start_again();
    let mut ada = bed.connect_as(&tokens.token("ada", &[ALL])).await;
    assert_eq!(entries(&mut ada, SESSION).await, left);
    // A fork has all of it, also what was trimmed; and goes on alone.
    let fork = wire::ForkSession { session: "acme/2".into(), from_session: SESSION.into(), ..Default::default() };
    let made = ada.ask(ClientFrame::ForkSession(fork)).await;
    assert!(matches!(made, ServerFrame::SessionDescription(_)), "{made:?}");
    let forked = entries(&mut ada, "acme/2").await;
    let values: Vec<_> = forked.iter().map(|(key, _, value)| (key.as_str(), value.clone())).collect();
    let text_of = |text: &str| Some(wire::state_entry::Value::Text(text.into()));
    assert_eq!(values, [("mine", text_of("x")), ("old", text_of("kept"))]);
    assert_eq!(forked[0].1, 3, "what is shared has its revision");
    set(&mut ada, change("mine", None, Some(3))).await;
    assert_eq!(entries(&mut ada, "acme/2").await, forked);
    // Closing ends no state, and takes no more of it.
    let close = wire::CloseSession { session: SESSION.into(), ..Default::default() };
    assert!(matches!(ada.ask(ClientFrame::CloseSession(close)).await, ServerFrame::SessionDescription(_)));
    assert_eq!(entries(&mut ada, SESSION).await, [entry("old", 1, "kept")]);
    assert_eq!(ada.refused(frame(None, vec![text("old", "x")])).await.code, "session_closed");
}

pub(super) async fn what_is_wrong_about_the_state_is_refused(transport: Transport) {
    let bed = Bed::new(transport);
    let mut ada = bed.connect_as(&bed.tokens.token("ada", &[ALL])).await;
    published(ada.ask(publish(SESSION, &["hello"])).await);
    let long = |bytes: usize| "x".repeat(bytes);
    let bodiless = wire::Record { kind: kind::STATE, ..Default::default() };
    let other_kind = wire::Record { kind: kind::STATE, ..record("x") };
    for (record, field, limit) in [
        (text("", "x"), "key", STATE_KEY_BYTES_MAX),
        (text(&long(STATE_KEY_BYTES_MAX + 1), "x"), "key", STATE_KEY_BYTES_MAX),
        (text("a\nb", "x"), "key", STATE_KEY_BYTES_MAX),
        (text("k", &long(STATE_VALUE_BYTES_MAX + 1)), "value", STATE_VALUE_BYTES_MAX),
        (change("k", None, Some(1 << 53)), "if_revision", 0),
        (bodiless, "state_change", 0),
        (other_kind, "state_change", 0),
    ] {
        let error = ada.refused(frame(None, vec![record])).await;
        let found = (error.code.as_str(), error.field.as_str(), error.limit);
        assert_eq!(found, ("invalid_record", field, limit as u64), "{error:?}");
    }
    assert_eq!(entries(&mut ada, SESSION).await, [], "nothing of that was done");
    set(&mut ada, text(&long(STATE_KEY_BYTES_MAX), &long(STATE_VALUE_BYTES_MAX))).await;
    assert_eq!(entries(&mut ada, SESSION).await.len(), 1);
}
