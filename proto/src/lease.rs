//! Leases, as records and requests name them.

use bytes::Bytes;
use prost::Message;

use crate::error::{Error, ErrorCode};
use crate::kind;
use crate::limits::{
    ADOPT_TIMEOUT_MS_DEFAULT, ADOPT_TIMEOUT_MS_MAX, ADOPT_TIMEOUT_MS_MIN, LEASE_TTL_MS_DEFAULT,
    LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN,
};
use crate::position::COUNTER_MAX;
use crate::short_id::check_short_id;
use crate::wire;
use crate::wire::record::Body;

/// One lease: that of an agent, of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseRef {
    /// The agent.
    pub agent: String,
    /// The offset of the record that it was claimed with.
    pub generation: u64,
}

impl LeaseRef {
    /// The lease that a request names.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`].
    pub fn new(agent: String, generation: u64) -> Result<Self, Error> {
        check_agent(&agent)?;
        if generation > COUNTER_MAX {
            let message = format!("`generation` is at most {COUNTER_MAX}: that of a `claimed`");
            return Err(Error::new(ErrorCode::InvalidArgument, message).field("generation"));
        }
        Ok(Self { agent, generation })
    }
}

/// Checks the name of an agent in a request.
///
/// # Errors
/// [`ErrorCode::InvalidArgument`].
pub fn check_agent(agent: &str) -> Result<(), Error> {
    check_short_id(ErrorCode::InvalidArgument, "agent", agent.as_bytes())
}

/// How long things wait for the holder of a lease, and for the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The lease lapses when nothing was heard of its holder for so many milliseconds.
    pub ttl_ms: u64,
    /// The agent's runs end when nobody has claimed it again for so many.
    pub adopt_timeout_ms: u64,
}

impl Terms {
    /// The terms of a claim; 0 stands for what is usual.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidArgument`] names the bounds.
    pub fn new(ttl_ms: u64, adopt_timeout_ms: u64) -> Result<Self, Error> {
        let ttl = (LEASE_TTL_MS_DEFAULT, LEASE_TTL_MS_MIN, LEASE_TTL_MS_MAX);
        let adopt = (ADOPT_TIMEOUT_MS_DEFAULT, ADOPT_TIMEOUT_MS_MIN, ADOPT_TIMEOUT_MS_MAX);
        Ok(Self {
            ttl_ms: within("ttl_ms", ttl_ms, ttl)?,
            adopt_timeout_ms: within("adopt_timeout_ms", adopt_timeout_ms, adopt)?,
        })
    }
}

fn within(field: &'static str, ms: u64, (default, least, most): (usize, usize, usize)) -> Result<u64, Error> {
    if ms == 0 {
        return Ok(default as u64);
    }
    if (least as u64..=most as u64).contains(&ms) {
        return Ok(ms);
    }
    let message = format!("`{field}` is {ms}; it is from {least} to {most} milliseconds, or 0 for {default}");
    let limit = if ms < least as u64 { least } else { most };
    Err(Error::new(ErrorCode::InvalidArgument, message).field(field).limit(limit))
}

/// What becomes of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// It begins.
    Claimed,
    /// Its holder gave it up.
    Released,
    /// Its holder was not heard any more, or it was taken.
    Lapsed,
}

impl LeaseState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Claimed, Self::Released, Self::Lapsed];

    /// The state as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Released => "released",
            Self::Lapsed => "lapsed",
        }
    }

    /// The state that a text names.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// What a record of a lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseChange {
    /// The agent.
    pub agent: String,
    /// What becomes of its lease.
    pub state: LeaseState,
    /// Of one that begins.
    pub terms: Terms,
    /// Of one that ends.
    pub generation: u64,
}

