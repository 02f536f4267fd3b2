//! What a record is about: how everything that belongs to something is looked up by its id.

use crate::field::{self, Fields, Value};

/// Whether a record is about something of one of these ids: it has the id itself, or names it as its message, its run, what it
/// answers or what it replaces.
#[must_use]
pub fn is_about(record: &[u8], ids: &[String]) -> bool {
    let names = [field::ID, field::RUN, field::REPLY_TO, field::REPLACES, field::MESSAGE];
    Fields(record).map_while(Result::ok).any(|field| match field.value {
        Value::Bytes(found) => names.contains(&field.number) && ids.iter().any(|id| id.as_bytes() == found),
        _ => false,
    })
}
