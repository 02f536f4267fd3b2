//! Tokens that are no longer accepted although their time is not over.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use longwire_proto::error::{Error, ErrorCode};

use crate::auth::principal::Principal;
use crate::auth::token_id::TokenId;

/// Tokens that are revoked at once: each is in memory, some 200 bytes. Who has more to revoke rotates the key.
pub const REVOKED_MAX: usize = 65_536;

/// Where the keys of revocations begin in the store's table.
pub const FAMILY: &[u8] = b"revoked\0";

/// There are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{REVOKED_MAX} tokens are revoked whose time is not over; rotate the key, and none that it signed is accepted"
)]
pub struct TooManyRevoked;

/// Which tokens are revoked, each until its time would have been over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations(BTreeMap<TokenId, u64>);

impl Revocations {
    /// Revokes a token. A revocation is never given up for another one; when there is no room the caller is told.
    ///
    /// # Errors
    /// [`TooManyRevoked`].
    pub fn revoke(&mut self, token: TokenId, until_ms: u64) -> Result<(), TooManyRevoked> {
        if self.0.len() >= REVOKED_MAX && !self.0.contains_key(&token) {
            return Err(TooManyRevoked);
        }
        let until = self.0.entry(token).or_insert(until_ms);
        *until = until_ms.max(*until);
        Ok(())
    }

    /// Refuses somebody whose token is revoked.
    ///
    /// # Errors
    /// [`ErrorCode::TokenRevoked`].
    pub fn check(&self, principal: &Principal) -> Result<(), Error> {
        match &principal.token {
            Some(token) if self.0.contains_key(token) => {
                Err(Error::new(ErrorCode::TokenRevoked, "the token was revoked").field("token"))
            }
            _ => Ok(()),
        }
    }

    /// Forgets those whose time is over, and says which they were.
    pub fn forget(&mut self, now_ms: u64) -> Vec<TokenId> {
        self.0.extract_if(.., |_, until_ms| *until_ms <= now_ms).map(|(token, _)| token).collect()
    }

    /// Those that there are, and until when.
    pub fn iter(&self) -> impl Iterator<Item = (&TokenId, u64)> {
        self.0.iter().map(|(token, until_ms)| (token, *until_ms))
    }
}

/// The key of a revocation: `revoked`, the issuer and the token's id, the first two ended by a zero byte.
#[must_use]
pub fn key(token: &TokenId) -> Bytes {
    let mut key = BytesMut::from(FAMILY);
    key.put_slice(token.issuer().as_bytes());
    key.put_u8(0);
    key.put_slice(token.id().as_bytes());
    key.freeze()
}

/// The value of a revocation: until when.
#[must_use]
pub fn value(until_ms: u64) -> Bytes {
    Bytes::copy_from_slice(&until_ms.to_le_bytes())
}

/// A revocation from its key and value; `None` when they are not those of one.
#[must_use]
pub fn decode(key: &[u8], value: &[u8]) -> Option<(TokenId, u64)> {
    let (issuer, id) = str::from_utf8(key.strip_prefix(FAMILY)?).ok()?.split_once('\0')?;
    Some((TokenId::new(issuer, id).ok()?, u64::from_le_bytes(value.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::testing::{NOW_MS, principal};
    use crate::auth::token_id::{ISSUER_BYTES_MAX, TOKEN_ID_BYTES_MAX};
    use crate::store::table::KEY_BYTES_MAX;

    fn token(issuer: &str, id: &str) -> TokenId {
        TokenId::new(issuer, id).unwrap()
    }

    #[test]
    fn a_revoked_token_is_refused_until_it_would_have_expired() {
        let somebody = principal(&["acme/**:read"]);
        let mut revocations = Revocations::default();
        assert_eq!(revocations.check(&somebody), Ok(()));
        let id = somebody.token.clone().unwrap();
        revocations.revoke(id.clone(), somebody.expires_ms).unwrap();
        assert_eq!(revocations.check(&somebody).unwrap_err().code, ErrorCode::TokenRevoked);
        assert!(revocations.forget(somebody.expires_ms - 1).is_empty());
        assert_eq!(revocations.check(&somebody).unwrap_err().code, ErrorCode::TokenRevoked);
        assert_eq!(revocations.forget(somebody.expires_ms), [id]);
        assert_eq!(
            (revocations.iter().count(), somebody.check_time(somebody.expires_ms).is_err()),
            (0, true)
        );
    }

    #[test]
    fn one_issuers_revocation_is_not_anothers() {
        let somebody = principal(&["acme/**:read"]);
        let id = somebody.token.clone().unwrap();
        let mut revocations = Revocations::default();
        revocations.revoke(token("https://other.example", id.id()), NOW_MS * 2).unwrap();
        assert_eq!(revocations.check(&somebody), Ok(()));
        assert_ne!(key(&token("a", "bc")), key(&token("ab", "c")));
    }

    #[test]
    fn a_revocation_is_never_shortened() {
        let mut revocations = Revocations::default();
        revocations.revoke(token("a", "b"), 20).unwrap();
        revocations.revoke(token("a", "b"), 10).unwrap();
        assert_eq!(revocations.iter().map(|(_, until)| until).collect::<Vec<_>>(), [20]);
    }

    #[test]
    fn revocations_are_bounded_and_none_gives_way() {
        let mut revocations = Revocations::default();
        for number in 0..REVOKED_MAX {
            revocations.revoke(token("a", &number.to_string()), 10 + number as u64).unwrap();
        }
        assert_eq!(revocations.revoke(token("a", "one-more"), 5), Err(TooManyRevoked));
        assert_eq!(revocations.revoke(token("a", "7"), 5), Ok(()));
        assert_eq!(revocations.iter().count(), REVOKED_MAX);
        assert_eq!(revocations.forget(10), [token("a", "0")]);
        assert_eq!(revocations.revoke(token("a", "one-more"), 5), Ok(()));
    }

    #[test]
    fn they_survive_the_store() {
        let longest = token(&"i".repeat(ISSUER_BYTES_MAX), &"t".repeat(TOKEN_ID_BYTES_MAX));
        assert!(key(&longest).len() <= KEY_BYTES_MAX);
        for token in [longest, token("https://id.example/realms/a", "x:y/z"), token("a", "b")] {
            for until_ms in [0, NOW_MS, u64::MAX] {
                assert_eq!(decode(&key(&token), &value(until_ms)), Some((token.clone(), until_ms)));
            }
        }
        // Bytes that somebody can read in a dump of the table.
        assert_eq!(&key(&token("a", "b"))[..], b"revoked\0a\0b");
        assert_eq!(&value(258)[..], [2, 1, 0, 0, 0, 0, 0, 0]);
        let damaged: [(&[u8], &[u8]); 6] = [
            (b"revoked\0a\0b", b"1234567"),
            (b"revoked\0a", b"12345678"),
            (b"revoked\0\0b", b"12345678"),
            (b"revoked\0a\0", b"12345678"),
            (b"cursor\0a\0b", b"12345678"),
            (b"revoked\0a\0b\xff", b"12345678"),
        ];
        assert!(damaged.iter().all(|(key, value)| decode(key, value).is_none()));
    }
}
