//! Agents that compete for a lease, people who compete for an answer and readers who fold, while the broker is killed with kill -9
//! and one agent after the other is cut off: what they were told is held against the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use longwire::{
    AskError, Body, Client, ErrorCode, From, Lease, PublishError, Refusal, RequestError, Session,
    Subscription,
};
use longwire_proto::kind;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::broker::{Broker, folder};
use crate::support::proxy::Proxy;
use crate::support::rng::{Rng, repetitions};
use crate::support::story::{Entry, StoryRecorder, Taken, What, Written};

/// Kills in the test command; `LONGWIRE_TEST_STORY_KILLS` for more.
const KILLS: u64 = 4;
const SEED: u64 = 29;
const SESSION: &str = "story/1";
const AGENT: &str = "coder";
/// The shortest that there is: a holder that is cut off for longer is replaced.
const TTL: Duration = Duration::from_secs(1);
const WORKERS: usize = 3;
const OPTIONS: [&str; 3] = ["ada", "bob", "cyd"];
/// Answers that are taken between two kills.
const ANSWERS_PER_CYCLE: u64 = 8;
/// When nothing has lapsed for so long after everybody was cut off, nobody was the agent: it is tried again.
const NOBODY_HELD_IT: Duration = Duration::from_secs(4);
/// A kill comes up to this long after that, in microseconds.
const JITTER_US: u64 = 20_000;
/// A hang is a failure; nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(120);

fn client(url: &str) -> Client {
    Client::connect(url).unwrap()
}

/// What they all go by.
#[derive(Clone)]
struct Scene {
    recorder: StoryRecorder,
    asks: Arc<AtomicU64>,
    said: Arc<AtomicU64>,
    answers: watch::Sender<u64>,
    stopped: watch::Sender<bool>,
}

impl Scene {
    fn is_over(&self) -> bool {
        *self.stopped.borrow()
    }
}

fn refusal<T>(outcome: Result<T, PublishError>) -> Result<T, Box<Refusal>> {
    outcome.map_err(|error| match error {
        PublishError::Refused(refusal) => Box::new(refusal),
        other => panic!("{other}"),
    })
}

#[track_caller]
fn assert_fenced(refusal: &Refusal) {
    assert_eq!(refusal.code, Some(ErrorCode::Fenced), "{refusal:?}");
}

