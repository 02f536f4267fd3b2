//! Names that are to be looked up in the database, and what is found. `finder.rs` looks.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use longwire_proto::session_id::SessionId;
use tokio::sync::oneshot;

use crate::store::local::table::logs::LogRow;
use crate::store::{LogId, StoreError};

/// What the database knows about a name.
#[derive(Debug)]
pub enum Lookup {
    /// It has a log.
    Found(LogId, Box<LogRow>),
    /// It has none; a log created now begins with this epoch.
    Vacant(u64),
}

/// What was found, and the removals of names that there had been before it was looked for.
pub type Found = (Lookup, u64);

/// A name that somebody waits for.
pub(super) struct Wanted {
    pub(super) name: SessionId,
    pub(super) reply: oneshot::Sender<Result<Found, StoreError>>,
}

#[derive(Default)]
pub(super) struct Waiting {
    // At most one for each live session, and a few that are renamed or shared.
    pub(super) names: VecDeque<Wanted>,
    /// Threads that look.
    pub(super) threads: usize,
}

/// See the top of this file.
#[derive(Default)]
pub struct Lookups(Mutex<Waiting>);

impl std::fmt::Debug for Lookups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookups").finish_non_exhaustive()
    }
}

impl Lookups {
    pub(super) fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
