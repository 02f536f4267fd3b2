//! Who may do what: tokens become principals, and one function decides. Nothing here reads a clock or a socket; only
//! [`guard`] knows the time and the store, and only [`signing_keys`] touches a file.

pub mod algorithm;
pub mod authorise;
pub mod claims;
pub mod guard;
mod header;
pub mod issuer;
mod jwk;
pub mod key;
pub mod key_set;
pub mod mint;
pub mod operation;
mod pem;
pub mod principal;
pub mod revocation;
pub mod signing_keys;
#[cfg(test)]
mod testing;
pub mod token;
pub mod token_id;
