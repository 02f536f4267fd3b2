//! What is refused because it is wrong or too much: everywhere with the same words.

use longwire_proto::codec::encode_client;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, FILTER_VALUES_MAX, PATTERNS_MAX, RECORD_BYTES_MAX,
    SHORT_ID_BYTES_MAX, SUBSCRIPTIONS_MAX, TITLE_BYTES_MAX,
};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::every_transport::client::{about, assert_told, publish, subscribe, wish};
use crate::every_transport::transport::{ALL_OF_ACME, Bed, Transport};
use crate::support::wire_client::{published, record, refusal};

const SESSION: &str = "acme/1";

fn publish_of(records: Vec<wire::Record>) -> wire::Publish {
    wire::Publish { session: SESSION.into(), records, ..Default::default() }
}

fn patterned(subscription: u32, pattern: &str) -> wire::Subscription {
    wire::Subscription { pattern: pattern.into(), ..wish(subscription, "", From::End(true)) }
}

/// Requests that nobody carries out, and what is said of each.
fn wrong() -> Vec<(ClientFrame, Error)> {
    use ErrorCode as Code;
    let records = |records| ClientFrame::Publish(publish_of(records));
    let one = |record| ClientFrame::Publish(publish_of(vec![record]));
    let begin = |one: wire::Subscription| subscribe([one]);
    let producer = |id: &str, sequence| {
        let producer = Some(wire::Producer { id: id.into(), epoch: 0, sequence });
        ClientFrame::Publish(wire::Publish { producer, ..publish_of(vec![record("x")]) })
    };
    let meta = |meta| {
        let (session, meta) = (SESSION.into(), Some(meta));
        ClientFrame::CreateSession(wire::CreateSession { request: 0, session, meta, update: false })
    };
    let list = |list| ClientFrame::ListSessions(list);
    let large = "x".repeat(RECORD_BYTES_MAX);
    let id = |what: &str| format!("{what} must have 1 to 64 of the characters A-Z a-z 0-9 _ -");
    let title = wire::SessionMeta { title: "x".repeat(TITLE_BYTES_MAX + 1), ..Default::default() };
    let retention = Some(wire::Retention { records: Some(0), ..Default::default() });
    let many = Some(wire::Filter { kinds: vec![0; FILTER_VALUES_MAX + 1], ..Default::default() });
    let read = wire::Read { session: SESSION.into(), unit: "pages".into(), ..Default::default() };
    let share = wire::ShareSession { session: SESSION.into(), rights: vec!["fly".into()], ..Default::default() };
    let revoke = wire::RevokeToken { request: 0, token: "x".into(), id: String::new() };
    vec![
        (
            publish("", &["x"]),
            about("session", Code::InvalidSessionId, 0, "a session id must not be empty; use a path such as `acme/build/42`"),
        ),
        (
            publish("a//b", &["x"]),
            about("session", Code::InvalidSessionId, 0, "segment 2 of the session id is empty; segments are separated by single `/` \
                 and none leads or trails"),
        ),
        (
            publish("~x", &["x"]),
            about("session", Code::InvalidSessionId, 0, "segment 1 of the session id contains '~'; allowed are A-Z a-z 0-9 _ - and, \
                 not at the start, `.`"),
        ),
        (
            publish("acme/h\u{f6}i", &["x"]),
            about("session", Code::InvalidSessionId, 0, "segment 2 of the session id contains '\u{f6}'; allowed are A-Z a-z 0-9 _ - \
                 and, not at the start, `.`"),
        ),
        (publish("other/1", &["x"]), Error::no_such_session()),
        (records(vec![]), about("records", Code::BatchEmpty, 0, "a publish has at least one record")),
        (
            records(vec![record("x"); BATCH_RECORDS_MAX + 1]),
            about("records", Code::BatchTooLarge, 0, "the publish has 1025 records; at most 1024 are allowed: split it").limit(BATCH_RECORDS_MAX),
        ),
        (
            records(vec![record(&large[..RECORD_BYTES_MAX - 100]); 5]),
            about("records", Code::BatchTooLarge, 0, "the publish has 5242405 bytes of records; at most 4194304 are allowed: split it").limit(BATCH_BYTES_MAX),
        ),
        (
            records(vec![record("x"), record(&large)]),
            about("records", Code::RecordTooLarge, 0, "record 1: the record has 1048581 bytes; at most 1048576 are allowed").limit(RECORD_BYTES_MAX),
        ),
        (
            one(wire::Record { time_ms: 1, ..record("x") }),
            about("time_ms", Code::FieldReserved, 0, "record 0: `time_ms` is set by the broker; leave it out"),
        ),
        (
            one(wire::Record { kind: 12, ..record("x") }),
            about("kind", Code::KindReserved, 0, "record 0: kind 12 is reserved for the broker; publish kinds 0 to 7 as protocol.md has them, or \
                 32 and above for your own"),
        ),
        (
            one(wire::Record { id: "a b".into(), ..record("x") }),
            about("id", Code::InvalidRecord, 0, &id("record 0: `id`")).limit(SHORT_ID_BYTES_MAX),
        ),
        (
            producer("p 1", 0),
            about("producer", Code::InvalidArgument, 0, &id("`producer`")).limit(SHORT_ID_BYTES_MAX),
        ),
        (
            producer("p", 1 << 53),
            about("producer", Code::InvalidArgument, 0, "`producer`: epoch and sequence must be below 9007199254740991"),
        ),
        (
            meta(title),
            about("title", Code::InvalidArgument, 0, "`title` has a length of 513; at most 512 is allowed").limit(TITLE_BYTES_MAX),
        ),
        (
            meta(wire::SessionMeta { retention, ..Default::default() }),
            about("retention.records", Code::InvalidArgument, 1, "`retention.records` is 0; it must be at least 1, or be left out"),
        ),
        (
            subscribe([]),
            about("subscriptions", Code::InvalidArgument, 0, "a subscribe names 1 to 1000 subscriptions").limit(SUBSCRIPTIONS_MAX),
        ),
        (begin(wish(1, "acme/none", From::Start(true))), Error::no_such_session()),
        (
            begin(wish(1, SESSION, From::Position("3".into()))),
            about("from", Code::InvalidPosition, 0, "`3` is not a position; it must be the text of one: 16 digits, `_`, 16 \
                 digits, such as 0000000000000000_0000000000000042"),
        ),
        (
            begin(wish(1, SESSION, From::Cursor("a b".into()))),
            about("cursor", Code::InvalidArgument, 0, &id("`cursor`")).limit(SHORT_ID_BYTES_MAX),
        ),
        (
            begin(wire::Subscription { filter: many, ..wish(1, SESSION, From::End(true)) }),
            about("filter", Code::InvalidArgument, 0, "a filter names at most 32 kinds, as many types and as many ids").limit(FILTER_VALUES_MAX),
        ),
        (
            begin(patterned(1, "acme/***")),
            about("pattern", Code::InvalidPattern, 0, "segment 2 of the pattern is neither `*`, nor `**` at the end, nor a \
                 segment of a session id"),
        ),
        (
            begin(wire::Subscription { wait: true, ..patterned(1, "acme/**") }),
            about("wait", Code::InvalidArgument, 0, "a pattern needs no `wait`: sessions that are created later join in"),
        ),
        (
            begin(wire::Subscription { session: SESSION.into(), ..patterned(1, "acme/**") }),
            about("pattern", Code::InvalidArgument, 0, "a subscription names either a `session` or a `pattern`"),
        ),
        (
            list(wire::ListSessions { pattern: "a//b".into(), ..Default::default() }),
            about("pattern", Code::InvalidPattern, 0, "segment 2 of the pattern is neither `*`, nor `**` at the end, nor a \
                 segment of a session id"),
        ),
        (
            list(wire::ListSessions { status: "asleep".into(), ..Default::default() }),
            about("status", Code::InvalidArgument, 0, "`status` is `open`, `closed`, `working` or `input_required`, not `asleep`"),
        ),
        (ClientFrame::Read(read), about("unit", Code::InvalidArgument, 0, "`unit` is `records` or `messages`, not `pages`")),
        (
            ClientFrame::ShareSession(share),
            about("rights", Code::InvalidArgument, 0, "right 1 is none that there is; allowed are some of \
                 read,publish,create,answer,control,lease,state,manage, separated by `,`"),
        ),
        (
            ClientFrame::BackUp(wire::BackUp { request: 0, name: "b".into() }),
            Error::new(Code::Forbidden, "that takes a grant of `**` with the right `manage`"),
        ),
        (
            ClientFrame::Authenticate(wire::Authenticate { request: 0, token: "x".into() }),
            about("token", Code::Unauthenticated, 0, "a token has three parts, separated by `.`"),
        ),
        (
            ClientFrame::RevokeToken(revoke),
            about("token", Code::InvalidArgument, 0, "the token is not accepted as it is: a token has three parts, separated by `.`"),
        ),
    ]
}

