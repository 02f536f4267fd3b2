//! The life of a connection: heartbeats, silence, and a broker that shuts down.

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::every_transport::client::{Client, Ended, publish, soon, wish};
use crate::every_transport::transport::{ALL_OF_ACME, Bed, Transport};

const SESSION: &str = "acme/1";

/// The next heartbeat that tells of an end.
async fn ends(client: &mut Client) -> Vec<wire::SubscriptionProgress> {
    loop {
        match client.receive().await {
            Some(ServerFrame::Heartbeat(heartbeat)) if !heartbeat.ends.is_empty() => return heartbeat.ends,
            Some(_) => {}
            None => panic!("the connection ended"),
        }
    }
}

pub(super) async fn heartbeats_tell_the_ends_that_changed(transport: Transport) {
    let bed = Bed::with(transport, &[("HEARTBEAT_MS", "50")]);
    let mut client = bed.connect().await;
    let mut other = bed.connect().await;
    other.publish(SESSION, &["x"]).await;
    other.publish("acme/2", &["x"]).await;
    // Windows that are full: the ends are learnt from heartbeats alone.
    for (number, session) in [(4, SESSION), (5, "acme/2")] {
        let full = wire::Subscription { window_bytes: Some(0), ..wish(number, session, From::Start(true)) };
        client.subscribe(full).await;
        client.delivery(number).await;
    }
    other.publish(SESSION, &["y", "z"]).await;
    let progress = |subscription, end| wire::SubscriptionProgress { subscription, epoch: 0, end };
    // The first of them may have told what there was before.
    while !ends(&mut client).await.contains(&progress(4, 3)) {}
    other.publish("acme/2", &["y"]).await;
    assert_eq!(ends(&mut client).await, [progress(5, 2)]);
    // Silence is broken too.
    for _ in 0..2 {
        assert!(matches!(client.receive().await, Some(ServerFrame::Heartbeat(beat)) if beat.ends.is_empty()));
    }
}

pub(super) async fn who_sends_nothing_is_sent_away(transport: Transport) {
    let bed = Bed::with(transport, &[("IDLE_TIMEOUT_MS", "3000"), ("HEARTBEAT_MS", "100")]);
    let mut lively = bed.connect().await;
    lively.publish(SESSION, &["x"]).await;
    let mut idle = bed.connect().await;
    // Being sent something is no sign of life.
    idle.subscribe(wish(1, SESSION, From::Start(true))).await;
    let staying = async {
        for token in 0.. {
            lively.publish(SESSION, &["x"]).await;
            lively.ping(token).await;
        }
    };
    let ended = tokio::select! {
        ended = idle.ended() => ended,
        () = staying => unreachable!(),
    };
    ended.assert_is(&Error::new(ErrorCode::IdleTimeout, "no frame came for 3000 ms"));
    lively.ping(0).await;
}

fn assert_drained(ended: &Ended) {
    ended.assert_is(&Error::new(
        ErrorCode::Draining,
        "the broker is shutting down; connect again and resume",
    ));
    assert_eq!(ended.goodbye.as_ref().unwrap().reconnect_after_ms, 777);
}

pub(super) async fn a_drain_answers_what_was_asked_and_tells_everybody(transport: Transport) {
    const PUBLISHES: u64 = 300;
    let mut bed = Bed::with(transport, &[("RECONNECT_AFTER_MS", "777")]);
    let mut writer = bed.connect().await;
    let mut reader = bed.connect().await;
    let mut stalled = bed.connect().await;
    writer.publish(SESSION, &["first"]).await;
    reader.subscribe(wish(1, SESSION, From::Start(true))).await;
    let full = wire::Subscription { window_bytes: Some(0), ..wish(1, SESSION, From::Start(true)) };
    stalled.subscribe(full).await;
    // One that has begun to speak, and has not said hello.
    let mut stranger = bed.open().await;
    stranger.begin().await;
    for _ in 0..PUBLISHES {
        writer.request(publish(SESSION, &["x"])).await;
    }
    bed.ask_to_stop();
    let (mut acknowledged, mut refused) = (0, 0);
    let ended = writer.ended_after(|frame| match frame {
        ServerFrame::Published(published) => acknowledged = published.next,
        ServerFrame::Refused(_) => refused += 1,
        _ => {}
    });
    assert_drained(&ended.await);
    assert_eq!(refused, 0, "what it did not carry out it did not read");
    for client in [reader, stalled] {
        assert_drained(&client.ended().await);
    }
    // Whose first words the broker has not seen has nothing to be answered on but the end of the link.
    let ended = stranger.ended().await;
    match ended.goodbye {
        Some(_) => assert_drained(&ended),
        None => assert!(ended.close.reason.starts_with("draining"), "{ended:?}"),
    }
    // Nobody comes in any more, by now at the latest.
    bed.has_left();
    bed.start_again();
    let mut client = bed.connect().await;
    let end = client.subscribe(wish(1, SESSION, From::End(true))).await.end;
    assert!(end >= acknowledged && end <= PUBLISHES + 1, "{end} of {acknowledged}");
}

pub(super) async fn who_comes_during_a_drain_is_sent_elsewhere(transport: Transport) {
    let mut bed = Bed::with(transport, &[("RECONNECT_AFTER_MS", "777")]);
    // A client that takes no more keeps the broker from leaving for a while.
    let mut holding = bed.connect().await;
    let large = "x".repeat(1 << 19);
    for _ in 0..32 {
        holding.publish(SESSION, &[&large]).await;
    }
    holding.subscribe(wish(1, SESSION, From::Start(true))).await;
    let mut before = bed.connect().await;
    bed.ask_to_stop();
    assert_drained(&soon("it is told", async {
        before.send(ClientFrame::Ping(wire::Ping { token: 1 })).await;
        before.ended().await
    }).await);
    // Refused by the transport, or by a goodbye; let in by none.
    if let Ok(mut late) = bed.try_open().await {
        late.send(ClientFrame::Hello(bed.hello(&[ALL_OF_ACME]))).await;
        while let Some(frame) = late.receive().await {
            assert!(matches!(frame, ServerFrame::Welcome(_) | ServerFrame::Goodbye(_)), "{frame:?}");
        }
    }
    holding.abort();
    bed.has_left();
}
