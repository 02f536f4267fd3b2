//! The store's own table: small values by key, beside the logs.

use bytes::Bytes;

/// Bytes of a key of the table.
pub const KEY_BYTES_MAX: usize = 1024;
/// Bytes of a value of the table.
pub const VALUE_BYTES_MAX: usize = 64 << 10;

/// A conditional write of one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cas {
    /// The key.
    pub key: Bytes,
    /// What must be there; none when nothing may be there.
    pub expected: Option<Bytes>,
    /// What is there afterwards; none to remove it.
    pub value: Option<Bytes>,
}
