//! What connections, principals and tenants may use: who is over it is told which limit it was and when to come back, and
//! nobody else notices.

use std::time::Duration;

use longwire::{Client, From as Begin};
use longwire_proto::limits::BATCH_RECORDS_MAX;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio::time::sleep;

use crate::support::broker::{Broker, folder};
use crate::support::tokens::Tokens;
use crate::support::wire_client::{Ended, WireClient, published, record, refusal, subscribed};

/// Grants of all that these tests do in a tenant.
fn all_of(tenant: &str) -> String {
    format!("{tenant}/**:read,publish,create,manage")
}

fn token(tokens: &Tokens, sub: &str, tenant: &str) -> String {
    tokens.token(sub, &[&all_of(tenant)])
}

async fn connect(broker: &Broker, tokens: &Tokens, sub: &str, tenant: &str) -> WireClient {
    WireClient::connect_as(broker.address(), &token(tokens, sub, tenant)).await
}

async fn try_connect(broker: &Broker, token: &str) -> Result<WireClient, Ended> {
    let hello = wire::Hello { token: token.into(), ..Default::default() };
    WireClient::greet(broker.address(), hello).await.map(|(client, _)| client)
}

/// Who comes gets a place once the broker has seen that one is free; until then it is told that there is none.
async fn connect_when_free(broker: &Broker, token: &str) -> WireClient {
    loop {
        match try_connect(broker, token).await {
            Ok(client) => return client,
            Err(ended) => assert_eq!(ended.code(), "too_many_connections"),
        }
    }
}

/// What a refusal says of a limit.
#[track_caller]
fn assert_limited(error: &wire::Error, code: &str, whose: &str, limit: u64) {
    assert_eq!((error.code.as_str(), error.limit), (code, limit), "{error:?}");
    assert!(error.retry_after_ms > 0 && error.message.contains(whose), "{error:?}");
}

async fn wait_as_told(error: &wire::Error) {
    sleep(Duration::from_millis(error.retry_after_ms)).await;
}

fn wish(number: u32, session: &str) -> wire::Subscription {
    let from = Some(wire::From { from: Some(From::Start(true)) });
    wire::Subscription {
        subscription: number,
        session: session.into(),
        from,
        wait: true,
        ..Default::default()
    }
}

fn create(session: String) -> impl FnOnce(u64) -> ClientFrame {
    move |request| ClientFrame::CreateSession(wire::CreateSession { request, session, ..Default::default() })
}

fn fork(session: String, from_session: &str) -> impl FnOnce(u64) -> ClientFrame {
    let from_session = from_session.to_owned();
    move |request| {
        ClientFrame::ForkSession(wire::ForkSession { request, session, from_session, ..Default::default() })
    }
}

fn begin_import(session: String) -> impl FnOnce(u64) -> ClientFrame {
    import_step(session, 0, false)
}

/// A step of the import of three records, each of which is one.
fn import_step(session: String, from: u64, finish: bool) -> impl FnOnce(u64) -> ClientFrame {
    let lineage = vec![wire::LineageEntry::default()];
    let begin = wire::ImportBegin { end: 3, lineage, session: "elsewhere".into(), ..Default::default() };
    move |request| {
        ClientFrame::ImportRecords(wire::ImportRecords {
            request,
            session,
            import: "i".into(),
            begin: Some(begin),
            from,
            records: vec![record("x")],
            finish,
        })
    }
}

async fn unsubscribe(client: &mut WireClient, subscription: u32) {
    let answer =
        client.ask(|request| ClientFrame::Unsubscribe(wire::Unsubscribe { request, subscription })).await;
    assert!(matches!(answer, ServerFrame::Done(_)), "{answer:?}");
}

