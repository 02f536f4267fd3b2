//! The keys of all issuers, found by issuer and key id.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::Deserialize;

use crate::auth::invalid_key::InvalidKey;
use crate::auth::jwk::Jwk;
use crate::auth::key::{Key, Source};
use crate::auth::pem;
use crate::auth::token_id::is_visible;

/// Bytes of a file or an answer with keys: dozens of the largest keys, and nothing that takes memory.
pub const KEYS_BYTES_MAX: usize = 256 << 10;
/// Keys of one issuer: what a rotation leaves, many times over.
pub const KEYS_MAX: usize = 64;
/// Bytes of a key's id: that of a hash in any notation.
pub const KEY_ID_BYTES_MAX: usize = 128;

/// Why something is not the keys of an issuer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeys {
    /// It is too long.
    #[error("keys have at most {KEYS_BYTES_MAX} bytes, these have {0}")]
    Length(usize),
    /// It is neither JWKS nor PEM.
    #[error("this is neither a JWKS, `{{\"keys\":[…]}}`, nor a public key in PEM")]
    Form,
    /// There are too many.
    #[error("an issuer has at most {KEYS_MAX} keys, this one has {0}")]
    TooMany(usize),
    /// None of them can be used.
    #[error("there is no key for EdDSA, ES256, RS256 or HS256 among these")]
    None,
    /// A key has no id, or one that is not allowed.
    #[error("key {0} has no `kid`, or not one of 1 to {KEY_ID_BYTES_MAX} visible ASCII characters")]
    Id(usize),
    /// Two keys of one issuer have the same id: a token could be verified by either.
    #[error("key {0} has a `kid` that another one of this issuer has")]
    Twice(usize),
    /// One of them is none.
    #[error("key {index}: {why}")]
    Key {
        /// Which one, counted from 1.
        index: usize,
        /// Why.
        #[source]
        why: InvalidKey,
    },
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

/// The keys of one issuer by their ids.
#[derive(Clone, Debug, Default)]
pub struct Keys(BTreeMap<String, Key>);

impl Keys {
    /// Keys from a JWKS. All or none: one that is weak or ambiguous is not left out in silence.
    ///
    /// # Errors
    /// [`InvalidKeys`].
    pub fn from_jwks(text: &str, source: Source) -> Result<Self, InvalidKeys> {
        if text.len() > KEYS_BYTES_MAX {
            return Err(InvalidKeys::Length(text.len()));
        }
        // What serde says of it may repeat a secret.
        let Jwks { keys } = serde_json::from_str(text).map_err(|_| InvalidKeys::Form)?;
        if keys.len() > KEYS_MAX {
            return Err(InvalidKeys::TooMany(keys.len()));
        }
        let mut found = Self::default();
        for (index, jwk) in (1..).zip(&keys).filter(|(_, jwk)| jwk.is_meant()) {
            let id = jwk.kid.as_deref().ok_or(InvalidKeys::Id(index))?;
            let key = jwk.key(source).map_err(|why| InvalidKeys::Key { index, why })?;
            found.add(index, id, key)?;
        }
        if found.0.is_empty() { Err(InvalidKeys::None) } else { Ok(found) }
    }

    /// Keys from a file: a JWKS, or one public key in PEM, which has no id of its own.
    ///
    /// # Errors
    /// [`InvalidKeys`].
    pub fn from_file(text: &str, id: &str) -> Result<Self, InvalidKeys> {
        if text.len() > KEYS_BYTES_MAX {
            return Err(InvalidKeys::Length(text.len()));
        }
        if !pem::is_pem(text) {
            return Self::from_jwks(text, Source::File);
        }
        let key = Key::from_pem(text).map_err(|why| InvalidKeys::Key { index: 1, why })?;
        let mut found = Self::default();
        found.add(1, id, key)?;
        Ok(found)
    }

    fn add(&mut self, index: usize, id: &str, key: Key) -> Result<(), InvalidKeys> {
        if !is_visible(id, KEY_ID_BYTES_MAX) {
            return Err(InvalidKeys::Id(index));
        }
        match self.0.entry(id.to_owned()) {
            Entry::Occupied(_) => Err(InvalidKeys::Twice(index)),
            Entry::Vacant(place) => {
                place.insert(key);
                Ok(())
            }
        }
    }

    /// These and those of another file.
    ///
    /// # Errors
    /// [`InvalidKeys`] when both have one id, or they are too many.
    pub fn and(mut self, other: Self) -> Result<Self, InvalidKeys> {
        let count = self.0.len() + other.0.len();
        if count > KEYS_MAX {
            return Err(InvalidKeys::TooMany(count));
        }
        for (index, (id, key)) in (self.0.len() + 1..).zip(other.0) {
            self.add(index, &id, key)?;
        }
        Ok(self)
    }

    /// The keys and their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Key)> {
        self.0.iter().map(|(id, key)| (id.as_str(), key))
    }
}

impl FromIterator<(String, Key)> for Keys {
    /// Keys of the broker's own making, whose ids are hashes of them.
    fn from_iter<T: IntoIterator<Item = (String, Key)>>(keys: T) -> Self {
        Self(keys.into_iter().collect())
    }
}

/// The keys of all issuers. One issuer's key is never tried on what another one's is named for.
#[derive(Clone, Debug, Default)]
pub struct KeySet(BTreeMap<String, Keys>);

impl KeySet {
    /// Gives an issuer these keys, instead of any that it had.
    pub fn put(&mut self, issuer: &str, keys: Keys) {
        self.0.insert(issuer.to_owned(), keys);
    }

    /// The key that an issuer has under an id.
    #[must_use]
    pub fn get(&self, issuer: &str, id: &str) -> Option<&Key> {
        self.0.get(issuer)?.0.get(id)
    }
}

#[cfg(test)]
mod tests;
