//! Leases: the right to act as an agent of a session.

use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use longwire_proto::error::ErrorCode;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;

use crate::client::Client;
use crate::error::RequestError;
use crate::machine::calls::{Answer, Call};
use crate::session::Session;

/// A claim to be made: set options, then await it.
#[derive(Clone, Debug)]
#[must_use = "nothing is claimed until it is awaited"]
pub struct Claim {
    session: Session,
    claim: wire::Claim,
}

impl Claim {
    pub(crate) fn new(session: Session, agent: impl Into<String>) -> Self {
        let claim =
            wire::Claim { session: session.id().to_string(), agent: agent.into(), ..Default::default() };
        Self { session, claim }
    }

    /// The lease lapses when the broker has heard nothing of its holder for so long: 1 second to 10 minutes, 30 seconds unless it is
    /// said.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.claim.ttl_ms = millis(ttl);
        self
    }

    /// When nobody has claimed the agent again for so long, its suspended runs are abandoned: seven days unless it is said.
    pub fn adopt_timeout(mut self, timeout: Duration) -> Self {
        self.claim.adopt_timeout_ms = millis(timeout);
        self
    }

    /// Takes the lease from whoever holds it. The client manages the session.
    pub fn take_over(mut self) -> Self {
        self.claim.take_over = true;
        self
    }

    /// Goes on with a lease that the client's principal has, such as after the connection was lost. It is refused with
    /// [`longwire_proto::error::ErrorCode::Fenced`] when that has ended.
    pub fn generation(mut self, generation: u64) -> Self {
        self.claim.generation = generation;
        self
    }

    async fn claimed(self) -> Result<Lease, RequestError> {
        match self.session.client().handle().call(Call::Claim(self.claim)).await? {
            Answer::Claimed(claimed) => Ok(Lease::new(&self.session, claimed)),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }
}

/// A claim of the agent of whichever session of a pattern calls for it: set options, then await it. None when none does.
#[derive(Clone, Debug)]
#[must_use = "nothing is claimed until it is awaited"]
pub struct PatternClaim {
    client: Client,
    claim: wire::Claim,
}

impl PatternClaim {
    pub(crate) fn new(client: Client, pattern: impl Into<String>, agent: impl Into<String>) -> Self {
        let claim = wire::Claim { pattern: pattern.into(), agent: agent.into(), ..Default::default() };
        Self { client, claim }
    }

    /// Waits for so long, at most an hour, for a session that calls. Unless it is said, only what calls by now is claimed.
    pub fn wait(mut self, time: Duration) -> Self {
        self.claim.wait_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// As [`Claim::ttl`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.claim.ttl_ms = millis(ttl);
        self
    }

    /// As [`Claim::adopt_timeout`].
    pub fn adopt_timeout(mut self, timeout: Duration) -> Self {
        self.claim.adopt_timeout_ms = millis(timeout);
        self
    }

    async fn claimed(self) -> Result<Option<Lease>, RequestError> {
        match self.client.handle().call(Call::Claim(self.claim)).await {
            Ok(Answer::Claimed(claimed)) => {
                let session = SessionId::parse(&claimed.session);
                let session = session.map_err(|_| RequestError::UnexpectedAnswer)?;
                Ok(Some(Lease::new(&Session::new(self.client, session), claimed)))
            }
            Ok(_) => Err(RequestError::UnexpectedAnswer),
            Err(RequestError::Refused(refusal)) if refusal.code == Some(ErrorCode::NothingCalls) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl IntoFuture for PatternClaim {
    type Output = Result<Option<Lease>, RequestError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.claimed())
    }
}

fn millis(time: Duration) -> u64 {
    // 0 would be the default, and too short is told by the broker.
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl IntoFuture for Claim {
    type Output = Result<Lease, RequestError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.claimed())
    }
}

/// A lease that was claimed. What comes over the connection that claimed it renews it; after the connection was lost, claim it again
/// with its generation in time. It is not given up when this is dropped.
#[derive(Clone, Debug)]
pub struct Lease {
    session: Session,
    claimed: Box<wire::Claimed>,
}

impl Lease {
    fn new(session: &Session, claimed: Box<wire::Claimed>) -> Self {
        let lease = wire::Lease { agent: claimed.agent.clone(), generation: claimed.generation };
        Self { session: session.with_lease(lease), claimed }
    }

    /// The session, as the agent: what is published, started and asked with this handle is the agent's, and refused with
    /// [`longwire_proto::error::ErrorCode::Fenced`] once the lease has ended.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &str {
        &self.claimed.agent
    }

    /// Tells this lease from those before and after it.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.claimed.generation
    }

    /// The epoch that the generation is an offset of.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.claimed.epoch
    }

    /// After so long without a word of its holder it lapses.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.claimed.ttl_ms)
    }

    /// The agent's runs that had not ended when it was claimed. Those that are `suspended` are to be resumed or ended.
    #[must_use]
    pub fn runs(&self) -> &[wire::Run] {
        &self.claimed.runs
    }

    /// The agent's asks that were open when it was claimed.
    #[must_use]
    pub fn asks(&self) -> &[wire::OpenAsk] {
        &self.claimed.asks
    }

    /// Inputs to the agent that were not consumed when it was claimed.
    #[must_use]
    pub fn inputs(&self) -> &[wire::OpenInput] {
        &self.claimed.inputs
    }

    /// Says that it is held, over the connection that there is now: what comes over that renews it from then on.
    ///
    /// # Errors
    /// [`RequestError::Refused`] with [`longwire_proto::error::ErrorCode::Fenced`] when it has ended.
    pub async fn renew(&self) -> Result<(), RequestError> {
        self.session.claim(self.agent()).generation(self.generation()).await.map(drop)
    }

    /// Gives it up: the agent's open messages are abandoned and its runs suspended, for whoever claims it next.
    ///
    /// # Errors
    /// [`RequestError::Refused`] with [`longwire_proto::error::ErrorCode::Fenced`] when it has ended before.
    pub async fn release(self) -> Result<(), RequestError> {
        let wire::Claimed { agent, generation, .. } = *self.claimed;
        let session = self.session.id().to_string();
        let release = wire::ReleaseLease { request: 0, session, agent, generation };
        match self.session.client().handle().call(Call::ReleaseLease(release)).await? {
            Answer::Done => Ok(()),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }
}
