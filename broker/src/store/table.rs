//! The store's own table: small values by key, beside the logs.

use bytes::Bytes;

use crate::store::StoreError;

/// Bytes of a key of the table.
pub const KEY_BYTES_MAX: usize = 1024;
/// Bytes of a value of the table.
pub const VALUE_BYTES_MAX: usize = 64 << 10;
/// Writes of one [`crate::store::Store::cas`]: all of them, at their longest, are no longer than the largest batch.
pub const WRITES_MAX: usize = 64;

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

/// Checks writes that are to be made together against what engines take.
///
/// # Errors
/// [`StoreError::OutOfRange`] when a key or a value is too long or a key is there twice, [`StoreError::BatchTooLarge`]
/// when there are too many.
pub fn check(writes: &[Cas]) -> Result<(), StoreError> {
    if writes.len() > WRITES_MAX {
        return Err(StoreError::BatchTooLarge { what: "writes", found: writes.len(), limit: WRITES_MAX });
    }
    let too_long = |what: &str, found: usize, limit: usize| {
        Err(StoreError::OutOfRange(format!("the {what} has {found} bytes; at most {limit} are taken")))
    };
    for write in writes {
        let value = write.value.as_ref().map_or(0, Bytes::len);
        if write.key.len() > KEY_BYTES_MAX {
            return too_long("key", write.key.len(), KEY_BYTES_MAX);
        }
        if value > VALUE_BYTES_MAX {
            return too_long("value", value, VALUE_BYTES_MAX);
        }
    }
    let mut keys: Vec<&Bytes> = writes.iter().map(|write| &write.key).collect();
    keys.sort_unstable();
    if keys.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(StoreError::OutOfRange("a key is written twice at a time".into()));
    }
    Ok(())
}
