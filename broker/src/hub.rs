//! The directory of live sessions. A session is live while somebody uses it; then a driver task owns it.

mod crowd;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use longwire_core::command::{Command, Reply};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::session_id::SessionId;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::ageing::Ageing;
use crate::clock::Clock;
use crate::driver::{Common, Driver};
use crate::hub::crowd::{Crowd, Joined, Use};
use crate::pulse::Pulse;
use crate::queue::{Sender, Unsent, queue};
use crate::request::{Operation, ReplyTo, Request};
use crate::store::Store;
use crate::tail::{Tail, TailBudget, TailReader};
use crate::worker_groups::watchers::Watchers;

/// Requests that wait for one session. A connection that finds it full stops reading until there is room.
pub const SESSION_REQUESTS_MAX: usize = 256;
/// Live sessions: each costs a task, a queue and its open state, some KiB when idle. More than `crowd::CROWD_MAX` are live at a time
/// only when so many are in use.
pub const SESSIONS_LIVE_MAX: usize = 100_000;

/// A live session.
#[derive(Clone, Debug)]
pub struct Handle {
    /// Its driver's queue.
    pub requests: Sender<Request>,
    /// What it shares with readers.
    pub tail: Arc<Tail>,
    /// Without a place, and closed when the driver has left the directory.
    gone: Arc<Semaphore>,
}

