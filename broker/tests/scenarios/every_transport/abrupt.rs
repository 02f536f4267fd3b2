//! Clients that are gone, in every state of a connection: what they had is given back, and the next one is served.

use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;

use crate::every_transport::client::{Client, publish, subscribe, wish};
use crate::every_transport::transport::{ALL_OF_ACME, Bed, Transport};

/// A session with more in it than goes into the buffers of any link.
const LARGE: &str = "acme/large";
const LARGE_RECORDS: u64 = 16;
const LARGE_BYTES: usize = 1 << 20;
/// How often each state is gone through.
const TIMES: usize = 2;

/// One of each: what is not given back is missed by the next one.
const SETTINGS: [(&str, &str); 5] = [
    ("LIMITS_PRINCIPAL_CONNECTIONS", "1"),
    ("LIMITS_PRINCIPAL_SUBSCRIPTIONS", "2"),
    ("LIMITS_PRINCIPAL_REQUESTS", "64"),
    ("SESSION_IDLE_MS", "100"),
    ("UNAUTHENTICATED_MAX", "8"),
];

/// How far a client has come when it is gone.
#[derive(Clone, Copy, Debug)]
enum State {
    /// The link is there, and nothing was said.
    Open,
    /// Half of a hello.
    Begun,
    /// The hello was sent, and nothing waited for.
    Greeting,
    /// It was welcomed.
    Welcome,
    /// It asks, and waits for no answer.
    Asking,
    /// It reads what is there, and has not come far.
    CatchingUp,
    /// It has read all.
    Live,
    /// Its window is full.
    Full,
    /// It takes nothing from its link, which is full.
    Stalled,
}

const STATES: [State; 9] = [
    State::Open,
    State::Begun,
    State::Greeting,
    State::Welcome,
    State::Asking,
    State::CatchingUp,
    State::Live,
    State::Full,
    State::Stalled,
];

/// Somebody connects when there is a place.
async fn connect_when_free(bed: &Bed) -> Client {
    loop {
        match bed.greet(bed.hello(&[ALL_OF_ACME])).await {
            Ok((client, _)) => return client,
            Err(ended) => assert_eq!(ended.error().code, "too_many_connections"),
        }
    }
}

/// Waits until a metric goes no further.
async fn stands_still(bed: &Bed, name: &str) {
    const LOOKS: usize = 5;
    let (mut last, mut same) = (0, 0);
    while same < LOOKS {
        let now = bed.metric(name).await;
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
    }
}

/// A client in some state.
async fn brought_to(bed: &Bed, state: State) -> Client {
    if let State::Open | State::Begun | State::Greeting = state {
        let mut client = bed.open().await;
        match state {
            State::Begun => client.begin().await,
            State::Greeting => client.send(ClientFrame::Hello(bed.hello(&[ALL_OF_ACME]))).await,
            _ => {}
        }
        return client;
    }
    let mut client = connect_when_free(bed).await;
    let start = || wish(1, LARGE, From::Start(true));
    match state {
        State::Asking => {
            for number in 0..32 {
                client.request(publish("acme/asked", &[&number.to_string()])).await;
                client.request(ClientFrame::ListSessions(wire::ListSessions::default())).await;
            }
            let read = wire::Read { session: LARGE.into(), ..Default::default() };
            client.request(ClientFrame::Read(read)).await;
            client.request(subscribe([wish(1, LARGE, From::Start(true))])).await;
        }
        State::CatchingUp => {
            client.subscribe(start()).await;
            client.delivery(1).await;
        }
        State::Live => {
            client.subscribe(wish(1, LARGE, From::End(true))).await;
            let pattern = wire::Subscription { pattern: "acme/**".into(), ..wish(2, "", From::End(true)) };
            client.subscribe(pattern).await;
            client.ping(1).await;
        }
        State::Full => {
            client.subscribe(wire::Subscription { window_bytes: Some(1), ..start() }).await;
            client.delivery(1).await;
        }
        State::Stalled => {
            client.subscribe(start()).await;
            stands_still(bed, "longwire_deliveries_total").await;
        }
        _ => {}
    }
    client
}

async fn fill(bed: &Bed) {
    let mut writer = bed.root().await;
    let large = "x".repeat(LARGE_BYTES - 100);
    for _ in 0..LARGE_RECORDS {
        writer.publish(LARGE, &[&large]).await;
    }
    writer.leave().await;
}

pub(super) async fn who_is_gone_in_any_state_leaves_nothing_behind(transport: Transport) {
    let bed = Bed::with(transport, &SETTINGS);
    fill(&bed).await;
    for state in STATES {
        for _ in 0..TIMES {
            brought_to(&bed, state).await.abort();
        }
        // The next one is served, with the same rights to places.
        let mut next = connect_when_free(&bed).await;
        for number in [1, 2] {
            next.subscribe(wish(number, LARGE, From::Last(1))).await;
            next.take(number, LARGE_RECORDS - 1, LARGE_RECORDS).await;
        }
        next.publish("acme/next", &[&format!("{state:?}")]).await;
        next.leave().await;
        bed.metric_is("longwire_connections", 0).await;
    }
    // Who asks for metrics is one that waits, where that is counted.
    while bed.metric("longwire_sockets_waiting").await > 1 {
        tokio::task::yield_now().await;
    }
    bed.metric_is("longwire_sessions_live", 0).await;
}

pub(super) async fn who_is_gone_while_the_broker_drains_does_not_keep_it(transport: Transport) {
    let mut bed = Bed::new(transport);
    fill(&bed).await;
    let mut clients = Vec::new();
    for state in STATES {
        clients.push(brought_to(&bed, state).await);
    }
    bed.ask_to_stop();
    clients.into_iter().for_each(Client::abort);
    bed.has_left();
    bed.start_again();
    bed.connect().await.publish("acme/next", &["x"]).await;
}

pub(super) async fn who_does_not_read_slows_nobody(transport: Transport) {
    const ROUNDS: u64 = 20;
    const SUBSCRIPTIONS: u32 = 2;
    let bed = Bed::new(transport);
    fill(&bed).await;
    let mut stalled = bed.connect().await;
    for number in 0..SUBSCRIPTIONS {
        stalled.subscribe(wish(number, LARGE, From::Start(true))).await;
    }
    let mut writer = bed.connect().await;
    let mut reader = bed.connect().await;
    writer.publish("acme/calm", &["0"]).await;
    reader.subscribe(wish(1, "acme/calm", From::Start(true))).await;
    reader.subscribe(wish(2, LARGE, From::End(true))).await;
    for round in 0..ROUNDS {
        // Of the session that it does not read, and of another one.
        writer.publish(LARGE, &["more"]).await;
        assert_eq!(reader.delivery(2).await.from, LARGE_RECORDS + round);
        assert_eq!(reader.delivery(1).await.from, round);
        writer.publish("acme/calm", &["x"]).await;
    }
    // It reads on where it was, and nothing is missing.
    for number in 0..SUBSCRIPTIONS {
        stalled.take(number, 0, LARGE_RECORDS + ROUNDS).await;
    }
}