/// Acts as the agent for as long as it is its own, and then waits for it again.
async fn work(scene: Scene, session: Session, name: String, mut rng: Rng) {
    let mut leases = session.subscribe(From::End).kinds([kind::LEASE]).await.unwrap();
    while !scene.is_over() {
        match session.claim(AGENT).ttl(TTL).await {
            Ok(lease) => {
                scene.recorder.with(|story| {
                    story.claims.push((AGENT.to_owned(), lease.generation(), name.clone()));
                });
                act(&scene, lease, &mut rng).await;
            }
            Err(RequestError::Refused(refusal)) if refusal.code == Some(ErrorCode::LeaseHeld) => {
                // It ends some time; the answer may be older than an end that was read already.
                let ended = tokio::time::timeout(TTL, leases.next()).await;
                assert!(!matches!(ended, Ok(None)), "the session has not ended");
            }
            // The broker may have been killed: whether it was claimed is not known.
            Err(RequestError::Refused(refusal)) if refusal.retryable => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Does some things in any order, until it is told that somebody else may be the agent by now.
async fn act(scene: &Scene, lease: Lease, rng: &mut Rng) {
    let (session, generation) = (lease.session().clone(), lease.generation());
    // Left open, for the broker to end.
    if let Err(refusal) = leave_open(&session).await {
        return assert_fenced(&refusal);
    }
    let mut steps = 4 + rng.below(12);
    while steps > 0 {
        steps -= 1;
        let outcome = match rng.below(3) {
            0 => say(scene, &session, generation).await,
            1 => grow(&session, rng).await,
            _ => ask(scene, &session).await,
        };
        if let Err(refusal) = outcome {
            assert_fenced(&refusal);
            return;
        }
    }
    match lease.release().await {
        Ok(()) => {}
        // Then it lapses.
        Err(RequestError::Refused(refusal)) if refusal.retryable => {}
        Err(RequestError::Refused(refusal)) => assert_fenced(&refusal),
        Err(error) => panic!("{error}"),
    }
}

async fn say(scene: &Scene, session: &Session, generation: u64) -> Result<(), Box<Refusal>> {
    let text = format!("said {}", scene.said.fetch_add(1, Ordering::SeqCst));
    let outcome = refusal(session.publish(text.clone()).await);
    let written = if outcome.is_ok() { Written::Ok } else { Written::Fenced };
    scene.recorder.with(|story| story.said.push((AGENT.to_owned(), generation, text, written)));
    outcome.map(drop)
}

async fn leave_open(session: &Session) -> Result<(), Box<Refusal>> {
    let mut message = refusal(session.open_message("text/plain").await)?;
    refusal(message.push("half a sen").await)?;
    refusal(message.flush().await)
}

/// Begins a message, goes on with it, and does not always end it.
async fn grow(session: &Session, rng: &mut Rng) -> Result<(), Box<Refusal>> {
    let mut message = refusal(session.open_message("text/plain").await)?;
    for piece in 0..rng.below(20) {
        refusal(message.push(format!("{piece} ")).await)?;
        if rng.below(4) == 0 {
            refusal(message.flush().await)?;
        }
    }
    if rng.below(3) == 0 { refusal(message.flush().await) } else { refusal(message.close().await) }
}

/// Asks what whoever was the agent before may have asked already.
async fn ask(scene: &Scene, session: &Session) -> Result<(), Box<Refusal>> {
    let number = scene.asks.load(Ordering::SeqCst);
    let id = format!("ask-{number}");
    match session.ask("Which?").id(&id).options(OPTIONS).await {
        Ok(answer) => {
            scene.recorder.with(|story| story.heard.push((id, answer.option.clone())));
            scene.asks.fetch_max(number + 1, Ordering::SeqCst);
            Ok(())
        }
        Err(AskError::Publish(error)) => refusal(Err(error)),
        Err(error) => panic!("{error}"),
    }
}

/// Answers everything that is asked, as others do.
async fn answer(scene: Scene, session: Session, option: &'static str) {
    let mut asks = session.subscribe(From::Start).kinds([kind::ASK]).await.unwrap();
    while let Some(asked) = asks.next().await {
        let asked = asked.unwrap();
        let taken = match refusal(session.answer(&asked.id).option(option).await) {
            Ok(()) => Taken::Won,
            Err(refusal) => {
                assert_eq!(refusal.code, Some(ErrorCode::AlreadyResolved), "{refusal:?}");
                let resolved = refusal.resolved.unwrap();
                Taken::Lost { option: resolved.option, offset: resolved.offset }
            }
        };
        scene.recorder.with(|story| story.answers.push((asked.id, option.to_owned(), taken)));
        scene.answers.send_modify(|answers| *answers += 1);
    }
    panic!("the session has ended");
}

/// Puts the messages together for who reads them folded, until the session is closed.
async fn fold(session: Session) -> BTreeMap<String, Vec<u8>> {
    let mut folded: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut records: Subscription = session.subscribe(From::Start).folded().await.unwrap();
    while let Some(record) = records.next().await {
        let record = record.unwrap();
        let bytes = record.bytes();
        if record.kind == kind::DELTA {
            let whole = folded.get_mut(&record.message).unwrap();
            assert_eq!(record.at_byte, whole.len() as u64, "{record:?}");
            whole.extend_from_slice(bytes);
        } else if record.grows {
            assert_eq!(folded.insert(record.id.clone(), bytes.to_vec()), None, "{record:?}");
        }
    }
    folded
}

async fn lease_is(leases: &mut Subscription, state: &str) {
    loop {
        match leases.next().await.unwrap().unwrap().body {
            Body::LeaseChange(change) if change.state == state => return,
            _ => {}
        }
    }
}

async fn log(session: &Session) -> Vec<Entry> {
    let mut records = session.subscribe(From::Start).until_end().await.unwrap();
    let mut log = Vec::new();
    while let Some(record) = records.next().await {
        let record = record.unwrap();
        assert_eq!(record.offset, log.len() as u64);
        log.push(Entry::of(&record));
    }
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_people_are_told_what_the_log_says_through_kill_9() {
    let mut rng = Rng::from_env(SEED);
    let kills = repetitions("LONGWIRE_TEST_STORY_KILLS", KILLS);
    let (_folder, data) = folder();
    let mut broker = Broker::start(&data);
    let mut proxies = Vec::new();
    for _ in 0..=WORKERS {
        proxies.push(Proxy::start(broker.address()).await);
    }
    let people = proxies.pop().unwrap();
    let observer = client(&people.url()).session(SESSION).unwrap();
    observer.publish("begin").await.unwrap();
    let scene = Scene {
        recorder: StoryRecorder::default(),
        asks: Arc::default(),
        said: Arc::default(),
        answers: watch::Sender::new(0),
        stopped: watch::Sender::new(false),
    };
    let (mut acting, mut answering, mut reading) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    for (number, proxy) in proxies.iter().enumerate() {
        let session = client(&proxy.url()).session(SESSION).unwrap();
        acting.spawn(work(scene.clone(), session, format!("worker-{number}"), rng.split()));
    }
    for option in OPTIONS {
        answering.spawn(answer(scene.clone(), client(&people.url()).session(SESSION).unwrap(), option));
    }
    for url in [people.url(), people.url().replacen("ws://", "grpc://", 1)] {
        reading.spawn(fold(client(&url).session(SESSION).unwrap()));
    }
    let mut answers = scene.answers.subscribe();
    let mut leases = observer.subscribe(From::Start).kinds([kind::LEASE]).await.unwrap();
    for cycle in 0..kills {
        let progress = async {
            // Whoever holds it says nothing for longer than the lease lives, and goes on then.
            loop {
                lease_is(&mut leases, "claimed").await;
                proxies.iter().for_each(|proxy| proxy.set_upstream(None));
                proxies.iter().for_each(Proxy::cut);
                let lapse = tokio::time::timeout(NOBODY_HELD_IT, lease_is(&mut leases, "lapsed")).await;
                proxies.iter().for_each(|proxy| proxy.set_upstream(Some(broker.address())));
                if lapse.is_ok() {
                    break;
                }
            }
            let due = *answers.borrow() + ANSWERS_PER_CYCLE;
            answers.wait_for(|answers| *answers >= due).await.unwrap();
        };
        tokio::select! {
            () = progress => {}
            ended = acting.join_next() => panic!("somebody has ended: {ended:?}"),
            ended = answering.join_next() => panic!("somebody has ended: {ended:?}"),
            ended = reading.join_next() => panic!("a reader has ended: {ended:?}"),
            () = tokio::time::sleep(PATIENCE) => panic!("no progress in cycle {cycle}"),
        }
        tokio::time::sleep(Duration::from_micros(rng.below(JITTER_US))).await;
        broker.kill();
        broker = Broker::start(&data);
        for proxy in proxies.iter().chain([&people]) {
            proxy.set_upstream(Some(broker.address()));
        }
    }
    scene.stopped.send_replace(true);
    let ending = async {
        while let Some(ended) = acting.join_next().await {
            ended.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, ending).await.unwrap();
    // Nobody asks any more.
    answering.shutdown().await;
    observer.close("enough").await.unwrap();
    while let Some(folded) = reading.join_next().await {
        let folded = folded.unwrap();
        scene.recorder.with(|story| story.folded.push(folded));
    }
    // What is read is what the disk has.
    assert!(broker.terminate());
    let broker = Broker::start(&data);
    let log = log(&client(&broker.url()).session(SESSION).unwrap()).await;
    scene.recorder.check(SESSION, &log);

    // A story in which nothing of this happened shows nothing.
    let count = |is: fn(&What) -> bool| log.iter().filter(|entry| is(&entry.what)).count();
    let abandoned = count(|what| matches!(what, What::Piece { close, .. } if close == "abandoned"));
    let ended = count(|what| matches!(what, What::LeaseEnded(..)));
    let (won, lost, fenced) = scene.recorder.with(|story| {
        let won = story.answers.iter().filter(|(_, _, taken)| *taken == Taken::Won).count();
        let fenced = story.said.iter().filter(|(_, _, _, written)| *written == Written::Fenced).count();
        (won, story.answers.len() - won, fenced)
    });
    println!("{} records, {ended} leases, {abandoned} messages abandoned", log.len());
    println!("{won} answers, {lost} that came too late, {fenced} publishes fenced");
    assert!(ended as u64 >= kills && abandoned > 0 && won > 0 && lost > won);
}
