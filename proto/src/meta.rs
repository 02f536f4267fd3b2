//! What is known of a session besides its records, and the records that change it.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use prost::Message;

use crate::error::{Error, ErrorCode};
use crate::kind;
use crate::limits::{HEADER_NAME_BYTES_MAX, HEADER_VALUE_BYTES_MAX, HEADERS_MAX, TITLE_BYTES_MAX};
use crate::retention::{Expiry, Retention};
use crate::session_id::SessionId;
use crate::wire;

/// Title, labels and parent of a session, as its users set them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// For humans; may be empty.
    pub title: String,
    /// For programs.
    pub labels: BTreeMap<String, String>,
    /// The session that this one belongs to.
    pub parent: Option<SessionId>,
    /// How much of the log is kept.
    pub retention: Retention,
    /// When the session is deleted.
    pub expiry: Expiry,
}

/// The content of a record of kind [`kind::SESSION`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The metadata is replaced.
    Meta(Meta),
    /// No more publishes.
    Close {
        /// For humans; may be empty.
        reason: String,
    },
    /// Records became tombstones.
    Erase {
        /// Their offsets.
        ranges: Vec<Range<u64>>,
        /// The principal whose records they were, when they were erased for that; else empty.
        sender: String,
        /// For humans; may be empty.
        reason: String,
    },
    /// Everything before was taken over from another session.
    Origin {
        /// The other session, as its broker named it.
        session: String,
        /// The metadata of this one.
        meta: Meta,
        /// Whether it was imported; else it was forked.
        imported: bool,
    },
}

impl Meta {
    /// Metadata from the wire.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] or [`ErrorCode::InvalidSessionId`] name the field and the rule.
    pub fn from_wire(meta: wire::SessionMeta) -> Result<Self, Error> {
        check_length("title", &meta.title, TITLE_BYTES_MAX)?;
        if meta.labels.len() > HEADERS_MAX {
            return Err(too_long("labels", meta.labels.len(), HEADERS_MAX));
        }
        for (name, value) in &meta.labels {
            check_length("labels", name, HEADER_NAME_BYTES_MAX)?;
            check_length("labels", value, HEADER_VALUE_BYTES_MAX)?;
        }
        let parent = match meta.parent.as_str() {
            "" => None,
            parent => Some(SessionId::parse(parent).map_err(|error| {
                Error::new(ErrorCode::InvalidSessionId, format!("`parent`: {error}")).field("parent")
            })?),
        };
        let retention = Retention::from_wire(meta.retention.unwrap_or_default())?;
        let expiry = Expiry::from_wire(meta.expiry.unwrap_or_default())?;
        Ok(Self { title: meta.title, labels: meta.labels, parent, retention, expiry })
    }

    /// Metadata as the wire carries it.
    #[must_use]
    pub fn to_wire(&self) -> wire::SessionMeta {
        wire::SessionMeta {
            title: self.title.clone(),
            labels: self.labels.clone(),
            parent: self.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
            retention: self.retention.to_wire(),
            expiry: self.expiry.to_wire(),
        }
    }

    /// Metadata as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    /// Metadata from the bytes that [`Meta::encode`] made; `None` for any others.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        wire::SessionMeta::decode(bytes).ok().and_then(|meta| Self::from_wire(meta).ok())
    }
}

impl Change {
    /// The record, not sealed yet, that makes this change.
    #[must_use]
    pub fn to_record(&self) -> Bytes {
        let change = match self {
            Self::Meta(meta) => wire::session_change::Change::Meta(meta.to_wire()),
            Self::Close { reason } => {
                wire::session_change::Change::Close(wire::SessionClose { reason: reason.clone() })
            }
            Self::Erase { ranges, sender, reason } => {
                let range = |range: &Range<u64>| wire::OffsetRange { from: range.start, next: range.end };
                wire::session_change::Change::Erase(wire::SessionErase {
                    ranges: ranges.iter().map(range).collect(),
                    sender: sender.clone(),
                    reason: reason.clone(),
                })
            }
            Self::Origin { session, meta, imported } => {
                wire::session_change::Change::Origin(wire::SessionOrigin {
                    session: session.clone(),
                    meta: Some(meta.to_wire()),
                    imported: *imported,
                })
            }
        };
        let body = wire::SessionChange { change: Some(change) }.encode_to_vec();
        let record = wire::Record {
            kind: kind::SESSION,
            body: Some(wire::record::Body::Data(body.into())),
            ..Default::default()
        };
        Bytes::from(record.encode_to_vec())
    }

    /// The change that a record's body makes; `None` when this version does not know it.
    #[must_use]
    pub fn from_body(body: &[u8]) -> Option<Self> {
        match wire::SessionChange::decode(body).ok()?.change? {
            wire::session_change::Change::Meta(meta) => Meta::from_wire(meta).ok().map(Self::Meta),
            wire::session_change::Change::Close(close) => Some(Self::Close { reason: close.reason }),
            wire::session_change::Change::Erase(erase) => {
                let wire::SessionErase { ranges, sender, reason } = erase;
                let ranges = ranges.iter().map(|range| range.from..range.next).collect();
                Some(Self::Erase { ranges, sender, reason })
            }
            wire::session_change::Change::Origin(origin) => {
                let wire::SessionOrigin { session, meta, imported } = origin;
                let meta = Meta::from_wire(meta.unwrap_or_default()).ok()?;
                Some(Self::Origin { session, meta, imported })
            }
        }
    }
}

/// Refuses a text of the wire that is longer than `limit`.
///
/// # Errors
/// [`ErrorCode::InvalidArgument`], naming the field and the limit.
pub fn check_length(field: &'static str, text: &str, limit: usize) -> Result<(), Error> {
    if text.len() <= limit { Ok(()) } else { Err(too_long(field, text.len(), limit)) }
}

fn too_long(field: &'static str, found: usize, limit: usize) -> Error {
    let message = format!("`{field}` has a length of {found}; at most {limit} is allowed");
    Error::new(ErrorCode::InvalidArgument, message).field(field).limit(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Sealed, Sender, Stamp, seal};

    #[test]
    fn changes_round_trip_through_sealed_records() {
        let meta = Meta {
            title: "Build".into(),
            labels: [("branch".to_owned(), "main".to_owned())].into(),
            parent: Some(SessionId::parse("acme/builds").unwrap()),
            retention: Retention { records: Some(5), ..Retention::default() },
            expiry: Expiry { at_ms: Some(7), idle_ms: None },
        };
        assert_eq!(Meta::decode(&meta.encode()), Some(meta.clone()));
        let (session, sender, reason) = ("acme/old".into(), "ada".into(), "asked".into());
        for change in [
            Change::Meta(meta.clone()),
            Change::Close { reason: "done".into() },
            Change::Erase { ranges: vec![3..5, 9..10], sender, reason },
            Change::Origin { session, meta, imported: true },
        ] {
            let stamp = Stamp { time_ms: 1, sender: Sender::default(), producer: None };
            let sealed = seal(&stamp, &[change.to_record()]).remove(0);
            let view = Sealed::parse(&sealed).unwrap();
            assert_eq!(view.kind, kind::SESSION);
            assert_eq!(Change::from_body(view.body), Some(change));
        }
    }

    #[test]
    fn refuses_what_is_too_long() {
        let meta = wire::SessionMeta { title: "x".repeat(513), ..Default::default() };
        assert_eq!(Meta::from_wire(meta).unwrap_err().field, "title");
        let meta = wire::SessionMeta { parent: "a//b".into(), ..Default::default() };
        assert_eq!(Meta::from_wire(meta).unwrap_err().code, ErrorCode::InvalidSessionId);
    }
}
