//! Who somebody is, once the token was accepted.

use std::fmt;
use std::str::FromStr;

use longwire_core::entity::standing::Standing;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::grant::Grant;
use longwire_proto::grants::Grants;
use longwire_proto::limits::PRINCIPAL_BYTES_MAX;
use longwire_proto::position::COUNTER_MAX;
use longwire_proto::right::Right;
use longwire_proto::session_id::SessionId;

use crate::auth::token_id::TokenId;

/// What stands between the namespace of a foreign issuer and the name that it gave.
pub const SEPARATOR: char = '/';
/// Who somebody is that shows no token. No token may say so of its owner.
pub const ANONYMOUS: &str = "anonymous";

/// What kind of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A person.
    Human,
    /// A program that decides by itself.
    Agent,
    /// Any other program.
    Service,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Human, Self::Agent, Self::Service];

    /// The kind as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Agent => "agent",
            Self::Service => "service",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text is no kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kind of a principal is `human`, `agent` or `service`")]
pub struct InvalidKind;

impl FromStr for Kind {
    type Err = InvalidKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(InvalidKind)
    }
}

/// Somebody whose token was accepted. What it knows of the token is its id, never its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The name under which records, producers and cursors are kept.
    pub id: String,
    /// What kind of somebody.
    pub kind: Kind,
    /// The only endpoint that the token is for; `None` when it is for any.
    pub device: Option<String>,
    /// Who acts in the name of `id`; `None` when that is who acts.
    pub via: Option<String>,
    /// The one tenant that all grants are of.
    pub tenant: Option<String>,
    /// What it may do.
    pub grants: Grants,
    /// What it is to those who ask for somebody of a role.
    pub roles: Vec<String>,
    /// From this time on it is nobody, in Unix milliseconds.
    pub expires_ms: u64,
    /// By which the token is revoked; `None` when its issuer gave it no id.
    pub token: Option<TokenId>,
    /// Who vouches for it.
    pub issuer: String,
    /// The key that its token is signed with; empty for somebody who needs none.
    pub signed_by: String,
}

impl Principal {
    /// Somebody without a token, where that is enough for everything.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            id: ANONYMOUS.to_owned(),
            kind: Kind::Service,
            device: None,
            via: None,
            tenant: None,
            grants: Grants::everything(),
            roles: Vec::new(),
            expires_ms: COUNTER_MAX,
            token: None,
            issuer: String::new(),
            signed_by: String::new(),
        }
    }

    /// What asks and runs of a session go by. Who shows no token is not told apart from anybody, so it has every role.
    #[must_use]
    pub fn standing(&self, session: &SessionId) -> Standing {
        Standing {
            roles: self.roles.clone(),
            every_role: self.id == ANONYMOUS,
            manages: self.grants.allows(session, Right::Manage),
        }
    }

    /// Whether it manages everything that these grants are about.
    #[must_use]
    pub fn manages(&self, grants: &Grants) -> bool {
        let managed = |narrow: &Grant| {
            let mut own = self.grants.as_slice().iter();
            own.any(|wide| wide.rights().contains(Right::Manage) && wide.is_wider(narrow))
        };
        grants.as_slice().iter().all(managed)
    }

    /// Refuses somebody whose token has expired.
    ///
    /// # Errors
    /// [`ErrorCode::TokenExpired`].
    pub fn check_time(&self, now_ms: u64) -> Result<(), Error> {
        if now_ms < self.expires_ms {
            return Ok(());
        }
        Err(Error::new(ErrorCode::TokenExpired, "the token has expired; connect with a new one"))
    }

    /// Takes over what a newer token says, while a connection lives. It may narrow what was granted and prolong it; who
    /// wants to be somebody else, or to do more, connects again.
    ///
    /// # Errors
    /// [`ErrorCode::Forbidden`] says what the new token must not change.
    pub fn refresh(&mut self, next: Self) -> Result<(), Error> {
        let refuse = |what: &str| {
            let message = format!("the new token {what}: connect again with it instead");
            Err(Error::new(ErrorCode::Forbidden, message).field("token"))
        };
        if (&self.id, self.kind, &self.issuer) != (&next.id, next.kind, &next.issuer) {
            return refuse("is of another principal");
        }
        if self.device.is_some() && self.device != next.device {
            return refuse("is of another device");
        }
        if !self.grants.covers(&next.grants) {
            return refuse("grants more");
        }
        // Roles that it did not have before are for another connection, as grants are.
        let roles = next.roles.iter().filter(|role| self.roles.contains(role)).cloned().collect();
        let next = Self { roles, ..next };
        *self = Self { via: self.via.take(), device: self.device.take().or(next.device), ..next };
        Ok(())
    }

    /// Refuses grants that are to be handed on and are more than what it has itself.
    ///
    /// # Errors
    /// [`ErrorCode::Forbidden`].
    pub fn check_share(&self, grants: &Grants) -> Result<(), Error> {
        if self.grants.covers(grants) {
            return Ok(());
        }
        let message = format!("only what was granted can be shared, and that is {}", Listed(&self.grants));
        Err(Error::new(ErrorCode::Forbidden, message).field("grants"))
    }
}

struct Listed<'a>(&'a Grants);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.as_slice().is_empty() { f.write_str("nothing") } else { write!(f, "`{}`", self.0) }
    }
}

