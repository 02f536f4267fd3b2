//! Finding sessions by what they are, and reading all that match a pattern.

use std::collections::BTreeMap;

use longwire::{Client, ErrorCode, Publication, RequestError, SessionMeta};
use longwire_proto::codec::Encoding;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::support::broker::{Broker, folder};
use crate::support::proxy::Proxy;
use crate::support::wire_client::{WireClient, text};

fn pattern(number: u32, pattern: &str, from: From) -> wire::Subscription {
    wire::Subscription {
        subscription: number,
        pattern: pattern.into(),
        from: Some(wire::From { from: Some(from) }),
        ..Default::default()
    }
}

async fn subscribe(client: &mut WireClient, subscription: wire::Subscription) -> Option<wire::Error> {
    let request = 900 + u64::from(subscription.subscription);
    client.send(ClientFrame::Subscribe(wire::Subscribe { request, subscriptions: vec![subscription] })).await;
    match client.receive().await {
        ServerFrame::Subscribed(answer) => {
            assert!(answer.request == request && answer.session.is_empty() && !answer.pattern.is_empty());
            None
        }
        ServerFrame::Refused(refused) => refused.error,
        other => panic!("{other:?}"),
    }
}

/// What a subscription of a pattern has told.
#[derive(Default)]
struct Seen {
    /// By session: where reading goes on, and the texts.
    sessions: BTreeMap<String, (u64, Vec<String>)>,
    ended: Vec<String>,
}

impl Seen {
    /// Takes frames until this many records are there.
    async fn take(&mut self, client: &mut WireClient, records: usize) {
        while self.sessions.values().map(|(_, texts)| texts.len()).sum::<usize>() < records {
            self.frame(client.receive().await);
        }
    }

