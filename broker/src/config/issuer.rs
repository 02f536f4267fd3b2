//! Whose tokens are accepted besides the broker's own, as an operator writes it.

use std::path::PathBuf;
use std::time::Duration;

use longwire_proto::grants::{Grants, InvalidGrants};
use serde::{Deserialize, Serialize};

use crate::auth::guard::OWN_NAME;
use crate::auth::issuer::{InvalidIssuer, Issuer};
use crate::auth::key_file::KeyFile;
use crate::auth::token::ISSUERS_MAX;
use crate::outgoing::url::{InvalidUrl, OutgoingUrl};

/// How often keys are fetched when nothing else is said: soon enough for a key that an issuer begins to use or gives up.
const REFRESH_MS: u64 = 10 * 60 * 1000;
/// The bounds of that: a request a second is no burden, and a day without a look is too long to trust a key.
const REFRESH_MS_MIN: u64 = 1000;
const REFRESH_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// How long keys are good that cannot be fetched again: an issuer that is away over night keeps nobody out, and one that
/// somebody keeps from saying that a key was stolen is believed for no longer.
const KEEP_MS: u64 = 24 * 60 * 60 * 1000;
/// The longest that can be said.
const KEEP_MS_MAX: u64 = 30 * 24 * 60 * 60 * 1000;

/// One table `[[issuers]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// Its name, exactly as `iss` has it.
    pub name: String,
    /// What its tokens are meant for, exactly as `aud` has it.
    pub audience: String,
    /// What its principals are called here: `namespace/sub`.
    pub namespace: String,
    /// The most that its tokens may grant.
    pub bounds: Vec<String>,
    /// A file with its keys: a JWKS, or one public key in PEM.
    #[serde(default)]
    pub keys: Option<PathBuf>,
    /// The id of a key in PEM, exactly as `kid` has it.
    #[serde(default)]
    pub key_id: Option<String>,
    /// Where its JWKS is published.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// Whether that may be an address of a private network.
    #[serde(default)]
    pub allow_private: bool,
    /// The certificate authorities that vouch for it, in PEM, instead of those of the host.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// How often the JWKS is fetched.
    #[serde(default)]
    pub refresh_ms: Option<u64>,
    /// How long keys are good that cannot be fetched again.
    #[serde(default)]
    pub keep_ms: Option<u64>,
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysAt {
    /// In a file.
    File(KeyFile),
    /// Elsewhere.
    Url {
        /// Where.
        url: OutgoingUrl,
        /// Whether that may be an address of a private network.
        allow_private: bool,
        /// Who vouches for it; nothing: those whom the host trusts.
        ca: Option<PathBuf>,
        /// How often they are fetched.
        refresh: Duration,
        /// How long they are good when they cannot be.
        keep: Duration,
    },
}

/// Which issuer is not one, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("issuer {index} (`{name}`) of `issuers`: {why}")]
pub struct InvalidIssuerConfig {
    /// Which, counted from 1.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Why.
    #[source]
    pub why: Wrong,
}

