//! Who is let in, and for how long: the one place that knows keys, revocations and the time.
//!
//! Connections ask it when somebody comes, and again when it says that something changed. Its lock is held for a look or a
//! change in memory only.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::grant::Grant;
use longwire_proto::grants::Grants;
use longwire_proto::right::Rights;
use longwire_proto::session_id::SessionId;
use tokio::sync::{Notify, watch};

use crate::auth::authorise::{Subject, authorise};
use crate::auth::invalid_token::InvalidToken;
use crate::auth::issuer::{InvalidIssuer, Issuer};
use crate::auth::key_set::Keys;
use crate::auth::mint::{Mint, Minted};
use crate::auth::operation::Operation;
use crate::auth::principal::{Kind, Principal};
use crate::auth::revocation::{self, Revocations};
use crate::auth::signing_keys::{SigningKeys, TTL_MS_MAX};
use crate::auth::token::{InvalidIssuers, Verifier};
use crate::auth::token_id::TokenId;
use crate::clock::Clock;
use crate::store::reconcile::{self, retry_read};
use crate::store::{Cas, Store, StoreError};
use crate::store_error::to_error;

/// Whom the broker's own tokens name as their issuer, and for whom they are meant: their keys tell brokers apart.
pub const OWN_NAME: &str = "longwire";
/// What somebody is called who was given a share begins with this, then comes the share's id.
pub const GUEST_PREFIX: &str = "guest-";
/// How long a share is valid when nothing else is said.
pub const SHARE_TTL_MS: u64 = 60 * 60 * 1000;
/// Who somebody is right now: connections change it, and what they have under way looks at it.
pub type Whoever = watch::Receiver<Arc<Principal>>;

/// When somebody may come again whose issuer's keys are not there yet.
const AWAITED_RETRY_MS: u64 = 1000;
/// Revocations read together.
const SCANNED: usize = 1000;

/// Why nobody can be let in.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The broker's own name.
    #[error(transparent)]
    Issuer(#[from] InvalidIssuer),
    /// The issuers.
    #[error(transparent)]
    Issuers(#[from] InvalidIssuers),
    /// What was revoked cannot be read.
    #[error("which tokens were revoked cannot be read: {0}")]
    Store(#[from] StoreError),
    /// A revocation is damaged: a token might be accepted that was revoked.
    #[error(
        "a revocation in the store is damaged; rotate the key (`longwire key rotate --drop`), and remove it"
    )]
    Damaged,
}

struct Rules {
    verifier: Verifier,
    signing: SigningKeys,
    revoked: Revocations,
    /// Issuers whose keys are not there yet.
    awaited: BTreeSet<String>,
}

/// See the top of this file.
pub struct Guard {
    own: Issuer,
    anonymous: Option<Principal>,
    clock: Clock,
    store: Arc<dyn Store>,
    rules: RwLock<Rules>,
    changes: watch::Sender<u64>,
    unknown_key: Notify,
}

impl Guard {
    /// A guard that knows these keys and what the store has of revocations. With `anonymous` somebody without a token may do
    /// everything.
    ///
    /// # Errors
    /// [`GuardError`].
    pub async fn open(
        store: Arc<dyn Store>,
        clock: Clock,
        signing: SigningKeys,
        issuers: Vec<Issuer>,
        anonymous: bool,
    ) -> Result<Self, GuardError> {
        let own = Issuer::own(OWN_NAME, OWN_NAME)?;
        let issuers = [own.clone()].into_iter().chain(issuers).collect();
        let mut verifier = Verifier::new(issuers)?;
        verifier.put_keys(OWN_NAME, signing.keys(clock.now_ms()));
        let revoked = revocations(&*store).await?;
        let anonymous = anonymous.then(Principal::anonymous);
        let rules = RwLock::new(Rules { verifier, signing, revoked, awaited: BTreeSet::new() });
        let (changes, unknown_key) = (watch::Sender::new(0), Notify::new());
        Ok(Self { own, anonymous, clock, store, rules, changes, unknown_key })
    }

    /// Whether somebody without a token is let in.
    #[must_use]
    pub fn lets_anybody_in(&self) -> bool {
        self.anonymous.is_some()
    }

    /// Who comes with a token, from one of their devices; either may be empty.
    ///
    /// # Errors
    /// [`ErrorCode::Unauthenticated`], [`ErrorCode::TokenExpired`] or [`ErrorCode::TokenRevoked`]; and
    /// [`ErrorCode::Overloaded`] when the key may be one that is not there yet.
    pub fn admit(&self, token: &str, device: &str) -> Result<Principal, Error> {
        if token.is_empty() {
            return self.anonymous.clone().ok_or_else(|| {
                let message = "this broker wants to know who connects: send a token";
                Error::new(ErrorCode::Unauthenticated, message).field("token")
            });
        }
        let rules = self.rules();
        let principal = match rules.verifier.verify(token, self.now_ms()) {
            Err(InvalidToken::UnknownKey) => {
                self.unknown_key.notify_one();
                return Err(unknown_key(!rules.awaited.is_empty()));
            }
            outcome => outcome?,
        };
        rules.revoked.check(&principal)?;
        match principal.device.as_deref() {
            Some(only) if !device.is_empty() && only != device => {
                let message = format!("the token is for the device `{only}` only");
                Err(Error::new(ErrorCode::Unauthenticated, message).field("device"))
            }
            _ => Ok(principal),
        }
    }