/// Why a text is not the name of a principal. It does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Its length.
    #[error("the name of a principal has 1 to {PRINCIPAL_BYTES_MAX} bytes, this one has {0}")]
    Length(usize),
    /// A character that could be taken for another one, or for the end of the name.
    #[error(
        "the name of a principal has visible ASCII characters only, and none of `\"`, `\\`, `<`, `>` and `` ` ``"
    )]
    Character,
    /// It stands for nobody.
    #[error("`{ANONYMOUS}` is who shows no token")]
    Anonymous,
    /// It looks like one of a foreign issuer.
    #[error("a name with `{SEPARATOR}` is one of a foreign issuer")]
    Foreign,
}

/// Refuses what is not the name of a principal, of whatever issuer.
///
/// # Errors
/// [`InvalidName`].
pub fn check_name(text: &str) -> Result<(), InvalidName> {
    if text.is_empty() || text.len() > PRINCIPAL_BYTES_MAX {
        return Err(InvalidName::Length(text.len()));
    }
    // Look-alikes, directions of writing and control characters are all outside ASCII's visible part.
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\<>`".contains(&byte)) {
        return Err(InvalidName::Character);
    }
    if text.eq_ignore_ascii_case(ANONYMOUS) {
        return Err(InvalidName::Anonymous);
    }
    Ok(())
}

/// Refuses what is not the name of a principal of the broker's own issuer.
///
/// # Errors
/// [`InvalidName`].
pub fn check_own_name(text: &str) -> Result<(), InvalidName> {
    check_name(text)?;
    if text.contains(SEPARATOR) {
        return Err(InvalidName::Foreign);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::{self, NOW_MS};

    const GRANTS: [&str; 2] = ["acme/**:read,publish", "acme/bridge/**:manage"];

    fn alice() -> Principal {
        testing::principal(&GRANTS)
    }

    #[test]
    fn names_look_like_themselves() {
        for name in [
            "alice",
            "a",
            "alice@acme.example",
            "auth0|1234",
            "system:serviceaccount:ns:x",
            "idp/alice",
            "-_.~+=%",
        ] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        let characters = [
            "al ice",
            "alice\n",
            "alice\0",
            "аlice",
            "alicé",
            "alice\u{200b}",
            "\u{202e}ecila",
            "ａlice",
            "al\"ice",
            "<b>",
            "a\\b",
            "alice\u{7f}",
            "`",
            "\t",
        ];
        for name in characters {
            assert_eq!(check_name(name), Err(InvalidName::Character), "{name:?}");
        }
        assert_eq!(check_name(""), Err(InvalidName::Length(0)));
        assert_eq!(check_name(&"a".repeat(256)), Err(InvalidName::Length(256)));
        assert_eq!(check_name("Anonymous"), Err(InvalidName::Anonymous));
        assert_eq!(check_own_name("idp/alice"), Err(InvalidName::Foreign));
    }

    #[test]
    fn somebody_is_nobody_once_the_time_is_over() {
        let alice = alice();
        assert_eq!(alice.check_time(alice.expires_ms - 1), Ok(()));
        assert_eq!(alice.check_time(alice.expires_ms).unwrap_err().code, ErrorCode::TokenExpired);
        assert_eq!(alice.check_time(u64::MAX).unwrap_err().code, ErrorCode::TokenExpired);
    }

    #[test]
    fn a_refresh_prolongs_and_narrows() {
        let mut alice = alice();
        let next = Principal {
            expires_ms: NOW_MS * 2,
            token: Some(TokenId::new("longwire", "t-2").unwrap()),
            ..testing::principal(&["acme/a:read"])
        };
        assert_eq!(alice.refresh(next.clone()), Ok(()));
        assert_eq!(alice, next);
        // What was given up does not come back.
        let error = alice.refresh(self::alice()).unwrap_err();
        assert_eq!((error.code, error.field), (ErrorCode::Forbidden, "token"));
        assert_eq!(alice, next);
    }

    #[test]
    fn a_refresh_never_makes_more_or_somebody_else() {
        let others = [
            testing::principal(&["**:read"]),
            testing::principal(&["acme/**:read,publish,create"]),
            testing::principal(&["acme/**:read,publish", "other/a:read"]),
            Principal { id: "bob".into(), ..alice() },
            Principal { issuer: "https://other.example".into(), ..alice() },
            Principal { kind: Kind::Service, ..alice() },
        ];
        for other in others {
            let mut now = alice();
            assert_eq!(now.refresh(other).unwrap_err().code, ErrorCode::Forbidden);
            assert_eq!(now, alice());
        }
        let phone = Principal { device: Some("phone".into()), ..alice() };
        let mut now = phone.clone();
        assert!(now.refresh(alice()).is_err());
        assert!(now.refresh(Principal { device: Some("laptop".into()), ..alice() }).is_err());
        assert!(now.refresh(phone.clone()).is_ok() && now == phone);
    }

    #[test]
    fn a_share_is_never_wider() {
        let may_share = |grants: &[&str]| alice().check_share(&Grants::parse(grants).unwrap());
        assert_eq!(may_share(&["acme/a:read"]), Ok(()));
        assert_eq!(may_share(&["acme/**:publish", "acme/bridge/x:manage,read"]), Ok(()));
        for grants in [
            &["acme/a:manage"][..],
            &["**:read"],
            &["acme/a:read", "other/a:read"],
            &["acme/bridge/**:state"],
        ] {
            let error = may_share(grants).unwrap_err();
            assert_eq!((error.code, error.field), (ErrorCode::Forbidden, "grants"));
        }
    }
}
