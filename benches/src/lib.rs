//! benches of Longwire.
