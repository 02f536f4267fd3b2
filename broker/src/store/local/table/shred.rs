//! Writes to tables that hold what people say, such that no page in use keeps bytes of what was replaced or removed.
//!
//! A page that redb allocates begins as zeros, and building one from entries packs them without a gap. But within the
//! transaction that made a page redb changes it in place: taking an entry out, or putting a shorter value in, moves the
//! entries behind it and leaves their last bytes after the new end, where no later change of the page need touch them. So
//! entries are taken out by extraction, which always builds a page anew, and a shorter value is put in by taking the
//! longer one out first. What is left then is in pages that are free, which wiping overwrites.

use redb::{Key, StorageError, Table};

/// Puts a value.
///
/// # Errors
/// Those of redb.
pub fn put<'k, K: Key + 'static>(
    table: &mut Table<'_, K, &'static [u8]>,
    key: &'k K::SelfType<'k>,
    value: &[u8],
) -> Result<(), StorageError> {
    let shorter = table.insert(key, value)?.is_some_and(|before| before.value().len() > value.len());
    if shorter {
        // The page that has the bytes was built within this transaction: taking the entry out gives it up.
        take(table, key)?;
        table.insert(key, value)?;
    }
    Ok(())
}

/// Takes an entry out.
///
/// # Errors
/// Those of redb.
pub fn take<'k, K: Key + 'static>(
    table: &mut Table<'_, K, &'static [u8]>,
    key: &'k K::SelfType<'k>,
) -> Result<(), StorageError> {
    for entry in table.extract_from_if::<&K::SelfType<'k>, _>(key..=key, |_, _| true)? {
        entry?;
    }
    Ok(())
}
