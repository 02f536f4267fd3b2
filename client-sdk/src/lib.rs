//! The Longwire SDK.
mod backoff;
mod connection_state;
mod error;
mod from;
mod machine;
mod publication;
mod published;
mod record;
pub use publication::Publication;
