//! Runs: units of work whose progress others can see.

use std::future::IntoFuture;
use std::pin::Pin;
use std::time::Duration;

use longwire_proto::kind;
use longwire_proto::run_state::RunState;
use longwire_proto::wire;
use longwire_proto::wire::record::Body as WireBody;

use crate::ask::Ask;
use crate::error::PublishError;
use crate::message::StartMessage;
use crate::publication::Publication;
use crate::session::Session;

/// A run to be started: set options, then await it.
#[derive(Clone, Debug)]
#[must_use = "nothing is started until it is awaited"]
pub struct StartRun {
    session: Session,
    id: Option<String>,
    opens: Publication,
    change: wire::RunChange,
}

impl StartRun {
    pub(crate) fn new(session: Session, title: impl Into<String>) -> Self {
        let change = wire::RunChange { title: title.into(), ..Default::default() };
        Self { session, id: None, opens: Publication::default(), change }
    }

    /// Names it: at most 64 of `A-Z a-z 0-9 _ -`. Starting it again under the same id starts nothing new: an agent that crashed goes
    /// on with it so.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// The run that this one is a part of.
    pub fn parent(mut self, run: impl Into<String>) -> Self {
        self.change.parent = run.into();
        self
    }

    /// Sets a header of the record that starts it, such as `traceparent`.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.opens = self.opens.header(name, value);
        self
    }

    async fn started(self) -> Result<Run, PublishError> {
        let id = self.id.unwrap_or_else(|| self.session.client().mint_id());
        let publication = self.opens.with_body(kind::RUN, WireBody::RunChange(self.change)).id(&id);
        self.session.publish(publication).await?;
        Ok(Run { session: self.session, id })
    }
}

impl IntoFuture for StartRun {
    type Output = Result<Run, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.started())
    }
}

/// A run. It goes on when this is dropped: end it.
#[derive(Clone, Debug)]
pub struct Run {
    session: Session,
    id: String,
}

impl Run {
    pub(crate) fn new(session: Session, id: impl Into<String>) -> Self {
        Self { session, id: id.into() }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Says how much of all there is to do is done, from 0 to 1, and what is being done.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn progress(&self, fraction: f64, note: impl Into<String>) -> Result<(), PublishError> {
        let note = note.into();
        self.change(wire::RunChange { fraction: Some(fraction), note, ..Default::default() }).await
    }

    /// Sets counters, such as tokens and cost.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn counters<T: Into<String>>(
        &self,
        counters: impl IntoIterator<Item = (T, f64)>,
    ) -> Result<(), PublishError> {
        let counters = counters.into_iter().map(|(name, value)| (name.into(), value)).collect();
        self.change(wire::RunChange { counters, ..Default::default() }).await
    }

    /// Says what it does, or how it ended.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn set_state(&self, state: RunState, note: impl Into<String>) -> Result<(), PublishError> {
        let (state, note) = (state.as_str().to_owned(), note.into());
        self.change(wire::RunChange { state, note, ..Default::default() }).await
    }

    /// It has come to what it was for.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn complete(&self) -> Result<(), PublishError> {
        self.set_state(RunState::Completed, "").await
    }

    /// It has not.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn fail(&self, note: impl Into<String>) -> Result<(), PublishError> {
        self.set_state(RunState::Failed, note).await
    }

    /// Wants it to end: whoever runs it has so long, 30 seconds unless it is said and at most an hour. Then the broker ends it, and the
    /// lease of its agent. Said again, the earlier time counts.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn cancel(
        &self,
        deadline: impl Into<Option<Duration>>,
        reason: impl Into<String>,
    ) -> Result<(), PublishError> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        let cancel = wire::Cancel { deadline_ms: deadline.into().map_or(0, millis), reason: reason.into() };
        let publication = Publication::entity(kind::CANCEL, WireBody::Cancel(cancel)).run(&self.id);
        self.session.publish(publication).await.map(drop)
    }

    async fn change(&self, change: wire::RunChange) -> Result<(), PublishError> {
        let publication = Publication::entity(kind::RUN, WireBody::RunChange(change)).run(&self.id);
        self.session.publish(publication).await.map(drop)
    }

    /// A run that is a part of this one.
    pub fn start_run(&self, title: impl Into<String>) -> StartRun {
        StartRun::new(self.session.clone(), title).parent(&self.id)
    }

    /// Begins a message that grows. It ends with the run, as abandoned, unless it is closed before.
    pub fn open_message(&self, content_type: impl Into<String>) -> StartMessage {
        StartMessage::new(self.session.clone(), content_type, &self.id)
    }

    /// Asks something; it is cancelled when the run ends.
    pub fn ask(&self, title: impl Into<String>) -> Ask {
        Ask::new(self.session.clone(), title).run(&self.id)
    }
}
