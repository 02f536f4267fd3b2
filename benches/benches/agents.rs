//! What working with an agent takes, beside a durable publish of the same run, everybody on one machine and with the SDK: a question to its
//! answer, a cancel until the agent knows, an input until it is done, and a lease until somebody else has it. The release binary
//! must be there: `cargo build --release`.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use longwire::{Body, Client, From, Record, Session, Subscription};
use longwire_proto::kind;

use crate::common::{Broker, folder, from_env, quantile};

const SESSION: &str = "acme/chat/1";
/// Of each, by turns.
const ROUNDS: u64 = 200;
/// Leases that lapse: each takes its time to live.
const LAPSES: usize = 5;
/// The shortest that there is.
const TTL: Duration = Duration::from_secs(1);
/// Have this process hold the lease of an agent, of this broker.
const HOLDS: &str = "LONGWIRE_BENCH_HOLDS";
const HOLDS_AT: &str = "LONGWIRE_BENCH_HOLDS_AT";
/// What the slowest took is told with it.
const QUANTILES: [f64; 2] = [0.5, 1.0];

fn client(url: &str) -> Client {
    Client::connect(url).unwrap()
}

async fn follow(session: &Session, of: u32) -> Subscription {
    session.subscribe(From::End).kinds([of]).await.unwrap()
}

async fn next(records: &mut Subscription) -> Record {
    records.next().await.unwrap().unwrap()
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn tell(name: &str, times: &mut [f64], beside: Option<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    let [median, most] = QUANTILES.map(|share| quantile(times, share));
    println!("COUNT {name}_median_ms={median:.3}\nCOUNT {name}_max_ms={most:.3}");
    if let Some(beside) = beside {
        println!("COUNT {name}_of_a_publish={:.2}", median / beside);
    }
    median
}

async fn changed(leases: &mut Subscription, agent: &str, state: &str) {
    while !matches!(next(leases).await.body, Body::LeaseChange(change) if change.agent == agent && change.state == state)
    {
    }
}

/// The half of the measurement that is killed: holds a lease for as long as it lives.
async fn hold(agent: &str) -> ! {
    let client = client(&std::env::var(HOLDS_AT).unwrap());
    let _lease = client.session(SESSION).unwrap().claim(agent).ttl(TTL).await.unwrap();
    std::future::pending::<()>().await;
    unreachable!()
}

#[tokio::main]
async fn main() {
    if let Ok(agent) = std::env::var(HOLDS) {
        hold(&agent).await;
    }
    let rounds = from_env("LONGWIRE_BENCH_ROUNDS", ROUNDS);
    let folder = folder();
    let broker = Broker::start(&folder.path().join("data"), &[]);
    let url = format!("ws://{}", broker.address);
    let (agent, human) = (client(&url), client(&url));
    let theirs = human.session(SESSION).unwrap();
    theirs.publish("begin").await.unwrap();
    let lease = agent.session(SESSION).unwrap().claim("coder").ttl(Duration::from_secs(600)).await.unwrap();
    let own = lease.session().clone();

    // The human answers whatever is asked.
    let (mut asks, answering) = (follow(&theirs, kind::ASK).await, theirs.clone());
    let answers = tokio::spawn(async move {
        while let Some(Ok(ask)) = asks.next().await {
            answering.answer(ask.id).option("yes").await.unwrap();
        }
    });
    let mut cancels = follow(&own, kind::CANCEL).await;
    // The agent does what it is told.
    let (mut inputs, doing) = (follow(&own, kind::INPUT).await, lease.clone());
    let done = tokio::spawn(async move {
        while let Some(Ok(record)) = inputs.next().await {
            if matches!(record.body, Body::Text(_)) {
                doing.consumed(&record.id, "").await.unwrap();
            }
        }
    });
    let (mut publishes, mut asked, mut cancelled, mut told) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let began = Instant::now();
        own.publish("x").await.unwrap();
        publishes.push(ms(began));

        let began = Instant::now();
        assert!(own.ask("Deploy?").options(["yes", "no"]).await.unwrap().is("yes"));
        asked.push(ms(began));

        let run = own.start_run("Build").await.unwrap();
        let began = Instant::now();
        let asking = theirs.run(run.id());
        let cancel = tokio::spawn(async move { asking.cancel(None, "").await });
        next(&mut cancels).await;
        cancelled.push(ms(began));
        cancel.await.unwrap().unwrap();
        run.fail("cancelled").await.unwrap();

        let began = Instant::now();
        let mut input = theirs.send("coder", "do it").await.unwrap();
        while input.next().await.unwrap().is_some() {}
        told.push(ms(began));
    }
    let publish = tell("publish", &mut publishes, None);
    tell("ask_to_answer", &mut asked, Some(publish));
    tell("cancel_to_agent", &mut cancelled, Some(publish));
    tell("input_to_consumed", &mut told, Some(publish));
    answers.abort();
    done.abort();

    // Whoever holds it is killed with kill -9; the next one claims when it is told that the lease has lapsed.
    let mut taken = Vec::new();
    for number in 0..LAPSES {
        let name = format!("worker-{number}");
        let mut leases = follow(&theirs, kind::LEASE).await;
        let mut holder = Command::new(std::env::current_exe().unwrap());
        let mut holder = holder.env(HOLDS, &name).env(HOLDS_AT, &url).spawn().unwrap();
        changed(&mut leases, &name, "claimed").await;
        let began = Instant::now();
        holder.kill().unwrap();
        changed(&mut leases, &name, "lapsed").await;
        theirs.claim(&name).await.unwrap().release().await.unwrap();
        holder.wait().unwrap();
        taken.push(ms(began) - TTL.as_secs_f64() * 1e3);
    }
    tell("takeover_after_the_ttl", &mut taken, None);
}
