//! The frames that carry records, with the records left encoded. Generated from `longwire.proto`.
#![allow(missing_docs, clippy::all, unreachable_pub)]

include!(concat!(env!("OUT_DIR"), "/raw/longwire.v1.rs"));
