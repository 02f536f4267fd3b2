//! A deletion reaches whoever follows a pattern, however late they look for it.
#![allow(clippy::unwrap_used)] // a test: a panic is its failure

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use longwire_broker::ageing::Ageing;
use longwire_broker::auth::principal::Principal;
use longwire_broker::clock::Clock;
use longwire_broker::hub::Hub;
use longwire_broker::pattern_subscription::{PatternFrom, PatternSubscription, PatternWish};
use longwire_broker::read_view::ReadView;
use longwire_broker::request::Operation;
use longwire_broker::store::Store;
use longwire_broker::store::local::{LocalConfig, LocalStore};
use longwire_broker::subscription::Event;
use longwire_core::command::Command;
use longwire_proto::codec::Encoding;
use longwire_proto::record::Sender;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use longwire_proto::wire::server_frame::Frame;
use prost::Message;
use tokio::sync::watch;

/// A hang is a failure; nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

fn publish() -> Operation {
    let body = Some(wire::record::Body::Text("x".into()));
    let record = wire::Record { body, ..Default::default() };
    Operation::Command(Command::Publish {
        sender: Sender { principal: "ada".into(), ..Sender::default() },
        producer: None,
        if_end: None,
        may_create: true,
        records: vec![Bytes::from(record.encode_to_vec())],
        meant: None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_the_feed_has_forgotten_is_told_all_the_same() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store: Arc<dyn Store> = Arc::new(LocalStore::open(LocalConfig::new(folder.path())).unwrap());
    let hub = Hub::new(Arc::clone(&store), Clock::start(), Ageing::default(), PATIENCE);
    let id = |number: u64| SessionId::parse(&format!("s/{number}")).unwrap();
    for number in 0..3 {
        hub.ask(&id(number), publish()).await.unwrap();
    }
    let whoever = watch::Sender::new(Arc::new(Principal::anonymous())).subscribe();
    let (pattern, from) = ("s/*".parse().unwrap(), PatternFrom::End);
    let (filter, view) = (None, ReadView::Raw);
    let wish = PatternWish { number: 1, encoding: Encoding::Proto, pattern, from, filter, view, whoever };
    let mut subscription = PatternSubscription::open(Arc::clone(&store), wish).await.unwrap();
    for _ in 0..3 {
        let Some(Event::Frame(frame)) = subscription.next().await else { panic!("nobody joined") };
        assert!(matches!(*frame, Frame::Subscribed(_)));
    }
    let before = *store.commits().borrow();
    hub.ask(&id(1), Operation::Delete).await.unwrap();
    // The reader does not look until nothing of the deletion is left.
    let patience = Instant::now() + PATIENCE;
    loop {
        let changes = store.changes(before, 100).await.unwrap();
        if changes.changes.is_empty() && changes.forgotten > before {
            break;
        }
        assert!(Instant::now() < patience, "the store does not forget: {changes:?}");
        tokio::task::yield_now().await;
    }
    let Some(Event::Frame(frame)) = subscription.next().await else { panic!("nothing came") };
    let Frame::SubscriptionEnded(ended) = *frame else { panic!("{frame:?}") };
    assert_eq!((ended.session.as_str(), ended.error.unwrap().code.as_str()), ("s/1", "session_deleted"));
    assert_eq!(subscription.sessions(), 2);
    // The others go on.
    hub.ask(&id(2), publish()).await.unwrap();
    assert!(matches!(subscription.next().await, Some(Event::Delivery { .. })));
    hub.drain().await;
    store.shutdown().await.unwrap();
}
