//! The handle of a client.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use longwire_proto::codec::Encoding;
use longwire_proto::pattern::Pattern;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use longwire_proto::wire::{BackedUp, ImportBegin};
use longwire_proto::worker_group::named_session;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::builder::ClientBuilder;
use crate::connection_state::ConnectionState;
use crate::driver::{Command, Feedback};
use crate::error::{Closed, ConnectError, RequestError, SessionIdError};
use crate::ids::Ids;
use crate::import::Import;
use crate::lease::PatternClaim;
use crate::machine::calls::{Answer, Call};
use crate::outbox_space::OutboxSpace;
use crate::outbox_status::OutboxStatus;
use crate::session::Session;
use crate::session_list::SessionList;
use crate::watch::StartWatch;
use crate::worker::Worker;
use crate::worker_group::WorkerGroup;

/// Commands that wait for the driver; whoever sends another waits too.
pub(crate) const COMMANDS_MAX: usize = 256;
/// Requests of one client that wait for their answer. Together with the publishes under way fewer than the broker's
/// `requests_max`.
pub(crate) const CALLS_MAX: usize = 256;

#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) feedback: mpsc::UnboundedSender<Feedback>,
    pub(crate) state: watch::Receiver<ConnectionState>,
    pub(crate) status: watch::Receiver<OutboxStatus>,
    pub(crate) space: Arc<OutboxSpace>,
    pub(crate) calls: Semaphore,
    pub(crate) next_subscription: AtomicU32,
    pub(crate) ids: Ids,
    pub(crate) encoding: Encoding,
    pub(crate) window_bytes: u64,
}

impl Handle {
    /// Why the driver is gone.
    pub(crate) fn closed(&self) -> Closed {
        match &*self.state.borrow() {
            ConnectionState::Closed(reason) => reason.clone(),
            _ => Closed::ShutDown,
        }
    }

    pub(crate) async fn command(&self, command: Command) -> Result<(), Closed> {
        self.commands.send(command).await.map_err(|_| self.closed())
    }

    pub(crate) async fn call(&self, call: Call) -> Result<Answer, RequestError> {
        let _permit = self.calls.acquire().await.map_err(|_| self.closed())?;
        let (answer, answered) = oneshot::channel();
        self.command(Command::Call { call, answer }).await?;
        answered.await.map_err(|_| self.closed())?
    }
}

/// A connection to a broker that heals itself. Cloning is cheap; clones share the connection.
///
/// The client reconnects by itself, for ever, and resumes every subscription exactly where it was; publishes wait in the
/// outbox meanwhile, as [`Session`] describes. Watch [`Self::state`] to see how it stands.
///
/// When the last handle (client, session, subscription, acknowledgement) is dropped, the client closes at once: call
/// [`Self::shutdown`] first so that nothing unacknowledged is lost from a memory outbox.
///
/// ```no_run
/// use longwire::{Client, From};
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect("ws://127.0.0.1:8700")?;
/// let session = client.session("acme/build/42")?;
/// session.publish("compiling").await?;
/// let mut records = session.subscribe(From::Start).await?;
/// while let Some(record) = records.next().await {
///     let record = record?;
///     println!("{} {}", record.offset, record.text().unwrap_or("(data)"));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client(Arc<Handle>);

impl Client {
    pub(crate) fn new(handle: Handle) -> Self {
        Self(Arc::new(handle))
    }

    pub(crate) fn handle(&self) -> &Arc<Handle> {
        &self.0
    }

