//! Sharing sessions, and tokens as the SDK and the command line use them.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use longwire::{
    Client, Closed, ConnectionState, ErrorCode, From, PublishError, RequestError, Right, SubscriptionError,
};

use crate::support::broker::{Broker, LONGWIRE, folder};
use crate::support::tokens::{TTL_MS, Tokens};

/// A token's time is whole seconds; this one lives for two or three.
const SHORT_MS: u64 = 2_000;

fn client(broker: &Broker, token: &str) -> Client {
    let (client, driver) = Client::builder().url(broker.url()).token(token).build().unwrap();
    drop(tokio::spawn(driver));
    client
}

#[tokio::test]
async fn a_client_outlives_any_number_of_tokens_and_misses_nothing() {
    const TOKENS: usize = 4;
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let asked = Arc::new(AtomicUsize::new(0));
    let given = Arc::clone(&asked);
    let callback = move || {
        let number = given.fetch_add(1, Ordering::SeqCst);
        let token = tokens.short("ada", &["a/**:read,publish"], SHORT_MS);
        // Every other time it fails, which only costs time.
        async move { if number % 2 == 1 { Err("the issuer is away") } else { Ok(token) } }
    };
    let (client, driver) = Client::builder().url(broker.url()).token_callback(callback).build().unwrap();
    drop(tokio::spawn(driver));
    let session = client.session("a/1").unwrap();
    let mut records = session.subscribe(From::Start).wait_for_session().await.unwrap();
    let mut made: u64 = 0;
    while asked.load(Ordering::SeqCst) < 2 * TOKENS {
        assert_eq!(session.publish(made.to_string()).await.unwrap().from.offset, made);
        let record = records.next().await.unwrap().unwrap();
        assert_eq!((record.offset, record.text()), (made, Some(made.to_string().as_str())));
        made += 1;
    }
    assert!(
        matches!(&*client.state().borrow(), ConnectionState::Connected { principal, .. } if principal == "ada")
    );
    client.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_client_whose_token_is_no_good_closes_and_says_why() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let nobody = client(&broker, "");
    assert!(matches!(nobody.connected().await, Err(Closed::Unauthenticated(_))));
    let publish = nobody.session("a").unwrap().publish("x").await;
    assert!(matches!(publish, Err(PublishError::Closed(Closed::Unauthenticated(_)))), "{publish:?}");
    let canary = format!("{}canary", tokens.token("ada", &["a:read"]));
    let closed = client(&broker, &canary).connected().await.unwrap_err();
    assert!(
        matches!(closed, Closed::Unauthenticated(_)) && !format!("{closed:?} {closed}").contains("canary")
    );
    let short = client(&broker, &tokens.short("ada", &["a/**:read,publish"], 1_000));
    let session = short.session("a/1").unwrap();
    session.publish("x").await.unwrap();
    let mut records = session.subscribe(From::End).await.unwrap();
    assert_eq!(records.next().await, Some(Err(SubscriptionError::Closed(Closed::TokenExpired))));
    // Another one that the callback gives is tried once.
    let [good, revoked, other] = ["a", "b", "c"].map(|_| tokens.token("ada", &["a/**:read,publish"]));
    let admin = client(&broker, &tokens.token("root", &["**:manage"]));
    for token in [&revoked, &other] {
        admin.revoke_token(token).await.unwrap();
    }
    for (given, is_in) in
        [([&revoked, &good], true), ([&revoked, &other], false), ([&revoked, &revoked], false)]
    {
        let [first, second] = given.map(String::clone);
        let asked = AtomicUsize::new(0);
        let callback = move || {
            let first_time = asked.fetch_add(1, Ordering::SeqCst) == 0;
            let token = if first_time { first.clone() } else { second.clone() };
            async move { Ok::<_, String>(token) }
        };
        let builder = Client::builder().url(broker.url()).token_callback(callback);
        assert!(!format!("{builder:?}").contains(&revoked));
        let (client, driver) = builder.build().unwrap();
        drop(tokio::spawn(driver));
        let connected = client.connected().await;
        assert_eq!(connected, if is_in { Ok(()) } else { Err(Closed::TokenRevoked) });
    }
}

