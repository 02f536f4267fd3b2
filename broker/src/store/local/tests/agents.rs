//! Agents and people on a disk that loses power: whatever was acknowledged of asks, leases and messages that grow is there, an ask has
//! one answer, an agent one holder, and what is loaded is what the log says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use longwire_core::command::{Command, Meant, Reply};
use longwire_core::entity::standing::Standing;
use longwire_core::state::State;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::kind;
use longwire_proto::lease::{LeaseRef, LeaseState, Terms};
use longwire_proto::meaning::Meaning;
use longwire_proto::position::{Lineage, Position};
use longwire_proto::record::{Sealed, Sender, check};
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use longwire_proto::wire::record::Body;
use prost::Message;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::ageing::Ageing;
use crate::clock::Clock;
use crate::hub::Hub;
use crate::request::Operation;
use crate::store::Store;
use crate::store::conformance::ALL;
use crate::store::local::LocalStore;
use crate::store::local::tests::faulty_disk::FaultyDisk;
use crate::store::local::tests::{Random, manual};

const SEEDS: u64 = 3;
/// Power cuts of a seed.
const CUTS: u64 = 12;
const ACTORS: usize = 4;
/// Acknowledged between two cuts, at least.
const DUE: u64 = 60;
/// Plain records at the beginning, which are trimmed one by one: each trim is preceded by a snapshot.
const PLAIN: u64 = CUTS + 1;
/// Asks that are asked again and again, by whoever is the agent.
const ASKS: usize = 200;
const AGENT: &str = "coder";
const OPTIONS: [&str; ACTORS] = ["a", "b", "c", "d"];
const TERMS: Terms = Terms { ttl_ms: 600_000, adopt_timeout_ms: 600_000 };

/// What was acknowledged.
#[derive(Default)]
struct Told {
    /// By ask.
    answers: BTreeMap<String, String>,
    /// Offset and lease of what was said.
    said: BTreeMap<String, (u64, u64)>,
    claims: Vec<(u64, String)>,
    /// The power is gone: what is answered from now on may be lost.
    is_cut: bool,
    count: u64,
}

#[derive(Clone)]
struct Scene {
    hub: Arc<Hub>,
    session: SessionId,
    told: Arc<Mutex<Told>>,
    count: watch::Sender<u64>,
}

impl Scene {
    async fn ask(&self, command: Command) -> Result<Reply, Error> {
        self.hub.ask(&self.session, Operation::Command(command)).await.map(Option::unwrap)
    }

    async fn publish(&self, by: &str, lease: Option<u64>, record: wire::Record) -> Result<u64, Error> {
        let lease = lease.map(|generation| Box::new(LeaseRef { agent: AGENT.into(), generation }));
        let sender = Sender { principal: by.to_owned(), lease, ..Sender::default() };
        let records = vec![Bytes::from(record.encode_to_vec())];
        let meanings = records.iter().map(|record| check(record).unwrap()).collect();
        let meant = Some(Box::new(Meant { meanings, standing: Standing::default() }));
        let publish =
            Command::Publish { sender, producer: None, if_end: None, may_create: true, records, meant };
        match self.ask(publish).await? {
            Reply::Published { from, .. } => Ok(from),
            other => panic!("{other:?}"),
        }
    }

    fn told(&self, tell: impl FnOnce(&mut Told)) {
        let mut told = self.told.lock().unwrap();
        if !told.is_cut {
            tell(&mut told);
            told.count += 1;
            self.count.send_replace(told.count);
        }
    }
}

