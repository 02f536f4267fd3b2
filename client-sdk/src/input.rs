//! Input to the agents of a session, and what became of it.

use std::future::IntoFuture;
use std::pin::Pin;

use longwire_proto::input::{Mode, ReceiptState};
use longwire_proto::record::kind;
use longwire_proto::wire;
use longwire_proto::wire::record::Body as WireBody;

use crate::error::PublishError;
use crate::lease::Lease;
use crate::publication::Publication;
use crate::session::Session;

/// Input to be sent: set options, then await it for its id.
#[derive(Clone, Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct SendInput {
    session: Session,
    id: Option<String>,
    publication: Publication,
}

impl SendInput {
    pub(crate) fn new(session: Session, agent: impl Into<String>, input: Publication) -> Self {
        Self { session, id: None, publication: input.kind(kind::INPUT).to(agent) }
    }

    /// Names it: at most 64 of `A-Z a-z 0-9 _ -`. Sending it again under the same id sends nothing new.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// How it is meant: for what comes next unless it is said.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.publication = self.publication.mode(mode.as_str());
        self
    }

    async fn sent(self) -> Result<String, PublishError> {
        let id = self.id.unwrap_or_else(|| self.session.client().handle().ids.next());
        self.session.publish(self.publication.id(&id)).await?;
        Ok(id)
    }
}

impl IntoFuture for SendInput {
    type Output = Result<String, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.sent())
    }
}

impl Lease {
    /// Says that the agent has an input. It may be said again.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn delivered(&self, input: &str) -> Result<(), PublishError> {
        self.receipt(input, ReceiptState::Delivered, "", "").await
    }

    /// Ends an input: it is done, or being done by this run; the id may be empty.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn consumed(&self, input: &str, run: &str) -> Result<(), PublishError> {
        self.receipt(input, ReceiptState::Consumed, run, "").await
    }

    /// Ends an input: it is not going to be done.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn not_consumed(&self, input: &str, reason: &str) -> Result<(), PublishError> {
        self.receipt(input, ReceiptState::NotConsumed, "", reason).await
    }

    async fn receipt(
        &self,
        input: &str,
        state: ReceiptState,
        run: &str,
        reason: &str,
    ) -> Result<(), PublishError> {
        let (state, run, reason) = (state.as_str().to_owned(), run.to_owned(), reason.to_owned());
        let body = WireBody::Receipt(wire::Receipt { state, run, reason });
        let publication = Publication::entity(kind::INPUT, body).reply_to(input);
        self.session().publish(publication).await.map(drop)
    }
}
