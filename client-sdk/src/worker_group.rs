//! Worker groups: waking an agent when nobody who is connected does what it has to do.

use std::fmt;

use longwire_proto::wire;

/// What a worker group is to be: whose agent is woken, and by which webhook. Options are set, then it is given to
/// [`crate::client::Client::set_worker_group`].
///
/// When the agent of one of its sessions has something to do, a worker that is connected claims it; when none does so within two seconds, or
/// none is connected, the broker sends `{session, agent, position}` to the webhook, signed as <https://www.standardwebhooks.com> has it.
/// Whoever receives that starts a [`crate::worker::Worker`].
#[derive(Clone)]
pub struct WorkerGroup(wire::SetWorkerGroup);

impl fmt::Debug for WorkerGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It shows no secret.
        self.0.fmt(f)
    }
}

impl WorkerGroup {
    /// The group of this name, a folder of sessions and a name in it, such as `acme/chat/coders`, that wakes this agent of the sessions
    /// whose ids match. The pattern stays within the folder.
    pub fn new(group: impl Into<String>, pattern: impl Into<String>, agent: impl Into<String>) -> Self {
        let (group, pattern, agent) = (group.into(), pattern.into(), agent.into());
        Self(wire::SetWorkerGroup { group, pattern, agent, ..Default::default() })
    }

    /// Where the webhook goes, and what it is signed with: `whsec_` and 24 to 64 random bytes in base64.
    #[must_use]
    pub fn webhook(mut self, url: impl Into<String>, secret: impl Into<String>) -> Self {
        (self.0.url, self.0.secret) = (url.into(), secret.into());
        self
    }

    /// Sends at most this many webhooks at once: 1 to 256, 16 unless it is said.
    #[must_use]
    pub fn in_flight_max(mut self, webhooks: u32) -> Self {
        self.0.in_flight_max = webhooks;
        self
    }

    /// Tries each wake this often before it becomes a dead letter: 1 to 32, 10 unless it is said.
    #[must_use]
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.0.attempts_max = attempts;
        self
    }

    pub(crate) fn into_wire(self) -> wire::SetWorkerGroup {
        self.0
    }
}