/// Does anything, in any order; refusals are what they are.
async fn act(scene: Scene, number: usize, serial: Arc<Mutex<u64>>, mut random: Random) {
    let by = OPTIONS[number];
    let (mut lease, mut open) = (None, None::<String>);
    loop {
        let next = {
            let mut serial = serial.lock().unwrap();
            *serial += 1;
            *serial
        };
        let outcome = match random.below(9) {
            0 => {
                let (take_over, sender) =
                    (random.below(2) == 0, Sender { principal: by.into(), ..Sender::default() });
                let claim =
                    Command::Claim { sender, agent: AGENT.into(), terms: TERMS, take_over, going_on: None };
                scene.ask(claim).await.map(|reply| {
                    let Reply::Claimed(claimed) = reply else { panic!("{reply:?}") };
                    let generation = claimed.view.agents[AGENT].generation;
                    (lease, open) = (Some(generation), None);
                    scene.told(|told| told.claims.push((generation, by.to_owned())));
                })
            }
            1 if lease.is_some() && random.below(4) == 0 => {
                let sender = Sender { principal: by.into(), ..Sender::default() };
                let lease = LeaseRef { agent: AGENT.into(), generation: lease.take().unwrap() };
                scene.ask(Command::Release { sender, lease }).await.map(drop)
            }
            2 | 3 => {
                let option = |id: &str| wire::AskOption { id: id.into(), ..Default::default() };
                let ask = wire::Ask {
                    title: "?".into(),
                    options: OPTIONS.map(option).into(),
                    ..Default::default()
                };
                let (id, body) = (format!("ask-{}", random.below(ASKS)), Some(Body::Ask(ask)));
                let record = wire::Record { kind: kind::ASK, id, body, ..Default::default() };
                scene.publish(by, lease, record).await.map(drop)
            }
            4 | 5 => {
                let ask = format!("ask-{}", random.below(ASKS));
                let body = Some(Body::Answer(wire::Answer { option: by.into(), ..Default::default() }));
                let record =
                    wire::Record { kind: kind::ANSWER, reply_to: ask.clone(), body, ..Default::default() };
                scene.publish(by, None, record).await.map(|_| {
                    scene.told(|told| {
                        assert_eq!(told.answers.insert(ask.clone(), by.to_owned()), None, "{ask}")
                    });
                })
            }
            6 => {
                let (id, body) = (format!("m-{next}"), Some(Body::Text("begun ".into())));
                let record = wire::Record { id: id.clone(), grows: true, body, ..Default::default() };
                scene.publish(by, lease, record).await.map(|_| open = Some(id))
            }
            7 if open.is_some() => {
                let (message, close) =
                    (open.clone().unwrap(), ["", "", "complete"][random.below(3)].to_owned());
                open = open.filter(|_| close.is_empty());
                let body = Some(Body::Text("more ".into()));
                let record = wire::Record { kind: kind::DELTA, message, close, body, ..Default::default() };
                scene.publish(by, lease, record).await.map(drop)
            }
            _ => {
                let text = format!("said {next}");
                let record = wire::Record { body: Some(Body::Text(text.clone())), ..Default::default() };
                scene.publish(by, lease, record).await.map(|offset| {
                    let at = (offset, lease.unwrap_or_default());
                    scene.told(|told| assert_eq!(told.said.insert(text, at), None));
                })
            }
        };
        if outcome.is_err_and(|error| error.code == ErrorCode::Fenced) {
            (lease, open) = (None, None);
        }
    }
}

async fn read(store: &LocalStore, session: &SessionId) -> (u64, Vec<Bytes>) {
    let opened = store.open(session).await.unwrap();
    let (mut log, mut next) = (Vec::new(), opened.start);
    while next < opened.end {
        let chunk = store.read(opened.log, next, ALL).await.unwrap();
        assert_eq!(chunk.from, next);
        next = chunk.next();
        log.extend(chunk.records);
    }
    (opened.start, log)
}

