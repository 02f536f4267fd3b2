//! Every record of docs/conventions.md is one that the broker takes.
#![allow(clippy::unwrap_used, reason = "a page that cannot be read is a failure")]

use std::fs;
use std::path::Path;

use bytes::Bytes;
use longwire_proto::codec::{Encoding, decode_client};
use longwire_proto::raw::client_frame::Frame;
use longwire_proto::record::check;

/// Fewer would mean that they are not found any more.
const RECORDS_MIN: usize = 20;

#[test]
fn every_record_of_the_conventions_is_taken() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conventions.md");
    let page = fs::read_to_string(page).unwrap();
    let records: Vec<&str> =
        page.split("```json\n").skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect();
    assert!(records.len() >= RECORDS_MIN, "{} records", records.len());
    for record in records {
        let frame = format!(r#"{{"publish": {{"request": 1, "session": "demo/a", "records": [{record}]}}}}"#);
        let frame = decode_client(Encoding::Json, Bytes::from(frame))
            .unwrap_or_else(|error| panic!("{record}: {error}"));
        let Frame::Publish(publish) = frame else { panic!("{record}") };
        check(&publish.records[0]).unwrap_or_else(|error| panic!("{record}: {error}"));
    }
}
