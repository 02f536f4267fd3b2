//! The Longwire SDK.
