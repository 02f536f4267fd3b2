//! The Longwire broker: durable sessions, kept in a store and fanned out to whoever is connected.
//!
//! The way of a record, one direction only: transport → connection → hub → driver (core) → store → driver → tail →
//! subscription → connection → transport.

pub mod ageing;
mod alarm;
mod asks;
pub mod audit;
pub mod auth;
pub mod backup;
mod bearer;
mod bell;
pub mod clock;
pub mod config;
pub mod connection;
pub mod cursor;
pub mod driver;
mod file_stamp;
pub mod filter;
pub mod fold;
pub mod host;
pub mod http;
pub mod http_context;
pub mod hub;
pub mod inspect;
pub mod issuers;
pub mod kept_secret;
pub mod key_watch;
pub mod life;
pub mod listing;
pub mod memory;
mod message_bytes;
pub mod origin;
pub mod page;
pub mod page_token;
mod patience;
pub mod pattern_subscription;
mod problem;
pub mod projections;
pub mod pulse;
pub mod queue;
pub mod quota;
mod ramp;
pub mod read_view;
pub mod request;
pub mod rests;
pub mod scheduler;
pub mod scrub;
pub mod server;
pub mod sockets;
pub mod store;
pub mod store_error;
pub mod subscription;
pub mod tail;
pub mod tls;
pub mod transport;
mod turns;
pub mod web_page;
