//! What may be used, as the table `limits` of the configuration says it. `docs/operations.md` has the keys.

use std::num::{NonZeroU32, NonZeroU64};

use serde::{Deserialize, Serialize};

/// Connections of one principal: a person has some devices, and a service with more than this is several.
const PRINCIPAL_CONNECTIONS: u64 = 1000;
/// Subscriptions of one principal: what a hundred connections may have.
const PRINCIPAL_SUBSCRIPTIONS: u64 = 100_000;
/// Unanswered requests of one principal: sixteen connections with all that one may have.
const PRINCIPAL_REQUESTS: u64 = 16 << 10;
/// Bytes of all unanswered requests: sixty-four of the largest publishes, far more than a journal is behind.
const BROKER_REQUEST_BYTES: u64 = 256 << 20;
/// Subscriptions of everybody: they cost about 1 KiB each, so a gibibyte.
const BROKER_SUBSCRIPTIONS: u64 = 1 << 20;

/// The limits of each scope. They hold together: what one of them refuses is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Of one connection.
    pub connection: ScopeLimits,
    /// Of one principal: all its connections together. Nobody in particular (`anonymous`) is no principal.
    pub principal: ScopeLimits,
    /// Of one tenant: all principals whose grants are of it alone.
    pub tenant: ScopeLimits,
    /// Of everybody together.
    pub broker: ScopeLimits,
}

/// The limits of one scope; what is absent is not limited there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScopeLimits {
    /// Connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<NonZeroU64>,
    /// Subscriptions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscriptions: Option<NonZeroU64>,
    /// Requests that wait for an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<NonZeroU64>,
    /// Bytes of the requests that wait for an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<NonZeroU64>,
    /// Records published a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_records_per_second: Option<NonZeroU32>,
    /// KiB of records published a second; what is begun counts whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_kib_per_second: Option<NonZeroU32>,
    /// Sessions created a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions_per_minute: Option<NonZeroU32>,
}

impl Default for Limits {
    fn default() -> Self {
        let principal = ScopeLimits {
            connections: NonZeroU64::new(PRINCIPAL_CONNECTIONS),
            subscriptions: NonZeroU64::new(PRINCIPAL_SUBSCRIPTIONS),
            requests: NonZeroU64::new(PRINCIPAL_REQUESTS),
            ..ScopeLimits::default()
        };
        let broker = ScopeLimits {
            subscriptions: NonZeroU64::new(BROKER_SUBSCRIPTIONS),
            request_bytes: NonZeroU64::new(BROKER_REQUEST_BYTES),
            ..ScopeLimits::default()
        };
        Self { connection: ScopeLimits::default(), principal, tenant: ScopeLimits::default(), broker }
    }
}
