//! What a connection was allowed to do lately, so that patterns are matched once a session and not once a publish.

use std::collections::HashMap;

use longwire_proto::session_id::SessionId;

use crate::auth::operation::Operation;

/// Sessions that are remembered: more than one connection uses at a time, and some 32 KiB.
const SESSIONS_MAX: usize = 256;

/// See the top of this file. It is of one principal with one set of grants: who changes them begins anew.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    allowed: HashMap<SessionId, u32>,
    /// The one that was looked at last, which most often comes next.
    last: Option<(SessionId, u32)>,
}

const _: () = assert!(Operation::ALL.len() <= 32, "an operation is a bit");

impl Decisions {
    /// The session of this name, when it is the last one that was looked at.
    pub(super) fn named(&self, text: &str) -> Option<SessionId> {
        self.last.as_ref().filter(|(session, _)| session.as_str() == text).map(|(session, _)| session.clone())
    }

    /// Whether it was allowed before.
    pub(super) fn has(&mut self, session: &SessionId, operation: Operation) -> bool {
        let allowed = match &self.last {
            Some((last, allowed)) if last == session => *allowed,
            _ => {
                let allowed = self.allowed.get(session).copied().unwrap_or_default();
                self.last = Some((session.clone(), allowed));
                allowed
            }
        };
        allowed & bit(operation) != 0
    }

    /// It is allowed.
    pub(super) fn add(&mut self, session: &SessionId, operation: Operation) {
        if self.allowed.len() >= SESSIONS_MAX && !self.allowed.contains_key(session) {
            self.allowed.clear();
        }
        let allowed = self.allowed.entry(session.clone()).or_default();
        *allowed |= bit(operation);
        self.last = Some((session.clone(), *allowed));
    }

    /// Nothing is known any more.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

fn bit(operation: Operation) -> u32 {
    1 << operation as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_operation_on_one_session_is_no_other() {
        let id = |text: &str| SessionId::parse(text).unwrap();
        let mut decisions = Decisions::default();
        for (index, operation) in Operation::ALL.iter().enumerate() {
            let session = id(&format!("acme/{index}"));
            decisions.add(&session, *operation);
            for other in Operation::ALL {
                assert_eq!(decisions.has(&session, *other), other == operation, "{operation:?} {other:?}");
                assert!(!decisions.has(&id("acme"), *other));
            }
        }
        decisions.forget();
        assert!(!decisions.has(&id("acme/0"), Operation::ALL[0]));
    }

    #[test]
    fn they_are_bounded() {
        let mut decisions = Decisions::default();
        for number in 0..10 * SESSIONS_MAX {
            let session = SessionId::parse(&format!("acme/{number}")).unwrap();
            decisions.add(&session, Operation::Publish);
            assert!(decisions.has(&session, Operation::Publish) && decisions.allowed.len() <= SESSIONS_MAX);
        }
    }
}
