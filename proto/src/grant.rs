//! One grant: rights to the sessions that a pattern names, as text `acme/**:read,publish`.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use crate::pattern::{InvalidPattern, Pattern};
use crate::right::{InvalidRights, Right, Rights};
use crate::session_id::SessionId;

const ONE: &str = "*";
const MANY: &str = "**";

/// Rights to the sessions that a pattern matches.
///
/// The pattern of a grant is narrower than others: its first segment names the tenant, so that no grant reaches into a
/// tenant that it does not name, and `**` stands at its end only, so that what two grants have in common is a grant again.
/// `**` alone is everything, for who runs the broker. What a pattern matches is never the broker's own (`~`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    pattern: Pattern,
    rights: Rights,
}

/// Why a text is not a grant. It does not repeat the text, which may come from anybody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrant {
    /// There is no `:` between pattern and rights.
    #[error("a grant is a pattern, `:` and rights, such as `acme/**:read,publish`")]
    Form,
    /// The pattern.
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
    /// The rights.
    #[error(transparent)]
    Rights(#[from] InvalidRights),
}

impl Grant {
    /// Rights to the sessions that a pattern matches.
    ///
    /// # Errors
    /// [`InvalidGrant`] when the pattern is too open for a grant, or there is no right.
    pub fn new(pattern: Pattern, rights: Rights) -> Result<Self, InvalidGrant> {
        if rights.is_empty() {
            return Err(InvalidRights::Empty.into());
        }
        let text = pattern.as_str();
        let fixed = text.strip_suffix(MANY).unwrap_or(text);
        if fixed.split('/').any(|segment| segment == MANY) {
            return Err(InvalidPattern::OpenMiddle.into());
        }
        if fixed.starts_with(ONE) {
            return Err(InvalidPattern::Tenant.into());
        }
        Ok(Self { pattern, rights })
    }

    /// The sessions.
    #[must_use]
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// The rights.
    #[must_use]
    pub fn rights(&self) -> Rights {
        self.rights
    }

    /// Whether it gives a right to a session.
    #[must_use]
    pub fn allows(&self, session: &SessionId, right: Right) -> bool {
        self.rights.contains(right) && !session.is_reserved() && self.pattern.matches(session)
    }

    /// Whether it names every session that there can be.
    #[must_use]
    pub fn is_everywhere(&self) -> bool {
        self.pattern.as_str() == MANY
    }

    /// The tenant that its sessions are of; `None` when they are of all.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        self.pattern.as_str().split('/').next().filter(|tenant| *tenant != MANY)
    }

    /// The other one's rights to what both match; `None` when that is nothing.
    #[must_use]
    pub fn common(&self, other: &Self) -> Option<Self> {
        let rights = self.rights.common(other.rights);
        // Where that is too long for a pattern, nothing is said to be common: too little, never too much.
        let pattern = common(self.pattern.as_str(), other.pattern.as_str())?;
        Self::new(pattern.parse().ok()?, rights).ok()
    }

    /// Whether every session that the other one's pattern matches is matched by this one's.
    #[must_use]
    pub fn is_wider(&self, other: &Self) -> bool {
        let mut wide = self.pattern.as_str().split('/');
        let mut narrow = other.pattern.as_str().split('/');
        loop {
            match (wide.next(), narrow.next()) {
                (Some(MANY), _) | (None, None) => return true,
                (Some(ONE), Some(segment)) if segment != MANY => {}
                (Some(one), Some(other)) if one == other => {}
                _ => return false,
            }
        }
    }

    /// Sorts what is wider than another grant before it.
    pub(crate) fn narrowness(&self) -> impl Ord + use<> {
        let text = self.pattern.as_str();
        let (fixed, closed) = text.strip_suffix(MANY).map_or((text, true), |fixed| (fixed, false));
        let segments = fixed.split('/').filter(|segment| !segment.is_empty());
        let (names, ones) = segments.fold((0, 0), |(names, ones), segment| match segment {
            ONE => (names, ones + 1),
            _ => (names + 1, ones),
        });
        (names + ones, closed, names, Reverse(self.rights.iter().count()))
    }
}

/// The pattern of what two patterns match, when `**` is only at their ends; `None` when that is nothing.
fn common(left: &str, right: &str) -> Option<String> {
    let (mut left, mut right) = (left.split('/').peekable(), right.split('/').peekable());
    let mut segments: Vec<&str> = Vec::new();
    loop {
        match (left.peek().copied(), right.peek().copied()) {
            (None, None) => break,
            (Some(MANY), _) => {
                segments.extend(right);
                break;
            }
            (_, Some(MANY)) => {
                segments.extend(left);
                break;
            }
            (Some(ONE), Some(segment)) | (Some(segment), Some(ONE)) => segments.push(segment),
            (Some(one), Some(other)) if one == other => segments.push(one),
            _ => return None,
        }
        left.next();
        right.next();
    }
    Some(segments.join("/"))
}

