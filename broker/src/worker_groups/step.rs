//! One step of a wake, from the webhook to the record of what came of it.

use std::sync::Arc;

use bytes::Bytes;
use longwire_proto::error::ErrorCode;
use longwire_proto::worker_group::GroupName;
use serde_json::json;

use crate::store::LogId;
use crate::worker_groups::definition::Definition;
use crate::worker_groups::groups::Groups;
use crate::worker_groups::history::{Entry, tell_wake};
use crate::worker_groups::wakes::{Attempt, Outcome, Step};

/// What a step came to.
pub(super) struct Done {
    /// Whose it was.
    pub(super) group: GroupName,
    /// Of which of the group's lives.
    pub(super) id: u64,
    /// The log of the wake.
    pub(super) log: LogId,
    /// Which wake.
    pub(super) serial: u64,
    /// How it went.
    pub(super) outcome: Outcome,
}

/// Carries a step out.
pub(super) async fn carry_out(groups: Arc<Groups>, definition: Arc<Definition>, step: Step) -> Done {
    let (Step::Post(attempt) | Step::Bury(attempt, _)) = &step;
    let (group, id, log, serial) = (definition.name.clone(), definition.id, attempt.log, attempt.serial);
    let outcome = match &step {
        Step::Post(attempt) => post(&groups, &definition, attempt).await,
        Step::Bury(attempt, why) => bury(&groups, &definition, attempt, why).await,
    };
    Done { group, id, log, serial, outcome }
}

async fn post(groups: &Groups, definition: &Definition, attempt: &Attempt) -> Outcome {
    let body = json!({
        "session": attempt.session.as_str(),
        "agent": definition.terms.agent,
        "position": attempt.position.to_string(),
    });
    let (wake, body) = (definition.wake_id(attempt), Bytes::from(body.to_string()));
    let tried = groups.webhooks.post(&definition.url, &definition.secret, &wake, body).await;
    let (outcome, why) = match &tried.outcome {
        Outcome::Failed(why, _) => ("failed", why.as_str()),
        Outcome::Refused(why) => ("refused", why.as_str()),
        _ => ("accepted", ""),
    };
    metrics::counter!("longwire_wakes_total", "outcome" => outcome).increment(1);
    let told = tell_wake(&groups.hub, definition, Entry::Wake, attempt, outcome, tried.status, why).await;
    if let Err(error) = told {
        // What was done is done; what is not told is missed by who reads the history alone.
        tracing::warn!(group = %definition.name, %error, "what became of a wake was not written down");
    }
    tried.outcome
}

async fn bury(groups: &Groups, definition: &Definition, attempt: &Attempt, why: &str) -> Outcome {
    let hub = &groups.hub;
    match tell_wake(hub, definition, Entry::DeadLetter, attempt, "dead", None, why).await {
        Ok(()) => {}
        // The group was removed.
        Err(error) if error.code == ErrorCode::SessionNotFound => return Outcome::Buried,
        Err(error) => {
            tracing::warn!(group = %definition.name, %error, "a dead letter was not written down; it is tried again");
            return Outcome::NotBuried;
        }
    }
    metrics::counter!("longwire_wakes_total", "outcome" => "dead").increment(1);
    if let Err(error) = tell_wake(hub, definition, Entry::Wake, attempt, "dead", None, why).await {
        tracing::warn!(group = %definition.name, %error, "what became of a wake was not written down");
    }
    Outcome::Buried
}