#[tokio::test]
async fn a_share_is_for_one_session_until_it_is_revoked() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let ada = client(&broker, &tokens.token("ada", &["a/**:read,publish,manage"]));
    let session = ada.session("a/1").unwrap();
    session.publish("hello").await.unwrap();
    ada.session("a/2").unwrap().publish("private").await.unwrap();
    let share = session.share(Right::Read, Duration::from_secs(600)).await.unwrap();
    assert!(!format!("{share:?}").contains(&share.token));
    let guest = client(&broker, &share.token);
    let seen = guest.session("a/1").unwrap();
    let mut records = seen.subscribe(From::Start).await.unwrap();
    assert_eq!(records.next().await.unwrap().unwrap().text(), Some("hello"));
    let refused = seen.publish("x").await;
    assert!(
        matches!(&refused, Err(PublishError::Refused(refusal)) if refusal.code == Some(ErrorCode::Forbidden)),
        "{refused:?}"
    );
    assert!(matches!(guest.session("a/2").unwrap().describe().await, Err(RequestError::NotFound(_))));
    let mut list = guest.sessions("");
    let listed = list.next_page().await.unwrap().unwrap();
    assert_eq!(listed.iter().map(|info| info.session.as_str()).collect::<Vec<_>>(), ["a/1"]);
    // A guest shares nothing, and nobody more than they have.
    let refused = seen.share(Right::Read, None).await;
    assert!(matches!(refused, Err(RequestError::Refused(_))), "{refused:?}");
    let refused = session.share(Right::Read | Right::Control, None).await;
    assert!(matches!(refused, Err(RequestError::Refused(_))), "{refused:?}");
    let refused = session.share(Right::Read, Duration::from_millis(2 * TTL_MS)).await;
    assert!(matches!(refused, Err(RequestError::Refused(_))), "{refused:?}");
    // Nobody but who manages all of it revokes it, and by its id who manages everything.
    let eve = client(&broker, &tokens.token("eve", &["a/**:read", "b/**:manage"]));
    assert!(matches!(eve.revoke_token(&share.token).await, Err(RequestError::Refused(_))));
    assert!(matches!(ada.revoke_token_id(&share.id).await, Err(RequestError::Refused(_))));
    ada.revoke_token(&share.token).await.unwrap();
    assert_eq!(records.next().await, Some(Err(SubscriptionError::Closed(Closed::TokenRevoked))));
    assert_eq!(client(&broker, &share.token).connected().await, Err(Closed::TokenRevoked));
    session.publish("still here").await.unwrap();
    let other = session.share(Right::Read | Right::Publish, None).await.unwrap();
    client(&broker, &tokens.token("root", &["**:manage"])).revoke_token_id(&other.id).await.unwrap();
    assert_eq!(client(&broker, &other.token).connected().await, Err(Closed::TokenRevoked));
}