/// Closes when it is dropped, also when the driver's task is dropped in the middle.
struct Gone(Arc<Semaphore>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The directory.
pub struct Hub {
    common: Common,
    live: DashMap<SessionId, Handle>,
    crowd: Mutex<Crowd>,
    tails: Arc<TailBudget>,
    draining: AtomicBool,
    drivers: TaskTracker,
    watchers: Arc<Watchers>,
}

impl Hub {
    /// An empty directory over a store. A session without readers and requests for `idle` leaves memory.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Clock, ageing: Ageing, idle: Duration) -> Arc<Self> {
        Arc::new(Self {
            common: Common { store, clock, ageing, nonces: Arc::default(), idle },
            live: DashMap::new(),
            crowd: Mutex::default(),
            tails: Arc::default(),
            draining: AtomicBool::new(false),
            drivers: TaskTracker::new(),
            watchers: Arc::default(),
        })
    }

    /// Who watches sessions for something to do.
    #[must_use]
    pub fn watchers(&self) -> &Arc<Watchers> {
        &self.watchers
    }

    /// The store beneath.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.common.store
    }

    /// How many sessions are live.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// The live session of this name; it begins to be loaded when it was not live.
    ///
    /// # Errors
    /// [`ErrorCode::Overloaded`] when too many are live, [`ErrorCode::Draining`].
    pub fn handle(self: &Arc<Self>, session: &SessionId) -> Result<Handle, Error> {
        if let Some(handle) = self.live.get(session) {
            return Ok(handle.clone());
        }
        if self.live.len() >= SESSIONS_LIVE_MAX {
            let message = format!("{SESSIONS_LIVE_MAX} sessions are in use; try again later");
            return Err(Error::new(ErrorCode::Overloaded, message)
                .limit(SESSIONS_LIVE_MAX)
                .retry_after_ms(1000));
        }
        match self.live.entry(session.clone()) {
            Entry::Occupied(entry) => Ok(entry.get().clone()),
            // Checked under the entry's lock: `drain` clears the directory after it has raised the flag.
            Entry::Vacant(_) if self.draining.load(Ordering::Acquire) => {
                Err(Error::new(ErrorCode::Draining, "the broker is shutting down; connect again"))
            }
            Entry::Vacant(entry) => {
                let (requests, inbox) = queue(SESSION_REQUESTS_MAX);
                let tail = Arc::new(Tail::new(Arc::clone(&self.tails)));
                let gone = Arc::new(Semaphore::new(0));
                let here = Gone(Arc::clone(&gone));
                let handle = Handle { requests, tail: Arc::clone(&tail), gone };
                entry.insert(handle.clone());
                let is_visit = !self.joined(session);
                let driver = Driver::new(session.clone(), self.common.clone(), tail, inbox, is_visit);
                let (hub, session) = (Arc::clone(self), session.clone());
                self.drivers.spawn(async move {
                    driver.run().await;
                    // First out of the directory, then gone: who waits for the one finds the other done.
                    hub.live.remove(&session);
                    drop(here);
                });
                Ok(handle)
            }
        }
    }

    /// A session has become live. Whether it stays for its idle time; then one of the crowd that nobody has used for long may be told to
    /// rest.
    fn joined(&self, session: &SessionId) -> bool {
        let Joined { stays, rests } = {
            let mut crowd = self.crowd.lock().unwrap_or_else(PoisonError::into_inner);
            crowd.join(session, |session| match self.live.get(session) {
                Some(live) if live.tail.readers() == 0 => Use::Sent(live.requests.sent()),
                Some(_) | None => Use::Settled,
            })
        };
        if let Some(live) = rests.and_then(|session| self.live.get(&session)) {
            let rest = Request { operation: Operation::Rest, reply_to: ReplyTo::nobody() };
            // A queue without room is one of a session that is used.
            drop(live.requests.try_send(rest));
        }
        stays
    }

    /// Passes a request on. Waits while the session's queue is full.
    ///
    /// # Errors
    /// As [`Hub::handle`]; the request is given back to be answered.
    pub async fn send(
        self: Arc<Self>,
        session: SessionId,
        mut request: Request,
    ) -> Result<(), (Error, ReplyTo)> {
        loop {
            let handle = match self.handle(&session) {
                Ok(handle) => handle,
                Err(error) => return Err((error, request.reply_to)),
            };
            match handle.requests.send(request).await {
                Ok(()) => return Ok(()),
                Err(back) => request = back,
            }
            wait_gone(handle).await;
        }
    }

    /// Passes a request on when that needs no waiting; gives it back, for [`Hub::send`], when it does.
    pub fn try_send(self: &Arc<Self>, session: &SessionId, request: Request) -> Option<Request> {
        let Ok(handle) = self.handle(session) else { return Some(request) };
        handle.requests.try_send(request).err().map(Unsent::into_inner)
    }

    /// Asks a session and waits for the answer.
    ///
    /// # Errors
    /// The session's, and those of [`Hub::handle`].
    pub async fn ask(
        self: &Arc<Self>,
        session: &SessionId,
        operation: Operation,
    ) -> Result<Option<Reply>, Error> {
        self.ask_as(session, operation, None).await
    }

    /// The same for the claim of a lease: its holder is heard by this from then on.
    ///
    /// # Errors
    /// As [`Hub::ask`].
    pub async fn claim(
        self: &Arc<Self>,
        session: &SessionId,
        operation: Operation,
        pulse: Arc<Pulse>,
    ) -> Result<Option<Reply>, Error> {
        self.ask_as(session, operation, Some(pulse)).await
    }

    async fn ask_as(
        self: &Arc<Self>,
        session: &SessionId,
        operation: Operation,
        pulse: Option<Arc<Pulse>>,
    ) -> Result<Option<Reply>, Error> {
        let (answers, mut answered) = queue(1);
        let request = Request { operation, reply_to: ReplyTo { request: 0, answers, pulse } };
        Arc::clone(self).send(session.clone(), request).await.map_err(|(error, _)| error)?;
        match answered.recv().await {
            Some(answer) => answer.result,
            None => Err(Error::new(ErrorCode::OutcomeUnknown, "the session ended meanwhile; try again")),
        }
    }

    /// Waits until everything that a session was asked before is decided and durable, or has failed.
    pub async fn flush(self: &Arc<Self>, session: &SessionId) {
        // Whatever the answer is, what was asked before has its own.
        drop(self.ask(session, Operation::Command(Command::Flush)).await);
    }

    /// Begins to read a session.
    ///
    /// # Errors
    /// As [`Hub::handle`].
    pub async fn attach(self: &Arc<Self>, session: &SessionId) -> Result<TailReader, Error> {
        loop {
            let handle = self.handle(session)?;
            if let Some(reader) = handle.tail.attach() {
                return Ok(reader);
            }
            wait_gone(handle).await;
        }
    }

    /// Lets no session become live any more, and waits until every live one has done what it was asked and has ended.
    pub async fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.live.clear();
        self.drivers.close();
        self.drivers.wait().await;
    }
}

