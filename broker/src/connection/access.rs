//! Whom a connection was let in as, and what it may therefore do.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use longwire_core::command::Reply;
use longwire_core::entity::standing::Standing;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::record::Sender;
use longwire_proto::session_id::SessionId;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::auth::authorise::{Subject, act_as, authorise};
use crate::auth::guard::{Guard, Whoever};
use crate::auth::operation::Operation;
use crate::auth::principal::Principal;
use crate::connection::decisions::Decisions;
use crate::connection::request;
use crate::connection::witness::{Management, Witness};
use crate::quota::{ConnectionPermit, Meter, RequestPermit, SubscriptionPermit};

/// How far ahead it is known when to look again: timers do not reach as far as some tokens.
const LOOK_AGAIN: Duration = Duration::from_secs(60 * 60);

/// See the top of this file.
pub(super) struct Access {
    guard: Arc<Guard>,
    changes: watch::Receiver<u64>,
    principal: watch::Sender<Arc<Principal>>,
    witness: Witness,
    decisions: Decisions,
    /// Resolves when the guard says that something changed.
    watching: BoxFuture<'static, ()>,
    look_at: Instant,
    permit: ConnectionPermit,
    /// Creations of sessions that were counted, and have come to nothing yet.
    creations: usize,
}

/// Whether a publish may create its session. That is counted before anybody knows whether it must.
#[derive(Debug)]
pub(super) enum Creation {
    /// What is asked is no publish.
    None,
    /// It may.
    Counted,
    /// It may not, for this reason.
    Refused(Error),
}

fn watching(mut changes: watch::Receiver<u64>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        if changes.changed().await.is_err() {
            // The guard lives as long as its connections.
            std::future::pending::<()>().await;
        }
    })
}

impl Access {
    /// What somebody may do who was let in.
    pub(super) fn new(
        guard: Arc<Guard>,
        principal: Principal,
        witness: Witness,
        permit: ConnectionPermit,
    ) -> Self {
        let mut changes = guard.changes();
        changes.mark_changed();
        let principal = watch::Sender::new(Arc::new(principal));
        Self {
            guard,
            watching: watching(changes.clone()),
            changes,
            principal,
            witness,
            decisions: Decisions::default(),
            look_at: Instant::now(),
            permit,
            creations: 0,
        }
    }

    /// Waits until it is to be looked again whether somebody may stay.
    pub(super) async fn is_due(&mut self) {
        tokio::select! {
            () = tokio::time::sleep_until(self.look_at) => {}
            // The guard lives as long as its connections.
            _ = self.changes.changed() => {}
        }
    }

    /// Whether it is to be looked again by now whether somebody may stay.
    pub(super) fn is_due_by(&self, now: Instant) -> bool {
        now >= self.look_at || self.changes.has_changed().unwrap_or(false)
    }

    /// When it is to be looked again at the latest.
    pub(super) fn look_at(&self) -> Instant {
        self.look_at
    }

