//! The subscription of a pattern: one reader's way through every session whose id matches, those created later included.
//!
//! It follows the store's change feed, not the sessions: none of them need be live for it. Where it stands is one offset a
//! session and one commit of the feed. The feed says which sessions have more; what they have is read from the store. A
//! hint that is missed costs a second, never a record.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longwire_core::entity::view::Status;
use longwire_core::summary::Summary;
use longwire_proto::codec::{DeliveryBody, Encoding};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::PATTERN_SESSIONS_MAX;
use longwire_proto::outcome::Outcome;
use longwire_proto::pattern::Pattern;
use longwire_proto::position::Lineage;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use longwire_proto::wire::server_frame::Frame;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::auth::authorise::authorise;
use crate::auth::guard::Whoever;
use crate::auth::operation::Operation;
use crate::cursor::{CursorName, positions};
use crate::filter::{Filter, Passed};
use crate::fold::folded;
use crate::ramp::Ramp;
use crate::read_view::ReadView;
use crate::store::reconcile::retry_read;
use crate::store::{Change, ListQuery, LogId, ReadLimit, Store, StoreError};
use crate::store_error::{corrupt, in_session, to_error};
use crate::subscription::{Event, Window};
use crate::worker_groups::watchers::Watching;

/// Records of one delivery.
const PIECE_RECORDS: usize = 4096;
/// Changes looked at together.
const CHANGES: usize = 1024;
/// Sessions listed together when the subscription begins.
const LISTED: usize = 1000;
/// How long a hint of the feed is waited for before it is looked at all the same.
const HINT_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the reading of each session begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternFrom {
    /// With its first retained record.
    Start,
    /// Sessions that are there with what is published from now on, later ones with their first record.
    End,
    /// Where the principal's cursor of this name is in it, else with its first retained record.
    Cursor(CursorName),
}

/// What a subscription of a pattern is asked for.
#[derive(Clone, Debug)]
pub struct PatternWish {
    /// Its number on the connection.
    pub number: u32,
    /// How frames are written.
    pub encoding: Encoding,
    /// Which sessions.
    pub pattern: Pattern,
    /// Where each begins.
    pub from: PatternFrom,
    /// Which records; `None` for all.
    pub filter: Option<Filter>,
    /// How they are seen.
    pub view: ReadView,
    /// Whose subscription it is: it shows what they may see at any time.
    pub whoever: Whoever,
}

impl PatternWish {
    fn wants(&self, session: &SessionId) -> bool {
        self.pattern.matches(session) && self.allows(session).is_ok()
    }

    fn allows(&self, session: &SessionId) -> Result<(), Error> {
        authorise(&self.whoever.borrow(), Operation::SubscribePattern, session)
    }
}

#[derive(Clone)]
struct Followed {
    session: SessionId,
    lineage: Lineage,
    next: u64,
    end: u64,
    /// Whether it waits in `unread`.
    queued: bool,
}

/// See the top of this file.
pub struct PatternSubscription {
    wish: PatternWish,
    store: Arc<dyn Store>,
    commits: watch::Receiver<u64>,
    /// Everything of the feed up to this commit was looked at.
    through: u64,
    /// A deletion may have left the feed before it was looked at.
    may_lack_deletions: bool,
    followed: HashMap<LogId, Followed>,
    /// Sessions that have more, each once, in the order in which it was found out: none waits for ever behind another.
    unread: VecDeque<LogId>,
    /// Frames to be sent before any further delivery.
    news: VecDeque<Frame>,
    /// Offsets that its deliveries have covered, of all sessions together: what credit counts.
    covered: u64,
    ramp: Ramp,
    window: Option<Window>,
    ended: bool,
    _watching: Option<Watching>,
}

