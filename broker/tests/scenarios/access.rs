//! Who may do what, over the wire: tokens that expire, are made newer and narrower, and what is left then.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::support::broker::{Broker, folder};
use crate::support::tokens::{TTL_MS, Tokens};
use crate::support::wire_client::{WireClient, delivery, published, record, refusal, subscribed, text};

/// A token's time is whole seconds; this one lives for one or two.
const SHORT_MS: u64 = 1_000;
/// As many records as no window below lets through.
const MANY: usize = 200;

fn authenticate(token: &str) -> impl FnOnce(u64) -> ClientFrame {
    let token = token.to_owned();
    move |request| ClientFrame::Authenticate(wire::Authenticate { request, token })
}

fn wish(number: u32, session: &str, pattern: &str) -> wire::Subscription {
    wire::Subscription {
        subscription: number,
        session: session.into(),
        pattern: pattern.into(),
        from: Some(wire::From { from: Some(From::Start(true)) }),
        ..Default::default()
    }
}

async fn time_ms(client: &mut WireClient) -> u64 {
    client.send(ClientFrame::Ping(wire::Ping { token: 1 })).await;
    loop {
        if let ServerFrame::Pong(pong) = client.receive().await {
            return pong.time_ms;
        }
    }
}

async fn publish(client: &mut WireClient, session: &str, text: &str) -> wire::Published {
    published(client.publish(session, &[text]).await)
}

#[tokio::test]
async fn a_connection_ends_when_its_token_expires_and_the_token_opens_no_other() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let hello =
        wire::Hello { token: tokens.short("ada", &["a/**:read,publish"], SHORT_MS), ..Default::default() };
    let (mut client, welcome) = WireClient::greet(broker.address(), hello.clone()).await.unwrap();
    assert_eq!(welcome.principal, "ada");
    let now = time_ms(&mut client).await;
    assert!(
        welcome.expires_ms > now && welcome.expires_ms <= now + 2 * SHORT_MS + 1_000,
        "{welcome:?} at {now}"
    );
    publish(&mut client, "a/1", "in time").await;
    let ended = client.ended().await;
    assert_eq!((ended.code(), ended.close_code()), ("token_expired", 1008));
    let ended = WireClient::greet(broker.address(), hello).await.err().unwrap();
    assert_eq!(ended.code(), "token_expired");
    let ended = WireClient::greet(broker.address(), wire::Hello::default()).await.err().unwrap();
    assert_eq!((ended.code(), ended.close_code()), ("unauthenticated", 1008));
}

#[tokio::test]
async fn a_newer_token_takes_a_connection_over_the_end_of_the_older_without_a_missed_record() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let mut writer = WireClient::connect_as(broker.address(), &tokens.token("bob", &["a/**:publish"])).await;
    let hello =
        wire::Hello { token: tokens.short("ada", &["a/**:read"], 2 * SHORT_MS), ..Default::default() };
    let (mut reader, welcome) = WireClient::greet(broker.address(), hello).await.unwrap();
    publish(&mut writer, "a/1", "0").await;
    subscribed(reader.subscribe("a/1", From::Start(true)).await);
    let newer = tokens.token("ada", &["a/**:read"]);
    reader.send(authenticate(&newer)(77)).await;
    let mut made = 1;
    while time_ms(&mut writer).await <= welcome.expires_ms {
        publish(&mut writer, "a/1", &made.to_string()).await;
        made += 1;
    }
    publish(&mut writer, "a/1", "after").await;
    let (mut next, mut renewed) = (0, false);
    while next <= made {
        match reader.receive().await {
            ServerFrame::Authenticated(answer) => {
                assert_eq!((answer.request, answer.principal.as_str()), (77, "ada"));
                assert!(answer.expires_ms > welcome.expires_ms + TTL_MS / 2);
                renewed = true;
            }
            frame => {
                let delivery = delivery(frame);
                assert_eq!(delivery.from, next);
                next = delivery.next;
            }
        }
    }
    assert!(renewed);
}

