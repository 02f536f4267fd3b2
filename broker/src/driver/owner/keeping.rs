//! What an owner does to keep a log as long as it is to be kept: trims, the retention, the expiry.

use std::sync::Arc;
use std::time::Duration;

use longwire_core::command::Command;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::position::{Position, Resume};
use longwire_proto::retention::Retention;
use tokio::time::Instant;

use crate::driver::owner::{
    Ending, LOOK_AGAIN_MS, LOOK_PAUSE, Oldest, Owner, RETENTION_PAUSE, TRIMS_MAX, Turn,
};
use crate::driver::runs::Runs;
use crate::driver::trimmer::{Extent, Plan, Stage, Trimming, Wish, plan};
use crate::driver::{Loaded, UNFINISHED_MS, unknown};
use crate::request::ReplyTo;
use crate::store::list::is_unfinished;
use crate::store::{StoreError, reconcile};
use crate::store_error::in_session;

impl Owner {
    pub(super) fn start(&self) -> u64 {
        self.loaded.machine.state().start()
    }

    pub(super) fn trim(&mut self, before: Position, reply_to: ReplyTo) {
        let (state, end) = (self.loaded.machine.state(), self.loaded.machine.durable_end());
        let refused = match state.lineage().resume(before) {
            _ if !self.loaded.exists => Error::no_such_session(),
            Resume::EpochChanged(_) => {
                let message = "the position belongs to another history of the session";
                Error::new(ErrorCode::ForeignPosition, message).field("before")
            }
            Resume::At(offset) if offset > end => {
                let message = format!("the session ends at {end}; nothing beyond can be trimmed");
                Error::new(ErrorCode::OutOfRange, message).field("before").expected(end)
            }
            Resume::At(_) if self.waiting_trims.len() >= TRIMS_MAX => {
                let message = "too many trims of this session wait; try again later";
                Error::new(ErrorCode::Overloaded, message).limit(TRIMS_MAX).retry_after_ms(100)
            }
            Resume::At(offset) => {
                self.waiting_trims.push_back((offset, reply_to));
                return self.next_trim();
            }
        };
        reply_to.answer(Err(refused));
    }

    /// Counts the batch that has become durable.
    pub(super) fn note_appended(&mut self) {
        let (run, erases) = self.appending;
        self.loaded.bytes += run.bytes;
        let keeps_all = self.loaded.machine.state().summary().meta.retention == Retention::default();
        if keeps_all || erases {
            // What is erased has other bytes by and by; where nothing is trimmed nobody asks.
            self.runs = Runs::new(run.until);
        } else {
            self.runs.appended(run);
        }
    }

    pub(super) fn next_trim(&mut self) {
        if self.trimming.is_none()
            && let Some((offset, reply_to)) = self.waiting_trims.pop_front()
        {
            self.begin_trimming(Wish::Before(offset), Some(reply_to));
        }
    }

    pub(super) fn begin_trimming(&mut self, wish: Wish, reply_to: Option<ReplyTo>) {
        let Loaded { log, own_from, bytes, .. } = self.loaded;
        let (start, end) = (self.start(), self.loaded.machine.durable_end());
        let extent = Extent { log, start, end, own_from, bytes };
        let planned = plan(Arc::clone(&self.store), extent, wish, self.runs.clone());
        let stage = Stage::Planning(Box::pin(planned));
        self.trimming = Some(Trimming { stage, reply_to });
    }

    pub(super) fn planned(&mut self, outcome: Result<Plan, StoreError>) {
        match (outcome, &mut self.trimming) {
            (Ok(plan), Some(trimming)) => {
                self.oldest = plan.oldest_ms.map_or(Oldest::None, Oldest::At);
                trimming.stage = Stage::Covering(plan);
                if plan.start <= self.start() {
                    self.trimming_done(Ok(()));
                }
            }
            (Err(error), _) => self.trimming_done(Err(in_session(&self.session, &error))),
            (Ok(_), None) => {}
        }
    }

    /// Hands a trim to the store as soon as a durable snapshot covers what goes.
    pub(super) fn cover(&mut self) {
        let Some(Trimming { stage, .. }) = &mut self.trimming else { return };
        let Stage::Covering(plan) = *stage else { return };
        if self.loaded.machine.snapshot_through() >= plan.start {
            let Loaded { log, term, .. } = self.loaded;
            let trimmed = reconcile::trim(&self.store, log, term, plan.start, plan.freed_bytes);
            *stage = Stage::Storing(plan, trimmed);
        } else {
            self.loaded.machine.request_snapshot();
            self.release();
        }
    }

