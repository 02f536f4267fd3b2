//! The sessions of a pattern that call for an agent, one after the other: what the claim of a pattern goes by.
//!
//! It reads the list of sessions once, and the store's change feed from then on: whoever claims again goes on where the last claim was. What
//! it gives is a hint, as somebody else may be quicker.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use longwire_core::command::Description;
use longwire_core::entity::call::Call;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::pattern::Pattern;
use longwire_proto::session_id::SessionId;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::auth::authorise::authorise;
use crate::auth::guard::Whoever;
use crate::auth::operation::Operation;
use crate::hub::Hub;
use crate::life::describe;
use crate::store::ListQuery;
use crate::store::reconcile::retry_read;
use crate::store_error::to_error;
use crate::worker_groups::watchers::Watching;

/// Sessions of the list, or changes of the feed, taken together: few, as each connection may have many seekers.
pub const PAGE: usize = 64;
/// The feed is read this often at most: a session that is busy is looked at fifty times a second.
const FEED_PAUSE: Duration = Duration::from_millis(20);
/// How long a hint of the feed is waited for before it is looked at all the same.
const HINT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a session that was given is left alone unless a new input comes: whoever fails at it does not fail as fast as it can.
const REST: Duration = Duration::from_secs(1);
/// Sessions that were given and are left alone. One that is forgotten may be given sooner.
pub const GIVEN_MAX: usize = 64;

/// When a session that was given may be given again, unless it has inputs from this offset on.
#[derive(Clone, Copy, Debug)]
struct Given {
    rests_until: Instant,
    inputs_next: u64,
}

/// What somebody saw who looked at a session.
enum Seen {
    Nothing,
    Calls(Call),
    Rests(Instant),
}

/// See the top of this file.
pub struct Seeker {
    hub: Arc<Hub>,
    /// Who claims: it finds what they may claim at any time.
    whoever: Whoever,
    pattern: Pattern,
    agent: String,
    commits: watch::Receiver<u64>,
    /// Everything of the feed up to this commit was found.
    through: u64,
    /// What the list is to go on after, while it is read.
    listing: Option<Option<SessionId>>,
    /// To be looked at.
    found: VecDeque<SessionId>,
    given: HashMap<SessionId, Given>,
    /// Of those, what is to be looked at again, and when.
    resting: BTreeSet<(Instant, SessionId)>,
    read_not_before: Instant,
    /// Whoever waits for a session is waited for before a webhook is tried.
    _watching: Watching,
}

impl Seeker {
    /// One that has looked at nothing yet.
    #[must_use]
    pub fn new(hub: Arc<Hub>, whoever: Whoever, pattern: Pattern, agent: String) -> Self {
        let mut commits = hub.store().commits();
        // Taken before the list: what changes in between is found twice, and never missed.
        let through = *commits.borrow_and_update();
        let watching = hub.watchers().enter(pattern.clone());
        Self {
            hub,
            whoever,
            pattern,
            agent,
            commits,
            through,
            listing: Some(None),
            found: VecDeque::new(),
            given: HashMap::new(),
            resting: BTreeSet::new(),
            read_not_before: Instant::now(),
            _watching: watching,
        }
    }

    /// Whether it looks for this.
    #[must_use]
    pub fn is_for(&self, pattern: &Pattern, agent: &str) -> bool {
        self.pattern == *pattern && self.agent == agent
    }

