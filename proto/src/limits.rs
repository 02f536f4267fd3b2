//! Every limit of the wire and of the log, with its reason. `docs/protocol.md` carries the same table; a test keeps
//! them equal.

/// Bytes of a session id: fits a file name and a redb key.
pub const SESSION_ID_BYTES_MAX: usize = 255;
/// Segments of a session id.
pub const SESSION_ID_SEGMENTS_MAX: usize = 16;
/// Bytes of one segment of a session id.
pub const SESSION_ID_SEGMENT_BYTES_MAX: usize = 64;
