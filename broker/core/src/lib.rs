//! Longwire core.
