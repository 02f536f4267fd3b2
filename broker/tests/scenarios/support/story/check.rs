//! Looks for what may not be, in one pass over the log and one over what was told.

use std::collections::{BTreeMap, BTreeSet};

use super::{Entry, Story, Taken, What, Written};

/// A message as the log has it.
#[derive(Default)]
struct Message {
    /// The agent and the generation with which it was begun.
    lease: Option<(String, u64)>,
    bytes: Vec<u8>,
    is_closed: bool,
}

/// What the log says.
#[derive(Default)]
struct Told<'a> {
    asks: BTreeMap<&'a str, u64>,
    /// By ask: offset and option.
    answers: BTreeMap<&'a str, (u64, &'a str)>,
    messages: BTreeMap<&'a str, Message>,
    /// What was said, and with which lease.
    said: BTreeMap<&'a str, &'a Entry>,
    /// The live lease of each agent.
    live: BTreeMap<&'a str, u64>,
    claims: BTreeSet<(&'a str, u64)>,
    violations: Vec<String>,
}

impl<'a> Told<'a> {
    fn take(&mut self, offset: u64, entry: &'a Entry) {
        if let Some((agent, generation)) = &entry.lease
            && self.live.get(agent.as_str()) != Some(generation)
        {
            let live = self.live.get(agent.as_str());
            self.violations.push(format!(
                "fencing: at {offset} {agent} writes with lease {generation}, and {live:?} is live: {entry:?}"
            ));
        }
        match &entry.what {
            What::Claimed(agent) => {
                if let Some(live) = self.live.insert(agent, offset) {
                    self.violations
                        .push(format!("two holders: {agent} is claimed at {offset}, and {live} is live"));
                }
                self.claims.insert((agent, offset));
            }
            What::LeaseEnded(agent, generation) => {
                let ended = self.live.remove(agent.as_str());
                if ended != Some(*generation) {
                    self.violations.push(format!(
                        "an end of nothing: at {offset} lease {generation} of {agent} ends, and {ended:?} was live"
                    ));
                }
            }
            What::Asked(ask) => {
                if self.asks.insert(ask, offset).is_some() {
                    self.violations.push(format!("asked twice: {ask}, again at {offset}"));
                }
            }
            What::Answered { ask, option } => {
                if !self.asks.contains_key(ask.as_str()) {
                    self.violations.push(format!("an answer to nothing: {ask} at {offset}"));
                }
                if let Some((first, _)) = self.answers.get(ask.as_str()) {
                    self.violations.push(format!("answered twice: {ask}, at {first} and at {offset}"));
                } else {
                    self.answers.insert(ask, (offset, option));
                }
            }
            What::Opened { message, bytes } => {
                let begun = Message { lease: entry.lease.clone(), bytes: bytes.clone(), is_closed: false };
                if self.messages.insert(message, begun).is_some() {
                    self.violations.push(format!("begun twice: the message {message}, again at {offset}"));
                }
            }
            What::Piece { message, at_byte, bytes, close } => {
                self.piece(offset, message, *at_byte, bytes, close)
            }
            What::Said(text) => {
                if self.said.insert(text, entry).is_some() {
                    self.violations.push(format!("said twice: {text}, again at {offset}"));
                }
            }
            What::Other => {}
        }
    }

    fn piece(&mut self, offset: u64, message: &'a str, at_byte: u64, bytes: &[u8], close: &str) {
        let Some(whole) = self.messages.get_mut(message) else {
            return self.violations.push(format!("a piece of nothing: of {message} at {offset}"));
        };
        if whole.is_closed {
            self.violations.push(format!("a piece of what is closed: of {message} at {offset}"));
        }
        if at_byte != whole.bytes.len() as u64 {
            let length = whole.bytes.len();
            self.violations
                .push(format!("misplaced: at {offset} byte {at_byte} of {message}, which has {length}"));
        }
        whole.bytes.extend_from_slice(bytes);
        whole.is_closed |= !close.is_empty();
    }
}

/// Every violation, against the final log.
pub(crate) fn violations(story: &Story, log: &[Entry]) -> Vec<String> {
    let mut told = Told::default();
    (0..).zip(log).for_each(|(offset, entry)| told.take(offset, entry));
    let mut found = std::mem::take(&mut told.violations);
    for (name, message) in &told.messages {
        if let Some((agent, generation)) = &message.lease
            && !message.is_closed
            && told.live.get(agent.as_str()) != Some(generation)
        {
            found.push(format!(
                "left open: the message {name} of lease {generation} of {agent}, which has ended"
            ));
        }
    }
    for (ask, option, taken) in &story.answers {
        let (offset, expected) = match taken {
            Taken::Won => (None, option),
            Taken::Lost { option, offset } => (Some(*offset), option),
        };
        let is_so = told
            .answers
            .get(ask.as_str())
            .is_some_and(|(at, given)| given == expected && offset.is_none_or(|offset| offset == *at));
        if !is_so {
            let given = told.answers.get(ask.as_str());
            found
                .push(format!("another winner: {option} for {ask} was {taken:?}, and the log has {given:?}"));
        }
    }
    for (ask, option) in &story.heard {
        let given = told.answers.get(ask.as_str());
        if given.is_none_or(|(_, given)| given != option) {
            found.push(format!("another answer: who asked {ask} heard {option}, and the log has {given:?}"));
        }
    }
    let mut holders: BTreeMap<(&str, u64), &str> = BTreeMap::new();
    for (agent, generation, holder) in &story.claims {
        if !told.claims.contains(&(agent.as_str(), *generation)) {
            found.push(format!("a claim that is not there: {generation} of {agent}, told {holder}"));
        }
        if let Some(other) = holders.insert((agent, *generation), holder)
            && other != holder
        {
            found.push(format!("one lease for two: {generation} of {agent}, told {other} and {holder}"));
        }
    }
    for (agent, generation, text, written) in &story.said {
        let there = told.said.get(text.as_str());
        let own = there.is_some_and(|entry| entry.lease.as_ref() == Some(&(agent.clone(), *generation)));
        match written {
            Written::Ok if !own => {
                found.push(format!("lost: {text} of lease {generation} of {agent}: {there:?}"))
            }
            Written::Fenced if there.is_some() => {
                found.push(format!("fenced and there: {text} of lease {generation} of {agent}"));
            }
            Written::Ok | Written::Fenced => {}
        }
    }
    for (number, folded) in story.folded.iter().enumerate() {
        let names: BTreeSet<&str> =
            told.messages.keys().copied().chain(folded.keys().map(String::as_str)).collect();
        for name in names {
            let whole = told.messages.get(name).map(|message| message.bytes.as_slice());
            let read = folded.get(name).map(Vec::as_slice);
            if whole != read {
                found.push(format!(
                    "folded otherwise: reader {number} has {:?} bytes of {name}, and the log {:?}",
                    read.map(<[u8]>::len),
                    whole.map(<[u8]>::len)
                ));
            }
        }
    }
    found
}