    /// Whether somebody who was let in may stay.
    ///
    /// # Errors
    /// [`ErrorCode::TokenExpired`], [`ErrorCode::TokenRevoked`], or [`ErrorCode::Unauthenticated`] when the key of the token is
    /// not accepted any more.
    pub fn check(&self, principal: &Principal) -> Result<(), Error> {
        if principal.signed_by.is_empty() {
            return Ok(());
        }
        principal.check_time(self.now_ms())?;
        let rules = self.rules();
        rules.revoked.check(principal)?;
        if rules.verifier.has_key(&principal.issuer, &principal.signed_by) {
            return Ok(());
        }
        Err(unknown_key(rules.awaited.contains(&principal.issuer)))
    }

    /// Resolves when somebody came with a token of a key that nobody has; once for all who came since it did last.
    pub async fn unknown_key(&self) {
        self.unknown_key.notified().await;
    }

    /// The keys of another issuer come later: who shows a key that nobody has meanwhile may come again.
    pub fn await_keys(&self, issuer: &str) {
        let mut rules = self.rules_mut();
        rules.verifier.put_keys(issuer, Keys::default());
        rules.awaited.insert(issuer.to_owned());
    }

    /// The keys of another issuer are accepted no longer, and others are to come: who was let in with them may come again.
    pub fn lose_keys(&self, issuer: &str) {
        self.await_keys(issuer);
        self.changed();
    }

    /// For how long somebody's token is valid from now on, in milliseconds.
    #[must_use]
    pub fn left_ms(&self, principal: &Principal) -> u64 {
        principal.expires_ms.saturating_sub(self.now_ms())
    }

    /// Changes whenever somebody who was let in may have to leave.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Gives another issuer these keys, instead of any that it had.
    pub fn put_keys(&self, issuer: &str, keys: Keys) {
        let mut rules = self.rules_mut();
        rules.awaited.remove(issuer);
        rules.verifier.put_keys(issuer, keys);
        drop(rules);
        self.changed();
    }

    /// From now on the broker signs with these keys, and accepts what they accept.
    pub fn put_signing_keys(&self, signing: SigningKeys) {
        let mut rules = self.rules_mut();
        rules.verifier.put_keys(OWN_NAME, signing.keys(self.now_ms()));
        rules.signing = signing;
        drop(rules);
        self.changed();
    }

    /// Makes a token with which somebody else can do some of what its maker can, to one session, for no longer.
    ///
    /// # Errors
    /// [`ErrorCode::SessionNotFound`] or [`ErrorCode::Forbidden`], and [`ErrorCode::InvalidArgument`].
    pub fn share(
        &self,
        principal: &Principal,
        session: &SessionId,
        rights: Rights,
        ttl_ms: u64,
    ) -> Result<Minted, Error> {
        authorise(principal, Operation::Share, session)?;
        let invalid = |what: String, field| Error::new(ErrorCode::InvalidArgument, what).field(field);
        let pattern = session.as_str().parse().map_err(|error| invalid(format!("{error}"), "session"))?;
        let grant = Grant::new(pattern, rights).map_err(|error| invalid(error.to_string(), "rights"))?;
        let grants = Grants::new(vec![grant]).map_err(|error| invalid(error.to_string(), "rights"))?;
        principal.check_share(&grants)?;
        let now_ms = self.now_ms();
        let left_ms = principal.expires_ms.saturating_sub(now_ms);
        let ttl_ms = match ttl_ms {
            0 => SHARE_TTL_MS.min(left_ms),
            longer if longer > left_ms => {
                let message =
                    format!("your own token is valid for {left_ms} ms more, and a share for no longer");
                return Err(invalid(message, "ttl_ms"));
            }
            ttl_ms => ttl_ms,
        };
        let sub = format!("{GUEST_PREFIX}{}", random_id()?);
        let mint = Mint { sub: &sub, kind: Kind::Human, grants: &grants, roles: &[], device: None, ttl_ms };
        let minted = self.rules().signing.mint(&self.own, &mint, now_ms);
        minted.map_err(|error| invalid(error.to_string(), "ttl_ms"))
    }

