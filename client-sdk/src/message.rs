//! A message that grows while it is written, such as what a model says.

use std::future::IntoFuture;
use std::pin::Pin;

use crate::error::PublishError;
use crate::message_end::MessageEnd;
use crate::publication::Publication;
use crate::session::{Acknowledgement, Session};

/// A message that grows. What is pushed is accepted by the outbox at once and becomes durable in order; a refusal is told by the next
/// call. It stays open when this is dropped: close it.
#[derive(Debug)]
pub struct OpenMessage {
    session: Session,
    id: String,
    run: String,
    /// The last piece that was accepted: once it is durable, all before it are.
    last: Option<Acknowledgement>,
}

/// A message that grows, to be begun: set options, then await it. It is durable, and empty, when that is done.
///
/// ```no_run
/// # async fn example(run: longwire::Run) -> Result<(), longwire::PublishError> {
/// let message = run.open_message("text/plain").record_type("lw.tool.result").reply_to("call-1");
/// let mut output = message.header("tool", "shell").await?;
/// output.push("compiling\n").await?;
/// output.close().await
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is begun until it is awaited"]
pub struct StartMessage {
    session: Session,
    id: Option<String>,
    run: String,
    opens: Publication,
}

impl StartMessage {
    pub(crate) fn new(session: Session, content_type: impl Into<String>, run: &str) -> Self {
        let opens = Publication::text("").grows().content_type(content_type).run(run);
        Self { session, id: None, run: run.to_owned(), opens }
    }

    /// Names it: at most 64 of `A-Z a-z 0-9 _ -`. An id is given once in a session: under one that was given before nothing is begun,
    /// and the refusal is [`ErrorCode::IdInUse`](longwire_proto::error::ErrorCode::IdInUse).
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// What it means to the application.
    pub fn record_type(mut self, record_type: impl Into<String>) -> Self {
        self.opens = self.opens.record_type(record_type);
        self
    }

    /// Sets a header of the record that begins it.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.opens = self.opens.header(name, value);
        self
    }

    /// Names the record that it answers.
    pub fn reply_to(mut self, id: impl Into<String>) -> Self {
        self.opens = self.opens.reply_to(id);
        self
    }

    /// Names the message that it takes the place of.
    pub fn replaces(mut self, id: impl Into<String>) -> Self {
        self.opens = self.opens.replaces(id);
        self
    }

    async fn opened(self) -> Result<OpenMessage, PublishError> {
        let Self { session, id, run, opens } = self;
        let id = id.unwrap_or_else(|| session.client().mint_id());
        session.publish(opens.id(&id)).await?;
        Ok(OpenMessage { session, id, run, last: None })
    }
}

impl IntoFuture for StartMessage {
    type Output = Result<OpenMessage, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.opened())
    }
}

impl OpenMessage {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Goes on with it.
    ///
    /// # Errors
    /// [`PublishError`]: of this piece, or of one before it.
    pub async fn push(&mut self, text: impl Into<String>) -> Result<(), PublishError> {
        let piece = Publication::text(text);
        self.accept(piece).await
    }

    /// [`Self::push`] of bytes.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn push_bytes(&mut self, bytes: impl Into<bytes::Bytes>) -> Result<(), PublishError> {
        let piece = Publication::bytes("", bytes);
        self.accept(piece).await
    }

    async fn accept(&mut self, piece: Publication) -> Result<(), PublishError> {
        if let Some(last) = &mut self.last
            && let Some(settled) = last.try_settled()
        {
            settled?;
        }
        let piece = piece.piece_of(&self.id).run(&self.run);
        self.last = Some(self.session.enqueue(piece).await?);
        Ok(())
    }

    /// Waits until all that was pushed is durable.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn flush(&mut self) -> Result<(), PublishError> {
        match self.last.take() {
            Some(last) => last.await.map(drop),
            None => Ok(()),
        }
    }

    /// Ends it whole, durably.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn close(self) -> Result<(), PublishError> {
        self.end(MessageEnd::Complete).await
    }

    /// Ends it, durably.
    ///
    /// # Errors
    /// [`PublishError`]
    pub async fn end(mut self, end: MessageEnd) -> Result<(), PublishError> {
        self.flush().await?;
        let last = Publication::text("").piece_of(&self.id).run(&self.run).closing(end);
        self.session.publish(last).await.map(drop)
    }
}