/// What is wrong with an issuer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Its name, its audience or its namespace.
    #[error(transparent)]
    Issuer(#[from] InvalidIssuer),
    /// What it may grant.
    #[error("`bounds`: {0}")]
    Bounds(#[from] InvalidGrants),
    /// It may grant nothing.
    #[error(
        "`bounds` is empty, so nothing that it grants counts; name what it may grant, such as `acme/**:read,publish`"
    )]
    NoBounds,
    /// The broker is called that.
    #[error("`{OWN_NAME}` is the name of the broker itself; use what `iss` of its tokens says")]
    OwnName,
    /// Another one has that.
    #[error("another issuer has the same `{0}`, and they could not be told apart")]
    Twice(&'static str),
    /// There are too many.
    #[error("there are at most {} issuers", ISSUERS_MAX - 1)]
    TooMany,
    /// Its keys are nowhere, or in two places.
    #[error("it has exactly one of `keys` (a file) and `jwks_url`")]
    Keys,
    /// Something is said of a URL that is not there.
    #[error("`{0}` belongs to `jwks_url`, which it has not")]
    NeedsUrl(&'static str),
    /// Something is said of a file that is not there.
    #[error("`key_id` belongs to `keys`, which it has not: the keys of a JWKS have ids of their own")]
    NeedsFile,
    /// The URL.
    #[error("`jwks_url`: {0}")]
    Url(#[from] InvalidUrl),
    /// Certificates are of TLS.
    #[error("`ca` belongs to a `jwks_url` with https://")]
    Ca,
    /// A time.
    #[error("`{name}` is {min} to {max} milliseconds")]
    Time {
        /// Which.
        name: &'static str,
        /// At least.
        min: u64,
        /// At most.
        max: u64,
    },
}

impl IssuerConfig {
    /// The issuer, and where its keys are.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn issuer(&self) -> Result<(Issuer, KeysAt), Wrong> {
        if self.name == OWN_NAME {
            return Err(Wrong::OwnName);
        }
        let bounds = Grants::parse(&self.bounds)?;
        if bounds.as_slice().is_empty() {
            return Err(Wrong::NoBounds);
        }
        let issuer = Issuer::foreign(&self.name, &self.audience, &self.namespace, bounds)?;
        let keys = match (&self.keys, &self.jwks_url) {
            (Some(path), None) => {
                if let Some(name) = self.of_url() {
                    return Err(Wrong::NeedsUrl(name));
                }
                KeysAt::File(KeyFile::new(path, self.key_id.as_deref().unwrap_or_default()))
            }
            (None, Some(_)) if self.key_id.is_some() => return Err(Wrong::NeedsFile),
            (None, Some(url)) => self.published(OutgoingUrl::parse(url)?)?,
            _ => return Err(Wrong::Keys),
        };
        Ok((issuer, keys))
    }

    fn published(&self, url: OutgoingUrl) -> Result<KeysAt, Wrong> {
        if self.ca.is_some() && !url.is_secure() {
            return Err(Wrong::Ca);
        }
        let time = |name, value: Option<u64>, default: u64, min, max| match value.unwrap_or(default) {
            value if (min..=max).contains(&value) => Ok(value),
            _ => Err(Wrong::Time { name, min, max }),
        };
        let refresh = time("refresh_ms", self.refresh_ms, REFRESH_MS, REFRESH_MS_MIN, REFRESH_MS_MAX)?;
        let keep = time("keep_ms", self.keep_ms, KEEP_MS.max(refresh), refresh, KEEP_MS_MAX)?;
        Ok(KeysAt::Url {
            url,
            allow_private: self.allow_private,
            ca: self.ca.clone(),
            refresh: Duration::from_millis(refresh),
            keep: Duration::from_millis(keep),
        })
    }

    fn of_url(&self) -> Option<&'static str> {
        let said = [
            ("allow_private", self.allow_private),
            ("ca", self.ca.is_some()),
            ("refresh_ms", self.refresh_ms.is_some()),
            ("keep_ms", self.keep_ms.is_some()),
        ];
        said.into_iter().find_map(|(name, said)| said.then_some(name))
    }
}

