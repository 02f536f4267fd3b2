//! The tables of the database, one file a table with its byte layout. All integers in values are little-endian.
//!
//! redb does not verify its pages on normal reads, so every value begins with a CRC32C over the table's tag, the key and
//! the rest of the value: damage to the value is detected, and so is a value that is found under another key.

pub mod changes;
pub mod chunks;
pub mod deadlines;
pub mod doomed;
pub mod erasing;
pub mod filler;
pub mod gone;
pub mod logs;
pub mod meta;
pub mod names;
pub mod rows;
pub mod shares;
pub mod shred;
pub mod terms;
pub mod values;

use std::fmt;

/// A value whose checksum or shape does not hold. The text says what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage(pub &'static str);

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Puts the checksum before `payload`.
#[must_use]
pub fn seal(tag: &[u8], key: &[&[u8]], payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(4 + payload.len());
    value.extend(checksum(tag, key, payload).to_le_bytes());
    value.extend_from_slice(payload);
    value
}

/// The payload of a value, when its checksum holds.
///
/// # Errors
/// [`Damage`].
pub fn unseal<'v>(tag: &[u8], key: &[&[u8]], value: &'v [u8]) -> Result<&'v [u8], Damage> {
    let (crc, payload) = value.split_first_chunk::<4>().ok_or(Damage("the value is too short"))?;
    if u32::from_le_bytes(*crc) == checksum(tag, key, payload) {
        Ok(payload)
    } else {
        Err(Damage("the checksum of the value does not fit"))
    }
}

fn checksum(tag: &[u8], key: &[&[u8]], payload: &[u8]) -> u32 {
    let mut crc = crc32c::crc32c(tag);
    for part in key {
        crc = crc32c::crc32c_append(crc, part);
    }
    crc32c::crc32c_append(crc, payload)
}
