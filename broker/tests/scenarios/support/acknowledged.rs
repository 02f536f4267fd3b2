//! What was acknowledged, for scenarios that publish one thing after another.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use longwire_proto::codec::Encoding;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::support::broker::Broker;
use crate::support::wire_client::{WireClient, delivery, subscribed, text};

/// A hang is a failure; nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was acknowledged, by session and offset.
#[derive(Default)]
pub(crate) struct Acknowledged {
    pub(crate) values: BTreeMap<String, BTreeMap<u64, String>>,
    count: u64,
}

impl Acknowledged {
    pub(crate) fn note(&mut self, session: &str, offset: u64, value: String) {
        let before = self.values.entry(session.into()).or_default().insert(offset, value);
        assert!(before.is_none(), "{session} {offset} was acknowledged twice");
    }

    /// A value that was not published yet.
    pub(crate) fn value(&mut self) -> String {
        self.count += 1;
        format!("value {} {}", self.count, "x".repeat(self.count as usize * 37 % 700))
    }

    /// Publishes one value, again and again while it is refused as something that may be tried again.
    pub(crate) async fn publish(&mut self, client: &mut WireClient, session: &str) {
        let patience = Instant::now() + PATIENCE;
        let value = self.value();
        loop {
            match client.publish(session, &[&value]).await {
                ServerFrame::Published(ack) => return self.note(session, ack.from, value),
                ServerFrame::Refused(refused) => {
                    let error = refused.error.unwrap();
                    assert!(error.retryable && error.code == "storage_unavailable", "{error:?}");
                    assert!(Instant::now() < patience, "publishes are still refused: {error:?}");
                }
                other => panic!("{other:?} came instead of an acknowledgement"),
            }
        }
    }

    /// Everything acknowledged is at its offset. What was not acknowledged may be there, once.
    pub(crate) async fn check(&self, broker: &Broker) {
        for (session, values) in &self.values {
            let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
            let end = subscribed(client.subscribe(session, From::Start(true)).await).end;
            let mut log: Vec<String> = Vec::new();
            while (log.len() as u64) < end {
                let delivery = delivery(client.receive().await);
                assert_eq!(delivery.from, log.len() as u64);
                log.extend(delivery.records.iter().map(|record| text(record).to_owned()));
            }
            for (offset, value) in values {
                assert_eq!(log.get(*offset as usize), Some(value), "{session} {offset}");
            }
            let mut unique = log.clone();
            unique.sort();
            unique.dedup();
            assert_eq!(unique.len(), log.len(), "{session} has a value twice");
        }
    }
}
