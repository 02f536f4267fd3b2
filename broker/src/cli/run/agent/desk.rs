//! The work of the agent.

use std::collections::BTreeSet;
use std::time::Duration;

use longwire::{
    Body, Client, From, Lease, Position, PublishError, Record, RequestError, Run, RunInfo, RunState, Session,
    SessionInfo, SessionMeta, Subscription,
};
use longwire_proto::limits::{AGENTS_MAX, CANCEL_DEADLINE_MS_DEFAULT, CANCEL_DEADLINE_MS_MAX};
use longwire_proto::{error::ErrorCode, kind};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use crate::cli::clock_text::now_ms;
use crate::cli::escape::escape;
use crate::cli::run::agent::obstacle::Obstacle;
use crate::cli::run::agent::{Over, Role};
use crate::cli::run::ending::Outcome;
use crate::cli::run::{RUN_PATIENCE, RUN_RETRY};

/// The name of the first one; others have a number behind it.
const NAME: &str = "run";
/// A lease is renewed this many times within its time to live: two that are lost in a row lose nothing.
const RENEWALS: u32 = 3;
/// How long until it is tried again to become the agent.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// So long before the broker would end a cancelled run the command is killed: enough to publish what it said to the end. With less
/// time than twice that, in the middle of it.
const KILL_MARGIN: Duration = Duration::from_secs(2);
/// What is told of the agent.
const KINDS: [u32; 4] = [kind::INPUT, kind::CANCEL, kind::LEASE, kind::RUN];

/// See [`crate::cli::run::agent::Agent`].
#[derive(Debug)]
pub(super) struct Desk {
    client: Client,
    session: Session,
    role: Role,
    cancel: watch::Sender<Option<Instant>>,
    inputs: mpsc::Sender<Record>,
    written: mpsc::Receiver<String>,
    /// Whether the run was started.
    has_run: bool,
    /// Inputs that the command has not read.
    unread: BTreeSet<String>,
}

/// What there is while the lease is live.
struct Held {
    lease: Lease,
    run: Run,
    records: Subscription,
}

impl Desk {
    pub(super) fn new(
        client: Client,
        session: Session,
        role: Role,
        cancel: watch::Sender<Option<Instant>>,
        inputs: mpsc::Sender<Record>,
        written: mpsc::Receiver<String>,
    ) -> Self {
        Self { client, session, role, cancel, inputs, written, has_run: false, unread: BTreeSet::new() }
    }

    /// Is the agent until the command has ended, again after every break.
    pub(super) async fn work(mut self, mut over: Over) {
        let mut told = false;
        while self.client.connected().await.is_ok() {
            let obstacle = match self.begin().await {
                Ok(held) => match self.serve(held, &mut over).await {
                    Ok(()) => return,
                    Err(obstacle) => obstacle,
                },
                Err(obstacle) => obstacle,
            };
            let session = self.session.id();
            match obstacle {
                Obstacle::Closed => return,
                Obstacle::Ended => {
                    let rest = if over.came.is_some() { "" } else { "; the command goes on" };
                    return eprintln!("longwire: somebody else has ended the run{rest}");
                }
                Obstacle::Refused(why) => {
                    return eprintln!(
                        "longwire: the command goes on without being an agent of {session}: {}",
                        escape(&why)
                    );
                }
                Obstacle::Held(why) if over.came.is_some() => {
                    let what = if self.has_run { "the run was not ended" } else { "there was no run" };
                    return eprintln!("longwire: {what}: {}", escape(&why));
                }
                Obstacle::Held(why) => {
                    if !std::mem::replace(&mut told, true) {
                        eprintln!(
                            "longwire: the command goes on and becomes an agent of {session} later: {}",
                            escape(&why)
                        );
                    }
                }
                Obstacle::Passing => {}
            }
            if over.came.is_some() {
                sleep(RETRY_AFTER).await;
            } else {
                tokio::select! {
                    _ = over.wait() => {}
                    () = sleep(RETRY_AFTER) => {}
                }
            }
        }
    }

    /// Becomes the agent and starts its run, or goes on with it.
    async fn begin(&mut self) -> Result<Held, Obstacle> {
        let lease = self.claim().await?;
        let begun = self.take_up(&lease).await;
        if begun.is_err() {
            drop(lease.clone().release().await);
        }
        let (run, records) = begun?;
        Ok(Held { lease, run, records })
    }

    async fn take_up(&mut self, lease: &Lease) -> Result<(Run, Subscription), Obstacle> {
        let begins = Position { epoch: lease.epoch(), offset: lease.generation() + 1 };
        let records = self.session.subscribe(From::Position(begins)).kinds(KINDS).await?;
        let run = self.run(lease).await?;
        self.find_inputs(lease).await?;
        Ok((run, records))
    }

