//! The frames, typed, with the proto3 JSON mapping. Generated from `longwire.proto`.
#![allow(missing_docs, clippy::all, unreachable_pub)]

include!(concat!(env!("OUT_DIR"), "/longwire.v1.rs"));
include!(concat!(env!("OUT_DIR"), "/longwire.v1.serde.rs"));
