//! What agents and people did in one session and were told, for a checker that holds it against the final log: an ask has one answer, an
//! agent one holder at a time, what a stale holder wrote is nowhere, and whoever folds a message reads what it is.

mod check;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use longwire::{Body, Record};
use longwire_proto::kind;

pub(crate) use check::violations;

/// Violations that a failure shows; one cause often has thousands.
const SHOWN: usize = 20;

/// What the checker knows of a record; its offset is its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The agent that it is of and the generation of the lease, if it was written with one.
    pub(crate) lease: Option<(String, u64)>,
    pub(crate) what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Its offset is the generation.
    Claimed(String),
    LeaseEnded(String, u64),
    Asked(String),
    Answered {
        ask: String,
        option: String,
    },
    Opened {
        message: String,
        bytes: Vec<u8>,
    },
    Piece {
        message: String,
        at_byte: u64,
        bytes: Vec<u8>,
        close: String,
    },
    /// Something that is written once.
    Said(String),
    Other,
}

impl Entry {
    pub(crate) fn of(record: &Record) -> Self {
        let sender = &record.sender;
        let lease = (!sender.agent.is_empty()).then(|| (sender.agent.clone(), sender.generation));
        let what = match (&record.body, record.kind) {
            (Body::LeaseChange(change), _) if change.state == "claimed" => {
                What::Claimed(change.agent.clone())
            }
            (Body::LeaseChange(change), _) => What::LeaseEnded(change.agent.clone(), change.generation),
            (Body::Ask(_), _) => What::Asked(record.id.clone()),
            (Body::Answer(answer), _) => {
                What::Answered { ask: record.reply_to.clone(), option: answer.option.clone() }
            }
            (_, kind::DELTA) => What::Piece {
                message: record.message.clone(),
                at_byte: record.at_byte,
                bytes: record.bytes().to_vec(),
                close: record.close.clone(),
            },
            _ if record.grows => What::Opened { message: record.id.clone(), bytes: record.bytes().to_vec() },
            (Body::Text(text), kind::MESSAGE) => What::Said(text.clone()),
            _ => What::Other,
        };
        Self { lease, what }
    }
}

/// How an answer was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Won,
    /// Somebody else's option was first, at this offset.
    Lost {
        option: String,
        offset: u64,
    },
}

/// What became of something that was written with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Ok,
    Fenced,
}

/// What they were told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Story {
    /// Ask, the option that was chosen, and how that was taken.
    pub(crate) answers: Vec<(String, String, Taken)>,
    /// What whoever asked was told: ask and option.
    pub(crate) heard: Vec<(String, String)>,
    /// Who was told that the agent is its own: agent, generation, holder.
    pub(crate) claims: Vec<(String, u64, String)>,
    /// Agent, generation, what was said, and what became of it.
    pub(crate) said: Vec<(String, u64, String, Written)>,
    /// What readers who fold have read of each message, from the start to the end of the log.
    pub(crate) folded: Vec<BTreeMap<String, Vec<u8>>>,
}

/// A story that is being made by many tasks.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoryRecorder(Arc<Mutex<Story>>);

impl StoryRecorder {
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Story) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    /// Panics with the violations, if there are any.
    #[track_caller]
    pub(crate) fn check(&self, what: &str, log: &[Entry]) {
        let found = self.with(|story| violations(story, log));
        assert!(
            found.is_empty(),
            "{what}: {} violations:\n{}",
            found.len(),
            found[..found.len().min(SHOWN)].join("\n")
        );
    }
}
