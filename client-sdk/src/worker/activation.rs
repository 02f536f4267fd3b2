//! One session, from the claim of its agent to the end of the lease.

use std::sync::Arc;
use std::time::Duration;

use longwire_proto::error::ErrorCode;
use longwire_proto::input::ReceiptState;
use longwire_proto::kind;
use longwire_proto::position::Position;
use longwire_proto::run_state::RunState;
use longwire_proto::session_id::SessionId;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::client::Client;
use crate::error::RequestError;
use crate::from::From;
use crate::lease::Lease;
use crate::record::{Body, Record};
use crate::run::Run;
use crate::session::Session;
use crate::session_info::SessionInfo;
use crate::subscription::Subscription;
use crate::worker::context::{Active, Context};
use crate::worker::{Handler, HandlerError, WorkerError};

/// A lease is renewed this many times within its time to live: two that are lost in a row lose nothing.
const RENEWALS: u32 = 3;
/// Characters of an input that become the title of a run.
const TITLE_CHARS_MAX: usize = 80;

/// On which terms an agent is claimed.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) agent: String,
    pub(crate) ttl: Option<Duration>,
    pub(crate) adopt_timeout: Option<Duration>,
}

/// What looking at a session came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// There is nothing to do here, or somebody else does it.
    Nothing,
    /// It was served.
    Served,
    /// The handler has given the lease up, until there is something to do.
    Suspended,
    /// The handler, or something that it takes, failed.
    Failed,
    /// The broker refuses what would be asked again.
    Refused(WorkerError),
}

/// What a session wants of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// Nobody knows the agent here yet: until somebody does, nothing can be sent to it.
    Introduction,
    Work,
}

fn need(info: &SessionInfo, agent: &str) -> Need {
    let known = info.agents.iter().find(|known| known.agent == agent);
    match known {
        _ if info.closed => Need::Nothing,
        None => Need::Introduction,
        Some(known) if known.live => Need::Nothing,
        Some(_) => {
            let suspended = RunState::Suspended.as_str();
            let runs = info.runs.iter().filter(|run| run.agent == agent && run.state == suspended);
            // One that waits for an answer is woken by it.
            let waits = |run: &str| info.asks.iter().any(|ask| ask.run == run);
            let has_run = { runs }.any(|run| !waits(&run.id));
            let has_input = info.inputs.iter().any(|input| input.agent == agent);
            if has_run || has_input { Need::Work } else { Need::Nothing }
        }
    }
}

/// Serves a session, if there is something to do.
pub(crate) async fn activate(client: &Client, id: &SessionId, terms: &Terms, handler: &Handler) -> Outcome {
    let session = Session::new(client.clone(), id.clone());
    match serve(&session, terms, handler).await {
        Ok(outcome) => outcome,
        Err(WorkerError::Request(RequestError::NotFound(_))) => Outcome::Nothing,
        // Somebody else was faster, or took over.
        Err(error) if matches!(code(&error), Some(ErrorCode::LeaseHeld | ErrorCode::Fenced)) => {
            Outcome::Nothing
        }
        Err(error) if matches!(code(&error), Some(ErrorCode::Forbidden | ErrorCode::Unauthenticated)) => {
            Outcome::Refused(error)
        }
        Err(error) if code(&error) == Some(ErrorCode::InvalidArgument) => Outcome::Refused(error),
        Err(_) => Outcome::Failed,
    }
}

fn code(error: &WorkerError) -> Option<ErrorCode> {
    use crate::error::PublishError;
    match error {
        WorkerError::Request(RequestError::Refused(refusal))
        | WorkerError::Publish(PublishError::Refused(refusal)) => refusal.code,
        _ => None,
    }
}

async fn serve(session: &Session, terms: &Terms, handler: &Handler) -> Result<Outcome, WorkerError> {
    let need = need(&session.describe().await?, &terms.agent);
    if need == Need::Nothing {
        return Ok(Outcome::Nothing);
    }
    let lease = claim(session, terms).await?;
    if lease.inputs().is_empty() && lease.runs().is_empty() {
        lease.release().await?;
        return Ok(Outcome::Nothing);
    }
    let begins = Position { epoch: lease.epoch(), offset: lease.generation() + 1 };
    let kinds = [kind::INPUT, kind::CANCEL, kind::LEASE];
    let records = session.subscribe(From::Position(begins)).kinds(kinds).await?;
    let inputs = inputs(session, &lease).await?;
    let (run, resumed) = run(&lease, &inputs).await?;
    let active = Arc::new(Active::new(lease.clone(), run, resumed));
    for input in inputs {
        active.push(input);
    }
    if lease.runs().iter().any(|run| run.id == active.run.id() && !run.cancelled_by.is_empty()) {
        active.cancelled.cancel();
    }
    let mut handling = JoinSet::new();
    handling.spawn(handler(Context(Arc::clone(&active))));
    let Some(handled) = attend(&lease, &active, records, &mut handling).await else {
        // Whoever has the lease now goes on. Dropping the tasks aborts the handler.
        return Ok(Outcome::Nothing);
    };
    if active.is_suspended() {
        return Ok(if matches!(handled, Ok(Ok(()))) { Outcome::Suspended } else { Outcome::Failed });
    }
    let is_fine = matches!(handled, Ok(Ok(()))) || active.cancelled.is_cancelled();
    let outcome = if is_fine { Outcome::Served } else { Outcome::Failed };
    end(&active, handled).await?;
    lease.release().await?;
    Ok(outcome)
}

