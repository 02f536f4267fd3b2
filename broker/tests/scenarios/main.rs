//! Scenarios over the real binary: real processes, real sockets, real disks.
#![allow(clippy::unwrap_used)] // tests: a panic is their failure

mod bad_input;
mod drain;
mod hostile;
mod kill9;
mod protocol;
mod residency;
mod support;