impl PatternSubscription {
    /// Begins: finds the sessions that match now.
    ///
    /// # Errors
    /// [`ErrorCode::PatternTooBroad`], and those of the store.
    pub async fn open(store: Arc<dyn Store>, wish: PatternWish) -> Result<Self, Error> {
        let mut commits = store.commits();
        // Taken before the list: what changes in between is found twice, and never missed.
        let through = *commits.borrow_and_update();
        let mut subscription = Self {
            wish,
            store,
            commits,
            through,
            may_lack_deletions: false,
            followed: HashMap::new(),
            unread: VecDeque::new(),
            news: VecDeque::new(),
            covered: 0,
            ramp: Ramp::default(),
            window: None,
            ended: false,
            _watching: None,
        };
        subscription.list().await?;
        Ok(subscription)
    }

    /// Keeps at most `bytes_max` bytes of records that were sent and not consumed; one delivery may pass it.
    #[must_use]
    pub fn with_window(mut self, bytes_max: u64, consumed_through: watch::Receiver<u64>) -> Self {
        self.window = Some(Window::new(bytes_max, consumed_through));
        self
    }

    /// Whoever reads it may do what there is to do.
    #[must_use]
    pub fn with_watching(mut self, watching: Option<Watching>) -> Self {
        self._watching = watching;
        self
    }

