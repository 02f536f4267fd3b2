//! The beginning of a connection: who says hello, and what they are told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use longwire_proto::codec::{Encoding, decode_client};
use longwire_proto::error::{Error, ErrorCode};
use longwire_proto::limits::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, FRAME_BYTES_MAX, PRODUCER_WINDOW, RECORD_BYTES_MAX, REQUESTS_MAX,
    SUBSCRIPTIONS_MAX, TITLE_BYTES_MAX,
};
use longwire_proto::meta::check_length;
use longwire_proto::raw::client_frame::Frame as ClientFrame;
use longwire_proto::short_id::check_short_id;
use longwire_proto::wire;
use longwire_proto::wire::server_frame::Frame as ServerFrame;
use tokio::time::{Instant, timeout_at};

use crate::connection::ConnectionContext;
use crate::connection::access::Access;
use crate::connection::end::{End, Goodbye, link_end};
use crate::connection::witness::Witness;
use crate::transport::FrameSource;

/// Waits for the hello, and lets in who says it.
pub(super) async fn hello<R: FrameSource>(
    context: &ConnectionContext,
    encoding: Encoding,
    source: &mut R,
    number: u64,
    remote: Option<SocketAddr>,
) -> Result<Access, End> {
    let due = Instant::now() + context.times.handshake_timeout;
    let late = || {
        let message = format!("no hello came within {} ms", context.times.handshake_timeout.as_millis());
        End::Goodbye(Error::new(ErrorCode::HandshakeTimeout, message).into())
    };
    let mut drain = context.drain.clone();
    let bytes = tokio::select! {
        bytes = timeout_at(due, source.next()) => bytes.map_err(|_| late())?.map_err(link_end)?,
        // A shutdown waits for nobody's first word.
        _ = drain.wait_for(Option::is_some) => return Err(End::Goodbye(Goodbye::drained(&context.drain))),
    };
    let frame = decode_client(encoding, bytes).map_err(|error| End::Goodbye(error.into()))?;
    let ClientFrame::Hello(hello) = frame else {
        let error = Error::new(ErrorCode::HelloExpected, "the first frame of a connection must be `hello`");
        return Err(End::Goodbye(error.into()));
    };
    check_hello(&hello).map_err(|error| End::Goodbye(error.into()))?;
    let admitted = context.guard.admit(&hello.token, &hello.device);
    let witness = Witness::new(context.audit.clone(), number, remote, hello.device);
    witness.authenticated(admitted.as_ref());
    let principal = admitted.map_err(|error| End::Goodbye(error.into()))?;
    let permit = context.quotas.connect(&principal.id, principal.tenant.as_deref());
    let permit = permit.map_err(|error| End::Goodbye(error.into()))?;
    source.admit().map_err(link_end)?;
    Ok(Access::new(Arc::clone(&context.guard), principal, witness, permit))
}

fn check_hello(hello: &wire::Hello) -> Result<(), Error> {
    check_length("client", &hello.client, TITLE_BYTES_MAX)?;
    match hello.device.as_str() {
        "" => Ok(()),
        device => check_short_id(ErrorCode::InvalidArgument, "device", device.as_bytes()),
    }
}

/// What who was let in is told.
pub(super) fn welcome(context: &ConnectionContext, access: &Access, number: u64) -> ServerFrame {
    let principal = access.principal();
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    ServerFrame::Welcome(wire::Welcome {
        broker: concat!("longwire/", env!("CARGO_PKG_VERSION")).to_owned(),
        connection: format!("c{number}"),
        principal: principal.id.clone(),
        limits: Some(wire::Limits {
            frame_bytes_max: FRAME_BYTES_MAX as u64,
            record_bytes_max: RECORD_BYTES_MAX as u64,
            batch_bytes_max: BATCH_BYTES_MAX as u64,
            batch_records_max: BATCH_RECORDS_MAX as u64,
            subscriptions_max: SUBSCRIPTIONS_MAX as u64,
            requests_max: REQUESTS_MAX as u64,
            producer_window: PRODUCER_WINDOW as u64,
        }),
        heartbeat_ms: millis(context.times.heartbeat),
        idle_timeout_ms: millis(context.times.idle_timeout),
        features: Vec::new(),
        expires_ms: if principal.signed_by.is_empty() { 0 } else { principal.expires_ms },
    })
}
