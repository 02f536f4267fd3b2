//! Short ids: what writers mint for records, producers and devices.

use crate::error::{Error, ErrorCode};
use crate::limits::SHORT_ID_BYTES_MAX;

/// Whether `text` is a short id: 1 to [`SHORT_ID_BYTES_MAX`] of `A-Z a-z 0-9 _ -`.
#[must_use]
pub fn is_short_id(text: &[u8]) -> bool {
    (1..=SHORT_ID_BYTES_MAX).contains(&text.len())
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte == b'-')
}

/// Refuses a text that is not a short id.
///
/// # Errors
/// `code`, naming the field and the rule.
pub fn check_short_id(code: ErrorCode, field: &'static str, text: &[u8]) -> Result<(), Error> {
    if is_short_id(text) {
        return Ok(());
    }
    let message = format!("`{field}` must have 1 to {SHORT_ID_BYTES_MAX} of the characters A-Z a-z 0-9 _ -");
    Err(Error::new(code, message).field(field).limit(SHORT_ID_BYTES_MAX))
}
