//! What sessions are asked, and how the answers find their way.

use longwire_core::command::{Command, Reply};
use longwire_proto::error::Error;
use tokio::sync::mpsc;

/// What a session is asked.
#[derive(Debug)]
pub enum Operation {
    /// A command for its machine.
    Command(Command),
    /// Delete it.
    Delete,
}

/// The answer to an [`Operation`], addressed by the number that its asker gave it.
#[derive(Debug)]
pub struct Answer {
    /// The asker's number.
    pub request: u64,
    /// `None` when a delete was carried out.
    pub result: Result<Option<Reply>, Error>,
}

/// Where an answer goes. The asker never has more requests open than the channel has room for, so an answer is never
/// waited with.
#[derive(Clone, Debug)]
pub struct ReplyTo {
    /// The asker's number.
    pub request: u64,
    /// The asker's answers.
    pub answers: mpsc::Sender<Answer>,
}

impl ReplyTo {
    /// Answers. An asker that has gone is not told.
    pub fn answer(self, result: Result<Option<Reply>, Error>) {
        let answer = Answer { request: self.request, result };
        if let Err(mpsc::error::TrySendError::Full(_)) = self.answers.try_send(answer) {
            tracing::error!(
                request = self.request,
                "an asker has more requests open than it has room for answers"
            );
        }
    }
}

/// A request to a session.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub operation: Operation,
    /// Where the answer goes.
    pub reply_to: ReplyTo,
}
