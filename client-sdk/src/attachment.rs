//! Publishing a file, or whatever else is too long for a record, as a message that grows.

use longwire_proto::limits::MESSAGE_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::AttachError;
use crate::message_end::MessageEnd;
use crate::session::Session;

/// Bytes of one piece: what is published by others comes between, and two fit into a delivery.
const PIECE_BYTES: usize = 128 << 10;

/// What was attached: a message that others name by its id, and read with [`Session::read_message`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its id.
    pub id: String,
    /// How long it is.
    pub bytes: u64,
}

impl Session {
    /// Publishes what a reader has, such as a file, as one message of this media type, and waits until it is durable. It has at most
    /// 100 MiB. When that fails in between, the message ends as `cancelled`, as far as the broker can be reached.
    ///
    /// # Errors
    /// [`AttachError`]
    pub async fn attach(
        &self,
        mut from: impl AsyncRead + Unpin,
        content_type: impl Into<String>,
    ) -> Result<Attachment, AttachError> {
        let mut message = self.open_message(content_type).await?;
        let (id, mut bytes) = (message.id().to_owned(), 0);
        loop {
            let piece = match piece(&mut from).await {
                Ok(piece) => piece,
                Err(error) => {
                    message.end(MessageEnd::Cancelled).await?;
                    return Err(AttachError::Read(error.into()));
                }
            };
            bytes += piece.len() as u64;
            if bytes > MESSAGE_BYTES_MAX as u64 {
                message.end(MessageEnd::Cancelled).await?;
                return Err(AttachError::TooLarge(MESSAGE_BYTES_MAX));
            }
            if piece.is_empty() {
                break;
            }
            message.push_bytes(piece).await?;
        }
        message.close().await?;
        Ok(Attachment { id, bytes })
    }
}

/// What comes next, as much as a piece has unless it is the last.
async fn piece(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut piece = Vec::new();
    from.take(PIECE_BYTES as u64).read_to_end(&mut piece).await?;
    Ok(piece)
}
