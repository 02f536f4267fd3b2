//! The one place where it is decided whether somebody may do something.

use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::right::{Right, Rights};
use longwire_proto::session_id::SessionId;
use longwire_proto::worker_group::GroupName;

use crate::auth::operation::{Operation, Reach};
use crate::auth::principal::{Principal, check_name};

/// What somebody wants to do something to.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// One session, which may not exist.
    Session(&'a SessionId),
    /// Every session there is.
    Everything,
}

impl<'a> From<&'a SessionId> for Subject<'a> {
    fn from(session: &'a SessionId) -> Self {
        Self::Session(session)
    }
}

/// Whether a principal may do something.
///
/// It knows grants and names, and nothing of what exists, so its answer cannot tell. A session that may not be read is
/// refused in the words in which one that does not exist is.
///
/// # Errors
/// [`ErrorCode::SessionNotFound`] when the principal may not read the session either, else [`ErrorCode::Forbidden`].
pub fn authorise<'a>(
    principal: &Principal,
    operation: Operation,
    subject: impl Into<Subject<'a>>,
) -> Result<(), Error> {
    let grants = &principal.grants;
    let (reach, rights) = operation.takes();
    let subject = subject.into();
    if let Subject::Session(session) = subject
        && let Some(group) = GroupName::of(session)
    {
        return of_group(principal, operation, &group);
    }
    match (reach, subject) {
        (Reach::Session, Subject::Session(session)) => {
            let missing: Rights = rights.iter().filter(|right| !grants.allows(session, *right)).collect();
            if missing.is_empty() && !rights.is_empty() {
                Ok(())
            } else if grants.allows(session, Right::Read) {
                Err(forbidden(&format!("this session with the right `{missing}`")).field(operation.field()))
            } else {
                Err(Error::no_such_session().field(operation.field()))
            }
        }
        (Reach::Everything, Subject::Everything)
            if !rights.is_empty() && rights.iter().all(|right| grants.allows_everywhere(right)) =>
        {
            Ok(())
        }
        // An operation asked about what it cannot be about is refused too.
        (_, Subject::Everything) => Err(forbidden(&format!("`**` with the right `{rights}`"))),
        (Reach::Everything | Reach::Group, Subject::Session(_)) => Err(Error::no_such_session()),
    }
}

/// Whether a principal may do something to a worker group, or to its sessions, which the broker alone writes.
fn of_group(principal: &Principal, operation: Operation, group: &GroupName) -> Result<(), Error> {
    if !principal.grants.covers(&group.takes()) || group.takes().as_slice().is_empty() {
        return Err(Error::no_such_session().field(operation.field()));
    }
    match operation {
        Operation::WorkerGroup => Ok(()),
        operation if operation.is_reading() => Ok(()),
        _ => {
            let message = "the broker alone writes what happens to a worker group; it can be read, and the group removed";
            Err(Error::new(ErrorCode::Forbidden, message).field(operation.field()))
        }
    }
}

/// Who somebody is while they act in the name of somebody else on a session. They may do there what their own token says, and
/// nothing elsewhere: the right to act for others is one to sessions.
///
/// # Errors
/// [`ErrorCode::InvalidArgument`] when that is nobody's name, and those of [`authorise`].
pub fn act_as(principal: &Principal, id: &str, session: &SessionId) -> Result<Principal, Error> {
    check_name(id)
        .map_err(|error| Error::new(ErrorCode::InvalidArgument, error.to_string()).field("act_as"))?;
    authorise(principal, Operation::ActAs, session)?;
    // Who acts stays who acts, however often it changes in whose name.
    let via = principal.via.clone().unwrap_or_else(|| principal.id.clone());
    let grants = principal.grants.only(session);
    let tenant = grants.tenant().map(str::to_owned);
    // Whose name it is has roles of its own, which are not known here.
    let roles = Vec::new();
    Ok(Principal { id: id.to_owned(), via: Some(via), grants, tenant, roles, ..principal.clone() })
}

fn forbidden(what: &str) -> Error {
    Error::new(ErrorCode::Forbidden, format!("that takes a grant of {what}"))
}

#[cfg(test)]
mod tests;
