//! The version of everything that the store writes; `docs/storage.md` says how a later one migrates.

/// The format that this broker writes.
pub const FORMAT_VERSION: u32 = 2;