#[tokio::test]
async fn a_newer_token_never_makes_a_connection_somebody_else_or_more() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let grants = ["a/x/**:read,publish"];
    let mut client = WireClient::connect_as(broker.address(), &tokens.token("ada", &grants)).await;
    let expired = tokens.short("ada", &grants, SHORT_MS);
    let mut other = WireClient::connect_as(broker.address(), &expired).await;
    assert_eq!(other.ended().await.code(), "token_expired");
    let refused = [
        (tokens.token("bob", &grants), "forbidden"),
        (tokens.token("ada", &["a/**:read,publish"]), "forbidden"),
        (tokens.token("ada", &["a/x/**:read,publish,manage"]), "forbidden"),
        (tokens.token("ada", &["a/x/**:read,publish", "b/**:read"]), "forbidden"),
        (expired, "token_expired"),
        (String::new(), "unauthenticated"),
        ("nonsense".into(), "unauthenticated"),
        (tokens.token("ada", &grants).replace('.', "x."), "unauthenticated"),
    ];
    for (number, (token, code)) in refused.into_iter().enumerate() {
        let error = refusal(client.ask(authenticate(&token)).await);
        assert_eq!((error.code.as_str(), error.retryable), (code, false), "{number}: {error:?}");
        assert!(token.len() < 9 || !error.message.contains(&token), "the refusal has the token");
        // It goes on as it was.
        assert_eq!(publish(&mut client, "a/x/1", "mine").await.from, number as u64);
        assert_eq!(refusal(client.publish("a/y/1", &["not mine"]).await).code, "session_not_found");
    }
    let mut reader = WireClient::connect_as(broker.address(), &tokens.token("eve", &["a/**:read"])).await;
    subscribed(reader.subscribe("a/x/1", From::Start(true)).await);
    for record in reader.take(0, 8).await {
        assert_eq!(record.sender.unwrap().principal, "ada");
    }
}

