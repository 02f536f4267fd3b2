//! Who writes, as far as asks and runs go by it.

/// The principal of records that the broker makes by itself. No client can have it: principals do not begin with `~`.
pub const BROKER: &str = "~broker";

/// What is known of a writer besides its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The roles that its token says it has.
    pub roles: Vec<String>,
    /// Whether it has every role: where nobody is told apart.
    pub every_role: bool,
    /// Whether it manages the session.
    pub manages: bool,
}

/// A writer.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// Its principal.
    pub principal: &'a str,
    /// The agent whose live lease it publishes with; empty when it does without.
    pub agent: &'a str,
    /// The rest.
    pub standing: &'a Standing,
}

impl Writer<'_> {
    /// Whether something is the writer's that a principal has begun: what was begun as an agent is the agent's.
    #[must_use]
    pub fn owns(&self, principal: &str, agent: &str) -> bool {
        if agent.is_empty() { self.principal == principal } else { self.agent == agent }
    }

    /// Whether it is one of these principals, or has one of these roles.
    #[must_use]
    pub fn is_any_of(&self, principals: &[String], roles: &[String]) -> bool {
        principals.iter().any(|principal| principal == self.principal)
            || (self.standing.every_role && !roles.is_empty())
            || self.standing.roles.iter().any(|role| roles.contains(role))
    }
}

/// Whose something is that a principal has begun, for humans.
#[must_use]
pub fn owner(principal: &str, agent: &str) -> String {
    if agent.is_empty() { principal.to_owned() } else { format!("the agent `{agent}`, with its live lease") }
}