    /// Options for a client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// A client of the broker at `url`, such as `ws://127.0.0.1:8700`.
    ///
    /// It runs exactly one task, the driver, on the current Tokio runtime, and does not wait for the connection:
    /// what is asked for waits until there is one. [`Self::connected`] waits for it.
    ///
    /// # Errors
    /// [`ConnectError`]: a URL that is not a broker's, or no runtime to run on.
    pub fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::spawned(Self::builder().url(url))
    }

    /// As [`Self::connect`], to the broker that `LONGWIRE_URL` names, or to the one on this machine, with the other options
    /// of [`ClientBuilder::from_env`].
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn from_env() -> Result<Self, ConnectError> {
        Self::spawned(ClientBuilder::from_env())
    }

    fn spawned(builder: ClientBuilder) -> Result<Self, ConnectError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| ConnectError::NoRuntime)?;
        let (client, driver) = builder.build()?;
        drop(runtime.spawn(driver));
        Ok(client)
    }

    /// The session with this id, which may be one of a worker group. Nothing is sent; the session need not exist.
    ///
    /// # Errors
    /// [`SessionIdError`] names the rule that the id breaks.
    pub fn session(&self, id: &str) -> Result<Session, SessionIdError> {
        Ok(Session::new(self.clone(), named_session(id)?))
    }

    /// An id for a record that is to be told apart before the broker has it, such as one that is shown while it is sent: no other client
    /// mints it. Nothing is sent.
    #[must_use]
    pub fn mint_id(&self) -> String {
        self.0.ids.next()
    }

    /// Watches the sessions whose ids match a pattern, such as `acme/chat/*`: `client.watch("acme/**".parse()?).await?`.
    pub fn watch(&self, pattern: Pattern) -> StartWatch {
        StartWatch::new(self.clone(), pattern)
    }

    /// Claims an agent in the next session of a pattern that calls for it: one that has something for the agent to do while nobody acts as it,
    /// or that nobody ever was the agent of. Several at once, on one client or on many, get different sessions.
    ///
    /// ```no_run
    /// # async fn example(lw: longwire::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// while let Some(lease) = lw.claim("acme/chat/*", "coder").wait(std::time::Duration::from_secs(600)).await? {
    ///     for input in lease.inputs() {
    ///         lease.session().publish(format!("done: {}", input.id)).await?;
    ///         lease.consumed(&input.id, "").await?;
    ///     }
    ///     lease.release().await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`Client::worker`] does this and what comes after it: it takes inputs, resumes runs, renews, and tries again what fails.
    pub fn claim(&self, pattern: impl Into<String>, agent: impl Into<String>) -> PatternClaim {
        PatternClaim::new(self.clone(), pattern, agent)
    }

    /// Serves the sessions whose ids match a pattern as one agent: `client.worker("acme/chat/*", "coder").serve(handler).await`. Workers in
    /// other processes, and on other machines, serve the same sessions: each session has one of them at a time.
    pub fn worker(&self, pattern: impl Into<String>, agent: impl Into<String>) -> Worker {
        Worker::new(self.clone(), pattern, agent)
    }

    /// Makes a worker group, or replaces what it was told: who is to be woken when no worker that is connected does what an agent has to do.
    ///
    /// # Errors
    /// [`RequestError::Refused`] when the client does not manage the group's folder, or the group is none.
    pub async fn set_worker_group(&self, group: WorkerGroup) -> Result<(), RequestError> {
        self.done(Call::SetWorkerGroup(group.into_wire())).await
    }

    /// The worker groups that the client manages, in order of their names.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn worker_groups(&self) -> Result<Vec<wire::WorkerGroup>, RequestError> {
        match self.handle().call(Call::ListWorkerGroups(wire::ListWorkerGroups::default())).await? {
            Answer::WorkerGroups(list) => Ok(list.groups),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }

    /// Removes a worker group, its history and its dead letters.
    ///
    /// # Errors
    /// [`RequestError::Refused`] when there is none that the client manages.
    pub async fn remove_worker_group(&self, group: &str) -> Result<(), RequestError> {
        self.done(Call::RemoveWorkerGroup(wire::RemoveWorkerGroup { request: 0, group: group.to_owned() }))
            .await
    }

    /// Begins to import an export into a new session, or goes on with the import of this name (a short id).
    pub fn import(&self, session: &SessionId, import: &str, begin: ImportBegin) -> Import {
        Import::new(self.clone(), session, import, begin)
    }

    /// Makes the broker write a backup of everything, under this name, into its folder of backups. Answers where it is.
    ///
    /// # Errors
    /// [`RequestError::Refused`] when the broker has no such folder, or has a backup of this name.
    pub async fn back_up(&self, name: &str) -> Result<BackedUp, RequestError> {
        match self.handle().call(Call::BackUp(wire::BackUp { request: 0, name: name.to_owned() })).await? {
            Answer::BackedUp(backup) => Ok(backup),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }

    /// Lets a token be accepted no longer, from now on and for ever: connections that were made with it end within a second.
    /// It is one's own, or one for nothing but what the client manages. Revoking the client's own token ends the client.
    ///
    /// # Errors
    /// [`RequestError::Refused`] when it is not one of those.
    pub async fn revoke_token(&self, token: &str) -> Result<(), RequestError> {
        self.revoke(wire::RevokeToken { token: token.to_owned(), ..Default::default() }).await
    }

    /// [`Self::revoke_token`] for a token that the broker made, by its id. The client manages everything.
    ///
    /// # Errors
    /// [`RequestError::Refused`] when it does not.
    pub async fn revoke_token_id(&self, id: &str) -> Result<(), RequestError> {
        self.revoke(wire::RevokeToken { id: id.to_owned(), ..Default::default() }).await
    }

    async fn revoke(&self, revoke: wire::RevokeToken) -> Result<(), RequestError> {
        self.done(Call::RevokeToken(revoke)).await
    }

    async fn done(&self, call: Call) -> Result<(), RequestError> {
        match self.handle().call(call).await? {
            Answer::Done => Ok(()),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }

    /// The sessions whose ids begin with `prefix`, in order of their ids, page by page.
    pub fn sessions(&self, prefix: &str) -> SessionList {
        let list = wire::ListSessions { prefix: prefix.to_owned(), ..Default::default() };
        SessionList::new(self.clone(), list)
    }

    /// How the connection stands; the channel shows every change.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.0.state.clone()
    }

    /// How full the outbox is; the channel shows every change.
    #[must_use]
    pub fn outbox(&self) -> watch::Receiver<OutboxStatus> {
        self.0.status.clone()
    }

    /// Waits until the broker welcomes the client.
    ///
    /// # Errors
    /// [`Closed`] when the client is closed first, such as because the broker refuses it for good.
    pub async fn connected(&self) -> Result<(), Closed> {
        let mut state = self.state();
        let arrived = |state: &ConnectionState| {
            matches!(state, ConnectionState::Connected { .. } | ConnectionState::Closed(_))
        };
        let state = state.wait_for(arrived).await.map_err(|_| Closed::ShutDown)?;
        match &*state {
            ConnectionState::Closed(reason) => Err(reason.clone()),
            _ => Ok(()),
        }
    }

    /// Waits until every accepted publish has its answer.
    ///
    /// # Errors
    /// [`Closed`] when the client is closed before.
    pub async fn drained(&self) -> Result<(), Closed> {
        let mut status = self.outbox();
        let drained = status.wait_for(|status| status.entries == 0).await.map(|_| ());
        drained.map_err(|_| self.0.closed())
    }

    /// Waits until every accepted publish has its answer, then closes the client and ends its driver. This takes as long
    /// as the broker is away: with an outbox file, [`Self::close`] leaves what is left to the next client instead.
    ///
    /// # Errors
    /// Another [`Closed`] than `ShutDown` when the broker refuses the client for good meanwhile.
    pub async fn shutdown(&self) -> Result<(), Closed> {
        self.end(true).await
    }

    /// Closes the client at once and ends its driver. What was not acknowledged stays in the outbox file, or is lost
    /// from a memory outbox.
    ///
    /// # Errors
    /// Another [`Closed`] than `ShutDown` when the broker had refused the client for good.
    pub async fn close(&self) -> Result<(), Closed> {
        self.end(false).await
    }

    async fn end(&self, drain: bool) -> Result<(), Closed> {
        // A driver that is gone already is what is wanted.
        drop(self.0.command(Command::Close { drain }).await);
        // The driver's last act is to let go of the state, after the outbox file.
        let mut state = self.state();
        while state.changed().await.is_ok() {}
        match self.0.closed() {
            Closed::ShutDown => Ok(()),
            refused => Err(refused),
        }
    }
}
