//! The handle of a session.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use longwire_proto::position::Position;
use longwire_proto::right::Rights;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use tokio::sync::oneshot;

use crate::answered::Answered;
use crate::ask::{self, Ask, Reply};
use crate::client::{Client, Handle};
use crate::driver::Command;
use crate::error::{PublishError, RequestError};
use crate::from::From;
use crate::lane::Lane;
use crate::lease::Claim;
use crate::machine::calls::{Answer, Call};
use crate::message::StartMessage;
use crate::publication::{EncodedBatch, Publication};
use crate::published::Published;
use crate::read_page::ReadPage;
use crate::run::{Run, StartRun};
use crate::sending::SendInput;
use crate::session_info::{SessionInfo, SessionMeta};
use crate::share::Share;
use crate::subscribe::Subscribe;

/// A session of a broker. Cloning is cheap.
///
/// # Publishing
/// A publish waits for its acknowledgement: it is durable then. It is made exactly once, however often the connection
/// breaks, and publishes of one client to a session keep the order in which they were accepted. While the broker is
/// away they wait in the outbox, and when that is full, publishing waits.
///
/// A publish that the broker refuses for good fails with a typed [`PublishError`]; those behind it go on (under the next
/// epoch of the producer), except after [`PublishError::SessionClosed`], which all of them get. When a session was
/// deleted, what was not acknowledged is published to a new one under its name.
#[derive(Clone, Debug)]
pub struct Session {
    client: Client,
    id: SessionId,
    /// In whose name it publishes; empty for the client's own.
    act_as: String,
    /// The lease that it publishes with.
    lease: Option<wire::Lease>,
}

impl Session {
    pub(crate) fn new(client: Client, id: SessionId) -> Self {
        Self { client, id, act_as: String::new(), lease: None }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Asks somebody, and waits for the answer: `session.ask("Deploy?").options(["yes", "no"]).await?`.
    pub fn ask(&self, title: impl Into<String>) -> Ask {
        Ask::new(self.clone(), title)
    }

    /// Ends an ask of this id: `session.answer("deploy-42").option("yes").await?`. The first end that is valid is the only one; later
    /// ones are refused with [`longwire_proto::error::ErrorCode::AlreadyResolved`] and how it ended.
    pub fn answer(&self, ask: impl Into<String>) -> Reply {
        Reply::new(self.clone(), ask)
    }

    /// How the ask of this id ended, also long ago; `None` while it is open.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn ask_state(&self, ask: &str) -> Result<Option<Answered>, RequestError> {
        ask::state(&self.client, self.id.as_str(), ask).await
    }

    /// Says something to an agent of the session: `session.send("coder", "use the other branch").await?`.
    pub fn send(&self, agent: impl Into<String>, input: impl Into<Publication>) -> SendInput {
        SendInput::new(self.clone(), agent, input.into())
    }

    /// Starts a run: `session.start_run("Upgrade deps").await?`.
    pub fn start_run(&self, title: impl Into<String>) -> StartRun {
        StartRun::new(self.clone(), title)
    }

    /// The handle of a run that was started before, by whomever.
    #[must_use]
    pub fn run(&self, id: impl Into<String>) -> Run {
        Run::new(self.clone(), id)
    }

    /// Claims an agent of the session, which exists: `session.claim("coder").await?`. While the lease is live nobody else acts as it.
    pub fn claim(&self, agent: impl Into<String>) -> Claim {
        Claim::new(self.clone(), agent)
    }

    /// A handle of the same session that publishes as an agent.
    pub(crate) fn with_lease(&self, lease: wire::Lease) -> Self {
        Self { lease: Some(lease), ..self.clone() }
    }

    /// Begins a message that grows: `session.open_message("text/markdown").await?`.
    pub fn open_message(&self, content_type: impl Into<String>) -> StartMessage {
        StartMessage::new(self.clone(), content_type, "")
    }

