//! Sessions that wait, on disk: every other one for an answer, the others for a worker that goes on with a run. Once they are there the
//! broker is killed, and started again when the questions of some of them have expired: what it holds in memory, how the overdue
//! deadlines are worked off, what a publish takes meanwhile, and how long it is until one of them is open. `LONGWIRE_BENCH_SESSIONS` of
//! them (1,000,000), `LONGWIRE_BENCH_DUE` of those with a question that has expired (20,000), `LONGWIRE_BENCH_OPENED` opened (2,000). The release binary must
//! be there: `cargo build --release`.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use longwire::Client;
use longwire_proto::kind;
use longwire_proto::wire;
use longwire_proto::wire::client_frame::Frame as ClientFrame;
use longwire_proto::wire::from::From;
use longwire_proto::wire::record::Body;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::common::link::subscribe;
use crate::common::process::disk_bytes;
use crate::common::socket::{Socket, crowd, message, publish};
use crate::common::{Broker, Connection, folder, from_env, quantile};

/// Connections over which questions are asked, and how many are under way on each.
const ASKERS: usize = 8;
const IN_FLIGHT: usize = 256;
/// Clients that begin runs and leave them, and how many each has under way.
const CLIENTS: usize = 8;
const BEGINNING: u64 = 32;
/// Questions are asked for so long before they have expired: the broker is killed meanwhile.
const ASKED_FOR: Duration = Duration::from_secs(5);
/// What nobody waits for is looked at so often.
const LOOK: Duration = Duration::from_secs(1);
/// Numbers of subscriptions: one that is registered again is another session.
const SUBSCRIPTIONS: u64 = longwire_proto::limits::SUBSCRIPTIONS_MAX as u64;
/// Until what was created is settled, and what was read is given back.
const QUIET: Duration = Duration::from_secs(5);

fn session(number: u64) -> String {
    format!("wait/{:03}/{number:07}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 1000)
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// The start of a run and a question of it, in one batch.
fn question(number: u64, expires_at_ms: u64) -> Vec<u8> {
    let run = wire::RunChange { title: "Deploy".into(), ..Default::default() };
    let run = wire::Record {
        kind: kind::RUN,
        id: "run".into(),
        body: Some(Body::RunChange(run)),
        ..Default::default()
    };
    let options = ["yes", "no"].map(|id| wire::AskOption { id: id.into(), ..Default::default() }).into();
    let ask = wire::Ask { title: "Deploy?".into(), options, expires_at_ms, ..Default::default() };
    let ask = wire::Record {
        kind: kind::ASK,
        id: "ask".into(),
        run: "run".into(),
        body: Some(Body::Ask(ask)),
        ..Default::default()
    };
    message(ClientFrame::Publish(wire::Publish {
        request: number,
        session: session(number),
        records: vec![run, ask],
        ..Default::default()
    }))
}

async fn ask(address: SocketAddr, numbers: impl Iterator<Item = u64>, expires_at_ms: u64) {
    let sockets = crowd(ASKERS, |_| Socket::open(address)).await;
    let mut messages = vec![Vec::new(); ASKERS];
    numbers
        .enumerate()
        .for_each(|(index, number)| messages[index % ASKERS].push(question(number, expires_at_ms)));
    let asking: JoinSet<()> = sockets
        .into_iter()
        .zip(messages)
        .map(|(mut socket, messages)| async move { socket.publish_all(&messages, IN_FLIGHT).await })
        .collect();
    asking.join_all().await;
}

/// An agent begins a run, and gives its lease up.
async fn begin(client: &Client, number: u64) {
    let name = session(number);
    let session = client.session(&name).unwrap();
    session.publish("begin").await.unwrap();
    let lease = session.claim("coder").await.unwrap();
    drop(lease.session().start_run("Build").await.unwrap());
    lease.release().await.unwrap();
}

async fn suspend(url: &str, until: u64) {
    let clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(url).unwrap()).collect();
    let lanes = CLIENTS as u64 * BEGINNING;
    let beginning: JoinSet<()> = (0..lanes)
        .map(|lane| {
            let client = clients[lane as usize % CLIENTS].clone();
            async move {
                for number in (2 * lane + 1..until).step_by(2 * lanes as usize) {
                    begin(&client, number).await;
                }
            }
        })
        .collect();
    beginning.join_all().await;
    for client in clients {
        client.close().await.unwrap();
    }
}

/// Reads one session from its start, on a connection that is there, until it has come; answers how long that took in milliseconds.
async fn open(connection: &mut Connection, subscription: u32, number: u64) -> f64 {
    let began = Instant::now();
    connection.send(subscribe(subscription, &session(number), From::Start(true))).await;
    let (mut subscribed, mut next) = (None, 0);
    loop {
        match connection.receive().await.unwrap() {
            ServerFrame::Subscribed(answer) => subscribed = Some(answer),
            ServerFrame::Delivery(delivery) => next = delivery.next,
            other => panic!("{other:?}"),
        }
        if let Some(answer) = subscribed.as_ref().filter(|answer| next >= answer.end) {
            let runs = &answer.state.as_ref().unwrap().runs;
            assert!(runs.len() == 1 && runs[0].state != "working", "{}: {runs:?}", session(number));
            return began.elapsed().as_secs_f64() * 1e3;
        }
    }
}

fn tell(name: &str, times: &mut [f64]) {
    times.sort_by(f64::total_cmp);
    for (part, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        println!("COUNT {name}_{part}_ms={:.2}", quantile(times, share));
    }
}

/// Publishes one at a time until told to stop; how long each took, in milliseconds.
async fn publish_one_by_one(
    mut socket: Socket,
    mut stopped: tokio::sync::oneshot::Receiver<()>,
) -> (Socket, Vec<f64>) {
    let (message, mut times) = (publish(1, "other/1", 1, 256), Vec::new());
    while matches!(stopped.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty)) {
        let began = Instant::now();
        socket.publish(&message).await;
        times.push(began.elapsed().as_secs_f64() * 1e3);
        sleep(Duration::from_millis(1)).await;
    }
    (socket, times)
}