    pub(super) fn trimmed(&mut self, outcome: Result<(), StoreError>) -> Option<Turn> {
        let Some(Trimming { stage: Stage::Storing(plan, _), .. }) = &self.trimming else { return None };
        let plan = *plan;
        match outcome {
            Ok(()) => {
                self.loaded.machine.trimmed(plan.start);
                self.loaded.bytes = self.loaded.bytes.saturating_sub(plan.freed_bytes);
                self.runs.trimmed(plan.start, self.loaded.bytes);
                self.tail.trimmed(plan.start);
                self.prune();
                self.trimming_done(Ok(()));
                None
            }
            Err(error) => {
                self.trimming_done(Err(in_session(&self.session, &error)));
                self.refuse_waiting(&unknown("the session is being loaded again"));
                Some(Turn::Reload(None))
            }
        }
    }

    pub(super) fn trimming_done(&mut self, outcome: Result<(), Error>) {
        let reply_to = self.trimming.take().and_then(|trimming| trimming.reply_to);
        if outcome.is_err() {
            // What the plan said of the first record holds once what is before it has gone.
            self.oldest = Oldest::Unknown;
        }
        match (reply_to, outcome) {
            (Some(reply_to), Ok(())) => self.command(Command::Describe, reply_to),
            (Some(reply_to), Err(error)) => reply_to.answer(Err(error)),
            (None, Ok(())) => {}
            (None, Err(error)) => tracing::warn!(%error, "the retention of a session waits"),
        }
        let woken = std::mem::take(&mut self.woken);
        if !woken.is_empty() {
            self.look_after_leases();
            self.loaded.machine.handle_timeout(self.now_for_age(), self.wake_ms());
        }
        for reply_to in woken {
            self.command(Command::Flush, reply_to);
        }
        self.next_trim();
    }

    /// The deadline that the list of sessions has for this one has come.
    pub(super) fn wake(&mut self, reply_to: ReplyTo) {
        if self.is_abandoned() {
            return self.end(Ending::Delete, reply_to);
        }
        self.woken.push(reply_to);
        if self.trimming.is_none() {
            match self.retention_due() {
                Some(wish) => self.begin_trimming(wish, None),
                None => self.trimming_done(Ok(())),
            }
        }
    }

    pub(super) fn look_after_age(&mut self) {
        self.look_after_leases();
        if self.loaded.machine.poll_timeout().is_some_and(|due| self.now_for_age() >= due) {
            self.loaded.machine.handle_timeout(self.now_for_age(), self.wake_ms());
        }
        if self.trimming.is_none()
            && self.retention_not_before <= Instant::now()
            && let Some(wish) = self.retention_due()
        {
            self.retention_not_before = Instant::now() + RETENTION_PAUSE;
            self.begin_trimming(wish, None);
        }
    }

    /// The time that decides what is too old. While the clock is not to be trusted nothing is.
    pub(super) fn now_for_age(&self) -> u64 {
        if self.ageing.is_suspended() { 0 } else { self.clock.now_ms() }
    }

    pub(super) fn retention_due(&self) -> Option<Wish> {
        let (machine, start) = (&self.loaded.machine, self.start());
        let retention = machine.state().summary().meta.retention;
        let records = machine.durable_end().saturating_sub(start);
        let now_ms = (!self.ageing.is_suspended()).then(|| self.clock.now_ms());
        let too_old = |age_ms| match (self.oldest, now_ms) {
            (Oldest::Unknown, _) => records > 0,
            (Oldest::At(oldest_ms), Some(now_ms)) => now_ms.saturating_sub(oldest_ms) > age_ms,
            (Oldest::None, _) | (_, None) => false,
        };
        let due = retention.records.is_some_and(|most| records > most)
            || retention.bytes.is_some_and(|most| self.loaded.bytes > most && records > 1)
            || retention.age_ms.is_some_and(too_old);
        due.then_some(Wish::Retained { retention, now_ms })
    }

    /// Whether this is an import that nobody goes on with.
    fn is_abandoned(&self) -> bool {
        let state = self.loaded.machine.state();
        let nothing = self.loaded.machine.durable_end() == self.start();
        let unfinished = self.loaded.exists && is_unfinished(&self.session) && self.at_rest();
        unfinished && (nothing || self.now_for_age().saturating_sub(state.last_time_ms()) > UNFINISHED_MS)
    }

    /// When the session wants to be woken apart from its expiry, in Unix milliseconds.
    pub(super) fn wake_ms(&self) -> Option<u64> {
        if is_unfinished(&self.session) {
            return Some(self.loaded.machine.state().last_time_ms().saturating_add(UNFINISHED_MS + 1));
        }
        self.too_old_ms()
    }

    /// When the first retained record is too old, in Unix milliseconds.
    fn too_old_ms(&self) -> Option<u64> {
        let age_ms = self.loaded.machine.state().summary().meta.retention.age_ms?;
        let oldest_ms = match self.oldest {
            Oldest::At(oldest_ms) => oldest_ms,
            Oldest::Unknown => self.loaded.machine.state().summary().created_ms,
            Oldest::None => return None,
        };
        Some(oldest_ms.saturating_add(age_ms).saturating_add(1))
    }

