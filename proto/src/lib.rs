//! Longwire's wire: protobuf frames, domain types, limits, error codes and codec. No IO.

pub mod about;
pub mod ask;
pub mod codec;
pub mod delta;
pub mod early;
pub mod error;
mod field;
pub mod framing;
pub mod grant;
pub mod grants;
pub mod grpc_status;
pub mod input;
pub mod kind;
pub mod lease;
pub mod limits;
pub mod meaning;
pub mod meta;
pub mod outcome;
pub mod pattern;
pub mod position;
pub mod raw;
pub mod record;
pub mod resolution;
pub mod retention;
pub mod right;
pub mod run_state;
pub mod service;
pub mod session_id;
pub mod short_id;
pub mod state_set;

pub mod wire;
pub mod worker_group;

mod redacted;