#[tokio::test]
async fn connections_of_a_principal_are_bounded_and_a_freed_place_is_given_again() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[("LIMITS_PRINCIPAL_CONNECTIONS", "2")]);
    let ada = token(&tokens, "ada", "acme");
    let mut first = try_connect(&broker, &ada).await.unwrap();
    let second = try_connect(&broker, &ada).await.unwrap();
    // Another token of the same principal is the same principal.
    for token in [&ada, &token(&tokens, "ada", "beta")] {
        let ended = try_connect(&broker, token).await.err().unwrap();
        assert_eq!((ended.code(), ended.close_code()), ("too_many_connections", 1013));
        let error = ended.goodbye.unwrap().error.unwrap();
        assert_limited(&error, "too_many_connections", "principal", 2);
        assert!(error.retryable);
    }
    let mut other = connect(&broker, &tokens, "bob", "acme").await;
    published(other.publish("acme/1", &["another one"]).await);
    published(first.publish("acme/1", &["one that is there"]).await);
    drop(second);
    let mut third = connect_when_free(&broker, &ada).await;
    published(third.publish("acme/1", &["in its place"]).await);
    assert!(try_connect(&broker, &ada).await.is_err(), "one place was given twice");
}

#[tokio::test]
async fn connections_of_a_tenant_are_bounded_whoever_has_them() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[("LIMITS_TENANT_CONNECTIONS", "2")]);
    let _ada = connect(&broker, &tokens, "ada", "acme").await;
    let bob = connect(&broker, &tokens, "bob", "acme").await;
    let eve = token(&tokens, "eve", "acme");
    let ended = try_connect(&broker, &eve).await.err().unwrap();
    let error = ended.goodbye.unwrap().error.unwrap();
    assert_limited(&error, "too_many_connections", "tenant", 2);
    // Of another tenant, and of several, which is of none.
    let _kim = connect(&broker, &tokens, "kim", "beta").await;
    let both = tokens.token("root", &[&all_of("acme"), &all_of("beta")]);
    let _root = try_connect(&broker, &both).await.unwrap();
    drop(bob);
    connect_when_free(&broker, &eve).await;
}

#[tokio::test]
async fn subscriptions_of_a_principal_are_counted_over_its_connections() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[("LIMITS_PRINCIPAL_SUBSCRIPTIONS", "3")]);
    let mut first = connect(&broker, &tokens, "ada", "acme").await;
    let mut second = connect(&broker, &tokens, "ada", "acme").await;
    subscribed(first.subscribe_with(wish(1, "acme/1")).await);
    let pattern = wire::Subscription { subscription: 2, pattern: "acme/**".into(), ..Default::default() };
    subscribed(first.subscribe_with(pattern).await);
    subscribed(second.subscribe_with(wish(1, "acme/1")).await);
    for client in [&mut first, &mut second] {
        let error = refusal(client.subscribe_with(wish(9, "acme/9")).await);
        assert_limited(&error, "too_many_subscriptions", "principal", 3);
    }
    let mut other = connect(&broker, &tokens, "bob", "acme").await;
    subscribed(other.subscribe_with(wish(1, "acme/1")).await);
    // One that takes the place of another is not one more.
    subscribed(second.subscribe_with(wish(1, "acme/2")).await);
    unsubscribe(&mut first, 2).await;
    subscribed(second.subscribe_with(wish(2, "acme/1")).await);
    drop(first);
    let answer = loop {
        match second.subscribe_with(wish(3, "acme/1")).await {
            ServerFrame::Subscribed(answer) => break answer,
            refused => assert_limited(&refusal(refused), "too_many_subscriptions", "principal", 3),
        }
    };
    assert_eq!(answer.subscription, 3);
}

/// Publishes at once, and how many of them were refused.
async fn burst(client: &mut WireClient, publishes: u64) -> u64 {
    for request in 0..publishes {
        let records = vec![record("x")];
        let publish = wire::Publish { request, session: "acme/1".into(), records, ..Default::default() };
        client.send(ClientFrame::Publish(publish)).await;
    }
    let mut refused = 0;
    for _ in 0..publishes {
        match client.receive().await {
            ServerFrame::Published(_) => {}
            other => {
                assert_limited(&refusal(other), "too_many_requests", "principal", 1);
                refused += 1;
            }
        }
    }
    refused
}