async fn claim(session: &Session, terms: &Terms) -> Result<Lease, RequestError> {
    let mut claim = session.claim(&terms.agent);
    if let Some(ttl) = terms.ttl {
        claim = claim.ttl(ttl);
    }
    if let Some(timeout) = terms.adopt_timeout {
        claim = claim.adopt_timeout(timeout);
    }
    claim.await
}

/// The records of what the agent found waiting.
async fn inputs(session: &Session, lease: &Lease) -> Result<Vec<Record>, RequestError> {
    let mut found = Vec::with_capacity(lease.inputs().len());
    for input in lease.inputs() {
        let after = Position { epoch: lease.epoch(), offset: input.offset };
        let page = session.read().after(after).limit(1).await?;
        // One that was trimmed or erased has nothing left to be done.
        found.extend(
            page.records.into_iter().filter(|record| record.id == input.id && record.kind == kind::INPUT),
        );
    }
    Ok(found)
}

/// The run that this goes on with, or a new one.
async fn run(lease: &Lease, inputs: &[Record]) -> Result<(Run, bool), WorkerError> {
    let waits = [RunState::Suspended.as_str(), RunState::InputRequired.as_str()];
    let waiting = lease.runs().iter().filter(|run| waits.contains(&run.state.as_str()));
    let own = |id: &str| lease.runs().iter().any(|run| run.id == id);
    // Parts of a run end with it, or are resumed by whoever knows them.
    let whole = { waiting }.filter(|run| !own(&run.parent)).min_by_key(|run| run.offset);
    if let Some(whole) = whole {
        let run = lease.session().run(&whole.id);
        run.set_state(RunState::Working, "").await?;
        return Ok((run, true));
    }
    let said = inputs.first().and_then(Record::text).unwrap_or_default();
    let title: String = said.lines().next().unwrap_or_default().chars().take(TITLE_CHARS_MAX).collect();
    let title = if title.is_empty() { lease.agent().to_owned() } else { title };
    Ok((lease.session().start_run(title).await?, false))
}

type Handled = Result<Result<(), HandlerError>, JoinError>;

/// Renews the lease and passes on what comes, until the handler has ended; `None` when the lease did before, other than by its word.
async fn attend(
    lease: &Lease,
    active: &Active,
    mut records: Subscription,
    handling: &mut JoinSet<Result<(), HandlerError>>,
) -> Option<Handled> {
    let period = lease.ttl() / RENEWALS;
    let mut renewal = interval_at(Instant::now() + period, period);
    renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            handled = handling.join_next() => return handled,
            record = records.next() => match record {
                Some(Ok(record)) => {
                    if !take(lease, active, record) {
                        break;
                    }
                }
                // The session is closed, deleted or not to be read any more: its leases have ended.
                Some(Err(error)) if !error.goes_on() => break,
                None => break,
                Some(Err(_)) => {}
            },
            _ = renewal.tick() => {
                if !renew(lease).await {
                    break;
                }
            }
        }
    }
    if active.is_suspended() { handling.join_next().await } else { None }
}

/// Whether the lease is still there, as far as is known.
async fn renew(lease: &Lease) -> bool {
    match lease.renew().await {
        Err(RequestError::Refused(refusal)) => refusal.code != Some(ErrorCode::Fenced),
        Err(RequestError::NotFound(_) | RequestError::Closed(_)) => false,
        _ => true,
    }
}

/// Takes note of a record; says whether the lease is still there.
fn take(lease: &Lease, active: &Active, record: Record) -> bool {
    match &record.body {
        Body::LeaseChange(change) if change.agent == lease.agent() => {
            return change.state != "claimed" && change.generation < lease.generation();
        }
        Body::Receipt(receipt) if ReceiptState::parse(&receipt.state) != Some(ReceiptState::Delivered) => {
            active.remove(&record.reply_to);
        }
        Body::Cancel(_) if record.run == active.run.id() => active.cancelled.cancel(),
        Body::Text(_) | Body::Data(_)
            if record.kind == kind::INPUT && record.to.iter().any(|to| to == lease.agent()) =>
        {
            active.push(record);
        }
        _ => {}
    }
    true
}

/// Says how it ended.
async fn end(active: &Active, handled: Handled) -> Result<(), WorkerError> {
    let run = &active.run;
    match handled {
        _ if active.cancelled.is_cancelled() => run.set_state(RunState::Cancelled, "").await?,
        Ok(Ok(())) => run.complete().await?,
        Ok(Err(error)) => run.fail(note(&error.to_string())).await?,
        Err(_) => run.fail("the handler panicked").await?,
    }
    Ok(())
}

/// As much of an error as a run has room for.
fn note(text: &str) -> String {
    const NOTE_CHARS_MAX: usize = 512;
    text.chars().take(NOTE_CHARS_MAX).collect()
}
