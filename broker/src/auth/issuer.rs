//! Who may vouch for principals, and how far.

use longwire_proto::grants::Grants;
use longwire_proto::short_id::is_short_id;

use crate::auth::principal::{InvalidName, SEPARATOR, check_name, check_own_name};
use crate::auth::token_id::{ISSUER_BYTES_MAX, is_visible};

/// How far the clock of another host may be from this one's: enough for hosts that keep time at all.
pub const LEEWAY_MS: u64 = 10_000;
/// Bytes of an audience's name, which is often a URL.
const AUDIENCE_BYTES_MAX: usize = ISSUER_BYTES_MAX;

/// Somebody whose tokens are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    name: String,
    audience: String,
    foreign: Option<Foreign>,
}

/// How far somebody else is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Foreign {
    namespace: String,
    bounds: Grants,
}

/// Why somebody is no issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIssuer {
    /// Its name.
    #[error(
        "an issuer has a name of 1 to {ISSUER_BYTES_MAX} visible ASCII characters, exactly as `iss` has it"
    )]
    Name,
    /// What its tokens must be meant for.
    #[error(
        "the audience is a name of 1 to {AUDIENCE_BYTES_MAX} visible ASCII characters, exactly as `aud` has it"
    )]
    Audience,
    /// What its principals are called.
    #[error("the namespace of an issuer is a short id: A-Z a-z 0-9 _ -")]
    Namespace,
}

impl Issuer {
    /// The broker itself: it has no other clock, its principals are called what it calls them, and nothing bounds what it
    /// grants.
    ///
    /// # Errors
    /// [`InvalidIssuer`].
    pub fn own(name: &str, audience: &str) -> Result<Self, InvalidIssuer> {
        Self::new(name, audience, None)
    }

    /// Somebody else. Its principals are called `namespace/sub`, so nobody there can pass for somebody here, and its tokens
    /// grant nothing beyond the bounds.
    ///
    /// # Errors
    /// [`InvalidIssuer`].
    pub fn foreign(
        name: &str,
        audience: &str,
        namespace: &str,
        bounds: Grants,
    ) -> Result<Self, InvalidIssuer> {
        if !is_short_id(namespace.as_bytes()) {
            return Err(InvalidIssuer::Namespace);
        }
        Self::new(name, audience, Some(Foreign { namespace: namespace.to_owned(), bounds }))
    }

    fn new(name: &str, audience: &str, foreign: Option<Foreign>) -> Result<Self, InvalidIssuer> {
        if !is_visible(name, ISSUER_BYTES_MAX) {
            return Err(InvalidIssuer::Name);
        }
        if !is_visible(audience, AUDIENCE_BYTES_MAX) {
            return Err(InvalidIssuer::Audience);
        }
        Ok(Self { name: name.to_owned(), audience: audience.to_owned(), foreign })
    }

    /// Its name, as `iss` has it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its tokens must be meant for, as `aud` has it.
    #[must_use]
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// What its principals' names begin with.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.foreign.as_ref().map(|foreign| foreign.namespace.as_str())
    }

    /// How far its clock may be from this one's.
    #[must_use]
    pub fn leeway_ms(&self) -> u64 {
        if self.foreign.is_some() { LEEWAY_MS } else { 0 }
    }

    /// What somebody is called here whom it calls `sub`.
    ///
    /// # Errors
    /// [`InvalidName`].
    pub fn principal(&self, sub: &str) -> Result<String, InvalidName> {
        let Some(namespace) = self.namespace() else {
            check_own_name(sub)?;
            return Ok(sub.to_owned());
        };
        check_name(sub)?;
        let id = format!("{namespace}{SEPARATOR}{sub}");
        check_name(&id)?;
        Ok(id)
    }

    /// Whether it may grant this.
    #[must_use]
    pub fn may_grant(&self, grants: &Grants) -> bool {
        self.foreign.as_ref().is_none_or(|foreign| foreign.bounds.covers(grants))
    }
}
