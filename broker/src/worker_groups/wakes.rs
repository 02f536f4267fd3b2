//! Which sessions of one group are to be woken, and when: a machine without IO, whose time is an argument.
//!
//! Whoever looks at a session says what it saw ([`Wakes::see`]); a *wake* begins when its agent is called and nobody acts as it, and ends
//! when that is over, or when it was tried as often as the group wants. Of wakes only one number outlives the process: the commit up to which
//! nothing is left to be done ([`Wakes::cursor`]). What is after it is looked at again.

use std::collections::{BTreeMap, BTreeSet};

use longwire_core::entity::call::Call;
use longwire_proto::position::Position;
use longwire_proto::session_id::SessionId;

use crate::store::LogId;

/// How long those who watch have for a claim before the webhook is tried.
pub const GRACE_MS: u64 = 2_000;
/// How long whoever took a webhook has for a claim before it is tried again: a machine that is started for it has time to come up.
pub const CLAIM_WAIT_MS: u64 = 60_000;
/// Longest wait after the first failure; it doubles with each further one.
pub const BACKOFF_BASE_MS: u64 = 1_000;
/// Longest wait after a failure, unless a receiver asks for more.
pub const BACKOFF_MAX_MS: u64 = 5 * 60 * 1000;
/// Longest wait that a receiver can ask for.
pub const RETRY_AFTER_MAX_MS: u64 = 60 * 60 * 1000;
/// Wakes of one group: some hundred bytes each, and there are many groups. What finds no room is found again when there is some.
pub const WAKES_MAX: usize = 1_000;
/// Wakes that were given up and are remembered, so that what happens besides in their sessions does not begin them anew. When one of them is
/// forgotten it may be tried once more.
pub const GIVEN_UP_MAX: usize = 1_000;

/// What somebody saw who looked at a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its log.
    pub log: LogId,
    /// Its name.
    pub session: SessionId,
    /// Its end.
    pub position: Position,
    /// The commit for which it was looked at.
    pub commit: u64,
    /// What calls for the group's agent.
    pub call: Option<Call>,
}

/// One try of a wake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Tells this wake from others of the log.
    pub serial: u64,
    /// The log.
    pub log: LogId,
    /// The session.
    pub session: SessionId,
    /// Where the session ended when the wake began.
    pub position: Position,
    /// What called then.
    pub call: Call,
    /// Which try it is, from 1.
    pub number: u32,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The webhook is to be tried.
    Post(Attempt),
    /// The wake is given up, for this reason: it is to be put among the dead letters.
    Bury(Attempt, String),
}

/// What a [`Step`] came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver took it.
    Accepted,
    /// It did not, for this reason; perhaps it says for how long it wants to be left alone.
    Failed(String, Option<u64>),
    /// It wants to hear of this no more, for this reason.
    Refused(String),
    /// The dead letter is durable.
    Buried,
    /// It is not.
    NotBuried,
}

#[derive(Clone, Debug)]
struct Wake {
    serial: u64,
    session: SessionId,
    position: Position,
    call: Call,
    commit: u64,
    attempts: u32,
    /// When the next step is due; `None` while one is under way.
    due_ms: Option<u64>,
    /// How the last try ended.
    why: String,
    is_lost: bool,
}

/// See the top of this file.
#[derive(Debug)]
pub struct Wakes {
    in_flight_max: usize,
    attempts_max: u32,
    wakes: BTreeMap<LogId, Wake>,
    due: BTreeSet<(u64, LogId)>,
    commits: BTreeSet<(u64, LogId)>,
    given_up: BTreeMap<LogId, Call>,
    under_way: usize,
    serial: u64,
    /// The first commit for which a wake found no room.
    lacks: Option<u64>,
}

impl Wakes {
    /// None yet, of a group that wants so many at once and so many tries.
    #[must_use]
    pub fn new(in_flight_max: usize, attempts_max: u32) -> Self {
        Self {
            in_flight_max,
            attempts_max,
            wakes: BTreeMap::new(),
            due: BTreeSet::new(),
            commits: BTreeSet::new(),
            given_up: BTreeMap::new(),
            under_way: 0,
            serial: 0,
            lacks: None,
        }
    }

    /// The group wants other numbers from now on.
    pub fn change(&mut self, in_flight_max: usize, attempts_max: u32) {
        (self.in_flight_max, self.attempts_max) = (in_flight_max, attempts_max);
    }

