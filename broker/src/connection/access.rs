//! Whom a connection was let in as, and what it may therefore do.

use std::sync::Arc;
use std::time::Duration;

use longwire_proto::error::Error;
use longwire_proto::record::Sender;
use longwire_proto::session_id::SessionId;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::auth::authorise::{Subject, authorise};
use crate::auth::guard::{Guard, Whoever};
use crate::auth::operation::Operation;
use crate::auth::principal::Principal;
use crate::connection::request;

/// How far ahead it is known when to look again: timers do not reach as far as some tokens.
const LOOK_AGAIN: Duration = Duration::from_secs(60 * 60);

/// See the top of this file.
pub(super) struct Access {
    guard: Arc<Guard>,
    changes: watch::Receiver<u64>,
    principal: watch::Sender<Arc<Principal>>,
    device: String,
    look_at: Instant,
}

impl Access {
    /// What somebody may do who was let in.
    pub(super) fn new(guard: Arc<Guard>, principal: Principal, device: String) -> Self {
        let mut changes = guard.changes();
        changes.mark_changed();
        let device = if device.is_empty() { principal.device.clone().unwrap_or_default() } else { device };
        let principal = watch::Sender::new(Arc::new(principal));
        Self { guard, changes, principal, device, look_at: Instant::now() }
    }

    /// Waits until it is to be looked again whether somebody may stay.
    pub(super) async fn is_due(&mut self) {
        tokio::select! {
            () = tokio::time::sleep_until(self.look_at) => {}
            // The guard lives as long as its connections.
            _ = self.changes.changed() => {}
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
        let next = self.guard.admit(token, &self.device)?;
        let mut principal = (*self.principal()).clone();
        principal.refresh(next)?;
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
    pub(super) fn authorise<'a>(
        &self,
        operation: Operation,
        subject: impl Into<Subject<'a>>,
    ) -> Result<(), Error> {
        authorise(&self.principal.borrow(), operation, subject)
    }

    /// The session of a request, when that may be done to it.
    ///
    /// # Errors
    /// Those of [`request::session_id`] and [`authorise`].
    pub(super) fn session(&self, operation: Operation, text: &str) -> Result<SessionId, Error> {
        let session = request::session_id(text)?;
        self.authorise(operation, &session)?;
        Ok(session)
    }

    /// Who is stamped on what is written.
    pub(super) fn sender(&self) -> Sender {
        self.stamp(&self.principal.borrow())
    }

    /// Who is stamped on what is published to a session in the name of somebody, or in one's own when that is empty.
    ///
    /// # Errors
    /// Those of [`Principal::act_as`].
    pub(super) fn publisher(&self, act_as: &str, session: &SessionId) -> Result<Sender, Error> {
        if act_as.is_empty() {
            return Ok(self.sender());
        }
        Ok(self.stamp(&self.principal.borrow().act_as(act_as, session)?))
    }

    fn stamp(&self, principal: &Principal) -> Sender {
        Sender {
            principal: principal.id.clone(),
            device: self.device.clone(),
            via: principal.via.clone().unwrap_or_default(),
        }
    }
}