pub(super) async fn what_is_wrong_is_refused_with_the_same_words(transport: Transport) {
    let bed = Bed::new(transport);
    let mut client = bed.connect().await;
    client.publish(SESSION, &["there"]).await;
    for (frame, error) in wrong() {
        assert_told(&client.refused(frame).await, &error);
    }
    // Nothing of all this was half done.
    assert_eq!(client.publish(SESSION, &["x"]).await.from, 1);
    client.assert_nothing_else();
}

pub(super) async fn a_connection_has_so_many_subscriptions(transport: Transport) {
    let bed = Bed::new(transport);
    let mut client = bed.connect().await;
    client.publish(SESSION, &["x"]).await;
    let most = u32::try_from(SUBSCRIPTIONS_MAX).unwrap();
    let wishes = (1..=most).map(|number| wish(number, SESSION, From::Last(1)));
    let request = client.request(subscribe(wishes)).await;
    for _ in 1..=most {
        assert!(matches!(client.answer(request).await, ServerFrame::Subscribed(_)));
    }
    let message =
        format!("a connection has at most {SUBSCRIPTIONS_MAX} subscriptions; open another one");
    let error = Error::new(ErrorCode::TooManySubscriptions, message).limit(SUBSCRIPTIONS_MAX);
    let another = || subscribe([wish(0, SESSION, From::End(true))]);
    assert_told(&client.refused(another()).await, &error);
    for number in 1..=most {
        assert_eq!(client.delivery(number).await.next, 1);
    }
    client.unsubscribe(most).await;
    assert!(matches!(client.ask(another()).await, ServerFrame::Subscribed(_)));
    assert_eq!(client.publish(SESSION, &["y"]).await.from, 1);
    for number in (1..most).chain([0]) {
        assert_eq!(client.delivery(number).await.from, 1);
    }
    // Patterns are fewer.
    let mut client = bed.connect().await;
    let most = u32::try_from(PATTERNS_MAX).unwrap();
    for number in 0..most {
        client.subscribe(patterned(number, "acme/**")).await;
    }
    let error =
        Error::new(ErrorCode::TooManySubscriptions, "a connection subscribes to at most 16 patterns");
    let refused = client.refused(subscribe([patterned(most, "acme/**")])).await;
    assert_told(&refused, &error.limit(PATTERNS_MAX));
}

