//! How full the outbox is.

/// What the outbox holds, as `Client::outbox` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboxStatus {
    /// Publishes without an answer.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Publishes that were there when the outbox file was opened.
    pub recovered: u64,
    /// Bytes at the end of the outbox file that were no whole publish when it was opened, and were cut.
    pub cut_bytes: u64,
    /// Publishes that were refused for good; those of an earlier process have nobody else to be told to.
    pub refused: u64,
    /// The last refusal, or the last error of the outbox file.
    pub last_error: Option<String>,
}
