//! How many unsettled bytes there may be, for each session and in all.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::numbered::Numbered;
use crate::store::{LogId, Reservation, Reserved, StoreError};

/// Unsettled bytes of one session: one hot session cannot take the room of all.
pub const SESSION_UNSETTLED_BYTES_MAX: usize = 12 << 20;
/// Unsettled bytes in all: what settling moves in a second or two, and what a start has to settle first.
pub const UNSETTLED_BYTES_MAX: usize = 64 << 20;
/// Room beyond the quota for what must not wait: control, answers, and batches that turn out longer than reserved.
pub const CONTROL_UNSETTLED_BYTES_MAX: usize = 8 << 20;
/// How long a reservation waits for room. Settling makes some within about a second unless the disk is in trouble.
pub const RESERVE_TIMEOUT: Duration = Duration::from_secs(5);

const SESSION: &str = "this session";
const STORE: &str = "the store";

/// The quota in bytes.
#[derive(Clone, Copy, Debug)]
pub struct QuotaLimits {
    /// See [`SESSION_UNSETTLED_BYTES_MAX`].
    pub session: usize,
    /// See [`UNSETTLED_BYTES_MAX`].
    pub all: usize,
    /// See [`CONTROL_UNSETTLED_BYTES_MAX`].
    pub control: usize,
    /// See [`RESERVE_TIMEOUT`].
    pub timeout: Duration,
}

impl Default for QuotaLimits {
    fn default() -> Self {
        Self {
            session: SESSION_UNSETTLED_BYTES_MAX,
            all: UNSETTLED_BYTES_MAX,
            control: CONTROL_UNSETTLED_BYTES_MAX,
            timeout: RESERVE_TIMEOUT,
        }
    }
}

/// Gives out reservations, first come first served.
#[derive(Debug)]
pub struct Quota {
    limits: QuotaLimits,
    all: Arc<Semaphore>,
    control: Arc<Semaphore>,
    // Only sessions that hold or await a reservation: entries without one are swept.
    sessions: Mutex<Numbered<LogId, Weak<Semaphore>>>,
}

/// Held by a reservation; the permits go back when it is dropped.
struct Held {
    // Before the semaphore that it belongs to.
    _session: Option<OwnedSemaphorePermit>,
    _all: OwnedSemaphorePermit,
}

impl Reserved for Held {}

impl Quota {
    /// A quota with these limits.
    #[must_use]
    pub fn new(limits: QuotaLimits) -> Self {
        Self {
            limits,
            all: Arc::new(Semaphore::new(limits.all)),
            control: Arc::new(Semaphore::new(limits.control)),
            sessions: Mutex::default(),
        }
    }

    /// A reservation, when there is room now.
    pub fn try_reserve(&self, log: LogId, bytes: usize) -> Option<Reservation> {
        let session = self.session(log).try_acquire_many_owned(self.session_permits(bytes)).ok()?;
        let all = Arc::clone(&self.all).try_acquire_many_owned(self.permits(bytes)).ok()?;
        Some(Reservation::new(Box::new(Held { _session: Some(session), _all: all }), bytes))
    }

    /// A reservation, as soon as there is room.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] when there is none in time.
    pub async fn reserve(&self, log: LogId, bytes: usize) -> Result<Reservation, StoreError> {
        let session = self.session(log).acquire_many_owned(self.session_permits(bytes));
        let session = match timeout(self.limits.timeout, session).await {
            Ok(Ok(session)) => session,
            _ => return Err(StoreError::Overloaded { scope: SESSION, limit: self.limits.session }),
        };
        let all = Arc::clone(&self.all).acquire_many_owned(self.permits(bytes));
        match timeout(self.limits.timeout, all).await {
            Ok(Ok(all)) => Ok(Reservation::new(Box::new(Held { _session: Some(session), _all: all }), bytes)),
            _ => Err(StoreError::Overloaded { scope: STORE, limit: self.limits.all }),
        }
    }

    /// Room for what was not reserved, from the quota or else from the control reserve.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] when both are taken.
    pub fn charge(&self, bytes: usize) -> Result<Reservation, StoreError> {
        if bytes == 0 {
            return Ok(Reservation::none());
        }
        let all = Arc::clone(&self.all).try_acquire_many_owned(self.permits(bytes));
        let control = u32::try_from(bytes.min(self.limits.control)).unwrap_or(u32::MAX);
        match all.or_else(|_| Arc::clone(&self.control).try_acquire_many_owned(control)) {
            Ok(all) => Ok(Reservation::new(Box::new(Held { _session: None, _all: all }), bytes)),
            Err(_) => Err(StoreError::Overloaded { scope: STORE, limit: self.limits.all }),
        }
    }

    /// Forgets sessions that hold nothing.
    pub fn sweep(&self) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, semaphore| semaphore.strong_count() > 0);
    }

    fn session(&self, log: LogId) -> Arc<Semaphore> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = sessions.entry(log).or_default();
        entry.upgrade().unwrap_or_else(|| {
            let semaphore = Arc::new(Semaphore::new(self.limits.session));
            *entry = Arc::downgrade(&semaphore);
            semaphore
        })
    }

    // A reservation above a quota takes all of it: it waits for an idle store rather than for ever.
    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.limits.all)).unwrap_or(u32::MAX)
    }

    fn session_permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.limits.session)).unwrap_or(u32::MAX)
    }
}