/// What may not be, whoever says what: an ask is asked and answered once, an agent has one holder, and a delta says where it is.
fn check_log(log: &[Bytes], told: &Told) {
    let (mut live, mut claims) = (None::<u64>, BTreeMap::new());
    let (mut asks, mut answers, mut grown, mut said) =
        (BTreeMap::new(), BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (offset, bytes) in (0u64..).zip(log) {
        let (sealed, record) = (Sealed::parse(bytes).unwrap(), wire::Record::decode(bytes.clone()).unwrap());
        assert!(sealed.agent.is_empty() || live == Some(sealed.generation), "{offset}: {live:?}, {record:?}");
        match Meaning::of(bytes).unwrap() {
            Meaning::Lease(change) if change.state == LeaseState::Claimed => {
                assert_eq!(live.replace(offset), None, "{offset}: somebody holds it");
                claims.insert(offset, sealed.principal.to_owned());
            }
            Meaning::Lease(change) => assert_eq!(live.take(), Some(change.generation), "{offset}"),
            Meaning::Opens { id, bytes, .. } => assert_eq!(grown.insert(id, bytes), None, "{offset}"),
            Meaning::Delta { message, bytes, .. } => {
                let so_far = grown.get_mut(&message).unwrap();
                assert_eq!(record.at_byte, *so_far, "{offset}");
                *so_far += bytes;
            }
            _ => {}
        }
        match record.body {
            Some(Body::Ask(_)) => assert_eq!(asks.insert(record.id.clone(), offset), None, "{offset}"),
            Some(Body::Answer(answer)) => {
                assert!(asks.contains_key(&record.reply_to), "{offset}");
                assert_eq!(answers.insert(record.reply_to, answer.option), None, "{offset}");
            }
            Some(Body::Text(text)) if record.kind == kind::MESSAGE && !record.grows => {
                said.insert(text, (offset, sealed.generation));
            }
            _ => {}
        }
    }
    for (ask, option) in &told.answers {
        assert_eq!(answers.get(ask), Some(option), "the answer to {ask}");
    }
    for (text, at) in &told.said {
        assert_eq!(said.get(text), Some(at), "{text}");
    }
    for (generation, holder) in &told.claims {
        assert_eq!(claims.get(generation), Some(holder), "lease {generation}");
    }
}

async fn until(counted: &mut watch::Receiver<u64>, due: u64, acting: &mut JoinSet<()>) {
    tokio::select! {
        reached = counted.wait_for(|count| *count >= due) => drop(reached.unwrap()),
        ended = acting.join_next() => panic!("somebody has ended: {ended:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_agents_were_told_survives_power_cuts() {
    let session: SessionId = "acme/1".parse().unwrap();
    for seed in 1..=SEEDS {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut disk = FaultyDisk::new();
        let told = Arc::new(Mutex::new(Told::default()));
        let serial = Arc::new(Mutex::new(0));
        let mut plain: Vec<Bytes> = Vec::new();
        for cut in 0..=CUTS {
            let store = Arc::new(disk.store(manual()));
            let hub = Hub::new(
                Arc::clone(&store) as Arc<dyn Store>,
                Clock::start(),
                Ageing::default(),
                Duration::from_millis(1),
            );
            let count = watch::Sender::new(0);
            let scene = Scene { hub, session: session.clone(), told: Arc::clone(&told), count };
            if cut == 0 {
                for _ in 0..PLAIN {
                    scene.publish("a", None, wire::Record::default()).await.unwrap();
                }
                plain = read(&store, &session).await.1;
            }
            // What the last cut left.
            let (start, log) = read(&store, &session).await;
            let whole: Vec<Bytes> =
                plain[..usize::try_from(start).unwrap()].iter().cloned().chain(log).collect();
            check_log(&whole, &told.lock().unwrap());
            let mut replayed = State::new(Lineage::beginning(0));
            whole.iter().for_each(|record| replayed.fold(record));
            let Reply::Described(loaded) = scene.ask(Command::Describe).await.unwrap() else { panic!() };
            assert_eq!(loaded.view.asks, replayed.entities().view().asks);
            assert_eq!(loaded.view.messages, replayed.entities().view().messages);
            assert_eq!(loaded.view.agents, replayed.entities().view().agents);
            if cut == CUTS {
                break;
            }
            {
                let mut told = told.lock().unwrap();
                (told.is_cut, told.count) = (false, 0);
            }
            let mut counted = scene.count.subscribe();
            let mut acting: JoinSet<()> = (0..ACTORS)
                .map(|number| {
                    let random = Random(seed * 1000 + cut * 10 + number as u64 + 1);
                    act(scene.clone(), number, Arc::clone(&serial), random)
                })
                .collect();
            let half = DUE / 2 + random.below(usize::try_from(DUE).unwrap()) as u64;
            until(&mut counted, half, &mut acting).await;
            // With a snapshot, and some of what comes then beside the settling.
            let position = Position { epoch: 0, offset: cut + 1 };
            let trim = tokio::spawn({
                let (hub, session) = (Arc::clone(&scene.hub), session.clone());
                async move { hub.ask(&session, Operation::Trim(position)).await.map(drop) }
            });
            let settling = tokio::spawn({
                let store = Arc::clone(&store);
                async move { store.settle().await.unwrap() }
            });
            if random.below(2) == 0 {
                settling.await.unwrap();
                // It waits for its snapshot to be settled.
                store.settle().await.unwrap();
                drop(trim.await.unwrap());
            }
            until(&mut counted, DUE + half, &mut acting).await;
            let next = {
                let mut told = told.lock().unwrap();
                told.is_cut = true;
                disk.after_power_cut(|| random.below(2) == 0)
            };
            acting.shutdown().await;
            disk = next;
        }
        let told = told.lock().unwrap();
        println!("{} answers, {} leases, {} said", told.answers.len(), told.claims.len(), told.said.len());
        assert!(told.answers.len() > 10 && told.claims.len() > 10);
    }
}