#[tokio::test]
async fn requests_without_an_answer_are_bounded_and_answered_ones_make_room() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[("LIMITS_PRINCIPAL_REQUESTS", "1")]);
    let mut client = connect(&broker, &tokens, "ada", "acme").await;
    let (mut sent, mut refused) = (0, 0);
    // How many come while one waits for the disk is left to chance, but not for ever.
    while refused == 0 {
        refused += burst(&mut client, 100).await;
        sent += 100;
    }
    let last = published(client.publish("acme/1", &["the last"]).await);
    assert_eq!(last.from, sent - refused, "what was refused is not there, and all the rest is");
    let mut other = connect(&broker, &tokens, "bob", "acme").await;
    published(other.publish("acme/1", &["another one's"]).await);
}

#[tokio::test]
async fn bytes_of_requests_without_an_answer_are_bounded_whatever_is_asked() {
    let (_folder, data) = folder();
    let settings =
        [("LIMITS_PRINCIPAL_REQUEST_BYTES", "2000"), ("LIMITS_PRINCIPAL_SESSIONS_PER_MINUTE", "1")];
    let (broker, tokens) = Tokens::broker(&data, &settings);
    let mut client = connect(&broker, &tokens, "ada", "acme").await;
    let large = "x".repeat(2001);
    let error = refusal(client.publish("acme/1", &[&large]).await);
    assert_limited(&error, "too_many_requests", "principal", 2000);
    let title = |request| {
        let meta = wire::SessionMeta { labels: [("x".into(), large.clone())].into(), ..Default::default() };
        let meta = Some(meta);
        ClientFrame::CreateSession(wire::CreateSession {
            request,
            session: "acme/1".into(),
            meta,
            ..Default::default()
        })
    };
    let error = refusal(client.ask(title).await);
    assert_limited(&error, "too_many_requests", "principal", 2000);
    // What was refused has not used up the one session that may be created.
    assert_eq!(published(client.publish("acme/1", &[&large[..1500]]).await).from, 0);
}

/// Publishes until the rate refuses it.
async fn publish_until_refused(client: &mut WireClient, session: &str, texts: &[&str]) -> wire::Error {
    loop {
        match client.publish(session, texts).await {
            ServerFrame::Published(_) => {}
            refused => return refusal(refused),
        }
    }
}

#[tokio::test]
async fn records_a_second_are_bounded_and_the_wait_is_as_long_as_is_said() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[("LIMITS_PRINCIPAL_PUBLISH_RECORDS_PER_SECOND", "8")]);
    let mut client = connect(&broker, &tokens, "ada", "acme").await;
    // The largest publish is possible at any rate.
    published(client.publish("acme/1", &["x"; BATCH_RECORDS_MAX]).await);
    for _ in 0..2 {
        let error = publish_until_refused(&mut client, "acme/1", &["x"; 4]).await;
        assert_limited(&error, "rate_limited", "principal", 8);
        let mut other = connect(&broker, &tokens, "bob", "acme").await;
        published(other.publish("acme/2", &["x"; 4]).await);
        // A rate is the principal's: another connection of it is no way round.
        let mut again = connect(&broker, &tokens, "ada", "acme").await;
        let error = publish_until_refused(&mut again, "acme/1", &["x"; 4]).await;
        wait_as_told(&error).await;
        published(client.publish("acme/1", &["x"; 4]).await);
    }
}

#[tokio::test]
async fn bytes_a_second_are_bounded_and_the_wait_is_as_long_as_is_said() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[("LIMITS_TENANT_PUBLISH_KIB_PER_SECOND", "512")]);
    let mut client = connect(&broker, &tokens, "ada", "acme").await;
    let text = "x".repeat(250 << 10);
    let text = text.as_str();
    let error = publish_until_refused(&mut client, "acme/1", &[text; 2]).await;
    assert_limited(&error, "rate_limited", "tenant", 512);
    // Small ones count too, and another tenant's are its own.
    let mut other = connect(&broker, &tokens, "ada", "beta").await;
    published(other.publish("beta/1", &[text; 2]).await);
    wait_as_told(&error).await;
    published(client.publish("acme/1", &[text; 2]).await);
}

