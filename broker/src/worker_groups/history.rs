//! The sessions of a group: its history, and its dead letters.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longwire_core::command::Command;
use longwire_core::entity::standing::BROKER;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::meta::Meta;
use longwire_proto::record::Sender;
use longwire_proto::retention::Retention;
use longwire_proto::session_id::SessionId;
use longwire_proto::wire;
use longwire_proto::worker_group::GroupName;
use prost::Message;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::hub::Hub;
use crate::request::Operation;
use crate::worker_groups::definition::Definition;
use crate::worker_groups::wakes::Attempt;

/// Records that either session keeps: of a group that is busy, the last day or so.
const RECORDS_KEPT: u64 = 100_000;
/// How long they are kept: for as long as somebody may want to know what went wrong.
const AGE_KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// Times that a record is written again when it is not known whether it was, or cannot be for now. A record that is there twice has the same id.
const TRIES_MAX: u32 = 6;
/// The pause before a record is written again the first time; each later one is twice as long, three seconds in all.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// What a record of these sessions is: its `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// The group was told something.
    Defined,
    /// A wake was tried, or given up.
    Wake,
    /// A wake was given up.
    DeadLetter,
}

impl Entry {
    fn as_str(self) -> &'static str {
        match self {
            Self::Defined => "worker_group",
            Self::Wake => "wake",
            Self::DeadLetter => "dead_letter",
        }
    }
}

/// The broker, as who writes.
pub(super) fn broker() -> Sender {
    Sender { principal: BROKER.to_owned(), ..Sender::default() }
}

/// Makes the sessions of a group, where they are not there.
pub(super) async fn begin(hub: &Arc<Hub>, name: &GroupName) -> Result<(), Error> {
    let titles =
        [(name.history(), "worker group"), (name.dead_letters(), "dead letters of the worker group")];
    for (session, title) in titles {
        let retention =
            Retention { records: Some(RECORDS_KEPT), age_ms: Some(AGE_KEPT_MS), ..Retention::default() };
        let meta = Box::new(Meta { title: format!("{title} {name}"), retention, ..Meta::default() });
        let create = Command::Create { sender: broker(), meta, update: false };
        match hub.ask(session, Operation::Command(create)).await {
            Err(error) if error.code != ErrorCode::SessionExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Writes what a group is told.
pub(super) async fn tell_defined(hub: &Arc<Hub>, by: Sender, definition: &Definition) -> Result<(), Error> {
    let wire::WorkerGroup { group, pattern, agent, webhook, in_flight_max, attempts_max, .. } =
        definition.to_wire();
    let told = json!({
        "group": group, "pattern": pattern, "agent": agent, "webhook": webhook,
        "in_flight_max": in_flight_max, "attempts_max": attempts_max,
    });
    write(hub, definition.name.history(), by, Entry::Defined, String::new(), &told).await
}

/// Writes what became of a wake into a session of its group.
pub(super) async fn tell_wake(
    hub: &Arc<Hub>,
    definition: &Definition,
    entry: Entry,
    attempt: &Attempt,
    outcome: &str,
    status: Option<u16>,
    why: &str,
) -> Result<(), Error> {
    let mut told = json!({
        "wake": definition.wake_id(attempt), "session": attempt.session.as_str(), "agent": definition.terms.agent,
        "position": attempt.position.to_string(), "attempt": attempt.number, "outcome": outcome,
    });
    if let Some(status) = status {
        told["status"] = json!(status);
    }
    if !why.is_empty() {
        told["why"] = json!(why);
    }
    let session = match entry {
        Entry::DeadLetter => definition.name.dead_letters(),
        Entry::Defined | Entry::Wake => definition.name.history(),
    };
    let id = format!("{}-{}-{outcome}", definition.wake_id(attempt), attempt.number);
    write(hub, session, broker(), entry, id, &told).await
}

async fn write(
    hub: &Arc<Hub>,
    session: &SessionId,
    sender: Sender,
    entry: Entry,
    id: String,
    told: &Value,
) -> Result<(), Error> {
    let record = wire::Record {
        id,
        r#type: entry.as_str().to_owned(),
        content_type: "application/json".to_owned(),
        body: Some(wire::record::Body::Text(told.to_string())),
        ..Default::default()
    };
    let records = vec![Bytes::from(record.encode_to_vec())];
    let mut tries = 0;
    loop {
        // Of a group that was removed meanwhile nothing comes back.
        let publish = Command::Publish {
            sender: sender.clone(),
            producer: None,
            if_end: None,
            may_create: false,
            records: records.clone(),
            meant: None,
        };
        match hub.ask(session, Operation::Command(publish)).await {
            Err(error)
                if error.code.retryable() && error.code != ErrorCode::Draining && tries < TRIES_MAX =>
            {
                sleep(PAUSE_MIN * (1 << tries)).await;
                tries += 1;
            }
            outcome => return outcome.map(drop),
        }
    }
}
