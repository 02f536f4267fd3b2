//! Frames of a client, checked and turned into what a session is asked.

use std::time::Duration;

use bytes::Bytes;
use longwire_core::command::{Command, Meant};
use longwire_core::entity::standing::Standing;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::lease::{LeaseRef, Terms, check_agent};
use longwire_proto::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, CLAIM_WAIT_MS_MAX, TITLE_BYTES_MAX};
use longwire_proto::meaning::Meaning;
use longwire_proto::meta::{Meta, check_length};
use longwire_proto::pattern::{InvalidPattern, Pattern};
use longwire_proto::position::{COUNTER_MAX, Position};
use longwire_proto::record::{self, ProducerRef, Sender};
use longwire_proto::resolution::AskOutcome;
use longwire_proto::session_id::SessionId;
use longwire_proto::short_id::check_short_id;
use longwire_proto::worker_group::named_session;
use longwire_proto::{raw, wire};

use crate::auth::operation::Operation;

/// What the client of a connection wants to be found.
pub(super) struct PatternClaim {
    /// Of one of these.
    pub(super) pattern: Pattern,
    /// This agent.
    pub(super) agent: String,
    /// How long it is waited for one that calls.
    pub(super) wait: Duration,
    /// What the session is told.
    pub(super) command: Command,
}

/// Reads the session id of a request.
///
/// # Errors
/// [`ErrorCode::InvalidSessionId`].
pub(super) fn session_id(text: &str) -> Result<SessionId, Error> {
    named_session(text)
        .map_err(|error| Error::new(ErrorCode::InvalidSessionId, error.to_string()).field("session"))
}

/// Reads a position of a request.
///
/// # Errors
/// [`ErrorCode::InvalidPosition`].
pub(super) fn position(field: &'static str, text: &str) -> Result<Position, Error> {
    text.parse().map_err(|error| Error::new(ErrorCode::InvalidPosition, format!("{error}")).field(field))
}

/// Checks the records of a publish, and tells what they mean.
///
/// # Errors
/// [`ErrorCode::BatchEmpty`], [`ErrorCode::BatchTooLarge`], and those of [`record::check`].
pub(super) fn records(records: &[Bytes]) -> Result<Vec<Meaning>, Error> {
    if records.is_empty() {
        return Err(Error::new(ErrorCode::BatchEmpty, "a publish has at least one record").field("records"));
    }
    let bytes = records.iter().map(Bytes::len).sum();
    check_batch("records", records.len(), BATCH_RECORDS_MAX)?;
    check_batch("bytes of records", bytes, BATCH_BYTES_MAX)?;
    let mut meanings = Vec::new();
    for (index, one) in records.iter().enumerate() {
        let meaning = record::check(one).map_err(|mut error| {
            error.message = format!("record {index}: {}", error.message);
            error
        })?;
        // Nearly no publish has any.
        if meaning != Meaning::None && meanings.is_empty() {
            meanings.resize(index, Meaning::None);
            meanings.reserve(records.len() - index);
        }
        if meaning != Meaning::None || !meanings.is_empty() {
            meanings.push(meaning);
        }
    }
    Ok(meanings)
}

/// What a publish asks for: answering, controlling agents and setting the state are something else than writing, and acting as an agent
/// is more.
pub(super) fn asks(meanings: &[Meaning], has_lease: bool) -> impl Iterator<Item = Operation> + use<> {
    let (mut answers, mut controls, mut sets, mut writes) = (false, false, false, meanings.is_empty());
    for meaning in meanings {
        match meaning {
            // Who asked may cancel it; that is writing.
            Meaning::Answer { outcome, .. } if *outcome != AskOutcome::Cancelled => answers = true,
            Meaning::Input(_) | Meaning::Cancel { .. } => controls = true,
            Meaning::State(_) => sets = true,
            _ => writes = true,
        }
    }
    let asked = [
        (writes, Operation::Publish),
        (answers, Operation::Answer),
        (controls, Operation::Control),
        (sets, Operation::SetState),
        (has_lease, Operation::Lease),
    ];
    asked.into_iter().filter_map(|(asked, operation)| asked.then_some(operation))
}

/// The command of a publish whose records were checked.
///
/// # Errors
/// [`ErrorCode::InvalidArgument`].
pub(super) fn publish(
    sender: Sender,
    publish: raw::Publish,
    meanings: Vec<Meaning>,
    standing: impl FnOnce() -> Standing,
) -> Result<Command, Error> {
    let raw::Publish { request: _, session: _, records, producer, if_end, act_as: _, lease } = publish;
    let producer = producer.map(producer_ref).transpose()?;
    // An answer is to an ask that is there, and a lease is one of a session that is.
    let may_create = asks(&meanings, lease.is_some()).eq([Operation::Publish]);
    let lease = lease.map(|lease| LeaseRef::new(lease.agent, lease.generation)).transpose()?;
    let sender = Sender { lease: lease.map(Box::new), ..sender };
    let meant =
        if meanings.is_empty() { None } else { Some(Box::new(Meant { meanings, standing: standing() })) };
    Ok(Command::Publish { sender, producer, if_end, may_create, records, meant })
}

