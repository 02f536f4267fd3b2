//! What scenarios are made of.

pub(crate) mod acknowledged;
pub(crate) mod broker;
pub(crate) mod history;
pub(crate) mod patience;
pub(crate) mod probe;
pub(crate) mod proxy;
pub(crate) mod rng;
pub(crate) mod tokens;
pub(crate) mod traffic;
pub(crate) mod wire_client;
