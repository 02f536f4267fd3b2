//! Patterns of session ids: `acme/*/build`, `acme/**`.

use std::fmt;
use std::str::FromStr;

use crate::limits::{PATTERN_BYTES_MAX, SESSION_ID_SEGMENTS_MAX};
use crate::session_id::SessionId;

/// A pattern of session ids. `*` stands for exactly one segment, `**` for any number of them, none included; every other
/// segment for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Segment {
    One,
    Many,
    Is(String),
}

/// Why a text is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// It is empty or too long.
    #[error("a pattern has 1 to {PATTERN_BYTES_MAX} bytes, this one has {0}")]
    Length(usize),
    /// Too many segments.
    #[error("a pattern has at most {SESSION_ID_SEGMENTS_MAX} segments between `/`, this one has {0}")]
    TooManySegments(usize),
    /// The first segment is the tenant.
    #[error(
        "the first segment of a pattern is the tenant and no `*`: write `acme/**` for every session of `acme`"
    )]
    Tenant,
    /// `**` elsewhere than at the end.
    #[error("`**` stands at the end of a pattern only; `*` stands for one segment")]
    OpenMiddle,
    /// A segment that is neither a wildcard nor a segment of an id.
    #[error("segment {0} of the pattern is neither `*`, nor `**` at the end, nor a segment of a session id")]
    Segment(usize),
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX {
            return Err(InvalidPattern::Length(text.len()));
        }
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > SESSION_ID_SEGMENTS_MAX {
            return Err(InvalidPattern::TooManySegments(parts.len()));
        }
        let segments = (1..).zip(parts).map(|(index, part)| match part {
            "*" => Ok(Segment::One),
            "**" => Ok(Segment::Many),
            part if SessionId::parse(part).is_ok() => Ok(Segment::Is(part.to_owned())),
            _ => Err(InvalidPattern::Segment(index)),
        });
        Ok(Self { text: text.to_owned(), segments: segments.collect::<Result<_, _>>()? })
    }
}

impl Pattern {
    /// Whether a session's id matches.
    #[must_use]
    pub fn matches(&self, session: &SessionId) -> bool {
        // Most patterns that do not match are told by this alone.
        if !session.as_str().starts_with(self.prefix()) {
            return false;
        }
        // Bit i: the segments of the id so far can be what the first i segments of the pattern stand for. A loop over bits
        // instead of trying every length of every `**`, which could take exponential time.
        let mut reached = self.past_many(1);
        for part in session.as_str().split('/') {
            let mut next = 0;
            for (index, segment) in
                self.segments.iter().enumerate().filter(|(index, _)| reached >> index & 1 == 1)
            {
                next |= match segment {
                    Segment::Many => 1 << index,
                    Segment::One => 2 << index,
                    Segment::Is(text) if text == part => 2 << index,
                    Segment::Is(_) => 0,
                };
            }
            reached = self.past_many(next);
        }
        reached >> self.segments.len() & 1 == 1
    }

    /// A `**` may stand for nothing.
    fn past_many(&self, mut reached: u32) -> u32 {
        for (index, segment) in self.segments.iter().enumerate() {
            if *segment == Segment::Many && reached >> index & 1 == 1 {
                reached |= 2 << index;
            }
        }
        reached
    }

    /// What every id that matches begins with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        match self.text.find('*') {
            None => &self.text,
            // A `**` at the end may stand for nothing, the separator before it included.
            Some(wildcard) => self.text[..wildcard].trim_end_matches('/'),
        }
    }

    /// The text of the pattern.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn one_star_is_one_segment_and_two_are_the_rest() {
        let cases = [
            ("acme/*/build", "acme/web/build", true),
            ("acme/*/build", "acme/build", false),
            ("acme/*/build", "acme/web/api/build", false),
            ("acme/*/build", "acme/web/build/1", false),
            ("acme/**", "acme/web", true),
            ("acme/**", "acme/web/build/1", true),
            ("acme/**", "acme", true),
            ("acme/**", "acmes/web", false),
            ("**", "acme", true),
            ("**/build", "build", true),
            ("**/build", "acme/x/build", true),
            ("**/build", "acme/x/build/1", false),
            ("acme/**/run/*", "acme/a/run/b/run/1", true),
            ("acme/**/run/*", "acme/a/run/b/run", false),
            ("**/**", "a", true),
            ("acme/*/**", "acme", false),
            ("acme/*/**", "acme/web", true),
            ("acme/*/**", "acme/web/1", true),
            ("acme/build", "acme/build", true),
            ("acme/build", "acme/build2", false),
            ("acme", "acme", true),
        ];
        for (text, session, expected) in cases {
            let session = SessionId::parse(session).unwrap();
            assert_eq!(pattern(text).matches(&session), expected, "{text} {session}");
            assert!(!expected || session.as_str().starts_with(pattern(text).prefix()));
        }
        assert_eq!(pattern("acme/*/build").prefix(), "acme");
        assert_eq!(pattern("acme/x").prefix(), "acme/x");
    }

    #[test]
    fn refuses_what_is_outside_the_grammar() {
        let refuse = |text: &str| text.parse::<Pattern>().unwrap_err();
        assert_eq!(refuse(""), InvalidPattern::Length(0));
        assert_eq!(refuse(&"x".repeat(256)), InvalidPattern::Length(256));
        assert_eq!(refuse("a*/build"), InvalidPattern::Segment(1));
        assert_eq!(refuse("acme/***"), InvalidPattern::Segment(2));
        assert_eq!(refuse("acme/b*"), InvalidPattern::Segment(2));
        assert_eq!(refuse("acme//x"), InvalidPattern::Segment(2));
        assert_eq!(refuse("acme/~x"), InvalidPattern::Segment(2));
        assert_eq!(refuse(&["a"; 17].join("/")), InvalidPattern::TooManySegments(17));
    }
}