/// Refuses issuers that are none, or that cannot be told apart.
///
/// # Errors
/// [`InvalidIssuerConfig`] names the first.
pub fn check_issuers(issuers: &[IssuerConfig]) -> Result<(), InvalidIssuerConfig> {
    for (place, issuer) in issuers.iter().enumerate() {
        let wrong = |why| InvalidIssuerConfig { index: place + 1, name: issuer.name.clone(), why };
        issuer.issuer().map_err(wrong)?;
        let earlier = issuers.get(..place).unwrap_or_default();
        if earlier.iter().any(|other| other.name == issuer.name) {
            return Err(wrong(Wrong::Twice("name")));
        }
        if earlier.iter().any(|other| other.namespace == issuer.namespace) {
            return Err(wrong(Wrong::Twice("namespace")));
        }
        // The broker is one, too.
        if place + 1 >= ISSUERS_MAX {
            return Err(wrong(Wrong::TooMany));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> IssuerConfig {
        IssuerConfig {
            name: "https://id.example".into(),
            audience: "longwire".into(),
            namespace: "example".into(),
            bounds: vec!["acme/**:read,publish".into()],
            keys: None,
            key_id: None,
            jwks_url: Some("https://id.example/jwks.json".into()),
            allow_private: false,
            ca: None,
            refresh_ms: None,
            keep_ms: None,
        }
    }

    type Change = fn(&mut IssuerConfig);

    fn file() -> IssuerConfig {
        IssuerConfig { keys: Some("keys.json".into()), jwks_url: None, ..config() }
    }

    #[test]
    fn what_is_not_said_has_a_value() {
        let (issuer, keys) = config().issuer().unwrap();
        assert_eq!((issuer.name(), issuer.namespace()), ("https://id.example", Some("example")));
        let KeysAt::Url { refresh, keep, .. } = keys else { panic!("{keys:?}") };
        assert_eq!((refresh.as_secs(), keep.as_secs()), (600, 86_400));
        let slow = IssuerConfig { refresh_ms: Some(REFRESH_MS_MAX), ..config() };
        assert!(slow.issuer().is_ok());
        let pem = IssuerConfig { key_id: Some("k".into()), ..file() };
        assert_eq!(pem.issuer().unwrap().1, KeysAt::File(KeyFile::new("keys.json".as_ref(), "k")));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let cases: [(Change, Wrong); 17] = [
            (|c| c.name = "longwire".into(), Wrong::OwnName),
            (|c| c.name = "a b".into(), InvalidIssuer::Name.into()),
            (|c| c.name = String::new(), InvalidIssuer::Name.into()),
            (|c| c.audience = String::new(), InvalidIssuer::Audience.into()),
            (|c| c.namespace = "a/b".into(), InvalidIssuer::Namespace.into()),
            (|c| c.bounds = Vec::new(), Wrong::NoBounds),
            (|c| c.keys = Some("k".into()), Wrong::Keys),
            (|c| c.jwks_url = None, Wrong::Keys),
            (|c| c.key_id = Some("k".into()), Wrong::NeedsFile),
            (|c| c.jwks_url = Some("http://id.example/".into()), InvalidUrl::PlainText.into()),
            (|c| (c.jwks_url, c.ca) = (Some("http://127.0.0.1/".into()), Some("ca.pem".into())), Wrong::Ca),
            (
                |c| c.refresh_ms = Some(0),
                Wrong::Time { name: "refresh_ms", min: REFRESH_MS_MIN, max: REFRESH_MS_MAX },
            ),
            (|c| c.keep_ms = Some(1), Wrong::Time { name: "keep_ms", min: REFRESH_MS, max: KEEP_MS_MAX }),
            (|c| *c = IssuerConfig { allow_private: true, ..file() }, Wrong::NeedsUrl("allow_private")),
            (|c| *c = IssuerConfig { ca: Some("c".into()), ..file() }, Wrong::NeedsUrl("ca")),
            (|c| *c = IssuerConfig { refresh_ms: Some(5000), ..file() }, Wrong::NeedsUrl("refresh_ms")),
            (|c| *c = IssuerConfig { keep_ms: Some(5000), ..file() }, Wrong::NeedsUrl("keep_ms")),
        ];
        for (change, why) in cases {
            let mut changed = config();
            change(&mut changed);
            assert_eq!(changed.issuer().unwrap_err(), why);
        }
        let wrong = IssuerConfig { bounds: vec!["**/x:read".into()], ..config() };
        assert!(matches!(wrong.issuer(), Err(Wrong::Bounds(_))));
    }

    #[test]
    fn issuers_can_be_told_apart() {
        let other = IssuerConfig { name: "other".into(), namespace: "other".into(), ..file() };
        assert_eq!(check_issuers(&[config(), other.clone()]), Ok(()));
        let error = check_issuers(&[config(), other.clone(), config()]).unwrap_err();
        assert_eq!((error.index, &error.why), (3, &Wrong::Twice("name")));
        let same = IssuerConfig { namespace: "example".into(), ..other };
        assert_eq!(check_issuers(&[config(), same]).unwrap_err().why, Wrong::Twice("namespace"));
        let many = |count: usize| -> Vec<IssuerConfig> {
            let numbered = |number| IssuerConfig {
                name: format!("i{number}"),
                namespace: format!("i{number}"),
                ..config()
            };
            (0..count).map(numbered).collect()
        };
        assert_eq!(check_issuers(&many(ISSUERS_MAX - 1)), Ok(()));
        assert_eq!(check_issuers(&many(ISSUERS_MAX)).unwrap_err().why, Wrong::TooMany);
    }
}
