//! Networks that lose, repeat and reorder, and addresses that change: nothing is lost, and nothing comes twice.

use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use longwire::{ConnectionState, From};
use quinn::{ClientConfig, Endpoint, ServerConfig};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::TLS13;
use tokio::time::interval;

use super::{TLS, by};
use crate::support::broker::{Broker, folder};
use crate::support::quic_client::{QuicClient, quic_config, soon};
use crate::support::tls_client;
use crate::support::udp_relay::{UdpRelay, Weather};

/// Publishes over one relay and reads over another; in the middle of it both addresses change.
async fn exactly_once(records: u64, weather: Weather) {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    let (up, down) = (
        UdpRelay::start_seeded(broker.address(), 21).await,
        UdpRelay::start_seeded(broker.address(), 22).await,
    );
    let (writer, reader) = (by(&up.url(), &broker), by(&down.url(), &broker));
    let session = writer.session("acme/weather").unwrap();
    session.publish("0").await.unwrap();
    let mut read = reader.session("acme/weather").unwrap().subscribe(From::Start).await.unwrap();
    let first = soon("it is delivered", read.next()).await.unwrap().unwrap();
    assert_eq!((first.offset, first.text()), (0, Some("0")));
    // Who is connected stays so; how often it was tried before is the network's.
    let states = [&writer, &reader].map(|client| {
        let mut state = client.state();
        assert!(matches!(&*state.borrow_and_update(), ConnectionState::Connected { .. }));
        state
    });
    up.set_weather(weather);
    down.set_weather(weather);
    let writing = tokio::spawn(async move {
        let mut acks = Vec::new();
        for number in 1..records {
            acks.push(session.enqueue(number.to_string()).await.unwrap());
        }
        for (index, ack) in acks.into_iter().enumerate() {
            assert_eq!(ack.await.unwrap().from.offset, index as u64 + 1);
        }
    });
    for number in 1..records {
        if number == records / 2 {
            up.rebind();
            down.rebind();
        }
        let record = soon("it is delivered", read.next()).await.unwrap().unwrap();
        assert_eq!((record.offset, record.text()), (number, Some(number.to_string().as_str())));
    }
    writing.await.unwrap();
    for state in states {
        assert!(!state.has_changed().unwrap(), "{:?}", *state.borrow());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_five_in_a_hundred_lost_each_way_nothing_is_missing() {
    exactly_once(20_000, Weather { lost: 5, ..Default::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_or_twice_is_taken_once_and_in_order() {
    exactly_once(5000, Weather { lost: 1, late: 20, repeats: true, ..Default::default() }).await;
}

/// A network namespace whose kernel loses five of a hundred packets of UDP, in both directions: both are received in it.
struct Lossy(String);

const RULES: &str = "table inet longwire {
  chain received {
    type filter hook input priority 0;
    meta l4proto udp numgen random mod 100 < 5 counter drop
  }
}";

impl Lossy {
    /// Nothing where it cannot be made; `scripts/test` says so.
    fn new() -> Option<Self> {
        let has = |program: &str| {
            Command::new(program).arg("-V").output().is_ok_and(|output| output.status.success())
        };
        if !rustix::process::geteuid().is_root() || !has("ip") || !has("nft") {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "a kernel that loses packets takes root, ip and nft"
            );
            eprintln!(
                "SKIPPED: a kernel that loses packets takes root, ip and nft; run ./scripts/test, which installs them"
            );
            return None;
        }
        let lossy = Self(format!("longwire-{}", std::process::id()));
        assert!(Command::new("ip").args(["netns", "add", &lossy.0]).status().unwrap().success());
        assert!(
            Command::new("ip").args(["-n", &lossy.0, "link", "set", "lo", "up"]).status().unwrap().success()
        );
        let mut nft = lossy.command("nft");
        assert!(nft.arg(RULES).status().unwrap().success());
        Some(lossy)
    }

    /// A program within it.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        // It is gone with the machine at the latest.
        drop(Command::new("ip").args(["netns", "delete", &self.0]).status());
    }
}

#[test]
fn a_kernel_that_loses_packets_loses_no_record() {
    let Some(lossy) = Lossy::new() else { return };
    let mut inner = lossy.command(std::env::current_exe().unwrap());
    inner.args(["--exact", "quic::networks::within_the_namespace", "--ignored", "--nocapture"]);
    let output = inner.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let counted = lossy.command("nft").args(["list", "table", "inet", "longwire"]).output().unwrap();
    let counted = String::from_utf8_lossy(&counted.stdout).into_owned();
    println!("{}", counted.lines().find(|line| line.contains("counter")).unwrap().trim());
    assert!(!counted.contains("counter packets 0 "), "{counted}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the test above runs it, where the kernel loses packets"]
async fn within_the_namespace() {
    exactly_once(20_000, Weather::default()).await;
}

/// Records a second, how many, and after which of them the address changes.
const RATE: u32 = 500;
const RECORDS: u64 = 1500;
const CHANGES_AT: u64 = 750;

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_whose_socket_is_another_one_misses_nothing() {
    let (_folder, data) = folder();
    let broker = Broker::start_with(&data, &[TLS]);
    println!("the worst gap was {:?}", over_longwire(&broker).await);
}

/// The longest time between two records of a reader whose address changes.
async fn over_longwire(broker: &Broker) -> Duration {
    let mut reader = QuicClient::connect(broker.address()).await;
    let writer = by(&broker.url(), broker);
    let session = writer.session("moved").unwrap();
    session.publish("0").await.unwrap();
    let mut stream = reader.subscribe(1, 1, "moved").await;
    let writing = tokio::spawn(async move {
        let mut every = interval(Duration::from_secs(1) / RATE);
        for number in 1..RECORDS {
            every.tick().await;
            drop(session.enqueue(number.to_string()).await.unwrap());
        }
        writer
    });
    let (mut next, mut last, mut worst, mut has_moved) = (0, None, Duration::ZERO, false);
    while next < RECORDS {
        let delivery = stream.delivery().await;
        assert_eq!(delivery.from, next);
        next = delivery.next;
        worst = worst.max(arrived(&mut last));
        if !has_moved && next > CHANGES_AT {
            has_moved = true;
            reader.endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        }
    }
    writing.await.unwrap();
    worst
}

/// How long after the one before.
fn arrived(last: &mut Option<Instant>) -> Duration {
    let now = Instant::now();
    last.replace(now).map_or(Duration::ZERO, |last| now - last)
}

/// The same without a broker: what the stack alone makes of it.
async fn over_quinn() -> Duration {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::with_single_cert(vec![cert.der().clone()], key).unwrap();
    let server = Endpoint::server(config, ([127, 0, 0, 1], 0).into()).unwrap();
    let address = server.local_addr().unwrap();
    let writing = tokio::spawn(async move {
        let connection = server.accept().await.unwrap().await.unwrap();
        let mut stream = connection.open_uni().await.unwrap();
        let mut every = interval(Duration::from_secs(1) / RATE);
        for number in 0..RECORDS {
            every.tick().await;
            stream.write_all(&number.to_be_bytes()).await.unwrap();
        }
        stream.finish().unwrap();
        drop(stream.stopped().await);
    });
    let config: ClientConfig = quic_config(tls_client::config(&[&TLS13], &[]));
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    let connection = endpoint.connect_with(config, address, "localhost").unwrap().await.unwrap();
    let mut stream = connection.accept_uni().await.unwrap();
    let (mut last, mut worst) = (None, Duration::ZERO);
    for number in 0..RECORDS {
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(u64::from_be_bytes(bytes), number);
        worst = worst.max(arrived(&mut last));
        if number == CHANGES_AT {
            endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        }
    }
    writing.await.unwrap();
    worst
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures"]
async fn what_a_change_of_address_costs() {
    const RUNS: usize = 7;
    let (_folder, data) = folder();
    for run in 0..RUNS {
        let broker = Broker::start_with(&data.join(run.to_string()), &[TLS]);
        let (alone, whole) = (over_quinn().await, over_longwire(&broker).await);
        println!(
            "COUNT run={run} worst_gap_quinn_us={} worst_gap_longwire_us={}",
            alone.as_micros(),
            whole.as_micros()
        );
    }
}