#[tokio::test]
async fn less_is_allowed_from_the_moment_on_at_which_a_narrower_token_is_taken() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let mut writer = WireClient::connect_as(broker.address(), &tokens.token("bob", &["a/**:publish"])).await;
    for session in ["a/kept", "a/lost", "a/stalled"] {
        publish(&mut writer, session, "before").await;
    }
    let filler = "x".repeat(1_000);
    published(writer.publish("a/stalled", &vec![filler.as_str(); MANY]).await);
    let mut reader = WireClient::connect_as(broker.address(), &tokens.token("ada", &["a/**:read"])).await;
    for (number, session) in [(1, "a/kept"), (2, "a/lost")] {
        subscribed(reader.subscribe_with(wish(number, session, "")).await);
        assert_eq!(delivery(reader.receive().await).next, 1);
    }
    // What is left of this one was asked for while it was allowed, and waits for credit.
    subscribed(
        reader.subscribe_with(wire::Subscription { window_bytes: Some(1), ..wish(3, "a/stalled", "") }).await,
    );
    let stalled = delivery(reader.receive().await);
    assert!(stalled.next < MANY as u64, "nothing waits");
    reader.send(authenticate(&tokens.token("ada", &["a/kept:read"]))(7)).await;
    let mut ended = BTreeSet::new();
    loop {
        match reader.receive().await {
            ServerFrame::SubscriptionEnded(end) => {
                assert_eq!(end.error.unwrap().code, "session_not_found");
                assert_eq!(end.next, if end.subscription == 2 { 1 } else { stalled.next });
                ended.insert(end.subscription);
            }
            ServerFrame::Authenticated(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ended, [2, 3].into());
    // Nothing more, replay included.
    let credit = wire::Credit { subscription: 3, consumed_through: stalled.next };
    reader.send(ClientFrame::Credit(credit)).await;
    for session in ["a/lost", "a/stalled", "a/never"] {
        publish(&mut writer, session, "after").await;
        let error = refusal(reader.subscribe_with(wish(9, session, "")).await);
        assert_eq!(error.code, "session_not_found", "{session}");
        let read = |request| {
            ClientFrame::Read(wire::Read { request, session: session.into(), ..Default::default() })
        };
        assert_eq!(refusal(reader.ask(read).await), error, "{session}");
    }
    publish(&mut writer, "a/kept", "after").await;
    let last = delivery(reader.receive().await);
    assert_eq!((last.subscription, last.from, last.next), (1, 1, 2));
    // Nothing of what ended came before the answer to this.
    reader.send(ClientFrame::Ping(wire::Ping { token: 5 })).await;
    assert!(matches!(reader.receive().await, ServerFrame::Pong(wire::Pong { token: 5, .. })));
}

#[tokio::test]
async fn a_pattern_shows_what_is_allowed_and_stops_when_that_is_less() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let everything = tokens.token("root", &["**:publish,read"]);
    let mut writer = WireClient::connect_as(broker.address(), &everything).await;
    let all = |name: &str| ["a/x", "a/y", "b/x"].map(|place| format!("{place}/{name}"));
    for session in all("early") {
        publish(&mut writer, &session, "early").await;
    }
    let mut reader = WireClient::connect_as(broker.address(), &tokens.token("ada", &["a/x/**:read"])).await;
    // One that names another tenant is taken as one that nothing matches.
    for (number, pattern) in [(2, "b/**"), (3, "nobody/**"), (1, "**")] {
        let answer = subscribed(reader.subscribe_with(wish(number, "", pattern)).await);
        assert_eq!((answer.subscription, answer.outcome.as_str()), (number, "resumed"));
    }
    for session in all("late") {
        publish(&mut writer, &session, "late").await;
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 2 {
        match reader.receive().await {
            ServerFrame::Subscribed(joined) => assert!(joined.session.starts_with("a/x/"), "{joined:?}"),
            frame => {
                let delivery = delivery(frame);
                assert_eq!(delivery.subscription, 1);
                assert!(seen.insert(delivery.session.clone()), "{delivery:?}");
            }
        }
    }
    assert_eq!(seen, ["a/x/early", "a/x/late"].map(str::to_owned).into());
    // A later record of one that is allowed comes after the feed told of the ones that are not.
    let narrower = tokens.token("ada", &["a/x/late:read"]);
    assert!(matches!(reader.ask(authenticate(&narrower)).await, ServerFrame::Authenticated(_)));
    for session in ["a/x/early", "a/x/new", "a/x/late"] {
        publish(&mut writer, session, "last").await;
    }
    let (mut ended, mut last) = (false, false);
    while !(ended && last) {
        match reader.receive().await {
            ServerFrame::SubscriptionEnded(end) => {
                assert_eq!((end.subscription, end.session.as_str(), end.next), (1, "a/x/early", 1));
                assert_eq!(end.error.unwrap().code, "session_not_found");
                ended = true;
            }
            frame => {
                let delivery = delivery(frame);
                assert_eq!((delivery.session.as_str(), delivery.from), ("a/x/late", 1));
                last = true;
            }
        }
    }
}

async fn list(client: &mut WireClient, list: wire::ListSessions) -> wire::SessionList {
    match client.ask(|request| ClientFrame::ListSessions(wire::ListSessions { request, ..list })).await {
        ServerFrame::SessionList(list) => list,
        other => panic!("{other:?}"),
    }
}

/// Whether any way to read a token of a page has a text in it.
fn reveals(token: &str, text: &str) -> bool {
    let decoded = [URL_SAFE.decode(token), URL_SAFE_NO_PAD.decode(token)].into_iter().flatten();
    let shows = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    shows(token.as_bytes()) || decoded.into_iter().any(|bytes| shows(&bytes))
}

#[tokio::test]
async fn lists_tell_nothing_of_what_may_not_be_read() {
    const EACH: usize = 7;
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let mut writer = WireClient::connect_as(broker.address(), &tokens.token("root", &["**:publish"])).await;
    // Before, between and behind what is allowed.
    for place in ["a/secret", "m/mine", "m/secret", "z/secret"] {
        for number in 0..EACH {
            publish(&mut writer, &format!("{place}/{number}"), "x").await;
        }
    }
    let mut reader =
        WireClient::connect_as(broker.address(), &tokens.token("ada", &["m/mine/**:read"])).await;
    for prefix in ["", "m/"] {
        for pattern in ["", "**", "m/**"] {
            let (mut page, mut found) = (String::new(), Vec::new());
            loop {
                let wanted = wire::ListSessions {
                    prefix: prefix.into(),
                    pattern: pattern.into(),
                    page: std::mem::take(&mut page),
                    limit: 2,
                    ..Default::default()
                };
                let answer = list(&mut reader, wanted).await;
                found.extend(answer.sessions.into_iter().map(|session| session.session));
                assert!(!reveals(&answer.next_page, "secret") && !reveals(&answer.next_page, "mine"));
                if answer.next_page.is_empty() {
                    break;
                }
                page = answer.next_page;
            }
            let wanted: Vec<String> = (0..EACH).map(|number| format!("m/mine/{number}")).collect();
            assert_eq!(found, wanted, "{prefix:?} {pattern:?}");
        }
    }
    for prefix in ["a/", "a/secret/", "z", "nobody/"] {
        let answer =
            list(&mut reader, wire::ListSessions { prefix: prefix.into(), ..Default::default() }).await;
        assert_eq!((answer.sessions.len(), answer.next_page.as_str()), (0, ""), "{prefix}");
    }
}

/// Everything that names one session.
fn requests(session: &str) -> Vec<(&'static str, ClientFrame)> {
    let session = || session.to_owned();
    let position = "0000000000000000_0000000000000000".to_owned();
    vec![
        ("describe", ClientFrame::DescribeSession(wire::DescribeSession { request: 1, session: session() })),
        ("read", ClientFrame::Read(wire::Read { request: 1, session: session(), ..Default::default() })),
        (
            "close",
            ClientFrame::CloseSession(wire::CloseSession {
                request: 1,
                session: session(),
                ..Default::default()
            }),
        ),
        ("delete", ClientFrame::DeleteSession(wire::DeleteSession { request: 1, session: session() })),
        (
            "create",
            ClientFrame::CreateSession(wire::CreateSession {
                request: 1,
                session: session(),
                ..Default::default()
            }),
        ),
        (
            "publish",
            ClientFrame::Publish(wire::Publish {
                request: 1,
                session: session(),
                records: vec![record("x")],
                ..Default::default()
            }),
        ),
        (
            "publish in a name",
            ClientFrame::Publish(wire::Publish {
                request: 1,
                session: session(),
                records: vec![record("x")],
                act_as: "bob".into(),
                ..Default::default()
            }),
        ),
        (
            "trim",
            ClientFrame::TrimSession(wire::TrimSession {
                request: 1,
                session: session(),
                before: position.clone(),
            }),
        ),
        (
            "erase",
            ClientFrame::EraseRecords(wire::EraseRecords {
                request: 1,
                session: session(),
                sender: "bob".into(),
                ..Default::default()
            }),
        ),
        (
            "fork from",
            ClientFrame::ForkSession(wire::ForkSession {
                request: 1,
                session: "m/fork".into(),
                from_session: session(),
                ..Default::default()
            }),
        ),
        (
            "fork into",
            ClientFrame::ForkSession(wire::ForkSession {
                request: 1,
                session: session(),
                from_session: "m/mine".into(),
                ..Default::default()
            }),
        ),
        (
            "commit",
            ClientFrame::CommitCursor(wire::CommitCursor {
                request: 1,
                session: session(),
                cursor: "c".into(),
                position,
            }),
        ),
        (
            "cursor",
            ClientFrame::DescribeCursor(wire::DescribeCursor {
                request: 1,
                session: session(),
                cursor: "c".into(),
            }),
        ),
        (
            "share",
            ClientFrame::ShareSession(wire::ShareSession {
                request: 1,
                session: session(),
                ..Default::default()
            }),
        ),
        (
            "subscribe",
            ClientFrame::Subscribe(wire::Subscribe {
                request: 1,
                subscriptions: vec![wish(1, &session(), "")],
            }),
        ),
        (
            "wait for",
            ClientFrame::Subscribe(wire::Subscribe {
                request: 1,
                subscriptions: vec![wire::Subscription { wait: true, ..wish(1, &session(), "") }],
            }),
        ),
    ]
}

#[tokio::test]
async fn another_tenants_session_is_refused_as_one_that_does_not_exist() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let mut owner =
        WireClient::connect_as(broker.address(), &tokens.token("bob", &["b/**:read,publish"])).await;
    publish(&mut owner, "b/there", "secret").await;
    let grants = ["m/**:read,publish,create,manage"];
    let mut stranger = WireClient::connect_as(broker.address(), &tokens.token("ada", &grants)).await;
    publish(&mut stranger, "m/mine", "x").await;
    for ((what, there), (_, absent)) in requests("b/there").into_iter().zip(requests("b/nothing")) {
        let mut refused = Vec::new();
        for frame in [there, absent] {
            stranger.send_as_is(frame).await;
            match stranger.receive_as_is().await.unwrap() {
                ServerFrame::Refused(answer) => refused.push(answer),
                other => panic!("{what}: {other:?}"),
            }
        }
        assert_eq!(refused[0], refused[1], "{what}");
        assert_eq!(refused[0].error.as_ref().unwrap().code, "session_not_found", "{what}");
    }
    assert_eq!(publish(&mut owner, "b/there", "more").await.from, 1, "nothing was done to it");
}

