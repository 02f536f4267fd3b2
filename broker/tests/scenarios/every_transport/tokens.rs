//! Tokens of a connection that lives: newer ones, narrower ones, and their end.

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::every_transport::client::{about, assert_told, subscribe, wish};
use crate::every_transport::transport::{ALL_OF_ACME, Bed, Transport};
use crate::support::wire_client::refusal;

/// A token's time is whole seconds; this one lives for two or three.
const SHORT_MS: u64 = 2_000;

fn authenticate(token: &str) -> ClientFrame {
    ClientFrame::Authenticate(wire::Authenticate { request: 0, token: token.into() })
}

fn expired() -> Error {
    Error::new(ErrorCode::TokenExpired, "the token has expired; connect with a new one")
}

pub(super) async fn a_newer_token_takes_over_and_an_old_one_ends_deliveries(transport: Transport) {
    let bed = Bed::new(transport);
    let mut writer = bed.root().await;
    writer.publish("acme/1", &["0"]).await;
    let short = || wire::Hello {
        token: bed.tokens.short("ada", &["acme/**:read"], SHORT_MS),
        ..Default::default()
    };
    let (mut renewed, welcome) = bed.greet(short()).await.unwrap();
    let (mut left, _) = bed.greet(short()).await.unwrap();
    for client in [&mut renewed, &mut left] {
        client.subscribe(wish(1, "acme/1", From::Start(true))).await;
    }
    let answer = renewed.ask(authenticate(&bed.tokens.token("ada", &["acme/**:read"]))).await;
    let ServerFrame::Authenticated(answer) = answer else { panic!("{answer:?}") };
    assert_eq!(answer.principal, "ada");
    assert!(answer.expires_ms > welcome.expires_ms);
    let mut made = 1;
    while writer.ping(made).await <= welcome.expires_ms {
        writer.publish("acme/1", &[&made.to_string()]).await;
        made += 1;
    }
    let mut last = 0;
    let ended = left.ended_after(|frame| {
        if let ServerFrame::Delivery(delivery) = frame {
            last = delivery.next;
        }
    });
    ended.await.assert_is(&expired());
    // By now it is over for who did not come with a newer one, so this is for the other one alone.
    writer.publish("acme/1", &["after"]).await;
    assert!(last <= made, "{last} of {made}");
    assert_eq!(renewed.take(1, 0, made + 1).await.len() as u64, made + 1);
}

pub(super) async fn a_newer_token_makes_nobody_more(transport: Transport) {
    let bed = Bed::new(transport);
    let mut client = bed.connect_as(&bed.tokens.token("ada", &["acme/x/**:read,publish"])).await;
    let token = |sub: &str, grants: &[&str]| bed.tokens.token(sub, grants);
    let forbidden = |what: &str| {
        about("token", ErrorCode::Forbidden, 0, &format!("the new token {what}: connect again with it instead"))
    };
    let refused = [
        (token("bob", &["acme/x/**:read"]), forbidden("is of another principal")),
        (token("ada", &["acme/**:read"]), forbidden("grants more")),
        (token("ada", &["acme/x/**:read,publish,manage"]), forbidden("grants more")),
        (String::new(), about("token", ErrorCode::Unauthenticated, 0, "this broker wants to know who connects: send a token")),
    ];
    for (number, (token, error)) in (0..).zip(refused) {
        assert_told(&client.refused(authenticate(&token)).await, &error);
        // It goes on as it was.
        assert_eq!(client.publish("acme/x/1", &["mine"]).await.from, number);
        let other = super::client::publish("acme/y/1", &["not mine"]);
        assert_told(&client.refused(other).await, &Error::no_such_session());
    }
}

