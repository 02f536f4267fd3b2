//! Saying something to an agent, and hearing what becomes of it.

use std::future::IntoFuture;
use std::pin::Pin;

use longwire_proto::input::{Mode, ReceiptState};
use longwire_proto::kind;
use longwire_proto::position::Position;

use crate::error::{InputError, PublishError};
use crate::publication::Publication;
use crate::record::Body;
use crate::session::Session;
use crate::subscription::Subscription;

/// An input to be sent: set options, then await it, which waits until the broker has it.
///
/// ```no_run
/// # async fn example(session: longwire::Session) -> Result<(), longwire::InputError> {
/// use longwire::{InputState, Mode};
/// let mut sent = session.send("coder", "use the other branch").mode(Mode::Steer).await?;
/// while let Some(state) = sent.next().await? {
///     if let InputState::NotConsumed { reason } = state { eprintln!("not done: {reason}") }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct SendInput {
    session: Session,
    id: Option<String>,
    input: Publication,
}

impl SendInput {
    pub(crate) fn new(session: Session, agent: impl Into<String>, input: Publication) -> Self {
        Self { session, id: None, input: input.kind(kind::INPUT).to(agent) }
    }

    /// Names it: at most 64 of `A-Z a-z 0-9 _ -`. Sending it again under the same id sends nothing new.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// What it is to what the agent does; [`Mode::Followup`] unless it is said.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.input = self.input.mode(mode.as_str());
        self
    }

    async fn sent(self) -> Result<SentInput, PublishError> {
        let id = self.id.unwrap_or_else(|| self.session.client().mint_id());
        let published = self.session.publish(self.input.id(&id)).await?;
        Ok(SentInput { session: self.session, id, after: published.next, receipts: None, has_ended: false })
    }
}

impl IntoFuture for SendInput {
    type Output = Result<SentInput, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.sent())
    }
}

/// What has become of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputState {
    /// The agent has it.
    Delivered,
    /// It was done.
    Consumed {
        /// By this run; empty when by none.
        run: String,
    },
    /// It is not going to be done.
    NotConsumed {
        /// Why, for humans.
        reason: String,
    },
}

/// An input that the broker has. It goes its way when this is dropped.
#[derive(Debug)]
pub struct SentInput {
    session: Session,
    id: String,
    /// Where receipts of it can be.
    after: Position,
    /// Begun once somebody wants to know.
    receipts: Option<Subscription>,
    has_ended: bool,
}

impl SentInput {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What becomes of it next; `None` after its end. It is delivered again when the agent that had it is gone.
    ///
    /// # Errors
    /// [`InputError::Subscription`] when the session cannot be read any more, [`InputError::SessionClosed`] when it ends before that is known.
    pub async fn next(&mut self) -> Result<Option<InputState>, InputError> {
        while !self.has_ended {
            let receipts = match &mut self.receipts {
                Some(receipts) => receipts,
                None => {
                    let receipts = self.session.subscribe(self.after).kinds([kind::INPUT]).await?;
                    self.receipts.insert(receipts)
                }
            };
            let Some(record) = receipts.next().await else {
                return Err(InputError::SessionClosed(self.id.clone()));
            };
            let record = match record {
                Ok(record) => record,
                Err(error) if error.goes_on() => continue,
                Err(error) => return Err(error.into()),
            };
            let Body::Receipt(receipt) = record.body else { continue };
            if record.reply_to != self.id {
                continue;
            }
            let state = match ReceiptState::parse(&receipt.state) {
                Some(ReceiptState::Delivered) => return Ok(Some(InputState::Delivered)),
                Some(ReceiptState::Consumed) => InputState::Consumed { run: receipt.run },
                Some(ReceiptState::NotConsumed) | None => InputState::NotConsumed { reason: receipt.reason },
            };
            self.has_ended = true;
            return Ok(Some(state));
        }
        Ok(None)
    }
}
