//! Looking after a data folder from the command line.

use std::fs;
use std::path::Path;

use longwire_proto::codec::Encoding;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::support::broker::{Broker, folder, longwire};
use crate::support::wire_client::{WireClient, published, record};

const RECORDS: u64 = 3000;

async fn fill(data: &Path, sessions: &[&str]) {
    let broker = Broker::start(data);
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    for session in sessions {
        for batch in 0..RECORDS / 500 {
            // Each record is its own needle: where a byte is flipped is known by what is around it.
            let records = (0..500)
                .map(|index| record(&format!("{session}:{}:{}", batch * 500 + index, "x".repeat(200))));
            let publish = wire::Publish {
                session: (*session).into(),
                records: records.collect(),
                ..Default::default()
            };
            published(client.publish_with(publish).await);
        }
    }
    drop(client);
    assert!(broker.terminate());
}

fn check(data: &Path) -> (Option<i32>, serde_json::Value) {
    let output = longwire(&["--json", "store", "check", "--data", data.to_str().unwrap()]);
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report)
}

#[tokio::test]
async fn a_check_reads_everything_and_names_what_is_damaged() {
    let (_folder, data) = folder();
    fill(&data, &["a", "b", "c"]).await;
    let (code, report) = check(&data);
    assert_eq!(
        (code, &report["sessions"], &report["records"]),
        (Some(0), &3.into(), &(3 * RECORDS).into()),
        "{report}"
    );
    let database = data.join("sessions.redb");
    let mut bytes = std::fs::read(&database).unwrap();
    // Every copy: redb may still have pages that nothing leads to any more.
    let needle = b"b:1234:xxx";
    let places: Vec<usize> =
        (0..bytes.len() - needle.len()).filter(|at| &bytes[*at..at + needle.len()] == needle).collect();
    assert!(!places.is_empty());
    for place in places {
        bytes[place + needle.len() + 50] ^= 1;
    }
    std::fs::write(&database, bytes).unwrap();
    let (code, report) = check(&data);
    let damages = report["damages"].as_array().unwrap();
    assert_eq!((code, damages.len()), (Some(1), 1), "{report}");
    assert_eq!((&damages[0]["session"], &damages[0]["offset"]), (&"b".into(), &1234.into()));
    assert_eq!(report["records"], 2 * RECORDS + 1234);
    // A broker serves what is sound, says what is not, and the other sessions do not notice.
    let broker = Broker::start(&data);
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    for (session, end) in [("a", RECORDS), ("b", 1234), ("c", RECORDS)] {
        let from = Some(wire::From { from: Some(wire::from::From::Start(true)) });
        let subscription =
            wire::Subscription { subscription: 1, session: session.into(), from, ..Default::default() };
        client
            .send(ClientFrame::Subscribe(wire::Subscribe { request: 1, subscriptions: vec![subscription] }))
            .await;
        let mut next = 0;
        let error = loop {
            match client.receive().await {
                ServerFrame::Delivery(delivery) => next = delivery.next,
                ServerFrame::Subscribed(subscribed) => assert_eq!(subscribed.end, RECORDS),
                ServerFrame::SubscriptionEnded(ended) => break ended.error,
                other => panic!("{session}: {other:?}"),
            }
            if next == RECORDS {
                break None;
            }
        };
        assert_eq!(next, end, "{session}");
        let error = error.map(|error| (error.code, error.message.contains("offset 1234")));
        assert_eq!(error, (session == "b").then(|| ("data_corrupt".to_owned(), true)));
    }
}

#[tokio::test]
async fn compacting_gives_room_back_and_keeps_everything() {
    let (_folder, data) = folder();
    fill(&data, &["gone", "kept"]).await;
    let broker = Broker::start(&data);
    let mut client = WireClient::connect(broker.address(), Encoding::Proto).await;
    client.send(ClientFrame::DeleteSession(wire::DeleteSession { request: 1, session: "gone".into() })).await;
    assert!(matches!(client.receive().await, ServerFrame::Done(_)));
    let busy = longwire(&["store", "compact", "--data", data.to_str().unwrap()]);
    assert!(!busy.status.success() && String::from_utf8_lossy(&busy.stderr).contains("in use"));
    drop(client);
    assert!(broker.terminate());
    let output = longwire(&["--json", "store", "compact", "--data", data.to_str().unwrap()]);
    let sizes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(sizes["after_bytes"].as_u64() < sizes["before_bytes"].as_u64(), "{sizes}");
    let (code, report) = check(&data);
    assert_eq!(
        (code, &report["sessions"], &report["records"]),
        (Some(0), &1.into(), &RECORDS.into()),
        "{report}"
    );
    let missing = longwire(&["store", "check", "--data", "/nowhere"]);
    assert!(!missing.status.success() && String::from_utf8_lossy(&missing.stderr).contains("/nowhere"));
}

#[tokio::test]
async fn numbers_are_told_and_what_is_found_by_is_made_anew() {
    let (_folder, data) = folder();
    fill(&data, &["a", "b"]).await;
    let told = |command: &str, json: bool| {
        let data = data.to_str().unwrap();
        let arguments = ["--json", "store", command, "--data", data];
        let output = longwire(&arguments[usize::from(!json)..]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let stats: serde_json::Value = serde_json::from_str(&told("stats", true)).unwrap();
    assert_eq!(
        (&stats["sessions"], &stats["records"], &stats["unsettled_commits"]),
        (&2.into(), &(2 * RECORDS).into(), &0.into()),
        "{stats}"
    );
    assert!(stats["record_bytes"].as_u64() > Some(2 * RECORDS * 200), "{stats}");
    assert!(stats["tables"].as_array().unwrap().iter().any(|table| table["name"] == "chunks"), "{stats}");
    let text = told("stats", false);
    assert!(text.contains("sessions           2\n") && text.contains("table chunks"), "{text}");
    let rebuilt: serde_json::Value = serde_json::from_str(&told("rebuild", true)).unwrap();
    let right = serde_json::json!({ "missing": 0, "superfluous": 0 });
    for table in ["terms", "changes", "deadlines", "names"] {
        assert_eq!(rebuilt[table], right, "{rebuilt}");
    }
    assert_eq!((&rebuilt["logs"], &rebuilt["damaged"]), (&2.into(), &0.into()), "{rebuilt}");
    let projections = serde_json::json!({ "sessions": 2, "wrong": 0, "unread": [] });
    assert_eq!(rebuilt["projections"], projections, "{rebuilt}");
    let text = told("rebuild", false);
    assert!(text.contains("Looked at 2 sessions.") && text.contains("projections 0 of 2"), "{text}");
    let (code, report) = check(&data);
    assert_eq!((code, &report["records"]), (Some(0), &(2 * RECORDS).into()), "{report}");
    for command in ["stats", "rebuild"] {
        let missing = longwire(&["store", command, "--data", "/nowhere"]);
        assert!(!missing.status.success() && String::from_utf8_lossy(&missing.stderr).contains("/nowhere"));
    }
}

#[test]
fn an_empty_folder_is_no_store_and_stays_empty() {
    let (folder, _) = folder();
    for what in ["stats", "check", "compact", "rebuild"] {
        let output = longwire(&["store", what, "--data", folder.path().to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("is empty, and no data folder"), "{what}: {said}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{what}");
    }
}
