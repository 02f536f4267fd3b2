//! What the audit log is told of one connection.

use std::net::SocketAddr;
use std::sync::Arc;

use longwire_proto::error::Error;

use crate::audit::Audit;
use crate::audit::entry::Entry;
use crate::auth::operation::Operation;
use crate::auth::principal::Principal;

/// See the top of this file.
#[derive(Clone, Debug)]
pub(super) struct Witness {
    audit: Audit,
    connection: u64,
    remote: Option<SocketAddr>,
    device: String,
}

/// Something that changes what is there, or who may do what, and is told once it has come to an end.
#[derive(Debug, Default)]
pub(super) struct Management(Option<Box<Managed>>);

#[derive(Debug)]
struct Managed {
    witness: Witness,
    principal: Arc<Principal>,
    operation: Operation,
    session: String,
    /// What it is done to besides the session.
    target: String,
}

impl Witness {
    pub(super) fn new(audit: Audit, connection: u64, remote: Option<SocketAddr>, device: String) -> Self {
        Self { audit, connection, remote, device }
    }

    /// The endpoint that it says it is.
    pub(super) fn device(&self) -> &str {
        &self.device
    }

    /// A token was accepted, or not. Where none is needed there is nothing to tell of who has none.
    pub(super) fn authenticated(&self, outcome: Result<&Principal, &Error>) {
        match outcome {
            Ok(principal) if principal.signed_by.is_empty() => {}
            Ok(principal) => self.tell(|| Entry::admitted(principal)),
            Err(error) => self.tell(|| Entry::not_admitted(error)),
        }
    }

    /// Somebody may not do something.
    pub(super) fn refused(&self, principal: &Principal, operation: Operation, session: &str, error: &Error) {
        self.tell(|| Entry::refused(principal, operation, session, error));
    }

    /// Somebody does something that is told when it is one that is.
    pub(super) fn managing(
        &self,
        principal: impl FnOnce() -> Arc<Principal>,
        operation: Operation,
        session: &str,
    ) -> Management {
        // Most of what is asked is not of that kind, and pays nothing for it.
        Management(operation.is_management().then(|| {
            Box::new(Managed {
                witness: self.clone(),
                principal: principal(),
                operation,
                session: session.to_owned(),
                target: String::new(),
            })
        }))
    }

    fn tell(&self, entry: impl FnOnce() -> Entry) {
        self.audit.record(|| {
            let entry = entry().connection(self.connection).remote(self.remote);
            if self.device.is_empty() { entry } else { entry.device(&self.device) }
        });
    }
}

impl Management {
    /// It is done to this besides the session: the id of a token, the name of a backup.
    pub(super) fn to(mut self, target: &str) -> Self {
        if let Some(managed) = &mut self.0 {
            target.clone_into(&mut managed.target);
        }
        self
    }

    /// It has come to an end.
    pub(super) fn done(&self, outcome: Result<(), &Error>) {
        if let Some(managed) = &self.0 {
            let Managed { witness, principal, operation, session, target } = &**managed;
            witness.tell(|| Entry::managed(principal, *operation, session, outcome).target(target));
        }
    }
}
