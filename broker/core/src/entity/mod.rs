//! What is open in a session: messages that grow, runs, asks and inputs, and which agents there are. Each is named by the id of the
//! record that began it; what has ended is remembered, so that its id is not given again and whoever comes late is told how it ended.

pub mod agent;
pub mod ask;
pub mod at;
pub mod call;
mod deadlines;
pub mod ended;
pub mod entry;
pub mod input;
mod leases;
pub mod message;
pub mod run;
mod snapshot;
pub mod standing;
pub mod view;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::input::{Receipt, ReceiptState, not_consumed};
use longwire_proto::lease::{self, LeaseState};
use longwire_proto::limits::{
    ASKS_OPEN_MAX, INPUTS_OPEN_MAX, MESSAGE_BYTES_MAX, MESSAGES_OPEN_MAX, OPEN_BYTES_MAX, RUNS_OPEN_MAX,
};
use longwire_proto::meaning::{Meaning, Progress, abandoned_message, changed_run, ended_ask};
use longwire_proto::resolution::AskOutcome;
use longwire_proto::run_state::RunState;

use crate::entity::ask::Ask;
use crate::entity::at::At;
use crate::entity::ended::{Ended, What};
use crate::entity::entry::Entry;
use crate::entity::input::Input;
use crate::entity::message::Message;
use crate::entity::run::Run;
use crate::entity::standing::Writer;
use crate::entity::view::View;

/// Runs that have ended and are still told to subscribers: enough to draw the tree of what somebody works on.
pub const RUNS_ENDED_KEPT: usize = 64;
/// Entities that have ended and are resident beyond those that ended since the last snapshot; the others are rows in the store.
pub const ENDED_RESIDENT_MAX: usize = 256;

/// Whether what a record means may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    New,
    /// It was published before, at this offset.
    Known(u64),
}

/// What is open, and what has ended as far as it is resident. A value of the log's records alone, but for which of the ended are
/// resident, which changes no answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entities {
    /// What subscribers are told; shared with them.
    view: Arc<View>,
    messages: BTreeMap<Arc<str>, Message>,
    ended: BTreeMap<Arc<str>, Ended>,
    /// Whether the store may have rows of ended ones that are not resident.
    cold: bool,
    /// See [`Entities::deadline_ms`]: kept, because it is asked for at every publish.
    deadline_ms: Option<u64>,
}

impl Entities {
    /// Those of a log before its first record, whose last epoch begins at `own_from`.
    #[must_use]
    pub fn new(own_from: u64) -> Self {
        Self { view: Arc::new(View { own_from, ..View::default() }), ..Self::default() }
    }

    /// What subscribers are told.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Ids that the record names and that may have rows which must be loaded before it is judged.
    pub fn cold_ids<'a>(&'a self, meaning: &'a Meaning) -> impl Iterator<Item = &'a str> {
        let named = match meaning {
            Meaning::None | Meaning::Lease(_) | Meaning::State(_) => [None, None],
            Meaning::Opens { id, .. } => [Some(id.as_str()), None],
            Meaning::Delta { message, .. } => [Some(message.as_str()), None],
            Meaning::Ask(question) => [Some(question.id.as_str()), Some(question.run.as_str())],
            Meaning::Answer { ask, .. } => [Some(ask.as_str()), None],
            Meaning::RunStart { id, change } => [Some(id.as_str()), Some(change.parent.as_str())],
            Meaning::RunChange { run, .. } | Meaning::Cancel { run, .. } => [Some(run.as_str()), None],
            Meaning::Input(input) => [Some(input.id.as_str()), None],
            Meaning::Receipt(receipt) => [Some(receipt.input.as_str()), Some(receipt.run.as_str())],
        };
        named.into_iter().flatten().filter(|id| self.is_cold(id))
    }

    /// Whether what has this id may be a row that is not resident.
    #[must_use]
    pub fn is_cold(&self, id: &str) -> bool {
        self.cold && !id.is_empty() && !self.ended.contains_key(id) && !self.is_open(id)
    }

    fn is_open(&self, id: &str) -> bool {
        let view = &self.view;
        let works = self.messages.contains_key(id) || view.runs.contains_key(id);
        works || view.asks.contains_key(id) || view.inputs.contains_key(id)
    }

