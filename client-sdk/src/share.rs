//! A token for somebody else.

use std::fmt;

use longwire_proto::wire;

/// What lets somebody else into one session, as [`Session::share`](crate::Session::share) makes it.
#[derive(Clone, PartialEq, Eq)]
pub struct Share {
    /// The token. Whoever has it may do what was shared, so hand it on with care.
    pub token: String,
    /// By which it can be revoked without the token.
    pub id: String,
    /// When it expires, in Unix milliseconds.
    pub expires_ms: u64,
}

impl Share {
    pub(crate) fn new(shared: wire::Shared) -> Self {
        let wire::Shared { request: _, token, id, expires_ms } = shared;
        Self { token, id, expires_ms }
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share")
            .field("id", &self.id)
            .field("expires_ms", &self.expires_ms)
            .finish_non_exhaustive()
    }
}