/// What a quota says of a principal.
fn quota(code: ErrorCode, limit: usize, what: &str) -> Error {
    let message = format!("a principal may have {limit} {what} at once; end one, or try again later");
    Error::new(code, message).limit(limit).retry_after_ms(1000)
}

pub(super) async fn a_principal_has_so_much_and_is_told_when_to_come_back(transport: Transport) {
    let settings = [
        ("LIMITS_PRINCIPAL_CONNECTIONS", "2"),
        ("LIMITS_PRINCIPAL_SUBSCRIPTIONS", "1"),
        ("LIMITS_PRINCIPAL_REQUEST_BYTES", "2000"),
        ("LIMITS_PRINCIPAL_SESSIONS_PER_MINUTE", "1"),
    ];
    let bed = Bed::with(transport, &settings);
    let mut client = bed.connect().await;
    let mut second = bed.connect().await;
    let ended = bed.greet(bed.hello(&[ALL_OF_ACME])).await.err().unwrap();
    ended.assert_is(&quota(ErrorCode::TooManyConnections, 2, "connections"));
    client.publish(SESSION, &["x"]).await;
    client.subscribe(wish(1, SESSION, From::End(true))).await;
    for client in [&mut client, &mut second] {
        let refused = client.refused(subscribe([wish(2, SESSION, From::End(true))])).await;
        assert_told(&refused, &quota(ErrorCode::TooManySubscriptions, 1, "subscriptions"));
    }
    let large = publish(SESSION, &[&"x".repeat(2000)]);
    assert!(encode_client(transport.encoding(), large.clone()).len() > 2000);
    let error = quota(ErrorCode::TooManyRequests, 2000, "bytes of requests without an answer");
    assert_told(&client.refused(large).await, &error);
    let mut refused = client.refused(publish("acme/second", &["x"])).await;
    assert!((1..=60_000).contains(&refused.retry_after_ms), "{refused:?}");
    refused.retry_after_ms = 0;
    let rate = "a principal may use 1 new sessions a minute; go on later, and slower";
    assert_told(&refused, &Error::new(ErrorCode::RateLimited, rate).limit(1));
    // Another principal does as it likes.
    let token = bed.tokens.token("bob", &[ALL_OF_ACME]);
    assert_eq!(bed.connect_as(&token).await.publish("acme/third", &["x"]).await.from, 0);
    assert_eq!(client.publish(SESSION, &["y"]).await.from, 1);
}

pub(super) async fn more_than_may_wait_for_an_answer_is_refused(transport: Transport) {
    const BURST: u64 = 100;
    let bed = Bed::with(transport, &[("LIMITS_PRINCIPAL_REQUESTS", "1")]);
    let mut client = bed.connect().await;
    let error = quota(ErrorCode::TooManyRequests, 1, "requests without an answer");
    let (mut taken, mut refused) = (0, 0);
    // How many come while one waits for the disk is left to chance, but not for ever.
    while refused == 0 {
        let mut requests = Vec::new();
        for _ in 0..BURST {
            requests.push(client.request(publish(SESSION, &["x"])).await);
        }
        for request in requests {
            match client.answer(request).await {
                ServerFrame::Published(_) => taken += 1,
                other => {
                    assert_told(&refusal(other), &error);
                    refused += 1;
                }
            }
        }
    }
    assert_eq!(published(client.ask(publish(SESSION, &["last"])).await).from, taken);
}
