//! Scenarios over the real binary: real processes, real sockets, real disks.
#![allow(clippy::unwrap_used)] // tests: a panic is their failure

mod access;
mod attacks;
mod audit;
mod backup;
mod bad_input;
mod cli;
mod clocks;
mod cuts;
mod damage;
mod drain;
mod every_transport;
mod faults;
mod grpc;
mod hostile;
mod journey;
mod kill9;
mod life;
mod matrix;
mod memory;
mod order;
mod outbox;
mod page;
mod patterns;
mod protocol;
mod proxies;
mod python;
mod quic;
mod quotas;
mod residency;
mod share;
mod slow_reader;
mod store_cli;
mod support;
mod tls;
mod tokens;
