//! The one task that looks at sessions for all groups, and carries out what their wakes want.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt, iter};
use longwire_core::command::Description;
use longwire_core::entity::call::Call;
use longwire_core::entity::view::Status;
use longwire_core::summary::Summary;
use longwire_proto::error::Error;
use longwire_proto::position::Position;
use longwire_proto::session_id::SessionId;
use longwire_proto::worker_group::GroupName;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::life::describe;
use crate::store::reconcile::retry_read;
use crate::store::{ListQuery, LogId, StoreError};
use crate::worker_groups::definition::Definition;
use crate::worker_groups::groups::{Cursor, Groups};
use crate::worker_groups::step::{Done, carry_out};
use crate::worker_groups::wakes::{Seen, Wakes};

/// Changes, and sessions of a list, looked at together.
const PAGE: usize = 1000;
/// Sessions looked at at once: each may have to be loaded.
const LOOKS_MAX: usize = 16;
/// Webhooks under way at once, of all groups: each is a socket, and some of them wait for who does not answer.
const STEPS_MAX: usize = 1024;
/// The feed is read this often at most: a session that is busy is looked at ten times a second.
const FEED_PAUSE: Duration = Duration::from_millis(100);
/// How long a hint of the feed is waited for before it is looked at all the same.
const HINT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the dispatcher rests after the store or a session could not serve.
const PAUSE: Duration = Duration::from_secs(1);
/// How often cursors are written.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Cursors that are written at once: the store writes them together.
const SAVES_AT_ONCE: usize = 64;
/// Commits without anything for a group after which its cursor is written all the same: so many are looked at again for nothing.
const SAVE_LAG: u64 = 100_000;

struct Group {
    definition: Arc<Definition>,
    wakes: Wakes,
    /// Changes up to this commit are not for it.
    from: u64,
    /// What the list of its sessions is to go on after, while it is read.
    listing: Option<Option<SessionId>>,
    saved: u64,
    /// Something of it was looked at since then.
    is_stale: bool,
}

/// A session that is to be looked at.
struct Sighting {
    log: LogId,
    session: SessionId,
    commit: u64,
    /// For this group alone.
    only: Option<GroupName>,
}

impl Group {
    fn is_meant(&self, name: &GroupName, sighting: &Sighting) -> bool {
        match &sighting.only {
            Some(only) => only == name,
            None => sighting.commit > self.from && self.definition.terms.pattern.matches(&sighting.session),
        }
    }

    fn wants(&self, name: &GroupName, sighting: &Sighting) -> bool {
        self.is_meant(name, sighting) && self.wakes.wants(sighting.log, sighting.commit)
    }
}

type Looked = (Sighting, Result<Description, Error>);

/// See the top of this file.
pub struct Dispatcher {
    groups: Arc<Groups>,
    clock: Clock,
    commits: watch::Receiver<u64>,
    known: BTreeMap<GroupName, Group>,
    /// Whose steps were begun last: each group has its turn.
    last: Option<GroupName>,
    sightings: VecDeque<Sighting>,
    looks: FuturesUnordered<BoxFuture<'static, Looked>>,
    steps: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Everything of the feed up to this commit was found, and is being looked at.
    found: u64,
    /// Everything up to this one was looked at.
    through: u64,
    /// The feed is to be read again from here.
    rewind: Option<u64>,
    /// There is more of it, as far as is known.
    has_more: bool,
    look_not_before: Instant,
    find_not_before: Instant,
    save_at: Instant,
}

impl Dispatcher {
    /// One that has not begun.
    #[must_use]
    pub fn new(groups: Arc<Groups>, clock: Clock) -> Self {
        let (commits, now) = (groups.hub.store().commits(), Instant::now());
        Self {
            groups,
            clock,
            commits,
            known: BTreeMap::new(),
            last: None,
            sightings: VecDeque::new(),
            looks: FuturesUnordered::new(),
            steps: FuturesUnordered::new(),
            found: 0,
            through: 0,
            rewind: None,
            has_more: true,
            look_not_before: now,
            find_not_before: now,
            save_at: now,
        }
    }