#[tokio::main]
async fn main() {
    let sessions = from_env("LONGWIRE_BENCH_SESSIONS", 1_000_000);
    let due = from_env("LONGWIRE_BENCH_DUE", 20_000).min(sessions / 2);
    let opened = from_env("LONGWIRE_BENCH_OPENED", 2000);
    let folder = folder();
    let data = folder.path().join("data");
    let began = Instant::now();
    // Each is used once here, and need not stay in memory.
    let broker = Broker::start(&data, &[("SESSION_IDLE_MS", "1")]);
    suspend(&format!("ws://{}", broker.address), sessions).await;
    let asks_from = 2 * due;
    ask(broker.address, (asks_from..sessions).step_by(2), 0).await;
    let expires_at_ms = now_ms() + u64::try_from(ASKED_FOR.as_millis()).unwrap();
    ask(broker.address, (0..asks_from).step_by(2), expires_at_ms).await;
    println!("{sessions} sessions created in {:.0} s", began.elapsed().as_secs_f64());
    println!("COUNT rss_peak_while_created_mib={}", broker.memory_mib("VmHWM"));
    drop(broker);
    sleep(Duration::from_millis(expires_at_ms.saturating_sub(now_ms()))).await;

    let began = Instant::now();
    let broker = Broker::start(&data, &[]);
    println!("COUNT start_ms={:.0}", began.elapsed().as_secs_f64() * 1e3);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let publishing = tokio::spawn(publish_one_by_one(Socket::open(broker.address).await, stopped));
    let (mut before, mut most) = (0, 0);
    while before < due {
        sleep(LOOK).await;
        let now = broker.counter("longwire_deadlines_total");
        (most, before) = (most.max(now - before), now);
    }
    let seconds = began.elapsed().as_secs_f64();
    stop.send(()).unwrap();
    let (_, mut times) = publishing.await.unwrap();
    println!(
        "COUNT deadlines={before}\nCOUNT deadlines_worked_off_s={seconds:.1}\nCOUNT deadlines_in_a_second_max={most}"
    );
    tell("publish_meanwhile", &mut times);

    sleep(QUIET).await;
    println!("COUNT disk_mb={}", disk_bytes(&data) / 1_000_000);
    println!("COUNT rss_mib={}", broker.memory_mib("VmRSS"));
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let publishing = tokio::spawn(publish_one_by_one(Socket::open(broker.address).await, stopped));
    let mut connection = Connection::open(broker.address).await;
    let mut times = Vec::new();
    for index in 0..opened {
        // Of the ones that still wait, in no order.
        let number = asks_from + (index * 0x9e37_79b9) % (sessions - asks_from);
        times.push(open(&mut connection, 1 + u32::try_from(index % SUBSCRIPTIONS).unwrap(), number).await);
    }
    stop.send(()).unwrap();
    let (_, mut publishes) = publishing.await.unwrap();
    tell("open", &mut times);
    tell("publish_beside", &mut publishes);
    println!("COUNT rss_with_those_open_mib={}", broker.memory_mib("VmRSS"));
    println!("COUNT rss_peak_mib={}", broker.memory_mib("VmHWM"));
}
