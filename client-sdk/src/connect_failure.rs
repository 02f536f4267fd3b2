//! Why no connection was made.

use crate::error::{Closed, TlsFailure};

/// Why no connection was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConnectFailure {
    pub(crate) error: String,
    /// Why trying again is of no use, when it is.
    pub(crate) fatal: Option<Closed>,
}

impl ConnectFailure {
    /// One that may be over soon.
    pub(crate) fn passing(error: impl Into<String>) -> Self {
        Self { error: error.into(), fatal: None }
    }

    /// Whether another transport may do: what answered is none of ours, but something else on a port of the same number.
    pub(crate) fn is_of_the_transport(&self) -> bool {
        matches!(self.fatal, None | Some(Closed::Tls { failure: TlsFailure::Incompatible(_), .. }))
    }
}