    async fn claim(&mut self) -> Result<Lease, Obstacle> {
        if let Some(name) = &self.role.name {
            return self.claim_as(name).await;
        }
        // What cannot be seen is found out by trying.
        let info = self.session.describe().await.ok();
        let names =
            (1..=AGENTS_MAX).map(|number| if number == 1 { NAME.into() } else { format!("{NAME}-{number}") });
        for name in names.filter(|name| info.as_ref().is_none_or(|info| is_free(info, name))) {
            match self.claim_as(&name).await {
                Err(Obstacle::Held(_)) => {}
                Ok(lease) => {
                    if name != NAME {
                        eprintln!("longwire: the command is the agent `{name}` of {}", self.session.id());
                    }
                    self.role.name = Some(name);
                    return Ok(lease);
                }
                Err(obstacle) => return Err(obstacle),
            }
        }
        Err(Obstacle::Refused(format!("it has {AGENTS_MAX} of them")))
    }

    async fn claim_as(&self, name: &str) -> Result<Lease, Obstacle> {
        let claim = || {
            let claim = self.session.claim(name);
            if let Some(ttl) = self.role.ttl { claim.ttl(ttl) } else { claim }
        };
        match claim().await {
            Err(RequestError::NotFound(_)) => {}
            claimed => return Ok(claimed?),
        }
        match self.session.create(SessionMeta::default()).await {
            Ok(_) | Err(RequestError::Exists(_) | RequestError::ExistsUncertain(_)) => {}
            Err(RequestError::Closed(closed)) => return Err(closed.into()),
            // Who may not create it by itself waits for the first record, which does.
            Err(_) => drop(self.session.subscribe(From::Start).wait_for_session().await?.next().await),
        }
        Ok(claim().await?)
    }

    async fn run(&mut self, lease: &Lease) -> Result<Run, Obstacle> {
        let run = lease.session().run(&self.role.run);
        let known = lease.runs().iter().find(|known| known.id == run.id());
        if !self.has_run {
            self.start(lease).await?;
            self.has_run = true;
            self.abandon_others(lease).await?;
            return Ok(run);
        }
        let known = known.ok_or(Obstacle::Ended)?;
        if !known.cancelled_by.is_empty() {
            // By the broker's clock; a deadline that is told anew is never longer than one can be.
            let left_ms = known.cancel_at_ms.saturating_sub(now_ms()).min(CANCEL_DEADLINE_MS_MAX as u64);
            self.cancel_within(Duration::from_millis(left_ms));
        }
        if known.state == RunState::Suspended.as_str() {
            run.set_state(RunState::Working, "").await?;
        }
        Ok(run)
    }

    async fn start(&self, lease: &Lease) -> Result<(), Obstacle> {
        let start = lease.session().start_run(&self.role.title).id(&self.role.run);
        let start = self.role.trace.mark_run(start);
        let until = Instant::now() + RUN_PATIENCE;
        while let Some(parent) = &self.role.parent {
            let refusal = match start.clone().parent(parent).await {
                Err(PublishError::Refused(refusal)) => refusal,
                started => return Ok(started.map(drop)?),
            };
            match refusal.code {
                Some(ErrorCode::RunNotFound) if Instant::now() < until => sleep(RUN_RETRY).await,
                // It has ended, or is not going to be there: this is a run of its own.
                Some(ErrorCode::RunNotFound | ErrorCode::RunEnded) => break,
                _ => return Err(refusal.into()),
            }
        }
        Ok(start.await.map(drop)?)
    }

    /// A command cannot be gone on with by another one: what an earlier agent of this name has left ends.
    async fn abandon_others(&self, lease: &Lease) -> Result<(), Obstacle> {
        let others: Vec<&RunInfo> = lease.runs().iter().filter(|run| run.id != self.role.run).collect();
        // A part of one of them ends with it.
        let is_part = |run: &RunInfo| others.iter().any(|whole| whole.id == run.parent);
        for other in others.iter().filter(|other| !is_part(other)) {
            let note = "its agent has begun another command";
            lease.session().run(&other.id).set_state(RunState::Abandoned, note).await?;
        }
        Ok(())
    }

    /// What was put to the agent before this lease.
    async fn find_inputs(&mut self, lease: &Lease) -> Result<(), Obstacle> {
        for input in lease.inputs() {
            let after = Position { epoch: lease.epoch(), offset: input.offset };
            let page = self.session.read().after(after).limit(1).await?;
            // One that was trimmed or erased has nothing left to be read.
            if let Some(record) = page.records.into_iter().find(|record| record.id == input.id) {
                self.give(lease, record).await?;
            }
        }
        Ok(())
    }