    /// Waits for a change that makes it due.
    pub(super) fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.changes.has_changed().unwrap_or(false) {
            // It may have been looked at already, on another way.
            ready!(self.watching.as_mut().poll(context));
            self.watching = watching(self.changes.clone());
        }
        Poll::Ready(())
    }

    /// Waits until somebody may stay no longer: why.
    pub(super) async fn ends(&mut self) -> Error {
        loop {
            self.is_due().await;
            if let Err(error) = self.check() {
                return error;
            }
        }
    }

    /// Whether somebody may stay.
    ///
    /// # Errors
    /// Those of [`Guard::check`].
    pub(super) fn check(&mut self) -> Result<(), Error> {
        self.changes.mark_unchanged();
        let principal = self.principal();
        self.guard.check(&principal)?;
        let left = Duration::from_millis(self.guard.left_ms(&principal));
        self.look_at = Instant::now() + left.min(LOOK_AGAIN);
        Ok(())
    }

    /// Takes over what a newer token says.
    ///
    /// # Errors
    /// Those of [`Guard::admit`] and [`Principal::refresh`].
    pub(super) fn refresh(&mut self, token: &str) -> Result<(), Error> {
        let next = self.guard.admit(token, &self.device());
        self.witness.authenticated(next.as_ref());
        let next = next?;
        let mut principal = (*self.principal()).clone();
        principal.refresh(next)?;
        self.decisions.forget();
        self.principal.send_replace(Arc::new(principal));
        self.check()
    }

    /// Who it is.
    pub(super) fn principal(&self) -> Arc<Principal> {
        Arc::clone(&self.principal.borrow())
    }

    /// Who it is at any later time.
    pub(super) fn whoever(&self) -> Whoever {
        self.principal.subscribe()
    }

    /// Who let it in.
    pub(super) fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }

    /// Whether something may be done.
    ///
    /// # Errors
    /// Those of [`authorise`].
    // A function of its own, so that its cost can be told (`benches/benches/authorisation.rs`).
    #[inline(never)]
    pub(super) fn authorise(&mut self, operation: Operation, session: &SessionId) -> Result<(), Error> {
        if self.decisions.has(session, operation) {
            return Ok(());
        }
        authorise(&self.principal.borrow(), operation, session)?;
        self.decisions.add(session, operation);
        Ok(())
    }

    /// Whether something may be done that is about everything.
    ///
    /// # Errors
    /// Those of [`authorise`].
    pub(super) fn everything(&self, operation: Operation) -> Result<(), Error> {
        let allowed = authorise(&self.principal.borrow(), operation, Subject::Everything);
        self.told(operation, "", allowed)
    }

    /// Something that is asked, and is told to the audit log when it is of the kind that is.
    pub(super) fn managing(&self, operation: Operation, session: &str) -> Management {
        self.witness.managing(|| self.principal(), operation, session)
    }

    fn told(&self, operation: Operation, session: &str, allowed: Result<(), Error>) -> Result<(), Error> {
        if let Err(error) = &allowed {
            self.witness.refused(&self.principal.borrow(), operation, session, error);
        }
        allowed
    }

    /// The endpoint, as it says itself or as its token says.
    fn device(&self) -> String {
        match self.witness.device() {
            "" => self.principal.borrow().device.clone().unwrap_or_default(),
            device => device.to_owned(),
        }
    }

    /// The session of a request, when that may be done to it.
    ///
    /// # Errors
    /// Those of [`request::session_id`] and [`authorise`].
    pub(super) fn session(&mut self, operation: Operation, text: &str) -> Result<SessionId, Error> {
        let session = self.decisions.named(text).map_or_else(|| request::session_id(text), Ok)?;
        let allowed = self.authorise(operation, &session);
        self.told(operation, text, allowed)?;
        Ok(session)
    }

    /// Who is stamped on what is written.
    pub(super) fn sender(&self) -> Sender {
        self.stamp(&self.principal.borrow())
    }

    /// Who is stamped on what is published to a session in the name of somebody, or in one's own when that is empty.
    ///
    /// # Errors
    /// Those of [`act_as`].
    pub(super) fn publisher(&self, name: &str, session: &SessionId) -> Result<Sender, Error> {
        if name.is_empty() {
            return Ok(self.sender());
        }
        let acting = act_as(&self.principal.borrow(), name, session);
        self.told(Operation::ActAs, session.as_str(), acting.as_ref().map(drop).map_err(Clone::clone))?;
        Ok(self.stamp(&acting?))
    }

    /// What asks and runs of a session go by, of who publishes in the name of somebody, or in one's own when that is empty.
    pub(super) fn standing(&self, name: &str, session: &SessionId) -> Standing {
        let principal = self.principal.borrow();
        let own = principal.standing(session);
        if name.is_empty() { own } else { Standing { manages: own.manages, ..Standing::default() } }
    }

    /// Counts a publish.
    ///
    /// # Errors
    /// Those of [`ConnectionPermit::publish`].
    pub(super) fn count_publish(&self, records: usize, bytes: usize) -> Result<(), Error> {
        self.permit.publish(records, bytes)
    }

    /// Counts a session that is to be created.
    ///
    /// # Errors
    /// Those of [`ConnectionPermit::create_session`].
    pub(super) fn count_creation(&self) -> Result<(), Error> {
        self.permit.create_session()
    }

    /// What counts later.
    pub(super) fn meter(&self) -> Meter {
        self.permit.meter()
    }

    /// Counts a session that a publish creates when there is none.
    pub(super) fn begin_creation(&mut self) -> Creation {
        if self.creations > 0 {
            self.creations -= 1;
            return Creation::Counted;
        }
        self.count_creation().map_or_else(Creation::Refused, |()| Creation::Counted)
    }

    /// What a publish came to: a creation that was counted and was not needed is there for the next one.
    pub(super) fn end_creation(
        &mut self,
        creation: &Creation,
        result: Result<Option<Reply>, Error>,
    ) -> Result<Option<Reply>, Error> {
        let created = matches!(&result, Ok(Some(Reply::Published { from: 0, duplicate: false, .. })));
        match (creation, result) {
            (Creation::Refused(why), Err(error)) if error.code == ErrorCode::SessionNotFound => {
                Err(why.clone())
            }
            (Creation::Counted, result) => {
                self.creations += usize::from(!created);
                result
            }
            (_, result) => result,
        }
    }

    /// A place for one more request whose frame has so many bytes.
    ///
    /// # Errors
    /// Those of [`ConnectionPermit::request`].
    pub(super) fn begin_request(&self, bytes: usize) -> Result<RequestPermit, Error> {
        self.permit.request(bytes)
    }

    /// A place for one more subscription.
    ///
    /// # Errors
    /// Those of [`ConnectionPermit::subscribe`].
    pub(super) fn begin_subscription(&self) -> Result<SubscriptionPermit, Error> {
        self.permit.subscribe()
    }

    fn stamp(&self, principal: &Principal) -> Sender {
        Sender {
            principal: principal.id.clone(),
            device: self.device(),
            via: principal.via.clone().unwrap_or_default(),
            lease: None,
        }
    }
}