#[tokio::test]
async fn acting_for_somebody_takes_manage_and_shows() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let bridge = tokens.token("bridge", &["a/**:read,publish", "a/chat/**:manage"]);
    let mut bridge = WireClient::connect_as(broker.address(), &bridge).await;
    let as_bob = |session: &str| wire::Publish {
        session: session.into(),
        records: vec![record("hi")],
        act_as: "bob".into(),
        ..Default::default()
    };
    published(bridge.publish_with(as_bob("a/chat/1")).await);
    published(bridge.publish("a/chat/1", &["own"]).await);
    assert_eq!(refusal(bridge.publish_with(as_bob("a/else")).await).code, "forbidden");
    for name in ["anonymous", "two words", "<b>"] {
        let publish = wire::Publish { act_as: name.into(), ..as_bob("a/chat/1") };
        let error = refusal(bridge.publish_with(publish).await);
        assert_eq!((error.code.as_str(), error.field.as_str()), ("invalid_argument", "act_as"), "{name}");
    }
    subscribed(bridge.subscribe("a/chat/1", From::Start(true)).await);
    let senders: Vec<(String, String)> = bridge
        .take(0, 2)
        .await
        .into_iter()
        .map(|record| {
            let sender = record.sender.unwrap();
            (sender.principal, sender.via)
        })
        .collect();
    let wanted = [("bob", "bridge"), ("bridge", "")].map(|(who, via)| (who.to_owned(), via.to_owned()));
    assert_eq!(senders, wanted);
}