impl FromStr for Grant {
    type Err = InvalidGrant;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pattern, rights) = text.split_once(':').ok_or(InvalidGrant::Form)?;
        Self::new(pattern.parse()?, rights.parse()?)
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pattern, self.rights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(text: &str) -> Grant {
        text.parse().unwrap()
    }

    fn id(text: &str) -> SessionId {
        SessionId::parse(text).unwrap()
    }

    #[test]
    fn a_grant_survives_being_printed() {
        for text in ["acme/**:read,publish", "**:manage", "acme:read", "acme/*/build/**:answer,state"] {
            assert_eq!(grant(text).to_string(), text);
        }
        assert_eq!(grant("acme/**:publish,read").to_string(), "acme/**:read,publish");
    }

    #[test]
    fn it_allows_its_rights_to_its_sessions() {
        let reader = grant("acme/**:read");
        assert!(reader.allows(&id("acme/a/b"), Right::Read) && reader.allows(&id("acme"), Right::Read));
        assert!(!reader.allows(&id("acme/a"), Right::Publish) && !reader.allows(&id("acmes/a"), Right::Read));
        assert_eq!((reader.tenant(), grant("**:read").tenant()), (Some("acme"), None));
        assert!(grant("**:read").is_everywhere() && !reader.is_everywhere());
    }

    #[test]
    fn what_is_the_brokers_own_is_never_granted() {
        let own = SessionId::reserved("~import/acme/a").unwrap();
        assert!(Right::ALL.iter().all(|right| !grant("**:read,publish,manage").allows(&own, *right)));
    }

    #[test]
    fn a_pattern_that_tries_to_escape_is_no_pattern() {
        let escapes = [
            "",
            "/",
            "/**",
            "acme/",
            "acme//other",
            "acme/../other",
            "../other",
            "./acme",
            "acme/./x",
            "acme/%2e%2e/other",
            "acme%2fother",
            "acme/%2a%2a",
            "acme\\other",
            "acme/..%2fother",
            "аcme/**",
            "acme／other",
            "acme/＊＊",
            "ａcme/**",
            "acme/\u{200b}**",
            "acme/\u{202e}x",
            "acme/**\0",
            "acme/x\0",
            "~/**",
            "~import/**",
            "acme/~x",
            " acme/**",
            "acme/** ",
            "acme/**\n",
            "acme/***",
            "acme*/**",
            "acme/a*",
            "acme/?",
            "acme/[ab]",
            "acme/{a,b}",
            "-/../x",
            "ACME/é",
        ];
        for pattern in escapes {
            let text = format!("{pattern}:read");
            let found = text.parse::<Grant>();
            assert!(matches!(found, Err(InvalidGrant::Pattern(_))), "{text:?}: {found:?}");
        }
        let long = format!("{}:read", "a".repeat(1 << 20));
        assert!(matches!(long.parse::<Grant>(), Err(InvalidGrant::Pattern(InvalidPattern::Length(_)))));
    }

    #[test]
    fn a_pattern_that_names_no_tenant_is_none_of_a_grant() {
        for text in ["*:read", "*/**:read", "*/build:read"] {
            assert_eq!(text.parse::<Grant>(), Err(InvalidPattern::Tenant.into()), "{text}");
        }
        for text in ["**/build:read", "acme/**/build:read", "**/**:read", "acme/**/**:read"] {
            assert_eq!(text.parse::<Grant>(), Err(InvalidPattern::OpenMiddle.into()), "{text}");
        }
    }

    #[test]
    fn the_form_is_said() {
        assert_eq!("acme/**".parse::<Grant>(), Err(InvalidGrant::Form));
        assert_eq!("acme/**:".parse::<Grant>(), Err(InvalidRights::Empty.into()));
        assert_eq!("acme/**:read:publish".parse::<Grant>(), Err(InvalidRights::Unknown(1).into()));
        assert_eq!("acme/**：read".parse::<Grant>(), Err(InvalidGrant::Form));
    }

    #[test]
    fn what_two_grants_have_in_common() {
        let cases = [
            ("acme/**:read,publish", "acme/*/x:read", Some("acme/*/x:read")),
            ("acme/*/x:read", "acme/y/*:read", Some("acme/y/x:read")),
            ("acme/*/**:read", "acme/**:read", Some("acme/*/**:read")),
            ("acme/**:read", "acme:read", Some("acme:read")),
            ("acme/*/**:read", "acme:read", None),
            ("acme/**:read", "other/**:read", None),
            ("acme/**:read", "acme/**:publish", None),
            ("**:read,manage", "acme/a:read", Some("acme/a:read")),
            ("acme/a:read", "acme/a/b:read", None),
        ];
        for (left, right, expected) in cases {
            let expected = expected.map(grant);
            assert_eq!(grant(left).common(&grant(right)), expected, "{left} {right}");
            assert_eq!(grant(right).common(&grant(left)), expected, "{right} {left}");
        }
    }
}
