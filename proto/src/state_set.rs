//! The session's keyed state, as records set it.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::error::{Error, ErrorCode};
use crate::kind;
use crate::limits::{STATE_KEY_BYTES_MAX, STATE_VALUE_BYTES_MAX};
use crate::position::COUNTER_MAX;
use crate::wire;
use crate::wire::record::Body;
use crate::wire::state_change::Value as WireValue;

/// What a key is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// Text.
    Text(Arc<str>),
    /// Other bytes.
    Data(Bytes),
}

impl Value {
    /// How long it is.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Data(data) => data.len(),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Bytes> for Value {
    fn from(data: Bytes) -> Self {
        Self::Data(data)
    }
}

impl From<Vec<u8>> for Value {
    fn from(data: Vec<u8>) -> Self {
        Self::Data(data.into())
    }
}

/// What a record does to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSet {
    /// Which.
    pub key: String,
    /// What it is from then on; `None` when it is gone.
    pub value: Option<Value>,
    /// Only when the key was set last by the record at this offset; 0 when there is to be none.
    pub if_revision: Option<u64>,
}

impl StateSet {
    /// What such a change does.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRecord`].
    pub(crate) fn from_wire(change: wire::StateChange) -> Result<Self, Error> {
        let wire::StateChange { key, value, if_revision } = change;
        if key.is_empty() || key.len() > STATE_KEY_BYTES_MAX || key.chars().any(char::is_control) {
            let message = format!(
                "`key` has 1 to {STATE_KEY_BYTES_MAX} bytes and no control characters; this one has {} bytes",
                key.len()
            );
            return Err(invalid("key", message).limit(STATE_KEY_BYTES_MAX));
        }
        if if_revision.is_some_and(|revision| revision > COUNTER_MAX) {
            return Err(invalid("if_revision", format!("`if_revision` is at most {COUNTER_MAX}")));
        }
        let value = value.map(|value| match value {
            WireValue::Text(text) => Value::Text(text.into()),
            WireValue::Data(data) => Value::Data(data),
        });
        let bytes = value.as_ref().map_or(0, Value::bytes);
        if bytes > STATE_VALUE_BYTES_MAX {
            let message = format!(
                "the value has {bytes} bytes; at most {STATE_VALUE_BYTES_MAX} are allowed: publish a message, and let the state name it"
            );
            return Err(invalid("value", message).limit(STATE_VALUE_BYTES_MAX));
        }
        Ok(Self { key, value, if_revision })
    }
}

/// A record that sets a key of the state, as the broker writes it.
#[must_use]
pub fn set_record(key: &str, value: &Value) -> Bytes {
    let value = Some(match value {
        Value::Text(text) => WireValue::Text(text.to_string()),
        Value::Data(data) => WireValue::Data(data.clone()),
    });
    let body = Some(Body::StateChange(wire::StateChange { key: key.to_owned(), value, if_revision: None }));
    wire::Record { kind: kind::STATE, body, ..Default::default() }.encode_to_vec().into()
}

fn invalid(field: &'static str, message: String) -> Error {
    Error::new(ErrorCode::InvalidRecord, message).field(field)
}