    fn frame(&mut self, frame: ServerFrame) {
        match frame {
            ServerFrame::Subscribed(joined) => {
                assert_eq!(joined.request, 0);
                let known = self.sessions.insert(joined.session.clone(), (joined.from, Vec::new()));
                assert!(known.is_none(), "{} joined twice", joined.session);
            }
            ServerFrame::Delivery(delivery) => {
                let (next, texts) = self.sessions.get_mut(&delivery.session).expect("told before");
                assert_eq!(delivery.from, *next, "no gap within {}", delivery.session);
                *next = delivery.next;
                texts.extend(delivery.records.iter().map(|record| text(record).to_owned()));
            }
            ServerFrame::SubscriptionEnded(ended) => {
                assert_eq!(ended.error.unwrap().code, "session_deleted");
                self.ended.push(ended.session);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_pattern_is_every_session_that_matches_those_made_later_included() {
    for encoding in Encoding::ALL {
        let (_folder, data) = folder();
        let broker = Broker::start_with(&data, &[("SESSION_IDLE_MS", "50")]);
        let mut writer = WireClient::connect(broker.address(), encoding).await;
        for number in 0..5 {
            writer.publish(&format!("acme/{number}/build"), &[&format!("old {number}")]).await;
            writer.publish(&format!("acme/{number}/test"), &["no"]).await;
        }
        writer.publish("other/1/build", &["no"]).await;
        let mut reader = WireClient::connect(broker.address(), encoding).await;
        assert_eq!(subscribe(&mut reader, pattern(1, "acme/*/build", From::Start(true))).await, None);
        let mut seen = Seen::default();
        seen.take(&mut reader, 5).await;
        for round in 0..20 {
            for number in 0..10 {
                writer.publish(&format!("acme/{number}/build"), &[&format!("{round}")]).await;
            }
            writer.publish("acme/build", &["no"]).await;
        }
        seen.take(&mut reader, 205).await;
        assert_eq!(seen.sessions.len(), 10);
        for (session, (next, texts)) in &seen.sessions {
            let old = session < &"acme/5".to_owned();
            assert_eq!((*next, texts.len()), (20 + u64::from(old), 20 + usize::from(old)), "{session}");
            let rounds: Vec<_> = (0..20).map(|round| round.to_string()).collect();
            assert_eq!(texts[usize::from(old)..], rounds);
        }
        let mut late = WireClient::connect(broker.address(), encoding).await;
        assert_eq!(subscribe(&mut late, pattern(1, "acme/**", From::End(true))).await, None);
        writer.publish("acme/new/deep/er", &["first"]).await;
        let mut news = Seen::default();
        news.take(&mut late, 1).await;
        assert_eq!(news.sessions["acme/new/deep/er"], (1, vec!["first".to_owned()]));
        let delete = wire::DeleteSession { request: 5, session: "acme/3/build".into() };
        writer.send(ClientFrame::DeleteSession(delete)).await;
        assert!(matches!(writer.receive().await, ServerFrame::Done(_)));
        while seen.ended.is_empty() {
            seen.frame(reader.receive().await);
        }
        assert_eq!(seen.ended, ["acme/3/build"]);
    }
}

#[tokio::test]
async fn a_pattern_resumes_from_one_named_cursor() {
    let (_folder, data) = folder();
    let mut broker = Broker::start(&data);
    let mut read: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for round in 0..4 {
        {
            let mut writer = WireClient::connect(broker.address(), Encoding::Proto).await;
            for number in 0..3 + round {
                let texts: Vec<String> = (0..5).map(|n| format!("{round} {n}")).collect();
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                writer.publish(&format!("acme/{number}"), &texts).await;
            }
            let mut reader = WireClient::connect(broker.address(), Encoding::Proto).await;
            let wish = pattern(1, "acme/*", From::Cursor("worker".into()));
            assert_eq!(subscribe(&mut reader, wish).await, None);
            let mut seen = Seen::default();
            seen.take(&mut reader, 5 * (3 + round)).await;
            let sdk = Client::connect(&broker.url()).unwrap();
            for (session, (next, texts)) in seen.sessions {
                read.entry(session.clone()).or_default().extend(texts);
                let position = longwire::Position { epoch: 0, offset: next };
                sdk.session(&session).unwrap().commit_cursor("worker", position).await.unwrap();
            }
        }
        broker.kill();
        broker = Broker::start(&data);
    }
    assert_eq!(read.len(), 6);
    for (session, texts) in read {
        let first = session.strip_prefix("acme/").unwrap().parse::<usize>().unwrap().saturating_sub(2);
        let expected: Vec<_> =
            (first..4).flat_map(|round| (0..5).map(move |n| format!("{round} {n}"))).collect();
        assert_eq!(texts, expected, "{session}: each record once");
    }
}

#[tokio::test]
async fn patterns_that_are_none_are_refused() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    let start = From::Start(true);
    let cases = [
        (pattern(1, "acme/b*", start.clone()), "invalid_pattern"),
        (
            wire::Subscription { session: "a".into(), ..pattern(1, "acme/*", start.clone()) },
            "invalid_argument",
        ),
        (wire::Subscription { wait: true, ..pattern(1, "acme/*", start.clone()) }, "invalid_argument"),
        (pattern(1, "acme/*", From::Offset(3)), "invalid_argument"),
        (pattern(1, "acme/*", From::Cursor("no good".into())), "invalid_argument"),
    ];
    for (wish, code) in cases {
        assert_eq!(subscribe(&mut client, wish).await.unwrap().code, code);
    }
    for number in 0..16 {
        assert_eq!(subscribe(&mut client, pattern(number, "acme/*", start.clone())).await, None);
    }
    let one_more = subscribe(&mut client, pattern(16, "acme/*", start.clone())).await.unwrap();
    assert_eq!((one_more.code.as_str(), one_more.limit), ("too_many_subscriptions", 16));
    assert_eq!(subscribe(&mut client, pattern(3, "acme/**", start)).await, None, "a number is taken anew");
}

#[tokio::test]
async fn sessions_are_found_by_label_parent_status_and_pattern() {
    let (_folder, data) = folder();
    let mut broker = Broker::start(&data);
    for round in 0..2 {
        let client = Client::connect(&broker.url()).unwrap();
        if round == 0 {
            for number in 0..60 {
                let session =
                    client.session(&format!("acme/{}/{number:02}", ["web", "api"][number % 2])).unwrap();
                let labels =
                    [("team".to_owned(), format!("t{}", number % 3)), ("all".to_owned(), "yes".to_owned())];
                let parent = if number % 4 == 0 { "acme/parent".to_owned() } else { String::new() };
                let meta = SessionMeta { labels: labels.into(), parent, ..SessionMeta::default() };
                session.create(meta).await.unwrap();
                if number % 5 == 0 {
                    session.close("").await.unwrap();
                }
            }
        }
        let found = async |list: longwire::SessionList| {
            let (mut list, mut found) = (list.page_size(7), Vec::new());
            while let Some(page) = list.next_page().await.unwrap() {
                found.extend(
                    page.into_iter()
                        .map(|info| info.session[info.session.len() - 2..].parse::<usize>().unwrap()),
                );
            }
            found.sort_unstable();
            found
        };
        let all = |keep: &dyn Fn(usize) -> bool| (0..60).filter(|number| keep(*number)).collect::<Vec<_>>();
        let list = || client.sessions("");
        assert_eq!(found(list().label("team", "t1")).await, all(&|n| n % 3 == 1));
        assert_eq!(found(list().label("team", "t1").label("all", "yes")).await, all(&|n| n % 3 == 1));
        assert_eq!(found(list().label("team", "t9")).await, all(&|_| false));
        assert_eq!(found(list().parent("acme/parent")).await, all(&|n| n % 4 == 0));
        assert_eq!(found(list().closed(true)).await, all(&|n| n % 5 == 0));
        assert_eq!(
            found(list().closed(false).pattern("acme/web/*")).await,
            all(&|n| n % 5 != 0 && n % 2 == 0)
        );
        assert_eq!(found(client.sessions("acme/a").label("all", "yes")).await, all(&|n| n % 2 == 1));
        assert_eq!(found(client.sessions("acme/a").pattern("acme/web/*")).await, all(&|_| false));
        assert_eq!(found(list().pattern("**")).await, all(&|_| true));
        let wrong = client.sessions("").pattern("a*").next_page().await.unwrap_err();
        assert!(
            matches!(wrong, RequestError::Refused(refusal) if refusal.code == Some(ErrorCode::InvalidPattern))
        );
        broker.kill();
        broker = Broker::start(&data);
    }
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    let list = wire::ListSessions { request: 1, limit: 5, ..Default::default() };
    client.send(ClientFrame::ListSessions(list.clone())).await;
    let ServerFrame::SessionList(page) = client.receive().await else { panic!() };
    let other = wire::ListSessions { prefix: "acme".into(), page: page.next_page, ..list };
    client.send(ClientFrame::ListSessions(other)).await;
    let ServerFrame::Refused(refused) = client.receive().await else { panic!() };
    assert_eq!(refused.error.unwrap().code, "page_mismatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_of_sessions_that_are_there_that_come_and_that_change() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let proxy = Proxy::start(broker.address()).await;
    let client = Client::connect(&proxy.url()).unwrap();
    let publish = async |session: &str, kind: u32| {
        let publication = Publication::text("x").kind(kind);
        client.session(session).unwrap().publish(publication).await.unwrap();
    };
    publish("acme/chat/old", 40).await;
    publish("acme/other/old", 40).await;
    let mut watch = client.watch("acme/chat/*".parse().unwrap()).kinds([40, 41]).await.unwrap();
    let mut next = async || watch.next().await.unwrap().unwrap().to_string();
    assert_eq!(next().await, "acme/chat/old");
    publish("acme/chat/new", 40).await;
    assert_eq!(next().await, "acme/chat/new", "when it is created");
    // Its first record is of a kind that is watched, so it is told again, unless that was seen to be the same.
    publish("acme/chat/old", 42).await;
    publish("acme/chat/old", 41).await;
    while next().await != "acme/chat/old" {}
    // All of them again, over the next connection.
    proxy.cut();
    let mut again: Vec<String> = Vec::new();
    while again.len() < 2 {
        let session = next().await;
        if !again.contains(&session) {
            again.push(session);
        }
    }
    again.sort_unstable();
    assert_eq!(again, ["acme/chat/new", "acme/chat/old"]);
    let refused = client.watch("acme/**".parse().unwrap()).kinds(0..100).await;
    assert!(refused.is_err(), "more kinds than a filter has");
}

#[tokio::test]
async fn a_session_of_a_pattern_says_what_it_is_doing() {
    let (_folder, data) = folder();
    let broker = Broker::start(&data);
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    let sdk = Client::connect(&broker.url()).unwrap();
    sdk.session("acme/idle").unwrap().publish("x").await.unwrap();
    drop(sdk.session("acme/works").unwrap().start_run("Build").await.unwrap());
    sdk.session("acme/waits").unwrap().ask("Deploy?").options(["yes"]).send().await.unwrap();
    assert_eq!(subscribe(&mut client, pattern(1, "acme/**", From::End(true))).await, None);
    for expected in
        [("acme/idle", None), ("acme/waits", Some("input_required")), ("acme/works", Some("working"))]
    {
        let ServerFrame::Subscribed(joined) = client.receive().await else { panic!() };
        let status = joined.state.as_ref().map(|state| state.status.as_str());
        assert_eq!((joined.session.as_str(), status), expected);
    }
}