    /// Takes over what the store has of an ended one.
    pub fn load(&mut self, id: &str, row: Option<&[u8]>) {
        if let Some(ended) = row.and_then(Ended::decode)
            && !self.is_open(id)
        {
            self.ended.entry(id.into()).or_insert(ended);
        }
    }

    /// Judges what a record means. Nothing changes: a record that may be is folded when it is written.
    ///
    /// # Errors
    /// Those of the leaves, each with its code and what to do instead.
    pub fn judge(&self, meaning: &Meaning, by: &Writer<'_>, now_ms: u64) -> Result<Verdict, Error> {
        let accepted = Ok(Verdict::New);
        match meaning {
            // No writer has the latter: the broker writes it when it has judged the claim.
            Meaning::None | Meaning::Lease(_) => accepted,
            Meaning::Opens { id, .. } => {
                self.check_new(id)?;
                check_room("messages that grow", self.messages.len(), MESSAGES_OPEN_MAX)?;
                accepted
            }
            Meaning::Delta { message, bytes, .. } => match self.messages.get(message.as_str()) {
                Some(open) => open.judge(message, *bytes, by).and(accepted),
                None => Err(self.no_message(message)),
            },
            Meaning::Ask(question) => {
                if let Some(offset) = self.known(&question.id, What::Ask, by)? {
                    return Ok(Verdict::Known(offset));
                }
                check_room("asks", self.view.asks.len(), ASKS_OPEN_MAX)?;
                self.check_bytes()?;
                if !question.run.is_empty() {
                    self.check_run("run", &question.run)?;
                }
                accepted
            }
            Meaning::Answer { ask, outcome, answer } => match self.view.asks.get(ask.as_str()) {
                Some(open) => open.judge(*outcome, answer, by, now_ms).and(accepted),
                None => Err(self.no_ask(ask)),
            },
            Meaning::RunStart { id, change } => {
                if let Some(offset) = self.known(id, What::Run, by)? {
                    return Ok(Verdict::Known(offset));
                }
                check_room("runs", self.view.runs.len(), RUNS_OPEN_MAX)?;
                self.check_bytes()?;
                if !change.parent.is_empty() {
                    self.check_run("parent", &change.parent)?;
                }
                if change.state.is_some_and(RunState::has_ended) {
                    let message =
                        "a run that starts has not ended: start it, and end it with the next record";
                    return Err(Error::new(ErrorCode::InvalidRecord, message).field("state"));
                }
                accepted
            }
            Meaning::RunChange { run, .. } => {
                self.check_run("run", run)?;
                if let Some(open) = self.view.runs.get(run.as_str()) {
                    open.judge(run, by)?;
                }
                accepted
            }
            Meaning::Cancel { run, .. } => self.check_run("run", run).and(accepted),
            Meaning::Input(input) => {
                if let Some(offset) = self.known(&input.id, What::Input, by)? {
                    return Ok(Verdict::Known(offset));
                }
                if !self.view.agents.contains_key(input.agent.as_str()) {
                    let message = format!(
                        "nobody ever was the agent `{}` of this session, so nobody would see it: a worker that serves the session \
                         claims its agent at once, then send it again; or send it to one of the session's agents",
                        input.agent
                    );
                    return Err(Error::new(ErrorCode::AgentUnknown, message).field("to"));
                }
                check_room("inputs", self.view.inputs.len(), INPUTS_OPEN_MAX)?;
                accepted
            }
            Meaning::Receipt(receipt) => self.judge_receipt(receipt, by).and(accepted),
            Meaning::State(set) => entry::judge(set, &self.view.state).and(accepted),
        }
    }

