//! The Longwire broker.

pub mod store;
