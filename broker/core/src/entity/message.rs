//! A message that grows.

use std::sync::Arc;

use longwire_proto::error::{Error, ErrorCode};

use crate::entity::At;
use crate::entity::standing::Writer;
use crate::row::{RowReader, RowWriter};

/// One that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The offset of the record that began it.
    pub offset: u64,
    /// Whose it is.
    pub principal: Arc<str>,
    /// Bytes that it has so far.
    pub bytes: u64,
}

impl Message {
    /// One that begins with so many bytes.
    #[must_use]
    pub fn new(at: &At<'_>, bytes: u64) -> Self {
        Self { offset: at.offset, principal: at.principal.into(), bytes }
    }

    /// Whether a writer may go on with it.
    ///
    /// # Errors
    /// [`ErrorCode::NotOwner`].
    pub fn judge(&self, id: &str, by: &Writer<'_>) -> Result<(), Error> {
        if *self.principal == *by.principal {
            return Ok(());
        }
        let message =
            format!("the message `{id}` is {}'s: only who began a message goes on with it", self.principal);
        Err(Error::new(ErrorCode::NotOwner, message).field("message"))
    }

    /// The message as a part of a row.
    pub fn encode(&self, row: &mut RowWriter) {
        row.u64(self.offset).bytes(self.principal.as_bytes()).u64(self.bytes);
    }

    /// The message of such a part.
    #[must_use]
    pub fn decode(row: &mut RowReader<'_>) -> Option<Self> {
        Some(Self { offset: row.u64()?, principal: row.text()?.into(), bytes: row.u64()? })
    }
}