    /// The next session that calls for the agent; none when nothing that was there at the beginning does, and none has begun to until it
    /// is waited no longer. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Those of the store, and of a session that cannot be looked at for now: it is looked at next time.
    pub async fn next(&mut self, until: Instant) -> Result<Option<SessionId>, Error> {
        let (committed, mut is_fresh) = (*self.commits.borrow(), false);
        loop {
            self.end_rests(Instant::now());
            if let Some(session) = self.found.front().cloned() {
                let seen = self.look(&session).await;
                self.found.pop_front();
                match seen {
                    Ok(Seen::Calls(call)) => {
                        self.give(&session, call);
                        return Ok(Some(session));
                    }
                    Ok(Seen::Rests(until)) => drop(self.resting.insert((until, session))),
                    Ok(Seen::Nothing) => {}
                    Err(error) => {
                        self.look_again(session);
                        return Err(error);
                    }
                }
            } else if let Some(after) = self.listing.clone() {
                self.list(after).await?;
            } else if !is_fresh {
                is_fresh = self.follow().await? || self.through >= committed;
            } else if Instant::now() >= until {
                return Ok(None);
            } else {
                let rested_at = self.resting.first().map_or(until, |(at, _)| *at);
                let at = until.min(rested_at).min(Instant::now() + HINT_TIMEOUT);
                // A sender that has gone, and a hint that does not come, are both answered by looking.
                drop(timeout_at(at, self.commits.changed()).await);
                is_fresh = false;
            }
        }
    }

    /// A session that was given could not be claimed for now.
    pub fn look_again(&mut self, session: SessionId) {
        self.given.remove(&session);
        self.found.push_back(session);
    }

    fn give(&mut self, session: &SessionId, call: Call) {
        let now = Instant::now();
        if self.given.len() >= GIVEN_MAX {
            self.given.retain(|_, given| given.rests_until > now);
        }
        if self.given.len() >= GIVEN_MAX {
            self.given.clear();
        }
        let given = Given { rests_until: now + REST, inputs_next: call.inputs_next };
        self.given.insert(session.clone(), given);
    }

    fn end_rests(&mut self, now: Instant) {
        while let Some((at, _)) = self.resting.first()
            && *at <= now
            && let Some((_, session)) = self.resting.pop_first()
        {
            self.found.push_back(session);
        }
    }

    async fn look(&self, session: &SessionId) -> Result<Seen, Error> {
        if authorise(&self.whoever.borrow(), Operation::Lease, session).is_err() {
            return Ok(Seen::Nothing);
        }
        let call = match describe(&self.hub, session).await {
            Ok(description) => call(&description, &self.agent),
            Err(error) if error.code.retryable() => return Err(error),
            // It is there no more, or damaged.
            Err(_) => None,
        };
        let Some(call) = call else { return Ok(Seen::Nothing) };
        let given = self.given.get(session).filter(|given| call.inputs_next <= given.inputs_next);
        Ok(match given {
            Some(given) if given.rests_until > Instant::now() => Seen::Rests(given.rests_until),
            _ => Seen::Calls(call),
        })
    }

    async fn list(&mut self, after: Option<SessionId>) -> Result<(), Error> {
        let prefix = self.pattern.prefix().to_owned();
        let query = ListQuery { prefix, after, limit: PAGE, ..ListQuery::default() };
        let store = self.hub.store();
        let page = retry_read(|| store.list(query.clone())).await.map_err(|error| to_error(&error))?;
        let listed = page.sessions.into_iter().map(|listed| listed.session);
        self.found.extend(listed.filter(|session| self.pattern.matches(session)));
        self.listing = page.more_after.map(Some);
        Ok(())
    }

    /// Goes on with the feed. Whether there was nothing.
    async fn follow(&mut self) -> Result<bool, Error> {
        sleep_until(self.read_not_before).await;
        self.commits.mark_unchanged();
        let store = self.hub.store();
        let page =
            retry_read(|| store.changes(self.through, PAGE)).await.map_err(|error| to_error(&error))?;
        let is_empty = page.changes.is_empty();
        if !is_empty {
            self.read_not_before = Instant::now() + FEED_PAUSE;
        }
        let changed = page.changes.into_iter().filter(|change| !change.deleted).map(|change| change.session);
        let found = changed.filter(|session| !session.is_reserved() && self.pattern.matches(session));
        self.found.extend(found);
        self.through = self.through.max(page.through);
        Ok(is_empty)
    }
}

/// What calls for an agent in a session. One that nobody ever was is called: until somebody is, nothing can be sent to it.
fn call(description: &Description, agent: &str) -> Option<Call> {
    match &description.view {
        _ if description.summary.closed => None,
        view if !view.agents.contains_key(agent) => Some(Call::default()),
        view => Call::of(view, agent),
    }
}