    /// How many sessions it follows.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.followed.len()
    }

    async fn list(&mut self) -> Result<(), Error> {
        let store = Arc::clone(&self.store);
        let committed = match &self.wish.from {
            PatternFrom::Cursor(cursor) => positions(&*store, cursor).await?,
            PatternFrom::Start | PatternFrom::End => HashMap::new(),
        };
        let prefix = self.wish.pattern.prefix().to_owned();
        let mut query = ListQuery { prefix, limit: LISTED, ..ListQuery::default() };
        loop {
            let page = retry_read(|| store.list(query.clone())).await.map_err(|error| to_error(&error))?;
            for listed in page.sessions {
                if !self.wish.wants(&listed.session) {
                    continue;
                }
                let from = match &self.wish.from {
                    PatternFrom::Start => listed.start,
                    PatternFrom::End => listed.end,
                    PatternFrom::Cursor(_) => committed.get(&listed.log).copied().unwrap_or(listed.start),
                };
                let followed = Followed {
                    session: listed.session,
                    lineage: listed.lineage,
                    next: from,
                    end: listed.end,
                    queued: false,
                };
                let status = Summary::decode(&listed.projection).map(|summary| summary.status);
                self.follow(listed.log, followed, listed.start, status.unwrap_or_default())?;
            }
            match page.more_after {
                Some(after) => query.after = Some(after),
                None => return Ok(()),
            }
        }
    }

    fn follow(
        &mut self,
        log: LogId,
        mut followed: Followed,
        start: u64,
        status: Status,
    ) -> Result<(), Error> {
        if self.followed.len() >= PATTERN_SESSIONS_MAX && !self.followed.contains_key(&log) {
            let message = format!(
                "more than {PATTERN_SESSIONS_MAX} sessions match `{}`; subscribe to narrower patterns",
                self.wish.pattern
            );
            return Err(Error::new(ErrorCode::PatternTooBroad, message)
                .field("pattern")
                .limit(PATTERN_SESSIONS_MAX));
        }
        let gap_from = followed.next;
        let outcome = if gap_from < start { Outcome::Gap } else { Outcome::Resumed };
        followed.next = gap_from.max(start);
        self.tell(&followed, start, outcome, gap_from, status);
        self.followed.insert(log, followed);
        self.enqueue(log);
        Ok(())
    }

    /// Says where the reading of a session begins, or that it goes on behind a gap. Of what is open only the status is told, which is known
    /// without loading the session.
    fn tell(&mut self, followed: &Followed, start: u64, outcome: Outcome, gap_from: u64, status: Status) {
        let state = wire::SessionState { status: status.as_str().to_owned(), ..Default::default() };
        self.news.push_back(Frame::Subscribed(wire::Subscribed {
            subscription: self.wish.number,
            session: followed.session.to_string(),
            exists: true,
            epoch: followed.lineage.epoch_at(followed.next),
            start,
            end: followed.end,
            outcome: outcome.as_str().to_owned(),
            from: followed.next,
            gap_from: if outcome == Outcome::Gap { gap_from } else { 0 },
            pattern: self.wish.pattern.to_string(),
            state: (status != Status::Idle).then(|| Box::new(state)),
            ..Default::default()
        }));
    }

    fn enqueue(&mut self, log: LogId) {
        if let Some(followed) = self.followed.get_mut(&log)
            && followed.next < followed.end
            && !followed.queued
        {
            followed.queued = true;
            self.unread.push_back(log);
        }
    }

    /// What comes next; `None` after the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        while !self.ended {
            if let Some(frame) = self.news.pop_front() {
                return Some(Event::Frame(Box::new(frame)));
            }
            if let Some(window) = &mut self.window {
                window.wait_for_room().await;
            }
            // Taken off the queue only when it was read, so that a dropped future leaves it there.
            if let Some(log) = self.unread.front().copied() {
                if let Some(event) = self.read(log).await {
                    return Some(event);
                }
                continue;
            }
            let looked = match self.may_lack_deletions {
                true => self.look_for_deleted().await,
                false => self.look_at_changes().await,
            };
            if let Err(error) = looked {
                self.ended = true;
                return Some(Event::Ended { epoch: 0, next: 0, error });
            }
        }
        None
    }

    async fn read(&mut self, log: LogId) -> Option<Event> {
        let (session, next, end) = match self.followed.get(&log) {
            Some(followed) if followed.next < followed.end => {
                // A delivery is of one epoch: a reader makes positions of it.
                let until = followed.lineage.until(followed.next).unwrap_or(u64::MAX);
                (followed.session.clone(), followed.next, followed.end.min(until))
            }
            _ => {
                self.dequeue(log);
                return None;
            }
        };
        let records = usize::try_from(end - next).unwrap_or(usize::MAX).min(PIECE_RECORDS);
        let limit = ReadLimit { records, bytes: self.ramp.bytes_max() };
        let read = retry_read(|| self.store.read(log, next, limit)).await;
        if let Err(error @ StoreError::Read(_)) = &read {
            // Nothing is wrong with this session. Left, it would be joined again with its first record at its next change.
            self.ended = true;
            return Some(Event::Ended { epoch: 0, next: 0, error: to_error(error) });
        }
        self.dequeue(log);
        // Looked at after the reading: nothing is shown that may not be seen by now.
        if let Err(error) = self.wish.allows(&session) {
            return self.left(log, error);
        }
        let chunk = match read {
            Ok(chunk) if !chunk.records.is_empty() || chunk.from > next => chunk,
            Ok(_) => {
                let damaged = corrupt(&session, format!("at offset {next}: records are missing"));
                return self.left(log, damaged);
            }
            Err(StoreError::Deleted | StoreError::NotFound) => {
                return self.left(log, Error::new(ErrorCode::SessionDeleted, "the session was deleted"));
            }
            Err(error) => return self.left(log, in_session(&session, &error)),
        };
        let followed = self.followed.get_mut(&log)?;
        if chunk.from > next {
            followed.next = chunk.from;
            let told = followed.clone();
            self.tell(&told, chunk.from, Outcome::Gap, next, Status::Idle);
            self.enqueue(log);
            return None;
        }
        self.ramp.given(chunk.records.iter().map(Bytes::len).sum());
        followed.next = chunk.next();
        let (session, after) = (followed.session.clone(), followed.next);
        let epoch = followed.lineage.epoch_at(after);
        self.enqueue(log);
        Some(self.deliver(&session, epoch, next..after, &chunk.records))
    }

    fn deliver(
        &mut self,
        session: &SessionId,
        epoch: u64,
        range: std::ops::Range<u64>,
        records: &[Bytes],
    ) -> Event {
        let next = range.end;
        let passed = match (self.wish.view, &self.wish.filter) {
            (ReadView::Folded, filter) => Some(folded(range.start, records, filter.as_ref())),
            (ReadView::Raw, Some(filter)) => Some(filter.apply(range.start, records)),
            (ReadView::Raw, None) => None,
        };
        let (body, bytes) = match passed {
            Some(Passed { records, offsets }) => {
                let bytes = records.iter().map(Bytes::len).sum();
                let encoding = self.wish.encoding;
                (DeliveryBody::sparse(encoding, epoch, range.clone(), &records, offsets), bytes)
            }
            None => {
                let bytes = records.iter().map(Bytes::len).sum();
                (DeliveryBody::new(self.wish.encoding, epoch, range.start, records), bytes)
            }
        };
        match body {
            Ok(body) => {
                self.covered += range.end - range.start;
                if let Some(window) = &mut self.window {
                    window.sent(self.covered, bytes);
                }
                Event::Delivery { frame: body.frame(self.wish.number, Some(session)), next }
            }
            Err(error) => {
                self.ended = true;
                Event::Ended { epoch, next: range.start, error }
            }
        }
    }

    fn dequeue(&mut self, log: LogId) {
        if self.unread.front() == Some(&log) {
            self.unread.pop_front();
        }
        if let Some(followed) = self.followed.get_mut(&log) {
            followed.queued = false;
        }
    }

    /// A session is followed no more; the subscription goes on.
    fn left(&mut self, log: LogId, error: Error) -> Option<Event> {
        let followed = self.followed.remove(&log)?;
        Some(Event::Frame(Box::new(Frame::SubscriptionEnded(wire::SubscriptionEnded {
            subscription: self.wish.number,
            epoch: followed.lineage.epoch_at(followed.next),
            next: followed.next,
            error: Some(error.to_wire()),
            session: followed.session.to_string(),
        }))))
    }

    async fn look_at_changes(&mut self) -> Result<(), Error> {
        self.commits.mark_unchanged();
        let page = retry_read(|| self.store.changes(self.through, CHANGES)).await;
        let page = page.map_err(|error| to_error(&error))?;
        let nothing = page.changes.is_empty();
        self.may_lack_deletions |= page.forgotten > self.through;
        for change in page.changes {
            self.changed(change)?;
        }
        self.through = self.through.max(page.through);
        if nothing {
            // A sender that has gone, and a hint that does not come, are both answered by looking again.
            drop(timeout(HINT_TIMEOUT, self.commits.changed()).await);
        }
        Ok(())
    }

    /// Finds out which of its sessions are there no more, without the feed.
    async fn look_for_deleted(&mut self) -> Result<(), Error> {
        let mut there = HashSet::new();
        let prefix = self.wish.pattern.prefix().to_owned();
        let mut query = ListQuery { prefix, limit: LISTED, ..ListQuery::default() };
        loop {
            let page =
                retry_read(|| self.store.list(query.clone())).await.map_err(|error| to_error(&error))?;
            there.extend(page.sessions.iter().map(|listed| listed.log));
            match page.more_after {
                Some(after) => query.after = Some(after),
                None => break,
            }
        }
        self.may_lack_deletions = false;
        let gone: Vec<LogId> = self.followed.keys().filter(|log| !there.contains(log)).copied().collect();
        for log in gone {
            let deleted = Error::new(ErrorCode::SessionDeleted, "the session was deleted");
            if let Some(Event::Frame(frame)) = self.left(log, deleted) {
                self.news.push_back(*frame);
            }
        }
        Ok(())
    }

    fn changed(&mut self, change: Change) -> Result<(), Error> {
        let Change { log, session, lineage, start, end, deleted, .. } = change;
        if let Some(followed) = self.followed.get_mut(&log) {
            if deleted {
                let gone = Error::new(ErrorCode::SessionDeleted, "the session was deleted");
                if let Some(Event::Frame(frame)) = self.left(log, gone) {
                    self.news.push_back(*frame);
                }
                return Ok(());
            }
            if let Err(error) = self.wish.allows(&followed.session) {
                if let Some(Event::Frame(frame)) = self.left(log, error) {
                    self.news.push_back(*frame);
                }
                return Ok(());
            }
            followed.end = followed.end.max(end);
            followed.lineage = lineage;
            self.enqueue(log);
            return Ok(());
        }
        if deleted || session.is_reserved() || !self.wish.wants(&session) {
            return Ok(());
        }
        let followed = Followed { session, lineage, next: start, end, queued: false };
        // What happened to it since is in its records, all of which come.
        self.follow(log, followed, start, Status::Idle)
    }
}
