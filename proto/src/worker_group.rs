//! Worker groups: the agent of which sessions is woken, and how.
//!
//! A group is named by a path whose last segment is its own name; what is before that is its *folder*. Its sessions are all in the
//! folder, and whoever reads and manages everything in the folder manages the group: so its name alone tells whose it is.

use std::fmt;

use crate::error::{Error, ErrorCode};
use crate::grant::Grant;
use crate::grants::Grants;
use crate::lease::check_agent;
use crate::limits::{
    GROUP_ATTEMPTS_DEFAULT, GROUP_ATTEMPTS_MAX, GROUP_IN_FLIGHT_DEFAULT, GROUP_IN_FLIGHT_MAX,
};
use crate::pattern::Pattern;
use crate::right::{Right, Rights};
use crate::session_id::{InvalidSessionId, SessionId};

/// What the ids of the sessions begin with that groups are.
const HISTORY: &str = "~/workers/";
/// What the ids of their dead letters begin with.
const DEAD: &str = "~/dead/";

/// The name of a group, such as `acme/chat/coders`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName {
    path: SessionId,
    history: SessionId,
    dead: SessionId,
}

/// Why a text is no name of a group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGroupName {
    /// It has no folder.
    #[error(
        "a worker group is named by a folder of sessions and a name in it, such as `acme/coders` or `acme/chat/coders`"
    )]
    Folder,
    /// It is no path, or too long for one below `~/workers/`.
    #[error("the name of a worker group is a path like a session id: {0}")]
    Path(#[from] InvalidSessionId),
}

impl GroupName {
    /// The name that a text is.
    ///
    /// # Errors
    /// [`InvalidGroupName`].
    pub fn parse(text: &str) -> Result<Self, InvalidGroupName> {
        let path = SessionId::parse(text)?;
        if !text.contains('/') {
            return Err(InvalidGroupName::Folder);
        }
        let history = SessionId::reserved(&format!("{HISTORY}{text}"))?;
        let dead = SessionId::reserved(&format!("{DEAD}{text}"))?;
        Ok(Self { path, history, dead })
    }

    /// The group whose history or dead letters a session has; `None` for any other session.
    #[must_use]
    pub fn of(session: &SessionId) -> Option<Self> {
        let text = session.as_str();
        Self::parse(text.strip_prefix(HISTORY).or_else(|| text.strip_prefix(DEAD))?).ok()
    }

    /// The session that the group is: what it was told, and what became of every wake.
    #[must_use]
    pub fn history(&self) -> &SessionId {
        &self.history
    }

    /// The session of the wakes that were given up.
    #[must_use]
    pub fn dead_letters(&self) -> &SessionId {
        &self.dead
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.path.as_str()
    }

    /// The tenant whose it is.
    #[must_use]
    pub fn tenant(&self) -> &str {
        self.as_str().split('/').next().unwrap_or_default()
    }

