//! Rights: what a principal may do to the sessions that a grant names.

use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

/// One right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// See that a session exists, and all that is in it.
    Read,
    /// Append records; a publish creates the session that it names.
    Publish,
    /// Create a session with metadata, as a fork, or by an import.
    Create,
    /// Answer questions.
    Answer,
    /// Steer and cancel work.
    Control,
    /// Hold the lease of an agent.
    Lease,
    /// Write keyed state.
    State,
    /// Whatever changes or ends a session for everybody, and acting for others.
    Manage,
}

impl Right {
    /// Every right, in the order in which they are printed.
    pub const ALL: [Self; 8] = [
        Self::Read,
        Self::Publish,
        Self::Create,
        Self::Answer,
        Self::Control,
        Self::Lease,
        Self::State,
        Self::Manage,
    ];

    /// The right as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Publish => "publish",
            Self::Create => "create",
            Self::Answer => "answer",
            Self::Control => "control",
            Self::Lease => "lease",
            Self::State => "state",
            Self::Manage => "manage",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Publish => 1 << 1,
            Self::Create => 1 << 2,
            Self::Answer => 1 << 3,
            Self::Control => 1 << 4,
            Self::Lease => 1 << 5,
            Self::State => 1 << 6,
            Self::Manage => 1 << 7,
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text names no rights. It does not repeat the text, which may come from anybody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRights {
    /// There is none.
    #[error("a grant has at least one right: some of {all}, separated by `,`", all = Rights::ALL)]
    Empty,
    /// One of them is none that there is.
    #[error("right {0} is none that there is; allowed are some of {all}, separated by `,`", all = Rights::ALL)]
    Unknown(usize),
}

/// A set of rights. No right includes another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rights(u8);

impl Rights {
    /// No right.
    pub const NONE: Self = Self(0);
    /// Every right.
    pub const ALL: Self = Self(u8::MAX);

    /// Whether a right is in the set.
    #[must_use]
    pub fn contains(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }

    /// The rights that are in both sets.
    #[must_use]
    pub fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The rights that the other set has not.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The rights of the set.
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.contains(*right))
    }
}

impl From<Right> for Rights {
    fn from(right: Right) -> Self {
        Self(right.bit())
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<T: IntoIterator<Item = Right>>(rights: T) -> Self {
        rights.into_iter().fold(Self::NONE, |set, right| set | right)
    }
}

impl<T: Into<Rights>> BitOr<T> for Right {
    type Output = Rights;

    fn bitor(self, other: T) -> Rights {
        Rights::from(self) | other
    }
}

impl<T: Into<Rights>> BitOr<T> for Rights {
    type Output = Self;

    fn bitor(self, other: T) -> Self {
        Self(self.0 | other.into().0)
    }
}

impl FromStr for Rights {
    type Err = InvalidRights;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(InvalidRights::Empty);
        }
        let right = |(index, name): (usize, &str)| {
            let found = Right::ALL.into_iter().find(|right| right.as_str() == name);
            found.ok_or(InvalidRights::Unknown(index))
        };
        (1..).zip(text.split(',')).map(right).collect()
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, right) in self.iter().enumerate() {
            write!(f, "{}{right}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_of_rights_survives_being_printed() {
        for bits in 1..=u8::MAX {
            let rights = Rights(bits);
            assert_eq!(rights.to_string().parse(), Ok(rights));
            assert_eq!(rights.iter().collect::<Rights>(), rights);
        }
        assert_eq!(Rights::ALL.to_string(), "read,publish,create,answer,control,lease,state,manage");
        assert_eq!(
            "publish,read,read".parse::<Rights>().map(|rights| rights.to_string()),
            Ok("read,publish".into())
        );
    }

    #[test]
    fn what_is_no_right_is_refused_with_those_that_are() {
        assert_eq!("".parse::<Rights>(), Err(InvalidRights::Empty));
        let cases = [
            ("Read", 1),
            ("read,", 2),
            (",read", 1),
            ("read, publish", 2),
            ("read;publish", 1),
            ("all", 1),
            ("*", 1),
            ("read,publish,own", 3),
            ("rea\u{0501}", 1),
            ("read\0", 1),
        ];
        for (text, index) in cases {
            let error = text.parse::<Rights>().unwrap_err();
            assert_eq!(error, InvalidRights::Unknown(index), "{text:?}");
            assert!(error.to_string().contains("read,publish,create"), "{error}");
        }
    }

    #[test]
    fn sets_are_sets() {
        let some = Rights::from(Right::Read) | Right::Manage;
        assert_eq!(some.common(Rights::from(Right::Read)), Right::Read.into());
        assert_eq!(some.without(Rights::from(Right::Read)), Right::Manage.into());
        assert!(some.without(Rights::ALL).is_empty() && Rights::NONE.iter().next().is_none());
    }
}