#[tokio::test]
async fn new_sessions_a_minute_are_bounded_however_they_come_about() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[("LIMITS_PRINCIPAL_SESSIONS_PER_MINUTE", "30")]);
    let mut client = connect(&broker, &tokens, "ada", "acme").await;
    let mut other = connect(&broker, &tokens, "ada", "acme").await;
    published(client.publish("acme/there", &["x"]).await);
    let mut number = 0;
    for kind in ["create", "fork", "import", "publish"] {
        let (error, session) = loop {
            let session = format!("acme/{kind}/{number}");
            number += 1;
            let answer = match kind {
                "create" => client.ask(create(session.clone())).await,
                "fork" => client.ask(fork(session.clone(), "acme/there")).await,
                "import" => client.ask(begin_import(session.clone())).await,
                _ => client.publish(&session, &["x"]).await,
            };
            if matches!(answer, ServerFrame::Refused(_)) {
                break (refusal(answer), session);
            }
        };
        assert_limited(&error, "rate_limited", "principal", 30);
        // What is there takes publishes, of whoever has just come too, and what was refused is not there.
        for client in [&mut client, &mut other] {
            published(client.publish("acme/there", &["x"]).await);
        }
        let describe = wire::DescribeSession { request: 1, session: session.clone() };
        let answer =
            client.ask(|request| ClientFrame::DescribeSession(wire::DescribeSession { request, ..describe }));
        assert_eq!(refusal(answer.await).code, "session_not_found", "{kind}");
        wait_as_told(&error).await;
        let answer = match kind {
            "create" => client.ask(create(session)).await,
            "fork" => client.ask(fork(session, "acme/there")).await,
            "import" => client.ask(begin_import(session)).await,
            _ => client.publish(&session, &["x"]).await,
        };
        assert!(!matches!(answer, ServerFrame::Refused(_)), "{kind}: {answer:?}");
    }
}

#[tokio::test]
async fn an_import_is_one_session_however_many_steps_it_takes() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[("LIMITS_PRINCIPAL_SESSIONS_PER_MINUTE", "1")]);
    let mut client = connect(&broker, &tokens, "ada", "acme").await;
    for (from, finish) in [(0, false), (1, false), (1, false), (2, true)] {
        match client.ask(import_step("acme/in".into(), from, finish)).await {
            ServerFrame::Imported(imported) => assert_eq!(imported.session.is_some(), finish),
            other => panic!("{other:?} answers the step at {from}"),
        }
    }
}

#[tokio::test]
async fn imported_records_count_as_published_ones() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[("LIMITS_PRINCIPAL_PUBLISH_RECORDS_PER_SECOND", "2")]);
    let mut client = connect(&broker, &tokens, "ada", "acme").await;
    published(client.publish("acme/1", &["x"; BATCH_RECORDS_MAX]).await);
    let error = loop {
        match client.ask(begin_import("acme/in".into())).await {
            ServerFrame::Imported(_) => {}
            refused => break refusal(refused),
        }
    };
    assert_limited(&error, "rate_limited", "principal", 2);
    wait_as_told(&error).await;
    let answer = client.ask(begin_import("acme/in".into())).await;
    assert!(matches!(answer, ServerFrame::Imported(_)), "{answer:?}");
}

#[tokio::test]
async fn who_may_not_create_uses_up_nothing_of_its_tenants() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[("LIMITS_TENANT_SESSIONS_PER_MINUTE", "1")]);
    let reader = tokens.token("eve", &["acme/**:read"]);
    let mut reader = WireClient::connect_as(broker.address(), &reader).await;
    for _ in 0..3 {
        for answer in [
            reader.ask(create("acme/new".into())).await,
            reader.ask(fork("acme/new".into(), "acme/old")).await,
            reader.ask(begin_import("acme/new".into())).await,
            reader.publish("acme/new", &["x"]).await,
        ] {
            assert_ne!(refusal(answer).code, "rate_limited");
        }
    }
    let mut writer = connect(&broker, &tokens, "ada", "acme").await;
    published(writer.publish("acme/new", &["x"]).await);
}