#[tokio::test]
async fn a_token_of_one_device_is_of_no_other() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let token = |device| tokens.token_for("ada", &["a/**:read,publish"], TTL_MS, device);
    let hello = |device: &str| wire::Hello {
        device: device.into(),
        token: token(Some("phone")),
        ..Default::default()
    };
    let ended = WireClient::greet(broker.address(), hello("laptop")).await.err().unwrap();
    assert_eq!(ended.code(), "unauthenticated");
    assert_eq!(ended.goodbye.unwrap().error.unwrap().field, "device");
    for (next, device) in (0..).zip(["phone", ""]) {
        let (mut client, _) = WireClient::greet(broker.address(), hello(device)).await.unwrap();
        publish(&mut client, "a/1", "x").await;
        for other in [Some("laptop"), None] {
            let error = refusal(client.ask(authenticate(&token(other))).await);
            assert!(["unauthenticated", "forbidden"].contains(&error.code.as_str()), "{error:?}");
        }
        assert!(matches!(
            client.ask(authenticate(&token(Some("phone")))).await,
            ServerFrame::Authenticated(_)
        ));
        subscribed(client.subscribe("a/1", From::Offset(next)).await);
        let records = client.take(next, next + 1).await;
        assert_eq!((text(&records[0]), records[0].sender.clone().unwrap().device.as_str()), ("x", "phone"));
    }
}

#[tokio::test]
async fn what_the_broker_measures_is_for_who_manages_everything() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let status = |token: &str| broker.get_bearer(token, "/metrics").0;
    assert_eq!(broker.get("/metrics").0, 401);
    assert_eq!(status("nonsense"), 401);
    for grants in [&["**:read,publish,create"][..], &["a/**:manage"], &["a/**:manage", "a/x:read"]] {
        assert_eq!(status(&tokens.token("ada", grants)), 403, "{grants:?}");
    }
    let (code, body) = broker.get_bearer(&tokens.token("root", &["**:manage"]), "/metrics");
    assert_eq!(code, 200);
    assert!(body.contains("longwire_sessions_live"), "{body}");
    // Who asks whether the broker is there is not asked who it is.
    assert_eq!([broker.get("/healthz").0, broker.get("/readyz").0, broker.get("/").0], [200; 3]);
}

#[tokio::test]
async fn a_broker_that_asks_for_no_token_knows_nobody_and_refuses_a_false_one() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let (mut client, welcome) = WireClient::greet(broker.address(), wire::Hello::default()).await.unwrap();
    assert_eq!((welcome.principal.as_str(), welcome.expires_ms), ("anonymous", 0));
    publish(&mut client, "a/1", "x").await;
    let hello = wire::Hello { token: "nonsense".into(), ..Default::default() };
    assert_eq!(WireClient::greet(broker.address(), hello).await.err().unwrap().code(), "unauthenticated");
    let token = Tokens::of(&data).token("ada", &["a/**:read"]);
    let mut ada = WireClient::connect_as(broker.address(), &token).await;
    assert_eq!(refusal(ada.publish("a/1", &["y"]).await).code, "forbidden");
}

