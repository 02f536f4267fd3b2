//! Longwire's wire: protobuf frames, domain types, limits, error codes and codec. No IO.

pub mod limits;
pub mod position;
pub mod session_id;