    /// Lets a token be accepted no longer. It is one's own, or of somebody who can do no more than what one manages;
    /// one that is named by its id alone can be anybody's.
    ///
    /// # Errors
    /// [`ErrorCode::Forbidden`], [`ErrorCode::InvalidArgument`] and those of the store.
    pub async fn revoke(&self, principal: &Principal, token: &str, id: &str) -> Result<TokenId, Error> {
        let (id, until_ms) = if token.is_empty() {
            authorise(principal, Operation::RevokeToken, Subject::Everything)?;
            let id = TokenId::new(OWN_NAME, id)
                .map_err(|error| Error::new(ErrorCode::InvalidArgument, error.to_string()).field("id"))?;
            (id, self.now_ms().saturating_add(TTL_MS_MAX))
        } else {
            let whose = match self.rules().verifier.verify(token, self.now_ms()) {
                Ok(whose) => whose,
                Err(error) => {
                    let message = format!("the token is not accepted as it is: {error}");
                    return Err(Error::new(ErrorCode::InvalidArgument, message).field("token"));
                }
            };
            let own = (&whose.id, &whose.issuer) == (&principal.id, &principal.issuer);
            if !own && !principal.manages(&whose.grants) {
                let message = "only who manages all that a token is for can revoke it";
                return Err(Error::new(ErrorCode::Forbidden, message).field("token"));
            }
            let without_id = || {
                let message = "its issuer gave the token no id (`jti`): it can only expire";
                Error::new(ErrorCode::InvalidArgument, message).field("token")
            };
            (whose.token.clone().ok_or_else(without_id)?, whose.expires_ms)
        };
        self.write_revocation(&id, until_ms).await?;
        Ok(id)
    }

    async fn write_revocation(&self, id: &TokenId, until_ms: u64) -> Result<(), Error> {
        // Taken first, so that what was acknowledged always fits; it counts from now on, and is durable before that is said.
        let taken = self.rules_mut().revoked.revoke(id.clone(), until_ms);
        taken.map_err(|error| Error::new(ErrorCode::Overloaded, error.to_string()))?;
        self.changed();
        let key = revocation::key(id);
        let written = async {
            let expected = retry_read(|| self.store.get(key.clone())).await?;
            let known_ms = expected.as_ref().and_then(|value| revocation::decode(&key, value));
            let until_ms = known_ms.map_or(until_ms, |(_, known_ms)| until_ms.max(known_ms));
            let value = Some(revocation::value(until_ms));
            reconcile::cas(&*self.store, vec![Cas { key: key.clone(), expected, value }]).await
        };
        written.await.map_err(|error: StoreError| to_error(&error))
    }

    /// Forgets revocations of tokens that have expired, and keys whose tokens have.
    pub async fn tidy(&self) {
        for id in self.forget() {
            let key = revocation::key(&id);
            let removed = async {
                let expected = retry_read(|| self.store.get(key.clone())).await?;
                reconcile::cas(&*self.store, vec![Cas { key: key.clone(), expected, value: None }]).await
            };
            if let Err(error) = removed.await {
                tracing::debug!(%error, "an old revocation stays in the store until the next start");
            }
        }
    }

    fn forget(&self) -> Vec<TokenId> {
        let now_ms = self.now_ms();
        let mut rules = self.rules_mut();
        let keys = rules.signing.keys(now_ms);
        rules.verifier.put_keys(OWN_NAME, keys);
        rules.revoked.forget(now_ms)
    }

    /// The later of two clocks: one stands still while the host sleeps, and the other can be set back.
    fn now_ms(&self) -> u64 {
        self.clock.now_ms().max(Clock::start().now_ms())
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    // Nothing that is done under the lock leaves the rules half changed.
    fn rules(&self) -> RwLockReadGuard<'_, Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn rules_mut(&self) -> RwLockWriteGuard<'_, Rules> {
        self.rules.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody has the key of a token; it may be one that is still to come.
fn unknown_key(awaited: bool) -> Error {
    if !awaited {
        return InvalidToken::UnknownKey.into();
    }
    let message =
        "the key that the token names is not there, and those of an issuer are still to come; try again";
    Error::new(ErrorCode::Overloaded, message).field("token").retry_after_ms(AWAITED_RETRY_MS)
}

fn random_id() -> Result<String, Error> {
    let mut random = [0; 6];
    getrandom::fill(&mut random).map_err(|_| Error::new(ErrorCode::Internal, "no random numbers"))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn revocations(store: &dyn Store) -> Result<Revocations, GuardError> {
    let (mut found, mut after): (_, Option<Bytes>) = (Revocations::default(), None);
    loop {
        let family = Bytes::from_static(revocation::FAMILY);
        let values = retry_read(|| store.scan(family.clone(), after.clone(), SCANNED)).await?;
        let Some((last, _)) = values.last() else { return Ok(found) };
        after = Some(last.clone());
        for (key, value) in &values {
            let (id, until_ms) = revocation::decode(key, value).ok_or(GuardError::Damaged)?;
            // There were never more than fit.
            found.revoke(id, until_ms).map_err(|_| GuardError::Damaged)?;
        }
    }
}
