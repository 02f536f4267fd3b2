//! What a principal may do: its grants.

use std::fmt;

use crate::grant::{Grant, InvalidGrant};
use crate::limits::GRANTS_MAX;
use crate::right::{Right, Rights};
use crate::session_id::SessionId;

/// At most [`GRANTS_MAX`] grants; what none of them allows is not allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants(Vec<Grant>);

/// Why something is not the grants of a principal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrants {
    /// There are too many.
    #[error(
        "there are at most {GRANTS_MAX} grants; these are {0}: use wider patterns, or several principals"
    )]
    TooMany(usize),
    /// One of them is none.
    #[error("grant {index}: {why}")]
    Grant {
        /// Which one, counted from 1.
        index: usize,
        /// Why.
        #[source]
        why: InvalidGrant,
    },
}

impl Grants {
    /// Grants.
    ///
    /// # Errors
    /// [`InvalidGrants::TooMany`].
    pub fn new(grants: Vec<Grant>) -> Result<Self, InvalidGrants> {
        if grants.len() > GRANTS_MAX {
            return Err(InvalidGrants::TooMany(grants.len()));
        }
        Ok(Self(grants))
    }

    /// Grants from their texts.
    ///
    /// # Errors
    /// [`InvalidGrants`] names the first that is none.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, InvalidGrants> {
        if texts.len() > GRANTS_MAX {
            return Err(InvalidGrants::TooMany(texts.len()));
        }
        let parse = |(index, text): (usize, &T)| {
            text.as_ref().parse().map_err(|why| InvalidGrants::Grant { index, why })
        };
        Self::new((1..).zip(texts).map(parse).collect::<Result<_, _>>()?)
    }

    /// Every right to every session.
    #[must_use]
    pub fn everything() -> Self {
        let grant = "**".parse().ok().and_then(|pattern| Grant::new(pattern, Rights::ALL).ok());
        Self(grant.into_iter().collect())
    }

    /// The grants.
    #[must_use]
    pub fn as_slice(&self) -> &[Grant] {
        &self.0
    }

    /// Whether one of them gives a right to a session.
    #[must_use]
    pub fn allows(&self, session: &SessionId, right: Right) -> bool {
        self.0.iter().any(|grant| grant.allows(session, right))
    }

    /// Whether one of them gives a right to every session that there can be.
    #[must_use]
    pub fn allows_everywhere(&self, right: Right) -> bool {
        self.0.iter().any(|grant| grant.is_everywhere() && grant.rights().contains(right))
    }

    /// Exactly what they allow to one session, and to no other.
    #[must_use]
    pub fn only(&self, session: &SessionId) -> Self {
        let rights = Right::ALL.into_iter().filter(|right| self.allows(session, *right)).collect();
        // Every id is the pattern of itself; without a right there is no grant.
        let pattern = session.as_str().parse().ok();
        Self(pattern.and_then(|pattern| Grant::new(pattern, rights).ok()).into_iter().collect())
    }

    /// The one tenant that all of them are of.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        let tenant = self.0.first()?.tenant()?;
        self.0.iter().all(|grant| grant.tenant() == Some(tenant)).then_some(tenant)
    }

    /// Whether everything that the other ones allow is allowed by these. `true` is always right; `false` is not, where it
    /// takes several patterns to match what one of the others does.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|narrow| {
            let wider = self.0.iter().filter(|wide| wide.is_wider(narrow));
            let rights = wider.fold(Rights::NONE, |rights, wide| rights | wide.rights());
            narrow.rights().without(rights).is_empty()
        })
    }

    /// Grants of exactly what both allow.
    ///
    /// # Errors
    /// [`InvalidGrants::TooMany`] when it takes too many to say that.
    pub fn common(&self, other: &Self) -> Result<Self, InvalidGrants> {
        let pairs = self.0.iter().flat_map(|left| other.0.iter().filter_map(|right| left.common(right)));
        let mut found: Vec<Grant> = pairs.collect();
        // The widest first: then none that is kept makes another one needless that was kept before it.
        found.sort_by_cached_key(Grant::narrowness);
        let mut kept: Vec<Grant> = Vec::new();
        for grant in found {
            let has_all =
                |wide: &Grant| wide.is_wider(&grant) && grant.rights().without(wide.rights()).is_empty();
            if !kept.iter().any(has_all) {
                kept.push(grant);
            }
            if kept.len() > GRANTS_MAX {
                break;
            }
        }
        Self::new(kept)
    }
}