/// Names that a careless reader might take for a session of another tenant, or for several.
const ESCAPES: [&str; 16] = [
    "",
    "/",
    "..",
    "acme/../other/1",
    "acme/./../other/1",
    "acme//other/1",
    "/other/1",
    "acme/%2e%2e/other/1",
    "acme%2f..%2fother%2f1",
    "other%2f1",
    "acme\\..\\other\\1",
    "acme/1\0/../../other/1",
    "\u{430}\u{441}me/1",
    "o\u{200b}ther/1",
    "\u{ff4f}ther/1",
    "~acme/1",
];

#[tokio::test]
async fn names_and_patterns_that_try_to_get_out_lead_nowhere() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let both = tokens.token("root", &["other/**:publish", "acme/**:publish"]);
    let mut writer = WireClient::connect_as(broker.address(), &both).await;
    publish(&mut writer, "other/1", "not yours").await;
    publish(&mut writer, "acme/1", "yours").await;
    let rights = "acme/**:read,publish,create,manage";
    let mut client = WireClient::connect_as(broker.address(), &tokens.token("ada", &[rights])).await;
    for session in ESCAPES.into_iter().chain(["**", "*", "acme/*", "acme/**"]) {
        for (what, frame) in requests(session) {
            // The other one of a fork is a session that is not there.
            if what == "fork into" || what == "fork from" {
                continue;
            }
            client.send_as_is(frame).await;
            let error = refusal(client.receive_as_is().await.unwrap());
            assert_eq!(error.code, "invalid_session_id", "{what} {session:?}: {error:?}");
        }
    }
    // Each pattern is refused, or finds what is its own alone.
    for pattern in ESCAPES.into_iter().chain(["**", "*/1", "*/**", "other/**", "other/1", "acme/**/other"]) {
        let wanted = wire::ListSessions { pattern: pattern.into(), ..Default::default() };
        let answer =
            client.ask(|request| ClientFrame::ListSessions(wire::ListSessions { request, ..wanted })).await;
        match answer {
            ServerFrame::SessionList(list) => {
                assert!(list.sessions.iter().all(|one| one.session == "acme/1"), "{pattern:?}: {list:?}");
            }
            refused => assert_eq!(refusal(refused).code, "invalid_pattern", "{pattern:?}"),
        }
    }
    let mut end = 1;
    for (number, pattern) in [(1, "other/**"), (2, "**"), (3, "*/1")] {
        subscribed(client.subscribe_with(wish(number, "", pattern)).await);
        publish(&mut writer, "other/1", "not yours either").await;
        publish(&mut writer, "acme/1", "yours").await;
        end += 1;
        // What is its own comes last, if it matches at all.
        let mut next = if number == 1 { end } else { 0 };
        while next < end {
            match client.receive().await {
                ServerFrame::Subscribed(joined) => assert_eq!(joined.session, "acme/1", "{pattern}"),
                frame => {
                    let delivery = delivery(frame);
                    assert_eq!((delivery.subscription, delivery.session.as_str()), (number, "acme/1"));
                    next = delivery.next;
                }
            }
        }
        client.send(ClientFrame::Unsubscribe(wire::Unsubscribe { request: 99, subscription: number })).await;
        assert!(matches!(client.receive().await, ServerFrame::Done(_)), "{pattern} has more");
    }
}

#[tokio::test]
async fn a_token_in_a_url_lets_nobody_in() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let root = tokens.token("root", &["**:read,publish,create,manage"]);
    for path in ["/metrics?token=", "/metrics?access_token=", "/metrics?authorization=Bearer%20"] {
        let refused = broker.get(&format!("{path}{root}"));
        assert_eq!(refused, broker.get("/metrics"), "{path}");
        assert_eq!(refused.0, 401, "{path}");
    }
    for path in ["/v1/connect?token=", "/v1/connect?access_token="] {
        let mut client = WireClient::open_at(broker.address(), &format!("{path}{root}")).await;
        client.send(ClientFrame::Hello(wire::Hello::default())).await;
        assert_eq!(client.ended().await.code(), "unauthenticated", "{path}");
    }
    assert_eq!(broker.get_bearer(&root, "/metrics").0, 200);
}