    /// What it takes to manage it: these rights to everything in its folder.
    #[must_use]
    pub fn takes(&self) -> Grants {
        let folder = self.as_str().rsplit_once('/').map_or("", |(folder, _)| folder);
        let rights = Rights::from(Right::Read) | Right::Manage;
        let grant = format!("{folder}/**").parse().ok().and_then(|pattern| Grant::new(pattern, rights).ok());
        Grants::new(grant.into_iter().collect()).unwrap_or_default()
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The session that somebody names: one of their own, or a group's.
///
/// # Errors
/// [`InvalidSessionId`] of what would be one of their own.
pub fn named_session(text: &str) -> Result<SessionId, InvalidSessionId> {
    let own = SessionId::reserved(text).ok().filter(|session| GroupName::of(session).is_some());
    own.map_or_else(|| SessionId::parse(text), Ok)
}

/// Whom a group wakes, and how hard it tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupTerms {
    /// Whose sessions.
    pub pattern: Pattern,
    /// Which agent of theirs.
    pub agent: String,
    /// Webhooks under way at once.
    pub in_flight_max: usize,
    /// Tries of one wake.
    pub attempts_max: u32,
}

impl GroupTerms {
    /// Checks what somebody wants of a group. 0 is the default of either number.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidPattern`] when the pattern is none, or leads out of the group's folder; [`ErrorCode::InvalidArgument`].
    pub fn new(
        name: &GroupName,
        pattern: &str,
        agent: &str,
        in_flight_max: u32,
        attempts_max: u32,
    ) -> Result<Self, Error> {
        let invalid = |message: String| Error::new(ErrorCode::InvalidPattern, message).field("pattern");
        let pattern: Pattern = pattern.parse().map_err(|error| invalid(format!("{error}")))?;
        let takes = name.takes();
        let wanted = Grant::new(pattern.clone(), Rights::from(Right::Read));
        let wanted = wanted.map_err(|why| invalid(why.to_string()))?;
        if !takes.as_slice().iter().any(|folder| folder.is_wider(&wanted)) {
            let folder = takes.as_slice().first().map_or("", |folder| folder.pattern().as_str());
            let message = format!(
                "the sessions of the group `{name}` are in its folder: `{pattern}` is not within `{folder}`; name the group otherwise, or narrow the pattern"
            );
            return Err(invalid(message));
        }
        check_agent(agent)?;
        let in_flight_max =
            number("in_flight_max", in_flight_max, GROUP_IN_FLIGHT_DEFAULT, GROUP_IN_FLIGHT_MAX)?;
        let attempts_max = number("attempts_max", attempts_max, GROUP_ATTEMPTS_DEFAULT, GROUP_ATTEMPTS_MAX)?;
        Ok(Self { pattern, agent: agent.to_owned(), in_flight_max: in_flight_max as usize, attempts_max })
    }
}

fn number(field: &'static str, wanted: u32, default: usize, most: usize) -> Result<u32, Error> {
    let wanted = if wanted == 0 { u32::try_from(default).unwrap_or(u32::MAX) } else { wanted };
    if usize::try_from(wanted).is_ok_and(|wanted| wanted <= most) {
        return Ok(wanted);
    }
    let message = format!("`{field}` is at most {most}, or 0 for {default}; this is {wanted}");
    Err(Error::new(ErrorCode::InvalidArgument, message).field(field).limit(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_sessions_and_what_it_takes() {
        let name = GroupName::parse("acme/chat/coders").unwrap();
        assert_eq!(name.history().as_str(), "~/workers/acme/chat/coders");
        assert_eq!(name.dead_letters().as_str(), "~/dead/acme/chat/coders");
        assert_eq!((name.tenant(), name.takes().to_string().as_str()), ("acme", "acme/chat/**:read,manage"));
        for session in [name.history(), name.dead_letters()] {
            assert_eq!(GroupName::of(session).as_ref(), Some(&name));
            assert_eq!(named_session(session.as_str()).as_ref(), Ok(session));
        }
        assert_eq!(named_session("acme/a"), SessionId::parse("acme/a"));
    }

    #[test]
    fn what_is_no_name_is_refused_and_other_sessions_of_the_brokers_own_are_not_named() {
        assert_eq!(GroupName::parse("acme"), Err(InvalidGroupName::Folder));
        for text in ["", "acme/", "/acme", "acme/~a", "~/workers/acme/a", &"a/".repeat(15).to_string()] {
            assert!(matches!(GroupName::parse(text), Err(InvalidGroupName::Path(_))), "{text}");
        }
        // One more segment is before it in its session's id.
        let deepest = |segments| vec!["a"; segments].join("/");
        assert!(GroupName::parse(&deepest(15)).is_ok() && GroupName::parse(&deepest(16)).is_err());
        let shortened = ["~/workers/acme", "~/workers", "~/dead/acme", "~/workersacme/a/b", "~/", "~"];
        for text in shortened.into_iter().chain(["~import/acme/a", "~workers/acme/a", "~/acme/a"]) {
            assert!(named_session(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_group_stays_in_its_folder() {
        let name = GroupName::parse("acme/chat/coders").unwrap();
        let terms = |pattern: &str| GroupTerms::new(&name, pattern, "coder", 0, 0);
        for pattern in ["acme/chat/*", "acme/chat/**", "acme/chat/a", "acme/chat/*/b", "acme/chat"] {
            assert_eq!(terms(pattern).unwrap().pattern.as_str(), pattern);
        }
        for pattern in [
            "acme/*",
            "acme/**",
            "**",
            "*/chat/a",
            "acme/chatter/*",
            "other/**",
            "acme/chat/**/b",
            "",
            "a//b",
        ] {
            let error = terms(pattern).unwrap_err();
            assert_eq!((error.code, error.field), (ErrorCode::InvalidPattern, "pattern"), "{pattern}");
        }
    }

    #[test]
    fn numbers_have_defaults_and_limits() {
        let name = GroupName::parse("acme/coders").unwrap();
        let terms = |in_flight, attempts| GroupTerms::new(&name, "acme/*", "coder", in_flight, attempts);
        let found = terms(0, 0).unwrap();
        assert_eq!(
            (found.in_flight_max, found.attempts_max as usize),
            (GROUP_IN_FLIGHT_DEFAULT, GROUP_ATTEMPTS_DEFAULT)
        );
        let most = |limit: usize| u32::try_from(limit).unwrap();
        assert!(terms(most(GROUP_IN_FLIGHT_MAX), most(GROUP_ATTEMPTS_MAX)).is_ok());
        assert_eq!(terms(most(GROUP_IN_FLIGHT_MAX) + 1, 0).unwrap_err().field, "in_flight_max");
        assert_eq!(terms(0, most(GROUP_ATTEMPTS_MAX) + 1).unwrap_err().field, "attempts_max");
        assert_eq!(GroupTerms::new(&name, "acme/*", "", 0, 0).unwrap_err().field, "agent");
    }
}
