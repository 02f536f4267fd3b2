//! Which log a name has, as far as memory can tell.

use longwire_proto::session_id::SessionId;

use crate::store::LogId;
use crate::store::local::state::State;

/// Names remembered as forgotten: more than are forgotten while one is looked up in the database.
const FORGOTTEN_NAMES: usize = 1024;

impl State {
    /// The log of a name: the resident one, or an id for a name that the database cannot have. `None` when it has to be asked.
    pub fn resident_or_vacant(&mut self, name: &SessionId) -> Option<LogId> {
        if let Some(id) = self.names.get(name) {
            return Some(*id);
        }
        let epoch = self.known.vacant(name.as_str()).filter(|_| !self.vacated.contains_key(name))?;
        Some(self.reserve(name.clone(), epoch))
    }

    /// Whether a name may have been forgotten since `evictions` were counted: who looked into the database meanwhile must
    /// look again. That others were does not matter, or many who open sessions at a time would wait for each other.
    #[must_use]
    pub fn forgot(&self, name: &SessionId, evictions: u64) -> bool {
        let since = (self.evictions - evictions) as usize;
        since > self.forgotten.len() || self.forgotten.iter().rev().take(since).any(|found| found == name)
    }

    /// Who looks a name up in the database meanwhile must look again.
    pub(super) fn forget_name(&mut self, name: SessionId, id: LogId) {
        self.evictions += 1;
        if self.names.get(&name) == Some(&id) {
            self.names.remove(&name);
        }
        if self.forgotten.len() == FORGOTTEN_NAMES {
            self.forgotten.pop_front();
        }
        self.forgotten.push_back(name);
    }
}