/// No session called for the agent.
#[must_use]
pub fn nothing_calls(pattern: &Pattern, agent: &str) -> Error {
    let message = format!(
        "no session of `{pattern}` that may be claimed calls for `{agent}`; claim again, or wait longer"
    );
    Error::new(ErrorCode::NothingCalls, message).field("pattern")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt as _;
    use longwire_core::command::{Command, Meant, Reply};
    use longwire_core::entity::standing::Standing;
    use longwire_proto::kind;
    use longwire_proto::lease::{LeaseRef, Terms};
    use longwire_proto::record::{self, Sender};
    use longwire_proto::wire;
    use prost::Message as _;

    use super::*;
    use crate::ageing::Ageing;
    use crate::auth::principal::Principal;
    use crate::auth::testing;
    use crate::clock::Clock;
    use crate::request::Operation as Asked;
    use crate::store::memory::MemoryStore;

    /// How long sessions stay in memory: for ever, as far as these tests go.
    const IDLE: Duration = Duration::from_secs(60 * 60);

    struct Bed {
        hub: Arc<Hub>,
        principal: watch::Sender<Arc<Principal>>,
    }

    impl Bed {
        fn new(grants: &[&str]) -> Self {
            let hub = Hub::new(Arc::new(MemoryStore::new()), Clock::start(), Ageing::default(), IDLE);
            Self { hub, principal: watch::Sender::new(Arc::new(testing::principal(grants))) }
        }

        fn seeker(&self, pattern: &str) -> Seeker {
            let whoever = self.principal.subscribe();
            Seeker::new(Arc::clone(&self.hub), whoever, pattern.parse().unwrap(), "coder".into())
        }

        async fn ask(&self, session: &str, command: Command) -> Reply {
            let id = SessionId::parse(session).unwrap();
            self.hub.ask(&id, Asked::Command(command)).await.unwrap().unwrap()
        }

        async fn publish(&self, session: &str, record: wire::Record) {
            let record = Bytes::from(record.encode_to_vec());
            let meanings = vec![record::check(&record).unwrap()];
            let meant = Some(Box::new(Meant { meanings, standing: Standing::default() }));
            let (producer, if_end, records) = (None, None, vec![record]);
            let sender = Sender { principal: "ada".into(), ..Sender::default() };
            let publish = Command::Publish { sender, producer, if_end, may_create: true, records, meant };
            self.ask(session, publish).await;
        }

        async fn create(&self, session: &str) {
            self.publish(session, wire::Record { id: "hello".into(), ..Default::default() }).await;
        }

        async fn claim(&self, session: &str) -> u64 {
            let (terms, sender) =
                (Terms::new(0, 0).unwrap(), Sender { principal: "ada".into(), ..Sender::default() });
            let (agent, take_over, going_on) = ("coder".to_owned(), false, None);
            match self.ask(session, Command::Claim { sender, agent, terms, take_over, going_on }).await {
                Reply::Claimed(claimed) => claimed.view.agents["coder"].generation,
                other => panic!("{other:?}"),
            }
        }

        async fn release(&self, session: &str, generation: u64) {
            let lease = LeaseRef { agent: "coder".into(), generation };
            let sender = Sender { principal: "ada".into(), ..Sender::default() };
            self.ask(session, Command::Release { sender, lease }).await;
        }

        /// Introduces the agent, and gives it something to do.
        async fn call(&self, session: &str, input: &str) {
            let generation = self.claim(session).await;
            self.release(session, generation).await;
            self.input(session, input).await;
        }

        async fn input(&self, session: &str, id: &str) {
            let to = vec!["coder".to_owned()];
            self.publish(
                session,
                wire::Record { kind: kind::INPUT, id: id.into(), to, ..Default::default() },
            )
            .await;
        }
    }

    async fn now(seeker: &mut Seeker) -> Option<String> {
        seeker.next(Instant::now()).await.unwrap().map(|session| session.to_string())
    }

    async fn within(seeker: &mut Seeker, time: Duration) -> Option<String> {
        seeker.next(Instant::now() + time).await.unwrap().map(|session| session.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn each_session_that_calls_is_found_whenever_it_began_to() {
        let bed = Bed::new(&["acme/**:lease"]);
        for session in ["acme/a/1", "acme/a/2", "acme/b", "other/a"] {
            bed.create(session).await;
        }
        bed.call("acme/a/1", "i").await;
        let mut seeker = bed.seeker("acme/a/*");
        // One that nobody ever was the agent of calls, too; what matches no pattern, or may not be claimed, does not.
        assert_eq!(now(&mut seeker).await.as_deref(), Some("acme/a/1"));
        assert_eq!(now(&mut seeker).await.as_deref(), Some("acme/a/2"));
        let generation = bed.claim("acme/a/1").await;
        bed.claim("acme/a/2").await;
        assert_eq!(now(&mut seeker).await, None, "somebody acts as it");
        bed.create("acme/a/3").await;
        assert_eq!(now(&mut seeker).await.as_deref(), Some("acme/a/3"), "it was made later");
        // Whoever waits is told, and is told the end of the wait.
        let began = Instant::now();
        assert_eq!(within(&mut seeker, Duration::from_secs(50)).await, None);
        assert!(began.elapsed() >= Duration::from_secs(50));
        let release = async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            bed.release("acme/a/1", generation).await;
        };
        let (found, ()) = tokio::join!(within(&mut seeker, Duration::from_secs(50)), release);
        assert_eq!(found.as_deref(), Some("acme/a/1"), "its input was not consumed");
    }

    #[tokio::test(start_paused = true)]
    async fn what_calls_for_the_same_again_rests_and_a_new_input_does_not() {
        let bed = Bed::new(&["acme/**:lease"]);
        bed.create("acme/a").await;
        bed.call("acme/a", "i").await;
        let mut seeker = bed.seeker("**");
        assert_eq!(now(&mut seeker).await.as_deref(), Some("acme/a"));
        let (generation, given) = (bed.claim("acme/a").await, Instant::now());
        bed.release("acme/a", generation).await;
        assert_eq!(now(&mut seeker).await, None, "it was given a moment ago, and calls for the same");
        assert_eq!(within(&mut seeker, 2 * REST).await.as_deref(), Some("acme/a"));
        assert!(given.elapsed() >= REST - FEED_PAUSE);
        bed.input("acme/a", "j").await;
        let began = Instant::now();
        assert_eq!(within(&mut seeker, 2 * REST).await.as_deref(), Some("acme/a"), "somebody said more");
        assert!(began.elapsed() < REST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_grant_that_ends_ends_what_is_found() {
        let bed = Bed::new(&["acme/**:lease"]);
        let mut seeker = bed.seeker("**");
        let reader = watch::Sender::new(Arc::new(testing::principal(&["acme/**:read,publish,manage"])));
        let pattern = || "**".parse().unwrap();
        let mut reads = Seeker::new(Arc::clone(&bed.hub), reader.subscribe(), pattern(), "coder".into());
        bed.create("acme/a").await;
        assert_eq!(now(&mut reads).await, None, "reading is not claiming");
        bed.principal.send_replace(Arc::new(testing::principal(&["other/**:lease"])));
        assert_eq!(now(&mut seeker).await, None);
        bed.create("other/a").await;
        assert_eq!(now(&mut seeker).await.as_deref(), Some("other/a"));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_lost_when_nobody_waits_any_more() {
        let bed = Bed::new(&["acme/**:lease"]);
        let mut seeker = bed.seeker("**");
        for number in 0..50 {
            bed.create(&format!("acme/{number:02}")).await;
        }
        let mut found = Vec::new();
        for attempt in 0..1000 {
            // Dropped after one to four polls, however far it is: also while a session is looked at.
            let mut next = Box::pin(within(&mut seeker, Duration::from_secs(1)));
            for _ in 0..=attempt % 4 {
                if let Some(session) = next.as_mut().now_or_never() {
                    found.extend(session);
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        found.sort();
        found.dedup();
        assert_eq!(found.len(), 50);
    }
}
