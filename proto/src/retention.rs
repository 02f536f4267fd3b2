//! How long a session and its records are kept.

use crate::error::{Error, ErrorCode};
use crate::limits::{EXPIRY_MS_MIN, RECORD_BYTES_MAX};
use crate::position::COUNTER_MAX;
use crate::wire;

/// How much of a log is kept. What passes any of the limits that are set is trimmed, oldest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Records older than this many milliseconds are trimmed.
    pub age_ms: Option<u64>,
    /// Bytes of records that are kept at most.
    pub bytes: Option<u64>,
    /// Records that are kept at most.
    pub records: Option<u64>,
}

/// When a session is closed and deleted: at whichever comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expiry {
    /// So many milliseconds after its last record.
    pub idle_ms: Option<u64>,
    /// At this time, in Unix milliseconds.
    pub at_ms: Option<u64>,
}

impl Retention {
    /// A policy of the wire.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] names the limit that would keep nothing.
    pub fn from_wire(retention: wire::Retention) -> Result<Self, Error> {
        let wire::Retention { age_ms, bytes, records } = retention;
        at_least("retention.age_ms", age_ms, EXPIRY_MS_MIN as u64)?;
        at_least("retention.bytes", bytes, RECORD_BYTES_MAX as u64)?;
        at_least("retention.records", records, 1)?;
        Ok(Self { age_ms, bytes, records })
    }

    /// The policy as the wire carries it; none when it keeps everything.
    #[must_use]
    pub fn to_wire(self) -> Option<wire::Retention> {
        let Self { age_ms, bytes, records } = self;
        (self != Self::default()).then_some(wire::Retention { age_ms, bytes, records })
    }

    /// Whether everything is kept.
    #[must_use]
    pub fn keeps_everything(self) -> bool {
        self == Self::default()
    }
}

impl Expiry {
    /// A policy of the wire.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] names the limit that is too short.
    pub fn from_wire(expiry: wire::Expiry) -> Result<Self, Error> {
        let wire::Expiry { idle_ms, at_ms } = expiry;
        at_least("expiry.idle_ms", idle_ms, EXPIRY_MS_MIN as u64)?;
        at_least("expiry.at_ms", at_ms, 1)?;
        Ok(Self { idle_ms, at_ms })
    }

    /// The policy as the wire carries it; none when the session never expires.
    #[must_use]
    pub fn to_wire(self) -> Option<wire::Expiry> {
        let Self { idle_ms, at_ms } = self;
        (self != Self::default()).then_some(wire::Expiry { idle_ms, at_ms })
    }

    /// When a session whose last record has this time expires, in Unix milliseconds.
    #[must_use]
    pub fn deadline_ms(self, last_time_ms: u64) -> Option<u64> {
        let idle = self.idle_ms.map(|idle_ms| last_time_ms.saturating_add(idle_ms));
        [idle, self.at_ms].into_iter().flatten().min()
    }
}

fn at_least(field: &'static str, value: Option<u64>, least: u64) -> Result<(), Error> {
    match value {
        Some(value) if value < least || value > COUNTER_MAX => {
            let message = format!("`{field}` is {value}; it must be at least {least}, or be left out");
            Err(Error::new(ErrorCode::InvalidArgument, message).field(field).expected(least))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_keep_nothing_are_refused() {
        let retention =
            |age_ms, bytes, records| Retention::from_wire(wire::Retention { age_ms, bytes, records });
        assert_eq!(retention(Some(999), None, None).unwrap_err().field, "retention.age_ms");
        assert_eq!(retention(None, Some(1000), None).unwrap_err().field, "retention.bytes");
        assert_eq!(retention(None, None, Some(0)).unwrap_err().field, "retention.records");
        assert!(retention(Some(1000), Some(1 << 20), Some(1)).is_ok());
        let expiry = |idle_ms, at_ms| Expiry::from_wire(wire::Expiry { idle_ms, at_ms });
        assert_eq!(expiry(Some(0), None).unwrap_err().field, "expiry.idle_ms");
        assert_eq!(expiry(None, Some(0)).unwrap_err().field, "expiry.at_ms");
    }

    #[test]
    fn the_earlier_expiry_counts() {
        let both = Expiry { idle_ms: Some(100), at_ms: Some(1050) };
        assert_eq!(both.deadline_ms(900), Some(1000));
        assert_eq!(both.deadline_ms(1000), Some(1050));
        assert_eq!(Expiry::default().deadline_ms(5), None);
    }
}
