//! How a connection ends, and what its client is told.

use std::time::Duration;

use longwire_proto::codec::{Encoding, encode_server};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::wire;
use longwire_proto::wire::server_frame::Frame as ServerFrame;

use crate::connection::DrainReceiver;
use crate::transport::{FrameSink, Gone, LinkEnd};

/// Why a connection ends, when the client can be told.
pub(super) struct Goodbye {
    pub(super) error: Error,
    pub(super) reconnect_after: Duration,
}

impl Goodbye {
    /// The broker shuts down.
    pub(super) fn drained(drain: &DrainReceiver) -> Self {
        let error = Error::new(ErrorCode::Draining, "the broker is shutting down; connect again and resume");
        Self { error, reconnect_after: drain.borrow().unwrap_or_default() }
    }
}

impl From<Error> for Goodbye {
    fn from(error: Error) -> Self {
        Self { error, reconnect_after: Duration::ZERO }
    }
}

/// How a connection ends.
pub(super) enum End {
    Goodbye(Goodbye),
    Gone,
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// Tells the client, and ends the link.
pub(super) async fn say_goodbye<W: FrameSink>(
    sink: &mut W,
    encoding: Encoding,
    goodbye: Goodbye,
) -> Result<(), Gone> {
    let reconnect_after_ms = u64::try_from(goodbye.reconnect_after.as_millis()).unwrap_or(0);
    let frame = wire::Goodbye { error: Some(goodbye.error.to_wire()), reconnect_after_ms };
    sink.close(encode_server(encoding, ServerFrame::Goodbye(frame)), &goodbye.error).await
}

/// What becomes of a connection whose link has no more frames.
pub(super) fn link_end(end: LinkEnd) -> End {
    match end {
        LinkEnd::Gone => End::Gone,
        LinkEnd::Refused(error) => End::Goodbye(error.into()),
    }
}