#[tokio::test]
async fn a_subscription_that_is_not_allowed_any_more_ends_typed_and_the_other_goes_on() {
    let (_folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let writer = client(&broker, &tokens.token("bob", &["a/**:publish"]));
    let sessions = ["a/kept", "a/lost"];
    for session in sessions {
        writer.session(session).unwrap().publish("0").await.unwrap();
    }
    let asked = AtomicUsize::new(0);
    let callback = move || {
        let first = asked.fetch_add(1, Ordering::SeqCst) == 0;
        let token = match first {
            true => tokens.short("ada", &["a/**:read"], SHORT_MS),
            false => tokens.token("ada", &["a/kept:read"]),
        };
        async move { Ok::<_, String>(token) }
    };
    let (reader, driver) = Client::builder().url(broker.url()).token_callback(callback).build().unwrap();
    drop(tokio::spawn(driver));
    let [mut kept, mut lost] = {
        let [kept, lost] = sessions.map(|session| reader.session(session).unwrap());
        [kept.subscribe(From::Start).await.unwrap(), lost.subscribe(From::Start).await.unwrap()]
    };
    for records in [&mut kept, &mut lost] {
        assert_eq!(records.next().await.unwrap().unwrap().text(), Some("0"));
    }
    // On this connection; or on the next, if the machine was too slow for the token: then it is as if it were deleted.
    let ended = lost.next().await.unwrap().unwrap_err();
    assert!(matches!(ended, SubscriptionError::NotAllowed(_) | SubscriptionError::Deleted), "{ended:?}");
    assert!(lost.next().await.is_none());
    for session in sessions {
        writer.session(session).unwrap().publish("1").await.unwrap();
    }
    assert_eq!(kept.next().await.unwrap().unwrap().text(), Some("1"));
}

#[tokio::test]
async fn an_outbox_goes_on_under_another_token_of_the_same_principal_and_in_others_names() {
    let (folder, data) = folder();
    let outbox = folder.path().join("outbox");
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let grants = ["a/**:read,publish,manage"];
    let open = |url: String, token: &str| {
        let (client, driver) = Client::builder().url(url).outbox_file(&outbox).token(token).build().unwrap();
        (client, tokio::spawn(driver))
    };
    let (client, driver) = open(broker.url(), &tokens.token("ada", &grants));
    let session = client.session("a/1").unwrap();
    session.publish("0").await.unwrap();
    session.act_as("bob").publish("1").await.unwrap();
    broker.kill();
    // Whether the broker has any of these is not known to the client.
    for text in ["own 2", "own 3"] {
        drop(session.enqueue(text).await.unwrap());
        drop(session.act_as("bob").enqueue(text.replace("own", "bob's")).await.unwrap());
    }
    client.close().await.unwrap();
    driver.await.unwrap();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let (client, _driver) = open(broker.url(), &tokens.token("ada", &grants));
    client.drained().await.unwrap();
    let session = client.session("a/1").unwrap();
    session.act_as("eve").publish("last").await.unwrap();
    let mut records = session.subscribe(From::Start).until_end().await.unwrap();
    let mut seen = Vec::new();
    while let Some(record) = records.next().await {
        let record = record.unwrap();
        let text = record.text().unwrap().to_owned();
        seen.push((record.sender.principal, record.sender.via, text));
    }
    let of = |who: &str, via: &str| -> Vec<&str> {
        let theirs = seen.iter().filter(|(principal, by, _)| (principal.as_str(), by.as_str()) == (who, via));
        theirs.map(|(_, _, text)| text.as_str()).collect()
    };
    assert_eq!(of("ada", ""), ["0", "own 2", "own 3"]);
    assert_eq!(of("bob", "ada"), ["1", "bob's 2", "bob's 3"]);
    assert_eq!(of("eve", "ada"), ["last"]);
    assert_eq!(seen.len(), 7);
}

fn command(broker: &Broker, token: &str, arguments: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(LONGWIRE);
    command.args(arguments).env("LONGWIRE_URL", broker.url()).env("LONGWIRE_TOKEN", token);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn commands_show_a_token_and_share_and_revoke_links() {
    let (folder, data) = folder();
    let (broker, tokens) = Tokens::broker(&data, &[]);
    let ada = tokens.token("ada", &["a/**:read,publish,manage"]);
    for (token, why) in [("", "send a token"), ("nonsense", "token")] {
        for arguments in [&["pub", "a/1", "x"][..], &["session", "list"], &["tail", "a/1"], &["share", "a/1"]]
        {
            let output = command(&broker, token, arguments, "");
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(4), "{arguments:?} {said}");
            assert!(
                said.contains(why) && said.contains("LONGWIRE_TOKEN") && said.contains("--token-file"),
                "{said}"
            );
        }
    }
    let ok = |output: Output| {
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    ok(command(&broker, &ada, &["pub", "a/1", "hello"], ""));
    let file = write(&folder.path().join("token"), &format!("{ada}\n"));
    let tail = ["--token-file", &file, "tail", "a/1", "--from", "start", "--raw", "--no-follow"];
    assert_eq!(ok(command(&broker, "nonsense", &tail, "")), "hello\n");
    let share = command(&broker, &ada, &["share", "a/1", "--rights", "read,publish", "--ttl", "10m"], "");
    assert!(text(&share.stderr).contains("read,publish"), "{}", text(&share.stderr));
    let link = ok(share);
    let start = format!("{}/#/s/a/1?token=", broker.url().replace("ws://", "http://"));
    let guest = link.trim_end().strip_prefix(&start).unwrap_or_else(|| panic!("{link}")).to_owned();
    ok(command(&broker, &guest, &["pub", "a/1", "a guest"], ""));
    let refused = command(&broker, &guest, &["pub", "a/2", "a guest"], "");
    assert_eq!(refused.status.code(), Some(1));
    // The link, as it is copied from somewhere, through stdin.
    ok(command(&broker, &ada, &["share", "revoke", "-"], &format!("  {link}\n")));
    let output = command(&broker, &guest, &["pub", "a/1", "x"], "");
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains("revoked"), "{}", text(&output.stderr));
    let json: serde_json::Value =
        serde_json::from_str(&ok(command(&broker, &ada, &["--json", "share", "a/1"], ""))).unwrap();
    assert_eq!(json["rights"], "read");
    let root = tokens.token("root", &["**:manage"]);
    ok(command(&broker, &root, &["share", "revoke", "--id", json["id"].as_str().unwrap()], ""));
    let output = command(&broker, json["token"].as_str().unwrap(), &["session", "show", "a/1"], "");
    assert_eq!(output.status.code(), Some(4));
    let none = command(&broker, &ada, &["--token-file", "/no/such/file", "session", "list"], "");
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("/no/such/file"), "{}", text(&none.stderr));
}
