//! What scenarios are made of.

pub(crate) mod broker;
pub(crate) mod history;
pub(crate) mod proxy;
pub(crate) mod rng;
pub(crate) mod wire_client;
