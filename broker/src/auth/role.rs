//! Roles: what a principal is to those who ask for somebody of a role.

use longwire_proto::limits::ROLES_MAX;

use crate::auth::principal::check_name;

/// Why texts are not the roles of a principal. It does not repeat them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a principal has at most {ROLES_MAX} roles, whose names are as those of principals are")]
pub struct InvalidRoles;

/// Refuses what are not roles.
///
/// # Errors
/// [`InvalidRoles`].
pub fn check_roles(roles: &[String]) -> Result<(), InvalidRoles> {
    if roles.len() <= ROLES_MAX && roles.iter().all(|role| check_name(role).is_ok()) {
        return Ok(());
    }
    Err(InvalidRoles)
}
