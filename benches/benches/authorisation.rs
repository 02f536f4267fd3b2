//! What deciding who may publish costs, in instructions: the broker under valgrind, whose counts do not depend on what else
//! the machine does. Of what a publish takes, the part that is asking whether it is allowed.
//!
//! The release binary must be there, with its symbols: `cargo build --release`. Debian's `valgrind` must be installed.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::Command;

use longwire_broker::auth::guard::OWN_NAME;
use longwire_broker::auth::issuer::Issuer;
use longwire_broker::auth::mint::Mint;
use longwire_broker::auth::principal::Kind;
use longwire_broker::auth::signing_keys::SigningKeys;
use longwire_broker::clock::Clock;
use longwire_broker::server::SIGNING_KEYS_FILE;
use longwire_proto::grants::Grants;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::common::{Broker, Connection, folder, from_env, record};

/// Publishes of the longer run; the shorter one has none, and both start and stop a broker.
const PUBLISHES: u64 = 20_000;
const IN_FLIGHT: u64 = 64;
const SESSIONS: u64 = 16;
const RECORD_BYTES: usize = 256;
/// What is asked for every publish.
const ASKING: &str = "longwire_broker::connection::access::Access::authorise";

/// What a principal has: the one that allows it is the last that is looked at.
fn grants(count: u64) -> Vec<String> {
    let others = (1..count).map(|number| format!("acme/project-{number}/**:read,publish,create"));
    others.chain(["acme/agents/*/log:read,publish,create".to_owned()]).collect()
}

fn token(data: &Path, grants: &[String]) -> String {
    std::fs::create_dir_all(data).unwrap();
    let keys = SigningKeys::load_or_make(&data.join(SIGNING_KEYS_FILE)).unwrap();
    let grants = Grants::parse(grants).unwrap();
    let mint = Mint {
        sub: "agent",
        kind: Kind::Agent,
        grants: &grants,
        roles: &[],
        device: None,
        ttl_ms: 3_600_000,
    };
    let own = Issuer::own(OWN_NAME, OWN_NAME).unwrap();
    keys.mint(&own, &mint, Clock::start().now_ms()).unwrap().token
}

async fn publish(connection: &mut Connection, publishes: u64) {
    let (mut sent, mut answered) = (0, 0);
    while answered < publishes {
        while sent < publishes && sent - answered < IN_FLIGHT {
            let session = format!("acme/agents/a-{}/log", sent % SESSIONS);
            let records = vec![record(RECORD_BYTES)];
            let publish = wire::Publish { request: sent, session, records, ..Default::default() };
            connection.send(ClientFrame::Publish(publish)).await;
            sent += 1;
        }
        assert!(matches!(connection.receive().await, Some(ServerFrame::Published(_))));
        answered += 1;
    }
}

/// Instructions of the whole process, and of asking with all that it calls.
async fn count(publishes: u64, grant_count: u64) -> (u64, u64) {
    let folder = folder();
    let (data, out) = (folder.path().join("data"), folder.path().join("callgrind.out"));
    let token = token(&data, &grants(grant_count));
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--quiet"]).arg(format!("--callgrind-out-file={}", out.display()));
    let broker = Broker::start_under(valgrind, &data, &[("AUTH", "true"), ("SCRUB_BYTES_PER_SECOND", "0")]);
    let mut connection = Connection::open_as(broker.address, &token).await;
    publish(&mut connection, publishes).await;
    drop(connection);
    broker.terminate();
    let annotated = Command::new("callgrind_annotate")
        .args(["--inclusive=yes", "--threshold=100", "--show-percs=no"])
        .arg(&out)
        .output()
        .unwrap();
    let text = String::from_utf8(annotated.stdout).unwrap();
    let number = |line: &str| {
        let digits: String =
            line.trim_start().chars().take_while(|c| c.is_ascii_digit() || *c == ',').collect();
        digits.replace(',', "").parse::<u64>().unwrap()
    };
    let total = text.lines().find(|line| line.contains("PROGRAM TOTALS")).map(number).unwrap();
    let asking = text.lines().find(|line| line.contains(ASKING)).map_or(0, number);
    (total, asking)
}

#[tokio::main]
async fn main() {
    let publishes = from_env("LONGWIRE_BENCH_PUBLISHES", PUBLISHES);
    for grant_count in [1, 8, 64] {
        let (idle, asking_idle) = count(0, grant_count).await;
        let (total, asking) = count(publishes, grant_count).await;
        let (whole, part) = (total - idle, asking - asking_idle);
        assert!(part > 0, "`{ASKING}` was not found: is the binary stripped?");
        println!(
            "COUNT grants={grant_count} publishes={publishes} instructions_a_publish={} of_which_authorisation={} percent={:.2}",
            whole / publishes,
            part / publishes,
            part as f64 * 100.0 / whole as f64
        );
    }
}