impl fmt::Display for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, grant) in self.0.iter().enumerate() {
            write!(f, "{}{grant}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    /// Every id of up to four segments of these: `c` is in no pattern, so it stands for what patterns do not name.
    const SEGMENTS: [&str; 3] = ["a", "b", "c"];
    /// Enough for sets to overlap, to contain each other, and to be apart.
    const TRIED: [Right; 3] = [Right::Read, Right::Publish, Right::Manage];
    const SEED: u64 = 0x6772_616e_7473;

    fn grants(texts: &[&str]) -> Grants {
        Grants::parse(texts).unwrap()
    }

    fn ids() -> Vec<SessionId> {
        let mut all: Vec<String> = SEGMENTS.map(str::to_owned).to_vec();
        let mut last = all.clone();
        for _ in 0..3 {
            last = last.iter().flat_map(|id| SEGMENTS.map(|segment| format!("{id}/{segment}"))).collect();
            all.extend(last.clone());
        }
        all.iter().map(|id| SessionId::parse(id).unwrap()).collect()
    }

    fn some_grants() -> impl Strategy<Value = Grants> {
        let segment = prop_oneof![Just("a"), Just("b"), Just("*")];
        let fixed = (prop_oneof![Just("a"), Just("b")], prop::collection::vec(segment, 0..3), any::<bool>());
        let pattern = fixed.prop_map(|(tenant, rest, open)| {
            let mut segments = vec![tenant];
            segments.extend(rest);
            segments.extend(open.then_some("**"));
            segments.join("/")
        });
        let pattern = prop_oneof![12 => pattern, 1 => Just("**".to_owned())];
        let rights = prop::sample::subsequence(TRIED.map(Right::as_str).to_vec(), 1..=3);
        let grant = (pattern, rights).prop_map(|(pattern, rights)| format!("{pattern}:{}", rights.join(",")));
        prop::collection::vec(grant, 0..5).prop_map(|texts| Grants::parse(&texts).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 500, rng_seed: RngSeed::Fixed(SEED), failure_persistence: None, ..ProptestConfig::default()
        })]

        #[test]
        fn nothing_that_is_covered_is_wider(wide in some_grants(), narrow in some_grants()) {
            let ids = ids();
            let within = ids.iter().all(|id| {
                TRIED.iter().all(|right| !narrow.allows(id, *right) || wide.allows(id, *right))
            });
            prop_assert!(within || !wide.covers(&narrow), "seed {SEED}: {wide} does not cover {narrow}");
            // With one pattern that is wide the answer is exact.
            if let [only] = wide.as_slice() {
                prop_assert_eq!(wide.covers(&narrow), within, "seed {}: {} {}", SEED, only, narrow);
            }
        }

