//! The answer to a publish.

use longwire_proto::position::Position;

/// Where the records of a publish are: durable, for ever, at `[from, next)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The position of the first record.
    pub from: Position,
    /// The position after the last.
    pub next: Position,
    /// Whether the broker had it already, because an acknowledgement was lost on the way.
    pub duplicate: bool,
}