    /// Works until `stop` is cancelled. What is under way then is tried again in the next life.
    pub async fn run(mut self, stop: CancellationToken) {
        self.reload().await;
        let groups = Arc::clone(&self.groups);
        let mut commits = self.commits.clone();
        loop {
            self.begin();
            let (finds, hurries, not_before) = (self.may_find(), self.has_more, self.find_not_before);
            let (step_at, save_at) = (self.step_at(), self.save_at);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = groups.changed.notified() => self.reload().await,
                Some(looked) = self.looks.next(), if !self.looks.is_empty() => self.looked(looked),
                Some(done) = self.steps.next(), if !self.steps.is_empty() => self.done(done),
                () = sleep_until(step_at.unwrap_or(save_at)), if step_at.is_some() => {}
                () = sleep_until(save_at), if !self.known.is_empty() => self.save().await,
                () = sleep_until(self.look_not_before), if self.looks.is_empty() && !self.sightings.is_empty() => {}
                () = feed(&mut commits, not_before, hurries), if finds => self.find().await,
            }
        }
        self.save().await;
    }

    fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Takes over which groups there are.
    async fn reload(&mut self) {
        let (all, cursors) = match Arc::clone(&self.groups).load().await {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::warn!(%error, "the worker groups cannot be read; it is tried again");
                tokio::time::sleep(PAUSE).await;
                self.groups.changed.notify_one();
                return;
            }
        };
        let was_none = self.known.is_empty();
        self.known.retain(|name, group| all.get(name).is_some_and(|found| found.id == group.definition.id));
        for name in cursors.keys().filter(|name| !all.keys().any(|group| group.as_str() == **name)) {
            if let Err(error) = self.groups.save(name, None).await {
                tracing::debug!(%error, "the cursor of a worker group that is gone stays");
            }
        }
        let committed = *self.commits.borrow();
        let mut first = committed;
        for (name, definition) in all {
            let terms = &definition.terms;
            if let Some(group) = self.known.get_mut(&name) {
                group.wakes.change(terms.in_flight_max, terms.attempts_max);
                if group.definition.terms.pattern != terms.pattern
                    || group.definition.terms.agent != terms.agent
                {
                    group.wakes.clear();
                    group.listing = Some(None);
                }
                group.definition = Arc::new(definition);
                continue;
            }
            let cursor = cursors.get(name.as_str()).filter(|cursor| cursor.id == definition.id);
            let saved = cursor.map_or(0, |cursor| cursor.commit);
            if saved > 0 {
                first = first.min(saved);
            }
            let group = Group {
                wakes: Wakes::new(terms.in_flight_max, terms.attempts_max),
                definition: Arc::new(definition),
                from: saved,
                listing: (saved == 0).then_some(None),
                saved,
                is_stale: false,
            };
            self.known.insert(name, group);
        }
        if was_none {
            (self.found, self.through, self.has_more) = (first, first, true);
            self.sightings.clear();
        } else if first < self.found {
            self.look_again(first);
        }
    }

    fn look_again(&mut self, after: u64) {
        self.rewind = Some(self.rewind.map_or(after, |rewind| rewind.min(after)));
    }

    /// Whether there is nothing to be looked at of what was found, so that more is to be found.
    fn may_find(&self) -> bool {
        !self.known.is_empty() && self.sightings.is_empty() && self.looks.is_empty()
    }

    /// Begins what can be begun.
    fn begin(&mut self) {
        while self.looks.len() < LOOKS_MAX
            && Instant::now() >= self.look_not_before
            && let Some(sighting) = self.sightings.pop_front()
        {
            if !self.known.iter().any(|(name, group)| group.wants(name, &sighting)) {
                continue;
            }
            let hub = Arc::clone(&self.groups.hub);
            self.looks.push(Box::pin(async move {
                let found = describe(&hub, &sighting.session).await;
                (sighting, found)
            }));
        }
        let now_ms = self.now_ms();
        while self.steps.len() < STEPS_MAX
            && let Some(step) = self.next_step(now_ms)
        {
            self.steps.push(step);
        }
        metrics::gauge!("longwire_wakes")
            .set(self.known.values().map(|group| group.wakes.len()).sum::<usize>() as f64);
    }

    fn next_step(&mut self, now_ms: u64) -> Option<BoxFuture<'static, Done>> {
        let after = self.last.take();
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        let is_due =
            |(_, group): &(&GroupName, &Group)| group.wakes.next_at_ms().is_some_and(|at_ms| at_ms <= now_ms);
        let mut in_turn = self.known.range((begin, Bound::Unbounded)).chain(&self.known);
        let name = in_turn.find(is_due).map(|(name, _)| name.clone())?;
        let group = self.known.get_mut(&name)?;
        let (step, definition) = (group.wakes.next(now_ms)?, Arc::clone(&group.definition));
        self.last = Some(name);
        Some(Box::pin(carry_out(Arc::clone(&self.groups), definition, step)))
    }

    fn step_at(&self) -> Option<Instant> {
        if self.steps.len() >= STEPS_MAX {
            return None;
        }
        let at_ms = self.known.values().filter_map(|group| group.wakes.next_at_ms()).min()?;
        Some(Instant::now() + Duration::from_millis(at_ms.saturating_sub(self.now_ms())))
    }

    /// Finds more sessions to be looked at.
    async fn find(&mut self) {
        self.through = self.found;
        if let Some(rewind) = self.rewind.take() {
            (self.found, self.through) = (self.found.min(rewind), self.through.min(rewind));
        }
        let listing = self.known.iter().find(|(_, group)| group.listing.is_some());
        let found = match listing.map(|(name, _)| name.clone()) {
            Some(name) => self.list(&name).await,
            None => self.follow().await,
        };
        let pause = match &found {
            Ok(()) => FEED_PAUSE,
            Err(error) => {
                tracing::warn!(%error, "worker groups cannot be served; it is tried again");
                PAUSE
            }
        };
        self.find_not_before = Instant::now() + pause;
    }

    /// Goes on with the list of the sessions of a group that nobody has looked at yet.
    async fn list(&mut self, name: &GroupName) -> Result<(), StoreError> {
        let Some(group) = self.known.get(name) else { return Ok(()) };
        let pattern = group.definition.terms.pattern.clone();
        let after = group.listing.clone().flatten();
        let query =
            ListQuery { prefix: pattern.prefix().to_owned(), after, limit: PAGE, ..ListQuery::default() };
        let store = Arc::clone(self.groups.hub.store());
        let page = retry_read(|| store.list(query.clone())).await?;
        // Of what nothing is open in nothing calls for anybody.
        let is_open = |row: &[u8]| {
            Summary::decode(row).is_some_and(|summary| !summary.closed && summary.status != Status::Idle)
        };
        for listed in page.sessions {
            if pattern.matches(&listed.session) && is_open(&listed.projection) {
                // After nothing: what comes of it is left until all of it was listed and looked at.
                let (log, session, only) = (listed.log, listed.session, Some(name.clone()));
                self.sightings.push_back(Sighting { log, session, commit: 1, only });
            }
        }
        if let Some(group) = self.known.get_mut(name) {
            group.listing = page.more_after.map(Some);
            group.is_stale = true;
        }
        self.has_more = true;
        Ok(())
    }

    /// Goes on with the feed.
    async fn follow(&mut self) -> Result<(), StoreError> {
        let store = Arc::clone(self.groups.hub.store());
        let page = retry_read(|| store.changes(self.found, PAGE)).await?;
        self.has_more = !page.changes.is_empty();
        if page.forgotten > self.found {
            // Of a session that was deleted meanwhile nothing may come.
            let all = self.known.iter().flat_map(|(name, group)| {
                group.wakes.all().map(|(log, session)| (log, session.clone(), name.clone()))
            });
            let all = all.map(|(log, session, name)| Sighting {
                log,
                session,
                commit: page.forgotten,
                only: Some(name),
            });
            self.sightings.extend(all);
        }
        let now_ms = self.now_ms();
        for change in page.changes {
            let of = |group: &Group| group.definition.terms.pattern.matches(&change.session);
            if change.session.is_reserved() || !self.known.values().any(of) {
                continue;
            }
            let (log, session, commit) = (change.log, change.session, change.commit);
            if change.deleted {
                for group in self.known.values_mut() {
                    let (session, position) = (session.clone(), Position::default());
                    group.wakes.see(Seen { log, session, position, commit, call: None }, false, now_ms);
                }
            } else {
                self.sightings.push_back(Sighting { log, session, commit, only: None });
            }
        }
        self.found = self.found.max(page.through);
        Ok(())
    }

    fn looked(&mut self, (sighting, found): Looked) {
        let description = match found {
            Ok(description) => Some(description),
            Err(error) if error.code.retryable() => {
                tracing::debug!(session = %sighting.session, %error, "a session is looked at again");
                self.sightings.push_back(sighting);
                self.look_not_before = Instant::now() + PAUSE;
                return;
            }
            Err(_) => None,
        };
        let is_watched = self.groups.hub.watchers().is_watched(&sighting.session);
        let now_ms = self.now_ms();
        let mut again = None;
        for (name, group) in &mut self.known {
            if !group.is_meant(name, &sighting) {
                continue;
            }
            let (log, session, commit) = (sighting.log, sighting.session.clone(), sighting.commit);
            let (position, call) = match &description {
                Some(found) if !found.summary.closed => {
                    let position = Position { epoch: found.epoch, offset: found.end };
                    (position, Call::of(&found.view, &group.definition.terms.agent))
                }
                _ => (Position::default(), None),
            };
            group.wakes.see(Seen { log, session, position, commit, call }, is_watched, now_ms);
            group.is_stale = true;
            again = again.or(rewound(group));
        }
        if let Some(after) = again {
            self.look_again(after);
        }
    }

    fn done(&mut self, done: Done) {
        let (random, now_ms) = (getrandom::u64().unwrap_or_default(), self.now_ms());
        let Done { group, id, log, serial, outcome } = done;
        let Some(group) = self.known.get_mut(&group).filter(|group| group.definition.id == id) else {
            return;
        };
        group.wakes.ended(log, serial, outcome, now_ms, random);
        group.is_stale = true;
        if let Some(after) = rewound(group) {
            self.look_again(after);
        }
    }

    /// Writes how far groups have come.
    async fn save(&mut self) {
        self.save_at = Instant::now() + SAVE_EVERY;
        if self.sightings.is_empty() && self.looks.is_empty() {
            self.through = self.found;
        }
        let through = self.through;
        let due = self.known.iter().filter_map(|(name, group)| {
            let commit = if group.listing.is_some() { 0 } else { group.wakes.cursor(through) };
            let is_due = group.is_stale || commit > group.saved.saturating_add(SAVE_LAG);
            (commit > group.saved && is_due)
                .then(|| (name.clone(), Cursor { id: group.definition.id, commit }))
        });
        let due: Vec<(GroupName, Cursor)> = due.collect();
        let groups = &self.groups;
        let saves = due.into_iter().map(|(name, cursor)| {
            let groups = Arc::clone(groups);
            async move {
                let saved = groups.save(name.as_str(), Some(cursor)).await;
                (name, cursor.commit, saved)
            }
        });
        let saved: Vec<_> = iter(saves).buffer_unordered(SAVES_AT_ONCE).collect().await;
        for (name, commit, outcome) in saved {
            match (outcome, self.known.get_mut(&name)) {
                (Ok(()), Some(group)) => (group.saved, group.is_stale) = (commit, false),
                (Ok(()), None) => {}
                (Err(error), _) => tracing::debug!(%error, "a cursor was not written; it is tried again"),
            }
        }
    }
}

/// The commit after which the feed is to be read again for what found no room.
fn rewound(group: &mut Group) -> Option<u64> {
    let first = group.wakes.look_again()?;
    if first > 1 {
        return Some(first - 1);
    }
    group.listing = Some(None);
    None
}

/// Resolves when the feed is to be read.
async fn feed(commits: &mut watch::Receiver<u64>, not_before: Instant, hurries: bool) {
    sleep_until(not_before).await;
    if !hurries {
        // A sender that has gone, and a hint that does not come, are both answered by looking.
        drop(timeout(HINT_TIMEOUT, commits.changed()).await);
    }
}
