//! One session, watched over every transport side by side by the command line, with its command on yet another one.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::broker::{Broker, LONGWIRE, folder};
use crate::support::quic_client::soon;
use crate::support::router::Router;
use crate::support::tls_client;

/// Lines before the broker is killed, and after it.
const LINES: usize = 500;
/// Connections of `longwire run`: one for what is said, which outlasts the command, and one for the agent that it is.
const OF_A_COMMAND: u64 = 2;

fn longwire(url: &str, broker: &Broker, spool: &Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(LONGWIRE);
    command.env("LONGWIRE_URL", url).env("LONGWIRE_FINGERPRINT", broker.fingerprint());
    command.env("XDG_STATE_HOME", spool).args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until so many are connected.
async fn connected(broker: &Broker, count: u64) {
    let gauge = format!("longwire_connections {count}");
    let connect = async {
        while !tls_client::get(broker.address(), "/metrics", "").await.1.lines().any(|line| line == gauge) {
            tokio::task::yield_now().await;
        }
    };
    soon("they are connected", connect).await;
}

/// What it wrote, once it has ended well.
async fn written(child: Child) -> String {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_sees_the_same_over_every_transport_and_a_kill_of_the_broker() {
    let (folder, data) = folder();
    let spool = folder.path().join("state");
    let settings = [("TLS_DEVELOPMENT", "true")];
    let mut broker = Broker::start_with(&data, &settings);
    // One for those who watch, and one for the command: a router of UDP has one client.
    let routers = [Router::start(&broker).await, Router::start(&broker).await];
    let [watching, working] = routers.each_ref().map(Router::address);
    let watchers = ["wss", "quic", "grpcs"].map(|scheme| {
        let url = format!("{scheme}://{watching}");
        longwire(&url, &broker, &spool, &["tail", "demo/job", "--from", "start", "--raw"])
    });
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let script = "while read n; do echo \"line $n\"; done < \"$0\"";
    let arguments = ["run", "--close", "demo/job", "--", "sh", "-c", script, fifo.to_str().unwrap()];
    let command = longwire(&format!("longwire://{working}"), &broker, &spool, &arguments);
    let mut feed = File::options().write(true).open(&fifo).unwrap();
    let mut lines = |from| (from..from + LINES).for_each(|line| writeln!(feed, "{line}").unwrap());
    lines(0);
    connected(&broker, watchers.len() as u64 + OF_A_COMMAND).await;
    broker.kill();
    routers.iter().for_each(|router| router.tcp.set_upstream(None));
    broker = Broker::start_with(&data, &settings);
    for router in &routers {
        router.tcp.set_upstream(Some(broker.address()));
        router.udp.set_upstream(broker.address());
    }
    lines(LINES);
    drop(feed);
    let expected: String = (0..2 * LINES).map(|line| format!("line {line}\n")).collect();
    assert_eq!(written(command).await, expected);
    for watcher in watchers {
        assert_eq!(written(watcher).await, expected);
    }
}
