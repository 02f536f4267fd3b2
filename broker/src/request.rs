//! What sessions are asked, and how the answers find their way.

use std::sync::Arc;

use bytes::Bytes;
use longwire_core::command::{Command, Reply};
use longwire_proto::error::Error;
use longwire_proto::position::{LineageEntry, Position};
use longwire_proto::record::Sender;
use longwire_proto::session_id::SessionId;

use crate::auth::operation::Operation as Asks;
use crate::pulse::Pulse;
use crate::queue::{self, Unsent};
use crate::store::LogId;

/// What a session is asked.
#[derive(Debug)]
pub enum Operation {
    /// A command for its machine.
    Command(Command),
    /// Begin a log that takes another one's records over; refused when the session exists.
    Begin(Box<Begin>),
    /// Drop the records below a position.
    Trim(Position),
    /// Delete it.
    Delete,
    /// Give its log the name of a session that does not exist.
    Rename(SessionId),
    /// Its deadline has come: look whether something is to be done.
    Wake,
    /// Another log has been given this name: load it again.
    Reload,
    /// Others have more use for its place in memory: leave it, unless somebody uses it.
    Rest,
}

impl Operation {
    /// What it is to whoever decides who may; `None` for what is not asked by frames that one session answers.
    #[must_use]
    pub fn asks(&self) -> Option<Asks> {
        Some(match self {
            Self::Command(Command::Publish { .. }) => Asks::Publish,
            Self::Command(Command::Create { update: false, .. }) => Asks::Create,
            Self::Command(Command::Create { update: true, .. }) => Asks::Update,
            Self::Command(Command::Close { .. }) => Asks::Close,
            Self::Command(Command::Describe) => Asks::Describe,
            Self::Command(Command::DescribeAsk { .. }) => Asks::DescribeAsk,
            Self::Command(Command::DescribeMessage { .. }) => Asks::ReadMessage,
            Self::Command(Command::Claim { take_over: true, .. }) => Asks::TakeOver,
            Self::Command(Command::Claim { .. } | Command::Release { .. }) => Asks::Lease,
            Self::Trim(_) => Asks::Trim,
            Self::Delete => Asks::Delete,
            _ => return None,
        })
    }
}

/// How a log begins that takes another one's records over.
#[derive(Debug)]
pub struct Begin {
    /// The epochs of what is taken over. The new log adds one of its own. They are not used when the name had a log
    /// before, whose positions they could be mistaken for.
    pub lineage: Vec<LineageEntry>,
    /// The first offset.
    pub start: u64,
    /// The offset of the first record of its own.
    pub base: u64,
    /// The log whose records from `start` to `base` it shares.
    pub shares: Option<LogId>,
    /// The offset from which the epoch that it adds counts.
    pub epoch_from: u64,
    /// The first epoch that the name it will have has free, when that is another name.
    pub vacant: u64,
    /// Who asks.
    pub sender: Sender,
    /// Its first records, not sealed yet; none when they come later.
    pub records: Vec<Bytes>,
    /// The time of the last record that is taken over, in Unix milliseconds.
    pub last_time_ms: u64,
    /// Its owner is to look after it when so many milliseconds have passed.
    pub wake_after_ms: Option<u64>,
}

/// The answer to an [`Operation`], addressed by the number that its asker gave it.
#[derive(Debug)]
pub struct Answer {
    /// The asker's number.
    pub request: u64,
    /// `None` when what was asked was carried out and has nothing to tell.
    pub result: Result<Option<Reply>, Error>,
}

/// Where an answer goes. The asker never has more requests open than the channel has room for, so an answer is never
/// waited with.
#[derive(Clone, Debug)]
pub struct ReplyTo {
    /// The asker's number.
    pub request: u64,
    /// The asker's answers.
    pub answers: queue::Sender<Answer>,
    /// Of who claims a lease: by which it is heard from then on.
    pub pulse: Option<Arc<Pulse>>,
}

impl ReplyTo {
    /// Nobody wants to know.
    #[must_use]
    pub fn nobody() -> Self {
        Self { request: 0, answers: queue::queue(0).0, pulse: None }
    }

    /// Answers. An asker that has gone is not told.
    pub fn answer(self, result: Result<Option<Reply>, Error>) {
        let answer = Answer { request: self.request, result };
        if let Err(Unsent::Full(_)) = self.answers.try_send(answer) {
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