        #[test]
        fn what_is_common_is_what_both_allow(left in some_grants(), right in some_grants()) {
            let common = left.common(&right).unwrap();
            for id in ids() {
                for one in TRIED {
                    let both = left.allows(&id, one) && right.allows(&id, one);
                    prop_assert_eq!(common.allows(&id, one), both, "seed {}: {} {} {}", SEED, left, right, id);
                }
            }
            let needless = common.as_slice().iter().enumerate().any(|(index, narrow)| {
                let mut others = common.as_slice().iter().enumerate().filter(|(other, _)| *other != index);
                others.any(|(_, wide)| wide.is_wider(narrow) && narrow.rights().without(wide.rights()).is_empty())
            });
            prop_assert!(!needless, "seed {SEED}: {left} {right} {common}");
            prop_assert!(left.covers(&common) && right.covers(&common), "seed {SEED}: {left} {right} {common}");
        }
    }

    #[test]
    fn what_is_allowed_to_one_session_is_allowed_to_no_other() {
        let all = grants(&["a/**:read,publish", "a/b:manage", "b:state"]);
        for one in ids() {
            let only = all.only(&one);
            for id in ids() {
                for right in Right::ALL {
                    assert_eq!(
                        only.allows(&id, right),
                        id == one && all.allows(&id, right),
                        "{one} {id} {right}"
                    );
                }
            }
        }
        assert_eq!(all.only(&SessionId::parse("a/b").unwrap()).to_string(), "a/b:read,publish,manage");
        assert_eq!(grants(&["**:read"]).only(&SessionId::reserved("~a").unwrap()), Grants::default());
    }

    #[test]
    fn nothing_is_allowed_by_default() {
        let none = Grants::default();
        assert!(ids().iter().all(|id| Right::ALL.iter().all(|right| !none.allows(id, *right))));
        assert!(Right::ALL.iter().all(|right| !none.allows_everywhere(*right)));
        assert!(none.covers(&none) && grants(&["acme/**:read"]).covers(&none));
        assert!(!none.covers(&grants(&["acme/**:read"])));
    }

    #[test]
    fn rights_to_one_pattern_may_come_from_several_grants() {
        let wide = grants(&["acme/**:read", "acme/*:publish"]);
        assert!(wide.covers(&grants(&["acme/a:read,publish"])));
        assert!(
            !wide.covers(&grants(&["acme/a/b:read,publish"])) && !wide.covers(&grants(&["acme/a:manage"]))
        );
        assert!(!wide.covers(&grants(&["**:read"])) && !wide.covers(&grants(&["other/a:read"])));
    }

    #[test]
    fn everything_is_named_by_one_pattern_alone() {
        assert!(grants(&["**:manage"]).allows_everywhere(Right::Manage));
        assert!(!grants(&["**:manage"]).allows_everywhere(Right::Read));
        assert!(!grants(&["acme/**:manage", "other/**:manage"]).allows_everywhere(Right::Manage));
    }

    #[test]
    fn grants_of_one_tenant_name_it() {
        assert_eq!(grants(&["acme/**:read", "acme/a:publish"]).tenant(), Some("acme"));
        assert_eq!(grants(&["acme/**:read", "other:publish"]).tenant(), None);
        assert_eq!(grants(&["acme/**:read", "**:publish"]).tenant(), None);
        assert_eq!(Grants::default().tenant(), None);
    }

    #[test]
    fn there_are_not_too_many() {
        let texts = vec!["acme/**:read"; GRANTS_MAX + 1];
        assert_eq!(Grants::parse(&texts), Err(InvalidGrants::TooMany(GRANTS_MAX + 1)));
        assert!(Grants::parse(&texts[1..]).is_ok());
        let rows: Vec<String> = (0..GRANTS_MAX).map(|row| format!("acme/*/{row}:read")).collect();
        let columns: Vec<String> = (0..GRANTS_MAX).map(|column| format!("acme/{column}/*:read")).collect();
        let (rows, columns) = (Grants::parse(&rows).unwrap(), Grants::parse(&columns).unwrap());
        assert_eq!(rows.common(&columns), Err(InvalidGrants::TooMany(GRANTS_MAX + 1)));
        assert_eq!(rows.common(&grants(&["acme/**:read"])), Ok(rows.clone()));
    }

    #[test]
    fn a_refusal_says_which_grant_and_does_not_repeat_it() {
        let error = Grants::parse(&["acme/**:read", "secret-canary/../x:read"]).unwrap_err();
        assert!(error.to_string().starts_with("grant 2: segment 2"), "{error}");
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
}