impl LeaseChange {
    /// What such a body says.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidRecord`].
    pub fn from_wire(change: wire::LeaseChange) -> Result<Self, Error> {
        let wire::LeaseChange { agent, state, ttl_ms, adopt_timeout_ms, generation, reason: _ } = change;
        check_short_id(ErrorCode::InvalidRecord, "agent", agent.as_bytes())?;
        let state = LeaseState::parse(&state).ok_or_else(|| {
            let known = LeaseState::ALL.map(LeaseState::as_str).join(", ");
            Error::new(ErrorCode::InvalidRecord, format!("`state` is one of {known}")).field("state")
        })?;
        Ok(Self { agent, state, terms: Terms { ttl_ms, adopt_timeout_ms }, generation })
    }
}

/// The record that a lease begins with.
#[must_use]
pub fn claimed(agent: &str, terms: Terms) -> Bytes {
    let Terms { ttl_ms, adopt_timeout_ms } = terms;
    let state = LeaseState::Claimed.as_str().to_owned();
    record(wire::LeaseChange {
        agent: agent.to_owned(),
        state,
        ttl_ms,
        adopt_timeout_ms,
        ..Default::default()
    })
}

/// The record that a lease ends with.
#[must_use]
pub fn ended(agent: &str, generation: u64, state: LeaseState, reason: &str) -> Bytes {
    let (state, reason) = (state.as_str().to_owned(), reason.to_owned());
    record(wire::LeaseChange { agent: agent.to_owned(), state, generation, reason, ..Default::default() })
}

fn record(change: wire::LeaseChange) -> Bytes {
    let (kind, body) = (kind::LEASE, Some(Body::LeaseChange(change)));
    wire::Record { kind, body, ..Default::default() }.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meaning::Meaning;

    #[test]
    fn terms_have_bounds_and_are_usual_when_they_are_not_said() {
        assert_eq!(Terms::new(0, 0), Ok(Terms { ttl_ms: 30_000, adopt_timeout_ms: 7 * 24 * 3_600_000 }));
        assert_eq!(Terms::new(1000, 1000), Ok(Terms { ttl_ms: 1000, adopt_timeout_ms: 1000 }));
        assert!(Terms::new(600_000, 30 * 24 * 3_600_000).is_ok());
        for (ttl_ms, adopt_timeout_ms, field, limit) in [
            (999, 0, "ttl_ms", 1000),
            (600_001, 0, "ttl_ms", 600_000),
            (0, 999, "adopt_timeout_ms", 1000),
            (0, u64::MAX, "adopt_timeout_ms", 30 * 24 * 3_600_000),
        ] {
            let error = Terms::new(ttl_ms, adopt_timeout_ms).unwrap_err();
            assert_eq!((error.code, error.field, error.limit), (ErrorCode::InvalidArgument, field, limit));
        }
        for agent in ["", "no spaces", "x/y", &"x".repeat(65)] {
            let error = LeaseRef::new(agent.to_owned(), 1).unwrap_err();
            assert_eq!((error.code, error.field), (ErrorCode::InvalidArgument, "agent"), "{agent}");
        }
        assert_eq!(LeaseRef::new("a".into(), u64::MAX).unwrap_err().field, "generation");
    }

    #[test]
    fn what_is_written_of_a_lease_means_what_it_says_also_when_it_is_erased() {
        let terms = Terms { ttl_ms: 1000, adopt_timeout_ms: 2000 };
        let agent = || "coder".to_owned();
        let begins = LeaseChange { agent: agent(), state: LeaseState::Claimed, terms, generation: 0 };
        let (state, terms) = (LeaseState::Lapsed, Terms::default());
        let ends = LeaseChange { agent: agent(), state, terms, generation: 7 };
        for (record, meant) in [
            (claimed("coder", begins.terms), begins),
            (ended("coder", 7, LeaseState::Lapsed, "secret"), ends),
        ] {
            assert_eq!(Meaning::of(&record), Ok(Meaning::Lease(Box::new(meant.clone()))));
            let erased = crate::record::erased(&record).unwrap();
            assert!(!erased.windows(6).any(|bytes| bytes == b"secret"));
            assert_eq!(Meaning::of(&erased), Ok(Meaning::Lease(Box::new(meant))));
        }
    }
}
