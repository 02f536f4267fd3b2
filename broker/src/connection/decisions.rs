//! What a connection was allowed to do lately, so that patterns are matched once a session and not once a publish.

use std::collections::HashMap;

use longwire_proto::session_id::SessionId;

use crate::auth::operation::Operation;

/// Sessions that are remembered: more than one connection uses at a time, and some 32 KiB.
const SESSIONS_MAX: usize = 256;

/// See the top of this file. It is of one principal with one set of grants: who changes them begins anew.
#[derive(Debug, Default)]
pub(super) struct Decisions(HashMap<SessionId, u32>);

const _: () = assert!(Operation::ALL.len() <= 32, "an operation is a bit");

impl Decisions {
    /// Whether it was allowed before.
    pub(super) fn has(&self, session: &SessionId, operation: Operation) -> bool {
        self.0.get(session).is_some_and(|allowed| allowed & bit(operation) != 0)
    }

    /// It is allowed.
    pub(super) fn add(&mut self, session: &SessionId, operation: Operation) {
        if self.0.len() >= SESSIONS_MAX && !self.0.contains_key(session) {
            self.0.clear();
        }
        *self.0.entry(session.clone()).or_default() |= bit(operation);
    }

    /// Nothing is known any more.
    pub(super) fn forget(&mut self) {
        self.0.clear();
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
            assert!(decisions.has(&session, Operation::Publish) && decisions.0.len() <= SESSIONS_MAX);
        }
    }
}
