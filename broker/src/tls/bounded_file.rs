//! A file that is read whole, as short as it is to be.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::tls::error::TlsError;

/// Bytes of a file: a list of every public authority has a quarter of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Its bytes.
///
/// # Errors
/// [`TlsError::File`], [`TlsError::TooLong`].
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |error| TlsError::File { path: path.to_owned(), error };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(TlsError::TooLong { path: path.to_owned(), max: FILE_BYTES_MAX });
    }
    Ok(bytes)
}