fn check_batch(what: &str, found: usize, limit: usize) -> Result<(), Error> {
    if found <= limit {
        return Ok(());
    }
    let message = format!("the publish has {found} {what}; at most {limit} are allowed: split it");
    Err(Error::new(ErrorCode::BatchTooLarge, message).field("records").limit(limit))
}

fn producer_ref(producer: wire::Producer) -> Result<ProducerRef, Error> {
    let wire::Producer { id, epoch, sequence } = producer;
    check_short_id(ErrorCode::InvalidArgument, "producer", id.as_bytes())?;
    // One below the limit, so that the next sequence is a counter too.
    if epoch >= COUNTER_MAX || sequence >= COUNTER_MAX {
        let message = format!("`producer`: epoch and sequence must be below {COUNTER_MAX}");
        return Err(Error::new(ErrorCode::InvalidArgument, message).field("producer"));
    }
    Ok(ProducerRef { id, epoch, sequence })
}

/// Checks a claim.
///
/// # Errors
/// [`ErrorCode::InvalidArgument`].
pub(super) fn claim(sender: Sender, claim: wire::Claim) -> Result<Command, Error> {
    let wire::Claim { agent, ttl_ms, adopt_timeout_ms, take_over, generation, wait_ms, .. } = claim;
    check_agent(&agent)?;
    if wait_ms != 0 && claim.pattern.is_empty() {
        let message = "the claim of a `pattern` waits; that of a `session` is answered at once";
        return Err(Error::new(ErrorCode::InvalidArgument, message).field("wait_ms"));
    }
    let terms = Terms::new(ttl_ms, adopt_timeout_ms)?;
    if take_over && generation != 0 {
        let message = "a claim goes on with the lease of a `generation`, or it does `take_over`; not both";
        return Err(Error::new(ErrorCode::InvalidArgument, message).field("generation"));
    }
    // No lease has the generation 0: a session that exists has a record.
    let going_on = (generation != 0).then_some(generation);
    Ok(Command::Claim { sender, agent, terms, take_over, going_on })
}

/// Checks the claim of a pattern.
///
/// # Errors
/// [`ErrorCode::InvalidArgument`] and [`ErrorCode::InvalidPattern`].
pub(super) fn pattern_claim(sender: Sender, claim: wire::Claim) -> Result<PatternClaim, Error> {
    let refuse = |field, message: String| Err(Error::new(ErrorCode::InvalidArgument, message).field(field));
    if !claim.session.is_empty() {
        return refuse("pattern", "a claim names either a `session` or a `pattern`".into());
    }
    if claim.take_over || claim.generation != 0 {
        let field = if claim.take_over { "take_over" } else { "generation" };
        return refuse(field, format!("`{field}` is for the claim of a `session`, not of a `pattern`"));
    }
    if claim.wait_ms > CLAIM_WAIT_MS_MAX as u64 {
        let message = format!("`wait_ms` is {}; at most {CLAIM_WAIT_MS_MAX} are allowed", claim.wait_ms);
        return refuse("wait_ms", message).map_err(|error| error.limit(CLAIM_WAIT_MS_MAX));
    }
    let pattern: Pattern = claim.pattern.parse().map_err(|error: InvalidPattern| {
        Error::new(ErrorCode::InvalidPattern, error.to_string()).field("pattern")
    })?;
    let (agent, wait) = (claim.agent.clone(), Duration::from_millis(claim.wait_ms));
    Ok(PatternClaim { pattern, agent, wait, command: self::claim(sender, claim)? })
}

/// Checks that a lease is given up.
///
/// # Errors
/// [`ErrorCode::InvalidArgument`].
pub(super) fn release(sender: Sender, release: wire::ReleaseLease) -> Result<Command, Error> {
    let lease = LeaseRef::new(release.agent, release.generation)?;
    Ok(Command::Release { sender, lease })
}

/// Checks the creation of a session.
///
/// # Errors
/// Those of [`Meta::from_wire`].
pub(super) fn create(sender: Sender, create: wire::CreateSession) -> Result<Command, Error> {
    let meta = Box::new(Meta::from_wire(create.meta.unwrap_or_default())?);
    Ok(Command::Create { sender, meta, update: create.update })
}

/// Checks the close of a session.
///
/// # Errors
/// [`ErrorCode::InvalidArgument`].
pub(super) fn close(sender: Sender, close: wire::CloseSession) -> Result<Command, Error> {
    check_length("reason", &close.reason, TITLE_BYTES_MAX)?;
    Ok(Command::Close { sender, reason: close.reason })
}
