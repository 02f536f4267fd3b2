//! Session ids: the paths by which sessions are named.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::{SESSION_ID_BYTES_MAX, SESSION_ID_SEGMENT_BYTES_MAX, SESSION_ID_SEGMENTS_MAX};

/// The id of a session: a path such as `acme/build/42`, whose first segment is the tenant.
///
/// Grammar: `segment ("/" segment)*` with `segment = [A-Za-z0-9_-][A-Za-z0-9._-]{0,63}`, at most
/// [`SESSION_ID_SEGMENTS_MAX`] segments and [`SESSION_ID_BYTES_MAX`] bytes. Ids that begin with `~` are the broker's own:
/// [`SessionId::parse`] refuses them and [`SessionId::reserved`] makes them. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Arc<str>);

/// What the broker's own ids begin with. It sorts after everything that other ids begin with.
pub const RESERVED: char = '~';

/// Why a text is not a [`SessionId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSessionId {
    /// The text is empty.
    #[error("a session id must not be empty; use a path such as `acme/build/42`")]
    Empty,
    /// The text is longer than [`SESSION_ID_BYTES_MAX`] bytes.
    #[error("a session id has at most {SESSION_ID_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// There are more than [`SESSION_ID_SEGMENTS_MAX`] segments.
    #[error("a session id has at most {SESSION_ID_SEGMENTS_MAX} segments between `/`, this one has {0}")]
    TooManySegments(usize),
    /// A segment is empty: the id begins or ends with `/`, or has `//`.
    #[error(
        "segment {0} of the session id is empty; segments are separated by single `/` and none leads or trails"
    )]
    EmptySegment(usize),
    /// A segment is longer than [`SESSION_ID_SEGMENT_BYTES_MAX`] bytes.
    #[error(
        "segment {index} of the session id has {length} bytes; at most {SESSION_ID_SEGMENT_BYTES_MAX} are allowed"
    )]
    SegmentTooLong {
        /// Which segment, counted from 1.
        index: usize,
        /// Its length in bytes.
        length: usize,
    },
    /// An id of the broker's own must begin with `~`.
    #[error("an id of the broker's own begins with `~`")]
    NotReserved,
    /// A character is outside the grammar.
    #[error(
        "segment {index} of the session id contains {character:?}; allowed are A-Z a-z 0-9 _ - and, not at the start, `.`"
    )]
    Character {
        /// Which segment, counted from 1.
        index: usize,
        /// The offending character.
        character: char,
    },
}

impl SessionId {
    /// Parses a session id.
    ///
    /// # Errors
    /// [`InvalidSessionId`] names the first rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidSessionId> {
        if text.is_empty() {
            return Err(InvalidSessionId::Empty);
        }
        if text.len() > SESSION_ID_BYTES_MAX {
            return Err(InvalidSessionId::TooLong(text.len()));
        }
        let segments = text.split('/').count();
        if segments > SESSION_ID_SEGMENTS_MAX {
            return Err(InvalidSessionId::TooManySegments(segments));
        }
        for (index, segment) in (1..).zip(text.split('/')) {
            check_segment(index, segment)?;
        }
        Ok(Self(Arc::from(text)))
    }

    /// An id of the broker's own: `~` or `~/`, and what would be an id without it. Never made of what a client sent.
    ///
    /// # Errors
    /// [`InvalidSessionId`] names the first rule that the text breaks.
    pub fn reserved(text: &str) -> Result<Self, InvalidSessionId> {
        if text.len() > SESSION_ID_BYTES_MAX {
            return Err(InvalidSessionId::TooLong(text.len()));
        }
        let rest = text.strip_prefix(RESERVED).ok_or(InvalidSessionId::NotReserved)?;
        Self::parse(rest.strip_prefix('/').unwrap_or(rest))?;
        Ok(Self(Arc::from(text)))
    }

    /// An id that the broker stored earlier, one of its own or not.
    ///
    /// # Errors
    /// [`InvalidSessionId`] names the first rule that the text breaks.
    pub fn stored(text: &str) -> Result<Self, InvalidSessionId> {
        if text.starts_with(RESERVED) { Self::reserved(text) } else { Self::parse(text) }
    }

    /// Whether it is one of the broker's own.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with(RESERVED)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_segment(index: usize, segment: &str) -> Result<(), InvalidSessionId> {
    if segment.is_empty() {
        return Err(InvalidSessionId::EmptySegment(index));
    }
    for (place, character) in segment.char_indices() {
        let allowed = character.is_ascii_alphanumeric()
            || character == '_'
            || character == '-'
            || (character == '.' && place > 0);
        if !allowed {
            return Err(InvalidSessionId::Character { index, character });
        }
    }
    if segment.len() > SESSION_ID_SEGMENT_BYTES_MAX {
        return Err(InvalidSessionId::SegmentTooLong { index, length: segment.len() });
    }
    Ok(())
}

impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({})", self.0)
    }
}

impl Borrow<str> for SessionId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for SessionId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_grammar() {
        let sixteen = vec!["a"; 16].join("/");
        let long = format!("a{}", "b".repeat(63));
        for text in ["a", "acme/build/42", "_x/-y", "a.b/c..d", sixteen.as_str(), long.as_str()] {
            assert_eq!(SessionId::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn ids_of_the_brokers_own_are_made_on_purpose() {
        let own = SessionId::reserved("~restore/acme/a").unwrap();
        assert!(own.is_reserved() && !SessionId::parse("acme/~a").is_ok_and(|id| id.is_reserved()));
        assert_eq!(SessionId::stored("~restore/acme/a"), Ok(own));
        assert!(SessionId::reserved("~/workers/acme/a").is_ok_and(|own| own.is_reserved()));
        assert_eq!(SessionId::reserved("~//a"), Err(InvalidSessionId::EmptySegment(1)));
        assert_eq!(SessionId::reserved("~/"), Err(InvalidSessionId::Empty));
        assert_eq!(SessionId::stored("acme/a"), SessionId::parse("acme/a"));
        assert_eq!(SessionId::reserved("acme/a"), Err(InvalidSessionId::NotReserved));
        assert_eq!(SessionId::reserved("~"), Err(InvalidSessionId::Empty));
        let twice = InvalidSessionId::Character { index: 1, character: '~' };
        assert_eq!(SessionId::reserved("~~a"), Err(twice));
        let longest = format!("~{}", vec!["b".repeat(63); 4].join("/"));
        assert_eq!((longest.len(), SessionId::reserved(&longest).is_ok()), (256, false));
        assert!(SessionId::parse("z").unwrap() < SessionId::reserved("~a").unwrap());
    }

    #[test]
    fn names_what_is_wrong() {
        let cases = [
            ("", InvalidSessionId::Empty),
            ("/a", InvalidSessionId::EmptySegment(1)),
            ("a/", InvalidSessionId::EmptySegment(2)),
            ("a//b", InvalidSessionId::EmptySegment(2)),
            (".a", InvalidSessionId::Character { index: 1, character: '.' }),
            ("~sys", InvalidSessionId::Character { index: 1, character: '~' }),
            ("a/b c", InvalidSessionId::Character { index: 2, character: ' ' }),
            ("a/é", InvalidSessionId::Character { index: 2, character: 'é' }),
            ("a\0", InvalidSessionId::Character { index: 1, character: '\0' }),
            ("..", InvalidSessionId::Character { index: 1, character: '.' }),
        ];
        for (text, error) in cases {
            assert_eq!(SessionId::parse(text), Err(error), "{text:?}");
        }
        let seventeen = vec!["a"; 17].join("/");
        assert_eq!(SessionId::parse(&seventeen), Err(InvalidSessionId::TooManySegments(17)));
        let long = "a".repeat(65);
        assert_eq!(SessionId::parse(&long), Err(InvalidSessionId::SegmentTooLong { index: 1, length: 65 }));
        assert_eq!(SessionId::parse(&"a".repeat(256)), Err(InvalidSessionId::TooLong(256)));
    }
}
