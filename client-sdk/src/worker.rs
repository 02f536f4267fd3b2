//! Serving the sessions of a pattern as one agent.

mod activation;
mod context;
mod failures;
mod inbox;
mod input;

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use longwire_proto::kind;
use longwire_proto::pattern::{InvalidPattern, Pattern};
use longwire_proto::session_id::SessionId;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::backoff::Jitter;
use crate::client::Client;
use crate::error::{PublishError, RequestError, SubscriptionError};
use crate::worker::activation::{Outcome, Terms, activate};
use crate::worker::failures::Failures;

pub use crate::worker::context::Context;
pub use crate::worker::input::Input;

/// Sessions that a worker serves at once unless it says otherwise: each is a task and a subscription.
pub const WORKER_SESSIONS_DEFAULT: usize = 64;

/// What a handler fails with: anything that is an error.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

type Handling = Pin<Box<dyn Future<Output = Result<(), HandlerError>> + Send>>;
/// Makes what serves one session.
pub(crate) type Handler = Arc<dyn Fn(Context) -> Handling + Send + Sync>;

/// Why a worker, or something that it wanted, came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The sessions are not named by a pattern.
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
    /// The sessions cannot be watched, or read.
    #[error(transparent)]
    Subscription(#[from] SubscriptionError),
    /// The broker refused something.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Something was not published. With [`longwire_proto::error::ErrorCode::Fenced`] the lease has ended: somebody else may act as the
    /// agent by now.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Serves the sessions of a pattern as one agent: see [`Client::worker`].
#[derive(Clone, Debug)]
#[must_use = "nothing is served until `serve` is awaited"]
pub struct Worker {
    client: Client,
    pattern: String,
    terms: Terms,
    sessions_max: usize,
}

impl Worker {
    pub(crate) fn new(client: Client, pattern: impl Into<String>, agent: impl Into<String>) -> Self {
        let terms = Terms { agent: agent.into(), ttl: None, adopt_timeout: None };
        Self { client, pattern: pattern.into(), terms, sessions_max: WORKER_SESSIONS_DEFAULT }
    }

    /// How long after this worker was last heard another one takes its sessions over: 1 second to 10 minutes, 30 seconds unless it is said.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.terms.ttl = Some(ttl);
        self
    }

    /// For how long suspended runs wait for a worker before they are abandoned: seven days unless it is said.
    pub fn adopt_timeout(mut self, timeout: Duration) -> Self {
        self.terms.adopt_timeout = Some(timeout);
        self
    }

    /// Serves at most this many sessions at once, [`WORKER_SESSIONS_DEFAULT`] unless it is said.
    pub fn sessions_max(mut self, sessions: usize) -> Self {
        self.sessions_max = sessions.max(1);
        self
    }

    /// Serves until the sessions cannot be watched any more; dropping it stops, and gives nothing up: leases lapse after their time to
    /// live. It spawns one task for each session that it serves, and one for the handler.
    ///
    /// A session is served while it has input for the agent that nobody has consumed, or a run of the agent that was suspended and does not
    /// wait for an answer. Then the worker claims the agent, resumes the run or starts one, and calls the handler, which takes inputs
    /// until there are none. The run is `completed` when the handler succeeds, and `failed` when it fails or panics; an input that it took
    /// and did not end is given again, after a while, to a worker of the group, and in the end given up by the broker. A handler that has
    /// nothing to do until somebody answers, or says something, calls [`Context::suspend`].
    ///
    /// ```no_run
    /// # async fn example(lw: longwire::Client) -> Result<(), longwire::WorkerError> {
    /// lw.worker("acme/chat/*", "coder").serve(|ctx| async move {
    ///     while let Some(input) = ctx.next_input().await? {
    ///         ctx.session().publish(format!("you said {}", input.text())).await?;
    ///         input.done().await?;
    ///     }
    ///     Ok(())
    /// }).await
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`WorkerError::Pattern`]; [`WorkerError::Subscription`] when the client is closed or may not read; what the broker refused and
    /// would refuse again: this client ([`longwire_proto::error::ErrorCode::Forbidden`],
    /// [`longwire_proto::error::ErrorCode::Unauthenticated`]), or what the worker was told
    /// ([`longwire_proto::error::ErrorCode::InvalidArgument`]). Whatever else fails is tried again, after a while.
    pub async fn serve<F, H>(self, handler: H) -> Result<(), WorkerError>
    where
        H: Fn(Context) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |context| Box::pin(handler(context)));
        let pattern: Pattern = self.pattern.parse()?;
        // What can give an agent something to do: an answer, an input, and the end of somebody else's lease.
        let mut watch = self.client.watch(pattern).kinds([kind::ANSWER, kind::INPUT, kind::LEASE]).await?;
        let mut serving = Serving::new(self, handler);
        loop {
            let retry_at = serving.retry_at();
            tokio::select! {
                biased;
                Some(ended) = serving.tasks.join_next() => serving.ended(ended.ok())?,
                touched = watch.next(), if serving.has_room() => match touched {
                    Some(session) => serving.touched(session?),
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => serving.retry(),
            }
        }
    }
}

/// What a task came to, by its session.
type Ended = (SessionId, Outcome);

struct Serving {
    worker: Worker,
    handler: Handler,
    tasks: JoinSet<Ended>,
    active: BTreeSet<SessionId>,
    /// Something happened to them meanwhile: they are looked at again.
    again: BTreeSet<SessionId>,
    failures: Failures,
}

impl Serving {
    fn new(worker: Worker, handler: Handler) -> Self {
        let failures = Failures::new(Jitter::new(worker.client.handle().ids.random()));
        Self {
            worker,
            handler,
            tasks: JoinSet::new(),
            active: BTreeSet::new(),
            again: BTreeSet::new(),
            failures,
        }
    }

    /// Whether another session is looked at. While too many fail none is: they are tried again, and none of them is forgotten.
    fn has_room(&self) -> bool {
        self.active.len() < self.worker.sessions_max && !self.failures.is_full()
    }

    fn touched(&mut self, session: SessionId) {
        if self.active.contains(&session) {
            self.again.insert(session);
        } else if !self.failures.has(&session) {
            // One that fails has its time.
            self.begin(session);
        }
    }

    fn begin(&mut self, session: SessionId) {
        self.active.insert(session.clone());
        let (client, terms) = (self.worker.client.clone(), self.worker.terms.clone());
        let handler = Arc::clone(&self.handler);
        self.tasks.spawn(async move {
            let outcome = activate(&client, &session, &terms, &handler).await;
            (session, outcome)
        });
    }

    /// A task of ours does not panic: what the handler does is caught.
    fn ended(&mut self, ended: Option<Ended>) -> Result<(), WorkerError> {
        let Some((session, outcome)) = ended else { return Ok(()) };
        self.active.remove(&session);
        let again = self.again.remove(&session);
        match outcome {
            Outcome::Refused(error) => return Err(error),
            Outcome::Failed => self.failures.add(session, Instant::now()),
            // It is looked at until it has nothing to do.
            Outcome::Served => {
                self.failures.remove(&session);
                self.begin(session);
            }
            Outcome::Nothing | Outcome::Suspended => {
                self.failures.remove(&session);
                if again {
                    self.begin(session);
                }
            }
        }
        Ok(())
    }

    fn retry_at(&self) -> Option<Instant> {
        // Only while there is room for it.
        self.failures.next_at().filter(|_| self.active.len() < self.worker.sessions_max)
    }

    fn retry(&mut self) {
        if let Some(session) = self.failures.take_next() {
            self.begin(session);
        }
    }
}