    fn judge_receipt(&self, receipt: &Receipt, by: &Writer<'_>) -> Result<(), Error> {
        let id = receipt.input.as_str();
        match self.view.inputs.get(id) {
            Some(open) => open.judge(id, by)?,
            None if self.ended.get(id).is_some_and(|ended| ended.what == What::Input) => {
                let message = format!("the input `{id}` has ended: it was consumed, or is not going to be");
                return Err(Error::new(ErrorCode::InputEnded, message).field("reply_to"));
            }
            None => {
                let message = format!("there is no input `{id}` in this session");
                return Err(Error::new(ErrorCode::InputNotFound, message).field("reply_to"));
            }
        }
        match self.check_run("run", &receipt.run) {
            // What an input asked for may be done by now.
            Err(error) if !receipt.run.is_empty() && error.code == ErrorCode::RunNotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What ends because a run has, at `since` or later: its asks, the messages of it that grow, and the runs that are a part of it. To
    /// be folded and asked again, until it is nothing.
    ///
    /// A message may name a run that nobody started yet, and one that is begun after its run has ended goes on: what somebody recorded
    /// while they were cut off comes so. Runs that have ended since the last snapshot are resident.
    #[must_use]
    pub fn loose_ends(&self, since: u64) -> Vec<Bytes> {
        let is_loose = |run: &Arc<str>| !run.is_empty() && !self.view.runs.contains_key(run);
        let asks = self.view.asks.iter().filter(|(_, ask)| is_loose(&ask.run));
        let asks = asks.map(|(id, _)| ended_ask(id, AskOutcome::Cancelled, "its run has ended"));
        let runs = self.view.runs.iter().filter(|(_, run)| is_loose(&run.parent));
        let runs = runs.map(|(id, run)| {
            let parent = self.view.ended_runs.iter().rev().find(|(id, _)| *id == run.parent);
            let cancelled = parent.is_some_and(|(_, parent)| parent.state == RunState::Cancelled);
            let state = if cancelled { RunState::Cancelled } else { RunState::Abandoned };
            changed_run(id, state, "the run that it is a part of has ended")
        });
        let has_ended = |message: &Message| {
            let ended = self.ended.get(&message.run).filter(|ended| ended.what == What::Run);
            ended.is_some_and(|run| run.changed >= since && message.offset < run.changed)
        };
        let messages = self.messages.iter().filter(|(_, message)| has_ended(message));
        let messages = messages.map(|(id, _)| abandoned_message(id));
        asks.chain(runs).chain(messages).collect()
    }

    /// What ends because the session is closed: everything that is open.
    #[must_use]
    pub fn last_ends(&self) -> Vec<Bytes> {
        const WHY: &str = "the session was closed";
        let held = self.view.agents.iter().filter(|(_, agent)| agent.held);
        let leases = held.map(|(name, agent)| lease::ended(name, agent.generation, LeaseState::Lapsed, WHY));
        let inputs = self.view.inputs.keys().map(|id| not_consumed(id, WHY));
        let asks = self.view.asks.keys().map(|id| ended_ask(id, AskOutcome::Cancelled, WHY));
        let runs = self.view.runs.keys().map(|id| changed_run(id, RunState::Abandoned, WHY));
        let messages = self.messages.keys().map(|id| abandoned_message(id));
        leases.chain(asks).chain(runs).chain(messages).chain(inputs).collect()
    }

    /// How much is open.
    #[must_use]
    pub fn open(&self) -> usize {
        let (view, messages) = (&self.view, self.messages.len());
        view.asks.len()
            + view.runs.len()
            + messages
            + view.inputs.len()
            + view.agents.len()
            + view.state.len()
    }

    /// Takes over what a record means. Total: what [`Entities::judge`] would not have let in is taken for nothing, because it is in the
    /// log all the same.
    pub fn fold(&mut self, meaning: &Meaning, at: &At<'_>) {
        match meaning {
            Meaning::None => {}
            Meaning::Opens { id, run, bytes } => {
                if !self.is_taken(id) {
                    self.messages.insert(id.as_str().into(), Message::new(run, *bytes, at));
                    Arc::make_mut(&mut self.view).messages = self.messages.len();
                }
            }
            Meaning::Delta { message, bytes, closes } => {
                if let Some(open) = self.messages.get_mut(message.as_str()) {
                    open.bytes = open.bytes.saturating_add(*bytes);
                    if *closes && let Some((id, open)) = self.messages.remove_entry(message.as_str()) {
                        Arc::make_mut(&mut self.view).messages = self.messages.len();
                        let Message { offset, principal, agent, .. } = &open;
                        self.ended.insert(id, Ended::plain(What::Message, *offset, principal, agent, at));
                    }
                }
            }
            Meaning::Ask(question) => {
                if !self.is_taken(&question.id) {
                    let id = question.id.as_str().into();
                    Arc::make_mut(&mut self.view).asks.insert(id, Arc::new(Ask::new(question, at)));
                }
            }
            Meaning::Answer { ask, outcome, answer } => {
                if let Some((id, open)) = Arc::make_mut(&mut self.view).asks.remove_entry(ask.as_str()) {
                    self.ended.insert(id, Ended::ask(&open, *outcome, Some(answer), at));
                }
            }
            Meaning::RunStart { id, change } => {
                if !self.is_taken(id) {
                    let run = Run::new(change, at);
                    Arc::make_mut(&mut self.view).runs.insert(id.as_str().into(), Arc::new(run));
                }
            }
            Meaning::RunChange { run, change } => self.change_run(run, change, at),
            Meaning::Cancel { run, deadline_ms } => {
                if self.view.runs.contains_key(run.as_str())
                    && let Some(run) = Arc::make_mut(&mut self.view).runs.get_mut(run.as_str())
                {
                    Arc::make_mut(run).cancel(*deadline_ms, at);
                }
            }
            Meaning::Input(input) => {
                if !self.is_taken(&input.id) {
                    let id = input.id.as_str().into();
                    Arc::make_mut(&mut self.view).inputs.insert(id, Arc::new(Input::new(input, at)));
                }
            }
            Meaning::Receipt(receipt) => self.receive(receipt, at),
            Meaning::Lease(change) => self.change_lease(change, at),
            Meaning::State(set) => {
                let state = &mut Arc::make_mut(&mut self.view).state;
                match &set.value {
                    Some(value) => {
                        let entry = Arc::new(Entry::new(value, at));
                        drop(state.insert(set.key.as_str().into(), entry));
                    }
                    None => drop(state.remove(set.key.as_str())),
                }
            }
        }
        // Nearly all of what means anything is pieces of messages, with which no deadline comes or goes.
        if !matches!(meaning, Meaning::None | Meaning::Delta { .. }) {
            self.deadline_ms = self.next_deadline_ms();
        }
    }

    fn receive(&mut self, receipt: &Receipt, at: &At<'_>) {
        if !self.view.inputs.contains_key(receipt.input.as_str()) {
            return;
        }
        let inputs = &mut Arc::make_mut(&mut self.view).inputs;
        if receipt.state == ReceiptState::Delivered {
            if let Some(open) = inputs.get_mut(receipt.input.as_str()) {
                Arc::make_mut(open).deliver(at.generation);
            }
        } else if let Some((id, open)) = inputs.remove_entry(receipt.input.as_str()) {
            let ended = Ended::plain(What::Input, open.offset, &open.principal, &Arc::default(), at);
            self.ended.insert(id, ended);
        }
    }

    fn change_run(&mut self, run: &str, change: &Progress, at: &At<'_>) {
        if !self.view.runs.contains_key(run) {
            return;
        }
        let view = Arc::make_mut(&mut self.view);
        let Some(open) = view.runs.get_mut(run) else { return };
        Arc::make_mut(open).change(change, at);
        if open.state.has_ended()
            && let Some((id, open)) = view.runs.remove_entry(run)
        {
            let Run { offset, principal, agent, .. } = &*open;
            self.ended.insert(Arc::clone(&id), Ended::plain(What::Run, *offset, principal, agent, at));
            if view.ended_runs.len() == RUNS_ENDED_KEPT {
                view.ended_runs.pop_front();
            }
            view.ended_runs.push_back((id, open));
        }
    }

    /// Where the next byte of a message goes.
    #[must_use]
    pub fn message_bytes(&self, message: &str) -> Option<u64> {
        self.messages.get(message).map(|message| message.bytes)
    }

    /// Whether these pieces, together with what a message has, may be more than one may have.
    #[must_use]
    pub fn may_fill(&self, meanings: &[Meaning]) -> bool {
        let pieces = meanings.iter().filter_map(|meaning| match meaning {
            Meaning::Delta { message, bytes, .. } => Some((message, *bytes)),
            _ => None,
        });
        let longest = pieces.clone().filter_map(|(message, _)| self.message_bytes(message)).max();
        longest.is_some_and(|longest| {
            pieces.map(|(_, bytes)| bytes).sum::<u64>()
                > MESSAGE_BYTES_MAX as u64 - longest.min(MESSAGE_BYTES_MAX as u64)
        })
    }

    /// Where the records of a message are: that which began it, that which ended it unless it grows, and how long it is while it does.
    ///
    /// # Errors
    /// [`ErrorCode::MessageNotFound`].
    pub fn describe_message(&self, id: &str) -> Result<(u64, Option<u64>, u64), Error> {
        if let Some(open) = self.messages.get(id) {
            return Ok((open.offset, None, open.bytes));
        }
        match self.ended.get(id).filter(|ended| ended.what == What::Message) {
            Some(ended) => Ok((ended.offset, Some(ended.changed), 0)),
            None => {
                let message =
                    format!("no message `{id}` grows or has grown in this session, as far as it is retained");
                Err(Error::new(ErrorCode::MessageNotFound, message).field("message"))
            }
        }
    }

    /// How the ask of this id ended; `None` within while it is open.
    ///
    /// # Errors
    /// [`ErrorCode::AskNotFound`].
    pub fn describe_ask(&self, id: &str) -> Result<(u64, Option<&Ended>), Error> {
        if let Some(open) = self.view.asks.get(id) {
            return Ok((open.offset, None));
        }
        match self.ended.get(id).filter(|ended| ended.what == What::Ask) {
            Some(ended) => Ok((ended.offset, Some(ended))),
            None => Err(ask_not_found(id)),
        }
    }

    /// Content of records at these offsets goes: an ask that is erased is cancelled by whoever erased it, an input is over, and a key of
    /// the state is there no more.
    pub fn erase(&mut self, ranges: &[Range<u64>], at: &At<'_>) {
        let erased = |offset: u64| ranges.iter().any(|range| range.contains(&offset));
        for ended in self.ended.values_mut() {
            ended.erase(&erased);
        }
        let asks = self.view.asks.iter().filter(|(_, ask)| erased(ask.offset));
        let asks: Vec<_> = asks.map(|(id, ask)| (Arc::clone(id), Arc::clone(ask))).collect();
        let has_runs = self.view.runs.values().any(|run| run.is_touched(ranges))
            || self.view.ended_runs.iter().any(|(_, run)| run.is_touched(ranges));
        let inputs = self.view.inputs.iter().filter(|(_, input)| erased(input.offset));
        let inputs: Vec<_> = inputs.map(|(id, input)| (Arc::clone(id), Arc::clone(input))).collect();
        let has_keys = self.view.state.values().any(|entry| erased(entry.revision));
        if asks.is_empty() && inputs.is_empty() && !has_runs && !has_keys {
            return;
        }
        let view = Arc::make_mut(&mut self.view);
        view.state.retain(|_, entry| !erased(entry.revision));
        for (id, input) in inputs {
            view.inputs.remove(&id);
            let ended = Ended::plain(What::Input, input.offset, &input.principal, &Arc::default(), at);
            self.ended.insert(id, ended);
        }
        for (id, ask) in asks {
            view.asks.remove(&id);
            self.ended.insert(id, Ended::ask(&ask, AskOutcome::Cancelled, None, at));
        }
        let runs = view.runs.values_mut().chain(view.ended_runs.iter_mut().map(|(_, run)| run));
        runs.filter(|run| run.is_touched(ranges)).for_each(|run| Arc::make_mut(run).erase(&erased));
        self.deadline_ms = self.next_deadline_ms();
    }

    /// Forgets ended ones whose rows are durable in a snapshot through `through`, the longest ended first.
    pub fn evict(&mut self, through: u64) {
        self.cold |= !self.ended.is_empty();
        let excess = self.ended.len().saturating_sub(ENDED_RESIDENT_MAX);
        if excess == 0 {
            return;
        }
        let mut coldest: Vec<(u64, Arc<str>)> =
            self.ended.iter().map(|(id, ended)| (ended.changed, Arc::clone(id))).collect();
        coldest.retain(|(changed, _)| *changed < through);
        coldest.sort_unstable();
        for (_, id) in coldest.into_iter().take(excess) {
            self.ended.remove(&id);
        }
    }

    /// Whether the store may have rows of ended ones that are not resident.
    #[must_use]
    pub fn has_cold(&self) -> bool {
        self.cold
    }

    /// Whether a row is of a run or a message whose last record is below `start`, and is not resident.
    #[must_use]
    pub fn is_past(&self, id: &str, row: &[u8], start: u64) -> bool {
        let past = Ended::decode(row).is_some_and(|ended| ended.what != What::Ask && ended.changed < start);
        past && !self.is_taken(id)
    }

    /// How many of the ended are resident.
    #[must_use]
    pub fn ended_resident(&self) -> usize {
        self.ended.len()
    }

    fn is_taken(&self, id: &str) -> bool {
        self.is_open(id) || self.ended.contains_key(id)
    }

    fn check_new(&self, id: &str) -> Result<(), Error> {
        if self.is_taken(id) { Err(id_in_use(id)) } else { Ok(()) }
    }

    /// The offset of what was begun under this id before by the same principal, or agent; `None` when the id is free.
    fn known(&self, id: &str, what: What, by: &Writer<'_>) -> Result<Option<u64>, Error> {
        let found = match (self.view.asks.get(id), self.view.runs.get(id), self.ended.get(id)) {
            (Some(ask), _, _) => Some((What::Ask, ask.offset, &ask.principal, &*ask.agent)),
            (_, Some(run), _) => Some((What::Run, run.offset, &run.principal, &*run.agent)),
            (_, _, Some(ended)) => Some((ended.what, ended.offset, &ended.principal, &*ended.agent)),
            _ if self.messages.contains_key(id) => return Err(id_in_use(id)),
            _ => {
                let input = self.view.inputs.get(id);
                input.map(|input| (What::Input, input.offset, &input.principal, ""))
            }
        };
        match found {
            Some((found, offset, principal, agent)) if found == what && by.owns(principal, agent) => {
                Ok(Some(offset))
            }
            Some(_) => Err(id_in_use(id)),
            None => Ok(None),
        }
    }

    fn check_run(&self, field: &'static str, id: &str) -> Result<(), Error> {
        if self.view.runs.contains_key(id) {
            return Ok(());
        }
        if self.ended.get(id).is_some_and(|ended| ended.what == What::Run) {
            let message = format!("the run `{id}` has ended; start another one");
            return Err(Error::new(ErrorCode::RunEnded, message).field(field));
        }
        let message = format!("there is no run `{id}` in this session; start it before it is named");
        Err(Error::new(ErrorCode::RunNotFound, message).field(field))
    }

    fn check_bytes(&self) -> Result<(), Error> {
        if self.view.bytes() < OPEN_BYTES_MAX {
            return Ok(());
        }
        let message =
            format!("the open asks and runs of the session have {OPEN_BYTES_MAX} bytes; end some of them");
        Err(Error::new(ErrorCode::TooManyOpen, message).limit(OPEN_BYTES_MAX))
    }

    fn no_message(&self, id: &str) -> Error {
        if self.ended.get(id).is_some_and(|ended| ended.what == What::Message) {
            let message = format!("the message `{id}` was closed and grows no more; begin another one");
            return Error::new(ErrorCode::MessageClosed, message).field("message");
        }
        let message =
            format!("no message `{id}` grows in this session; begin it with a message that has `grows`");
        Error::new(ErrorCode::MessageNotFound, message).field("message")
    }

    fn no_ask(&self, id: &str) -> Error {
        let Some(resolution) = self.ended.get(id).and_then(Ended::resolution) else {
            return ask_not_found(id);
        };
        let message = format!("the ask `{id}` has ended: {} by {}", resolution.outcome, resolution.by);
        Error::new(ErrorCode::AlreadyResolved, message).field("reply_to").resolved(resolution)
    }
}

fn ask_not_found(id: &str) -> Error {
    Error::new(ErrorCode::AskNotFound, format!("there is no ask `{id}` in this session")).field("reply_to")
}

fn id_in_use(id: &str) -> Error {
    let message = format!("the session has something else of the id `{id}`; take another id");
    Error::new(ErrorCode::IdInUse, message).field("id")
}

fn check_room(what: &str, open: usize, limit: usize) -> Result<(), Error> {
    if open < limit {
        return Ok(());
    }
    let message = format!("{limit} {what} are open in this session; end one of them first");
    Err(Error::new(ErrorCode::TooManyOpen, message).limit(limit))
}