    /// Does what is to be done while the lease is live. Ends well when the command has ended, and its run.
    async fn serve(&mut self, held: Held, over: &mut Over) -> Result<(), Obstacle> {
        let Held { lease, run, mut records } = held;
        let period = lease.ttl() / RENEWALS;
        let mut renewal = interval_at(Instant::now() + period, period);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                record = records.next() => match record {
                    Some(Ok(record)) => self.hear(&lease, record).await?,
                    Some(Err(error)) if error.goes_on() => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(Obstacle::Refused("the session is closed".to_owned())),
                },
                Some(input) = self.written.recv() => self.consumed(&lease, &input).await?,
                outcome = over.wait() => return self.end(lease, &run, outcome).await,
                _ = renewal.tick() => lease.renew().await?,
            }
        }
    }

    async fn hear(&mut self, lease: &Lease, record: Record) -> Result<(), Obstacle> {
        match &record.body {
            Body::LeaseChange(change) if change.agent == lease.agent() => {
                let is_older = change.state != "claimed" && change.generation < lease.generation();
                return if is_older { Ok(()) } else { Err(Obstacle::Passing) };
            }
            Body::RunChange(change) if record.run == self.role.run => {
                let has_ended = RunState::parse(&change.state).is_some_and(RunState::has_ended);
                if has_ended && record.sender.agent != lease.agent() {
                    drop(lease.clone().release().await);
                    return Err(Obstacle::Ended);
                }
            }
            Body::Cancel(cancel)
                if record.run == self.role.run || Some(&record.run) == self.role.parent.as_ref() =>
            {
                let usual = CANCEL_DEADLINE_MS_DEFAULT as u64;
                let within = if cancel.deadline_ms == 0 { usual } else { cancel.deadline_ms };
                self.cancel_within(Duration::from_millis(within));
            }
            Body::Text(_) | Body::Data(_) if record.to.iter().any(|to| to == lease.agent()) => {
                self.give(lease, record).await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The run is to end, or the broker ends it after so long. Of two deadlines the earlier one counts.
    fn cancel_within(&self, deadline: Duration) {
        let kill_at = Instant::now() + kill_after(deadline);
        self.cancel.send_modify(|known| *known = Some(known.map_or(kill_at, |known| known.min(kill_at))));
    }

    /// Hands input to the command, or says why not.
    async fn give(&mut self, lease: &Lease, input: Record) -> Result<(), Obstacle> {
        let id = input.id.clone();
        if self.unread.contains(&id) {
            return Ok(());
        }
        let refusal = if !self.role.takes_input {
            "the command takes no input: `longwire run --stdin` gives it some"
        } else if self.inputs.try_send(input).is_err() {
            "the command reads no more input"
        } else {
            self.unread.insert(id.clone());
            return known(lease.delivered(&id).await);
        };
        known(lease.not_consumed(&id, refusal).await)
    }

    async fn consumed(&mut self, lease: &Lease, input: &str) -> Result<(), Obstacle> {
        known(lease.consumed(input, &self.role.run).await)?;
        self.unread.remove(input);
        Ok(())
    }

    /// The command has ended: so has its run.
    async fn end(&mut self, lease: Lease, run: &Run, outcome: Outcome) -> Result<(), Obstacle> {
        while let Ok(input) = self.written.try_recv() {
            self.consumed(&lease, &input).await?;
        }
        for input in &self.unread {
            known(lease.not_consumed(input, "the command has ended").await)?;
        }
        let (state, note) = (outcome.run_state(), outcome.ending.to_string());
        let note = if state == RunState::Completed { String::new() } else { note };
        run.set_state(state, note).await?;
        // One that has lapsed meanwhile was given up, too.
        drop(lease.release().await);
        Ok(())
    }
}

/// An input that has ended otherwise meanwhile needs no receipt.
fn known(said: Result<(), PublishError>) -> Result<(), Obstacle> {
    match said {
        Err(PublishError::Refused(refusal))
            if matches!(refusal.code, Some(ErrorCode::InputEnded | ErrorCode::InputNotFound)) =>
        {
            Ok(())
        }
        said => Ok(said?),
    }
}

/// Whether nobody is this agent, and nobody has left anything as it that he may come back to.
fn is_free(info: &SessionInfo, name: &str) -> bool {
    let has_ended = |run: &RunInfo| RunState::parse(&run.state).is_some_and(RunState::has_ended);
    let is_live = info.agents.iter().any(|agent| agent.agent == name && agent.live);
    let has_run = info.runs.iter().any(|run| run.agent == name && !has_ended(run));
    !is_live && !has_run
}

/// How long after a cancel with this deadline the command is killed.
fn kill_after(deadline: Duration) -> Duration {
    deadline - KILL_MARGIN.min(deadline / 2)
}

#[cfg(test)]
mod tests {
    use longwire::AgentInfo;

    use super::*;

    #[test]
    fn a_command_is_killed_before_the_broker_ends_its_run() {
        let seconds = Duration::from_secs;
        assert_eq!(kill_after(seconds(30)), seconds(28));
        assert_eq!(kill_after(seconds(2)), seconds(1));
        assert_eq!(kill_after(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_name_is_free_when_nobody_is_it_or_may_come_back_to_it() {
        let agent = |live| AgentInfo { agent: "run".into(), live, ..Default::default() };
        let run = |state: &str| RunInfo { agent: "run".into(), state: state.into(), ..Default::default() };
        let mut info = SessionInfo::default();
        assert!(is_free(&info, "run"));
        info.agents = vec![agent(true)];
        assert!(!is_free(&info, "run") && is_free(&info, "run-2"));
        info.agents = vec![agent(false)];
        info.runs = vec![run("completed"), run("abandoned")];
        assert!(is_free(&info, "run"));
        info.runs.push(run("suspended"));
        assert!(!is_free(&info, "run") && is_free(&info, "run-2"));
    }
}