    /// The group wants to wake others. What is under way ends in its time.
    pub fn clear(&mut self) {
        self.wakes.clear();
        self.due.clear();
        self.commits.clear();
        self.given_up.clear();
        self.lacks = None;
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.wakes.len()
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (LogId, &SessionId)> {
        self.wakes.iter().map(|(log, wake)| (*log, &wake.session))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wakes.is_empty()
    }

    /// A session was looked at. `watched`: somebody is connected who watches it, and may claim its agent.
    pub fn see(&mut self, seen: Seen, watched: bool, now_ms: u64) {
        let Seen { log, session, position, commit, call } = seen;
        let Some(call) = call else {
            self.given_up.remove(&log);
            return self.end(log);
        };
        if self.wakes.get(&log).is_some_and(|wake| wake.call.generation == call.generation) {
            // What was called before is called still: whoever comes finds all of it.
            return;
        }
        if self.given_up.get(&log) == Some(&call) {
            return;
        }
        self.given_up.remove(&log);
        self.end(log);
        if self.wakes.len() >= WAKES_MAX {
            self.lacks = Some(self.lacks.map_or(commit, |lacks| lacks.min(commit)));
            return;
        }
        let due_ms = now_ms.saturating_add(if watched { GRACE_MS } else { 0 });
        self.serial += 1;
        let (serial, attempts, why) = (self.serial, 0, String::new());
        let wake = Wake {
            serial,
            session,
            position,
            call,
            commit,
            attempts,
            due_ms: Some(due_ms),
            why,
            is_lost: false,
        };
        self.due.insert((due_ms, log));
        self.commits.insert((commit, log));
        self.wakes.insert(log, wake);
    }

    fn end(&mut self, log: LogId) {
        if let Some(wake) = self.wakes.remove(&log) {
            self.commits.remove(&(wake.commit, log));
            if let Some(due_ms) = wake.due_ms {
                self.due.remove(&(due_ms, log));
            }
        }
    }

    /// What is to be done now. It is under way until [`Wakes::ended`].
    pub fn next(&mut self, now_ms: u64) -> Option<Step> {
        let (due_ms, log) = self.first_due().filter(|(due_ms, _)| *due_ms <= now_ms)?;
        let wake = self.wakes.get_mut(&log)?;
        self.due.remove(&(due_ms, log));
        wake.due_ms = None;
        self.under_way += 1;
        let is_over = wake.is_lost || wake.attempts >= self.attempts_max;
        if !is_over {
            wake.attempts += 1;
        }
        let attempt = Attempt {
            serial: wake.serial,
            log,
            session: wake.session.clone(),
            position: wake.position,
            call: wake.call,
            number: wake.attempts,
        };
        Some(if is_over { Step::Bury(attempt, wake.why.clone()) } else { Step::Post(attempt) })
    }

    fn first_due(&self) -> Option<(u64, LogId)> {
        self.due.first().copied().filter(|_| self.under_way < self.in_flight_max)
    }

    /// When there is something to be done, unless something ends or is seen before.
    #[must_use]
    pub fn next_at_ms(&self) -> Option<u64> {
        self.first_due().map(|(due_ms, _)| due_ms)
    }

    /// A step has ended. Waits are between half and all of what they can be, by `random`.
    pub fn ended(&mut self, log: LogId, serial: u64, outcome: Outcome, now_ms: u64, random: u64) {
        self.under_way = self.under_way.saturating_sub(1);
        let Some(wake) = self.wakes.get_mut(&log).filter(|wake| wake.serial == serial) else { return };
        let wait_ms = match outcome {
            Outcome::Accepted => {
                "it was accepted, and then nobody claimed the agent".clone_into(&mut wake.why);
                CLAIM_WAIT_MS
            }
            Outcome::Failed(why, retry_after_ms) => {
                wake.why = why;
                let asked_ms = retry_after_ms.unwrap_or_default().min(RETRY_AFTER_MAX_MS);
                if wake.attempts >= self.attempts_max {
                    0
                } else {
                    backoff_ms(wake.attempts, random).max(asked_ms)
                }
            }
            Outcome::Refused(why) => {
                (wake.why, wake.is_lost) = (why, true);
                0
            }
            Outcome::NotBuried => backoff_ms(1, random),
            Outcome::Buried => {
                let call = wake.call;
                self.end(log);
                if self.given_up.len() >= GIVEN_UP_MAX {
                    self.given_up.pop_first();
                }
                self.given_up.insert(log, call);
                return;
            }
        };
        let due_ms = now_ms.saturating_add(wait_ms);
        wake.due_ms = Some(due_ms);
        self.due.insert((due_ms, log));
    }

    /// Everything up to this commit needs nobody any more, when everything up to `through` was looked at.
    #[must_use]
    pub fn cursor(&self, through: u64) -> u64 {
        let first = self.commits.first().map(|(commit, _)| *commit);
        [first, self.lacks]
            .into_iter()
            .flatten()
            .map(|commit| commit.saturating_sub(1))
            .fold(through, u64::min)
    }

    /// Whether it makes a difference to look at a session for this commit: what would find no room is left for later.
    #[must_use]
    pub fn wants(&self, log: LogId, commit: u64) -> bool {
        let has_room = self.lacks.is_none_or(|lacks| commit < lacks);
        has_room || self.wakes.contains_key(&log) || self.given_up.contains_key(&log)
    }

    /// The commit from which on is to be looked again, once there is room for what found none.
    pub fn look_again(&mut self) -> Option<u64> {
        if self.wakes.len() > WAKES_MAX / 2 { None } else { self.lacks.take() }
    }
}

fn backoff_ms(attempts: u32, random: u64) -> u64 {
    let most = BACKOFF_BASE_MS.saturating_mul(1 << attempts.saturating_sub(1).min(32)).min(BACKOFF_MAX_MS);
    most - random % (most / 2 + 1)
}

#[cfg(test)]
mod tests;