async fn wait_gone(handle: Handle) {
    // There is never a place: this resolves when it is closed.
    let _ = handle.gone.acquire().await;
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use longwire_proto::meta::Meta;
    use longwire_proto::record::Sender;
    use longwire_proto::retention::Retention;
    use longwire_proto::wire;
    use prost::Message as _;
    use tokio::time::sleep;

    use super::*;
    use crate::hub::crowd::CROWD_MAX;
    use crate::store::memory::MemoryStore;

    /// How long sessions stay in memory: for ever, as far as these tests go.
    const IDLE: Duration = Duration::from_secs(60 * 60);

    fn publish() -> Operation {
        let body = Some(wire::record::Body::Text("x".into()));
        let record = wire::Record { body, ..Default::default() };
        Operation::Command(Command::Publish {
            sender: Sender { principal: "ada".into(), ..Sender::default() },
            producer: None,
            if_end: None,
            may_create: true,
            records: vec![Bytes::from(record.encode_to_vec())],
            meant: None,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_exist_leaves_memory_soon_and_what_came_to_exist_stays() {
        let hub = Hub::new(Arc::new(MemoryStore::new()), Clock::start(), Ageing::default(), IDLE);
        let id = |text: &str| SessionId::parse(text).unwrap();
        for name in ["a", "b", "c"] {
            let refused = hub.ask(&id(name), Operation::Command(Command::Describe)).await.unwrap_err();
            assert_eq!(refused.code, ErrorCode::SessionNotFound);
        }
        hub.ask(&id("c"), publish()).await.unwrap();
        assert_eq!(hub.live(), 3);
        // Time passes only when nothing else is left to be done.
        sleep(IDLE / 2).await;
        assert_eq!(hub.live(), 1);
        hub.ask(&id("c"), Operation::Command(Command::Describe)).await.unwrap();
        sleep(2 * IDLE).await;
        assert_eq!(hub.live(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn few_records_are_read_again_and_of_many_a_snapshot_is_left() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let hub = Hub::new(Arc::clone(&store), Clock::start(), Ageing::default(), IDLE);
        let a = SessionId::parse("a").unwrap();
        let mut end = 0;
        for (records, snapshot) in [(1, None), (16, None), (17, Some(17)), (33, Some(17)), (34, Some(34))] {
            while end < records {
                hub.ask(&a, publish()).await.unwrap();
                end += 1;
            }
            sleep(3 * IDLE).await;
            assert_eq!(hub.live(), 0);
            let opened = store.open(&a).await.unwrap();
            assert_eq!((opened.end, opened.snapshot_through), (records, snapshot));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_crowd_the_unused_rest_at_once_and_who_is_read_stays() {
        let hub = Hub::new(Arc::new(MemoryStore::new()), Clock::start(), Ageing::default(), IDLE);
        let id = |number: usize| SessionId::parse(&format!("s/{number}")).unwrap();
        let began = tokio::time::Instant::now();
        let mut reader = hub.attach(&id(0)).await.unwrap();
        for round in 0..3 {
            for number in 0..CROWD_MAX + 300 {
                let Some(Reply::Published { from, .. }) = hub.ask(&id(number), publish()).await.unwrap()
                else {
                    panic!("{number} was not published");
                };
                assert_eq!(from, round, "{number}");
            }
            while hub.live() > CROWD_MAX + 1 {
                tokio::task::yield_now().await;
            }
            assert!(hub.live.contains_key(&id(0)), "it is read");
        }
        assert_eq!(reader.loaded().await.unwrap().end, 3);
        assert_eq!(began.elapsed(), Duration::ZERO, "nobody waited for a time");
    }

    #[tokio::test(start_paused = true)]
    async fn who_visits_leaves_when_it_is_answered_and_what_is_due_then_is_done() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let hub = Hub::new(Arc::clone(&store), Clock::start(), Ageing::default(), IDLE);
        let crowd: Vec<_> =
            (0..CROWD_MAX).map(|number| SessionId::parse(&format!("s/{number}")).unwrap()).collect();
        let (a, began) = (SessionId::parse("a").unwrap(), tokio::time::Instant::now());
        let retention = Retention { records: Some(1), ..Retention::default() };
        let meta = Box::new(Meta { retention, ..Meta::default() });
        let sender = Sender { principal: "ada".into(), ..Sender::default() };
        let create = Operation::Command(Command::Create { sender, meta, update: false });
        for (records, operation) in [(1, create), (2, publish())] {
            // All are used: who comes back finds no place either.
            for session in &crowd {
                hub.ask(session, publish()).await.unwrap();
            }
            hub.ask(&a, operation).await.unwrap();
            while hub.live() > CROWD_MAX {
                sleep(Duration::from_millis(1)).await;
            }
            let opened = store.open(&a).await.unwrap();
            assert_eq!((opened.start, opened.end), (records - 1, records));
        }
        assert!(began.elapsed() < IDLE, "it did not stay for its idle time");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_told_to_rest_while_it_is_loaded_does_so_once_it_has_answered() {
        let hub = Hub::new(Arc::new(MemoryStore::new()), Clock::start(), Ageing::default(), IDLE);
        let (a, began) = (SessionId::parse("a").unwrap(), tokio::time::Instant::now());
        let (answers, mut answered) = queue(1);
        let request =
            Request { operation: publish(), reply_to: ReplyTo { request: 0, answers, pulse: None } };
        assert!(hub.try_send(&a, request).is_none());
        let rest = Request { operation: Operation::Rest, reply_to: ReplyTo::nobody() };
        assert!(hub.try_send(&a, rest).is_none());
        assert!(answered.recv().await.unwrap().result.is_ok());
        while hub.live() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
