//! One key of the session's state.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::{STATE_BYTES_MAX, STATE_KEYS_MAX};
use longwire_proto::state_set::{StateSet, Value};

use crate::entity::at::At;
use crate::row::{RowReader, RowWriter};

/// What a key is, and who said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The offset of the record that set it.
    pub revision: u64,
    /// When that was, in Unix milliseconds.
    pub time_ms: u64,
    /// Who did it.
    pub principal: Arc<str>,
    /// As which agent; empty when as none.
    pub agent: Arc<str>,
    /// What it is.
    pub value: Value,
}

impl Entry {
    /// What a record makes of a key.
    #[must_use]
    pub fn new(value: &Value, at: &At<'_>) -> Self {
        let At { offset: revision, time_ms, principal, agent, generation: _ } = *at;
        Self { revision, time_ms, principal: principal.into(), agent: agent.into(), value: value.clone() }
    }

    /// The entry as a part of a row.
    pub fn encode(&self, row: &mut RowWriter) {
        row.u64(self.revision).u64(self.time_ms).bytes(self.principal.as_bytes());
        row.bytes(self.agent.as_bytes());
        match &self.value {
            Value::Text(text) => row.u64(0).bytes(text.as_bytes()),
            Value::Data(data) => row.u64(1).bytes(data),
        };
    }

    /// The entry of such a part.
    #[must_use]
    pub fn decode(row: &mut RowReader<'_>) -> Option<Self> {
        let (revision, time_ms, principal, agent) =
            (row.u64()?, row.u64()?, row.text()?.into(), row.text()?.into());
        let value = match row.u64()? {
            0 => Value::Text(row.text()?.into()),
            1 => Value::Data(Bytes::copy_from_slice(row.bytes()?)),
            _ => return None,
        };
        Some(Self { revision, time_ms, principal, agent, value })
    }
}

/// Whether the state may be set so: on the condition that the writer makes, and as far as there is room.
///
/// # Errors
/// [`ErrorCode::RevisionMismatch`], [`ErrorCode::TooManyOpen`].
pub fn judge(set: &StateSet, state: &BTreeMap<Arc<str>, Arc<Entry>>) -> Result<(), Error> {
    let known = state.get(set.key.as_str());
    let revision = known.map_or(0, |entry| entry.revision);
    if set.if_revision.is_some_and(|wanted| wanted != revision) {
        let is = match known {
            Some(entry) => format!("was set by `{}` at offset {revision}", entry.principal),
            None => "is not there".to_owned(),
        };
        let message = format!("the key `{}` {is}; read what it is and decide again", set.key);
        return Err(Error::new(ErrorCode::RevisionMismatch, message).field("if_revision").expected(revision));
    }
    let Some(value) = &set.value else { return Ok(()) };
    let full = |message: String, limit| {
        Err(Error::new(ErrorCode::TooManyOpen, message).field("state_change").limit(limit))
    };
    if known.is_none() && state.len() >= STATE_KEYS_MAX {
        let message = format!("the state of the session has {STATE_KEYS_MAX} keys; remove one of them first");
        return full(message, STATE_KEYS_MAX);
    }
    let bytes = |key: &str, value: &Value| key.len() + value.bytes();
    let others = state.iter().filter(|(key, _)| ***key != *set.key);
    let others: usize = others.map(|(key, entry)| bytes(key, &entry.value)).sum();
    if others + bytes(&set.key, value) > STATE_BYTES_MAX {
        let message = format!(
            "the state of the session would have more than {STATE_BYTES_MAX} bytes; remove some of it, or publish a message and let the state name it"
        );
        return full(message, STATE_BYTES_MAX);
    }
    Ok(())
}
