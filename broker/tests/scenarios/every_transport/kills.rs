//! Kill -9 under load: who resumes has everything once.

use std::collections::BTreeSet;

use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::every_transport::client::{Client, position, wish};
use crate::every_transport::transport::{Bed, Transport};
use crate::support::wire_client::{published, record, text};

const SESSION: &str = "acme/1";

/// A writer that keeps what is not acknowledged, as docs/protocol.md has it.
struct Outbox {
    next: u64,
    acknowledged: u64,
}

impl Outbox {
    async fn send(client: &mut Client, sequence: u64) {
        let publish = wire::Publish {
            session: SESSION.into(),
            records: vec![record(&sequence.to_string())],
            producer: Some(wire::Producer { id: "p".into(), epoch: 0, sequence }),
            ..Default::default()
        };
        client.request(ClientFrame::Publish(publish)).await;
    }
}

pub(super) async fn kills_under_load_lose_and_repeat_nothing(transport: Transport) {
    const LIVES: u64 = 3;
    const BURST: u64 = 200;
    let mut bed = Bed::new(transport);
    let mut outbox = Outbox { next: 0, acknowledged: 0 };
    let (mut next, mut seen) = (0, Vec::new());
    for life in 0..=LIVES {
        let mut writer = bed.connect().await;
        let mut reader = bed.connect().await;
        let from = match next {
            0 => From::Start(true),
            next => From::Position(position(0, next)),
        };
        let wish = wire::Subscription { wait: true, ..wish(1, SESSION, from) };
        let begun = reader.subscribe(wish).await;
        let wanted = if next == 0 { "from_start" } else { "resumed" };
        assert_eq!((begun.outcome.as_str(), begun.from), (wanted, next));
        // What was not acknowledged is sent again, under the sequences that it had.
        for sequence in outbox.acknowledged..outbox.next {
            Outbox::send(&mut writer, sequence).await;
        }
        if life < LIVES {
            for sequence in outbox.next..outbox.next + BURST {
                Outbox::send(&mut writer, sequence).await;
            }
            outbox.next += BURST;
            // Somewhere in the middle of the load.
            while outbox.acknowledged < life * BURST + BURST / 2 {
                let answer = writer.next("an acknowledgement", |f| matches!(f, ServerFrame::Published(_))).await;
                published(answer);
                outbox.acknowledged += 1;
            }
            while next < life * BURST + BURST / 4 {
                take(&mut reader, &mut next, &mut seen).await;
            }
            bed.kill();
            bed.start_again();
            continue;
        }
        while outbox.acknowledged < outbox.next {
            let answer = writer.next("an acknowledgement", |f| matches!(f, ServerFrame::Published(_))).await;
            published(answer);
            outbox.acknowledged += 1;
        }
        while next < outbox.next {
            take(&mut reader, &mut next, &mut seen).await;
        }
    }
    let wanted: Vec<String> = (0..LIVES * BURST).map(|sequence| sequence.to_string()).collect();
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "something came twice");
    assert_eq!(seen, wanted);
}

async fn take(reader: &mut Client, next: &mut u64, seen: &mut Vec<String>) {
    let delivery = reader.delivery(1).await;
    assert_eq!(delivery.from, *next);
    *next = delivery.next;
    seen.extend(delivery.records.iter().map(|record| text(record).to_owned()));
}
