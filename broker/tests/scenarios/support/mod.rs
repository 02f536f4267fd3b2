//! What scenarios are made of.

pub(crate) mod acknowledged;
pub(crate) mod attacker;
pub(crate) mod broker;
pub(crate) mod certificates;
pub(crate) mod first_flight;
pub(crate) mod grpc_client;
pub(crate) mod h2_attacker;
pub(crate) mod history;
pub(crate) mod patience;
pub(crate) mod probe;
pub(crate) mod proxy;
pub(crate) mod quic_client;
pub(crate) mod raw_quic;
pub(crate) mod receiver;
pub(crate) mod requests;
pub(crate) mod rng;
pub(crate) mod router;
pub(crate) mod story;
pub(crate) mod tls_client;
pub(crate) mod tokens;
pub(crate) mod traffic;
pub(crate) mod udp_relay;
pub(crate) mod victim;
pub(crate) mod wire_client;
