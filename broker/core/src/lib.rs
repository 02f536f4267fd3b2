//! The semantics of a session, as a pure state machine: no IO, no clock, no randomness.
//!
//! [`machine::Machine`] is what a driver talks to. Leaf modules (`producer`, `summary`) return values and know nothing of
//! each other; only `state` composes them.

pub mod command;
pub mod entity;
pub mod machine;
pub mod producer;
pub mod row;
pub mod state;
pub mod summary;
pub mod term;
