//! Logs that nobody has open. They leave memory when there are more of them than are worth keeping.

use crate::store::local::log::Log;
use crate::store::local::state::State;
use crate::store::{LogId, Term};

/// Logs in memory that nobody has open: who comes back soon finds them there, without looking into the database.
pub const RESTING_LOGS_MAX: usize = 2048;
/// Resting logs that are looked at for each one that comes to rest.
const RESTING_LOOKS: usize = 4;
/// Resting logs that are looked at together, while nobody else has the state.
pub const FORGET_STEP: usize = 256;

impl State {
    /// Nobody has a log open since this opening. What is given back is for dropping without holding the state.
    pub fn release(&mut self, id: LogId, term: Term) -> Vec<Box<Log>> {
        if let Some(log) = self.logs.get_mut(&id).filter(|log| log.term == term) {
            log.resting = true;
            self.resting.push_back((id, term));
        }
        self.forget_resting(RESTING_LOOKS)
    }

    /// Forgets those that have been resting for longest, when there are too many and the database knows them. What is given back
    /// is for dropping without holding the state.
    pub fn forget_resting(&mut self, looks: usize) -> Vec<Box<Log>> {
        let mut forgotten = Vec::new();
        for _ in 0..looks {
            if self.resting.len() <= self.resting_max {
                break;
            }
            let Some(&(id, term)) = self.resting.front() else { break };
            let rests = self.logs.get(&id).is_some_and(|log| log.term == term && log.resting);
            if rests && !self.may_forget(id) {
                // Its turn comes when it is settled, as that of those behind it.
                break;
            }
            self.resting.pop_front();
            if rests {
                forgotten.extend(self.forget(id));
            }
        }
        forgotten
    }

    /// How many logs are resting, those included that were opened again.
    #[must_use]
    pub fn resting(&self) -> usize {
        self.resting.len()
    }
}
