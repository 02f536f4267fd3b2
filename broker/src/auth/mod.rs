//! Who may do what: tokens become principals, and one function decides. Only [`guard`] knows the time and the store, only
//! [`signing_keys`] and [`key_file`] touch a file, and only [`jwks`] a socket.

pub mod algorithm;
pub mod authorise;
pub mod claims;
pub mod guard;
mod header;
pub mod invalid_key;
pub mod invalid_token;
pub mod issuer;
mod jwk;
pub mod jwks;
pub mod key;
pub mod key_file;
pub mod key_set;
pub mod mint;
pub mod operation;
mod pem;
pub mod principal;
pub mod revocation;
pub mod role;
pub mod signing_keys;
#[cfg(test)]
pub(crate) mod testing;
pub mod token;
pub mod token_id;
