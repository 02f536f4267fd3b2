//! A message that grows while it is written, such as what a model says.

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

pub(crate) async fn open(
    session: Session,
    content_type: String,
    run: String,
) -> Result<OpenMessage, PublishError> {
    let id = session.client().handle().ids.next();
    let publication = Publication::text("").grows().content_type(content_type).id(&id).run(&run);
    session.publish(publication).await?;
    Ok(OpenMessage { session, id, run, last: None })
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