    /// The session's id.
    #[must_use]
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// A handle of the same session that publishes in the name of another principal, such as a bridge does for the people on
    /// its other side: its records have that one as their sender, and the client's as `via`. That takes the right to
    /// manage the session. Everything but publishing goes on in the client's own name.
    ///
    /// Publishes of each name keep their order; those of different names can overtake each other when the broker refuses
    /// one, so wait for one before the next where that matters.
    #[must_use]
    pub fn act_as(&self, principal: impl Into<String>) -> Self {
        Self { act_as: principal.into(), ..self.clone() }
    }

    /// Publishes one record and waits until it is durable. The session is created when it does not exist.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn publish(&self, publication: impl Into<Publication>) -> Result<Published, PublishError> {
        self.enqueue(publication).await?.await
    }

    /// Publishes records as one atomic batch: all of them are durable, next to each other, or none.
    ///
    /// # Errors
    /// [`PublishError`]; a batch has 1 to 1,024 records and at most 4 MiB.
    pub async fn publish_all<P: Into<Publication>>(
        &self,
        publications: impl IntoIterator<Item = P>,
    ) -> Result<Published, PublishError> {
        self.enqueue_all(publications).await?.await
    }

    /// Publishes one record only if the session ends at the offset `end`: nobody else published in between.
    ///
    /// # Errors
    /// [`PublishError::EndMismatch`] names the actual end.
    pub async fn publish_if_end(
        &self,
        end: u64,
        publication: impl Into<Publication>,
    ) -> Result<Published, PublishError> {
        self.accept([publication.into()], Some(end)).await?.await
    }

    /// Hands one record to the outbox and returns as soon as it is accepted there: many publishes can be under way. The
    /// [`Acknowledgement`] says when it is durable; dropping that changes nothing.
    ///
    /// # Errors
    /// [`PublishError::Invalid`], [`PublishError::Outbox`] or [`PublishError::Closed`]
    pub async fn enqueue(
        &self,
        publication: impl Into<Publication>,
    ) -> Result<Acknowledgement, PublishError> {
        self.accept([publication.into()], None).await
    }

    /// [`Self::enqueue`] for an atomic batch.
    ///
    /// # Errors
    /// As [`Self::enqueue`].
    pub async fn enqueue_all<P: Into<Publication>>(
        &self,
        publications: impl IntoIterator<Item = P>,
    ) -> Result<Acknowledgement, PublishError> {
        self.accept(publications.into_iter().map(Into::into), None).await
    }

    async fn accept(
        &self,
        publications: impl IntoIterator<Item = Publication>,
        if_end: Option<u64>,
    ) -> Result<Acknowledgement, PublishError> {
        let handle = self.client.handle();
        let lane = Lane { session: self.id.clone(), act_as: self.act_as.clone() };
        let batch = EncodedBatch::new(handle.encoding, &lane, publications, if_end, self.lease.clone())?;
        let size = batch.0.len() as u64;
        let space = handle.space.acquire(size).await.map_err(|_| handle.closed())?;
        let slot = handle.commands.reserve().await.map_err(|_| handle.closed())?;
        let (accepted, acceptance) = oneshot::channel();
        let (settled, settlement) = oneshot::channel();
        let bytes = space.hand_over();
        slot.send(Command::Publish { lane, batch, bytes, accepted, settled });
        acceptance.await.map_err(|_| handle.closed())??;
        Ok(Acknowledgement { settlement, handle: Arc::clone(handle) })
    }

    /// Reads the session from some place on: `session.subscribe(From::Start).await?`. The result of this call has
    /// options; awaiting it waits for the broker's answer.
    pub fn subscribe(&self, from: impl Into<From>) -> Subscribe {
        Subscribe::new(self.client.clone(), self.id.clone(), from.into())
    }

    /// Reads one page of records, forwards or backwards: `session.read().before(position).limit(50).await?`.
    pub fn read(&self) -> ReadPage {
        ReadPage::new(self.client.clone(), &self.id)
    }

    /// What the broker knows of the session.
    ///
    /// # Errors
    /// [`RequestError::NotFound`] when it does not exist.
    pub async fn describe(&self) -> Result<SessionInfo, RequestError> {
        let call = wire::DescribeSession { request: 0, session: self.id.to_string() };
        self.described(Call::Describe(call)).await
    }

    /// Creates the session.
    ///
    /// # Errors
    /// [`RequestError::Exists`] when it does already; [`RequestError::ExistsUncertain`] when the connection broke
    /// meanwhile and it exists now.
    pub async fn create(&self, meta: SessionMeta) -> Result<SessionInfo, RequestError> {
        self.put(meta, false).await
    }

    /// Creates the session, or replaces its metadata when it exists.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn create_or_update(&self, meta: SessionMeta) -> Result<SessionInfo, RequestError> {
        self.put(meta, true).await
    }

    async fn put(&self, meta: SessionMeta, update: bool) -> Result<SessionInfo, RequestError> {
        let meta = Some(meta.into_wire());
        let call = wire::CreateSession { request: 0, session: self.id.to_string(), meta, update };
        self.described(Call::Create(call)).await
    }

    /// Closes the session: it takes no more publishes, and readers come to its end. Closing it again does nothing.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn close(&self, reason: &str) -> Result<SessionInfo, RequestError> {
        let (session, reason) = (self.id.to_string(), reason.to_owned());
        self.described(Call::Close(wire::CloseSession { request: 0, session, reason })).await
    }

    /// Deletes the session and all its records, for good.
    ///
    /// # Errors
    /// [`RequestError::NotFound`] when it does not exist.
    pub async fn delete(&self) -> Result<(), RequestError> {
        let call = wire::DeleteSession { request: 0, session: self.id.to_string() };
        match self.client.handle().call(Call::Delete(call)).await? {
            Answer::Done => Ok(()),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }

    /// Drops the records below a position, durably.
    ///
    /// # Errors
    /// [`RequestError::NotFound`], or [`RequestError::Refused`] when the position is not one of this log.
    pub async fn trim(&self, before: Position) -> Result<SessionInfo, RequestError> {
        let (session, before) = (self.id.to_string(), before.to_string());
        self.described(Call::Trim(wire::TrimSession { request: 0, session, before })).await
    }

    /// Makes the records at these offsets tombstones, for every reader from now on. Answers how many records there were
    /// and by when their bytes are on no disk of the broker, in Unix milliseconds.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn erase(&self, ranges: &[Range<u64>], reason: &str) -> Result<Erased, RequestError> {
        let range = |range: &Range<u64>| wire::OffsetRange { from: range.start, next: range.end };
        let ranges = ranges.iter().map(range).collect();
        self.erase_call(wire::EraseRecords { ranges, reason: reason.to_owned(), ..Default::default() }).await
    }

    /// [`Self::erase`] of everything that a principal has published so far.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn erase_sender(&self, principal: &str, reason: &str) -> Result<Erased, RequestError> {
        let (sender, reason) = (principal.to_owned(), reason.to_owned());
        self.erase_call(wire::EraseRecords { sender, reason, ..Default::default() }).await
    }

    async fn erase_call(&self, erase: wire::EraseRecords) -> Result<Erased, RequestError> {
        let erase = wire::EraseRecords { session: self.id.to_string(), ..erase };
        match self.client.handle().call(Call::Erase(erase)).await? {
            Answer::Erased(erased) => Ok(Erased { records: erased.records, gone_by_ms: erased.gone_by_ms }),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }

    /// Creates a session whose log begins as this one does and goes on by itself: everything below `at`, or below the
    /// end, belongs to both. Its metadata is this one's unless it is given.
    ///
    /// # Errors
    /// [`RequestError::NotFound`] without this session, [`RequestError::Exists`] when there is one of the new name.
    pub async fn fork(
        &self,
        to: &SessionId,
        at: Option<Position>,
        meta: Option<SessionMeta>,
    ) -> Result<SessionInfo, RequestError> {
        let fork = wire::ForkSession {
            request: 0,
            session: to.to_string(),
            from_session: self.id.to_string(),
            at: at.map(|at| at.to_string()).unwrap_or_default(),
            meta: meta.map(SessionMeta::into_wire),
        };
        self.described(Call::Fork(fork)).await
    }

    /// Takes note, durably, that everything below a position was consumed under this cursor. A cursor belongs to the
    /// client's principal and never moves backwards.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn commit_cursor(&self, cursor: &str, position: Position) -> Result<(), RequestError> {
        let (session, cursor, position) = (self.id.to_string(), cursor.to_owned(), position.to_string());
        let commit = wire::CommitCursor { request: 0, session, cursor, position };
        match self.client.handle().call(Call::CommitCursor(commit)).await? {
            Answer::Done => Ok(()),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }

    /// Where a cursor is; `None` when nothing was committed under its name.
    ///
    /// # Errors
    /// [`RequestError`]
    pub async fn cursor(&self, cursor: &str) -> Result<Option<Position>, RequestError> {
        let (session, cursor) = (self.id.to_string(), cursor.to_owned());
        let describe = wire::DescribeCursor { request: 0, session, cursor };
        match self.client.handle().call(Call::DescribeCursor(describe)).await? {
            Answer::Cursor(cursor) if cursor.position.is_empty() => Ok(None),
            Answer::Cursor(cursor) => {
                cursor.position.parse().map(Some).map_err(|_| RequestError::UnexpectedAnswer)
            }
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }

    /// Makes a token with which somebody else can do these things to this session, and nothing else, until it expires or
    /// is revoked. The client manages the session, and can share no more than it may do itself, for no longer than its own
    /// token lasts. Without a time it is an hour, or what is left of that.
    ///
    /// ```no_run
    /// # async fn example(session: longwire::Session) -> Result<(), longwire::RequestError> {
    /// use longwire::Right;
    /// let share = session.share(Right::Read | Right::Publish, None).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`RequestError::NotFound`] or [`RequestError::Refused`] when the client may not.
    pub async fn share(
        &self,
        rights: impl Into<Rights>,
        ttl: impl Into<Option<Duration>>,
    ) -> Result<Share, RequestError> {
        let ttl_ms = ttl.into().map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1));
        let rights = rights.into().iter().map(|right| right.to_string()).collect();
        let share = wire::ShareSession { request: 0, session: self.id.to_string(), rights, ttl_ms };
        match self.client.handle().call(Call::Share(share)).await? {
            Answer::Shared(shared) => Ok(Share::new(shared)),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }

    async fn described(&self, call: Call) -> Result<SessionInfo, RequestError> {
        match self.client.handle().call(call).await? {
            Answer::Session(session) => Ok(SessionInfo::new(*session)),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }
}

/// What an erasure came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erased {
    /// Records that are tombstones now.
    pub records: u64,
    /// By then their bytes are on no disk of the broker, in Unix milliseconds.
    pub gone_by_ms: u64,
}

/// The future answer to a publish that the outbox accepted.
#[derive(Debug)]
#[must_use = "await it to know that the publish is durable; drop it explicitly if that does not matter"]
pub struct Acknowledgement {
    settlement: oneshot::Receiver<Result<Published, PublishError>>,
    /// Keeps the client alive: its last handle must not go while an answer is waited for.
    handle: Arc<Handle>,
}

impl Acknowledgement {
    /// What became of the publish, when that is known by now.
    pub(crate) fn try_settled(&mut self) -> Option<Result<Published, PublishError>> {
        match self.settlement.try_recv() {
            Ok(settled) => Some(settled),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(self.handle.closed().into())),
        }
    }
}

impl Future for Acknowledgement {
    type Output = Result<Published, PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let settled = std::task::ready!(Pin::new(&mut self.settlement).poll(context));
        Poll::Ready(settled.unwrap_or_else(|_| Err(self.handle.closed().into())))
    }
}