    /// Whether something is due, however much is asked meanwhile. It looks now and then.
    pub(super) fn is_overdue(&mut self) -> bool {
        let now = Instant::now();
        if now < self.look_not_before {
            return false;
        }
        self.look_not_before = now + LOOK_PAUSE;
        self.due_at(now).is_some_and(|due_at| due_at <= now)
    }

    /// When something must be done because time has passed.
    pub(super) fn due_at(&self, now: Instant) -> Option<Instant> {
        let expires_ms = self.loaded.machine.poll_timeout();
        let now_ms = self.clock.now_ms();
        let at =
            |when_ms: u64| now + Duration::from_millis(when_ms.saturating_sub(now_ms).min(LOOK_AGAIN_MS));
        let expires_at = expires_ms.filter(|_| !self.ageing.is_suspended()).map(at);
        let retention_at = match (self.trimming.is_some(), self.retention_due()) {
            (true, _) => None,
            (false, Some(_)) => Some(now),
            (false, None) => self.too_old_ms().filter(|_| !self.ageing.is_suspended()).map(at),
        };
        let retention_at = retention_at.map(|at| at.max(self.retention_not_before));
        // How long ago a holder was heard has nothing to do with what time it is.
        let lapses_at = self.loaded.machine.poll_lapse().map(at);
        [expires_at, retention_at, lapses_at].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use longwire_proto::meta::Meta;
    use longwire_proto::record::Sender;
    use longwire_proto::session_id::SessionId;

    use super::*;
    use crate::ageing::Ageing;
    use crate::clock::Clock;
    use crate::driver::nonce::Nonces;
    use crate::driver::{Common, Driver, load};
    use crate::hub::Hub;
    use crate::queue::queue;
    use crate::request::Operation;
    use crate::store::conformance::{ALL, Session, batch};
    use crate::store::memory::MemoryStore;
    use crate::store::{Batch, Store};
    use crate::tail::Tail;

    /// A session that has more than it keeps.
    async fn overfull(store: &Arc<MemoryStore>, name: &SessionId) {
        let shared = Arc::clone(store) as Arc<dyn Store>;
        let hub = Hub::new(shared, Clock::start(), Ageing::default(), Duration::from_secs(60));
        let sender = Sender { principal: "ada".into(), ..Sender::default() };
        let retention = Retention { records: Some(1), ..Retention::default() };
        let meta = Box::new(Meta { retention, ..Meta::default() });
        let create = Command::Create { sender, meta, update: false };
        hub.ask(name, Operation::Command(create)).await.unwrap();
        hub.drain().await;
        // Behind the back of an owner, who would trim it.
        let session = Session::open(&**store, name.as_str()).await;
        let (log, term) = (session.opened.log, session.opened.term);
        let chunk = store.read(log, 0, ALL).await.unwrap();
        let again = Batch { records: chunk.records, ..batch(9, session.end, &[]) };
        store.append(log, term, session.version, again).await.unwrap();
    }

    /// A timer that is set for "now" at every look goes off by luck.
    #[tokio::test(start_paused = true)]
    async fn what_is_due_is_due_at_every_look_but_not_before_the_pause_is_over() {
        let store = Arc::new(MemoryStore::default());
        let session = SessionId::parse("a").unwrap();
        overfull(&store, &session).await;
        let loaded = load(&*store, &session).await.unwrap();
        let common = Common {
            store,
            clock: Clock::start(),
            ageing: Ageing::default(),
            nonces: Arc::new(Nonces::default()),
            idle: Duration::from_secs(60),
        };
        let (_requests, inbox) = queue(1);
        let driver = Driver::new(session, common, Arc::new(Tail::new(Arc::default())), inbox, false);
        let mut owner = Owner::new(&driver, loaded, 1, None);
        for _ in 0..3 {
            tokio::time::advance(LOOK_PAUSE).await;
            let now = Instant::now();
            assert!(owner.due_at(now).is_some_and(|due_at| due_at <= now));
            assert!(owner.is_overdue());
            assert!(!owner.is_overdue(), "it looks now and then");
        }
        owner.retention_not_before = Instant::now() + RETENTION_PAUSE;
        while Instant::now() < owner.retention_not_before {
            assert_eq!(owner.due_at(Instant::now()), Some(owner.retention_not_before));
            assert!(!owner.is_overdue());
            tokio::time::advance(LOOK_PAUSE).await;
        }
        assert!(owner.is_overdue());
        owner.look_after_age();
        assert!(owner.trimming.is_some() && owner.due_at(Instant::now()).is_none());
    }
}