pub(super) async fn a_narrower_token_ends_what_it_does_not_allow(transport: Transport) {
    let bed = Bed::new(transport);
    let mut writer = bed.root().await;
    let (kept, lost, stalled) = ("acme/kept", "acme/lost", "acme/stalled");
    let filler = "x".repeat(1_000);
    writer.publish(kept, &["0"]).await;
    writer.publish(lost, &["0"]).await;
    writer.publish(stalled, &vec![filler.as_str(); 200]).await;
    let mut reader = bed.connect_as(&bed.tokens.token("ada", &["acme/**:read"])).await;
    for (number, session) in [(1, kept), (2, lost)] {
        reader.subscribe(wish(number, session, From::Start(true))).await;
        reader.take(number, 0, 1).await;
    }
    let small = wire::Subscription { window_bytes: Some(1), ..wish(3, stalled, From::Start(true)) };
    reader.subscribe(small).await;
    let held = reader.delivery(3).await;
    let answer = reader.ask(authenticate(&bed.tokens.token("ada", &["acme/kept:read"]))).await;
    assert!(matches!(answer, ServerFrame::Authenticated(_)), "{answer:?}");
    for (number, next) in [(2, 1), (3, held.next)] {
        let ended = reader.subscription_ended(number).await;
        assert_eq!(ended.next, next);
        assert_told(&ended.error.unwrap(), &Error::no_such_session());
    }
    reader.credit(3, held.next).await;
    for session in [lost, stalled, "acme/never"] {
        writer.publish(session, &["after"]).await;
        let again = reader.ask(subscribe([wish(9, session, From::Start(true))])).await;
        assert_told(&refusal(again), &Error::no_such_session());
    }
    writer.publish(kept, &["1"]).await;
    reader.take(1, 1, 2).await;
    reader.ping(1).await;
    reader.assert_nothing_else();
}

pub(super) async fn a_revoked_token_ends_its_connections_and_opens_no_other(transport: Transport) {
    let bed = Bed::new(transport);
    let mut root = bed.root().await;
    root.publish("acme/1", &["0"]).await;
    let token = bed.tokens.token("ada", &["acme/**:read"]);
    let mut catching_up = bed.connect_as(&token).await;
    catching_up.subscribe(wire::Subscription { window_bytes: Some(0), ..wish(1, "acme/1", From::Start(true)) }).await;
    let idle = bed.connect_as(&token).await;
    let mut other = bed.connect_as(&bed.tokens.token("ada", &["acme/**:read"])).await;
    other.subscribe(wish(1, "acme/1", From::Start(true))).await;
    let revoke = wire::RevokeToken { request: 0, token: token.clone(), id: String::new() };
    let answer = root.ask(ClientFrame::RevokeToken(revoke)).await;
    assert!(matches!(answer, ServerFrame::Done(_)), "{answer:?}");
    let error = Error::new(ErrorCode::TokenRevoked, "the token was revoked").field("token");
    for client in [catching_up, idle] {
        client.ended().await.assert_is(&error);
    }
    let again = bed.greet(wire::Hello { token, ..Default::default() }).await.err().unwrap();
    again.assert_is(&error);
    root.publish("acme/1", &["1"]).await;
    other.take(1, 0, 2).await;
}

pub(super) async fn a_share_is_for_one_session(transport: Transport) {
    let bed = Bed::new(transport);
    let mut owner = bed.connect().await;
    owner.publish("acme/1", &["0"]).await;
    let share = wire::ShareSession { session: "acme/1".into(), ..Default::default() };
    let answer = owner.ask(ClientFrame::ShareSession(share)).await;
    let ServerFrame::Shared(shared) = answer else { panic!("{answer:?}") };
    let mut guest = bed.connect_as(&shared.token).await;
    guest.subscribe(wish(1, "acme/1", From::Start(true))).await;
    guest.take(1, 0, 1).await;
    let not_theirs = super::client::publish("acme/1", &["x"]);
    assert_eq!(guest.refused(not_theirs).await.code, "forbidden");
    let other = subscribe([wish(2, "acme/2", From::Start(true))]);
    assert_told(&guest.refused(other).await, &Error::no_such_session());
    let bob = bed.connect_as(&bed.tokens.token("bob", &[ALL_OF_ACME])).await;
    bob.leave().await;
}