#[tokio::test]
async fn a_tenant_at_its_limits_disturbs_no_other() {
    let (_folder, data) = folder();
    let settings = [
        ("LIMITS_TENANT_PUBLISH_RECORDS_PER_SECOND", "4"),
        ("LIMITS_TENANT_SESSIONS_PER_MINUTE", "2"),
        ("LIMITS_TENANT_SUBSCRIPTIONS", "1"),
        ("LIMITS_TENANT_CONNECTIONS", "1"),
    ];
    let (broker, tokens) = Tokens::broker(&data, &settings);
    let mut greedy = connect(&broker, &tokens, "eve", "acme").await;
    subscribed(greedy.subscribe_with(wish(1, "acme/none")).await);
    published(greedy.publish("acme/1", &["x"; BATCH_RECORDS_MAX]).await);
    let mut quiet = connect(&broker, &tokens, "ada", "beta").await;
    for number in 0..20 {
        let error = publish_until_refused(&mut greedy, "acme/1", &["x"; 4]).await;
        assert_limited(&error, "rate_limited", "tenant", 4);
        let error = refusal(greedy.subscribe_with(wish(2, "acme/none")).await);
        assert_limited(&error, "too_many_subscriptions", "tenant", 1);
        let refused = try_connect(&broker, &token(&tokens, "eve", "acme")).await;
        assert_eq!(refused.err().unwrap().code(), "too_many_connections");
        assert_eq!(published(quiet.publish("beta/1", &["x"]).await).from, number);
    }
    subscribed(quiet.subscribe_with(wish(1, "beta/1")).await);
    assert_eq!(quiet.take(0, 20).await.len(), 20);
}

fn sdk(broker: &Broker, token: &str) -> Client {
    let (client, driver) = Client::builder().url(broker.url()).token(token).build().unwrap();
    drop(tokio::spawn(driver));
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_waits_as_it_is_told_and_loses_nothing() {
    const BATCH: usize = 512;
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[("LIMITS_PRINCIPAL_PUBLISH_RECORDS_PER_SECOND", "1000")]);
    let root = tokens.token("root", &["**:manage"]);
    let refusals = || {
        let (_, metrics) = broker.get_bearer(&root, "/metrics");
        metrics.lines().any(|line| line.starts_with("longwire_quota_refusals_total{"))
    };
    let client = sdk(&broker, &token(&tokens, "ada", "acme"));
    let session = client.session("acme/1").unwrap();
    let mut made = 0;
    // Several under way at once: those behind the refused one are refused too, and keep their order.
    while !refusals() {
        let mut pending = Vec::new();
        for _ in 0..4 {
            let batch: Vec<String> = (made..made + BATCH).map(|number| number.to_string()).collect();
            pending.push(session.enqueue_all(batch).await.unwrap());
            made += BATCH;
        }
        for one in pending {
            one.await.unwrap();
        }
    }
    let mut records = session.subscribe(Begin::Start).await.unwrap();
    for number in 0..made {
        assert_eq!(records.next().await.unwrap().unwrap().text(), Some(number.to_string().as_str()));
    }
    assert_eq!(session.describe().await.unwrap().end, made as u64, "nothing was made twice");
    client.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_comes_in_when_a_place_is_free() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[("LIMITS_PRINCIPAL_CONNECTIONS", "1")]);
    let ada = token(&tokens, "ada", "acme");
    let first = connect_when_free(&broker, &ada).await;
    let client = sdk(&broker, &ada);
    let waiting = client.session("acme/1").unwrap().enqueue("kept").await.unwrap();
    let root = tokens.token("root", &["**:manage"]);
    while !broker.get_bearer(&root, "/metrics").1.contains("longwire_quota_refusals_total{") {
        tokio::task::yield_now().await;
    }
    drop(first);
    waiting.await.unwrap();
}
